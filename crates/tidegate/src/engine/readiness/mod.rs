//! The engine on readiness: epoll on Linux, kqueue on macOS and the BSDs.
//!
//! For systems without io_uring, and for those where it is not allowed (the default profile of container engines forbids it). The
//! system tells which sockets have become readable or writable, and a poll makes the calls itself; none of them waits. So nothing of
//! this engine is ever in the hands of the system between two calls: a cancel is a matter of bookkeeping, a buffer
//! is taken when there is data for it, and a tear-down has nothing to wait for.
//!
//! One poll, in this order: what was recorded is done (sends are tried at once, and receives where data was told of before), the
//! selector is asked and waited for, what it tells is served on the spot, then those that the last poll left with data, then the
//! backlogs. Each socket is registered once, for both directions and for changes only ([`Selector`]); what was told is kept in
//! [`Ready`](socket::Ready) until a call finds it used up.

mod calls;
#[cfg(target_os = "linux")]
mod epoll;
mod listening;
mod performing;
mod receiving;
mod selector;
mod socket;
#[cfg(test)]
mod tests;
mod waiting;

use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;

use self::listening::Listeners;
use self::selector::{Alarm, Event, Key, Selector};
use self::socket::{Socket, Target};
use crate::engine::spin::Spin;
use crate::engine::{
    CloseMode, Completion, Engine, EngineConfig, EngineCounters, EngineProbe, Feature, FeatureKind, ListenerId,
    PreparedEngine, SocketId, Stale, Waker,
};
use crate::memory::{ArenaMemory, Chunked, FreeList, Gather, Line, ReceiveArena};
use crate::random::split_mix;
use crate::time::Time;

pub(crate) use self::listening::{ReadinessListener, ReadinessStream};

/// An engine with everything that can fail done, ready to be started by the thread that will own it.
pub(crate) struct Prepared {
    selector: Selector,
    memory: Arc<ArenaMemory>,
    wake: Arc<Wake>,
    config: EngineConfig,
}

/// Makes a selector and its waker.
///
/// # Errors
/// What the system says: no descriptors, no memory, no edge-triggered readiness.
pub(crate) fn prepare(config: EngineConfig) -> io::Result<Prepared> {
    let selector = Selector::new(config.completion_entries)?;
    prepare_with(config, selector)
}

/// Sets up a selector as a server would, and takes it down.
pub(crate) fn probe() -> EngineProbe {
    match Selector::new(EngineConfig::COMPLETION_ENTRIES) {
        Ok((selector, _alarm)) => {
            let (name, kind) = ("epoll_pwait2", FeatureKind::Operation);
            // Other systems have nothing of the name, and need nothing of the kind.
            let direct = Feature { name, kind, required: false, granted: selector.is_direct() };
            let features = if cfg!(target_os = "linux") { vec![direct] } else { Vec::new() };
            EngineProbe { name: "readiness", refusal: None, features }
        }
        Err(error) => {
            let refusal = format!("can't set up the engine on readiness: {error}");
            EngineProbe { name: "readiness", refusal: Some(refusal), features: Vec::new() }
        }
    }
}

/// As [`prepare`], with what every system has instead of the best that this one has.
#[cfg(test)]
pub(crate) fn prepare_portable(config: EngineConfig) -> io::Result<Prepared> {
    let selector = Selector::portable(config.completion_entries)?;
    prepare_with(config, selector)
}

fn prepare_with(config: EngineConfig, (selector, alarm): (Selector, Alarm)) -> io::Result<Prepared> {
    if u64::from(config.sockets) > Key::SOCKETS_MAX {
        let text = format!("{} sockets, but this system can tell {} apart", config.sockets, Key::SOCKETS_MAX);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let wake = Arc::new(Wake { alarm, announced: AtomicBool::new(false) });
    let waker = Arc::clone(&wake);
    let memory = ArenaMemory::new(config.arena, Box::new(move || waker.wake()));
    Ok(Prepared { selector, memory, wake, config })
}

impl PreparedEngine for Prepared {
    type Engine = ReadinessEngine;

    fn waker(&self) -> Waker {
        waker(&self.wake)
    }

    fn start(self) -> io::Result<ReadinessEngine> {
        let Self { selector, memory, wake, config } = self;
        Ok(ReadinessEngine {
            selector,
            arena: ReceiveArena::new(memory),
            sockets: Chunked::new(config.sockets),
            places: FreeList::new(config.sockets),
            listeners: Listeners::default(),
            touched: Vec::new(),
            has_more: VecDeque::new(),
            line: Line::default(),
            refusals: Vec::new(),
            vacated: Vec::new(),
            events: Vec::new(),
            scratch: Vec::new(),
            wake,
            spin: Spin::new(config.spin),
            open: 0,
            left_waiting: 0,
            began: Instant::now(),
            now: Time::ZERO,
            random: RandomState::new().hash_one(0),
            counters: EngineCounters::default(),
            config,
        })
    }
}

/// Wakes an engine from another thread.
struct Wake {
    alarm: Alarm,
    /// A wake is on its way: others need not ring again.
    announced: AtomicBool,
}

impl Wake {
    fn wake(&self) {
        // The exchange makes everything written before it visible to the owner, which clears the flag before it looks at
        // what others have left for it.
        if !self.announced.swap(true, Ordering::AcqRel) {
            self.alarm.ring();
        }
    }

    fn is_announced(&self) -> bool {
        self.announced.load(Ordering::Relaxed)
    }

    /// Whether somebody has called since the last time.
    fn take(&self) -> bool {
        self.is_announced() && self.announced.swap(false, Ordering::AcqRel)
    }
}

fn waker(wake: &Arc<Wake>) -> Waker {
    let wake = Arc::clone(wake);
    Waker::new(Arc::new(move || wake.wake()))
}

/// The engine. See the [contract](crate::engine).
pub(crate) struct ReadinessEngine {
    selector: Selector,
    arena: ReceiveArena,
    sockets: Chunked<Socket>,
    places: FreeList,
    listeners: Listeners,
    /// Sockets for which something was recorded, in that order, each once.
    touched: Vec<SocketId>,
    /// Sockets that may have something left to read, because their share of a poll was used up: nobody will tell again. Served in turn,
    /// each once a poll.
    has_more: VecDeque<SocketId>,
    /// Sockets that have something to read and no buffer to read it into.
    line: Line<SocketId>,
    /// Connections to turn away, each with its answer: no more than were accepted since the last poll.
    refusals: Vec<(ReadinessStream, Bytes)>,
    /// Places whose `Closed` the last poll has reported: free from the next one on, when the caller has seen it.
    vacated: Vec<u32>,
    /// What the selector has told and is being handled.
    events: Vec<Event>,
    /// Where bytes go that nobody wants, where the system needs a place for them.
    scratch: Vec<u8>,
    wake: Arc<Wake>,
    spin: Spin,
    /// Places in use.
    open: u32,
    /// For how many polls those in `has_more` were left waiting, because more events were to come.
    left_waiting: u32,
    began: Instant,
    now: Time,
    random: u64,
    counters: EngineCounters,
    config: EngineConfig,
}

impl Engine for ReadinessEngine {
    type Stream = ReadinessStream;
    type Listener = ReadinessListener;

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

    fn listen(&mut self, listener: ReadinessListener) -> ListenerId {
        self.listeners.add(listener)
    }

    fn accept(&mut self, listener: ListenerId, count: u32) {
        self.listeners.add_credit(listener, count);
    }

    fn close_listener(&mut self, listener: ListenerId, sweep: u32) {
        self.listeners.begin_close(listener, sweep);
    }

    fn refuse(&mut self, stream: ReadinessStream, answer: &Bytes) {
        self.refusals.push((stream, answer.clone()));
    }

    fn adopt(&mut self, stream: ReadinessStream) -> Result<SocketId, ReadinessStream> {
        match self.take_place() {
            Some(id) => {
                self.sockets[id.index].descriptor = Some(stream.into_descriptor());
                self.touch(id);
                Ok(id)
            }
            None => Err(stream),
        }
    }

    fn connect(&mut self, address: SocketAddr, source: Option<IpAddr>) -> Option<SocketId> {
        let id = self.take_place()?;
        self.sockets[id.index].target = Some(Box::new(Target { address, source }));
        self.touch(id);
        Some(id)
    }

    fn receive(&mut self, id: SocketId) -> Result<(), Stale> {
        let socket = self.socket(id)?;
        if socket.receive.ended || socket.receive.discard || socket.closing.is_some() {
            return Ok(());
        }
        socket.receive.wanted = true;
        socket.receive.pause_due = false;
        self.touch(id);
        Ok(())
    }

    fn pause_receive(&mut self, id: SocketId) -> Result<(), Stale> {
        let socket = self.socket(id)?;
        if !socket.receive.wanted || socket.receive.discard || socket.receive.ended {
            return Ok(());
        }
        socket.receive.wanted = false;
        socket.receive.pause_due = true;
        self.leave_line(id);
        self.touch(id);
        Ok(())
    }

    fn discard(&mut self, id: SocketId) -> Result<(), Stale> {
        let socket = self.socket(id)?;
        if socket.receive.discard || socket.closing.is_some() {
            return Ok(());
        }
        socket.receive.discard = true;
        if socket.receive.ended {
            return Ok(());
        }
        socket.receive.wanted = true;
        socket.receive.pause_due = false;
        self.leave_line(id);
        self.touch(id);
        Ok(())
    }

    fn send(&mut self, id: SocketId, gather: Box<Gather>) -> Result<(), Box<Gather>> {
        let Some(socket) = Socket::of(&mut self.sockets, id) else { return Err(gather) };
        debug_assert!(socket.send.is_none() && socket.target.is_none(), "a second send in flight on {id:?}");
        debug_assert!(!gather.is_empty(), "an empty send on {id:?}");
        if socket.send.is_some() || socket.target.is_some() || socket.closing.is_some() {
            return Err(gather);
        }
        socket.send = Some(gather);
        socket.touch(id, &mut self.touched);
        Ok(())
    }

    fn shutdown_write(&mut self, id: SocketId) -> Result<(), Stale> {
        let socket = self.socket(id)?;
        debug_assert!(socket.send.is_none(), "a half-close with a send in flight on {id:?}");
        socket.half_close = true;
        self.touch(id);
        Ok(())
    }

    fn close(&mut self, id: SocketId, mode: CloseMode) -> Result<(), Stale> {
        let socket = self.socket(id)?;
        if socket.closing.is_some() {
            return Ok(());
        }
        socket.closing = Some(mode);
        socket.receive.wanted = false;
        self.leave_line(id);
        self.touch(id);
        Ok(())
    }

    fn unread_bytes(&self, id: SocketId) -> usize {
        match self.sockets.get(id.index) {
            Some(Socket { in_use: true, generation, descriptor: Some(descriptor), .. })
                if *generation == id.generation =>
            {
                calls::unread_bytes(descriptor).unwrap_or(0)
            }
            _ => 0,
        }
    }

    fn peer_address(&self, id: SocketId) -> Option<SocketAddr> {
        match self.sockets.get(id.index) {
            Some(Socket { in_use: true, generation, descriptor: Some(descriptor), .. })
                if *generation == id.generation =>
            {
                calls::peer_address(descriptor)
            }
            _ => None,
        }
    }

    fn oldest_published(&self, id: SocketId) -> Option<Time> {
        let socket = self.sockets.get(id.index).filter(|socket| socket.in_use && socket.generation == id.generation)?;
        socket.send.as_ref()?.oldest_published()
    }

    fn poll(&mut self, deadline: Option<Time>, completions: &mut Vec<Completion<ReadinessStream>>) -> io::Result<()> {
        let reported = completions.len();
        for index in self.vacated.drain(..) {
            self.places.give(index);
        }
        self.refuse_now();
        self.listeners.do_recorded(&self.selector, completions);
        self.do_recorded(completions);
        self.arena.collect_returned();
        self.feed_the_line(completions);
        let result = self.look(deadline, completions.len() > reported);
        if self.wake.take() {
            completions.push(Completion::Woken);
        }
        self.handle_events(completions);
        self.serve_those_with_more(completions);
        self.arena.collect_returned();
        self.feed_the_line(completions);
        self.listeners.take(completions);
        self.counters.completions += (completions.len() - reported) as u64;
        result
    }
}

impl Drop for ReadinessEngine {
    /// Tear-down: nothing is with the system, so there is nothing to wait for.
    fn drop(&mut self) {
        self.refuse_now();
        self.listeners.remove_all(&self.selector);
        for (_, socket) in self.sockets.iter_mut() {
            if let Some(descriptor) = socket.descriptor.take()
                && mem::take(&mut socket.registered)
            {
                self.selector.remove(descriptor.as_fd());
            }
        }
    }
}

impl fmt::Debug for ReadinessEngine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ReadinessEngine").field("counters", &self.counters).finish_non_exhaustive()
    }
}
