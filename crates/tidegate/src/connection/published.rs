//! What was published to a group, in the queue of one connection.

use std::time::Duration;

use super::machine::{Life, Machine};
use super::marks::Mark;
use super::{List, Overflow, Pools};
use crate::memory::Share;
use crate::time::Time;

/// What may be done about old payloads of a connection when publish memory is low: what its policy for a full queue says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OldPayloads {
    /// Those that have not begun are dropped.
    Dropped,
    /// They are waited for, for so long; `None`: for ever.
    WaitedFor {
        /// How long.
        limit: Option<Duration>,
    },
    /// The connection is closed.
    Closed,
}

impl Machine {
    /// What may be done about its old payloads; nothing any more if it has ended.
    pub(crate) fn old_payloads(&self, pools: &Pools) -> OldPayloads {
        match (self.life, &pools.flows.control(self.flow).overflow) {
            (Life::Closing(_) | Life::Closed, _) => OldPayloads::WaitedFor { limit: None },
            (_, Overflow::Wait { limit }) => OldPayloads::WaitedFor { limit: *limit },
            (Life::Open, Overflow::DropOldest | Overflow::DropNewest) => OldPayloads::Dropped,
            _ => OldPayloads::Closed,
        }
    }

    /// Whether a message was refused for want of room or memory, and the connection has not been ready for more since: then another
    /// try would be in vain.
    pub(crate) fn is_held_up(&self) -> bool {
        self.is_open() && self.marks.has(Mark::OwesWritable)
    }

    /// When the oldest payload was taken that was published and waits here, apart from what is in flight.
    #[cold]
    #[inline(never)]
    pub(crate) fn oldest_published(&self, pools: &Pools) -> Option<Time> {
        let unsent = self.unsent.as_ref().and_then(|gather| gather.oldest_published());
        unsent.or_else(|| pools.messages.iter(&self.queue).find_map(|piece| piece.payload.published_at()))
    }

    /// Drops what was published before `time` and has not begun; `dropped` gets each.
    #[cold]
    #[inline(never)]
    pub(crate) fn drop_published_before(
        &mut self,
        time: Time,
        now: Time,
        pools: &mut Pools,
        mut dropped: impl FnMut(&Share),
    ) {
        let mut kept = List::default();
        let (mut refund, mut dropped_messages, mut dropped_bytes) = (0, 0, 0);
        while let Some(piece) = pools.messages.pop(&mut self.queue) {
            match piece.payload.published() {
                Some(share) if share.taken() < time => {
                    dropped(share);
                    dropped_messages += share.messages();
                    dropped_bytes += share.bytes().len();
                    self.queue_messages -= 1;
                    self.queue_bytes -= piece.held_bytes as u32;
                    refund += piece.charge_bytes;
                }
                _ => pools.messages.push(&mut kept, piece),
            }
        }
        self.queue = kept;
        self.refund(refund, pools);
        self.count_dropped(dropped_messages, dropped_bytes, pools);
        self.after_shrinking(now, pools);
    }
}
