//! How fast a connection reads: pure, told the time.

use std::num::NonZeroU64;
use std::time::Duration;

use tidegate::{Connection, Time};

use super::board::Order;

/// The timer for reading on. Handlers have their own timers below it.
pub(super) const READ_ON: u8 = 3;

/// Pauses shorter than this are saved up: the timers of the framework go by milliseconds.
const PAUSE_LEAST: Duration = Duration::from_millis(1);

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// How a connection is meant to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ReadRate {
    /// As fast as it comes.
    Free,
    /// On average no faster than this.
    AtMost(NonZeroU64),
    /// Not at all.
    Never,
}

/// Keeps a connection from reading faster than it is meant to. After so many bytes it rests for as long as they are to take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Throttle {
    rate: ReadRate,
    /// When what has been read is paid for.
    paid: Time,
}

impl Throttle {
    pub(super) fn new(rate: ReadRate) -> Self {
        Self { rate, paid: Time::ZERO }
    }

    /// The connection is to begin reading, if it ever does.
    pub(super) fn begin(&self, connection: &mut Connection<'_, Order>) {
        if self.rate == ReadRate::Never {
            connection.pause_read();
        } else {
            connection.resume_read();
        }
    }

    /// So many bytes have been read: if they were too many for now, nothing is read until [`READ_ON`].
    #[inline]
    pub(super) fn took(&mut self, connection: &mut Connection<'_, Order>, bytes: usize) {
        if self.rate != ReadRate::Free {
            self.rest(connection, bytes);
        }
    }

    #[inline(never)]
    fn rest(&mut self, connection: &mut Connection<'_, Order>, bytes: usize) {
        if let Some(pause) = self.pause_after(bytes, connection.now()) {
            connection.pause_read();
            connection.set_timer(READ_ON, pause);
        }
    }

    /// Reads as fast as it comes from now on.
    pub(super) fn let_go(&mut self, connection: &mut Connection<'_, Order>) {
        if self.rate != ReadRate::Free {
            self.rate = ReadRate::Free;
            connection.resume_read();
        }
    }

    /// How long not to read after `bytes` have been read at `now`; `None`: not worth a pause.
    fn pause_after(&mut self, bytes: usize, now: Time) -> Option<Duration> {
        let ReadRate::AtMost(rate) = self.rate else { return None };
        let nanos = bytes as u128 * NANOS_PER_SECOND / u128::from(rate.get());
        // Time in which nothing came is not saved up.
        self.paid = self.paid.max(now) + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let pause = self.paid.saturating_since(now);
        (pause >= PAUSE_LEAST).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_most(rate: u64) -> Throttle {
        Throttle::new(ReadRate::AtMost(NonZeroU64::new(rate).expect("above 0")))
    }

    #[test]
    fn what_is_read_takes_its_time_and_silence_is_not_saved_up() {
        let mut throttle = at_most(1_000);
        let start = Time::from_nanos(5_000_000_000);
        assert_eq!(throttle.pause_after(500, start), Some(Duration::from_millis(500)));
        let later = start + Duration::from_millis(500);
        assert_eq!(throttle.pause_after(250, later), Some(Duration::from_millis(250)));
        let much_later = later + Duration::from_secs(60);
        assert_eq!(throttle.pause_after(1_000, much_later), Some(Duration::from_secs(1)));
    }

    #[test]
    fn small_pauses_are_saved_up_until_they_are_worth_a_timer() {
        let mut throttle = at_most(1_000_000);
        let now = Time::from_nanos(1);
        assert_eq!(throttle.pause_after(600, now), None);
        assert_eq!(throttle.pause_after(600, now), Some(Duration::from_micros(1_200)));
    }

    #[test]
    fn the_smallest_rate_and_the_largest_read_do_not_overflow() {
        assert!(at_most(1).pause_after(usize::MAX >> 8, Time::from_nanos(1)).is_some());
    }
}
