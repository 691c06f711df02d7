//! The world around one connection: an engine that keeps its contract and no more than that, a handler that does
//! whatever its script says, and an account of everything that must hold after each step.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::engine::CloseMode;

/// What the handler does, in a callback or between two.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Send { kind: Kind, bytes: usize },
    SendHeld(usize),
    DropHeld(usize),
    Shutdown,
    Close,
    Abort,
    PauseRead,
    ResumeRead,
}

/// What a message is made of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Static,
    /// A vector with this much more capacity than length.
    Owned(usize),
    Shared,
}

/// What the handler does with the data it is given.
#[derive(Clone, Copy, Debug)]
pub(super) enum WithData {
    Echo,
    EchoCopy,
    EchoWithoutFirstByte,
    Hold,
    Drop,
}

/// What the handler does in one callback.
#[derive(Clone, Debug)]
pub(super) struct Callback {
    pub(super) data: WithData,
    pub(super) actions: Vec<Action>,
}

/// What happens to the connection. What the engine contract doesn't allow at that moment is skipped.
#[derive(Clone, Debug)]
pub(super) enum Input {
    Received(usize),
    ReceivePaused,
    PeerFinished,
    ReceiveFailed(io::ErrorKind),
    Discarded(usize),
    /// The system took this many hundredths of what it was offered.
    Sent(usize),
    SendFailed(io::ErrorKind),
    WriteShut(Option<io::ErrorKind>),
    /// The handler acts outside of the callbacks of this connection: on a message, on a timer.
    Handler(Vec<Action>),
    CloseByHandle,
    AbortByHandle,
    Wait(u64),
    OthersTake(usize),
    OthersGive,
    /// The line for send memory moves.
    MemoryTurn,
}

/// What the engine has been told about receiving.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Receive {
    Off,
    On,
    /// Paused; so many buffers that were filled before may still come.
    Pausing(u32),
    Discarding,
    /// Finished or failed.
    Over,
}

/// A buffer that the handler has, with what it is charged to send memory as a copy.
struct Held {
    buffer: Buffer,
    copy_bytes: usize,
}

/// A message that was taken and is not sent whole.
#[derive(Clone, Copy)]
struct Message {
    bytes: usize,
    held_bytes: usize,
    charge_bytes: usize,
    copy_bytes: usize,
}

/// See the [module](self).
pub(super) struct World {
    machine: Machine,
    pools: Pools,
    now: Time,

    // The engine.
    receive: Receive,
    in_flight: Option<Box<Gather>>,
    peer_finished: bool,
    shutting: bool,
    shut: bool,
    closed: Option<CloseMode>,

    // The handler.
    script: Vec<Callback>,
    turn: usize,
    /// A refused message is tried again, in `on_writable`, before anything else.
    insistent: bool,
    refused: VecDeque<(Payload, usize)>,
    held: Vec<Held>,
    paused: bool,
    shutdown_called: bool,

    // The account.
    /// All bytes of the messages that were taken.
    taken: Vec<u8>,
    /// How many of them are on the wire.
    on_wire: usize,
    queued: VecDeque<Message>,
    begun: VecDeque<Message>,
    /// How much of the first begun message is on the wire.
    on_wire_of_first: usize,
    over_mark: bool,
    owes_writable: bool,
    wanted_bytes: usize,
    received: usize,
    delivered: usize,
    peer_shutdown_told: bool,
    closing: bool,
    cause: Option<CloseReason>,
    others_bytes: usize,
    attempts: u8,
    steps: usize,
}

/// Input as a peer sends it: the byte at each offset of the stream tells where it belongs.
fn pattern(offset: usize, bytes: usize) -> Vec<u8> {
    (offset..offset + bytes).map(|position| (position % 251) as u8).collect()
}

static STATIC_BYTES: [u8; 160 << 10] = [0xEE; 160 << 10];

impl World {
    pub(super) fn new(buffers: u32, reserve_bytes: usize, flow: Flow, script: Vec<Callback>, insistent: bool) -> Self {
        Self {
            machine: Machine::new(Time::ZERO),
            pools: pools(buffers, reserve_bytes, flow),
            now: Time::ZERO,
            receive: Receive::Off,
            in_flight: None,
            peer_finished: false,
            shutting: false,
            shut: false,
            closed: None,
            script,
            turn: 0,
            insistent,
            refused: VecDeque::new(),
            held: Vec::new(),
            paused: false,
            shutdown_called: false,
            taken: Vec::new(),
            on_wire: 0,
            queued: VecDeque::new(),
            begun: VecDeque::new(),
            on_wire_of_first: 0,
            over_mark: false,
            owes_writable: false,
            wanted_bytes: 0,
            received: 0,
            delivered: 0,
            peer_shutdown_told: false,
            closing: false,
            cause: None,
            others_bytes: 0,
            attempts: 0,
            steps: 0,
        }
    }

    /// One input, and what follows from it unless more comes in the same batch.
    pub(super) fn happen(&mut self, input: &Input, more_in_batch: bool) {
        self.input(input);
        self.check();
        if !more_in_batch {
            self.flush();
        }
    }
}

/// The engine and everybody else.
impl World {
    fn input(&mut self, input: &Input) {
        let closed = self.closed.is_some();
        match input {
            Input::Sent(_) | Input::SendFailed(_) | Input::OthersTake(_) | Input::OthersGive => {}
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
                    self.receive = Receive::Over;
                    self.peer_finished = true;
                    self.machine.peer_finished(&mut self.pools);
                }
            }
            Input::ReceiveFailed(kind) => {
                if matches!(self.receive, Receive::On | Receive::Discarding) {
                    self.receive = Receive::Over;
                    self.note_cause(CloseReason::from_error(&kind.into()));
                    self.machine.receive_failed(&kind.into(), &mut self.pools);
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
            Input::MemoryTurn => {
                if self.machine.waits_for_memory() && self.pools.can_charge_reply() {
                    self.machine.memory_is_back();
                }
            }
        }
    }

    fn receive(&mut self, bytes: usize) {
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
        if let Some(delivery) = self.machine.received(buffer, OWNER, &mut self.pools) {
            self.deliver(delivery);
        }
    }

    fn sent(&mut self, hundredths: usize) {
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
        self.callback(None);
    }

    fn wait(&mut self, duration: Duration) {
        self.now = self.now + duration;
        if self.now >= self.machine.deadline() && self.closing && !self.shut {
            self.cause = Some(CloseReason::CloseTimeout);
        }
        // Also when it is too early: then it does nothing.
        self.machine.deadline_passed(self.now, &mut self.pools);
    }

    fn flush(&mut self) {
        self.steps = 0;
        loop {
            self.lower_mark();
            let is_quiet = self.machine.is_quiet();
            let Some(step) = self.machine.next_step(OWNER, &mut self.pools) else { break };
            assert!(!is_quiet, "{step:?} of a connection that said there is nothing to do");
            assert!(self.closed.is_none(), "{step:?} after the close");
            self.steps += 1;
            assert!(self.steps < 500, "steps without end, the last is {step:?}");
            self.follow(step);
            self.check();
        }
        self.check_at_rest();
    }

    fn follow(&mut self, step: Step) {
        match step {
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
                self.assert_served();
                self.owes_writable = false;
                self.callback_writable();
            }
            Step::Send(gather) => {
                assert!(self.in_flight.is_none(), "two sends in flight");
                assert!(!self.shutting && !self.shut, "a send after the half-close");
                let offered = gather.slices().collect::<Vec<_>>().concat();
                assert!(!offered.is_empty() && offered.len() <= Gather::SLICE_BYTES);
                assert!(self.taken[self.on_wire..].starts_with(&offered), "not the next bytes of what was taken");
                while self.begun.len() < gather.pieces() {
                    let message = self.queued.pop_front().expect("a message that was taken");
                    self.begun.push_back(message);
                }
                assert_eq!(gather.remaining(), self.begun_bytes());
                let last = self.begun.back().expect("a message").bytes;
                assert!(self.begun.len() == 1 || self.begun_bytes() - last < self.slice_bytes());
                self.in_flight = Some(gather);
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
            }
            Step::PauseReceive => {
                assert_eq!(self.receive, Receive::On);
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

/// The handler.
impl World {
    fn deliver(&mut self, delivery: Delivery) {
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

    fn callback(&mut self, data: Option<(Held, &mut usize)>) {
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

    fn callback_writable(&mut self) {
        if let Some((payload, copy_bytes)) = self.refused.pop_front() {
            self.send(payload, copy_bytes, &mut 0);
        }
        self.callback(None);
    }

    fn with_data(&mut self, with_data: WithData, mut held: Held, credit_bytes: &mut usize) {
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

    fn act(&mut self, actions: &[Action], credit_bytes: &mut usize) {
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
    fn send(&mut self, payload: Payload, copy_bytes: usize, credit_bytes: &mut usize) -> bool {
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
                        self.owe_writable(0);
                    }
                }
                if self.insistent && sends && !too_large && self.refused.is_empty() {
                    self.refused.push_back((payload, copy_bytes));
                }
                false
            }
        }
    }

    fn owe_writable(&mut self, wanted_bytes: usize) {
        self.wanted_bytes = if self.owes_writable { self.wanted_bytes.min(wanted_bytes) } else { wanted_bytes };
        self.owes_writable = true;
    }

    fn close(&mut self, reason: CloseReason) {
        self.note_cause(reason);
        if self.machine.is_open() {
            self.closing = true;
        }
        self.machine.close(reason, self.now, &mut self.pools);
    }

    fn abort(&mut self, reason: CloseReason) {
        self.note_cause(reason);
        self.machine.abort(reason, &mut self.pools);
        self.forget_queued();
    }
}

/// The account.
impl World {
    fn note_cause(&mut self, reason: CloseReason) {
        if self.cause.is_none() {
            // Not open without a cause: both sides had finished.
            self.cause = Some(if self.machine.is_open() { reason } else { CloseReason::Finished });
        }
    }

    /// The connection has ended: what had not begun is gone, and so is what had begun and is not in flight.
    fn forget_queued(&mut self) {
        self.queued.clear();
        if self.in_flight.is_none() {
            self.begun.clear();
        }
    }

    /// What a send may have before another message joins it.
    fn slice_bytes(&self) -> usize {
        self.pools.flow.window_bytes.min(Gather::SLICE_BYTES)
    }

    /// Bytes that the next send has, or the one in flight.
    fn begun_bytes(&self) -> usize {
        self.begun.iter().map(|message| message.bytes).sum::<usize>() - self.on_wire_of_first
    }

    /// Whether a message that is taken now goes into the next send without waiting in the queue.
    fn goes_out_next(&self) -> bool {
        let joins = self.begun_bytes() < self.slice_bytes() && self.begun.len() < Gather::PIECES;
        self.in_flight.is_none() && self.queued.is_empty() && (self.begun.is_empty() || joins)
    }

    fn queued_bytes(&self) -> usize {
        self.queued.iter().map(|message| message.held_bytes).sum()
    }

    /// Whether what was refused would be taken, and a reply to a full buffer anyway.
    fn has_room(&self) -> bool {
        let flow = &self.pools.flow;
        self.queued_bytes() + self.wanted_bytes.max(flow.reply_bytes) <= flow.queue_bytes
            && (self.queued.len() as u32) < flow.queue_messages
    }

    fn lower_mark(&mut self) {
        let flow = &self.pools.flow;
        if self.queued_bytes() <= flow.low_mark_bytes && self.queued.len() as u32 <= flow.low_mark_messages() {
            self.over_mark = false;
        }
    }

    fn assert_served(&self) {
        assert!(self.machine.is_open() && !self.closing, "a callback after the end");
    }

    /// What holds at every moment.
    fn check(&self) {
        let flow = &self.pools.flow;
        assert!(self.machine.queued_bytes() <= flow.queue_bytes);
        if self.machine.is_open() || self.closing && self.closed.is_none() && self.machine.deadline() != Time::MAX {
            assert_eq!(self.machine.queued_bytes(), self.queued_bytes());
            assert!(self.queued.len() <= flow.queue_messages as usize);
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

    fn held_charge_bytes(&self) -> usize {
        let held: usize = self.held.iter().map(|held| held.copy_bytes).sum();
        let refused: usize = self.refused.iter().map(|(_, copy_bytes)| copy_bytes).sum();
        held + refused + self.others_bytes
    }

    /// What holds when there is nothing left to do until something happens.
    fn check_at_rest(&self) {
        if self.closed.is_some() {
            return;
        }
        let sendable = !self.queued.is_empty() || !self.begun.is_empty();
        assert!(!sendable || self.in_flight.is_some(), "something waits and nothing is in flight");
        if !self.machine.is_open() {
            assert!(self.machine.deadline() != Time::MAX, "it could end never");
            return;
        }
        let waits = self.machine.waits_for_memory();
        let unhindered = !self.paused && !self.over_mark && !waits;
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
        let room = !self.over_mark && !waits && self.has_room();
        assert!(!(self.owes_writable && room && !self.shutdown_called), "room, and the handler doesn't know");
        assert!(!(self.shut && self.peer_shutdown_told), "both have finished and it lives on");
    }
}

/// The end of a run.
impl World {
    /// Everybody becomes reasonable: memory comes back, the peer takes everything, the handler reads. Then nothing may wait.
    pub(super) fn come_to_rest(&mut self) {
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
    pub(super) fn end(mut self, both_finish: bool) {
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
        assert!(self.machine.next_step(OWNER, &mut self.pools).is_none(), "a step after the close");
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
        assert_eq!(self.pools.arena.free(), self.pools.arena.buffers() as usize, "a buffer is not home");
    }
}
