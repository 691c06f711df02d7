//! The engine on io_uring (Linux 6.1 and later).
//!
//! One ring per I/O thread. Receives are multishot on one provided-buffer ring, so that an idle socket holds no
//! buffer; accepts are posted singly between zero and [`ACCEPTS_POSTED`], each with room for its address, so that never
//! more connections are taken than there is credit for; sends are gathered, one in flight per socket, and never wait in
//! the kernel (see `Socket::send_entry`).
//! Half-closes are done by the plain call, because the ring would hand them to a worker thread each time.

mod buffer_ring;
mod kind;
mod listening;
mod probe;
mod raw;
mod recording;
mod reporting;
mod setup;
mod socket;
mod teardown;
#[cfg(test)]
mod tests;
mod waiting;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};

use self::buffer_ring::BufferRing;
use self::kind::Kind;
use self::listening::Listeners;
use self::raw::KernelAddress;
use self::socket::{Ending, Operation, SendOperations, Socket};
use crate::engine::spin::Spin;
use crate::engine::{
    CloseMode, Completion, Engine, EngineConfig, EngineCounters, ListenerId, PreparedEngine, SocketId, Stale, Waker,
    apply_socket_options,
};
use crate::memory::{ArenaMemory, Chunked, FreeList, Gather, Line, ReceiveArena};
use crate::random::split_mix;
use crate::time::Time;

pub(crate) use self::listening::{UringListener, UringStream};
pub(crate) use self::probe::probe;
pub(crate) use self::setup::SetupError;

/// The most accepts posted on one listener at once. Accepts cost one submission each wherever they are posted; 16 is what was
/// enough in a run with a million connections.
const ACCEPTS_POSTED: u32 = 16;

/// A ring with everything that can fail done, ready to be started by the thread that will own it.
pub(crate) struct Prepared {
    ring: IoUring,
    buffers: BufferRing,
    memory: Arc<ArenaMemory>,
    wake: Arc<Wake>,
    config: EngineConfig,
}

/// Makes a ring, its buffers and its waker. The ring stays disabled until [`Prepared::start`].
///
/// # Errors
/// [`SetupError`], which says what to do about it.
pub(crate) fn prepare(config: EngineConfig) -> Result<Prepared, SetupError> {
    let ring = setup::build_ring(config.submission_entries, config.completion_entries)?;
    let event = raw::eventfd().map_err(SetupError::Other)?;
    let wake = Arc::new(Wake { event, announced: AtomicBool::new(false) });
    let waker = Arc::clone(&wake);
    let memory = ArenaMemory::new(config.arena, Box::new(move || waker.wake()));
    let buffers = BufferRing::register(&ring.submitter(), config.arena.buffers).map_err(SetupError::Other)?;
    Ok(Prepared { ring, buffers, memory, wake, config })
}

impl PreparedEngine for Prepared {
    type Engine = UringEngine;

    fn waker(&self) -> Waker {
        waker(&self.wake)
    }

    fn start(self) -> io::Result<UringEngine> {
        let Self { ring, buffers, memory, wake, config } = self;
        ring.submitter().register_enable_rings()?;
        let no_iowait = ring.params().is_feature_no_iowait();
        let began = Instant::now();
        let mut engine = UringEngine {
            arena: ReceiveArena::new(memory),
            sockets: Chunked::new(config.sockets),
            places: FreeList::new(config.sockets),
            listeners: Listeners::default(),
            sends: SendOperations::default(),
            line: Line::default(),
            back_in_line: Vec::new(),
            spilled: VecDeque::new(),
            ready: VecDeque::new(),
            half_closes: Vec::new(),
            refusals: Vec::new(),
            notices: Vec::new(),
            vacated: Vec::new(),
            in_flight: 0,
            wake_count: Box::new(0),
            spin: Spin::new(config.spin),
            now: Time::ZERO,
            random: raw::random_seed(),
            counters: EngineCounters::default(),
            reported: Vec::new(),
            #[cfg(test)]
            plant: None,
            ring,
            buffers,
            wake,
            no_iowait,
            began,
            config,
        };
        engine.post_wake();
        Ok(engine)
    }
}

/// Wakes an engine from another thread.
struct Wake {
    event: OwnedFd,
    /// A wake is on its way: others need not write again.
    announced: AtomicBool,
}

impl Wake {
    fn wake(&self) {
        // The exchange makes everything written before it visible to the owner, which clears the flag before it looks at
        // what others have left for it.
        if !self.announced.swap(true, Ordering::AcqRel) {
            raw::eventfd_signal(&self.event);
        }
    }
}

fn waker(wake: &Arc<Wake>) -> Waker {
    let wake = Arc::clone(wake);
    Waker::new(Arc::new(move || wake.wake()))
}

/// A bug that a test plants, to see that the suite finds it.
#[cfg(test)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plant {
    /// A cancelled send gives its memory back at once and not at its last completion.
    FreeOnCancel,
}

/// The engine. See the [contract](crate::engine).
pub(crate) struct UringEngine {
    ring: IoUring,
    arena: ReceiveArena,
    buffers: BufferRing,
    sockets: Chunked<Socket>,
    places: FreeList,
    listeners: Listeners,
    sends: SendOperations,
    /// Receives that wait for a buffer.
    line: Line<SocketId>,
    /// Those that had their turn in this poll and found the buffer taken.
    back_in_line: Vec<SocketId>,
    /// Submissions that found the queue full, oldest first. Bounded: each socket has at most a receive, another operation,
    /// their cancels and a close.
    spilled: VecDeque<Entry>,
    /// Completions that needed no system call.
    ready: VecDeque<Completion<UringStream>>,
    half_closes: Vec<SocketId>,
    /// Connections that the next poll turns away, with what they are told. Bounded by accept credit.
    refusals: Vec<(UringStream, Bytes)>,
    /// Sockets of which the next poll has something to tell, unless what is wanted of them changes before it.
    notices: Vec<SocketId>,
    /// Places whose `Closed` the last poll has reported: free from the next one on, when the caller has seen it.
    vacated: Vec<u32>,
    /// Operations that the kernel has, and their memory with it.
    in_flight: usize,
    wake: Arc<Wake>,
    /// Where the kernel writes the wake counter.
    wake_count: Box<u64>,
    spin: Spin,
    no_iowait: bool,
    began: Instant,
    now: Time,
    random: u64,
    counters: EngineCounters,
    /// What the kernel has reported and is being handled: user data, result, flags.
    reported: Vec<(u64, i32, u32)>,
    config: EngineConfig,
    #[cfg(test)]
    pub(crate) plant: Option<Plant>,
}

impl Engine for UringEngine {
    type Stream = UringStream;
    type Listener = UringListener;

    fn now(&self) -> Time {
        self.now
    }

    fn random(&mut self) -> u64 {
        split_mix(&mut self.random)
    }

    fn arena(&self) -> &ReceiveArena {
        &self.arena
    }

    fn waker(&self) -> Waker {
        waker(&self.wake)
    }

    fn counters(&self) -> EngineCounters {
        self.counters
    }

    fn listen(&mut self, listener: UringListener) -> ListenerId {
        self.listeners.add(listener)
    }

    fn accept(&mut self, listener: ListenerId, count: u32) {
        self.listeners.add_credit(listener, count);
        if count == 0
            && let Some(number) = self.listeners.any_posted(listener)
        {
            // It comes back without having used its credit, and is posted anew: an accept looks at the backlog when it is posted.
            self.cancel(Kind::Accept.user_data(number, 0));
        }
        self.post_accepts(listener);
    }

    fn close_listener(&mut self, listener: ListenerId, sweep: u32) {
        for number in self.listeners.begin_close(listener, sweep) {
            self.cancel(Kind::Accept.user_data(number, 0));
        }
    }

    fn refuse(&mut self, stream: UringStream, answer: &Bytes) {
        self.refusals.push((stream, answer.clone()));
    }

    fn adopt(&mut self, stream: UringStream) -> Result<SocketId, UringStream> {
        match self.take_place() {
            Some(id) => {
                self.sockets[id.index].descriptor = Some(stream.into_descriptor());
                Ok(id)
            }
            None => Err(stream),
        }
    }

    fn connect(&mut self, address: SocketAddr, source: Option<IpAddr>) -> Option<SocketId> {
        let id = self.take_place()?;
        let socket = raw::tcp_socket(&address, source)
            .and_then(|socket| apply_socket_options(&socket, &self.config.socket_options).map(|()| socket));
        match socket {
            Ok(descriptor) => {
                let target = Box::new(KernelAddress::from_std(address));
                let raw = types::Fd(descriptor.as_raw_fd());
                let entry = opcode::Connect::new(raw, (&raw const target.storage).cast(), target.length)
                    .build()
                    .user_data(Kind::Connect.user_data(id.index, id.generation));
                let socket = &mut self.sockets[id.index];
                socket.descriptor = Some(descriptor);
                socket.operation = Operation::Connect(target);
                self.begin(entry);
            }
            Err(error) => self.ready.push_back(Completion::Connected { socket: id, result: Err(error) }),
        }
        Some(id)
    }

    fn receive(&mut self, id: SocketId) -> Result<(), Stale> {
        let socket = self.socket(id)?;
        if socket.receive.ended || socket.receive.discard || socket.ending != Ending::Open {
            return Ok(());
        }
        socket.receive.wanted = true;
        socket.receive.pause_due = false;
        if socket.kept_error != 0 {
            self.notices.push(id);
        } else if !socket.receive.armed && !socket.receive.starving {
            self.arm_or_wait(id);
        }
        Ok(())
    }

    fn pause_receive(&mut self, id: SocketId) -> Result<(), Stale> {
        let socket = self.socket(id)?;
        if !socket.receive.wanted || socket.receive.discard || socket.receive.ended {
            return Ok(());
        }
        socket.receive.wanted = false;
        if socket.receive.armed {
            self.cancel_receive(id);
        } else {
            socket.receive.pause_due = true;
            let starving = socket.receive.starving;
            self.notices.push(id);
            if starving {
                self.leave_line(id);
            }
        }
        Ok(())
    }

    fn discard(&mut self, id: SocketId) -> Result<(), Stale> {
        let socket = self.socket(id)?;
        if socket.receive.discard || socket.ending != Ending::Open {
            return Ok(());
        }
        socket.receive.discard = true;
        if socket.receive.ended {
            return Ok(());
        }
        socket.receive.wanted = true;
        socket.receive.pause_due = false;
        if socket.kept_error != 0 {
            self.notices.push(id);
        } else if socket.receive.armed {
            self.cancel_receive(id);
        } else {
            if socket.receive.starving {
                self.leave_line(id);
            }
            self.arm(id, false);
        }
        Ok(())
    }

    fn send(&mut self, id: SocketId, gather: Box<Gather>) -> Result<(), Box<Gather>> {
        let Ok(socket) = socket_mut(&mut self.sockets, id) else { return Err(gather) };
        debug_assert!(matches!(socket.operation, Operation::None), "a second send in flight on {id:?}");
        debug_assert!(!gather.is_empty(), "an empty send on {id:?}");
        if !matches!(socket.operation, Operation::None) || socket.ending != Ending::Open {
            return Err(gather);
        }
        socket.operation = self.sends.begin(gather);
        if let Some(entry) = socket.send_entry(id) {
            self.begin(entry);
        }
        Ok(())
    }

    fn shutdown_write(&mut self, id: SocketId) -> Result<(), Stale> {
        let socket = self.socket(id)?;
        debug_assert!(matches!(socket.operation, Operation::None), "a half-close with a send in flight on {id:?}");
        self.half_closes.push(id);
        Ok(())
    }

    fn close(&mut self, id: SocketId, mode: CloseMode) -> Result<(), Stale> {
        let socket = self.socket(id)?;
        if socket.ending != Ending::Open {
            return Ok(());
        }
        socket.ending = Ending::Cancelling(mode);
        socket.receive.wanted = false;
        let connects = matches!(socket.operation, Operation::Connect(_));
        if socket.receive.starving {
            self.leave_line(id);
        }
        self.cancel_receive(id);
        self.cancel_watch(id);
        if connects {
            self.cancel(Kind::Connect.user_data(id.index, id.generation));
        }
        #[cfg(test)]
        self.free_early_if_planted(id);
        self.end_waiting_send(id);
        self.close_if_quiet(id.index);
        Ok(())
    }

    fn unread_bytes(&self, id: SocketId) -> usize {
        match self.sockets.get(id.index) {
            Some(socket) if socket.in_use && socket.generation == id.generation => {
                raw::unread_bytes(socket.raw()).unwrap_or(0)
            }
            _ => 0,
        }
    }

    fn peer_address(&self, id: SocketId) -> Option<SocketAddr> {
        let socket = self.sockets.get(id.index)?;
        let is_current = socket.in_use && socket.generation == id.generation;
        is_current.then(|| raw::peer_address(socket.raw())).flatten()
    }

    fn oldest_published(&self, id: SocketId) -> Option<Time> {
        let socket = self.sockets.get(id.index).filter(|socket| socket.in_use && socket.generation == id.generation)?;
        socket.operation.gather()?.oldest_published()
    }

    fn poll(&mut self, deadline: Option<Time>, completions: &mut Vec<Completion<UringStream>>) -> io::Result<()> {
        let reported = completions.len();
        for index in self.vacated.drain(..) {
            self.places.give(index);
        }
        self.give_notice();
        self.half_close_now();
        self.refuse_now();
        self.listeners.finish_closes(&mut self.ready);
        self.arena.collect_returned();
        self.buffers.provide(&self.arena);
        let more_turns = self.feed_the_line();
        let wait = self.ready.is_empty() && !more_turns;
        let result = self.submit_and_wait(if wait { deadline } else { Some(Time::ZERO) });
        completions.extend(self.ready.drain(..));
        self.reap(completions);
        self.listeners.finish_closes(&mut self.ready);
        completions.extend(self.ready.drain(..));
        self.back_to_the_line();
        self.counters.polls += 1;
        debug_assert!(completions.len() >= reported);
        result
    }
}

impl UringEngine {
    /// Turns away what was refused since the last poll.
    fn refuse_now(&mut self) {
        for (stream, answer) in self.refusals.drain(..) {
            stream.turn_away(&answer);
        }
    }
}

impl fmt::Debug for UringEngine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("UringEngine")
            .field("in_flight", &self.in_flight)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

fn socket_mut(sockets: &mut Chunked<Socket>, id: SocketId) -> Result<&mut Socket, Stale> {
    match sockets.get_mut(id.index) {
        Some(socket) if socket.in_use && socket.generation == id.generation => Ok(socket),
        _ => Err(Stale),
    }
}
