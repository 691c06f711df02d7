//! The engine, which keeps its contract and no more than that, and everybody else.

use std::io;
use std::time::Duration;

use super::*;

impl World {
    pub(super) fn input(&mut self, input: &Input) {
        let closed = self.closed.is_some();
        match input {
            Input::Sent(_) | Input::SendFailed(_) | Input::OthersTake(_) | Input::OthersGive => {}
            Input::OthersSend | Input::TurnMoves => {}
            _ if closed => return,
            _ => {}
        }
        match *input {
            Input::Received(bytes) => self.receive(bytes),
            Input::ReceivePaused => {
                if let Receive::Pausing(_) = self.receive {
                    self.receive = Receive::Off;
                }
            }
            Input::PeerFinished => {
                if matches!(self.receive, Receive::On | Receive::Discarding) {
                    self.stop_rate();
                    self.receive = Receive::Over;
                    self.peer_finished = true;
                    self.machine.peer_finished(&mut self.pools);
                }
            }
            Input::ReceiveFailed(kind) => {
                if matches!(self.receive, Receive::On | Receive::Discarding) {
                    self.stop_rate();
                    self.receive = Receive::Over;
                    self.note_cause(CloseReason::from_error(&kind.into()));
                    self.machine.receive_failed(&kind.into(), self.now, &mut self.pools);
                }
            }
            Input::Discarded(bytes) => {
                if self.receive == Receive::Discarding {
                    self.machine.discarded(bytes, &mut self.pools);
                }
            }
            Input::Sent(hundredths) => self.sent(hundredths),
            Input::SendFailed(kind) => {
                if let Some(gather) = self.in_flight.take() {
                    if !closed {
                        self.note_cause(CloseReason::from_error(&kind.into()));
                    }
                    self.machine.sent(gather, Err(kind.into()), self.now, &mut self.pools);
                    self.begun.clear();
                    self.forget_queued();
                }
            }
            Input::WriteShut(failure) => {
                if std::mem::take(&mut self.shutting) {
                    match failure {
                        None => self.shut = true,
                        Some(io::ErrorKind::NotConnected) => self.note_cause(CloseReason::Reset),
                        Some(kind) => self.note_cause(CloseReason::from_error(&kind.into())),
                    }
                    let result = failure.map_or(Ok(()), |kind| Err(kind.into()));
                    self.machine.write_shut(result, self.now, &mut self.pools);
                }
            }
            Input::Handler(ref actions) => {
                if self.machine.is_open() {
                    self.act(actions, &mut 0);
                }
            }
            Input::CloseByHandle => self.close(CloseReason::ClosedByHandle),
            Input::AbortByHandle => self.abort(CloseReason::AbortedByHandle),
            Input::Wait(milliseconds) => self.wait(Duration::from_millis(milliseconds)),
            Input::OthersTake(bytes) => {
                if self.pools.lease.charge(bytes).is_ok() {
                    self.others_bytes += bytes;
                }
            }
            Input::OthersGive => self.pools.lease.refund(std::mem::take(&mut self.others_bytes)),
            Input::SendShort => {
                if let Some(gather) = self.in_flight.take() {
                    self.short |= !self.is_over();
                    self.machine.sent(gather, Err(io::ErrorKind::OutOfMemory.into()), self.now, &mut self.pools);
                    if self.is_over() {
                        self.forget_queued();
                    }
                }
            }
            Input::ReceiveShort => {
                if matches!(self.receive, Receive::On | Receive::Discarding) {
                    self.stop_rate();
                    self.receive = Receive::Off;
                    self.short |= !self.is_over();
                    self.machine.receive_failed(&io::ErrorKind::OutOfMemory.into(), self.now, &mut self.pools);
                }
            }
            Input::SystemAgain => {
                assert!(self.is_over() || self.machine.shortage().is_some() == self.short);
                self.short = false;
                self.machine.try_system_again();
            }
            Input::OthersSend => self.others_sends += u32::from(self.pools.sends.begin()),
            Input::TurnMoves => {
                if self.others_sends > 0 {
                    self.others_sends -= 1;
                    self.pools.sends.end();
                }
                if self.machine.waits_to_send() && self.pools.sends.has_room() {
                    self.machine.turn_to_send(&mut self.pools);
                }
            }
            Input::MemoryTurn => {
                if self.machine.waits_for_memory() && self.pools.can_charge_reply() {
                    self.machine.memory_is_back();
                }
            }
        }
    }

    pub(super) fn receive(&mut self, bytes: usize) {
        let allowed = match &mut self.receive {
            Receive::On => true,
            Receive::Pausing(late) => {
                let allowed = *late > 0;
                *late = late.saturating_sub(1);
                allowed
            }
            Receive::Off | Receive::Discarding | Receive::Over => false,
        };
        if !allowed || self.pools.arena.free() == 0 {
            return;
        }
        let buffer = filled(&self.pools, &pattern(self.received, bytes));
        self.received += bytes;
        self.account_heard(bytes);
        if let Some(delivery) = self.machine.received(buffer, OWNER, self.now, &mut self.pools) {
            self.deliver(delivery);
        }
    }

    pub(super) fn sent(&mut self, hundredths: usize) {
        let Some(gather) = self.in_flight.take() else { return };
        let offered: usize = gather.slices().map(<[u8]>::len).sum();
        let mut bytes = (offered * hundredths.clamp(1, 100)).div_ceil(100);
        let taken = self.machine.sent(gather, Ok(bytes), self.now, &mut self.pools);
        assert_eq!(taken, bytes);
        self.on_wire += bytes;
        while let Some(first) = self.begun.front() {
            let left = first.bytes - self.on_wire_of_first;
            if bytes < left {
                self.on_wire_of_first += bytes;
                break;
            }
            bytes -= left;
            self.on_wire_of_first = 0;
            self.begun.pop_front();
        }
        if self.closed.is_some() {
            self.begun.clear();
        }
        self.account_taken(taken);
        self.callback(None);
    }

    pub(super) fn wait(&mut self, duration: Duration) {
        // As an I/O thread does it: one timer, set when the machine asks for it and when it has fired.
        if self.machine.wants_rearming() {
            self.armed = self.machine.next_look(self.now, &self.pools);
        }
        self.now = self.now + duration;
        let before = self.machine.reason;
        let overdue = self.overdue();
        if self.now < self.armed {
            return assert!(overdue.is_empty(), "{overdue:?} is due, and the timer is set to {}", self.armed);
        }
        self.account_look();
        self.machine.time_passed(self.now, || 0, &mut self.pools);
        let told = self.machine.reason.filter(|&reason| before != Some(reason));
        if self.machine.is_open() {
            assert_eq!(told, None);
        }
        if let Some(reason) = told {
            assert!(overdue.contains(&reason), "ended as {reason}, but what is due is {overdue:?}");
            self.cause = Some(reason);
            self.closing = true;
            if self.is_over() {
                self.forget_queued();
            }
        } else {
            let ends = |reason: &CloseReason| Some(*reason) != before;
            assert!(!overdue.iter().any(ends), "{overdue:?} is due and nothing has ended");
        }
    }

    pub(super) fn flush(&mut self) {
        self.steps = 0;
        loop {
            self.lower_mark();
            let is_quiet = self.machine.is_quiet();
            let Some(step) = self.machine.next_step(OWNER, self.now, &mut self.pools) else { break };
            assert!(!is_quiet, "{step:?} of a connection that said there is nothing to do");
            assert!(self.closed.is_none(), "{step:?} after the close");
            self.steps += 1;
            assert!(self.steps < 500, "steps without end, the last is {step:?}");
            self.follow(step);
            self.check();
        }
        if self.in_flight.is_none() && self.is_sendable() && self.pace_held.is_none() {
            self.pace_held = Some(self.now.saturating_since(self.paced));
        }
        self.check_at_rest();
    }

    pub(super) fn follow(&mut self, step: Step) {
        match step {
            Step::Established | Step::FilterFailed(_) => panic!("{step:?} of a connection without filters"),
            Step::Deliver(delivery) => self.deliver(delivery),
            Step::PeerShutdown => {
                assert!(self.peer_finished && !self.peer_shutdown_told && !self.paused);
                assert_eq!(self.delivered, self.received, "the end is told before everything was delivered");
                self.assert_served();
                self.peer_shutdown_told = true;
                self.callback(None);
            }
            Step::Writable => {
                assert!(self.owes_writable && !self.over_mark && self.has_room(), "nothing to say");
                assert!(!self.told_after_send, "told at once of the room that it has made itself");
                self.assert_served();
                self.owes_writable = false;
                self.refusing_since = None;
                self.callback_writable();
            }
            Step::Send(gather) => {
                assert!(self.in_flight.is_none(), "two sends in flight");
                assert!(!self.shutting && !self.shut, "a send after the half-close");
                let offered = gather.slices().collect::<Vec<_>>().concat();
                assert!(!offered.is_empty() && offered.len() <= Gather::SLICE_BYTES);
                assert!(self.taken[self.on_wire..].starts_with(&offered), "not the next bytes of what was taken");
                let waited = self.queued.len();
                while self.begun.len() < gather.pieces() {
                    let message = self.queued.pop_front().expect("a message that was taken");
                    self.begun.push_back(message);
                }
                self.allowed.0 = self.allowed.0.min(self.queued_bytes().max(self.control.queue_bytes));
                self.allowed.1 = self.allowed.1.min(self.queued.len().max(self.control.queue_messages as usize));
                if self.queued.len() < waited {
                    self.lower_mark();
                    self.note_room();
                }
                assert_eq!(gather.remaining(), self.begun_bytes());
                let last = self.begun.back().expect("a message").bytes;
                // What joined under a wider window stays.
                let is_wide = self.begun.len() > 1 && self.begun_bytes() - last >= self.slice_bytes();
                assert!(!is_wide || self.flow_changed, "more than the window");
                self.in_flight = Some(gather);
                self.told_after_send = false;
                self.offers_all = self.queued.is_empty();
                if let Some(passed) = self.pace_held.take() {
                    self.paced = Time::ZERO + self.now.saturating_since(Time::ZERO + passed);
                }
            }
            Step::ShutdownWrite => {
                assert!(!self.shutting && !self.shut, "a second half-close");
                assert!(self.shutdown_called || self.closing, "nobody asked for a half-close");
                assert!(self.in_flight.is_none() && self.queued.is_empty() && self.begun.is_empty());
                assert_eq!(self.on_wire, self.taken.len(), "a half-close before everything was sent");
                self.shutting = true;
            }
            Step::Receive => {
                assert!(matches!(self.receive, Receive::Off | Receive::Pausing(_)), "{:?}", self.receive);
                self.receive = Receive::On;
                self.rate_runs_since = Some(self.now);
            }
            Step::PauseReceive => {
                assert_eq!(self.receive, Receive::On);
                self.stop_rate();
                self.receive = Receive::Pausing(3);
            }
            Step::Discard => {
                assert!(!matches!(self.receive, Receive::Discarding | Receive::Over), "{:?}", self.receive);
                assert!(self.closing, "what comes is thrown away and nobody closed");
                self.receive = Receive::Discarding;
            }
            Step::Close(mode) => {
                if mode == CloseMode::Orderly {
                    assert!(self.shut, "closed in order before the half-close");
                    assert_eq!(self.on_wire, self.taken.len(), "closed in order before everything was sent");
                }
                self.closed = Some(mode);
                self.forget_queued();
            }
        }
    }
}
