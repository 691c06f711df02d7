//! Two stacks that face each other, with a wire between them that a test cuts where it wants.

use std::collections::VecDeque;
use std::time::Duration;

use crate::filter::{Filter, FilterBench, FilterContext, FilterError, Read, Stack, read_through};
use crate::memory::Payload;
use crate::time::Time;

/// One end: filters on a bench, and what they have received.
pub(crate) struct End {
    pub bench: FilterBench,
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
}

impl End {
    pub(crate) fn new(stack: Stack) -> Self {
        Self {
            bench: FilterBench::of(stack, 64 << 20),
            received: Vec::new(),
            finished: false,
            error: None,
            sent: VecDeque::new(),
            shut: false,
            shutdown_wanted: false,
            room_bytes: 64 << 10,
        }
    }

    /// Queues a message.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.bench.send(Payload::copy_from(bytes));
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
    pub(crate) fn read(&mut self) {
        while self.error.is_none() && !self.finished {
            match self.bench.read() {
                Ok(Read::Data(data)) => self.received.push(data.to_vec()),
                Ok(Read::Finished) => self.finished = true,
                Ok(Read::Starved | Read::NoMemory) => return,
                Err(error) => self.error = Some(error),
            }
        }
    }

    /// Writes all there is to be written, and the end.
    fn write(&mut self) {
        self.write_data();
        while self.shutdown_wanted && !self.shut && !self.bench.has_queued() && self.error.is_none() {
            self.shut = self.bench.finish();
            // What a filter holds back, it writes when its time has come.
            if self.shut || !self.write_data() {
                break;
            }
        }
    }

    /// Writes what filters let through; says whether that was anything.
    fn write_data(&mut self) -> bool {
        let mut written = Vec::new();
        while self.error.is_none() {
            let before = written.len();
            self.error = self.bench.write_within(self.room_bytes, usize::MAX, &mut written).err();
            if written.len() == before {
                break;
            }
        }
        self.sent.extend(&written);
        !written.is_empty()
    }

    /// Carries what it has to say to the other end; says whether that was anything.
    fn carry(&mut self, to: &mut End, cut: &mut impl FnMut() -> usize) -> bool {
        self.write();
        let mut moved = false;
        while !self.sent.is_empty() {
            moved = true;
            let count = cut().clamp(1, self.sent.len());
            let bytes: Vec<u8> = self.sent.drain(..count).collect();
            to.bench.arrive(&bytes);
            to.read();
        }
        if self.shut && !to.bench.has_ended() {
            moved = true;
            to.bench.end();
            to.read();
        }
        moved
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
        self.tell_time();
        let Self { client, server, .. } = self;
        loop {
            let there = client.carry(server, &mut cut);
            let back = server.carry(client, &mut cut);
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
            let next = [&self.client, &self.server].iter().filter_map(|side| side.bench.deadline()).min();
            let Some(next) = next.filter(|&next| next <= end) else { break };
            self.now = next.max(self.now);
            for side in [&mut self.client, &mut self.server] {
                side.bench.now = self.now;
                if side.error.is_none() {
                    side.error = side.bench.pass(Duration::ZERO).err();
                }
                if side.bench.reading_since.is_some() {
                    side.read();
                }
            }
            self.run_whole();
            if self.client.error.is_some() || self.server.error.is_some() {
                return;
            }
        }
        self.now = end;
        self.tell_time();
    }

    fn tell_time(&mut self) {
        (self.client.bench.now, self.server.bench.now) = (self.now, self.now);
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
        read_through(below, context)
    }
}
