//! A connection whose peer takes less than it is sent: what becomes of messages for which there is no room, how long that may go on, and
//! what is noted of it. Rare beside what every message meets, so all of it is apart from the [machine](super::machine)'s way, and what it
//! notes is in a table of its own.

use std::sync::Arc;
use std::time::Duration;

use super::machine::{Life, Machine};
use super::marks::{Mark, Marks};
use super::{CloseReason, Decision, FlowControl, FlowError, Overflow, Pools, QueueState, Refusal, Refused, Sent};
use crate::engine::CloseMode;
use crate::memory::{Payload, Piece};
use crate::time::Time;

/// What is noted of a connection from when it is first over its mark, or a message is first dropped or refused.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Strain {
    /// While over its mark: since when, or since what else delayed it.
    over_since: Time,
    /// For how long it has been over its mark before that.
    over_nanos: u64,
    /// While refusing: since a message was refused, or since room was last made after that.
    refusing_since: Time,
    dropped_messages: u64,
    dropped_bytes: u64,
}

/// What a connection notes in the table, besides its number there, and what a place costs.
const _: () = assert!(size_of::<Strain>() == 40, "counted for each connection in the ceiling");

/// The number of no place.
pub(super) const NO_STRAIN: u32 = u32::MAX;

impl Machine {
    fn strain<'a>(&mut self, pools: &'a mut Pools) -> &'a mut Strain {
        let flows = &mut pools.flows;
        if self.strain == NO_STRAIN {
            match flows.places.take() {
                Some(place) => self.strain = place,
                // Can't be: there are as many places as connections.
                None => panic!("no place to note what a slow connection does"),
            }
            *flows.strains.ensure(self.strain) = Strain::default();
        }
        &mut flows.strains[self.strain]
    }

    fn noted(&self, pools: &Pools) -> Strain {
        pools.flows.strains.get(self.strain).copied().unwrap_or_default()
    }

    /// The connection will not queue anything any more.
    pub(super) fn forget_strain(&mut self, pools: &mut Pools) {
        self.stop_refusing(pools);
        if self.strain != NO_STRAIN {
            pools.flows.places.give(self.strain);
            self.strain = NO_STRAIN;
        }
        pools.flows.leave(self.flow);
        self.flow = pools.flows.rules(self.flow).table;
    }
}

/// A message for which there is no room.
impl Machine {
    /// The queue is full: the policy says what becomes of a message that would take `held_bytes` in it.
    #[cold]
    #[inline(never)]
    pub(super) fn overflow(
        &mut self,
        payload: Payload,
        credit_bytes: &mut usize,
        now: Time,
        pools: &mut Pools,
    ) -> Result<Sent, Refused> {
        let decision = match &pools.flows.control(self.flow).overflow {
            Overflow::Wait { .. } => Decision::Wait,
            Overflow::DropOldest => Decision::DropOldest,
            Overflow::DropNewest => Decision::DropNewest,
            Overflow::Close => Decision::Close,
            Overflow::Ask(ask) => {
                // Nothing has changed yet: it may panic.
                let ask = Arc::clone(ask);
                ask(&self.queue_state(now, pools), &payload)
            }
        };
        let rules = pools.flows.rules(self.flow);
        let (queued_bytes, limit_bytes) = (self.queued_bytes(), rules.queue_bytes);
        let (queued_messages, limit_messages) = (self.queue_messages, rules.queue_messages);
        match decision {
            Decision::Wait => {
                self.owe_writable(payload.held_bytes());
                self.begin_to_refuse(now, pools);
                let why = Refusal::Full { queued_bytes, limit_bytes, queued_messages, limit_messages };
                Err(Refused { payload, why })
            }
            Decision::DropOldest => Ok(self.make_way(payload, credit_bytes, now, pools)),
            Decision::DropNewest => {
                self.owe_writable(payload.held_bytes());
                Ok(self.drop_new(&payload, pools))
            }
            Decision::Close => {
                self.end(CloseReason::SlowConsumer, CloseMode::Abort, pools);
                let why = Refusal::SlowConsumer { queued_bytes, limit_bytes, queued_messages, limit_messages };
                Err(Refused { payload, why })
            }
        }
    }

    /// There is room in the queue, but no send memory (`why`). Who drops doesn't stand in line for it.
    #[cold]
    #[inline(never)]
    pub(super) fn run_out_of_memory(
        &mut self,
        payload: Payload,
        why: Refusal,
        credit_bytes: &mut usize,
        now: Time,
        pools: &mut Pools,
    ) -> Result<Sent, Refused> {
        match pools.flows.control(self.flow).overflow {
            Overflow::DropOldest => Ok(self.make_way(payload, credit_bytes, now, pools)),
            // Nobody is told when there is memory: that could be at once and for ever.
            Overflow::DropNewest => Ok(self.drop_new(&payload, pools)),
            Overflow::Wait { .. } | Overflow::Close | Overflow::Ask(_) => {
                self.owe_writable(payload.held_bytes());
                self.marks.set(Mark::WaitsForMemory, true);
                Err(Refused { payload, why })
            }
        }
    }

    /// Drops the oldest messages that have not begun until `payload` fits into the queue and can be paid for, and takes it; or
    /// drops it alone, if it wouldn't fit even if all of them went.
    fn make_way(&mut self, payload: Payload, credit_bytes: &mut usize, now: Time, pools: &mut Pools) -> Sent {
        let (held_bytes, charge_bytes) = (payload.held_bytes(), super::machine::charge_of(&payload));
        let from_credit = charge_bytes.min(*credit_bytes);
        let wanted_bytes = charge_bytes - from_credit;
        let Some((evicted, freed_bytes)) = self.in_the_way(held_bytes, wanted_bytes, pools) else {
            return self.drop_new(&payload, pools);
        };
        // What the old ones were charged pays for the new one; so nobody else can take it in between.
        let (mut dropped_messages, mut dropped_bytes) = (0, 0);
        for _ in 0..evicted {
            let Some(piece) = pools.messages.pop(&mut self.queue) else { break };
            self.queue_messages -= 1;
            self.queue_bytes -= piece.held_bytes as u32;
            dropped_messages += piece.payload.messages();
            dropped_bytes += piece.payload.len();
        }
        self.count_dropped(dropped_messages, dropped_bytes, pools);
        if let Some(more_bytes) = wanted_bytes.checked_sub(freed_bytes).filter(|&bytes| bytes > 0) {
            if self.charge(more_bytes, pools).is_err() {
                // Another thread was faster.
                self.refund(freed_bytes, pools);
                self.marks.set(Mark::ToldAfterSend, self.waits_to_be_sent());
                self.after_shrinking(now, pools);
                return self.drop_new(&payload, pools);
            }
        } else {
            self.refund(freed_bytes - wanted_bytes, pools);
        }
        *credit_bytes -= from_credit;
        let sent = self.enqueue(Piece { payload, charge_bytes, held_bytes }, now, pools);
        self.marks.set(Mark::ToldAfterSend, true);
        self.after_shrinking(now, pools);
        if evicted > 0 { Sent::EvictedOldest(dropped_messages) } else { sent }
    }

    /// How many of the oldest messages have to go for one that takes `held_bytes` of the queue and `wanted_bytes` of send memory, and what
    /// they are charged; `None` if it wouldn't fit even if all of them went.
    fn in_the_way(&self, held_bytes: usize, wanted_bytes: usize, pools: &Pools) -> Option<(u32, usize)> {
        let rules = pools.flows.rules(self.flow);
        let (mut evicted, mut freed_bytes) = (0, 0);
        let (mut queued_bytes, mut queued_messages) = (self.queued_bytes(), self.queue_messages);
        let mut waiting = pools.messages.iter(&self.queue);
        loop {
            let has_room = queued_bytes + held_bytes <= rules.queue_bytes && queued_messages < rules.queue_messages;
            if has_room && self.can_charge(wanted_bytes.saturating_sub(freed_bytes), pools) {
                return Some((evicted, freed_bytes));
            }
            let piece = waiting.next()?;
            evicted += 1;
            freed_bytes += piece.charge_bytes;
            queued_bytes -= piece.held_bytes;
            queued_messages -= 1;
        }
    }

    fn drop_new(&mut self, payload: &Payload, pools: &mut Pools) -> Sent {
        self.count_dropped(payload.messages(), payload.len(), pools);
        Sent::DroppedNew
    }

    pub(super) fn count_dropped(&mut self, messages: u32, bytes: usize, pools: &mut Pools) {
        if messages > 0 {
            let strain = self.strain(pools);
            strain.dropped_messages += u64::from(messages);
            strain.dropped_bytes += bytes as u64;
            let tally = pools.flows.tally_of(self.flow);
            tally.dropped_messages += u64::from(messages);
            tally.dropped_bytes += bytes as u64;
        }
    }
}

/// Marks, refusals, and how long they may last.
impl Machine {
    /// What is to be looked at when the queue gets shorter.
    pub(super) const STRAINED: Marks = Marks::of(&[Mark::AboveHigh, Mark::Refusing]);

    /// The queue is above its high mark, and was not before.
    #[cold]
    #[inline(never)]
    pub(super) fn rise_over_mark(&mut self, now: Time, pools: &mut Pools) {
        self.marks.set(Mark::AboveHigh, true);
        self.marks.set(Mark::QueueHigh, !pools.flows.rules(self.flow).reads_on);
        self.strain(pools).over_since = now;
        let has_limit = pools.flows.control(self.flow).over_mark_limit.is_some();
        self.watch_queue(has_limit);
    }

    /// Messages have left the queue.
    #[cold]
    #[inline(never)]
    pub(super) fn after_shrinking(&mut self, now: Time, pools: &mut Pools) {
        let rules = *pools.flows.rules(self.flow);
        let is_low = self.queued_bytes() <= rules.low_mark_bytes && self.queue_messages <= rules.low_mark_messages;
        if self.marks.has(Mark::AboveHigh) && is_low {
            self.marks.clear(Marks::of(&[Mark::AboveHigh, Mark::QueueHigh]));
            self.add_up_over_mark(now, pools);
        }
        if self.marks.has(Mark::Refusing) && self.has_room_for_wanted(pools) {
            self.strain(pools).refusing_since = now;
        }
    }

    fn add_up_over_mark(&mut self, now: Time, pools: &mut Pools) {
        let strain = self.strain(pools);
        strain.over_nanos += now.as_nanos().saturating_sub(strain.over_since.as_nanos());
        strain.over_since = now;
    }

    fn begin_to_refuse(&mut self, now: Time, pools: &mut Pools) {
        pools.flows.tally_of(self.flow).refused_messages += 1;
        self.begin_to_wait_for_room(now, pools);
    }

    fn begin_to_wait_for_room(&mut self, now: Time, pools: &mut Pools) {
        if !self.marks.has(Mark::Refusing) {
            self.marks.set(Mark::Refusing, true);
            pools.flows.refusing += 1;
            self.strain(pools).refusing_since = now;
            let has_limit = matches!(pools.flows.control(self.flow).overflow, Overflow::Wait { limit: Some(_) });
            self.watch_queue(has_limit);
        }
    }

    /// So many bytes will be sent as soon as others have room for them: if this connection has none either, and waits for room, its time for
    /// that runs from now on. Whether it does, for the first time.
    #[cold]
    #[inline(never)]
    pub(crate) fn is_awaited(&mut self, held_bytes: usize, now: Time, pools: &mut Pools) -> bool {
        let rules = pools.flows.rules(self.flow);
        let held_bytes = held_bytes.min(rules.queue_bytes);
        let is_full =
            self.queued_bytes() + held_bytes > rules.queue_bytes || self.queue_messages >= rules.queue_messages;
        let waits = matches!(pools.flows.control(self.flow).overflow, Overflow::Wait { .. });
        let is_open = self.life == Life::Open && !self.marks.has(Mark::ShutdownWanted);
        if !is_full || !waits || !is_open || self.marks.has(Mark::Refusing) {
            return false;
        }
        self.owe_writable(held_bytes);
        self.begin_to_wait_for_room(now, pools);
        true
    }

    /// The handler knows that there is room, or will not be told any more.
    pub(super) fn stop_refusing(&mut self, pools: &mut Pools) {
        if self.marks.has(Mark::Refusing) {
            self.marks.set(Mark::Refusing, false);
            pools.flows.refusing -= 1;
        }
    }

    /// Something that may have a limit of time begins. The timer is moved only for the first time in a while.
    fn watch_queue(&mut self, has_limit: bool) {
        if has_limit && !self.marks.has(Mark::QueueWatched) {
            self.marks.set(Mark::QueueWatched, true);
            self.marks.set(Mark::Rearm, true);
        }
    }

    /// The limits of time, each with since when it runs, if it does.
    fn queue_clocks(&self, pools: &Pools) -> [(Option<Time>, Option<Duration>); 2] {
        let (noted, control) = (self.noted(pools), pools.flows.control(self.flow));
        let wait_limit = match control.overflow {
            Overflow::Wait { limit } => limit,
            _ => None,
        };
        // Who has finished sending has no producer any more.
        let refuses = self.marks.has(Mark::Refusing) && !self.marks.has(Mark::ShutdownWanted);
        [
            (refuses.then_some(noted.refusing_since), wait_limit),
            (self.marks.has(Mark::AboveHigh).then_some(noted.over_since), control.over_mark_limit),
        ]
    }

    /// When [`judge_queue`](Self::judge_queue) could end the connection at the earliest.
    pub(super) fn next_look_at_queue(&self, now: Time, pools: &Pools) -> Time {
        let clocks = self.queue_clocks(pools).into_iter();
        let ends = clocks.filter_map(|(since, limit)| Some(since.unwrap_or(now) + limit?));
        ends.min().unwrap_or(Time::MAX)
    }

    /// When those of the limits of time that run now end.
    pub(super) fn queue_runs_out(&self, pools: &Pools) -> Time {
        let ends = self.queue_clocks(pools).into_iter().filter_map(|(since, limit)| Some(since? + limit?));
        ends.min().unwrap_or(Time::MAX)
    }

    /// Ends a connection whose queue has been without room, or over its mark, for too long.
    pub(super) fn judge_queue(&mut self, now: Time, pools: &mut Pools) {
        if !self.marks.has(Mark::QueueWatched) {
            return;
        }
        if self.marks.has(Mark::PaceHeld) {
            // At this moment it is not up to the peer: it has the whole time again.
            if self.marks.has(Mark::AboveHigh) {
                self.add_up_over_mark(now, pools);
            }
            if self.marks.has(Mark::Refusing) {
                self.strain(pools).refusing_since = now;
            }
            return;
        }
        let clocks = self.queue_clocks(pools);
        let is_due = |(since, limit): (Option<Time>, Option<Duration>)| {
            since.zip(limit).is_some_and(|(since, limit)| now >= since + limit)
        };
        if clocks.into_iter().any(is_due) {
            self.end(CloseReason::SlowConsumer, CloseMode::Abort, pools);
        } else if clocks.iter().all(|(since, _)| since.is_none()) {
            self.marks.set(Mark::QueueWatched, false);
        }
    }
}

/// What others may know and change.
impl Machine {
    /// How full the queue is, and what has become of what was too much.
    pub(crate) fn queue_state(&self, now: Time, pools: &Pools) -> QueueState {
        let rules = pools.flows.rules(self.flow);
        let noted = self.noted(pools);
        let over_mark_for = self.marks.has(Mark::AboveHigh).then(|| now.saturating_since(noted.over_since));
        QueueState {
            outstanding_bytes: self.outstanding_bytes(),
            queued_bytes: self.queued_bytes(),
            queued_messages: self.queue_messages,
            limit_bytes: rules.queue_bytes,
            limit_messages: rules.queue_messages,
            dropped_messages: noted.dropped_messages,
            dropped_bytes: noted.dropped_bytes,
            over_mark: Duration::from_nanos(noted.over_nanos) + over_mark_for.unwrap_or_default(),
            over_mark_for,
            refusing_for: self.marks.has(Mark::Refusing).then(|| now.saturating_since(noted.refusing_since)),
        }
    }

    /// What it goes by.
    pub(crate) fn flow_control<'a>(&self, pools: &'a Pools) -> &'a FlowControl {
        pools.flows.control(self.flow)
    }

    /// Goes by other rules from now on. What was taken stays, also where it is more than may wait now.
    pub(crate) fn set_flow(&mut self, control: FlowControl, now: Time, pools: &mut Pools) -> Result<(), FlowError> {
        control.check(pools.arena.buffer_bytes(), pools.flow.reply_bytes, "")?;
        if self.life != Life::Open {
            return Ok(());
        }
        self.flow = pools.flows.change(self.flow, control)?;
        let rules = *pools.flows.rules(self.flow);
        let is_high = self.queued_bytes() > rules.high_mark_bytes || self.queue_messages > rules.high_mark_messages;
        if is_high && !self.marks.has(Mark::AboveHigh) {
            self.rise_over_mark(now, pools);
            self.owe_writable(0);
        }
        self.marks.set(Mark::QueueHigh, self.marks.has(Mark::AboveHigh) && !rules.reads_on);
        // What was refused for lack of memory still waits for some, whatever the rules: told of room at once, the handler could be refused for ever.
        if rules.reads_on && !self.marks.has(Mark::OwesWritable) {
            self.marks.set(Mark::WaitsForMemory, false);
        }
        if !matches!(pools.flows.control(self.flow).overflow, Overflow::Wait { .. } | Overflow::Ask(_)) {
            self.stop_refusing(pools);
        }
        self.marks.set(Mark::ToldAfterSend, self.waits_to_be_sent());
        self.after_shrinking(now, pools);
        // A timer that was set by the old rules may be later than the new ones allow, or there is none: what begins next sets it anew.
        let is_strained = self.marks.has_any(Self::STRAINED);
        self.marks.set(Mark::QueueWatched, is_strained);
        if is_strained {
            self.marks.set(Mark::Rearm, true);
        }
        Ok(())
    }

    /// Since when it has held its producer up, if it does.
    pub(crate) fn refusing_since(&self, pools: &Pools) -> Option<Time> {
        self.marks.has(Mark::Refusing).then(|| self.noted(pools).refusing_since)
    }
}
