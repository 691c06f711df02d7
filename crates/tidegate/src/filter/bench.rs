//! A test bench for filters: one filter without a server, called by hand.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use super::{Budget, Description, Filter, FilterContext, FilterError, Incoming, Outgoing, Read, Stack};
use crate::memory::{Buffer, Payload, Piece, SendLease, SendReserve};
use crate::time::Time;

/// One filter with a wire below and a queue of messages above it, for tests of filters. Nothing moves by itself.
///
/// Time stands still until it is [let pass](Self::pass).
pub struct FilterBench {
    pub(super) stack: Stack,
    wire: Wire,
    queue: Queue,
    pub(super) now: Time,
    /// Since when it is read from, if it is, as filters are told when time passes.
    pub(super) reading_since: Option<Time>,
    random: u64,
    /// For what is handed up.
    lease: Rc<SendLease>,
    /// For what arrives.
    wire_lease: Rc<SendLease>,
}

#[derive(Default)]
struct Wire {
    buffers: VecDeque<Buffer>,
    finished: bool,
}

impl Incoming for Wire {
    fn next(&mut self) -> Option<Buffer> {
        self.buffers.pop_front()
    }

    fn is_finished(&self) -> bool {
        self.finished && self.buffers.is_empty()
    }
}

#[derive(Default)]
struct Queue(VecDeque<Piece>);

impl Outgoing for Queue {
    fn next(&mut self) -> Option<Piece> {
        self.0.pop_front()
    }
}

impl FilterBench {
    /// A bench for `filter`, with `memory_bytes` for what it [hands up](FilterContext::buffer).
    pub fn new(filter: Box<dyn Filter>, memory_bytes: usize) -> Self {
        let mut stack = Stack::empty();
        stack.join(filter, 0, None, std::iter::empty());
        Self::of(stack, memory_bytes)
    }

    /// A bench for several filters, one on the other.
    pub(super) fn of(stack: Stack, memory_bytes: usize) -> Self {
        Self {
            stack,
            wire: Wire::default(),
            queue: Queue::default(),
            now: Time::ZERO,
            reading_since: Some(Time::ZERO),
            random: 1,
            lease: SendLease::new(SendReserve::new(memory_bytes)),
            wire_lease: SendLease::new(SendReserve::new(usize::MAX)),
        }
    }

    /// Bytes come from the peer, as one buffer. An empty one is ignored.
    pub fn arrive(&mut self, bytes: &[u8]) {
        let copy = Buffer::copied(bytes, &self.wire_lease).ok();
        copy.filter(|copy| !copy.is_empty()).into_iter().for_each(|copy| self.arrive_as(copy));
    }

    /// A buffer comes from the peer as it is.
    pub(super) fn arrive_as(&mut self, buffer: Buffer) {
        self.wire.buffers.push_back(buffer);
    }

    /// What the filter reads next.
    ///
    /// # Errors
    /// Those of the filter.
    pub fn read(&mut self) -> Result<Read, FilterError> {
        let Self { stack, wire, now, random, lease, .. } = self;
        stack.read(wire, &mut FilterContext::new(*now, random, lease))
    }

    /// Queues a message above the filter.
    pub fn send(&mut self, message: impl Into<Payload>) {
        let payload = message.into();
        let (charge_bytes, held_bytes) = (payload.charge_bytes(), payload.held_bytes());
        self.queue.0.push_back(Piece { payload, charge_bytes, held_bytes });
    }

    /// What the filter writes with room for `room_bytes`, appended to `written`. Returns what its pieces are charged, in bytes.
    ///
    /// # Errors
    /// Those of the filter.
    pub fn write(&mut self, room_bytes: usize, written: &mut Vec<u8>) -> Result<usize, FilterError> {
        self.write_within(room_bytes, room_bytes, written)
    }

    /// The same, with memory for `budget_bytes` of what filters make.
    pub(super) fn write_within(
        &mut self,
        room_bytes: usize,
        budget_bytes: usize,
        written: &mut Vec<u8>,
    ) -> Result<usize, FilterError> {
        let Self { stack, queue, now, random, lease, .. } = self;
        let mut pieces = VecDeque::new();
        let budget = Budget::new(budget_bytes);
        let mut context = FilterContext::new(*now, random, lease);
        let result = stack.write(queue, &mut pieces, room_bytes, &budget, &mut context);
        let mut charged_bytes = 0;
        for piece in pieces {
            written.extend_from_slice(piece.payload.as_slice());
            charged_bytes += piece.charge_bytes;
        }
        result.map(|()| charged_bytes)
    }

    /// Finishes our side; whether the filter has nothing more to write.
    pub fn finish(&mut self) -> bool {
        let Self { stack, now, random, lease, .. } = self;
        stack.finish(&mut FilterContext::new(*now, random, lease))
    }

    /// Lets time pass, and tells the filter if its deadline is over then.
    ///
    /// # Errors
    /// Those of the filter.
    pub fn pass(&mut self, time: Duration) -> Result<(), FilterError> {
        self.now = self.now.saturating_add(time);
        let Self { stack, now, reading_since, random, lease, .. } = self;
        let mut context = FilterContext::new(*now, random, lease);
        context.reading_since = *reading_since;
        stack.time_passed(&mut context)
    }

    /// When the filter wants to be told the time.
    pub fn deadline(&self) -> Option<Time> {
        self.stack.deadline()
    }

    /// Whether the filter is established.
    pub fn is_established(&self) -> bool {
        self.stack.is_established()
    }

    /// Whether the filter has something to write although nothing is queued.
    pub fn wants_write(&self) -> bool {
        self.stack.wants_write()
    }

    /// What the filter has learned.
    pub fn describe(&self) -> Description {
        self.stack.describe()
    }

    /// What is charged for buffers that the filter has handed up, in bytes.
    pub fn charged_bytes(&self) -> usize {
        self.lease.charged()
    }
}

/// For the tests of the library's own filters.
#[cfg(any(fuzzing, all(test, not(loom))))]
#[allow(dead_code, reason = "fuzz targets need some of it, and tests all")]
impl FilterBench {
    /// Whether the peer has finished.
    pub(super) fn has_ended(&self) -> bool {
        self.wire.finished
    }

    /// Whether messages wait above the filter.
    pub(super) fn has_queued(&self) -> bool {
        !self.queue.0.is_empty()
    }

    /// What is charged when the filter and all that it has not read are gone, in bytes.
    pub(super) fn into_charged_bytes(self) -> usize {
        let Self { stack, wire, lease, .. } = self;
        drop((stack, wire));
        lease.charged()
    }

    /// The peer finishes: nothing arrives any more.
    pub fn end(&mut self) {
        self.wire.finished = true;
    }
}

impl std::fmt::Debug for FilterBench {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("FilterBench")
            .field("stack", &self.stack)
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}
