//! What a campaign must have met: a campaign in which something never happens says nothing about it.

/// The close reasons, all of them: these services, clients and worlds bring each about in at least one of a hundred runs.
pub const REASONS: &[&str] = &[
    "finished",
    "closed_by_handler",
    "aborted_by_handler",
    "closed_by_handle",
    "aborted_by_handle",
    "handler_panicked",
    "reset",
    "failed",
    "memory_pressure",
    "drained",
    "shutdown_grace",
    "close_timeout",
    "first_byte_timeout",
    "idle_timeout",
    "send_too_slow",
    "receive_too_slow",
    "slow_consumer",
    "system_memory",
    "offload_panicked",
    "handshake_timeout",
    "protocol_error",
    "truncated",
    "message_too_large",
    "message_timeout",
    "no_answer",
    "not_allowed",
    "busy",
    "task_failed",
];

/// Why connections are turned away here, as often at least. Those beyond a limiter mostly wait; the other causes these worlds don't have.
pub const REFUSALS: &[&str] = &["full", "denied"];

/// From this many runs on, a campaign fails if something has happened in fewer than one of [`RUNS_PER_OCCURRENCE`].
pub const RUNS_ENOUGH: u64 = 2_000;

/// Everything that is expected happens in one of so many runs at least.
pub const RUNS_PER_OCCURRENCE: u64 = 100;

/// How often each thing has happened, and in how many runs.
#[derive(Default)]
pub struct Occurrences {
    counted: std::collections::BTreeMap<String, Occurrence>,
}

#[derive(Clone, Copy, Default)]
pub struct Occurrence {
    /// Runs in which it has happened.
    pub runs: u64,
    /// How often in all.
    pub times: u64,
}

impl Occurrences {
    /// Adds that `what` has happened `times` times in one run, which may be never.
    pub fn add(&mut self, what: String, times: u64) {
        let occurrence = self.counted.entry(what).or_default();
        occurrence.runs += u64::from(times > 0);
        occurrence.times += times;
    }

    /// What has happened in fewer runs than it must, of `expected` (of all if that is `None`).
    pub fn too_rare(&self, runs_least: u64, expected: Option<&[&str]>) -> Vec<String> {
        let rare = self.counted.iter().filter(|(_, occurrence)| occurrence.runs < runs_least.max(1));
        let rare = rare.filter(|(what, _)| expected.is_none_or(|expected| expected.contains(&what.as_str())));
        rare.map(|(what, occurrence)| format!("{what}: in {} runs of at least {runs_least}", occurrence.runs)).collect()
    }

    /// All of it, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Occurrence)> {
        self.counted.iter().map(|(what, occurrence)| (what.as_str(), *occurrence))
    }
}
