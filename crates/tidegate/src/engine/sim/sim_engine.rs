//! The engine of a simulated world, and what passes between the world and the code above it.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::endpoint::EndpointId;
use super::network::Network;
use super::random::Random;
use super::reap::Report;
use super::ring::{EngineTotals, Ring};
use super::world::{Dropped, DroppedThing, World, WorldState};
use crate::engine::{CloseMode, Completion, Engine, EngineConfig, EngineCounters, ListenerId, SocketId, Stale, Waker};
use crate::memory::{ArenaMemory, Gather, ReceiveArena};
use crate::time::Time;

/// An engine in a simulated world.
///
/// [`poll`](Engine::poll) neither blocks nor lets time go by: the world's [`step`](World::step) says when to call it.
pub(crate) struct SimEngine {
    world: World,
    number: usize,
    arena: ReceiveArena,
    woken: Arc<AtomicBool>,
    dropped: Dropped,
    reports: Vec<Report>,
}

/// A connection that no engine has adopted. Closed when dropped.
pub(crate) struct SimStream {
    endpoint: EndpointId,
    dropped: Dropped,
    is_adopted: bool,
}

/// A bound address that no engine has taken over. Closed when dropped.
#[derive(Debug)]
pub(crate) struct SimListener {
    number: u32,
    address: SocketAddr,
    dropped: Dropped,
    is_taken: bool,
}

impl SimEngine {
    /// A further engine of `world`, with the next number.
    ///
    /// # Panics
    /// If the arena of the configuration has fewer owners than the engine has sockets.
    pub(crate) fn new(world: &World, config: EngineConfig) -> Self {
        let woken = Arc::new(AtomicBool::new(false));
        let buffer_returned = Arc::new(AtomicBool::new(false));
        let returned = Arc::clone(&buffer_returned);
        let memory = ArenaMemory::new(config.arena, Box::new(move || returned.store(true, Ordering::Release)));
        let arena = ReceiveArena::new(memory);
        let mut state = world.state().borrow_mut();
        let number = state.rings.len();
        let random = Random::new(state.network.fate.random.next());
        let mut ring = Ring::new(number as u32, config, arena.clone(), random, Arc::clone(&woken), buffer_returned);
        ring.now = state.network.fate.now();
        state.rings.push(ring);
        let dropped = state.dropped.clone();
        Self { world: world.clone(), number, arena, woken, dropped, reports: Vec::new() }
    }

    /// Its number in the world: that of [`Step::Engine`](super::Step::Engine).
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// The world that it is in.
    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// What it has done.
    pub(crate) fn totals(&self) -> EngineTotals {
        self.world.totals(self.number)
    }

    /// Polls as an engine outside of a simulation would: lets time go by until there is something to report or the
    /// deadline has come. Returns at once if nothing will ever happen.
    pub(crate) fn wait(
        &mut self,
        deadline: Option<Time>,
        completions: &mut Vec<Completion<SimStream>>,
    ) -> io::Result<()> {
        let before = completions.len();
        loop {
            self.poll(deadline, completions)?;
            let is_over = completions.len() > before || deadline.is_some_and(|deadline| deadline <= self.now());
            if is_over || !self.world.pump(self.number) {
                return Ok(());
            }
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Ring, &mut Network) -> T) -> T {
        let mut state = self.world.state().borrow_mut();
        let WorldState { network, rings, .. } = &mut *state;
        let result = act(&mut rings[self.number], network);
        state.settle();
        result
    }

    fn ring<T>(&self, look: impl FnOnce(&Ring) -> T) -> T {
        look(&self.world.state().borrow().rings[self.number])
    }
}

impl SimListener {
    pub(super) fn new(number: u32, address: SocketAddr, dropped: Dropped) -> Self {
        Self { number, address, dropped, is_taken: false }
    }

    /// Where it listens.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl Engine for SimEngine {
    type Stream = SimStream;
    type Listener = SimListener;
    const IS_CHECKED: bool = true;

    fn now(&self) -> Time {
        self.ring(|ring| ring.now)
    }

    fn random(&mut self) -> u64 {
        self.with(|ring, _| ring.random.next())
    }

    fn arena(&self) -> &ReceiveArena {
        &self.arena
    }

    fn waker(&self) -> Waker {
        let woken = Arc::clone(&self.woken);
        Waker::new(Arc::new(move || woken.store(true, Ordering::Release)))
    }

    fn counters(&self) -> EngineCounters {
        self.ring(Ring::counters)
    }

    fn listen(&mut self, mut listener: SimListener) -> ListenerId {
        assert!(self.dropped.is_of_same_world(&listener.dropped), "a listener of another world");
        listener.is_taken = true;
        self.with(|ring, _| ring.listen(listener.number))
    }

    fn accept(&mut self, listener: ListenerId, count: u32) {
        self.with(|ring, _| ring.accept(listener, count));
    }

    fn close_listener(&mut self, listener: ListenerId, sweep: u32) {
        self.with(|ring, _| ring.close_listener(listener, sweep));
    }

    fn refuse(&mut self, mut stream: SimStream, answer: &Bytes) {
        assert!(self.dropped.is_of_same_world(&stream.dropped), "a stream of another world");
        stream.is_adopted = true;
        self.with(|ring, _| ring.refuse(stream.endpoint, answer.clone()));
    }

    fn adopt(&mut self, mut stream: SimStream) -> Result<SocketId, SimStream> {
        assert!(self.dropped.is_of_same_world(&stream.dropped), "a stream of another world");
        match self.with(|ring, network| ring.adopt(stream.endpoint, network)) {
            Some(socket) => {
                stream.is_adopted = true;
                Ok(socket)
            }
            None => Err(stream),
        }
    }

    fn connect(&mut self, address: SocketAddr, source: Option<IpAddr>) -> Option<SocketId> {
        self.with(|ring, _| ring.connect(address, source))
    }

    fn receive(&mut self, socket: SocketId) -> Result<(), Stale> {
        self.with(|ring, _| ring.receive(socket))
    }

    fn pause_receive(&mut self, socket: SocketId) -> Result<(), Stale> {
        self.with(|ring, network| ring.pause_receive(socket, network))
    }

    fn discard(&mut self, socket: SocketId) -> Result<(), Stale> {
        self.with(|ring, _| ring.discard(socket))
    }

    fn send(&mut self, socket: SocketId, gather: Box<Gather>) -> Result<(), Box<Gather>> {
        self.with(|ring, _| ring.send(socket, gather))
    }

    fn shutdown_write(&mut self, socket: SocketId) -> Result<(), Stale> {
        self.with(|ring, _| ring.shutdown_write(socket))
    }

    fn close(&mut self, socket: SocketId, mode: CloseMode) -> Result<(), Stale> {
        self.with(|ring, _| ring.close(socket, mode))
    }

    fn unread_bytes(&self, socket: SocketId) -> usize {
        let state = self.world.state().borrow();
        state.rings[self.number].unread_bytes(socket, &state.network)
    }

    fn peer_address(&self, socket: SocketId) -> Option<SocketAddr> {
        let state = self.world.state().borrow();
        state.rings[self.number].peer_address(socket, &state.network)
    }

    fn oldest_published(&self, socket: SocketId) -> Option<Time> {
        self.world.state().borrow().rings[self.number].oldest_published(socket)
    }

    fn poll(&mut self, deadline: Option<Time>, completions: &mut Vec<Completion<SimStream>>) -> io::Result<()> {
        let mut reports = std::mem::take(&mut self.reports);
        self.with(|ring, network| ring.poll(deadline, network, &mut reports));
        completions.extend(reports.drain(..).map(|report| with_stream(report, &self.dropped)));
        self.reports = reports;
        Ok(())
    }
}

fn with_stream(report: Report, dropped: &Dropped) -> Completion<SimStream> {
    match report {
        Completion::Accepted { listener, stream, peer } => {
            let stream = SimStream { endpoint: stream, dropped: dropped.clone(), is_adopted: false };
            Completion::Accepted { listener, stream, peer }
        }
        Completion::AcceptFailed { listener, error } => Completion::AcceptFailed { listener, error },
        Completion::ListenerClosed { listener } => Completion::ListenerClosed { listener },
        Completion::Connected { socket, result } => Completion::Connected { socket, result },
        Completion::Received { socket, buffer } => Completion::Received { socket, buffer },
        Completion::ReceivePaused { socket } => Completion::ReceivePaused { socket },
        Completion::PeerFinished { socket } => Completion::PeerFinished { socket },
        Completion::ReceiveFailed { socket, error } => Completion::ReceiveFailed { socket, error },
        Completion::Discarded { socket, bytes } => Completion::Discarded { socket, bytes },
        Completion::Sent { socket, gather, result } => Completion::Sent { socket, gather, result },
        Completion::WriteShut { socket, result } => Completion::WriteShut { socket, result },
        Completion::Closed { socket } => Completion::Closed { socket },
        Completion::Woken => Completion::Woken,
    }
}

impl Drop for SimEngine {
    fn drop(&mut self) {
        // A panic in the world itself holds the borrow; the test has failed then anyway.
        if self.world.state().try_borrow_mut().is_ok() {
            self.with(Ring::tear_down);
        }
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        if !self.is_adopted {
            self.dropped.push(DroppedThing::Stream(self.endpoint));
        }
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        if !self.is_taken {
            self.dropped.push(DroppedThing::Listener(self.number));
        }
    }
}

impl fmt::Debug for SimEngine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SimEngine({})", self.number)
    }
}

impl fmt::Debug for SimStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SimStream({}.{})", self.endpoint.index, self.endpoint.generation)
    }
}
