//! What a run that went wrong has to say.

use std::fmt;

/// Something that must never happen has happened. The text has the seed, which replays it, and the last events.
#[derive(Clone, Debug)]
pub struct Violation {
    seed: u64,
    what: String,
    trace: String,
}

impl Violation {
    pub(super) fn new(seed: u64, what: String, trace: String) -> Self {
        Self { seed, what, trace }
    }

    /// The seed that replays it.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What was wrong, without the events.
    pub fn what(&self) -> &str {
        &self.what
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "seed {}: {}\nthe last events:\n{}", self.seed, self.what, self.trace)
    }
}

impl std::error::Error for Violation {}
