//! A service whose connections tell each other things, also when the other one is long gone.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate::{Buffer, CloseReason, Connection, ConnectionHandle, Handler, Refusal, Time};

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
    /// When it was aborted, if it was while it was there.
    aborted_at: Option<Time>,
    /// When it was first served after that: in the turn that meets the abort what had come before is still delivered.
    last_served_at: Option<Time>,
    /// How many messages its mailbox has taken.
    told: u64,
}

/// What one tells another.
pub struct Gossip {
    /// Who is meant.
    to: u64,
    /// Which of the messages for them it is, counted from 1.
    which: u64,
}

/// Sends back what comes, and bothers others meanwhile.
pub struct Gossiping {
    village: Village,
    witness: Witness,
    number: u64,
    /// How many messages have come.
    told: u64,
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
        Self { village, witness, number: u64::MAX, told: 0 }
    }

    /// Tells somebody something; aborts one in a while, which must do nothing if it is over.
    fn bother(&self, connection: &mut Connection<'_, Gossip>) {
        let mut known = self.village.known();
        let count = known.latest.len() as u64;
        let Some(other) = known.latest.get_mut((connection.random() % count) as usize) else { return };
        if other.is_over && connection.random().is_multiple_of(2) {
            other.handle.abort();
        } else if !other.is_over && connection.random().is_multiple_of(100) {
            other.aborted_at.get_or_insert(connection.now());
            other.handle.abort();
        } else if other.handle.post(Gossip { to: other.number, which: other.told + 1 }).is_ok() {
            // A full mailbox refuses: that is its right.
            other.told += 1;
        }
    }

    /// Sees whether it is served although it was aborted.
    fn is_served(&self, now: Time) {
        let mut known = self.village.known();
        if let Some(own) = known.latest.iter_mut().find(|other| other.number == self.number)
            && let Some(aborted_at) = own.aborted_at.filter(|&aborted_at| now > aborted_at)
            && *own.last_served_at.get_or_insert(now) != now
        {
            let number = self.number;
            self.witness.complaints.add(format!("gossip {number} was aborted at {aborted_at}, and is served at {now}"));
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
        let number = self.number;
        let (aborted_at, last_served_at) = (None, None);
        known.latest.push_back(Acquaintance { number, handle, is_over: false, aborted_at, last_served_at, told: 0 });
        if known.latest.len() > Village::REMEMBERED {
            known.latest.pop_front();
        }
    }

    fn on_read(&mut self, connection: &mut Connection<'_, Gossip>, data: Buffer) {
        self.is_served(connection.now());
        self.witness.hears(data.len());
        if let Err(refused) = connection.send(data)
            && refused.why != Refusal::Closing
        {
            self.witness.complaints.add(format!("an echo was refused: {refused}"));
        }
        self.bother(connection);
    }

    fn on_message(&mut self, connection: &mut Connection<'_, Gossip>, gossip: Gossip) {
        self.is_served(connection.now());
        if gossip.to != self.number {
            self.witness.complaints.add(format!("a message for gossip {} came to gossip {}", gossip.to, self.number));
        }
        self.told += 1;
        if gossip.which != self.told {
            let (number, which, told) = (self.number, gossip.which, self.told);
            self.witness.complaints.add(format!("message {which} for gossip {number} came in place of {told}"));
        }
    }

    fn on_sent(&mut self, connection: &mut Connection<'_, Gossip>, bytes: usize) {
        self.is_served(connection.now());
        self.witness.sends(bytes);
    }

    fn on_close(self, reason: &CloseReason) {
        self.witness.ends(reason);
        let mut known = self.village.known();
        if let Some(own) = known.latest.iter_mut().find(|other| other.number == self.number) {
            own.is_over = true;
            if *reason == CloseReason::AbortedByHandle && own.aborted_at.is_none() {
                self.witness.complaints.add(format!("gossip {} was aborted, but nobody meant it", self.number));
            }
        }
    }
}
