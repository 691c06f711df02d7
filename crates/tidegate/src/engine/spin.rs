//! Looking around before sleeping.

use std::time::Duration;

/// How long to look for completions before sleeping, adapted to what it brings.
///
/// Waking a sleeping thread costs far more than a short wait (35 us across processors where it was measured), so with a few busy
/// connections a wait that would have been short is better spent looking. It is wasted when waits are long, and when there
/// are many busy connections: then work piles up during a short sleep and is done the cheaper for it (with 1,000 connections
/// looking cost 3 to 4 % of the requests per CPU second, of this engine and of a bare loop alike).
pub(crate) struct Spin {
    most: Duration,
    now: Duration,
    /// Completions per poll, lately, times [`SHARE`](Self::SHARE).
    batch: u64,
}

impl Spin {
    /// Polls that bring more completions than this, on average, are of many busy connections. A request is two completions.
    const BATCH_MAX: u64 = 12;
    /// Each poll counts for one part in so many of the average.
    const SHARE: u64 = 8;

    /// Starts with `most`; zero never spins.
    pub(crate) fn new(most: Duration) -> Self {
        Self { most, now: most, batch: 0 }
    }

    /// A poll has brought so many completions.
    pub(crate) fn saw_batch(&mut self, completions: u64) {
        self.batch = self.batch - self.batch / Self::SHARE + completions;
    }

    /// Whether many connections are busy.
    pub(crate) fn is_busy(&self) -> bool {
        self.batch > Self::BATCH_MAX * Self::SHARE
    }

    /// How long to look now.
    pub(crate) fn look(&self) -> Duration {
        if self.is_busy() { Duration::ZERO } else { self.now }
    }

    /// A wait is over after `waited`, which includes the time that waking took.
    pub(crate) fn learn(&mut self, waited: Duration) {
        // A sleep is never measured shorter than the wake-up itself, so "about as short as a spin" has to allow for one.
        if waited < self.most * 4 {
            self.now = self.most;
        } else {
            self.now /= 2;
            if self.now < Duration::from_micros(1) {
                self.now = Duration::ZERO;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spinning_stops_when_waits_are_long_and_comes_back_when_they_are_short() {
        let most = Duration::from_micros(20);
        let mut spin = Spin::new(most);
        for _ in 0..10 {
            spin.learn(Duration::from_millis(5));
        }
        assert_eq!(spin.now, Duration::ZERO);
        spin.learn(Duration::from_micros(60));
        assert_eq!(spin.now, most);
    }

    #[test]
    fn spinning_stops_when_polls_bring_much_and_comes_back_when_they_bring_little() {
        let mut spin = Spin::new(Duration::from_micros(20));
        for _ in 0..50 {
            spin.saw_batch(40);
        }
        assert_eq!(spin.look(), Duration::ZERO);
        for _ in 0..50 {
            spin.saw_batch(4);
        }
        assert_eq!(spin.look(), Duration::from_micros(20));
    }

    #[test]
    fn an_engine_told_not_to_spin_never_does() {
        let mut spin = Spin::new(Duration::ZERO);
        spin.learn(Duration::ZERO);
        assert_eq!(spin.now, Duration::ZERO);
    }
}
