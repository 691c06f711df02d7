//! When memory doesn't come back: the connection that has gone longest without progress is closed, so that the others go on.

use std::time::Duration;

use super::IoThread;
use super::shared::Shortage;
use crate::connection::CloseReason;
use crate::engine::Engine;
use crate::time::Time;

/// How long a connection must have made no progress to be closed for memory: longer than a healthy peer on a busy machine
/// takes to read a socket buffer, and short enough that the others hardly notice the wait.
const STALLED: Duration = Duration::from_millis(100);

/// How long somebody may be in the line for send memory before others are closed for it. Much longer than memory takes to come back
/// from peers that read, so that a short shortage closes nobody.
const LINE_PATIENCE: Duration = Duration::from_millis(250);

/// How long to wait after one was closed for the line, to see whether that was enough: other threads look for memory this often.
const NEXT_VICTIM: Duration = Duration::from_millis(10);

/// How often the log says that connections are closed for memory: under an attack there are thousands a second.
const SAY_AGAIN: Duration = Duration::from_secs(1);

/// What a thread knows of those who wait for memory.
#[derive(Default)]
pub(super) struct Pressure {
    /// Since when somebody has been in the line for send memory of this thread, without a break.
    waited_since: Option<Time>,
    /// While this thread counts among those that are short of memory.
    shortage: Option<Shortage>,
    /// When this thread last closed one for the line of any thread.
    closed_at: Option<Time>,
    /// When the log last said that connections are closed for memory, and how many have been since.
    said_at: Option<Time>,
    unsaid: u64,
}

impl Pressure {
    /// Whether this thread is counted among those that are short of memory.
    pub(super) fn says_short(&self) -> bool {
        self.shortage.is_some()
    }
}

impl<E: Engine> IoThread<E> {
    /// The line for send memory is empty.
    #[inline]
    pub(super) fn nobody_waits_for_memory(&mut self) {
        if self.pressure.waited_since.is_some() {
            self.pressure.waited_since = None;
            self.pressure.shortage = None;
        }
    }

    /// Somebody is in the line for send memory. Whether it moves doesn't count: who was refused a large message gets its turn when
    /// there is memory for a small one, tries in vain, and is in the line again.
    pub(super) fn somebody_waits_for_memory(&mut self) {
        let now = self.context.now;
        let since = *self.pressure.waited_since.get_or_insert(now);
        // The memory is common to all threads, and so is the search for who holds it.
        if now.saturating_since(since) >= LINE_PATIENCE && self.pressure.shortage.is_none() {
            self.pressure.shortage = Some(Shortage::begin(&self.shared));
        }
    }

    /// Under pressure the connection that has gone longest without progress is closed: one a turn until a quarter of the arena is home
    /// again, one each [`NEXT_VICTIM`] while somebody has been in the line for send memory for long.
    #[inline]
    pub(super) fn make_room(&mut self) {
        if self.pools.pressed || self.shared.is_short_of_memory() {
            self.make_room_by_closing();
        }
    }

    #[cold]
    #[inline(never)]
    fn make_room_by_closing(&mut self) {
        self.pools.pressed &= !self.pools.arena_has_reserve();
        let now = self.context.now;
        let waited = self.pressure.closed_at.is_none_or(|closed| now.saturating_since(closed) >= NEXT_VICTIM);
        let for_the_line = self.shared.is_short_of_memory() && waited;
        if (self.pools.pressed || for_the_line) && self.close_the_most_stalled() {
            self.pressure.closed_at = Some(now);
            // What it held goes back to all threads at once: the one that waits for it may be another.
            self.pools.lease.release_surplus();
        }
    }

    /// Closes the connection that has gone longest without progress; whether there was one.
    fn close_the_most_stalled(&mut self) -> bool {
        let (now, pools) = (self.context.now, &self.pools);
        let in_use = self.slots.iter_mut().filter(|(_, slot)| slot.in_use);
        // One that is being served, or that holds nothing beyond its floor, would be closed for nothing.
        let holding = in_use.filter(|(index, slot)| slot.machine.holds_common_memory(*index, pools));
        let stalled = holding.filter_map(|(index, slot)| slot.machine.stalled_since().map(|since| (since, index)));
        let is_long = |&(since, _): &(Time, u32)| now.saturating_since(since) >= STALLED;
        let longest = stalled.min().filter(is_long).or_else(|| {
            // No peer keeps memory from the others. Those whose filters wait for it may do so for ever, for more than there is, or for each other.
            let in_use = self.slots.iter_mut().filter(|(_, slot)| slot.in_use);
            let short =
                in_use.filter_map(|(index, slot)| Some((slot.machine.filters_short_since(index, pools)?, index)));
            short.min().filter(is_long)
        });
        let Some((since, index)) = longest else { return false };
        self.say_closed(index, now.saturating_since(since));
        self.slots[index].machine.abort(CloseReason::MemoryPressure, &mut self.pools);
        self.mark_dirty(index);
        true
    }

    /// Says in the log that a connection is closed for memory, at most once each [`SAY_AGAIN`].
    fn say_closed(&mut self, index: u32, stalled: Duration) {
        let now = self.context.now;
        self.pressure.unsaid += 1;
        if self.pressure.said_at.is_none_or(|said| now.saturating_since(said) >= SAY_AGAIN) {
            tracing::warn!(
                connection = index,
                stalled_ms = stalled.as_millis() as u64,
                closed = self.pressure.unsaid,
                "memory is used up: who has gone longest without progress is closed; this one, and others since it was last said"
            );
            self.pressure.said_at = Some(now);
            self.pressure.unsaid = 0;
        }
    }
}
