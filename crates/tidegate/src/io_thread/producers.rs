//! Producers that are held up: whoever sends to a connection whose queue is full and whose policy is to wait. The log names the
//! connection that has held up its producer longest, and the [`Stats`](crate::Stats) have it too.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::handlers::Timer;
use super::{IoThread, Slot};
use crate::connection::OverflowTally;
use crate::engine::{Engine, SocketId};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::time::Time;

/// How often a thread looks, while any connection refuses. Also how long one must have refused to be named: a queue that is
/// full for less is what waiting is for.
const LOOK: Duration = Duration::from_secs(1);

/// How often the log says who it is, for each I/O thread.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// What an I/O thread knows.
#[derive(Default)]
pub(super) struct Producers {
    /// Whether the timer is set.
    looks: bool,
    said_at: Option<Time>,
}

/// A connection that holds up its producer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct HeldUp {
    /// Whom it is connected to; `None` if the system doesn't say, because the peer has gone.
    pub peer: Option<SocketAddr>,
    /// How long it has had no room for what its producer sends, when an I/O thread last looked.
    pub refusing_for: Duration,
    /// Bytes in its queue.
    pub queued_bytes: usize,
    /// Messages in its queue.
    pub queued_messages: u32,
}

/// What the policies of the send queues of a listener's or a client's connections have done so far, and who is slow now: see
/// [`Overflow`](crate::Overflow).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct OverflowStats {
    /// Messages that were dropped.
    pub dropped_messages: u64,
    /// Bytes that they would have put on the wire.
    pub dropped_bytes: u64,
    /// Messages that were refused because a queue was full.
    pub refused_messages: u64,
    /// Connections that ended as [`CloseReason::SlowConsumer`](crate::CloseReason).
    pub slow_consumers: u64,
    /// Connections that had held up their producers for more than a second when their I/O threads last looked, which they do once a second.
    pub refusing: u32,
    /// The one of them that had for longest.
    pub longest: Option<HeldUp>,
}

impl OverflowStats {
    /// Adds those of other connections.
    pub(crate) fn add(&mut self, other: &Self) {
        self.dropped_messages += other.dropped_messages;
        self.dropped_bytes += other.dropped_bytes;
        self.refused_messages += other.refused_messages;
        self.slow_consumers += other.slow_consumers;
        self.refusing += other.refusing;
        let longer = |one: Option<HeldUp>| one.map_or(Duration::ZERO, |held_up| held_up.refusing_for);
        if longer(other.longest) > longer(self.longest) {
            self.longest = other.longest;
        }
    }
}

/// What one I/O thread publishes for one table. Only the thread writes.
#[derive(Default)]
pub(crate) struct TableStats {
    dropped_messages: AtomicU64,
    dropped_bytes: AtomicU64,
    refused_messages: AtomicU64,
    slow_consumers: AtomicU64,
    refusing: AtomicU32,
    /// Written once a second at most, and only if nobody reads it at that moment: no I/O thread ever waits for another.
    longest: Mutex<Option<HeldUp>>,
}

impl TableStats {
    fn publish(&self, tally: &OverflowTally) {
        self.dropped_messages.store(tally.dropped_messages, Ordering::Relaxed);
        self.dropped_bytes.store(tally.dropped_bytes, Ordering::Relaxed);
        self.refused_messages.store(tally.refused_messages, Ordering::Relaxed);
        self.slow_consumers.store(tally.slow_consumers, Ordering::Relaxed);
    }

    fn publish_refusing(&self, refusing: u32, longest: Option<HeldUp>) {
        self.refusing.store(refusing, Ordering::Relaxed);
        if let Ok(mut place) = self.longest.try_lock() {
            *place = longest;
        }
    }

    /// What was published.
    pub(crate) fn read(&self) -> OverflowStats {
        OverflowStats {
            dropped_messages: self.dropped_messages.load(Ordering::Relaxed),
            dropped_bytes: self.dropped_bytes.load(Ordering::Relaxed),
            refused_messages: self.refused_messages.load(Ordering::Relaxed),
            slow_consumers: self.slow_consumers.load(Ordering::Relaxed),
            refusing: self.refusing.load(Ordering::Relaxed),
            longest: *self.longest.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// Those of one table that hold up their producers, as one look finds them.
#[derive(Clone, Copy, Default)]
struct Found {
    count: u32,
    /// The one that has for longest, by its slot, and since when.
    longest: Option<(Time, u32)>,
}

impl<E: Engine> IoThread<E> {
    /// Publishes what the policies have done in this turn, if anything.
    #[inline]
    pub(super) fn tell_overflows(&mut self) {
        if let Some(tallies) = self.pools.flows.changed_tallies() {
            let (mut messages, mut bytes) = (0, 0);
            for (tally, published) in tallies.iter().zip(&self.context.shared.stats.tables) {
                published.publish(tally);
                messages += tally.dropped_messages;
                bytes += tally.dropped_bytes;
            }
            (self.tally.dropped_messages, self.tally.dropped_bytes) = (messages, bytes);
        }
        if self.pools.flows.refusing() > 0 && !self.producers.looks {
            self.look_again();
        }
    }

    fn look_again(&mut self) {
        self.producers.looks = true;
        self.context.wheel.insert(self.context.now + LOOK, Timer::Producers);
    }

    /// Finds who has held up a producer for long, and says so.
    #[cold]
    #[inline(never)]
    pub(super) fn look_at_producers(&mut self) {
        self.producers.looks = false;
        let now = self.context.now;
        let mut found = vec![Found::default(); self.tables.len()];
        if self.pools.flows.refusing() > 0 {
            self.look_again();
            for (index, slot) in self.slots.iter_mut().filter(|(_, slot)| slot.in_use) {
                let Some(since) = slot.machine.refusing_since(&self.pools) else { continue };
                if now.saturating_since(since) >= LOOK {
                    let found = &mut found[slot.table as usize];
                    found.count += 1;
                    found.longest = Some(found.longest.map_or((since, index), |longest| longest.min((since, index))));
                }
            }
        }
        let mut all = OverflowStats::default();
        for (found, number) in found.into_iter().zip(0..) {
            let longest = found.longest.map(|(since, index)| self.held_up(index, since));
            self.context.shared.stats.tables[number as usize].publish_refusing(found.count, longest);
            all.add(&OverflowStats { refusing: found.count, longest, ..OverflowStats::default() });
        }
        self.say_held_up(&all);
    }

    fn held_up(&self, index: u32, since: Time) -> HeldUp {
        let slot: &Slot = &self.slots[index];
        let now = self.context.now;
        let state = slot.machine.queue_state(now, &self.pools);
        HeldUp {
            peer: self.engine.peer_address(SocketId { index, generation: slot.key.generation }),
            refusing_for: now.saturating_since(since),
            queued_bytes: state.queued_bytes,
            queued_messages: state.queued_messages,
        }
    }

    /// Says in the log who holds up a producer, at most once each [`SAY_AGAIN`].
    fn say_held_up(&mut self, found: &OverflowStats) {
        let now = self.context.now;
        let Some(held_up) = found.longest else { return };
        if self.producers.said_at.is_some_and(|said| now.saturating_since(said) < SAY_AGAIN) {
            return;
        }
        self.producers.said_at = Some(now);
        let peer = held_up.peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
        tracing::warn!(
            %peer,
            refusing_ms = held_up.refusing_for.as_millis() as u64,
            queued_bytes = held_up.queued_bytes,
            queued_messages = held_up.queued_messages,
            connections = found.refusing,
            "a producer is held up: the queue of this peer has had no room for longest, of so many connections of this I/O thread"
        );
    }
}
