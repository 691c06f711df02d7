//! What the handlers of all kinds of connections have in common: where they report, and how their end counts.

use std::net::SocketAddr;
use std::sync::Arc;

use tidegate::{CloseReason, Connection};

use super::PATIENCE;
use super::board::{Board, Ending, Order};
use super::lane::Lane;

/// Whose move it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// The load is on, or is to come.
    Loaded,
    /// The server has finished while the load was on.
    ClosedEarly,
    /// We have finished.
    Over,
}

/// A connection's place in the load.
pub(super) struct Seat {
    board: Arc<Board>,
    /// That of its I/O thread.
    pub lane: Arc<Lane>,
    /// For messages to the user: from 0, in the order in which connections were begun.
    pub number: u64,
    pub standing: Standing,
    /// Its own address.
    local: SocketAddr,
}

impl Seat {
    pub(super) fn new(board: &Arc<Board>, lane: &Arc<Lane>, number: u64, local: SocketAddr) -> Self {
        Self { board: Arc::clone(board), lane: Arc::clone(lane), number, standing: Standing::Loaded, local }
    }

    /// The connection is established.
    pub(super) fn joined(&self, connection: &Connection<'_, Order>) {
        self.board.joined(self.local, connection.handle());
    }

    /// We finish in order: the server sees the end of what was sent.
    pub(super) fn finish(&mut self, connection: &mut Connection<'_, Order>) {
        self.over();
        connection.shutdown();
    }

    /// We end it at once, because the server sends on or is not read from.
    pub(super) fn break_off(&mut self, connection: &mut Connection<'_, Order>) {
        self.over();
        connection.abort();
    }

    fn over(&mut self) {
        if self.standing == Standing::Loaded {
            self.standing = Standing::Over;
        }
    }

    /// The server has finished.
    pub(super) fn peer_finished(&mut self, connection: &mut Connection<'_, Order>) {
        if self.standing == Standing::Loaded {
            self.standing = Standing::ClosedEarly;
        }
        connection.shutdown();
    }

    /// The server has ended a connection that is not read from: what it has sent before is nobody's.
    pub(super) fn gone(&mut self, connection: &mut Connection<'_, Order>) {
        if self.standing == Standing::Loaded {
            self.standing = Standing::ClosedEarly;
        }
        connection.abort();
    }

    /// The connection is over, with so many messages unanswered.
    pub(super) fn left(&self, reason: &CloseReason, unanswered: u32) {
        self.board.left(self.number, ending(self.standing, reason, unanswered));
    }
}

/// What the end of a connection counts as.
fn ending(standing: Standing, reason: &CloseReason, unanswered: u32) -> Ending {
    match (standing, reason) {
        (Standing::Over, _) => Ending::Done,
        (Standing::ClosedEarly, _) | (Standing::Loaded, CloseReason::Reset | CloseReason::Finished) => {
            Ending::ClosedEarly
        }
        // We have waited long enough, or were told to end.
        (Standing::Loaded, CloseReason::ShutdownGrace | CloseReason::Drained) if unanswered == 0 => Ending::Done,
        (Standing::Loaded, CloseReason::ShutdownGrace | CloseReason::Drained) => {
            Ending::Failed(format!("{unanswered} messages were not answered within {PATIENCE:?} after the end"))
        }
        (Standing::Loaded, reason) => Ending::Failed(reason.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn an_end_by_the_server_while_the_load_is_on_is_early_and_no_failure() {
        assert_eq!(ending(Standing::ClosedEarly, &CloseReason::Finished, 3), Ending::ClosedEarly);
        assert_eq!(ending(Standing::ClosedEarly, &CloseReason::Reset, 0), Ending::ClosedEarly);
        assert_eq!(ending(Standing::Loaded, &CloseReason::Reset, 1), Ending::ClosedEarly);
    }

    #[test]
    fn however_a_connection_ends_after_we_have_finished_is_well() {
        for reason in [CloseReason::Finished, CloseReason::Reset, CloseReason::ShutdownGrace] {
            assert_eq!(ending(Standing::Over, &reason, 0), Ending::Done);
        }
    }

    #[test]
    fn answers_that_do_not_come_and_errors_are_failures_with_a_text() {
        let Ending::Failed(text) = ending(Standing::Loaded, &CloseReason::ShutdownGrace, 7) else { panic!() };
        assert!(text.contains("7 messages"), "{text}");
        let Ending::Failed(text) = ending(Standing::Loaded, &CloseReason::Failed(ErrorKind::TimedOut), 0) else {
            panic!()
        };
        assert!(text.contains("timed out"), "{text}");
        assert_eq!(ending(Standing::Loaded, &CloseReason::ShutdownGrace, 0), Ending::Done);
    }
}
