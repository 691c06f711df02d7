//! The handler, which does whatever its script says.

use bytes::Bytes;

use super::*;

impl World {
    pub(super) fn deliver(&mut self, delivery: Delivery) {
        let Delivery { buffer, mut credit_bytes } = delivery;
        self.assert_served();
        assert!(!self.paused && !self.over_mark, "data for a handler that is paused");
        assert!(!buffer.is_empty() && self.delivered + buffer.len() <= self.received);
        assert_eq!(&buffer[..], pattern(self.delivered, buffer.len()), "not the next bytes that were received");
        self.delivered += buffer.len();
        let copy_bytes = if buffer.is_arena() { 0 } else { buffer.len() };
        self.callback(Some((Held { buffer, copy_bytes }, &mut credit_bytes)));
        self.machine.end_delivery(credit_bytes, &mut self.pools);
    }

    pub(super) fn callback(&mut self, data: Option<(Held, &mut usize)>) {
        if !self.machine.is_open() {
            return;
        }
        let script = match self.script.len() {
            0 => Callback { data: WithData::Drop, actions: Vec::new() },
            length => self.script[self.turn % length].clone(),
        };
        self.turn += 1;
        let Some((held, credit_bytes)) = data else { return self.act(&script.actions, &mut 0) };
        self.with_data(script.data, held, credit_bytes);
        self.act(&script.actions, credit_bytes);
    }

    pub(super) fn callback_writable(&mut self) {
        if let Some((payload, copy_bytes)) = self.refused.pop_front() {
            self.send(payload, copy_bytes, &mut 0);
        }
        self.callback(None);
    }

    pub(super) fn with_data(&mut self, with_data: WithData, mut held: Held, credit_bytes: &mut usize) {
        // Any answer of the promised size is taken, and so is the buffer itself, whatever its size.
        let is_copy = matches!(with_data, WithData::EchoCopy);
        let refusable = self.shutdown_called || is_copy && held.buffer.len() > self.pools.flow.reply_bytes;
        let taken = match with_data {
            WithData::Hold => {
                self.held.push(held);
                true
            }
            WithData::Drop => true,
            WithData::Echo => self.send(held.buffer.into(), held.copy_bytes, credit_bytes),
            WithData::EchoCopy => self.send(Payload::copy_from(&held.buffer), 0, credit_bytes),
            WithData::EchoWithoutFirstByte => {
                held.buffer.advance(1);
                self.send(held.buffer.into(), held.copy_bytes, credit_bytes)
            }
        };
        assert!(taken || refusable, "a handler that answers with what it was given was refused");
    }

    pub(super) fn act(&mut self, actions: &[Action], credit_bytes: &mut usize) {
        for action in actions {
            match *action {
                Action::Send { kind, bytes } => {
                    self.attempts = self.attempts.wrapping_add(1);
                    let payload = match kind {
                        Kind::Static => Payload::from(&STATIC_BYTES[..bytes]),
                        Kind::Shared => Payload::from(Bytes::from(vec![self.attempts; bytes])),
                        Kind::Owned(spare) => {
                            let mut owned = Vec::with_capacity(bytes + spare);
                            owned.resize(bytes, self.attempts);
                            Payload::from(owned)
                        }
                    };
                    self.send(payload, 0, credit_bytes);
                }
                Action::SendHeld(which) => {
                    if !self.held.is_empty() {
                        let held = self.held.swap_remove(which % self.held.len());
                        self.send(held.buffer.into(), held.copy_bytes, credit_bytes);
                    }
                }
                Action::DropHeld(which) => {
                    if !self.held.is_empty() {
                        self.held.swap_remove(which % self.held.len());
                    }
                }
                Action::Shutdown => {
                    self.shutdown_called = true;
                    self.machine.shutdown();
                }
                Action::Close => self.close(CloseReason::ClosedByHandler),
                Action::Abort => self.abort(CloseReason::AbortedByHandler),
                Action::PauseRead => {
                    self.paused = true;
                    self.machine.pause_read();
                }
                Action::ResumeRead => {
                    self.paused = false;
                    self.machine.resume_read();
                }
            }
        }
    }

    /// Sends, and holds the machine to its answer. Says whether the message was taken.
    pub(super) fn send(&mut self, payload: Payload, copy_bytes: usize, credit_bytes: &mut usize) -> bool {
        let content = payload.as_slice().to_vec();
        let held_bytes = payload.held_bytes();
        let charge_bytes = payload.charge_bytes() + MESSAGE_OVERHEAD_BYTES;
        let flow = self.pools.flow.clone();
        let (queued_bytes, queued_messages) = (self.queued_bytes(), self.queued.len() as u32);
        let sends = self.machine.is_open() && !self.shutdown_called;
        let capacity_bytes = self.pools.lease.total() + flow.floor_bytes;
        let too_large = held_bytes > flow.queue_bytes || charge_bytes > capacity_bytes;
        let full = queued_bytes + held_bytes > flow.queue_bytes || queued_messages >= flow.queue_messages;
        match self.machine.send(payload, credit_bytes, self.now, &mut self.pools) {
            Ok(sent) => {
                assert!(sends, "taken after the end of sending");
                if !content.is_empty() {
                    assert!(!too_large && !full, "taken above the limits");
                    self.taken.extend_from_slice(&content);
                    let message = Message { bytes: content.len(), held_bytes, charge_bytes, copy_bytes };
                    if self.in_flight.is_none() && self.queued.is_empty() && self.begun.is_empty() {
                        self.account_wait();
                    }
                    if self.goes_out_next() {
                        self.begun.push_back(message);
                    } else {
                        self.queued.push_back(message);
                    }
                    let over_bytes = self.queued_bytes() > flow.high_mark_bytes;
                    if over_bytes || self.queued.len() as u32 > flow.high_mark_messages() {
                        self.over_mark = true;
                        self.owe_writable(0);
                    }
                }
                assert_eq!(sent, if self.over_mark { Sent::OverMark } else { Sent::Queued });
                true
            }
            Err(Refused { payload, why }) => {
                assert_eq!(payload.as_slice(), content, "a refused message is given back unchanged");
                match why {
                    Refusal::Closing => assert!(!sends),
                    Refusal::TooLarge { bytes, limit_bytes } => {
                        assert!(sends && too_large && bytes > limit_bytes, "{why}");
                    }
                    Refusal::Full { .. } => {
                        assert!(sends && !too_large && full, "{why}");
                        self.owe_writable(held_bytes);
                    }
                    Refusal::NoMemory { wanted_bytes, free_bytes, total_bytes } => {
                        assert!(sends && !too_large && !full && wanted_bytes > free_bytes, "{why}");
                        assert!(wanted_bytes <= charge_bytes && total_bytes == self.pools.lease.total(), "{why}");
                        assert!(self.machine.waits_for_memory());
                        self.owe_writable(held_bytes);
                    }
                }
                if self.insistent && sends && !too_large && self.refused.is_empty() {
                    self.refused.push_back((payload, copy_bytes));
                }
                false
            }
        }
    }

    pub(super) fn owe_writable(&mut self, wanted_bytes: usize) {
        self.wanted_bytes = if self.owes_writable { self.wanted_bytes.min(wanted_bytes) } else { wanted_bytes };
        self.owes_writable = true;
    }

    pub(super) fn close(&mut self, reason: CloseReason) {
        self.note_cause(reason);
        if self.machine.is_open() {
            self.closing = true;
        }
        self.machine.close(reason, self.now, &mut self.pools);
    }

    pub(super) fn abort(&mut self, reason: CloseReason) {
        self.note_cause(reason);
        self.machine.abort(reason, &mut self.pools);
        self.forget_queued();
    }
}
