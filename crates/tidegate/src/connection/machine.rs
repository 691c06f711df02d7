//! The state machine of one connection.

use std::io;

use super::marks::{Mark, Marks};
use super::messages::{List, Pools};
use super::strain::NO_STRAIN;
use super::{CloseReason, FilterFailed, Refusal, Refused, Sent};
use crate::engine::CloseMode;
use crate::memory::{Buffer, Gather, MESSAGE_OVERHEAD_BYTES, Payload, Piece};
use crate::time::Time;

/// Data for the handler, with send memory charged ahead so that a reply is sure to be taken.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// The data.
    pub buffer: Buffer,
    /// What was charged ahead and not used yet; goes back by [`Machine::end_delivery`].
    pub credit_bytes: usize,
}

/// What the I/O thread is to do next for a connection.
#[derive(Debug)]
pub(crate) enum Step {
    /// The filters are established: make the handler.
    Established,
    /// Say that the filters have failed; the connection ends.
    FilterFailed(Box<FilterFailed>),
    /// Call `on_read`.
    Deliver(Delivery),
    /// Call `on_peer_shutdown`.
    PeerShutdown,
    /// Call `on_writable`.
    Writable,
    /// Hand this to the engine.
    Send(Box<Gather>),
    /// Half-close.
    ShutdownWrite,
    /// Ask the engine for data.
    Receive,
    /// Stop asking.
    PauseReceive,
    /// Throw away what comes.
    Discard,
    /// Close; nothing but the engine's last completions comes after it.
    Close(CloseMode),
}

/// How far the life of a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Life {
    /// The handler is served. Either side may have half-closed.
    Open,
    /// Closing: what is queued is sent, what comes is thrown away.
    Draining,
    /// Our side is shut; what comes is thrown away until the peer finishes.
    Lingering,
    /// To be closed as soon as the engine is told; then closed.
    Closing(CloseMode),
    /// The engine was told to close.
    Closed,
}

/// The state of one connection. See the [module](super). What has to do with time is in [`pace`](super::pace).
#[derive(Debug)]
pub(crate) struct Machine {
    pub(super) life: Life,
    pub(super) reason: Option<CloseReason>,
    /// The number of the rules of its queue.
    pub(super) flow: u16,
    pub(super) marks: Marks,
    /// What waits to be sent. Whole messages, never begun.
    pub(super) queue: List,
    /// How many bytes and messages these are. Queues have fewer than 2^32 bytes.
    pub(super) queue_bytes: u32,
    pub(super) queue_messages: u32,
    /// What was received and waits for the handler.
    pub(super) inbox: List,
    /// What is charged to send memory for this connection, the floor included.
    charged_bytes: usize,
    /// While an `on_writable` is owed: the smallest message that was refused because the queue was full, in bytes.
    wanted_bytes: u32,
    /// While a send is with the engine: its bytes.
    in_flight_bytes: u32,
    /// Where the table of slow connections has what is noted of this one, if anything.
    pub(super) strain: u32,
    /// What the system has taken since `paced`, in bytes, or as many as can be counted.
    pub(super) taken_bytes: u32,
    /// What the system has not taken of the last send; goes out first.
    pub(super) unsent: Option<Box<Gather>>,
    /// When the peer last took something, or, if nothing waited then, when something began to wait.
    pub(super) progressed: Time,
    /// When the present period of `min_send_progress` began; while the pace is held, how much of it had passed.
    pub(super) paced: Time,
    /// When a byte last went, either way; before the first, when the connection began.
    pub(super) active: Time,
    /// While open, when the present period of `min_receive_rate` began ([`Time::MAX`]: it hasn't), or, while the server doesn't
    /// ask for data, how much of it had passed. Afterwards, when the present state of life must end.
    pub(super) term: Time,
    /// While open, bytes received in the present period of `min_receive_rate`; afterwards, bytes thrown away.
    pub(super) counted_bytes: u64,
}

impl Machine {
    /// A connection that has just been established, with the rules of the table `table`.
    pub(crate) fn new(now: Time, table: u16) -> Self {
        Self {
            life: Life::Open,
            reason: None,
            flow: table,
            marks: Marks::of(&[Mark::Rearm]),
            queue: List::default(),
            queue_bytes: 0,
            queue_messages: 0,
            inbox: List::default(),
            charged_bytes: 0,
            wanted_bytes: 0,
            in_flight_bytes: 0,
            strain: NO_STRAIN,
            taken_bytes: 0,
            unsent: None,
            progressed: now,
            paced: now,
            active: now,
            term: Time::MAX,
            counted_bytes: 0,
        }
    }
}

/// What the handler wants.
impl Machine {
    /// Takes a message into the queue, or gives it back; the policy of the queue may drop it, or others for it, or close the connection.
    /// What was charged ahead for a reply (`credit_bytes`) is used first.
    pub(crate) fn send(
        &mut self,
        payload: Payload,
        credit_bytes: &mut usize,
        now: Time,
        pools: &mut Pools,
    ) -> Result<Sent, Refused> {
        if self.life != Life::Open || self.marks.has(Mark::ShutdownWanted) {
            return Err(Refused { payload, why: Refusal::Closing });
        }
        if payload.is_empty() {
            return Ok(self.sent_mark());
        }
        let held_bytes = payload.held_bytes();
        let charge_bytes = charge_of(&payload);
        let rules = pools.flows.rules(self.flow);
        let (limit_bytes, limit_messages) = (rules.queue_bytes, rules.queue_messages);
        let memory_bytes = pools.lease.total() + pools.flow.floor_bytes;
        for (bytes, limit_bytes) in [(held_bytes, limit_bytes), (charge_bytes, memory_bytes)] {
            if bytes > limit_bytes {
                return Err(Refused { payload, why: Refusal::TooLarge { bytes, limit_bytes } });
            }
        }
        if self.queued_bytes() + held_bytes > limit_bytes || self.queue_messages >= limit_messages {
            return self.overflow(payload, credit_bytes, now, pools);
        }
        let from_credit = charge_bytes.min(*credit_bytes);
        if let Err(why) = self.charge(charge_bytes - from_credit, pools) {
            return self.run_out_of_memory(payload, why, credit_bytes, now, pools);
        }
        *credit_bytes -= from_credit;
        Ok(self.enqueue(Piece { payload, charge_bytes, held_bytes }, now, pools))
    }

    /// Takes a message that fits and is paid for.
    #[inline(always)]
    pub(super) fn enqueue(&mut self, piece: Piece, now: Time, pools: &mut Pools) -> Sent {
        if self.queue.is_empty() && !self.marks.has_any(Self::QUEUEING) {
            if self.unsent.is_none() {
                self.begin_to_wait(now);
            }
            let window_bytes = pools.flows.rules(self.flow).window_bytes;
            // Nothing is in flight and nothing waits before it: it goes out with the next send, without a turn in the queue.
            let gather = self.unsent.get_or_insert_with(|| pools.gather());
            if gather.is_empty() || gather.has_room_within(window_bytes) {
                gather.push(piece);
                return self.sent_mark();
            }
        }
        self.queue_bytes += piece.held_bytes as u32;
        self.queue_messages += 1;
        pools.messages.push(&mut self.queue, piece);
        let rules = pools.flows.rules(self.flow);
        if self.queued_bytes() > rules.high_mark_bytes || self.queue_messages > rules.high_mark_messages {
            if !self.marks.has(Mark::AboveHigh) {
                self.rise_over_mark(now, pools);
            }
            self.owe_writable(0);
        }
        self.sent_mark()
    }

    /// Finish sending: the peer sees the end of the stream after what is queued.
    pub(crate) fn shutdown(&mut self) {
        self.marks.set(Mark::ShutdownWanted, true);
    }

    /// Stop serving the handler; send what is queued, then end in order.
    pub(crate) fn close(&mut self, reason: CloseReason, now: Time, pools: &mut Pools) {
        if self.life == Life::Open {
            self.reason.get_or_insert(reason);
            self.marks.set(Mark::ShutdownWanted, true);
            self.empty_inbox(pools);
            self.stop_refusing(pools);
            if self.marks.has(Mark::ShutdownDone) {
                // The handler had half-closed before: no end of a half-close will come any more to begin lingering, and the
                // peer may have finished without the handler having been told.
                self.linger(now, pools);
                self.end_if_both_finished(pools);
            } else {
                self.outlive(Life::Draining, now + pools.flow.close_timeout);
            }
        }
    }

    /// End now: what is queued is thrown away and the peer is reset.
    pub(crate) fn abort(&mut self, reason: CloseReason, pools: &mut Pools) {
        self.end(reason, CloseMode::Abort, pools);
    }

    /// The time for draining is over. What has not been sent is lost; a connection that only waits for its peer to finish has lost
    /// nothing and is closed in order.
    pub(crate) fn grace_over(&mut self, pools: &mut Pools) {
        if self.life == Life::Lingering {
            self.end(CloseReason::ShutdownGrace, CloseMode::Orderly, pools);
        } else {
            if self.life == Life::Draining && self.reason == Some(CloseReason::Drained) {
                self.reason = Some(CloseReason::ShutdownGrace);
            }
            self.end(CloseReason::ShutdownGrace, CloseMode::Abort, pools);
        }
    }

    /// No more `on_read` until [`resume_read`](Self::resume_read).
    pub(crate) fn pause_read(&mut self) {
        self.marks.set(Mark::PausedByHandler, true);
    }

    /// The handler doesn't care about sends that have ended.
    pub(crate) fn ignore_sends(&mut self) {
        self.marks.set(Mark::SendsUntold, true);
    }

    /// It does.
    pub(crate) fn heed_sends(&mut self) {
        self.marks.set(Mark::SendsUntold, false);
    }

    /// Read again.
    pub(crate) fn resume_read(&mut self) {
        self.marks.set(Mark::PausedByHandler, false);
    }
}

/// What happened.
impl Machine {
    /// Data came. Returns it if the handler is to have it at once; otherwise it is kept or, when nobody wants it any
    /// more, dropped.
    pub(crate) fn received(&mut self, buffer: Buffer, owner: u32, now: Time, pools: &mut Pools) -> Option<Delivery> {
        if self.life != Life::Open {
            self.discarded(buffer.len(), pools);
            return None;
        }
        self.heard(buffer.len(), now, &pools.flow);
        if self.inbox.is_empty()
            && let Some(credit_bytes) = self.begin_delivery(buffer.len(), pools)
        {
            return Some(Delivery { buffer: fair_share(buffer, owner, 0, pools), credit_bytes });
        }
        // What waits here must leave room for a reply, or nothing that waits could ever be delivered. Nor may it go to
        // the floor, which is for replies.
        let reply_bytes = pools.reply_charge_bytes();
        let buffer = fair_share(buffer, owner, reply_bytes, pools);
        let mut charge_bytes = MESSAGE_OVERHEAD_BYTES;
        if !pools.lease.can_charge(charge_bytes + reply_bytes) || pools.lease.charge(charge_bytes).is_err() {
            // Kept all the same: it is here, and since there is no memory for copies either, there can be about as many
            // such as the arena has buffers.
            charge_bytes = 0;
            pools.pressed |= !pools.arena_has_reserve();
        }
        let held_bytes = buffer.len();
        pools.messages.push(&mut self.inbox, Piece { payload: buffer.into(), charge_bytes, held_bytes });
        None
    }

    /// The handler has returned from `on_read`: what it did not use of the credit goes back.
    pub(crate) fn end_delivery(&mut self, credit_bytes: usize, pools: &mut Pools) {
        self.refund(credit_bytes, pools);
    }

    /// The peer has finished sending.
    pub(crate) fn peer_finished(&mut self, pools: &mut Pools) {
        self.marks.set(Mark::PeerFinished, true);
        self.marks.set(Mark::Receiving, false);
        self.end_if_both_finished(pools);
    }

    /// Receiving failed.
    pub(crate) fn receive_failed(&mut self, error: &io::Error, now: Time, pools: &mut Pools) {
        if self.outlasts(error) {
            return self.receive_again_later(now);
        }
        self.marks.set(Mark::Receiving, false);
        self.end(CloseReason::from_error(error), CloseMode::Abort, pools);
    }

    /// Input was thrown away.
    pub(crate) fn discarded(&mut self, bytes: usize, pools: &mut Pools) {
        if matches!(self.life, Life::Draining | Life::Lingering) {
            self.counted_bytes += bytes as u64;
            self.marks.set(Mark::ReceiveShort, false);
        }
        if self.counted_bytes > pools.flow.linger_bytes && self.life == Life::Lingering {
            // The peer talks on after we have finished: waiting longer would only serve it.
            self.end(CloseReason::Finished, CloseMode::Orderly, pools);
        }
    }

    /// A send ended. Returns how many bytes the system took.
    pub(crate) fn sent(
        &mut self,
        mut gather: Box<Gather>,
        result: io::Result<usize>,
        now: Time,
        pools: &mut Pools,
    ) -> usize {
        debug_assert!(self.marks.has(Mark::Sending) && self.unsent.is_none(), "a send ended that was not begun");
        self.marks.set(Mark::Sending, false);
        pools.sends.end();
        let taken = *result.as_ref().unwrap_or(&0);
        let mut refund = 0;
        gather.advance(taken, |piece| {
            refund += piece.charge_bytes;
            pools.spares.keep(piece.payload);
        });
        match &result {
            Ok(_) => self.took(taken, gather.is_empty(), now, &pools.flow),
            Err(error) if self.outlasts(error) => self.send_again_later(),
            Err(error) => self.end(CloseReason::from_error(error), CloseMode::Abort, pools),
        }
        if matches!(self.life, Life::Closing(_) | Life::Closed) {
            gather.clear(|piece| refund += piece.charge_bytes);
        }
        self.refund(refund, pools);
        if self.charged_bytes + pools.reply_charge_bytes() <= pools.flow.floor_bytes {
            // What was sent has made room in the connection's own floor: no need to stand in line.
            self.marks.set(Mark::WaitsForMemory, false);
        }
        if gather.is_empty() {
            pools.recycle(gather);
        } else {
            self.unsent = Some(gather);
        }
        taken
    }

    /// The half-close was done, or failed.
    pub(crate) fn write_shut(&mut self, result: io::Result<()>, now: Time, pools: &mut Pools) {
        match result {
            Ok(()) => {
                self.marks.set(Mark::ShutdownDone, true);
                if self.life == Life::Draining {
                    self.linger(now, pools);
                }
                self.end_if_both_finished(pools);
            }
            // "Not connected": a reset was here first.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                self.end(CloseReason::Reset, CloseMode::Abort, pools);
            }
            Err(error) => self.end(CloseReason::from_error(&error), CloseMode::Abort, pools),
        }
    }

    /// There is send memory again.
    pub(crate) fn memory_is_back(&mut self) {
        self.marks.set(Mark::WaitsForMemory, false);
    }

    /// The engine has closed the socket: everything must have come back.
    ///
    /// # Panics
    /// In debug builds, if something is still charged.
    pub(crate) fn released(&mut self) -> CloseReason {
        debug_assert_eq!(self.life, Life::Closed, "released before it was closed");
        debug_assert_eq!(self.charged_bytes, 0, "send memory that was not refunded");
        debug_assert!(self.queue.is_empty() && self.inbox.is_empty() && self.unsent.is_none());
        // A connection gets to `Closed` only through `end`, which names the reason.
        self.reason.unwrap_or(CloseReason::Finished)
    }
}

/// What is to be done.
impl Machine {
    /// The next thing to do, recorded as done; `None` when there is nothing until something happens.
    pub(crate) fn next_step(&mut self, owner: u32, now: Time, pools: &mut Pools) -> Option<Step> {
        if self.marks.has(Mark::Filtered) {
            return self.next_filtered_step(owner, now, pools);
        }
        // Only now, and not when the peer's end was handed out: the handler was to be called for it first.
        self.end_if_both_finished(pools);
        match self.life {
            Life::Closed => return None,
            Life::Closing(mode) => {
                self.life = Life::Closed;
                return Some(Step::Close(mode));
            }
            Life::Open => {
                if let Some(step) = self.next_for_handler(owner, pools) {
                    return Some(step);
                }
            }
            Life::Draining | Life::Lingering => {}
        }
        if let Some(gather) = self.next_gather(now, pools) {
            self.marks.set(Mark::Sending, true);
            return Some(Step::Send(gather));
        }
        if self.marks.among(Self::HALF_CLOSING) == Marks::of(&[Mark::ShutdownWanted]) && !self.waits_to_be_sent() {
            self.marks.set(Mark::ShutdownTold, true);
            return Some(Step::ShutdownWrite);
        }
        if self.life == Life::Open {
            let wanted = !self.marks.has(Mark::PeerFinished) && self.inbox.is_empty() && self.may_read();
            if wanted != self.marks.has(Mark::Receiving) && !self.marks.has(Mark::PeerFinished) {
                self.set_receiving(wanted, now);
                return Some(if wanted { Step::Receive } else { Step::PauseReceive });
            }
        } else if !self.marks.has_any(Marks::of(&[Mark::Discarding, Mark::PeerFinished, Mark::SystemShort])) {
            self.marks.set(Mark::Discarding, true);
            return Some(Step::Discard);
        }
        None
    }

    fn next_for_handler(&mut self, owner: u32, pools: &mut Pools) -> Option<Step> {
        if !self.inbox.is_empty()
            && let Some(credit_bytes) = self.begin_kept_delivery(pools)
            && let Some(piece) = pools.messages.pop(&mut self.inbox)
        {
            pools.lease.refund(piece.charge_bytes);
            if let Some(buffer) = piece.payload.into_received() {
                return Some(Step::Deliver(Delivery { buffer: fair_share(buffer, owner, 0, pools), credit_bytes }));
            }
        }
        if self.inbox.is_empty()
            && self.marks.has(Mark::PeerFinished)
            && !self.marks.has(Mark::PeerFinishTold)
            && !self.marks.has_any(Self::AWAITED)
        {
            self.marks.set(Mark::PeerFinishTold, true);
            return Some(Step::PeerShutdown);
        }
        self.next_writable(pools)
    }

    /// Whether to tell the handler that there is room.
    #[inline(always)]
    pub(super) fn next_writable(&mut self, pools: &mut Pools) -> Option<Step> {
        if self.marks.has(Mark::OwesWritable) && !self.marks.has_any(Self::UNTOLD) && self.has_room_for_wanted(pools) {
            // Who has finished sending needs no room for messages, but does for a job.
            let is_told = !self.marks.has(Mark::ShutdownWanted) || self.marks.has(Mark::OffloadRefused);
            self.marks.clear(Marks::of(&[Mark::OwesWritable, Mark::OffloadRefused]));
            self.stop_refusing(pools);
            if is_told {
                return Some(Step::Writable);
            }
        }
        None
    }

    /// What to send next: the rest of the last send, then whole messages while there is room.
    fn next_gather(&mut self, now: Time, pools: &mut Pools) -> Option<Box<Gather>> {
        if self.marks.has(Mark::Sending) || !self.waits_to_be_sent() || !self.may_send(now, pools) {
            return None;
        }
        let mut gather = self.unsent.take().unwrap_or_else(|| pools.gather());
        let (window_bytes, waited_messages) = (pools.flows.rules(self.flow).window_bytes, self.queue_messages);
        while !self.queue.is_empty()
            && (gather.is_empty() || gather.has_room_within(window_bytes))
            && let Some(piece) = pools.messages.pop(&mut self.queue)
        {
            self.queue_bytes -= piece.held_bytes as u32;
            self.queue_messages -= 1;
            gather.push(piece);
        }
        if self.marks.has_any(Self::STRAINED) && self.queue_messages < waited_messages {
            self.after_shrinking(now, pools);
        }
        self.marks.set(Mark::ToldAfterSend, false);
        self.in_flight_bytes = gather.remaining().min(u32::MAX as usize) as u32;
        self.marks.set(Mark::OffersAll, self.queue.is_empty());
        Some(gather)
    }
}

/// What it is like.
impl Machine {
    /// Whether the handler is still served.
    pub(crate) fn is_open(&self) -> bool {
        self.life == Life::Open
    }

    /// Why the connection is ending, if it is.
    pub(crate) fn ending(&self) -> Option<CloseReason> {
        if self.life == Life::Open { None } else { self.reason }
    }

    /// Whether the system has taken all that was sent.
    pub(crate) fn has_sent_all(&self, owner: u32, pools: &Pools) -> bool {
        let nothing_waits = self.queue.is_empty() && self.unsent.is_none() && !self.marks.has(Mark::Sending);
        nothing_waits && (!self.marks.has(Mark::Filtered) || self.filters_have_written(owner, pools))
    }

    /// Whether messages may be dropped that find no room.
    pub(crate) fn drops_messages(&self, pools: &Pools) -> bool {
        pools.flows.rules(self.flow).drops
    }

    /// Whether nothing is queued, in flight, being worked on or received and undelivered.
    pub(crate) fn is_idle(&self) -> bool {
        self.life == Life::Open
            && self.queue.is_empty()
            && self.inbox.is_empty()
            && self.unsent.is_none()
            && !self.marks.has_any(Self::BUSY)
    }

    /// Whether there is certainly no next step: open, nothing to send, nothing owed, nothing kept, receiving.
    pub(crate) fn is_quiet(&self) -> bool {
        self.life == Life::Open
            && self.unsent.is_none()
            && self.queue.is_empty()
            && self.inbox.is_empty()
            && self.marks.among(Self::RESTLESS) == Marks::of(&[Mark::Receiving])
    }

    /// Whether the handler is to be told how much was sent.
    pub(crate) fn is_told_of_sends(&self) -> bool {
        !self.marks.has(Mark::SendsUntold)
    }

    /// One that receives and has no other of these has nothing to do.
    const RESTLESS: Marks = Marks::of(&[
        Mark::Receiving,
        Mark::PausedByHandler,
        Mark::QueueHigh,
        Mark::WaitsForMemory,
        Mark::OwesWritable,
        Mark::PeerFinished,
        Mark::ShutdownWanted,
        Mark::SystemShort,
        Mark::Rearm,
        Mark::OffloadFull,
        Mark::OffloadRefused,
        Mark::WaitsToOffload,
        Mark::Filtered,
    ]);

    /// A message waits in the queue even if that is empty: a send is in flight, or the filters are to pull it.
    const QUEUEING: Marks = Marks::of(&[Mark::Sending, Mark::Filtered]);

    /// What a half-close looks at: that it is wanted, not told yet, and nothing is in flight before it.
    pub(super) const HALF_CLOSING: Marks = Marks::of(&[Mark::ShutdownWanted, Mark::ShutdownTold, Mark::Sending]);

    /// What keeps the handler from being told that there is room.
    const UNTOLD: Marks = Marks::of(&[Mark::AboveHigh, Mark::WaitsForMemory, Mark::ToldAfterSend]);

    /// What keeps a connection from being read.
    const UNREAD: Marks = Marks::of(&[
        Mark::PausedByHandler,
        Mark::QueueHigh,
        Mark::WaitsForMemory,
        Mark::SystemShort,
        Mark::OffloadFull,
        Mark::OffloadRefused,
        Mark::WaitsToOffload,
    ]);

    /// What keeps a connection from being idle.
    const BUSY: Marks =
        Marks::of(&[Mark::Sending, Mark::Offloading, Mark::OffloadRefused, Mark::WaitsToOffload, Mark::FILTERS_BUSY]);

    /// What the peer's end waits for: the handler may have answers to give.
    pub(super) const AWAITED: Marks =
        Marks::of(&[Mark::PausedByHandler, Mark::Offloading, Mark::OffloadRefused, Mark::WaitsToOffload]);

    /// What keeps data from going to the handler as it comes.
    const UNDELIVERED: Marks = Self::UNREAD.with(Mark::Filtered);

    /// Whether it waits in line for send memory.
    pub(crate) fn waits_for_memory(&self) -> bool {
        self.marks.has(Mark::WaitsForMemory) && self.life == Life::Open
    }

    /// Whether closing it would give memory to others: it holds receive buffers, has kept what was received, or is charged beyond
    /// its floor.
    pub(crate) fn holds_common_memory(&self, owner: u32, pools: &Pools) -> bool {
        !self.inbox.is_empty()
            || pools.arena.held_by(owner) > 0
            || self.charged_bytes > pools.flow.floor_bytes
            || self.filters_hold_memory(owner, pools)
    }

    /// If something waits for the peer: since when it has made no progress.
    pub(crate) fn stalled_since(&self) -> Option<Time> {
        (self.marks.has(Mark::Sending) && !matches!(self.life, Life::Closing(_) | Life::Closed))
            .then_some(self.progressed)
    }

    /// Bytes that wait in the send queue, without what is in flight.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queue_bytes as usize
    }

    /// Bytes that have begun: in flight, or first in the next send.
    pub(super) fn outstanding_bytes(&self) -> usize {
        if self.marks.has(Mark::Sending) {
            return self.in_flight_bytes as usize;
        }
        self.unsent.as_ref().map_or(0, |gather| gather.remaining())
    }

    /// What is charged to send memory, in bytes.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn charged_bytes(&self) -> usize {
        self.charged_bytes
    }

    /// Whether something waits, apart from what is in flight.
    pub(super) fn waits_to_be_sent(&self) -> bool {
        self.unsent.is_some() || !self.queue.is_empty()
    }

    fn sent_mark(&self) -> Sent {
        if self.marks.has(Mark::AboveHigh) { Sent::OverMark } else { Sent::Queued }
    }

    pub(super) fn may_read(&self) -> bool {
        !self.marks.has_any(Self::UNREAD)
    }

    /// The handler is to be told when there is room: for `wanted_bytes` in the queue, and for a reply.
    pub(super) fn owe_writable(&mut self, wanted_bytes: usize) {
        // Without this it would be told while the message still doesn't fit, try again, and be told again, for ever.
        let wanted_bytes = u32::try_from(wanted_bytes).unwrap_or(u32::MAX);
        self.wanted_bytes =
            if self.marks.has(Mark::OwesWritable) { self.wanted_bytes.min(wanted_bytes) } else { wanted_bytes };
        self.marks.set(Mark::OwesWritable, true);
    }

    /// Whether a message fits into the queue that has `data_bytes`, or what is promised to a reply if that is more.
    #[inline(always)]
    pub(super) fn has_room(&self, data_bytes: usize, pools: &Pools) -> bool {
        let rules = pools.flows.rules(self.flow);
        self.queued_bytes() + pools.flow.reply_bytes.max(data_bytes) <= rules.queue_bytes
            && self.queue_messages < rules.queue_messages
    }

    /// Whether what was refused would be taken, and a reply, as far as they can ever fit.
    #[inline(never)]
    pub(super) fn has_room_for_wanted(&self, pools: &Pools) -> bool {
        let rules = pools.flows.rules(self.flow);
        let wanted_bytes = pools.flow.reply_bytes.max(self.wanted_bytes as usize).min(rules.queue_bytes);
        self.queued_bytes() + wanted_bytes <= rules.queue_bytes && self.queue_messages < rules.queue_messages
    }

    /// Charges a reply ahead, if the handler may be given data now. A reply with the received buffer itself costs
    /// the overhead of a message only, whatever its size.
    #[inline(always)]
    fn begin_delivery(&mut self, data_bytes: usize, pools: &mut Pools) -> Option<usize> {
        if self.marks.has_any(Self::UNDELIVERED) {
            return None;
        }
        self.charge_reply(data_bytes, pools)
    }

    /// Charges a reply ahead, if the queue has room for it.
    #[inline(always)]
    pub(super) fn charge_reply(&mut self, data_bytes: usize, pools: &mut Pools) -> Option<usize> {
        let credit_bytes = pools.reply_charge_bytes();
        if self.has_room(data_bytes, pools) && self.charge(credit_bytes, pools).is_ok() {
            return Some(credit_bytes);
        }
        self.begin_unpromised(data_bytes, pools)
    }

    /// The same for the first of what was kept: less often than for what has just come.
    #[inline(never)]
    fn begin_kept_delivery(&mut self, pools: &mut Pools) -> Option<usize> {
        self.begin_delivery(pools.messages.first_len(&self.inbox), pools)
    }

    /// A reply can't be promised. Where replies may be dropped, the handler is given data all the same.
    #[cold]
    #[inline(never)]
    fn begin_unpromised(&mut self, data_bytes: usize, pools: &mut Pools) -> Option<usize> {
        if pools.flows.rules(self.flow).reads_on {
            let credit_bytes = pools.reply_charge_bytes();
            // A full queue may still make way for a reply that is paid for.
            return Some(if self.charge(credit_bytes, pools).is_ok() { credit_bytes } else { 0 });
        }
        // With room in the queue, it was send memory that was missing.
        let waits_for_memory = self.has_room(data_bytes, pools);
        self.marks.set(Mark::WaitsForMemory, waits_for_memory);
        None
    }

    /// Charges `bytes` to this connection: to its floor as far as that goes, the rest to the common reserve.
    #[inline(always)]
    pub(super) fn charge(&mut self, bytes: usize, pools: &Pools) -> Result<(), Refusal> {
        if self.charged_bytes + bytes <= pools.flow.floor_bytes {
            self.charged_bytes += bytes;
            return Ok(());
        }
        self.charge_beyond_the_floor(bytes, pools)
    }

    #[inline(never)]
    fn charge_beyond_the_floor(&mut self, bytes: usize, pools: &Pools) -> Result<(), Refusal> {
        let floor = pools.flow.floor_bytes;
        let common = (self.charged_bytes + bytes).saturating_sub(floor) - self.charged_bytes.saturating_sub(floor);
        if common > 0 {
            pools.lease.charge(common).map_err(|error| Refusal::NoMemory {
                wanted_bytes: error.wanted,
                free_bytes: error.free_bytes,
                total_bytes: error.total_bytes,
            })?;
        }
        self.charged_bytes += bytes;
        Ok(())
    }

    /// Whether [`charge`](Self::charge) would do it.
    pub(super) fn can_charge(&self, bytes: usize, pools: &Pools) -> bool {
        let floor = pools.flow.floor_bytes;
        let common = (self.charged_bytes + bytes).saturating_sub(floor) - self.charged_bytes.saturating_sub(floor);
        pools.lease.can_charge(common)
    }

    #[inline(always)]
    pub(super) fn refund(&mut self, bytes: usize, pools: &Pools) {
        debug_assert!(bytes <= self.charged_bytes, "{bytes} bytes refunded of {}", self.charged_bytes);
        if self.charged_bytes <= pools.flow.floor_bytes {
            self.charged_bytes -= bytes;
        } else {
            self.refund_beyond_the_floor(bytes, pools);
        }
    }

    #[inline(never)]
    fn refund_beyond_the_floor(&mut self, bytes: usize, pools: &Pools) {
        let floor = pools.flow.floor_bytes;
        let common = self.charged_bytes.saturating_sub(floor) - (self.charged_bytes - bytes).saturating_sub(floor);
        self.charged_bytes -= bytes;
        if common > 0 {
            pools.lease.refund(common);
        }
    }

    pub(super) fn linger(&mut self, now: Time, pools: &Pools) {
        self.outlive(Life::Lingering, now + pools.flow.linger_timeout);
    }

    pub(super) fn end_if_both_finished(&mut self, pools: &mut Pools) {
        let told = self.life != Life::Open || self.marks.has(Mark::PeerFinishTold);
        if self.marks.has(Mark::ShutdownDone) && self.marks.has(Mark::PeerFinished) && told {
            self.end(CloseReason::Finished, CloseMode::Orderly, pools);
        }
    }

    pub(super) fn end(&mut self, reason: CloseReason, mode: CloseMode, pools: &mut Pools) {
        if matches!(self.life, Life::Closing(_) | Life::Closed) {
            return;
        }
        self.reason.get_or_insert(reason);
        self.life = Life::Closing(mode);
        self.leave_the_line(pools);
        self.empty_inbox(pools);
        let mut refund = 0;
        while let Some(piece) = pools.messages.pop(&mut self.queue) {
            refund += piece.charge_bytes;
        }
        (self.queue_bytes, self.queue_messages) = (0, 0);
        self.forget_strain(pools);
        if let Some(mut gather) = self.unsent.take() {
            gather.clear(|piece| refund += piece.charge_bytes);
            pools.recycle(gather);
        }
        self.refund(refund, pools);
    }

    pub(super) fn empty_inbox(&mut self, pools: &mut Pools) {
        while let Some(piece) = pools.messages.pop(&mut self.inbox) {
            pools.lease.refund(piece.charge_bytes);
        }
    }
}

/// What a queued message is charged, in bytes.
#[inline(always)]
pub(super) fn charge_of(payload: &Payload) -> usize {
    payload.charge_bytes() + MESSAGE_OVERHEAD_BYTES
}

/// Turns an arena buffer into a charged copy when its connection holds more than its share or the arena runs low, so that
/// neither stopped readers nor hoarding handlers keep others from receiving. A copy is made only where `spared_bytes` of
/// send memory are left.
#[inline(always)]
pub(super) fn fair_share(buffer: Buffer, owner: u32, spared_bytes: usize, pools: &mut Pools) -> Buffer {
    let easy = pools.arena_has_reserve() && pools.arena.held_by(owner) <= pools.flow.held_buffers;
    if easy || !buffer.is_arena() { buffer } else { copied_if_there_is_room(buffer, spared_bytes, pools) }
}

#[inline(never)]
fn copied_if_there_is_room(buffer: Buffer, spared_bytes: usize, pools: &mut Pools) -> Buffer {
    if pools.lease.can_charge(buffer.len() + spared_bytes)
        && let Ok(copy) = Buffer::copied(&buffer, &pools.lease)
    {
        return copy;
    }
    // The buffer itself then, which is bounded by the arena; but somebody must make room.
    pools.pressed |= !pools.arena_has_reserve();
    buffer
}
