//! A service whose connections tell each other things, also when the other one is long gone.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate::{Buffer, CloseReason, Connection, ConnectionHandle, Handler, Refusal};

use super::services::Witness;

/// What all gossips of a server know of each other.
#[derive(Clone, Default)]
pub struct Village(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    /// How many there have been.
    count: u64,
    /// The latest, and those that are over among them.
    latest: VecDeque<Acquaintance>,
}

struct Acquaintance {
    number: u64,
    handle: ConnectionHandle<Gossip>,
    is_over: bool,
    was_aborted: bool,
}

/// What one tells another.
pub struct Gossip {
    /// Who is meant.
    to: u64,
}

/// Sends back what comes, and bothers others meanwhile.
pub struct Gossiping {
    village: Village,
    witness: Witness,
    number: u64,
}

impl Village {
    /// How many acquaintances are remembered: more than are open at once, so that some of them are over.
    const REMEMBERED: usize = 24;

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gossiping {
    pub fn new(village: Village, witness: Witness) -> Self {
        Self { village, witness, number: u64::MAX }
    }

    /// Tells somebody something; aborts one in a while, which must do nothing if it is over.
    fn bother(&self, connection: &mut Connection<'_, Gossip>) {
        let mut known = self.village.known();
        let count = known.latest.len() as u64;
        let Some(other) = known.latest.get_mut((connection.random() % count) as usize) else { return };
        if other.is_over && connection.random().is_multiple_of(2) {
            other.handle.abort();
        } else if !other.is_over && connection.random().is_multiple_of(100) {
            other.was_aborted = true;
            other.handle.abort();
        } else {
            // A full mailbox refuses: that is its right.
            drop(other.handle.post(Gossip { to: other.number }));
        }
    }
}

impl Handler for Gossiping {
    type Message = Gossip;

    fn on_connect(&mut self, connection: &mut Connection<'_, Gossip>) {
        let mut known = self.village.known();
        self.number = known.count;
        known.count += 1;
        let handle = connection.handle();
        known.latest.push_back(Acquaintance { number: self.number, handle, is_over: false, was_aborted: false });
        if known.latest.len() > Village::REMEMBERED {
            known.latest.pop_front();
        }
    }

    fn on_read(&mut self, connection: &mut Connection<'_, Gossip>, data: Buffer) {
        self.witness.hears(data.len());
        if let Err(refused) = connection.send(data)
            && refused.why != Refusal::Closing
        {
            self.witness.complaints.add(format!("an echo was refused: {refused}"));
        }
        self.bother(connection);
    }

    fn on_message(&mut self, _connection: &mut Connection<'_, Gossip>, gossip: Gossip) {
        if gossip.to != self.number {
            self.witness.complaints.add(format!("a message for gossip {} came to gossip {}", gossip.to, self.number));
        }
    }

    fn on_sent(&mut self, _connection: &mut Connection<'_, Gossip>, bytes: usize) {
        self.witness.sends(bytes);
    }

    fn on_close(self, reason: &CloseReason) {
        self.witness.ends(reason);
        let mut known = self.village.known();
        if let Some(own) = known.latest.iter_mut().find(|other| other.number == self.number) {
            own.is_over = true;
            if *reason == CloseReason::AbortedByHandle && !own.was_aborted {
                self.witness.complaints.add(format!("gossip {} was aborted, but nobody meant it", self.number));
            }
        }
    }
}
