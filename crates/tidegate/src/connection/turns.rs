//! How many sends the connections of a thread may have with the system at once.

/// The count of sends in flight on an I/O thread, against its share of
/// [`Limits::sends_outstanding`](crate::Limits::sends_outstanding).
///
/// Whoever finds the share used up, or others waiting, waits in line. When a send ends, the first in line gets the turn, and until it
/// takes it nobody else may.
#[derive(Debug)]
pub(crate) struct SendTurns {
    most: u32,
    in_flight: u32,
    /// Turns given to the first in line and not taken yet.
    given: u32,
    waiting: u32,
}

impl SendTurns {
    /// At most `most` sends at once.
    pub(super) fn new(most: u32) -> Self {
        Self { most, in_flight: 0, given: 0, waiting: 0 }
    }

    /// Another share.
    pub(crate) fn set_most(&mut self, most: u32) {
        self.most = most;
    }

    /// Whether a turn can be given.
    pub(crate) fn has_room(&self) -> bool {
        self.in_flight + self.given < self.most
    }

    /// Sends in flight.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The most there may be.
    pub(crate) fn most(&self) -> u32 {
        self.most
    }

    /// Begins a send, if nobody waits and there is room.
    pub(super) fn begin(&mut self) -> bool {
        let may = self.waiting == 0 && self.has_room();
        self.in_flight += u32::from(may);
        may
    }

    /// A send has ended.
    pub(super) fn end(&mut self) {
        self.in_flight -= 1;
    }

    /// One more waits.
    pub(super) fn wait(&mut self) {
        self.waiting += 1;
    }

    /// One that waited doesn't any more.
    pub(super) fn leave(&mut self) {
        self.waiting -= 1;
    }

    /// One that waited gets the turn.
    pub(super) fn give(&mut self) {
        self.waiting -= 1;
        self.given += 1;
    }

    /// Whoever got the turn begins its send.
    pub(super) fn take(&mut self) {
        self.given -= 1;
        self.in_flight += 1;
    }

    /// Whoever got the turn has no use for it any more.
    pub(super) fn give_back(&mut self) {
        self.given -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_overtakes_who_waits_nor_takes_a_turn_that_was_given() {
        let mut turns = SendTurns::new(1);
        assert!(turns.begin());
        assert!(!turns.begin());
        turns.wait();
        turns.end();
        assert!(turns.has_room() && !turns.begin(), "the one that waits comes first");
        turns.give();
        assert!(!turns.has_room() && !turns.begin(), "the turn is given");
        turns.take();
        assert_eq!(turns.in_flight(), 1);
        turns.end();
        assert!(turns.begin());
    }

    #[test]
    fn a_turn_that_is_given_back_is_free() {
        let mut turns = SendTurns::new(1);
        turns.wait();
        turns.give();
        turns.give_back();
        assert!(turns.begin());
    }
}
