//! What is known of all connections, and how the thread that conducts the load learns of it.
//!
//! Connections come and go rarely, so one lock is enough for that. What happens with every message is in the
//! [`lane`](super::lane) of its I/O thread.

use std::net::SocketAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidegate::{ConnectError, ConnectFailed, ConnectionHandle};

/// What a connection is told by the conductor.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// The load begins at this moment and takes this long.
    Start { at: Instant, duration: Duration },
    /// The load is over.
    Stop,
    /// The server has ended the connection, which is not read from.
    Gone,
}

/// How an established connection ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// In order, by us.
    Done,
    /// By the server, before its time.
    ClosedEarly,
    /// It broke, or its answers didn't come. The text says how.
    Failed(String),
}

/// How many connections there were, and what became of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    /// Begun.
    pub attempted: u64,
    /// Established.
    pub connected: u64,
    /// Refused by the system of the server.
    pub refused: u64,
    /// Not established for another reason.
    pub unconnected: u64,
    /// Established, and then broken or left without answers.
    pub broken: u64,
    /// Ended by the server before the load was over.
    pub closed_early: u64,
    /// Established and not over yet.
    pub open: u64,
}

impl Counts {
    /// Begun, and neither established nor given up yet.
    pub(super) fn pending(&self) -> u64 {
        self.attempted - self.connected - self.refused - self.unconnected
    }

    /// Connections that failed, before they were established or after.
    pub(super) fn failed(&self) -> u64 {
        self.unconnected + self.broken
    }
}

/// Kept by the handlers, read by the conductor.
#[derive(Default)]
pub(super) struct Board {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    pub counts: Counts,
    /// The user wants it to end.
    pub interrupted: bool,
    /// The engine has stopped: nobody will change anything any more.
    pub deserted: bool,
    /// Everybody who was ever established, by their own addresses: as many as connections were begun.
    members: Vec<(SocketAddr, ConnectionHandle<Order>)>,
    /// What the first failure was, for the user.
    first_failure: Option<String>,
}

impl Board {
    /// A connection is about to be begun.
    pub(super) fn attempted(&self) {
        self.lock().counts.attempted += 1;
    }

    /// It was not begun after all: the program is ending.
    pub(super) fn not_attempted(&self) {
        self.lock().counts.attempted -= 1;
    }

    /// A connection was not established.
    pub(super) fn connect_failed(&self, failed: &ConnectFailed) {
        let mut state = self.lock();
        match failed.error {
            ConnectError::Refused => state.counts.refused += 1,
            // The program is ending, and gives up what it has begun.
            ConnectError::Draining => state.counts.attempted -= 1,
            ref error => {
                state.counts.unconnected += 1;
                state.first_failure.get_or_insert_with(|| format!("connecting to {}: {error}", failed.destination));
            }
        }
        self.changed.notify_all();
    }

    /// A connection was established.
    pub(super) fn joined(&self, local: SocketAddr, member: ConnectionHandle<Order>) {
        let mut state = self.lock();
        state.counts.connected += 1;
        state.counts.open += 1;
        state.members.push((local, member));
        self.changed.notify_all();
    }

    /// A connection is over.
    pub(super) fn left(&self, number: u64, ending: Ending) {
        let mut state = self.lock();
        state.counts.open -= 1;
        match ending {
            Ending::Done => {}
            Ending::ClosedEarly => state.counts.closed_early += 1,
            Ending::Failed(why) => {
                state.counts.broken += 1;
                state.first_failure.get_or_insert_with(|| format!("connection {number}: {why}"));
            }
        }
        self.changed.notify_all();
    }

    /// The user wants it to end.
    pub(super) fn interrupt(&self) {
        self.lock().interrupted = true;
        self.changed.notify_all();
    }

    /// The engine has stopped.
    pub(super) fn desert(&self) {
        self.lock().deserted = true;
        self.changed.notify_all();
    }

    /// Waits for `event`, until `deadline` at most. Returns whether it has come.
    pub(super) fn wait(&self, deadline: Instant, event: impl Fn(&State) -> bool) -> bool {
        let mut state = self.lock();
        loop {
            if event(&state) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The present counts.
    pub(super) fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// Everybody who was ever established.
    pub(super) fn members(&self) -> Vec<(SocketAddr, ConnectionHandle<Order>)> {
        self.lock().members.clone()
    }

    /// What the first failure was.
    pub(super) fn first_failure(&self) -> Option<String> {
        self.lock().first_failure.clone()
    }

    /// Tells everybody who was established, but the first `skip`. Those who have gone since don't hear it. Returns how many
    /// were established.
    pub(super) fn tell(&self, order: Order, skip: usize) -> usize {
        let members = self.lock().members[skip..].to_vec();
        for (_, member) in &members {
            // A full mailbox is emptied a few times a millisecond, unless there is nobody any more.
            while member.post(order).is_err() {
                if self.wait(Instant::now() + Duration::from_millis(1), |state| state.deserted) {
                    break;
                }
            }
        }
        skip + members.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counts are right after each line, so a panic elsewhere has left nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
