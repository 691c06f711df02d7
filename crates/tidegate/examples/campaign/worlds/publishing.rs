//! A service that publishes numbered messages to each connection, faster than some clients read, under every policy of a full queue; and
//! its client, which accepts gaps only where a policy may drop.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tidegate::sim::{Client, Next, Peer, Simulation};
use tidegate::{
    Ask, Buffer, CloseReason, Connection, Decision, FlowControl, Handler, Limits, Overflow, QueueState, Refusal, Sent,
    Time,
};

use super::messages::{Messages, number};
use super::services::Witness;

/// The head of a message: its length and its number.
const HEAD_BYTES: usize = 12;

const MESSAGE_BYTES_MOST: usize = 3_000;

/// A policy of each kind in turn, by `choice`; the limits of time that go with it are short enough to be reached.
pub fn overflow(choice: u64, limit: Duration) -> Overflow {
    let ask: Ask = Arc::new(|state: &QueueState, payload| match (state.dropped_messages + payload.len() as u64) % 7 {
        0..=2 => Decision::DropOldest,
        3 | 4 => Decision::DropNewest,
        5 => Decision::Wait,
        _ => Decision::Close,
    });
    match choice % 6 {
        0 => Overflow::Wait { limit: Some(limit) },
        1 => Overflow::Wait { limit: None },
        2 => Overflow::DropOldest,
        3 => Overflow::DropNewest,
        4 => Overflow::Close,
        _ => Overflow::Ask(ask),
    }
}

/// The rules of the publisher's queues in one world.
pub fn flow(simulation: &Simulation, limits: &Limits) -> FlowControl {
    let limit = Duration::from_millis(50 + simulation.random_below(1_000));
    let over_mark_limit = (simulation.random_below(3) == 0).then_some(limit);
    FlowControl {
        overflow: overflow(simulation.random_below(6), limit),
        over_mark_limit,
        queue_messages: 2 + simulation.random_below(30) as u32,
        ..limits.flow_control()
    }
}

/// Publishes until it has published all.
pub struct Publisher {
    witness: Witness,
    next: u64,
    /// Dropped so far, as `send` has said.
    dropped: u64,
    /// Whether it may end as a slow consumer.
    may_be_slow: bool,
    /// The client takes what comes of any policy.
    is_asked_for_policies: bool,
}

impl Publisher {
    const MESSAGES: u64 = 400;

    pub fn new(witness: Witness) -> Self {
        Self { witness, next: 1, dropped: 0, may_be_slow: false, is_asked_for_policies: false }
    }

    fn message(number: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![number as u8; length.max(HEAD_BYTES)];
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        bytes[4..HEAD_BYTES].copy_from_slice(&number.to_be_bytes());
        bytes
    }

    /// Publishes some more. Whether the connection is still served: a policy may have ended it.
    fn publish(&mut self, connection: &mut Connection<'_>) -> bool {
        for _ in 0..connection.random() % 12 {
            if self.next > Self::MESSAGES {
                break;
            }
            let length = (connection.random() % MESSAGE_BYTES_MOST as u64) as usize;
            let dropping = matches!(connection.flow().overflow, Overflow::DropOldest | Overflow::DropNewest);
            match connection.send(Self::message(self.next, length)) {
                Ok(sent) => {
                    self.next += 1;
                    self.dropped += match sent {
                        Sent::EvictedOldest(count) => u64::from(count),
                        Sent::DroppedNew => 1,
                        _ => 0,
                    };
                }
                Err(refused) => {
                    if dropping && refused.why != Refusal::Closing && !matches!(refused.why, Refusal::TooLarge { .. }) {
                        self.witness.complaints.add(format!("refused by a policy that drops: {refused}"));
                    }
                    return !matches!(refused.why, Refusal::Closing | Refusal::SlowConsumer { .. });
                }
            }
            self.look(connection);
        }
        true
    }

    fn change_policy(&mut self, connection: &mut Connection<'_>) {
        let choice = connection.random();
        let limit = Duration::from_millis(50 + choice % 1_000);
        let flow = FlowControl {
            overflow: overflow(choice, limit),
            over_mark_limit: choice.is_multiple_of(5).then_some(limit),
            queue_messages: 1 + (choice >> 8) as u32 % 40,
            reads_above_mark: (choice >> 16).is_multiple_of(3),
            ..connection.flow()
        };
        // The table of an I/O thread is small: it may be full.
        drop(connection.set_flow(flow));
        self.look(connection);
    }

    /// What is known of the queue must agree with what was told.
    fn look(&mut self, connection: &mut Connection<'_>) {
        let (state, flow) = (connection.queue_state(), connection.flow());
        // A message that goes with those that it displaced is told as one.
        let dropped = state.dropped_messages;
        if dropped < self.dropped {
            self.witness.complaints.add(format!("{} messages were dropped, but {dropped} are counted", self.dropped));
        }
        let unlimited = flow.over_mark_limit.is_none()
            && matches!(flow.overflow, Overflow::Wait { limit: None } | Overflow::DropOldest | Overflow::DropNewest);
        self.may_be_slow |= !unlimited;
    }
}

impl Handler for Publisher {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        self.look(connection);
        connection.set_timer(0, Duration::from_micros(100));
    }

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        self.witness.hears(data.len());
        // Whatever a client says, it wants another policy.
        self.is_asked_for_policies = true;
        self.change_policy(connection);
    }

    fn on_timer(&mut self, connection: &mut Connection<'_>, _timer: u8) {
        self.publish(connection);
        if self.next > Self::MESSAGES {
            connection.shutdown();
        } else {
            let after = Duration::from_micros(connection.random() % 20_000);
            connection.set_timer(0, after);
        }
    }

    fn on_writable(&mut self, connection: &mut Connection<'_>) {
        let is_served = self.publish(connection);
        // Also in the middle of what it waits for: no policy may tell it of room that isn't there, for ever.
        if is_served && self.is_asked_for_policies && connection.random().is_multiple_of(4) {
            self.change_policy(connection);
        }
    }

    fn on_sent(&mut self, _connection: &mut Connection<'_>, bytes: usize) {
        self.witness.sends(bytes);
    }

    fn on_close(self, reason: &CloseReason) {
        if *reason == CloseReason::SlowConsumer && !self.may_be_slow {
            self.witness.complaints.add("ended as a slow consumer under a policy without a limit".to_owned());
        } else if *reason != CloseReason::SlowConsumer {
            self.witness.ends(reason);
        }
    }
}

/// Reads what is published: whole messages in order.
pub struct Subscriber {
    /// Asks for other policies now and then.
    is_fickle: bool,
    may_miss: bool,
    messages: Messages,
    last: u64,
    reads_from: Time,
    ends_at: Time,
    begins: bool,
}

impl Subscriber {
    /// One of a service whose policy at first is that of `flow`.
    pub fn new(simulation: &Simulation, flow: &FlowControl) -> Self {
        let is_fickle = simulation.random_below(4) == 0;
        let may_miss = is_fickle || !matches!(flow.overflow, Overflow::Wait { .. } | Overflow::Close);
        Self {
            is_fickle,
            may_miss,
            messages: Messages::new(HEAD_BYTES, MESSAGE_BYTES_MOST),
            last: 0,
            reads_from: Time::ZERO,
            ends_at: Time::ZERO + Duration::from_secs(3_600),
            begins: true,
        }
    }

    fn begin(&mut self, peer: &Peer) {
        self.begins = false;
        let span = Duration::from_millis(1 + peer.random_below(4_000));
        match peer.random_below(4) {
            // Reads all the time.
            0 | 1 => return,
            // Reads nothing for a while.
            2 => self.reads_from = peer.now() + span,
            // Reads nothing, and goes in the end.
            _ => {
                self.reads_from = Time::MAX;
                self.ends_at = peer.now() + span;
            }
        }
        peer.wake_after(span);
    }

    /// Reads what has come: each message must be the next, or a later one where some may be missed.
    fn read(&mut self, peer: &mut Peer) -> Next {
        let Self { messages, last, may_miss, .. } = self;
        messages.read(peer, |head, fill| {
            let number = number(&head[4..]);
            if fill.is_some_and(|fill| fill != number as u8) {
                return Err(format!("message {number} is torn"));
            }
            if number <= *last || number > *last + 1 && !*may_miss {
                return Err(format!("message {number} came after {last}"));
            }
            *last = number;
            Ok(())
        })
    }
}

impl Client for Subscriber {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        if self.begins {
            self.begin(peer);
        }
        if self.is_fickle && peer.random_below(4) == 0 {
            // Not taken: then it doesn't matter so much to it.
            let _ = peer.write(b"?");
        }
        if peer.now() >= self.ends_at {
            return Next::Reset;
        }
        if peer.now() < self.reads_from {
            return Next::Wait;
        }
        self.read(peer)
    }
}
