//! What nobody may forget about a connection between two turns of the loop. Looked at by the simulation alone.

use super::machine::{Life, Machine};
use super::marks::{Mark, Marks};
use super::messages::Pools;
use crate::time::Time;

impl Machine {
    /// Whether the handler will be told when there is room, as far as the machine knows.
    pub(crate) fn owes_writable(&self) -> bool {
        self.marks.has(Mark::OwesWritable)
    }

    /// Whether the handler is to be told when there is room, if it was ever promised: nobody is once the end has begun.
    pub(crate) fn may_be_told(&self) -> bool {
        self.life == Life::Open && !self.marks.has(Mark::ShutdownWanted)
    }

    /// Until when somebody must look at the time, or something that runs now would end late; [`Time::MAX`]: nothing runs.
    ///
    /// Not [`next_look`](Self::next_look), which also counts what may begin later: the timer may be earlier than this, and never later.
    pub(crate) fn latest_look(&self, now: Time, pools: &Pools) -> Time {
        let flow = &pools.flow;
        let mut latest = self.deadline();
        let is_sending = matches!(self.life, Life::Open | Life::Draining) && self.marks.has(Mark::Sending);
        if let (true, Some(progress)) = (is_sending, flow.min_send_progress) {
            latest = latest.min(self.paced + progress.within);
        }
        if self.life != Life::Open {
            return latest;
        }
        if let (false, Some(timeout)) = (self.marks.has(Mark::Spoke), flow.first_byte_timeout) {
            latest = latest.min(self.active + timeout);
        }
        if let Some(timeout) = flow.idle_timeout {
            // Nobody notes when it became idle.
            latest = latest.min(now + timeout);
        }
        if let (true, Some(rate)) = (self.is_paced_in(), flow.min_receive_rate) {
            latest = latest.min(self.term + rate.within);
        }
        latest.min(self.queue_runs_out(pools))
    }

    /// Whether the timer is to be set anew.
    pub(crate) fn awaits_rearming(&self) -> bool {
        self.marks.has(Mark::Rearm) && !matches!(self.life, Life::Closing(_) | Life::Closed)
    }

    /// What was to be done and has not been, when there is nothing left to do for this connection until something happens.
    pub(crate) fn neglected(&self, pools: &Pools) -> Option<&'static str> {
        const HELD: Marks = Marks::of(&[
            Mark::PausedByHandler,
            Mark::WaitsForMemory,
            Mark::SystemShort,
            Mark::OffloadFull,
            Mark::OffloadRefused,
            Mark::WaitsToOffload,
            // Filters that have something to hand up, which waits for room, are not read.
            Mark::FILTERS_BUSY,
        ]);
        if self.life != Life::Open {
            return None;
        }
        let (bytes, messages, rules) = (self.queued_bytes(), self.queue_messages, pools.flows.rules(self.flow));
        if self.marks.has(Mark::ToldAfterSend) && !self.waits_to_be_sent() && !self.marks.has(Mark::Sending) {
            return Some("tells its handler after a send that will never be");
        }
        let is_low = bytes <= rules.low_mark_bytes && messages <= rules.low_mark_messages;
        if is_low && self.marks.has_any(Marks::of(&[Mark::QueueHigh, Mark::AboveHigh])) {
            return Some("counts as above its high mark with a queue that is down to its low mark");
        }
        // Room for a job is told after a half-close too.
        let may_be_told = self.may_be_told() || self.marks.has(Mark::OffloadRefused);
        let may_be_told = self.owes_writable() && may_be_told && !self.marks.has(Mark::WaitsForMemory);
        // Something waits to be sent, or is being sent: it is told in time.
        let may_be_told = may_be_told && !self.marks.has(Mark::ToldAfterSend);
        if is_low && may_be_told && self.has_room_for_wanted(pools) {
            return Some(
                "is owed on_writable, and has a queue that is down to its low mark and room for what was refused",
            );
        }
        let may_read = !self.marks.has_any(HELD) && (is_low || rules.reads_on);
        if may_read && self.inbox.is_empty() && !self.marks.has_any(Marks::of(&[Mark::Receiving, Mark::PeerFinished])) {
            return Some("is not read, and neither its handler nor its queue nor memory nor a job is in the way");
        }
        None
    }
}
