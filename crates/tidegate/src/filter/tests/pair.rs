//! Two stacks that face each other, with a wire between them that a test cuts where it wants.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use crate::filter::{Budget, Filter, FilterContext, FilterError, Incoming, Outgoing, Read, Stack};
use crate::memory::{Buffer, Payload, Piece, SendLease, SendReserve};
use crate::time::Time;

/// One end: a stack, the messages that it is to send, and what it has received.
pub(crate) struct End {
    pub stack: Stack,
    /// Messages to be sent.
    queue: Queue,
    /// What has come and was not read.
    wire: Wire,
    /// What was read at the top, one entry for each [`Read::Data`].
    pub received: Vec<Vec<u8>>,
    /// The top has said that the stream is over.
    pub finished: bool,
    /// How a filter failed, if one did.
    pub error: Option<FilterError>,
    /// What waits on the wire for the other end.
    sent: VecDeque<u8>,
    /// The half-close has gone out.
    shut: bool,
    shutdown_wanted: bool,
    /// At most so many bytes are written at once.
    pub room_bytes: usize,
    /// Since when it is read from, if it is, as it tells filters when time passes.
    pub reading_since: Option<Time>,
    random: u64,
    pub lease: Rc<SendLease>,
}

#[derive(Default)]
struct Queue(VecDeque<Piece>);

impl Outgoing for Queue {
    fn next(&mut self) -> Option<Piece> {
        self.0.pop_front()
    }
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

impl End {
    pub(crate) fn new(stack: Stack) -> Self {
        Self {
            stack,
            queue: Queue::default(),
            wire: Wire::default(),
            received: Vec::new(),
            finished: false,
            error: None,
            sent: VecDeque::new(),
            shut: false,
            shutdown_wanted: false,
            room_bytes: 64 << 10,
            reading_since: Some(Time::ZERO),
            random: 1,
            lease: SendLease::new(SendReserve::new(64 << 20)),
        }
    }

    /// Queues a message.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let payload = Payload::copy_from(bytes);
        let charge_bytes = payload.charge_bytes();
        self.queue.0.push_back(Piece { charge_bytes, held_bytes: payload.held_bytes(), payload });
    }

    /// Finishes after what is queued.
    pub(crate) fn shutdown(&mut self) {
        self.shutdown_wanted = true;
    }

    /// What was received in all.
    pub(crate) fn all_received(&self) -> Vec<u8> {
        self.received.concat()
    }

    /// Reads all there is at the top.
    pub(crate) fn read(&mut self, now: Time) {
        while self.error.is_none() && !self.finished {
            let mut context = FilterContext::new(now, &mut self.random, &self.lease);
            match self.stack.read(&mut self.wire, &mut context) {
                Ok(Read::Data(data)) => self.received.push(data.to_vec()),
                Ok(Read::Finished) => self.finished = true,
                Ok(Read::Starved | Read::NoMemory) => return,
                Err(error) => self.error = Some(error),
            }
        }
    }

    /// Writes all there is to be written, and the end.
    fn write(&mut self, now: Time) {
        self.write_data(now);
        while self.shutdown_wanted && !self.shut && self.queue.0.is_empty() && self.error.is_none() {
            let mut context = FilterContext::new(now, &mut self.random, &self.lease);
            self.shut = self.stack.finish(&mut context);
            // What a filter holds back, it writes when its time has come.
            if self.shut || !self.write_data(now) {
                break;
            }
        }
    }

    /// Writes what filters let through; says whether that was anything.
    fn write_data(&mut self, now: Time) -> bool {
        let mut wrote = false;
        loop {
            let mut context = FilterContext::new(now, &mut self.random, &self.lease);
            let mut pieces = VecDeque::new();
            let budget = Budget::new(usize::MAX);
            if self.error.is_none()
                && let Err(error) =
                    self.stack.write(&mut self.queue, &mut pieces, self.room_bytes, &budget, &mut context)
            {
                self.error = Some(error);
            }
            if pieces.is_empty() {
                return wrote;
            }
            wrote = true;
            self.sent.extend(pieces.iter().flat_map(|piece| piece.payload.as_slice()));
        }
    }

    /// Carries what it has to say to the other end; says whether that was anything.
    fn carry(&mut self, to: &mut End, now: Time, cut: &mut impl FnMut() -> usize) -> bool {
        self.write(now);
        let mut moved = false;
        while !self.sent.is_empty() {
            moved = true;
            let count = cut().clamp(1, self.sent.len());
            let bytes: Vec<u8> = self.sent.drain(..count).collect();
            to.arrive(&bytes);
            to.read(now);
        }
        if self.shut && !to.wire.finished {
            moved = true;
            to.wire.finished = true;
            to.read(now);
        }
        moved
    }

    /// Lets a buffer come as it is.
    pub(crate) fn arrive_in(&mut self, buffer: Buffer) {
        self.wire.buffers.push_back(buffer);
    }

    /// Reads once at the top; what came of it, if that was data.
    pub(crate) fn read_once(&mut self, now: Time) -> Option<Buffer> {
        let mut context = FilterContext::new(now, &mut self.random, &self.lease);
        match self.stack.read(&mut self.wire, &mut context) {
            Ok(Read::Data(data)) => Some(data),
            _ => None,
        }
    }

    fn arrive(&mut self, bytes: &[u8]) {
        let buffer = Buffer::copied(bytes, &self.lease).expect("a test has memory");
        self.wire.buffers.push_back(buffer);
    }
}

/// Two ends and the time.
pub(crate) struct Pair {
    pub client: End,
    pub server: End,
    pub now: Time,
}

impl Pair {
    pub(crate) fn new(client: Stack, server: Stack) -> Self {
        Self { client: End::new(client), server: End::new(server), now: Time::ZERO }
    }

    /// Carries bytes to and fro, in pieces whose sizes `cut` chooses, until nothing moves any more.
    pub(crate) fn run(&mut self, mut cut: impl FnMut() -> usize) {
        let Self { client, server, now } = self;
        loop {
            let there = client.carry(server, *now, &mut cut);
            let back = server.carry(client, *now, &mut cut);
            if !there && !back {
                return;
            }
        }
    }

    /// Carries everything in pieces as large as they come.
    pub(crate) fn run_whole(&mut self) {
        self.run(|| usize::MAX);
    }

    /// Lets time pass, and tells the filters whose deadline comes.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = [&self.client, &self.server].iter().filter_map(|side| side.stack.deadline()).min();
            let Some(next) = next.filter(|&next| next <= end) else { break };
            self.now = next.max(self.now);
            for side in [&mut self.client, &mut self.server] {
                let mut context = FilterContext::new(self.now, &mut side.random, &side.lease);
                context.reading_since = side.reading_since;
                if side.error.is_none()
                    && let Err(error) = side.stack.time_passed(&mut context)
                {
                    side.error = Some(error);
                }
                if side.reading_since.is_some() {
                    side.read(self.now);
                }
            }
            self.run_whole();
            if self.client.error.is_some() || self.server.error.is_some() {
                return;
            }
        }
        self.now = end;
    }
}

/// The sizes that follow each other, and then over again.
pub(crate) fn cycle(sizes: &[usize]) -> impl FnMut() -> usize {
    let sizes = sizes.to_vec();
    let mut turn = 0;
    move || {
        turn += 1;
        sizes[(turn - 1) % sizes.len()]
    }
}

/// A filter that changes nothing.
pub(crate) struct Plain;

impl Filter for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn read(
        &mut self,
        below: &mut crate::filter::Below<'_>,
        context: &mut FilterContext<'_>,
    ) -> Result<Read, FilterError> {
        use crate::filter::Fill;
        Ok(match below.fill(context)? {
            Fill::Data => below.take().map_or(Read::Starved, Read::Data),
            Fill::Starved => Read::Starved,
            Fill::NoMemory => Read::NoMemory,
            Fill::Finished => Read::Finished,
        })
    }
}
