//! Time as the engine counts it.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

/// A moment, in nanoseconds since the engine began: the monotonic clock in a real server, the virtual clock in
/// a simulation. Read once a turn of the loop, so that everything in one turn happens at one time.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(u64);

impl Time {
    /// When the engine began.
    pub const ZERO: Self = Self(0);

    /// The end of time: 584 years after the engine began.
    pub const MAX: Self = Self(u64::MAX);

    /// The moment `nanos` nanoseconds after the engine began.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the engine began.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The moment `after` later, at most [`MAX`](Self::MAX).
    pub fn saturating_add(self, after: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is before.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, after: Duration) -> Self {
        self.saturating_add(after)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{:06}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1000)
    }
}
