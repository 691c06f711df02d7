//! When publish memory runs low: who holds old payloads lets go of them, so that those who read miss nothing.
//!
//! A payload is paid for until the last receiver has sent it, so receivers that have stopped could hold any number of them. While less
//! than an eighth of the memory is free, each I/O thread looks, at most once each [`LOOK`], for payloads that it took [`OLD`] ago or
//! longer, and does the first of these that changes anything:
//!
//! 1. Receivers whose policy drops lose those that wait in their queues and have not begun, oldest first.
//! 2. Of the receivers that have begun with such a payload, those that hold the oldest are reset with
//!    [`MemoryPressure`](crate::CloseReason::MemoryPressure): up to [`CLOSED_AT_ONCE`].
//!
//! A receiver that is to be waited for is left alone, for as long as its policy says: the publisher is refused meanwhile. A healthy
//! receiver has nothing that is as old.

use std::time::Duration;

use super::IoThread;
use crate::connection::{CloseReason, OldPayloads};
use crate::engine::{Engine, SocketId};
use crate::sync::atomic::Ordering;
use crate::time::Time;

/// How long ago a payload must have been taken to count as old: longer than a healthy peer on a busy machine takes to read what is
/// in flight to it.
const OLD: Duration = Duration::from_millis(250);

/// How often a thread looks: memory comes back when the system has let go of a send, which takes a moment.
const LOOK: Duration = Duration::from_millis(10);

/// Receivers that are closed at a look: 600 that have stopped are gone within a second.
const CLOSED_AT_ONCE: usize = 8;

/// How often the log says that receivers are closed for publish memory.
const SAY_AGAIN: Duration = Duration::from_secs(1);

impl<E: Engine> IoThread<E> {
    /// Looks whether publish memory is low, if there is any.
    #[inline]
    pub(super) fn relieve_publish_memory(&mut self) {
        let publishing = &self.shared.publishing;
        if publishing.is_used() {
            let is_low = publishing.pool.is_low();
            self.context.groups.is_pressed = is_low;
            if is_low {
                self.let_go_of_old_payloads();
            }
            self.shared.publishing.tell_of_room();
        }
    }

    #[cold]
    #[inline(never)]
    fn let_go_of_old_payloads(&mut self) {
        let now = self.context.now;
        if self.context.groups.looked_at.is_some_and(|looked| now.saturating_since(looked) < LOOK) {
            return;
        }
        self.context.groups.looked_at = Some(now);
        let Some(before) = now.as_nanos().checked_sub(OLD.as_nanos() as u64).map(Time::from_nanos) else { return };
        if !self.drop_old_payloads(before) {
            self.close_holders_of_old_payloads(before);
        }
    }

    /// Drops what was taken before `before` and waits in queues whose policy drops; whether there was any.
    fn drop_old_payloads(&mut self, before: Time) -> bool {
        let mut shrunk = Vec::new();
        for (index, slot) in self.slots.iter_mut().filter(|(_, slot)| slot.in_use) {
            if slot.machine.old_payloads(&self.pools) == OldPayloads::Dropped {
                let mut dropped = false;
                slot.machine.drop_published_before(before, self.context.now, &mut self.pools, |share| {
                    let group = self.shared.publishing.group(share.group());
                    group.missed.fetch_add(share.messages().into(), Ordering::Relaxed);
                    dropped = true;
                });
                if dropped {
                    shrunk.push(index);
                }
            }
        }
        for &index in &shrunk {
            self.mark_dirty(index);
        }
        !shrunk.is_empty()
    }

    /// Closes those that hold the oldest of what was taken before `before`, in flight or begun, and are not to be waited for.
    fn close_holders_of_old_payloads(&mut self, before: Time) {
        let now = self.context.now;
        let (engine, pools) = (&self.engine, &self.pools);
        let in_use = self.slots.iter_mut().filter(|(_, slot)| slot.in_use);
        let mut holders: Vec<(Time, u32)> = in_use
            .filter_map(|(index, slot)| {
                let socket = SocketId { index, generation: slot.key.generation };
                let waits = slot.machine.oldest_published(pools);
                let oldest = engine.oldest_published(socket).into_iter().chain(waits).min()?;
                let patience = match slot.machine.old_payloads(pools) {
                    OldPayloads::WaitedFor { limit } => limit?,
                    OldPayloads::Dropped | OldPayloads::Closed => Duration::ZERO,
                };
                (oldest < before && now.saturating_since(oldest) >= patience).then_some((oldest, index))
            })
            .collect();
        holders.sort_unstable();
        for &(oldest, index) in holders.iter().take(CLOSED_AT_ONCE) {
            self.say_closed_for_publish_memory(index, now.saturating_since(oldest));
            self.slots[index].machine.abort(CloseReason::MemoryPressure, &mut self.pools);
            self.mark_dirty(index);
        }
    }

    fn say_closed_for_publish_memory(&mut self, index: u32, held: Duration) {
        let now = self.context.now;
        let socket = SocketId { index, generation: self.slots[index].key.generation };
        let peer = self.engine.peer_address(socket);
        let groups = &mut self.context.groups;
        groups.closed_unsaid += 1;
        if groups.closed_said_at.is_none_or(|said| now.saturating_since(said) >= SAY_AGAIN) {
            tracing::warn!(
                peer = peer.map(tracing::field::display),
                held_ms = held.as_millis() as u64,
                closed = groups.closed_unsaid,
                "publish memory is used up: who holds the oldest payloads is closed; this one, and others since it was last said"
            );
            groups.closed_said_at = Some(now);
            groups.closed_unsaid = 0;
        }
    }
}
