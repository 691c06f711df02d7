//! A connection with filters: what the state machine does otherwise for it.
//!
//! What is received always waits in the inbox, and is pulled through the [`Stack`] when the handler may have data. What is sent always waits
//! in the queue, and is pulled through it when nothing is in flight. All that is kept for it lies in a table beside the slots, so that
//! connections without filters pay for nothing but a bit in their [`Marks`](super::marks::Marks).
//!
//! Filters are the user's code. A call of one is [guarded](Filtered::call): a panic ends the connection, and whatever the filter had was in
//! the stack, from where it is given back.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use super::machine::{Delivery, Life, Machine, Step, fair_share};
use super::marks::{Mark, Marks};
use super::messages::{List, Messages, Pools};
use super::{CloseReason, MAX_FILTERS};
use crate::engine::CloseMode;
use crate::filter::{
    Budget, Description, Filter, FilterContext, FilterError, FilterFailure, Incoming, Outgoing, Read, Stack,
};
use crate::memory::{Buffer, Chunked, Gather, MESSAGE_OVERHEAD_BYTES, Piece, SendLease};
use crate::time::Time;

/// How the filters of a connection have failed.
pub(crate) enum FilterFailed {
    /// One of them says so.
    Error(FilterError),
    /// One of them has panicked.
    Panicked(Box<dyn Any + Send>),
}

impl std::fmt::Debug for FilterFailed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Error(error) => formatter.debug_tuple("Error").field(error).finish(),
            Self::Panicked(_) => formatter.write_str("Panicked"),
        }
    }
}

/// The filters of the connections of an I/O thread, by slot.
pub(crate) struct Filters {
    table: Chunked<Option<Box<Filtered>>>,
    /// The state of the random numbers for filters.
    random: u64,
    /// What is kept for each filter that is added later, in bytes.
    later_write_bytes: usize,
    /// How long filters may take to be established.
    establish_within: std::time::Duration,
}

impl Filters {
    /// For at most `connections` connections.
    pub(crate) fn new(
        connections: u32,
        random: u64,
        later_write_bytes: usize,
        establish_within: std::time::Duration,
    ) -> Self {
        Self { table: Chunked::new(connections), random, later_write_bytes, establish_within }
    }

    fn get(&self, owner: u32) -> Option<&Filtered> {
        self.table.get(owner)?.as_deref()
    }

    fn get_mut(&mut self, owner: u32) -> Option<&mut Filtered> {
        self.table.get_mut(owner)?.as_deref_mut()
    }
}

/// The filters of one connection, and what is known of them.
pub(super) struct Filtered {
    stack: Stack,
    /// Read, and kept until the handler may have it.
    ready: Option<Buffer>,
    /// The handler was made, or is about to be.
    is_served: bool,
    /// There may be more to read although nothing has come.
    may_have_more: bool,
    /// A filter keeps something back that was received, or reading itself: nothing more is received until it has been called.
    keeps_back: bool,
    /// When the engine was asked for data last, after a pause.
    reading_since: Time,
    /// The stack has told the end of the stream.
    is_at_end: bool,
    /// A filter has failed: what is left to be written is its farewell.
    has_failed: bool,
    /// When the filters must be established.
    establish_by: Time,
    /// What the filters may make without asking the common reserve, in bytes.
    own_bytes: usize,
    /// What is charged to the common reserve for what they have made beyond that, in bytes.
    common_bytes: usize,
    /// Since when the filters have got nowhere for want of memory.
    short_since: Option<Time>,
    /// What was written and is on its way into the gather.
    pieces: VecDeque<Piece>,
    // What the filters said after the last call.
    is_established: bool,
    wants_write: bool,
    deadline: Option<Time>,
}

/// What [`Filtered`] takes for each connection, its place in the table and an entry for its timer and for how it came about included; and what
/// each of its filters takes besides what it has declared, its place in the stack and what is allocated with it.
pub(crate) const FILTERED_BYTES: usize = size_of::<Filtered>() + 512;
pub(crate) const FILTER_BYTES: usize = 256;

/// The queue of a connection, as its highest filter pulls from it.
struct Queue<'a> {
    messages: &'a mut Messages,
    list: &'a mut List,
    bytes: &'a mut u32,
    count: &'a mut u32,
}

impl Outgoing for Queue<'_> {
    fn next(&mut self) -> Option<Piece> {
        let piece = self.messages.pop(self.list)?;
        *self.bytes -= piece.held_bytes as u32;
        *self.count -= 1;
        Some(piece)
    }
}

/// The inbox of a connection, as its lowest filter reads from it.
struct Wire<'a> {
    messages: &'a mut Messages,
    inbox: &'a mut List,
    lease: &'a SendLease,
    peer_finished: bool,
}

impl Incoming for Wire<'_> {
    fn next(&mut self) -> Option<Buffer> {
        let piece = self.messages.pop(self.inbox)?;
        self.lease.refund(piece.charge_bytes);
        piece.payload.into_received()
    }

    fn is_finished(&self) -> bool {
        self.peer_finished && self.inbox.is_empty()
    }
}

impl Filtered {
    fn new(establish_by: Time, is_served: bool) -> Self {
        Self {
            stack: Stack::empty(),
            ready: None,
            is_served,
            may_have_more: true,
            keeps_back: false,
            reading_since: Time::ZERO,
            is_at_end: false,
            has_failed: false,
            establish_by,
            own_bytes: 0,
            common_bytes: 0,
            short_since: None,
            pieces: VecDeque::new(),
            is_established: false,
            wants_write: true,
            deadline: None,
        }
    }

    /// Calls the stack, and asks how it is afterwards.
    fn call<T>(
        &mut self,
        context: &mut FilterContext<'_>,
        call: impl FnOnce(&mut Stack, &mut VecDeque<Piece>, &mut FilterContext<'_>) -> Result<T, FilterError>,
    ) -> Result<T, FilterFailed> {
        let Self { stack, pieces, .. } = self;
        let (result, is_established, wants_write, deadline) = catch_unwind(AssertUnwindSafe(|| {
            let result = call(stack, pieces, context);
            (result, stack.is_established(), stack.wants_write(), stack.deadline())
        }))
        .map_err(FilterFailed::Panicked)?;
        (self.is_established, self.wants_write, self.deadline) = (is_established, wants_write, deadline);
        result.map_err(FilterFailed::Error)
    }

    /// When the filters are to be told that time has passed.
    fn look(&self) -> Option<Time> {
        let establish_by = (!self.is_established).then_some(self.establish_by);
        [self.deadline, establish_by].into_iter().flatten().min()
    }

    /// Drops what was received.
    fn drop_unread(&mut self) {
        self.ready = None;
        self.may_have_more = false;
        self.stack.drop_unread();
    }
}

/// What the I/O thread asks for.
impl Machine {
    /// Whether the connection has filters.
    pub(crate) fn is_filtered(&self) -> bool {
        self.marks.has(Mark::Filtered)
    }

    /// Whether it matters to one of its filters where a message ends.
    #[cold]
    #[inline(never)]
    pub(crate) fn tells_messages_apart(&self, owner: u32, pools: &Pools) -> bool {
        pools.filters.get(owner).is_some_and(|filtered| filtered.stack.tells_messages_apart())
    }

    /// Whether its filters are being established, and the peer has begun to.
    #[cold]
    #[inline(never)]
    pub(crate) fn is_being_established(&self, owner: u32, pools: &Pools) -> bool {
        let is_served = |filtered: &Filtered| filtered.is_served || filtered.has_failed;
        self.marks.has(Mark::Spoke) && pools.filters.get(owner).is_some_and(|filtered| !is_served(filtered))
    }

    /// Whether its filters have handed on all that was sent.
    #[cold]
    #[inline(never)]
    pub(super) fn filters_have_written(&self, owner: u32, pools: &Pools) -> bool {
        pools.filters.get(owner).is_none_or(|filtered| !filtered.wants_write && filtered.pieces.is_empty())
    }

    /// The connection begins with these filters, from the lowest up, each with what may be on its way of it, in bytes; its slot is
    /// `owner`. When they are established, [`Step::Established`] says so.
    pub(crate) fn begin_filtered(
        &mut self,
        filters: Vec<(Box<dyn Filter>, usize)>,
        owner: u32,
        now: Time,
        pools: &mut Pools,
    ) {
        let mut filtered = Box::new(Filtered::new(now + pools.filters.establish_within, false));
        for (filter, write_bytes) in filters {
            filtered.stack.join(filter, write_bytes, None, std::iter::empty());
        }
        self.insert(filtered, owner, pools);
    }

    /// Puts a filter on top of those that there are. What was received and not read goes up through it; what is queued goes out
    /// before it.
    pub(crate) fn add_filter(
        &mut self,
        filter: Box<dyn Filter>,
        owner: u32,
        now: Time,
        pools: &mut Pools,
    ) -> Result<(), usize> {
        if self.life != Life::Open {
            return Ok(());
        }
        let establish_by = now + pools.filters.establish_within;
        let present = self.marks.has(Mark::Filtered).then(|| pools.filters.table.get_mut(owner)?.take()).flatten();
        let mut filtered = present.unwrap_or_else(|| Box::new(Filtered::new(establish_by, true)));
        let result = if filtered.stack.depth() < MAX_FILTERS {
            let mut queued = Vec::new();
            while let Some(piece) = pools.messages.pop(&mut self.queue) {
                self.queue_bytes -= piece.held_bytes as u32;
                self.queue_messages -= 1;
                queued.push(piece);
            }
            self.queue_has_shrunk(now, pools);
            filtered.stack.join(filter, pools.filters.later_write_bytes, filtered.ready.take(), queued.into_iter());
            filtered.establish_by = establish_by;
            // Nothing is known of it yet: the next step asks.
            (filtered.is_established, filtered.wants_write, filtered.may_have_more) = (false, true, true);
            filtered.keeps_back = false;
            Ok(())
        } else {
            Err(MAX_FILTERS)
        };
        self.insert(filtered, owner, pools);
        result
    }

    fn insert(&mut self, mut filtered: Box<Filtered>, owner: u32, pools: &mut Pools) {
        filtered.own_bytes = filtered.stack.own_bytes().sum();
        if !self.marks.has(Mark::Filtered) {
            // Nothing has waited so far, if nothing is in flight.
            self.marks.set(Mark::Filtered, true);
            self.marks.set(Mark::OffersAll, true);
        }
        *pools.filters.table.ensure(owner) = Some(filtered);
    }

    /// When [`filters_time_passed`](Self::filters_time_passed) is to be called.
    pub(crate) fn filters_look(&self, owner: u32, pools: &Pools) -> Option<Time> {
        match self.life {
            Life::Open => pools.filters.get(owner)?.look(),
            Life::Draining => pools.filters.get(owner)?.deadline,
            Life::Lingering | Life::Closing(_) | Life::Closed => None,
        }
    }

    /// Tells the filters that time has passed.
    pub(crate) fn filters_time_passed(
        &mut self,
        owner: u32,
        now: Time,
        pools: &mut Pools,
    ) -> Option<Box<FilterFailed>> {
        let mut filtered = pools.filters.table.get_mut(owner).and_then(Option::take)?;
        let failed = if filtered.look().is_some_and(|look| look <= now) {
            self.call_filters(&mut filtered, now, pools, |stack, _, context| stack.time_passed(context)).err()
        } else {
            None
        };
        filtered.may_have_more = true;
        let failed = match failed {
            // It is on its way out, for a time that is bounded otherwise.
            Some(FilterFailed::Error(_)) if self.life != Life::Open => None,
            Some(failed) => Some(self.fail(&mut filtered, failed, now, pools)),
            None => None,
        };
        if self.life == Life::Open && !filtered.is_established && filtered.establish_by <= now {
            self.close(CloseReason::HandshakeTimeout, now, pools);
        }
        *pools.filters.table.ensure(owner) = Some(filtered);
        failed
    }

    /// Since when its filters have got nowhere because there is no memory for what they make, if they wait for it.
    pub(crate) fn filters_short_since(&self, owner: u32, pools: &Pools) -> Option<Time> {
        let waits = self.marks.has(Mark::Filtered) && self.waits_for_memory();
        if waits { pools.filters.get(owner)?.short_since } else { None }
    }

    /// Whether the filters have something in common memory.
    pub(super) fn filters_hold_memory(&self, owner: u32, pools: &Pools) -> bool {
        self.marks.has(Mark::Filtered)
            && pools.filters.get(owner).is_some_and(|filtered| {
                filtered.common_bytes > 0 || filtered.ready.is_some() || filtered.stack.has_unread()
            })
    }

    /// What the filters have learned about the connection, for the handler that is made now.
    pub(crate) fn describe(&mut self, owner: u32, pools: &mut Pools) -> Result<Description, Box<dyn Any + Send>> {
        match pools.filters.get_mut(owner) {
            Some(filtered) => catch_unwind(AssertUnwindSafe(|| filtered.stack.describe())),
            None => Ok(Description::default()),
        }
    }

    /// The filters can't be made: the connection ends.
    pub(crate) fn abort_for_filters(&mut self, failed: &FilterFailed, pools: &mut Pools) {
        self.abort(reason_of(failed), pools);
    }

    /// The connection is over and released: drops the filters.
    #[cold]
    #[inline(never)]
    pub(crate) fn release_filters(&mut self, owner: u32, pools: &mut Pools) -> Option<Box<dyn Any + Send>> {
        let filtered = pools.filters.table.get_mut(owner)?.take()?;
        pools.lease.refund(filtered.common_bytes);
        debug_assert!(filtered.pieces.is_empty(), "pieces that were not given back");
        catch_unwind(AssertUnwindSafe(|| drop(filtered))).err()
    }
}

/// What a failure ends the connection with.
fn reason_of(failed: &FilterFailed) -> CloseReason {
    match failed {
        FilterFailed::Panicked(_) => CloseReason::HandlerPanicked,
        FilterFailed::Error(error) => match error.failure {
            FilterFailure::Protocol => CloseReason::ProtocolError,
            FilterFailure::Truncated => CloseReason::Truncated,
            FilterFailure::TooLarge => CloseReason::MessageTooLarge,
            FilterFailure::EstablishTimeout => CloseReason::HandshakeTimeout,
            FilterFailure::MessageTimeout => CloseReason::MessageTimeout,
            FilterFailure::FirstByte => CloseReason::FirstByteTimeout,
            FilterFailure::Idle => CloseReason::IdleTimeout,
            FilterFailure::TooSlow => CloseReason::ReceiveTooSlow,
            FilterFailure::NoAnswer => CloseReason::NoAnswer,
            FilterFailure::NotAllowed => CloseReason::NotAllowed,
            FilterFailure::Busy => CloseReason::Busy,
        },
    }
}

/// What is to be done.
impl Machine {
    /// The next thing to do for a connection with filters: as [`next_step`](Self::next_step) for others.
    #[cold]
    #[inline(never)]
    pub(super) fn next_filtered_step(&mut self, owner: u32, now: Time, pools: &mut Pools) -> Option<Step> {
        let Some(mut filtered) = pools.filters.table.get_mut(owner).and_then(Option::take) else {
            debug_assert!(self.life == Life::Closed, "a connection without its filters");
            return None;
        };
        let step = match self.filtered_step(&mut filtered, owner, now, pools) {
            Ok(step) => step,
            Err(failed) => Some(Step::FilterFailed(self.fail(&mut filtered, failed, now, pools))),
        };
        let busy =
            filtered.ready.is_some() || filtered.wants_write || filtered.keeps_back || filtered.stack.has_unread();
        if self.life == Life::Open {
            self.marks.set(Mark::FILTERS_BUSY, busy);
        }
        *pools.filters.table.ensure(owner) = Some(filtered);
        step
    }

    fn filtered_step(
        &mut self,
        filtered: &mut Filtered,
        owner: u32,
        now: Time,
        pools: &mut Pools,
    ) -> Result<Option<Step>, FilterFailed> {
        if !self.marks.has(Mark::Sending) {
            self.settle_made(filtered, pools);
        }
        self.end_as_filters_want(filtered, now, pools);
        match self.life {
            Life::Closed => return Ok(None),
            Life::Closing(mode) => {
                filtered.drop_unread();
                self.drop_unwritten(filtered, pools);
                self.life = Life::Closed;
                return Ok(Some(Step::Close(mode)));
            }
            Life::Open => {
                if let Some(step) = self.read_filtered(filtered, owner, now, pools)? {
                    return Ok(Some(step));
                }
            }
            Life::Draining | Life::Lingering => filtered.drop_unread(),
        }
        self.write_filtered(filtered, now, pools)?;
        if let Some(step) = self.next_established(filtered).or_else(|| self.next_writable(pools)) {
            return Ok(Some(step));
        }
        for _ in 0..=filtered.stack.depth() {
            if !self.marks.has(Mark::Sending)
                && self.unsent.is_some()
                && self.may_send(now, pools)
                && let Some(gather) = self.unsent.take()
            {
                self.marks.set(Mark::Sending, true);
                self.marks.set(Mark::OffersAll, self.queue.is_empty() && !filtered.wants_write);
                return Ok(Some(Step::Send(gather)));
            }
            if !self.may_half_close() {
                break;
            }
            let is_over = match filtered.has_failed {
                true => !filtered.wants_write,
                false => self.call_filters(filtered, now, pools, |stack, _, context| Ok(stack.finish(context)))?,
            };
            if is_over {
                self.marks.set(Mark::ShutdownTold, true);
                return Ok(Some(Step::ShutdownWrite));
            }
            // Some filter has something to say before the end.
            self.write_filtered(filtered, now, pools)?;
        }
        Ok(self.next_receive_filtered(filtered, now))
    }

    /// Whether everything is sent but the last words of the filters, and no more is to come.
    fn may_half_close(&self) -> bool {
        self.marks.among(Self::HALF_CLOSING) == Marks::of(&[Mark::ShutdownWanted])
            && self.unsent.is_none()
            && self.queue.is_empty()
    }

    fn next_established(&mut self, filtered: &mut Filtered) -> Option<Step> {
        if self.life != Life::Open || filtered.is_served || !filtered.is_established {
            return None;
        }
        filtered.is_served = true;
        Some(Step::Established)
    }

    /// Whether to ask the engine for data.
    fn next_receive_filtered(&mut self, filtered: &mut Filtered, now: Time) -> Option<Step> {
        if self.life != Life::Open {
            if !self.marks.has_any(Marks::of(&[Mark::Discarding, Mark::PeerFinished, Mark::SystemShort])) {
                self.marks.set(Mark::Discarding, true);
                return Some(Step::Discard);
            }
            return None;
        }
        if self.marks.has(Mark::PeerFinished) {
            return None;
        }
        let wanted =
            self.inbox.is_empty() && filtered.ready.is_none() && !filtered.keeps_back && self.may_pull(filtered);
        if wanted == self.marks.has(Mark::Receiving) {
            return None;
        }
        self.set_receiving(wanted, now);
        if wanted {
            filtered.reading_since = now;
        }
        Some(if wanted { Step::Receive } else { Step::PauseReceive })
    }

    /// Whether filters may be read. Those that are not established are, whatever the handler wants, or it might wait for them for ever.
    fn may_pull(&self, filtered: &Filtered) -> bool {
        if filtered.is_established {
            return self.may_read();
        }
        !self.marks.has_any(Marks::of(&[Mark::WaitsForMemory, Mark::SystemShort]))
    }

    /// The end of the peer as the filters see it.
    fn end_as_filters_want(&mut self, filtered: &Filtered, now: Time, pools: &mut Pools) {
        if self.life == Life::Open && filtered.is_at_end {
            if !filtered.is_served {
                // The peer has gone before there was a handler.
                self.close(CloseReason::Finished, now, pools);
            } else if self.marks.has(Mark::ShutdownDone)
                && self.marks.has(Mark::PeerFinishTold)
                && !self.marks.has(Mark::PeerFinished)
            {
                // Both have finished, by what the filters say. What the peer may still say, and its own end, are waited for a while.
                self.reason.get_or_insert(CloseReason::Finished);
                self.linger(now, pools);
            }
        }
        self.end_if_both_finished(pools);
    }
}

/// Reading.
impl Machine {
    fn read_filtered(
        &mut self,
        filtered: &mut Filtered,
        owner: u32,
        now: Time,
        pools: &mut Pools,
    ) -> Result<Option<Step>, FilterFailed> {
        if filtered.is_at_end {
            // What comes after the end that a filter has seen is nobody's.
            self.empty_inbox(pools);
        }
        while !filtered.is_established && self.has_to_read(filtered) && self.may_pull(filtered) {
            filtered.ready = self.read_stack(filtered, now, pools)?;
            if filtered.ready.is_none() {
                break;
            }
        }
        if let Some(step) = self.next_established(filtered) {
            return Ok(Some(step));
        }
        if filtered.is_served {
            if let Some(delivery) = self.next_filtered_delivery(filtered, owner, now, pools)? {
                return Ok(Some(Step::Deliver(delivery)));
            }
            if filtered.is_at_end
                && filtered.ready.is_none()
                && !self.marks.has(Mark::PeerFinishTold)
                && !self.marks.has_any(Self::AWAITED)
            {
                self.marks.set(Mark::PeerFinishTold, true);
                return Ok(Some(Step::PeerShutdown));
            }
        }
        Ok(self.next_writable(pools))
    }

    /// Whether a read may bring something.
    fn has_to_read(&self, filtered: &Filtered) -> bool {
        filtered.ready.is_none()
            && !filtered.is_at_end
            && (filtered.may_have_more || !self.inbox.is_empty() || self.marks.has(Mark::PeerFinished))
    }

    fn next_filtered_delivery(
        &mut self,
        filtered: &mut Filtered,
        owner: u32,
        now: Time,
        pools: &mut Pools,
    ) -> Result<Option<Delivery>, FilterFailed> {
        let has_data = filtered.ready.is_some() || filtered.is_established && self.has_to_read(filtered);
        if !has_data {
            return Ok(None);
        }
        if !self.may_read() {
            return Ok(None);
        }
        let rules = pools.flows.rules(self.flow);
        let (queue_bytes, reads_on) = (rules.queue_bytes, rules.reads_on);
        let ready_bytes = filtered.ready.as_ref().map_or(0, |ready| ready.len());
        let ready_bytes = delivered_bytes(ready_bytes, queue_bytes);
        let Some(credit_bytes) = self.charge_reply(ready_bytes, pools) else { return Ok(None) };
        if filtered.ready.is_none() {
            filtered.ready = match self.read_stack(filtered, now, pools) {
                Ok(ready) => ready,
                Err(failed) => {
                    self.end_delivery(credit_bytes, pools);
                    return Err(failed);
                }
            };
        }
        match filtered.ready.take() {
            Some(buffer) if reads_on || self.has_room(delivered_bytes(buffer.len(), queue_bytes), pools) => {
                Ok(Some(Delivery { buffer: fair_share(buffer, owner, 0, pools), credit_bytes }))
            }
            // Too much for now, or nothing.
            ready => {
                filtered.ready = ready;
                self.end_delivery(credit_bytes, pools);
                Ok(None)
            }
        }
    }

    /// Reads once.
    fn read_stack(
        &mut self,
        filtered: &mut Filtered,
        now: Time,
        pools: &mut Pools,
    ) -> Result<Option<Buffer>, FilterFailed> {
        let peer_finished = self.marks.has(Mark::PeerFinished);
        let lease = Rc::clone(&pools.lease);
        let spared_bytes = pools.reply_charge_bytes();
        let mut context = FilterContext::new(now, &mut pools.filters.random, &lease);
        context.spared_bytes = spared_bytes;
        let mut wire = Wire { messages: &mut pools.messages, inbox: &mut self.inbox, lease: &lease, peer_finished };
        let read = filtered.call(&mut context, |stack, _, context| {
            let read = stack.read(&mut wire, context)?;
            // More than it keeps can't get past it.
            let keeps_back = matches!(read, Read::Starved) && (context.holds_back || stack.has_unread());
            let is_kept = !keeps_back || stack.keep_unread(context);
            Ok((read, keeps_back, is_kept))
        });
        filtered.may_have_more = false;
        let (read, keeps_back, is_kept) = read?;
        filtered.keeps_back = keeps_back;
        // Somebody must make room.
        pools.pressed |= !is_kept;
        let is_short = matches!(read, Read::NoMemory);
        filtered.short_since = if is_short { filtered.short_since.or(Some(now)) } else { None };
        match read {
            Read::Data(data) => {
                filtered.may_have_more = true;
                return Ok(Some(data));
            }
            Read::Starved => {}
            Read::NoMemory => {
                filtered.may_have_more = true;
                self.marks.set(Mark::WaitsForMemory, true);
            }
            Read::Finished => filtered.is_at_end = true,
        }
        Ok(None)
    }
}

/// Charges `bytes` to the common reserve, or a half, a quarter and so on of it, down to what is worth the while. Returns how many.
fn charge_what_there_is(bytes: usize, pools: &Pools) -> usize {
    const LEAST: usize = 4 * MESSAGE_OVERHEAD_BYTES;
    let mut bytes = bytes;
    while bytes > 0 {
        if pools.lease.can_charge(bytes) && pools.lease.charge(bytes).is_ok() {
            break;
        }
        bytes = if bytes > LEAST { bytes / 2 } else { 0 };
    }
    bytes
}

/// What of the size of data counts when room for a reply with it is sought: never more than there can be.
fn delivered_bytes(bytes: usize, queue_bytes: usize) -> usize {
    bytes.min(queue_bytes)
}

/// Writing.
impl Machine {
    /// Pulls what goes out next into the gather, if nothing is in flight.
    fn write_filtered(&mut self, filtered: &mut Filtered, now: Time, pools: &mut Pools) -> Result<(), FilterFailed> {
        let window_bytes = Gather::SLICE_BYTES.min(pools.flows.rules(self.flow).window_bytes);
        while !self.marks.has_any(Marks::of(&[Mark::Sending, Mark::ShutdownTold]))
            && (filtered.wants_write || !self.queue.is_empty())
            && self.unsent.as_ref().is_none_or(|gather| gather.has_room_within(window_bytes))
        {
            if !self.write_stack(filtered, window_bytes, now, pools)? {
                break;
            }
            // A filter may have kept back what it has read until it had written.
            filtered.may_have_more = true;
        }
        Ok(())
    }

    /// Pulls once. Whether anything came.
    fn write_stack(
        &mut self,
        filtered: &mut Filtered,
        window_bytes: usize,
        now: Time,
        pools: &mut Pools,
    ) -> Result<bool, FilterFailed> {
        let (gathered_bytes, made_bytes) =
            self.unsent.as_ref().map_or((0, 0), |gather| (gather.remaining(), gather.made_bytes()));
        let mut room_bytes = window_bytes.saturating_sub(gathered_bytes);
        if gathered_bytes == 0 {
            // What a filter must be able to write at once, it can, whatever the window.
            room_bytes = filtered.stack.own_bytes().fold(room_bytes, usize::max);
        }
        let paid_bytes = filtered.own_bytes + filtered.common_bytes;
        let own_bytes = paid_bytes.saturating_sub(made_bytes + filtered.stack.made_bytes());
        // About as much as there is to be sent, with what filters add to it; for each filter, since what one has made waits while the
        // next one makes something of it.
        let known_bytes = self.queued_bytes() + filtered.stack.unwritten_bytes();
        let wanted_bytes = if filtered.wants_write { room_bytes } else { room_bytes.min(known_bytes) };
        let wanted_bytes = filtered.stack.depth() * (wanted_bytes + wanted_bytes / 8 + 8 * MESSAGE_OVERHEAD_BYTES);
        let wanted_bytes = wanted_bytes.saturating_sub(own_bytes);
        let beyond_bytes = charge_what_there_is(wanted_bytes, pools);
        let (budget_bytes, is_short) = (own_bytes + beyond_bytes, beyond_bytes < wanted_bytes);
        filtered.common_bytes += beyond_bytes;

        let budget = Budget::new(budget_bytes);
        let lease = Rc::clone(&pools.lease);
        let mut context = FilterContext::new(now, &mut pools.filters.random, &lease);
        let mut queue = Queue {
            messages: &mut pools.messages,
            list: &mut self.queue,
            bytes: &mut self.queue_bytes,
            count: &mut self.queue_messages,
        };
        let no_queue = &mut NoQueue;
        let outgoing: &mut dyn Outgoing = if filtered.has_failed { no_queue } else { &mut queue };
        let result = filtered
            .call(&mut context, |stack, pieces, context| stack.write(outgoing, pieces, room_bytes, &budget, context));
        let (refund_bytes, holds_back) = (context.refund_bytes, context.holds_back);
        self.refund(refund_bytes, pools);
        let wrote = self.gather_pieces(filtered, now, pools);
        self.settle_made(filtered, pools);
        self.queue_has_shrunk(now, pools);
        if !wrote && gathered_bytes == 0 {
            if holds_back {
                self.hold_pace(now);
            } else if is_short {
                filtered.short_since = filtered.short_since.or(Some(now));
                self.marks.set(Mark::WaitsForMemory, true);
            }
        }
        result.map(|()| wrote)
    }

    /// Puts what was written into the gather. Whether that was anything.
    fn gather_pieces(&mut self, filtered: &mut Filtered, now: Time, pools: &mut Pools) -> bool {
        if filtered.pieces.is_empty() {
            return false;
        }
        if self.unsent.is_none() {
            self.release_pace(now);
            if self.marks.has(Mark::OffersAll) {
                self.begin_to_wait(now);
            }
        }
        let gather = self.unsent.get_or_insert_with(|| pools.gather());
        for mut piece in filtered.pieces.drain(..) {
            if piece.is_made() {
                // Counted for as long as the gather has it, and in no account of messages.
                piece.charge_bytes = 0;
            }
            gather.push(piece);
        }
        true
    }

    /// Gives back to the common reserve what the filters have charged and don't need any more. Not while a send is in flight, whose part
    /// isn't known.
    fn settle_made(&mut self, filtered: &mut Filtered, pools: &Pools) {
        let gathered_bytes = self.unsent.as_ref().map_or(0, |gather| gather.made_bytes());
        let common_bytes = filtered.stack.made_beyond_own_bytes(gathered_bytes);
        debug_assert!(
            common_bytes <= filtered.common_bytes,
            "filters have made {common_bytes} bytes beyond their own, and {} are charged",
            filtered.common_bytes
        );
        let unneeded = filtered.common_bytes.saturating_sub(common_bytes);
        if unneeded > 0 {
            filtered.common_bytes -= unneeded;
            pools.lease.refund(unneeded);
        }
    }

    fn queue_has_shrunk(&mut self, now: Time, pools: &mut Pools) {
        if self.marks.has_any(Self::STRAINED) {
            self.after_shrinking(now, pools);
        }
    }

    fn drop_unwritten(&mut self, filtered: &mut Filtered, pools: &Pools) {
        let mut refund = 0;
        let mut dropped = |piece: Piece| refund += if piece.is_made() { 0 } else { piece.charge_bytes };
        filtered.stack.drop_unwritten(&mut dropped);
        filtered.pieces.drain(..).for_each(dropped);
        self.refund(refund, pools);
    }
}

/// Ending.
impl Machine {
    /// Calls the filters for something that neither reads nor writes.
    fn call_filters<T>(
        &mut self,
        filtered: &mut Filtered,
        now: Time,
        pools: &mut Pools,
        call: impl FnOnce(&mut Stack, &mut VecDeque<Piece>, &mut FilterContext<'_>) -> Result<T, FilterError>,
    ) -> Result<T, FilterFailed> {
        let lease = Rc::clone(&pools.lease);
        let mut context = FilterContext::new(now, &mut pools.filters.random, &lease);
        let reads = self.may_pull(filtered) && filtered.ready.is_none() && !filtered.keeps_back;
        context.reading_since = reads.then_some(filtered.reading_since);
        filtered.call(&mut context, call)
    }

    /// The filters have failed: the connection ends, with a farewell if there is to be one. Returns what is to be logged.
    #[cold]
    fn fail(
        &mut self,
        filtered: &mut Filtered,
        failed: FilterFailed,
        now: Time,
        pools: &mut Pools,
    ) -> Box<FilterFailed> {
        let reason = reason_of(&failed);
        let farewell = matches!(&failed, FilterFailed::Error(error) if error.farewell);
        if !farewell || filtered.has_failed {
            self.end(reason, CloseMode::Abort, pools);
            return Box::new(failed);
        }
        filtered.has_failed = true;
        filtered.drop_unread();
        let mut refund = 0;
        while let Some(piece) = pools.messages.pop(&mut self.queue) {
            refund += piece.charge_bytes;
        }
        (self.queue_bytes, self.queue_messages) = (0, 0);
        self.refund(refund, pools);
        self.drop_unwritten(filtered, pools);
        // What the filters say of themselves has changed with that.
        if self.call_filters(filtered, now, pools, |_, _, _| Ok(())).is_err() {
            self.end(reason, CloseMode::Abort, pools);
        }
        self.close(reason, now, pools);
        Box::new(failed)
    }
}

/// A queue whose messages were thrown away.
struct NoQueue;

impl Outgoing for NoQueue {
    fn next(&mut self) -> Option<Piece> {
        None
    }
}
