//! Time in the life of a connection: how long it may be silent, how slow its peer may be, and when it waits for something that
//! is not up to its peer.
//!
//! Nothing here costs a timer for each message. What happens leaves the time at which it happened, and one timer for each
//! connection looks at that now and then ([`Machine::next_look`]): at the earliest moment at which anything can be due, counting as if
//! what doesn't run now began at once. So it never has to be moved when something begins that runs shorter than what ran before.

use std::io;

use super::flow::MinProgress;
use super::machine::{Life, Machine};
use super::marks::{Mark, Marks};
use super::{CloseReason, Flow, Pools};
use crate::engine::CloseMode;
use crate::time::Time;

/// What happened, as far as time goes by it.
impl Machine {
    /// Something waits to be sent, and nothing did before.
    #[inline(always)]
    pub(super) fn begin_to_wait(&mut self, now: Time) {
        self.progressed = now;
        self.paced = now;
        self.taken_bytes = 0;
    }

    /// The system took `bytes` of a send; `whole`: everything that it was given.
    #[inline(always)]
    pub(super) fn took(&mut self, bytes: usize, whole: bool, now: Time, flow: &Flow) {
        if bytes == 0 {
            return;
        }
        self.progressed = now;
        self.active = now;
        self.marks.set(Mark::Spoke, true);
        self.marks.set(Mark::SendShort, false);
        self.taken_bytes = self.taken_bytes.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        // A peer that has taken all there was keeps up, however little that was.
        let keeps_up = whole && self.marks.has(Mark::OffersAll);
        let enough = |progress: MinProgress| u64::from(self.taken_bytes) >= progress.bytes.min(u32::MAX.into());
        if keeps_up || flow.min_send_progress.is_none_or(enough) {
            self.paced = now;
            self.taken_bytes = 0;
        }
    }

    /// The peer sent `bytes`.
    #[inline(always)]
    pub(super) fn heard(&mut self, bytes: usize, now: Time, flow: &Flow) {
        self.active = now;
        self.marks.set(Mark::Spoke, true);
        self.marks.set(Mark::ReceiveShort, false);
        if let Some(rate) = flow.min_receive_rate {
            self.count_received(bytes, now, rate);
        }
    }

    fn count_received(&mut self, bytes: usize, now: Time, rate: MinProgress) {
        self.counted_bytes += bytes as u64;
        let begins = self.term == Time::MAX;
        if begins || self.counted_bytes >= rate.bytes {
            // Some data still comes after a pause was asked for: nothing of the next period has passed then.
            self.term = if self.marks.has(Mark::Receiving) { now } else { Time::ZERO };
            self.counted_bytes = 0;
        }
        if begins {
            self.marks.set(Mark::Rearm, true);
        }
    }

    /// The engine is asked for data, or not any more.
    pub(super) fn set_receiving(&mut self, receives: bool, now: Time) {
        if self.marks.has(Mark::Receiving) == receives {
            return;
        }
        self.marks.set(Mark::Receiving, receives);
        if self.life == Life::Open && self.term != Time::MAX {
            // The clock of `min_receive_rate` stands still in between: what had passed is what is left out when it goes on.
            self.term = Time::ZERO + now.saturating_since(self.term);
            if receives {
                self.marks.set(Mark::Rearm, true);
            }
        }
    }

    /// The life goes on as `life`, until `end` at the latest.
    pub(super) fn outlive(&mut self, life: Life, end: Time) {
        if self.life == Life::Open {
            self.counted_bytes = 0;
            self.marks.set(Mark::FILTERS_BUSY, false);
        }
        self.life = life;
        self.term = end;
        self.marks.set(Mark::Rearm, true);
    }
}

/// Turns to send.
impl Machine {
    /// What makes the way to a send longer than a look at the turns.
    const HINDERED: Marks = Marks::of(&[Mark::WaitsToSend, Mark::Turn, Mark::PaceHeld, Mark::SendShort]);

    /// Whether a send may begin now; if so, it must.
    #[inline(always)]
    pub(super) fn may_send(&mut self, now: Time, pools: &mut Pools) -> bool {
        !self.marks.has_any(Self::HINDERED) && pools.sends.begin() || self.may_send_after_all(now, pools)
    }

    #[cold]
    #[inline(never)]
    fn may_send_after_all(&mut self, now: Time, pools: &mut Pools) -> bool {
        if self.marks.has(Mark::SystemShort) && self.marks.has(Mark::SendShort) {
            self.hold_pace(now);
            return false;
        }
        if self.marks.has(Mark::Turn) {
            self.marks.set(Mark::Turn, false);
            pools.sends.take();
        } else if self.marks.has(Mark::WaitsToSend) {
            return false;
        } else if !pools.sends.begin() {
            self.marks.set(Mark::WaitsToSend, true);
            pools.sends.wait();
            self.hold_pace(now);
            return false;
        }
        self.release_pace(now);
        true
    }

    /// It is this connection's turn to send.
    pub(crate) fn turn_to_send(&mut self, pools: &mut Pools) {
        debug_assert!(self.waits_to_send(), "a turn for a connection that doesn't wait");
        self.marks.set(Mark::WaitsToSend, false);
        self.marks.set(Mark::Turn, true);
        pools.sends.give();
    }

    /// Whether it waits in line for its turn to send.
    pub(crate) fn waits_to_send(&self) -> bool {
        self.marks.has(Mark::WaitsToSend)
    }

    /// It will not send any more.
    pub(super) fn leave_the_line(&mut self, pools: &mut Pools) {
        if self.marks.has(Mark::WaitsToSend) {
            pools.sends.leave();
        }
        if self.marks.has(Mark::Turn) {
            pools.sends.give_back();
        }
        self.marks.clear(Marks::of(&[Mark::WaitsToSend, Mark::Turn]));
    }

    /// From now on it is not up to the peer that nothing is sent.
    pub(super) fn hold_pace(&mut self, now: Time) {
        if !self.marks.has(Mark::PaceHeld) {
            self.marks.set(Mark::PaceHeld, true);
            self.paced = Time::ZERO + now.saturating_since(self.paced);
        }
    }

    /// From now on it is again: the period goes on where it was.
    pub(super) fn release_pace(&mut self, now: Time) {
        if self.marks.has(Mark::PaceHeld) {
            self.marks.set(Mark::PaceHeld, false);
            self.paced = Time::ZERO + now.saturating_since(self.paced);
            // A part of the period has passed already, so it may end before the timer that was set meanwhile.
            self.marks.set(Mark::Rearm, true);
        }
    }
}

/// A system without memory.
impl Machine {
    /// What was short, the last time that it was tried.
    const SHORT: Marks = Marks::of(&[Mark::SendShort, Mark::ReceiveShort]);

    /// Whether a failure is one that passes, and nothing of the connection is lost by waiting.
    pub(super) fn outlasts(&self, error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::OutOfMemory && !matches!(self.life, Life::Closing(_) | Life::Closed)
    }

    #[cold]
    #[inline(never)]
    pub(super) fn send_again_later(&mut self) {
        self.run_short(Mark::SendShort);
    }

    #[cold]
    #[inline(never)]
    pub(super) fn receive_again_later(&mut self, now: Time) {
        self.set_receiving(false, now);
        self.marks.set(Mark::Discarding, false);
        self.run_short(Mark::ReceiveShort);
    }

    fn run_short(&mut self, what: Mark) {
        if !self.marks.has_any(Self::SHORT) {
            self.marks.set(Mark::ShortageBegins, true);
        }
        self.marks.set(what, true);
        self.marks.set(Mark::SystemShort, true);
    }

    /// Whether the system was out of memory, so that [`try_system_again`](Self::try_system_again) must follow; then, whether what was
    /// tried before had gone well.
    pub(crate) fn shortage(&mut self) -> Option<bool> {
        let begins = self.marks.has(Mark::ShortageBegins);
        self.marks.set(Mark::ShortageBegins, false);
        self.marks.has(Mark::SystemShort).then_some(begins)
    }

    /// What found the system out of memory may be tried again.
    pub(crate) fn try_system_again(&mut self) {
        self.marks.set(Mark::SystemShort, false);
    }
}

/// The timer.
impl Machine {
    /// What the I/O thread has to look at after the last step.
    const WANTS: Marks = Marks::of(&[
        Mark::Rearm,
        Mark::WaitsForMemory,
        Mark::WaitsToSend,
        Mark::SystemShort,
        Mark::Offloading,
        Mark::Filtered,
    ]);

    /// Whether the I/O thread has to see to anything besides the steps: the timer, a line, a shortage.
    #[inline(always)]
    pub(crate) fn wants_attention(&self) -> bool {
        self.marks.has_any(Self::WANTS)
    }

    /// Whether the timer has to be set anew, to [`next_look`](Self::next_look). Says so once.
    pub(crate) fn wants_rearming(&mut self) -> bool {
        let wants = self.marks.has(Mark::Rearm);
        self.marks.set(Mark::Rearm, false);
        wants
    }

    /// When the present state of life must end; [`Time::MAX`]: never.
    pub(crate) fn deadline(&self) -> Time {
        match self.life {
            Life::Draining | Life::Lingering => self.term,
            Life::Open | Life::Closing(_) | Life::Closed => Time::MAX,
        }
    }

    /// When [`time_passed`](Self::time_passed) is to be called next; [`Time::MAX`]: not before something asks for it.
    pub(crate) fn next_look(&self, now: Time, pools: &Pools) -> Time {
        let flow = &pools.flow;
        let mut next = self.deadline();
        if let (Life::Open | Life::Draining, Some(progress)) = (self.life, flow.min_send_progress) {
            // What was taken from the handler and has not been handed over yet waits already.
            let recorded = self.unsent.is_some() || !self.queue.is_empty();
            // What filters keep back doesn't wait for the peer, and a time that has passed already must not be looked for again and again.
            let held = Marks::of(&[Mark::PaceHeld, Mark::Filtered]);
            let waits = self.marks.has(Mark::Sending) || recorded && !self.marks.has_any(held);
            let since = if waits { self.paced } else { now };
            next = next.min(since + progress.within);
        }
        if self.life != Life::Open {
            return next;
        }
        if let (false, Some(timeout)) = (self.marks.has(Mark::Spoke), flow.first_byte_timeout) {
            next = next.min(self.active + timeout);
        }
        if let Some(timeout) = flow.idle_timeout {
            let since = if self.is_idle() { self.active } else { now };
            next = next.min(since + timeout);
        }
        if let (true, Some(rate)) = (self.is_paced_in(), flow.min_receive_rate) {
            next = next.min(self.term + rate.within);
        }
        if self.marks.has(Mark::QueueWatched) {
            next = next.min(self.next_look_at_queue(now, pools));
        }
        next
    }

    /// Whether the clock of `min_receive_rate` runs.
    pub(super) fn is_paced_in(&self) -> bool {
        self.life == Life::Open && self.marks.has(Mark::Receiving) && self.term != Time::MAX
    }

    /// Some time has passed: ends what is due. Harmless at any time. `unread` says how many bytes the system holds for the
    /// connection that the server has not read.
    #[cold]
    #[inline(never)]
    pub(crate) fn time_passed(&mut self, now: Time, unread: impl FnOnce() -> usize, pools: &mut Pools) {
        self.marks.set(Mark::Rearm, true);
        if now >= self.deadline() {
            return self.outlived(pools);
        }
        self.judge_sending(now, pools);
        if self.life == Life::Open {
            self.judge_queue(now, pools);
        }
        if self.life == Life::Open {
            self.judge_silence(now, pools);
        }
        if self.life == Life::Open {
            self.judge_receiving(now, unread, pools);
        }
    }

    fn outlived(&mut self, pools: &mut Pools) {
        if self.life == Life::Draining {
            // What was promised to be sent is lost: that is worth more than the reason why it was closed.
            self.reason = Some(CloseReason::CloseTimeout);
            self.end(CloseReason::CloseTimeout, CloseMode::Abort, pools);
        } else {
            self.end(CloseReason::Finished, CloseMode::Orderly, pools);
        }
    }

    fn judge_sending(&mut self, now: Time, pools: &mut Pools) {
        let Some(progress) = pools.flow.min_send_progress else { return };
        let counts = matches!(self.life, Life::Open | Life::Draining) && self.marks.has(Mark::Sending);
        if counts && now >= self.paced + progress.within {
            // As with a close that takes too long: what is lost is worth more than who closed.
            self.reason = Some(CloseReason::SendTooSlow);
            self.end(CloseReason::SendTooSlow, CloseMode::Abort, pools);
        }
    }

    fn judge_silence(&mut self, now: Time, pools: &mut Pools) {
        if self.marks.has(Mark::WaitsForMemory) {
            // Its silence is the server's doing.
            self.active = now;
            return;
        }
        let (first_byte, idle) = (pools.flow.first_byte_timeout, pools.flow.idle_timeout);
        let spoke = self.marks.has(Mark::Spoke);
        if !spoke && first_byte.is_some_and(|timeout| now >= self.active + timeout) {
            self.close(CloseReason::FirstByteTimeout, now, pools);
        } else if self.is_idle() {
            if idle.is_some_and(|timeout| now >= self.active + timeout) {
                self.close(CloseReason::IdleTimeout, now, pools);
            }
        } else if spoke {
            // Busy at this moment: it can't have been idle since before.
            self.active = now;
        }
    }

    fn judge_receiving(&mut self, now: Time, unread: impl FnOnce() -> usize, pools: &mut Pools) {
        let Some(rate) = pools.flow.min_receive_rate else { return };
        if !self.is_paced_in() || now < self.term + rate.within {
            return;
        }
        if unread() > 0 {
            // It has sent: that we have not read it is not its fault.
            self.term = now;
            self.counted_bytes = 0;
        } else {
            self.close(CloseReason::ReceiveTooSlow, now, pools);
        }
    }
}
