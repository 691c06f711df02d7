//! A service whose connections are a group: each publishes to all, and hears what the others publish, under every policy of a full queue;
//! and its client, which accepts gaps only where a policy may drop, or where it has left.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tidegate::sim::{Client, Next, Peer, Simulation};
use tidegate::{Buffer, Connection, FlowControl, Group, Handler, Limits, Overflow, PublishRefusal, Time};

use super::messages::{Messages, number};
use super::services::Complaints;

/// The head of a message: its length, its publisher and its number.
const HEAD_BYTES: usize = 16;

const MESSAGE_BYTES_MOST: usize = 6_000;

/// Limits of groups that are small enough to be reached.
pub fn limits(simulation: &Simulation, limits: Limits) -> Limits {
    Limits {
        publish_queue: 1 + simulation.random_below(40) as u32,
        publish_memory_bytes: limits.send_queue_bytes + 4_096 + simulation.random_below(60_000) as usize,
        ..limits
    }
}

/// What all reporters of a server share.
#[derive(Clone)]
pub struct Newsroom {
    group: Group,
    limits: Arc<Limits>,
    reporters: Arc<AtomicU32>,
    complaints: Complaints,
}

impl Newsroom {
    pub fn new(group: Group, limits: &Limits, complaints: Complaints) -> Self {
        Self { group, limits: Arc::new(limits.clone()), reporters: Arc::default(), complaints }
    }
}

/// Publishes what it likes, when it likes; leaves and joins again when its peer says something.
pub struct Reporter {
    room: Newsroom,
    number: u32,
    next: u64,
    is_member: bool,
}

impl Reporter {
    pub fn new(room: Newsroom) -> Self {
        let number = room.reporters.fetch_add(1, Ordering::Relaxed);
        Self { room, number, next: 1, is_member: false }
    }

    fn message(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![self.next as u8; length.max(HEAD_BYTES)];
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8..HEAD_BYTES].copy_from_slice(&self.next.to_be_bytes());
        bytes
    }

    fn publish(&mut self, connection: &mut Connection<'_>) {
        for _ in 0..connection.random() % 8 {
            // Mostly small ones, which may be put together.
            let most = if connection.random().is_multiple_of(5) { MESSAGE_BYTES_MOST as u64 } else { 200 };
            let message = self.message((connection.random() % most) as usize);
            let limits = &self.room.limits;
            match self.room.group.publish(message.clone()) {
                Ok(_) => self.next += 1,
                Err(refused) => {
                    let fits = match refused.why {
                        PublishRefusal::QueueFull { waiting, .. } => waiting <= limits.publish_queue,
                        PublishRefusal::NoMemory { wanted_bytes, total_bytes, .. } => {
                            total_bytes == limits.publish_memory_bytes && wanted_bytes > message.len()
                        }
                        PublishRefusal::ServerOver => true,
                        _ => false,
                    };
                    if !fits || refused.payload != message {
                        self.room.complaints.add(format!("a publish was refused: {refused:?}"));
                    }
                    return;
                }
            }
        }
    }
}

impl Handler for Reporter {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        self.is_member = connection.join(&self.room.group) == Ok(true);
        if !self.is_member {
            self.room.complaints.add("a new connection could not join".to_owned());
        }
        connection.set_timer(0, Duration::from_micros(100));
    }

    fn on_read(&mut self, connection: &mut Connection<'_>, _data: Buffer) {
        let done = if self.is_member {
            connection.leave(&self.room.group)
        } else {
            connection.join(&self.room.group) == Ok(true)
        };
        self.is_member = !self.is_member;
        if !done {
            self.room.complaints.add("a member could not leave, or another join".to_owned());
        }
    }

    fn on_timer(&mut self, connection: &mut Connection<'_>, _timer: u8) {
        self.publish(connection);
        let after = Duration::from_micros(connection.random() % 40_000);
        connection.set_timer(0, after);
    }
}

/// Reads what is published: whole messages, those of each publisher in order.
pub struct Reader {
    /// Says something now and then, so that its connection leaves and joins.
    is_fickle: bool,
    may_miss: bool,
    messages: Messages,
    last: BTreeMap<u64, u64>,
    reads_from: Time,
    ends_at: Time,
    begins: bool,
}

impl Reader {
    /// One of a service whose policy is that of `flow`.
    pub fn new(simulation: &Simulation, flow: &FlowControl) -> Self {
        let is_fickle = simulation.random_below(4) == 0;
        let may_miss = is_fickle || !matches!(flow.overflow, Overflow::Wait { .. } | Overflow::Close);
        Self {
            is_fickle,
            may_miss,
            messages: Messages::new(HEAD_BYTES, MESSAGE_BYTES_MOST),
            last: BTreeMap::new(),
            reads_from: Time::ZERO,
            ends_at: Time::ZERO,
            begins: true,
        }
    }

    fn begin(&mut self, peer: &Peer) {
        self.begins = false;
        let span = Duration::from_millis(1 + peer.random_below(2_000));
        self.ends_at = peer.now() + span + Duration::from_millis(peer.random_below(500));
        peer.wake_after(self.ends_at.saturating_since(peer.now()));
        if peer.random_below(3) == 0 {
            // Stops reading, for longer than it is there or not.
            self.reads_from = peer.now() + Duration::from_millis(peer.random_below(3_000));
            peer.wake_after(self.reads_from.saturating_since(peer.now()));
        }
    }

    /// Reads what has come: each message must be the next of its publisher, or a later one where some may be missed.
    fn read(&mut self, peer: &mut Peer) -> Next {
        let Self { messages, last, may_miss, .. } = self;
        messages.read(peer, |head, fill| {
            let (publisher, number) = (number(&head[4..8]), number(&head[8..]));
            if fill.is_some_and(|fill| fill != number as u8) {
                return Err(format!("a torn message {number} of {publisher}"));
            }
            let last = last.insert(publisher, number);
            let fits = last.is_none_or(|last| if *may_miss { number > last } else { number == last + 1 });
            if fits {
                return Ok(());
            }
            Err(format!("message {number} of {publisher} after {last:?}, may miss: {may_miss}"))
        })
    }
}

impl Client for Reader {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        if self.begins {
            self.begin(peer);
        }
        if peer.now() >= self.ends_at {
            return if peer.random_below(4) == 0 { Next::Reset } else { Next::Close };
        }
        if peer.now() < self.reads_from {
            return Next::Wait;
        }
        let next = self.read(peer);
        if matches!(next, Next::Wait) && self.is_fickle && peer.random_below(20) == 0 {
            // One byte is one order, however it comes: two that come together would be one.
            let _ = peer.write(b"!");
        }
        next
    }
}
