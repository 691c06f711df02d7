//! The engine on io_uring (Linux 6.1 and later).
//!
//! One ring per I/O thread. Receives are multishot on one provided-buffer ring, so that an idle socket holds no
//! buffer; accepts are posted singly between zero and [`ACCEPTS_POSTED`], each with room for its address, so that never
//! more connections are taken than there is credit for; sends are gathered, one in flight per socket.
//! Half-closes are done by the plain call, because the ring would hand them to a worker thread each time.

mod buffer_ring;
mod listening;
mod raw;
mod setup;
mod socket;
mod starving;
mod waiting;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use io_uring::squeue::Entry;
use io_uring::{IoUring, cqueue, opcode, types};

use self::buffer_ring::BufferRing;
use self::listening::Listeners;
use self::raw::KernelAddress;
use self::socket::{Ending, Operation, SendOperations, Socket};
use self::starving::Line;
use self::waiting::Spin;
use crate::engine::{CloseMode, Completion, Engine, EngineConfig, EngineCounters, ListenerId, SocketId, Stale, Waker};
use crate::memory::{ArenaMemory, Chunked, FreeList, Gather, ReceiveArena};
use crate::time::Time;

pub(crate) use self::listening::{UringListener, UringStream};
pub(crate) use self::setup::SetupError;

/// The most accepts posted on one listener at once. Accepts cost one submission each wherever they are posted; 16 is what was
/// enough in a run with a million connections.
const ACCEPTS_POSTED: u32 = 16;

/// How much one discarding receive throws away at most, in bytes.
const DISCARD_BYTES: u32 = 64 * 1024;

/// What a completion belongs to: the top byte of its user data. Below it are 24 bits of the generation and 32 bits of
/// the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Kind {
    Receive = 1,
    Discard = 2,
    Send = 3,
    Connect = 4,
    Close = 5,
    Accept = 6,
    Wake = 7,
    Cancel = 8,
}

impl Kind {
    fn user_data(self, index: u32, generation: u32) -> u64 {
        (self as u64) << 56 | u64::from(generation & GENERATION_MASK) << 32 | u64::from(index)
    }

    fn of(user_data: u64) -> Option<Self> {
        Some(match user_data >> 56 {
            1 => Self::Receive,
            2 => Self::Discard,
            3 => Self::Send,
            4 => Self::Connect,
            5 => Self::Close,
            6 => Self::Accept,
            7 => Self::Wake,
            8 => Self::Cancel,
            _ => return None,
        })
    }
}

/// The part of a generation that fits in the user data. A place is used again only after its last completion, so the
/// rest is not needed to tell users apart; it is checked.
const GENERATION_MASK: u32 = 0x00FF_FFFF;

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

impl Prepared {
    /// A way to end the engine's `poll`, valid before it has started.
    pub(crate) fn waker(&self) -> Waker {
        waker(&self.wake)
    }

    /// Makes the calling thread the owner of the ring.
    ///
    /// # Errors
    /// What the kernel says when the ring is enabled.
    pub(crate) fn start(self) -> io::Result<UringEngine> {
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
    line: Line,
    /// Those that had their turn in this poll and found the buffer taken.
    back_in_line: Vec<SocketId>,
    /// Submissions that found the queue full, oldest first. Bounded: each socket has at most a receive, another operation,
    /// their cancels and a close.
    spilled: VecDeque<Entry>,
    /// Completions that needed no system call.
    ready: VecDeque<Completion<UringStream>>,
    half_closes: Vec<SocketId>,
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
        // SplitMix64: the constants are from its reference implementation (public domain, S. Vigna).
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
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
        self.post_accepts(listener);
    }

    fn close_listener(&mut self, listener: ListenerId, sweep: u32) {
        for number in self.listeners.begin_close(listener, sweep) {
            self.cancel(Kind::Accept.user_data(number, 0));
        }
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

    fn connect(&mut self, address: SocketAddr) -> Option<SocketId> {
        let id = self.take_place()?;
        match raw::tcp_socket(&address) {
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
        let operation = self.sends.begin(gather);
        let descriptor = types::Fd(socket.raw());
        let entry = match operation.slices() {
            [slice] => opcode::Send::new(descriptor, slice.iov_base.cast_const().cast(), slice.iov_len as u32).build(),
            _ => opcode::SendMsg::new(descriptor, operation.header()).build(),
        };
        socket.operation = Operation::Send(operation);
        self.begin(entry.user_data(Kind::Send.user_data(id.index, id.generation)));
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
        let other = match socket.operation {
            Operation::None => None,
            Operation::Send(_) => Some(Kind::Send),
            Operation::Connect(_) => Some(Kind::Connect),
        };
        if socket.receive.starving {
            self.leave_line(id);
        }
        self.cancel_receive(id);
        if let Some(kind) = other {
            self.cancel(kind.user_data(id.index, id.generation));
            #[cfg(test)]
            self.free_early_if_planted(id);
        }
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

    fn poll(&mut self, deadline: Option<Time>, completions: &mut Vec<Completion<UringStream>>) -> io::Result<()> {
        let reported = completions.len();
        for index in self.vacated.drain(..) {
            self.places.give(index);
        }
        self.give_notice();
        self.half_close_now();
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

/// What is recorded, and handed over by the next poll.
impl UringEngine {
    fn socket(&mut self, id: SocketId) -> Result<&mut Socket, Stale> {
        socket_mut(&mut self.sockets, id)
    }

    fn take_place(&mut self) -> Option<SocketId> {
        let index = self.places.take()?;
        let socket = self.sockets.ensure(index);
        let generation = socket.generation.wrapping_add(1);
        *socket = Socket { generation, in_use: true, ..Socket::default() };
        Some(SocketId { index, generation })
    }

    /// Queues an operation whose memory the kernel has until its last completion.
    fn begin(&mut self, entry: Entry) {
        self.in_flight += 1;
        self.push(entry);
    }

    fn push(&mut self, entry: Entry) {
        if self.spilled.is_empty() {
            // SAFETY: everything an entry points to is owned by this engine's tables until the completion of the
            // operation, or, at tear-down, leaked if that doesn't come.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        self.spilled.push_back(entry);
        self.counters.submissions_deferred += 1;
    }

    fn cancel(&mut self, user_data: u64) {
        let entry = opcode::AsyncCancel::new(user_data).build();
        self.push(entry.user_data(Kind::Cancel.user_data(0, 0)));
    }

    fn cancel_receive(&mut self, id: SocketId) {
        let receive = &mut self.sockets[id.index].receive;
        if receive.armed && !receive.canceling {
            receive.canceling = true;
            let kind = if receive.armed_discards { Kind::Discard } else { Kind::Receive };
            self.cancel(kind.user_data(id.index, id.generation));
        }
    }

    /// Arms a receive if there is a buffer that nobody waits for, else joins the line.
    fn arm_or_wait(&mut self, id: SocketId) {
        if self.line.is_empty() && (self.buffers.provided() > 0 || self.arena.free() > 0) {
            self.arm(id, false);
        } else {
            self.sockets[id.index].receive.starving = true;
            self.line.join(id);
            self.counters.starving += 1;
        }
    }

    fn arm(&mut self, id: SocketId, one_shot: bool) {
        let socket = &mut self.sockets[id.index];
        debug_assert!(!socket.receive.armed && socket.ending == Ending::Open);
        socket.receive.armed = true;
        socket.receive.canceling = false;
        socket.receive.one_shot = one_shot;
        socket.receive.armed_discards = socket.receive.discard;
        let descriptor = types::Fd(socket.raw());
        let (entry, kind) = if socket.receive.discard {
            // With MSG_TRUNC TCP throws the bytes away and never touches the (missing) memory.
            let entry = opcode::Recv::new(descriptor, null_mut(), DISCARD_BYTES).flags(libc::MSG_TRUNC).build();
            (entry, Kind::Discard)
        } else if one_shot {
            let length = self.arena.buffer_bytes() as u32;
            let entry = opcode::Recv::new(descriptor, null_mut(), length).buf_group(buffer_ring::GROUP).build();
            (entry.flags(io_uring::squeue::Flags::BUFFER_SELECT), Kind::Receive)
        } else {
            (opcode::RecvMulti::new(descriptor, buffer_ring::GROUP).build(), Kind::Receive)
        };
        self.begin(entry.user_data(kind.user_data(id.index, id.generation)));
    }

    fn post_accepts(&mut self, listener: ListenerId) {
        while let Some((entry, number)) = self.listeners.next_accept(listener) {
            self.begin(entry.user_data(Kind::Accept.user_data(number, 0)));
        }
    }

    fn post_wake(&mut self) {
        let descriptor = types::Fd(self.wake.event.as_raw_fd());
        let entry = opcode::Read::new(descriptor, (&raw mut *self.wake_count).cast(), 8).build();
        self.begin(entry.user_data(Kind::Wake.user_data(0, 0)));
    }

    fn leave_line(&mut self, id: SocketId) {
        self.sockets[id.index].receive.starving = false;
        let sockets = &self.sockets;
        self.line.leave(|waiting| waits_for_buffer(sockets, waiting));
        self.counters.starving -= 1;
    }

    /// Hands out turns to the receives in line: as many as there are buffers, each for one buffer. Returns whether turns were
    /// given while others still wait: then this poll must not sleep, because those that got a turn may have no data.
    fn feed_the_line(&mut self) -> bool {
        if self.line.is_empty() {
            return false;
        }
        let mut turns = self.buffers.provided();
        let gave = turns > 0;
        while turns > 0 {
            let sockets = &self.sockets;
            let Some(id) = self.line.next(|waiting| waits_for_buffer(sockets, waiting)) else { break };
            self.sockets[id.index].receive.starving = false;
            self.counters.starving -= 1;
            self.arm(id, true);
            turns -= 1;
        }
        gave && !self.line.is_empty()
    }

    fn back_to_the_line(&mut self) {
        if !self.back_in_line.is_empty() {
            let sockets = &self.sockets;
            self.back_in_line.retain(|&id| waits_for_buffer(sockets, id));
            self.line.rejoin(&mut self.back_in_line);
        }
    }

    fn half_close_now(&mut self) {
        for id in mem::take(&mut self.half_closes) {
            if let Ok(socket) = socket_mut(&mut self.sockets, id)
                && socket.ending == Ending::Open
            {
                let result = raw::shutdown_write(socket.raw());
                self.ready.push_back(Completion::WriteShut { socket: id, result });
            }
        }
    }

    /// Tells what needs no system call, as far as it still holds: a pause or an error that was asked for before may have been called
    /// off or taken over by a close.
    fn give_notice(&mut self) {
        for id in mem::take(&mut self.notices) {
            let Ok(socket) = socket_mut(&mut self.sockets, id) else { continue };
            if socket.ending != Ending::Open {
                if socket.ending == Ending::NothingToClose {
                    self.release(id);
                    self.ready.push_back(Completion::Closed { socket: id });
                }
            } else if socket.receive.wanted && socket.kept_error != 0 {
                socket.receive.ended = true;
                let error = io::Error::from_raw_os_error(mem::take(&mut socket.kept_error));
                self.ready.push_back(Completion::ReceiveFailed { socket: id, error });
            } else if mem::take(&mut socket.receive.pause_due) {
                self.ready.push_back(Completion::ReceivePaused { socket: id });
            }
        }
    }

    /// Closes a socket that is to be closed as soon as nothing of it is in flight.
    fn close_if_quiet(&mut self, index: u32) {
        let socket = &mut self.sockets[index];
        let Ending::Cancelling(mode) = socket.ending else { return };
        if socket.has_operations() {
            return;
        }
        socket.ending = Ending::Closing;
        let id = socket.id(index);
        match socket.descriptor.take() {
            Some(descriptor) => {
                if mode == CloseMode::Abort {
                    // On a socket that is no longer connected this may fail; then there is nobody to reset.
                    let _ = raw::reset_on_close(descriptor.as_raw_fd());
                }
                // From here on the descriptor is the kernel's to close.
                let entry = opcode::Close::new(types::Fd(std::os::fd::IntoRawFd::into_raw_fd(descriptor))).build();
                self.begin(entry.user_data(Kind::Close.user_data(index, id.generation)));
            }
            None => {
                socket.ending = Ending::NothingToClose;
                self.notices.push(id);
            }
        }
    }

    fn release(&mut self, id: SocketId) {
        let socket = &mut self.sockets[id.index];
        debug_assert!(!socket.has_operations());
        *socket = Socket { generation: socket.generation, ..Socket::default() };
        self.vacated.push(id.index);
    }

    #[cfg(test)]
    fn free_early_if_planted(&mut self, id: SocketId) {
        if self.plant == Some(Plant::FreeOnCancel)
            && let Operation::Send(operation) = &mut self.sockets[id.index].operation
        {
            // The memory and nothing else: the bookkeeping stays right, as it would in a build with this bug.
            operation.gather_mut().expect("a gather in flight").clear(drop);
        }
    }
}

/// What the kernel reports.
impl UringEngine {
    fn reap(&mut self, completions: &mut Vec<Completion<UringStream>>) {
        // The iterator borrows the ring, and handling a completion pushes submissions: so all are taken first. There are at most as
        // many as the completion queue has entries.
        let mut reported = mem::take(&mut self.reported);
        reported.extend(self.ring.completion().map(|entry| (entry.user_data(), entry.result(), entry.flags())));
        self.counters.completions += reported.len() as u64;
        for (user_data, result, flags) in reported.drain(..) {
            self.completed(user_data, result, flags, completions);
        }
        self.reported = reported;
    }

    fn completed(&mut self, user_data: u64, result: i32, flags: u32, out: &mut Vec<Completion<UringStream>>) {
        let index = user_data as u32;
        let generation = (user_data >> 32) as u32 & GENERATION_MASK;
        let kind = Kind::of(user_data);
        if !matches!(kind, Some(Kind::Cancel)) && !cqueue::more(flags) {
            self.in_flight -= 1;
        }
        if let Some(Kind::Receive | Kind::Discard | Kind::Send | Kind::Connect | Kind::Close) = kind {
            let socket = &self.sockets[index];
            assert!(
                socket.in_use && socket.generation & GENERATION_MASK == generation,
                "a completion ({kind:?}) of socket {index}, generation {generation}, after its last one"
            );
        }
        match kind {
            Some(Kind::Receive) => self.received(index, result, flags, out),
            Some(Kind::Discard) => self.discarded(index, result, out),
            Some(Kind::Send) => self.sent(index, result, out),
            Some(Kind::Connect) => self.connected(index, result, out),
            Some(Kind::Close) => {
                let id = self.sockets[index].id(index);
                self.release(id);
                out.push(Completion::Closed { socket: id });
            }
            Some(Kind::Accept) => {
                let listener = self.listeners.accepted(index, result, out);
                self.post_accepts(listener);
            }
            Some(Kind::Wake) => {
                // Cleared before the caller looks at what others left for it: who comes later writes again.
                self.wake.announced.swap(false, Ordering::AcqRel);
                self.post_wake();
                out.push(Completion::Woken);
            }
            Some(Kind::Cancel) => {}
            None => unreachable!("a completion with user data {user_data:#x}, which nobody gave"),
        }
    }

    fn received(&mut self, index: u32, result: i32, flags: u32, out: &mut Vec<Completion<UringStream>>) {
        let socket = &mut self.sockets[index];
        let id = socket.id(index);
        let open = socket.ending == Ending::Open;
        let discards = socket.receive.discard;
        if let Some(buffer) = cqueue::buffer_select(flags) {
            self.buffers.taken();
            if result > 0 {
                let buffer = self.arena.filled(u32::from(buffer), result as usize, index);
                if open && !discards {
                    out.push(Completion::Received { socket: id, buffer });
                } else if open {
                    out.push(Completion::Discarded { socket: id, bytes: buffer.len() });
                }
            } else {
                self.arena.give_back(u32::from(buffer));
            }
        }
        if cqueue::more(flags) {
            return;
        }
        let receive = &mut socket.receive;
        let ended_by_itself = result > 0 && !receive.one_shot && !receive.canceling;
        let had_its_turn = receive.one_shot;
        receive.armed = false;
        receive.canceling = false;
        if !open {
            self.close_if_quiet(index);
            return;
        }
        if ended_by_itself {
            self.counters.rearmed += 1;
        }
        match -result {
            0 => self.receive_ended(id, None, out),
            libc::ENOBUFS if discards || !self.sockets[index].receive.wanted => self.receive_goes_on(id, out),
            libc::ENOBUFS => {
                self.sockets[index].receive.starving = true;
                self.counters.starved += 1;
                self.counters.starving += 1;
                if had_its_turn { self.back_in_line.push(id) } else { self.line.join(id) }
            }
            error if error > 0 && !matches!(error, libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {
                self.receive_ended(id, Some(error), out);
            }
            _ => self.receive_goes_on(id, out),
        }
    }

    fn discarded(&mut self, index: u32, result: i32, out: &mut Vec<Completion<UringStream>>) {
        let socket = &mut self.sockets[index];
        let id = socket.id(index);
        socket.receive.armed = false;
        socket.receive.canceling = false;
        if socket.ending != Ending::Open {
            self.close_if_quiet(index);
            return;
        }
        match -result {
            0 => self.receive_ended(id, None, out),
            error if error > 0 && !matches!(error, libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {
                self.receive_ended(id, Some(error), out);
            }
            _ => {
                if result > 0 {
                    out.push(Completion::Discarded { socket: id, bytes: result as usize });
                }
                self.arm(id, false);
            }
        }
    }

    /// A receive is over, but the stream is not: go on, or say that it is paused.
    fn receive_goes_on(&mut self, id: SocketId, out: &mut Vec<Completion<UringStream>>) {
        let receive = self.sockets[id.index].receive;
        if receive.discard {
            self.arm(id, false);
        } else if receive.wanted {
            self.arm_or_wait(id);
        } else {
            out.push(Completion::ReceivePaused { socket: id });
        }
    }

    /// The stream has ended, or failed with `error`: reported now, or, when paused, kept until somebody asks.
    fn receive_ended(&mut self, id: SocketId, error: Option<i32>, out: &mut Vec<Completion<UringStream>>) {
        let socket = &mut self.sockets[id.index];
        if !socket.receive.wanted {
            // The end can be read again; an error is reported by the kernel once only.
            socket.kept_error = error.unwrap_or(0);
            out.push(Completion::ReceivePaused { socket: id });
            return;
        }
        socket.receive.ended = true;
        socket.receive.wanted = false;
        out.push(match error {
            None => Completion::PeerFinished { socket: id },
            Some(error) => Completion::ReceiveFailed { socket: id, error: io::Error::from_raw_os_error(error) },
        });
    }

    fn sent(&mut self, index: u32, result: i32, out: &mut Vec<Completion<UringStream>>) {
        let socket = &mut self.sockets[index];
        let id = socket.id(index);
        let Operation::Send(operation) = mem::take(&mut socket.operation) else {
            panic!("a send of socket {index} has completed after its memory was freed");
        };
        let gather = self.sends.end(operation);
        out.push(Completion::Sent { socket: id, gather, result: os_result(result).map(|bytes| bytes as usize) });
        self.close_if_quiet(index);
    }

    fn connected(&mut self, index: u32, result: i32, out: &mut Vec<Completion<UringStream>>) {
        let socket = &mut self.sockets[index];
        socket.operation = Operation::None;
        let id = socket.id(index);
        out.push(Completion::Connected { socket: id, result: os_result(result).map(drop) });
        self.close_if_quiet(index);
    }
}

impl Drop for UringEngine {
    /// Tear-down: cancel all, reap to zero, then free; leak what can't be reaped, because the kernel may still use it.
    fn drop(&mut self) {
        let limit = Instant::now() + self.config.teardown_limit;
        let mut ignored = Vec::new();
        let any = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build();
        let mut cancelled_at = usize::MAX;
        while self.in_flight > 0 && Instant::now() < limit {
            if self.in_flight != cancelled_at {
                // Once for what is in flight, and again when the spilled submissions have gone in behind it.
                self.push(any.clone().user_data(Kind::Cancel.user_data(0, 0)));
                cancelled_at = self.in_flight;
            }
            self.now = self.clock();
            let soon = self.now.saturating_add(Duration::from_millis(10));
            if self.submit_and_wait(Some(soon)).is_err() {
                break;
            }
            self.reap_for_teardown(&mut ignored);
            ignored.clear();
        }
        let _ = self.ring.submitter().unregister_buf_ring(buffer_ring::GROUP);
        if self.in_flight > 0 {
            tracing::error!(
                operations = self.in_flight,
                "operations did not end within {:?}: their memory is leaked, because the kernel may still use it",
                self.config.teardown_limit
            );
            self.leak();
        }
    }
}

impl UringEngine {
    /// Takes last completions without starting anything new.
    fn reap_for_teardown(&mut self, ignored: &mut Vec<Completion<UringStream>>) {
        let entries: Vec<_> =
            self.ring.completion().map(|entry| (entry.user_data(), entry.result(), entry.flags())).collect();
        for (user_data, result, flags) in entries {
            let kind = Kind::of(user_data);
            if let Some(buffer) = cqueue::buffer_select(flags) {
                self.buffers.taken();
                drop(self.arena.filled(u32::from(buffer), usize::try_from(result).unwrap_or(0), user_data as u32));
            }
            if matches!(kind, Some(Kind::Cancel)) || cqueue::more(flags) {
                continue;
            }
            self.in_flight -= 1;
            match kind {
                Some(Kind::Send | Kind::Connect) => self.sockets[user_data as u32].operation = Operation::None,
                Some(Kind::Accept) => self.listeners.reap(user_data as u32, result, ignored),
                _ => {}
            }
        }
    }

    fn leak(&mut self) {
        mem::forget(self.arena.clone());
        for (_, socket) in self.sockets.iter_mut() {
            mem::forget(mem::take(&mut socket.operation));
        }
        mem::forget(mem::take(&mut self.listeners));
        mem::forget(mem::take(&mut self.wake_count));
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

fn waits_for_buffer(sockets: &Chunked<Socket>, id: SocketId) -> bool {
    sockets
        .get(id.index)
        .is_some_and(|socket| socket.in_use && socket.generation == id.generation && socket.receive.starving)
}

fn os_result(result: i32) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::memory::{ArenaConfig, Piece};

    /// The thin path from end to end; the rest is the conformance suite's.
    #[test]
    fn a_message_is_accepted_received_sent_back_and_the_socket_closed() {
        let config = EngineConfig {
            sockets: 8,
            arena: ArenaConfig { buffers: 8, buffer_bytes: 4096, owners: 8, lent_max: 2 },
            receive_budget_bytes: 64 * 1024,
            submission_entries: 64,
            completion_entries: 128,
            spin: EngineConfig::SPIN,
            teardown_limit: EngineConfig::TEARDOWN_LIMIT,
        };
        let prepared = match prepare(config) {
            Err(SetupError::Unavailable(error)) => return eprintln!("skipped: io_uring is not available: {error}"),
            prepared => prepared.expect("a ring"),
        };
        let mut engine = prepared.start().expect("a started ring");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address");
        let listener = engine.listen(listener.into());
        engine.accept(listener, 1);
        let peer = std::thread::spawn(move || {
            let mut peer = TcpStream::connect(address).expect("a connection");
            peer.write_all(b"hello").expect("written");
            peer.shutdown(std::net::Shutdown::Write).expect("half-closed");
            let mut echoed = Vec::new();
            peer.read_to_end(&mut echoed).expect("the echo");
            echoed
        });
        let (mut out, mut closed) = (Vec::new(), false);
        while !closed {
            let deadline = engine.now() + Duration::from_secs(10);
            engine.poll(Some(deadline), &mut out).expect("a poll");
            assert!(engine.now() < deadline, "nothing happened for 10 s");
            for completion in out.drain(..) {
                match completion {
                    Completion::Accepted { stream, .. } => {
                        let socket = engine.adopt(stream).expect("a place");
                        engine.receive(socket).expect("receiving");
                    }
                    Completion::Received { socket, buffer } => {
                        let mut gather = Box::<Gather>::default();
                        gather.push(Piece { payload: buffer.into(), charge_bytes: 0, held_bytes: 0 });
                        engine.send(socket, gather).expect("sending");
                    }
                    Completion::PeerFinished { socket } => engine.close(socket, CloseMode::Orderly).expect("closing"),
                    Completion::Closed { .. } => closed = true,
                    _ => {}
                }
            }
        }
        assert_eq!(peer.join().expect("the peer ends"), b"hello");
        assert_eq!(engine.arena().outstanding(), 0);
    }
}
