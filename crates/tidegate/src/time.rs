//! Points in time, as the engine counts them.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
const NANOS_PER_MILLISECOND: u64 = 1_000_000;

/// A point in time: nanoseconds since the engine began.
///
/// Nothing above the engine reads a clock; it is told the time. In a real engine this follows the monotonic
/// clock of the system, in the simulation it is virtual, and in both it never goes back. 64 bits last for 584
/// years, so arithmetic saturates instead of failing: a timer set for "now and [`Duration::MAX`]" is one that
/// never fires.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(u64);

impl Time {
    /// The moment at which the engine began.
    pub const ZERO: Time = Time(0);

    /// The end of time, 584 years after the engine began: never.
    pub const MAX: Time = Time(u64::MAX);

    /// The time `nanos` nanoseconds after the engine began.
    pub const fn from_nanos(nanos: u64) -> Time {
        Time(nanos)
    }

    /// Nanoseconds since the engine began.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// This time moved on by `duration`, or the last time that can be expressed if that is beyond it.
    pub const fn saturating_add(self, duration: Duration) -> Time {
        let nanos = duration.as_nanos();
        if nanos > u64::MAX as u128 {
            return Time(u64::MAX);
        }
        Time(self.0.saturating_add(nanos as u64))
    }

    /// How long after `earlier` this time is; zero if it isn't after it.
    pub const fn saturating_since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    /// The same as [`Time::saturating_add`]: never panics.
    fn add(self, duration: Duration) -> Time {
        self.saturating_add(duration)
    }
}

impl fmt::Display for Time {
    /// Seconds with the milliseconds that have passed, cut off and not rounded: `12.345s`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / NANOS_PER_SECOND;
        let milliseconds = self.0 % NANOS_PER_SECOND / NANOS_PER_MILLISECOND;
        write!(formatter, "{seconds}.{milliseconds:03}s")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn display_shows_seconds_and_milliseconds_that_have_passed() {
        assert_eq!(Time::ZERO.to_string(), "0.000s");
        assert_eq!(Time::from_nanos(12_345_999_999).to_string(), "12.345s");
        assert_eq!(Time::from_nanos(1_007_000_000).to_string(), "1.007s");
    }

    #[test]
    fn addition_saturates_at_the_last_time() {
        let start = Time::from_nanos(5);
        assert_eq!(start + Duration::from_nanos(7), Time::from_nanos(12));
        assert_eq!(start + Duration::MAX, Time::from_nanos(u64::MAX));
        assert_eq!(start + Duration::from_nanos(u64::MAX - 2), Time::from_nanos(u64::MAX));
    }

    #[test]
    fn time_since_something_later_is_zero() {
        let earlier = Time::from_nanos(5);
        let later = Time::from_nanos(9);
        assert_eq!(later.saturating_since(earlier), Duration::from_nanos(4));
        assert_eq!(earlier.saturating_since(later), Duration::ZERO);
    }
}
