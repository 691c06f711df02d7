//! The handler, which does whatever its script says.

use bytes::Bytes;

use super::*;

impl World {
    pub(super) fn deliver(&mut self, delivery: Delivery) {
        let Delivery { buffer, mut credit_bytes } = delivery;
        self.assert_served();
        assert!(!self.paused && !self.is_held_back(), "data for a handler that is paused");
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
        let unpromised = self.control.reads_above_mark || is_copy && held.buffer.len() > self.pools.flow.reply_bytes;
        let refusable = self.shutdown_called || unpromised;
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
                Action::SetFlow(which) => self.set_flow(which),
            }
        }
    }

    /// Sends, and holds the machine to its answer. Says whether the message was taken.
    pub(super) fn send(&mut self, payload: Payload, copy_bytes: usize, credit_bytes: &mut usize) -> bool {
        let content = payload.as_slice().to_vec();
        let held_bytes = payload.held_bytes();
        let charge_bytes = payload.charge_bytes() + MESSAGE_OVERHEAD_BYTES;
        let control = self.control.clone();
        let (queued_bytes, queued_messages) = (self.queued_bytes(), self.queued.len() as u32);
        let sends = self.machine.is_open() && !self.shutdown_called;
        let capacity_bytes = self.pools.lease.total() + self.pools.flow.floor_bytes;
        let too_large = held_bytes > control.queue_bytes || charge_bytes > capacity_bytes;
        let full = queued_bytes + held_bytes > control.queue_bytes || queued_messages >= control.queue_messages;
        let wanted_bytes = charge_bytes - charge_bytes.min(*credit_bytes);
        let (payable, in_the_way) = (self.can_pay(wanted_bytes), self.in_the_way(held_bytes, wanted_bytes));
        let decision = match control.overflow {
            Overflow::DropOldest => Decision::DropOldest,
            Overflow::DropNewest => Decision::DropNewest,
            Overflow::Wait { .. } => Decision::Wait,
            Overflow::Close => {
                if full {
                    Decision::Close
                } else {
                    Decision::Wait
                }
            }
            // Whom nobody asks waits.
            Overflow::Ask(_) => {
                if full {
                    decide(queued_bytes, content.len())
                } else {
                    Decision::Wait
                }
            }
        };
        match self.machine.send(payload, credit_bytes, self.now, &mut self.pools) {
            Ok(sent) => {
                assert!(sends, "taken after the end of sending");
                if content.is_empty() {
                    assert_eq!(sent, if self.over_mark { Sent::OverMark } else { Sent::Queued });
                    return true;
                }
                assert!(!too_large, "taken although it can never fit");
                match sent {
                    Sent::DroppedNew => {
                        let unfit = decision == Decision::DropNewest || in_the_way.is_none();
                        assert!((full || !payable) && unfit, "dropped, and it would have fitted");
                        assert!(matches!(decision, Decision::DropNewest | Decision::DropOldest));
                        if full && decision == Decision::DropNewest {
                            self.owe_writable(held_bytes);
                        }
                        self.note_dropped(content.len());
                        return true;
                    }
                    Sent::EvictedOldest(count) => {
                        assert_eq!(decision, Decision::DropOldest);
                        assert_eq!(in_the_way, Some(count as usize), "not as many as must go");
                        assert!(count > 0);
                        (0..count).for_each(|_| self.evict());
                    }
                    _ => assert!(!full && payable, "taken above the limits"),
                }
                self.taken.extend_from_slice(&content);
                let message = Message { bytes: content.len(), held_bytes, charge_bytes, copy_bytes };
                if self.in_flight.is_none() && self.queued.is_empty() && self.begun.is_empty() {
                    self.account_wait();
                }
                if self.goes_out_next() {
                    self.begun.push_back(message);
                } else {
                    self.queued.push_back(message);
                    self.rise_over_mark();
                }
                if let Sent::EvictedOldest(_) = sent {
                    self.told_after_send = true;
                    self.lower_mark();
                    self.note_room();
                } else {
                    assert_eq!(sent, if self.over_mark { Sent::OverMark } else { Sent::Queued });
                }
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
                        assert!(sends && !too_large && full && decision == Decision::Wait, "{why}");
                        self.owe_writable(held_bytes);
                        self.refusing_since.get_or_insert(self.now);
                    }
                    Refusal::NoMemory { wanted_bytes, free_bytes, total_bytes } => {
                        assert!(sends && !too_large && !full && wanted_bytes > free_bytes, "{why}");
                        assert!(decision == Decision::Wait, "{why}");
                        assert!(wanted_bytes <= charge_bytes && total_bytes == self.pools.lease.total(), "{why}");
                        assert!(self.machine.waits_for_memory());
                        self.owe_writable(held_bytes);
                    }
                    Refusal::SlowConsumer { .. } => {
                        assert!(sends && !too_large && full && decision == Decision::Close, "{why}");
                        self.cause.get_or_insert(CloseReason::SlowConsumer);
                        self.forget_queued();
                        return false;
                    }
                }
                if self.insistent && sends && !too_large && self.refused.is_empty() {
                    self.refused.push_back((payload, copy_bytes));
                }
                false
            }
        }
    }

    /// The oldest message that waits is dropped for another.
    fn evict(&mut self) {
        let message = self.queued.pop_front().expect("a message that waits");
        // What has begun stays, so it is right behind that.
        let begins = self.on_wire + self.begun_bytes();
        self.taken.drain(begins..begins + message.bytes);
        self.note_dropped(message.bytes);
    }

    fn note_dropped(&mut self, bytes: usize) {
        self.dropped_messages += 1;
        self.dropped_bytes += bytes as u64;
    }

    fn set_flow(&mut self, which: usize) {
        let control = self.controls[which % self.controls.len()].clone();
        self.machine.set_flow(control.clone(), self.now, &mut self.pools).expect("it fits together");
        if !self.machine.is_open() {
            return;
        }
        self.flow_changed = true;
        self.told_after_send = !self.queued.is_empty() || self.in_flight.is_none() && !self.begun.is_empty();
        self.allowed =
            (self.queued_bytes().max(control.queue_bytes), self.queued.len().max(control.queue_messages as usize));
        self.control = control;
        if !self.over_mark {
            self.rise_over_mark();
        }
        if !matches!(self.control.overflow, Overflow::Wait { .. } | Overflow::Ask(_)) {
            self.refusing_since = None;
        }
        self.lower_mark();
        self.note_room();
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
