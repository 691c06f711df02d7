//! Connections that found the system out of memory for their socket: when they try again, and when they give up.
//!
//! Such a failure says nothing of the connection. So the first answer is to want less: the connection is not read from and its
//! operation is tried again after a pause, which doubles. Only one that finds no memory for [`GIVE_UP`] is closed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::time::Time;

/// The first pause: as for accepts, long enough for others to give something back.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// The longest: a second after memory is back, everybody goes on.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A connection that has got nothing for so long is closed, and its memory helps the others.
const GIVE_UP: Duration = Duration::from_secs(10);

/// The shortages of a thread, by connection: an entry from the first failure of a connection to its end.
#[derive(Default)]
pub(super) struct Shortages(BTreeMap<u32, Shortage>);

struct Shortage {
    /// When the first of the failures came that nothing came between.
    since: Time,
    /// The last pause.
    pause: Duration,
    /// It is over when the timer fires.
    pausing: bool,
}

/// What is to be done about a shortage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Nothing: a pause runs.
    Waits,
    /// A pause begins, until then.
    TryAgainAt(Time),
    /// The connection is to be closed.
    GiveUp,
}

impl Shortages {
    /// The connection at `index` has found no memory; `begins`: what it tried before had gone well.
    pub(super) fn found(&mut self, index: u32, begins: bool, now: Time) -> Verdict {
        let fresh = Shortage { since: now, pause: Duration::ZERO, pausing: false };
        let shortage = self.0.entry(index).or_insert(fresh);
        if begins {
            shortage.since = now;
        }
        if shortage.pausing {
            return Verdict::Waits;
        }
        if begins {
            shortage.pause = Duration::ZERO;
        }
        if now.saturating_since(shortage.since) >= GIVE_UP {
            return Verdict::GiveUp;
        }
        shortage.pause = (shortage.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        shortage.pausing = true;
        Verdict::TryAgainAt(now + shortage.pause)
    }

    /// The pause is over.
    pub(super) fn tries_again(&mut self, index: u32) {
        if let Some(shortage) = self.0.get_mut(&index) {
            shortage.pausing = false;
        }
    }

    /// The connection has ended.
    pub(super) fn forget(&mut self, index: u32) {
        if !self.0.is_empty() {
            self.0.remove(&index);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Fails again and again until it gives up; the pauses in between, in milliseconds, and when it was.
    fn pauses(shortages: &mut Shortages, mut now: Time) -> (Vec<u128>, Time) {
        let mut pauses = Vec::new();
        loop {
            match shortages.found(3, pauses.is_empty(), now) {
                Verdict::TryAgainAt(time) => {
                    pauses.push(time.saturating_since(now).as_millis());
                    assert_eq!(shortages.found(3, false, now), Verdict::Waits, "one timer at a time");
                    now = time;
                    shortages.tries_again(3);
                }
                Verdict::GiveUp => return (pauses, now),
                Verdict::Waits => panic!("no pause runs"),
            }
        }
    }

    #[test]
    fn pauses_double_up_to_a_second_and_after_ten_it_gives_up() {
        let (pauses, end) = pauses(&mut Shortages::default(), Time::ZERO);
        assert_eq!(pauses[..8], [10, 20, 40, 80, 160, 320, 640, 1000]);
        assert!(end >= Time::ZERO + GIVE_UP && end < Time::ZERO + GIVE_UP + PAUSE_MAX, "{end}");
    }

    #[test]
    fn what_went_well_in_between_begins_anew() {
        let mut shortages = Shortages::default();
        let later = Time::ZERO + GIVE_UP * 3;
        assert_eq!(shortages.found(1, true, Time::ZERO), Verdict::TryAgainAt(Time::ZERO + PAUSE_MIN));
        shortages.tries_again(1);
        assert_eq!(shortages.found(1, true, later), Verdict::TryAgainAt(later + PAUSE_MIN));
    }
}
