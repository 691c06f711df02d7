//! The account of what must hold, and the end of a run.

use std::io;

use super::*;

/// The account.
impl World {
    pub(super) fn note_cause(&mut self, reason: CloseReason) {
        if self.cause.is_none() {
            // Not open without a cause: both sides had finished.
            self.cause = Some(if self.machine.is_open() { reason } else { CloseReason::Finished });
        }
    }

    /// The connection has ended: what had not begun is gone, and so is what had begun and is not in flight.
    pub(super) fn forget_queued(&mut self) {
        self.queued.clear();
        if self.in_flight.is_none() {
            self.begun.clear();
        }
    }

    /// What a send may have before another message joins it.
    pub(super) fn slice_bytes(&self) -> usize {
        self.control.window_bytes.min(Gather::SLICE_BYTES)
    }

    /// Bytes that the next send has, or the one in flight.
    pub(super) fn begun_bytes(&self) -> usize {
        self.begun.iter().map(|message| message.bytes).sum::<usize>() - self.on_wire_of_first
    }

    /// Whether a message that is taken now goes into the next send without waiting in the queue.
    pub(super) fn goes_out_next(&self) -> bool {
        let joins = self.begun_bytes() < self.slice_bytes() && self.begun.len() < Gather::PIECES;
        self.in_flight.is_none() && self.queued.is_empty() && (self.begun.is_empty() || joins)
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.queued.iter().map(|message| message.held_bytes).sum()
    }

    /// Whether what was refused would be taken, and a reply to a full buffer anyway, as far as the queue can ever hold them.
    pub(super) fn has_room(&self) -> bool {
        let limit_bytes = self.control.queue_bytes;
        let wanted_bytes = self.wanted_bytes.max(self.pools.flow.reply_bytes).min(limit_bytes);
        self.queued_bytes() + wanted_bytes <= limit_bytes && (self.queued.len() as u32) < self.control.queue_messages
    }

    /// Whether what is queued keeps the connection from being read.
    pub(super) fn is_held_back(&self) -> bool {
        self.over_mark && !self.control.reads_on()
    }

    pub(super) fn rise_over_mark(&mut self) {
        let over_bytes = self.queued_bytes() > self.control.high_mark_bytes;
        if over_bytes || self.queued.len() as u32 > self.control.high_mark_messages() {
            if !self.over_mark {
                self.over_since = self.now;
            }
            self.over_mark = true;
            self.owe_writable(0);
        }
    }

    pub(super) fn lower_mark(&mut self) {
        let low_bytes = self.queued_bytes() <= self.control.low_mark_bytes;
        if self.over_mark && low_bytes && self.queued.len() as u32 <= self.control.low_mark_messages() {
            self.over_mark = false;
            self.over_before += self.now.saturating_since(self.over_since);
        }
    }

    /// Messages have left the queue: who is refused has room again, or not.
    pub(super) fn note_room(&mut self) {
        if self.refusing_since.is_some() && self.has_room() {
            self.refusing_since = Some(self.now);
        }
    }

    /// How many of the oldest messages must go so that one fits which takes `held_bytes` and `wanted_bytes` of send memory; `None`: it
    /// doesn't fit even if all of them go.
    pub(super) fn in_the_way(&self, held_bytes: usize, wanted_bytes: usize) -> Option<usize> {
        (0..=self.queued.len()).find(|&count| {
            let left = self.queued.iter().skip(count).map(|message| message.held_bytes).sum::<usize>();
            let freed_bytes: usize = self.queued.iter().take(count).map(|message| message.charge_bytes).sum();
            left + held_bytes <= self.control.queue_bytes
                && self.queued.len() - count < self.control.queue_messages as usize
                && self.can_pay(wanted_bytes.saturating_sub(freed_bytes))
        })
    }

    /// Whether the connection may have `bytes` more of send memory.
    pub(super) fn can_pay(&self, bytes: usize) -> bool {
        let left_of_floor = self.pools.flow.floor_bytes.saturating_sub(self.machine.charged_bytes());
        self.pools.lease.can_charge(bytes.saturating_sub(left_of_floor))
    }

    pub(super) fn assert_served(&self) {
        assert!(self.machine.is_open() && !self.closing, "a callback after the end");
    }

    /// What holds at every moment.
    pub(super) fn check(&self) {
        let flow = &self.pools.flow;
        assert!(self.machine.queued_bytes() <= self.allowed.0);
        if self.machine.is_open() || self.closing && self.closed.is_none() && self.machine.deadline() != Time::MAX {
            assert_eq!(self.machine.queued_bytes(), self.queued_bytes());
            assert!(self.queued.len() <= self.allowed.1);
            self.check_queue_state();
            let messages = || self.queued.iter().chain(&self.begun);
            let charged_bytes: usize = messages().map(|message| message.charge_bytes).sum();
            assert_eq!(self.machine.charged_bytes(), charged_bytes);
            // Besides: the data that waits for the handler, of which only the handler's part is known here.
            let copies_bytes: usize = messages().map(|message| message.copy_bytes).sum();
            let least = charged_bytes.saturating_sub(flow.floor_bytes) + self.held_charge_bytes() + copies_bytes;
            let charged_bytes = self.pools.lease.charged();
            assert!(charged_bytes >= least, "{charged_bytes} bytes charged, at least {least} expected");
            // A connection that closes throws away at once what the handler will never get.
            if self.delivered == self.received || !self.machine.is_open() {
                assert_eq!(charged_bytes, least);
                let waiting = self.pools.messages_waiting();
                assert_eq!(waiting, self.queued.len());
            }
        }
        if let Some(stalled_since) = self.machine.stalled_since() {
            assert!(self.in_flight.is_some() && stalled_since <= self.now);
        }
    }

    /// What anybody may know of the queue is so.
    fn check_queue_state(&self) {
        let state = self.machine.queue_state(self.now, &self.pools);
        let over_mark_for = self.over_mark.then(|| self.now.saturating_since(self.over_since));
        assert_eq!((state.queued_bytes, state.queued_messages as usize), (self.queued_bytes(), self.queued.len()));
        assert_eq!(state.outstanding_bytes, self.begun_bytes());
        assert_eq!((state.limit_bytes, state.limit_messages), (self.control.queue_bytes, self.control.queue_messages));
        assert_eq!((state.dropped_messages, state.dropped_bytes), (self.dropped_messages, self.dropped_bytes));
        if self.machine.is_open() {
            assert_eq!(state.over_mark_for, over_mark_for);
            assert_eq!(state.over_mark, self.over_before + over_mark_for.unwrap_or_default());
            if !self.shutdown_called {
                assert_eq!(state.refusing_for, self.refusing_since.map(|since| self.now.saturating_since(since)));
            }
        }
    }

    pub(super) fn held_charge_bytes(&self) -> usize {
        let held: usize = self.held.iter().map(|held| held.copy_bytes).sum();
        let refused: usize = self.refused.iter().map(|(_, copy_bytes)| copy_bytes).sum();
        held + refused + self.others_bytes
    }

    /// What holds when there is nothing left to do until something happens.
    pub(super) fn check_at_rest(&self) {
        if self.closed.is_some() {
            return;
        }
        let sendable = !self.queued.is_empty() || !self.begun.is_empty();
        let hindered = self.short || self.machine.waits_to_send();
        assert!(!sendable || self.in_flight.is_some() || hindered, "something waits and nothing is in flight");
        if !self.machine.is_open() {
            assert!(self.machine.deadline() != Time::MAX, "it could end never");
            return;
        }
        let waits = self.machine.waits_for_memory();
        let unhindered = !self.paused && !self.is_held_back() && !waits && !self.short;
        let undelivered = self.delivered < self.received;
        assert!(!(unhindered && undelivered), "data waits and nothing holds it");
        if !self.peer_finished {
            assert_eq!(self.receive == Receive::On, unhindered, "reading and reasons to pause");
        } else if !self.paused && !undelivered {
            assert!(self.peer_shutdown_told, "the peer has finished and the handler doesn't know");
        }
        if self.shutdown_called && !sendable {
            assert!(self.shutting || self.shut, "sending is over and the peer doesn't know");
        }
        let room = !self.over_mark && !waits && !self.told_after_send && self.has_room();
        assert!(!(self.owes_writable && room && !self.shutdown_called), "room, and the handler doesn't know");
        assert!(!(self.shut && self.peer_shutdown_told), "both have finished and it lives on");
    }
}

/// The end of a run.
impl World {
    /// Everybody becomes reasonable: memory comes back, the peer takes everything, the handler reads. Then nothing may wait.
    pub(in crate::connection::tests) fn come_to_rest(&mut self) {
        self.flush();
        self.script.clear();
        self.insistent = false;
        self.refused.clear();
        self.held.clear();
        self.input(&Input::OthersGive);
        if self.machine.is_open() {
            self.act(&[Action::ResumeRead], &mut 0);
        }
        let mut turns = 0;
        loop {
            self.flush();
            turns += 1;
            assert!(turns < 10_000, "it never comes to rest");
            if self.in_flight.is_some() {
                self.input(&Input::Sent(100));
            } else if self.short && self.closed.is_none() {
                self.input(&Input::SystemAgain);
            } else if self.machine.waits_to_send() {
                self.input(&Input::TurnMoves);
            } else if self.shutting && self.closed.is_none() {
                self.input(&Input::WriteShut(None));
            } else if self.machine.waits_for_memory() && self.closed.is_none() {
                assert!(self.pools.can_charge_reply(), "all memory is back and it is not enough");
                self.input(&Input::MemoryTurn);
            } else {
                break;
            }
        }
        if self.machine.is_open() {
            assert_eq!(self.on_wire, self.taken.len(), "something was taken and never sent");
            assert_eq!(self.delivered, self.received, "something was received and never delivered");
            assert!(!self.owes_writable || self.shutdown_called, "a refusal was never followed by room");
            assert!(self.peer_shutdown_told || self.receive == Receive::On);
            assert!(self.machine.is_idle());
        }
    }

    /// The connection ends: both finish, or it is closed and its peer does nothing more.
    pub(in crate::connection::tests) fn end(mut self, both_finish: bool) {
        if self.machine.is_open() && both_finish {
            self.act(&[Action::Shutdown], &mut 0);
            self.happen(&Input::PeerFinished, false);
        } else {
            self.close(CloseReason::ClosedByHandle);
        }
        let mut turns = 0;
        while self.closed.is_none() {
            self.flush();
            turns += 1;
            assert!(turns < 100, "it never ends");
            if self.shutting {
                self.input(&Input::WriteShut(None));
            } else if self.machine.deadline() != Time::MAX {
                self.wait(self.machine.deadline().saturating_since(self.now));
            }
        }
        // The engine closes and gives back what it had.
        if self.in_flight.is_some() {
            self.input(&Input::SendFailed(io::ErrorKind::Other));
        }
        assert!(self.machine.next_step(OWNER, self.now, &mut self.pools).is_none(), "a step after the close");
        assert_eq!(self.machine.deadline(), Time::MAX);
        let reason = self.machine.released();
        assert_eq!(reason, self.cause.unwrap_or(CloseReason::Finished), "the first cause is the reason");
        if reason == CloseReason::Finished {
            assert!(self.peer_shutdown_told && self.shut);
        }
        self.held.clear();
        self.refused.clear();
        self.input(&Input::OthersGive);
        assert_eq!(self.machine.charged_bytes(), 0);
        assert_eq!(self.pools.lease.charged(), 0, "send memory that nobody holds");
        assert_eq!(self.pools.messages_waiting(), 0);
        assert_eq!((self.pools.flows.in_use(), self.pools.flows.refusing()), (0, 0), "noted for nobody");
        assert_eq!(self.pools.sends.in_flight(), self.others_sends, "a turn to send that nobody has");
        assert!(self.pools.sends.has_room() || self.others_sends > 0, "a turn was given and not taken");
        assert_eq!(self.pools.arena.free(), self.pools.arena.buffers() as usize, "a buffer is not home");
    }
}
