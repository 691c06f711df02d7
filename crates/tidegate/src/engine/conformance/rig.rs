//! An engine with its monitor, and the ways in which cases act, wait and look.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;

use super::fixture::{Event, Fixture, Peer, StreamOf};
use super::material::{gather_of, pattern};
use super::monitor::Monitor;
use crate::engine::{CloseMode, Completion, Engine, EngineConfig, EngineCounters, ListenerId, SocketId};
use crate::memory::{ArenaConfig, Buffer, Gather, Payload, ReceiveArena};

/// How long a case waits for an event before it fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long one turn waits when there is nothing.
const TURN: Duration = Duration::from_millis(1);
/// Turns after which a case believes that nothing more comes.
pub(super) const QUIET_TURNS: usize = 20;

/// How the stream of a peer ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// The end of the stream.
    Finished,
    /// A reset.
    Reset,
}

/// An engine under test: calls go in here, completions are looked for here.
pub(super) struct Rig<F: Fixture> {
    pub(super) fixture: F,
    pub(super) monitor: Monitor,
    pub(super) events: VecDeque<Event<F>>,
    home: Option<(ListenerId, SocketAddr)>,
}

impl<F: Fixture> Rig<F> {
    /// An engine of 64 sockets and 64 buffers of 4 KiB.
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    /// As [`new`](Self::new), with a changed configuration.
    pub(super) fn with(change: impl FnOnce(&mut EngineConfig)) -> Self {
        Self::made(F::new, change)
    }

    /// As [`with`](Self::with), where the system ends receives without an error.
    pub(super) fn interrupted(change: impl FnOnce(&mut EngineConfig)) -> Self {
        Self::made(F::new_interrupted, change)
    }

    fn made(make: impl FnOnce(EngineConfig) -> F, change: impl FnOnce(&mut EngineConfig)) -> Self {
        let mut config = EngineConfig {
            sockets: 64,
            arena: ArenaConfig { buffers: 64, buffer_bytes: 4096, owners: 64, lent_max: 16 },
            receive_budget_bytes: 64 * 1024,
            submission_entries: 64,
            completion_entries: 256,
            spin: Duration::ZERO,
            teardown_limit: EngineConfig::TEARDOWN_LIMIT,
            socket_options: crate::engine::SocketOptions::default(),
        };
        change(&mut config);
        config.arena.owners = config.sockets;
        let monitor = Monitor::new(config.sockets, config.arena.buffer_bytes as usize);
        Self { fixture: make(config), monitor, events: VecDeque::new(), home: None }
    }

    /// As [`new`](Self::new), for cases in which [`Fixture::refuse_descriptors`] is used: nothing is accepted
    /// before that.
    pub(super) fn short_of_descriptors() -> Self {
        Self::made(F::new_short_of_descriptors, |_| {})
    }

    /// As [`new`](Self::new), with `buffers` buffers for `sockets` sockets.
    pub(super) fn sized(sockets: u32, buffers: u32) -> Self {
        Self::with(|config| {
            config.sockets = sockets;
            config.arena.buffers = buffers;
        })
    }

    // Acting.

    /// A new listener without credit.
    pub(super) fn listen(&mut self) -> (ListenerId, SocketAddr) {
        self.listen_on(false)
    }

    /// A new listener without credit, on IPv6 if `six`.
    pub(super) fn listen_on(&mut self, six: bool) -> (ListenerId, SocketAddr) {
        let (listener, address) = self.fixture.listener(six);
        let listener = self.fixture.engine_mut().listen(listener);
        self.monitor.listened(listener);
        (listener, address)
    }

    /// Adds credit.
    pub(super) fn accept(&mut self, listener: ListenerId, count: u32) {
        self.monitor.credited(listener, count);
        self.fixture.engine_mut().accept(listener, count);
    }

    /// Begins to close a listener.
    pub(super) fn close_listener(&mut self, listener: ListenerId, sweep: u32) {
        self.monitor.closing_listener(listener, sweep);
        self.fixture.engine_mut().close_listener(listener, sweep);
    }

    /// Adopts a stream for which there is a place.
    pub(super) fn adopt(&mut self, stream: StreamOf<F>) -> SocketId {
        let socket = self.fixture.engine_mut().adopt(stream).expect("a place for the socket");
        self.monitor.made(socket, false);
        socket
    }

    /// Turns a stream away.
    pub(super) fn refuse(&mut self, stream: StreamOf<F>, answer: &'static [u8]) {
        self.fixture.engine_mut().refuse(stream, &Bytes::from_static(answer));
    }

    /// A connection: the engine's socket and its peer.
    pub(super) fn pair(&mut self) -> (SocketId, F::Peer) {
        self.pair_with(None)
    }

    /// A connection whose peer has a small receive buffer.
    pub(super) fn pair_with(&mut self, receive_buffer_bytes: Option<usize>) -> (SocketId, F::Peer) {
        let (listener, address) = match self.home {
            Some(home) => home,
            None => self.listen(),
        };
        self.home = Some((listener, address));
        let peer = self.fixture.connect_peer(address, receive_buffer_bytes);
        self.accept(listener, 1);
        let (stream, from) = self.expect_accepted(listener);
        assert_eq!(from, peer.address(), "the address of the peer");
        let socket = self.adopt(stream);
        assert_eq!(self.fixture.engine().peer_address(socket), Some(peer.address()));
        (socket, peer)
    }

    /// `count` connections.
    pub(super) fn pairs(&mut self, count: usize) -> Vec<(SocketId, F::Peer)> {
        (0..count).map(|_| self.pair()).collect()
    }

    /// Begins to connect, with a place for the socket.
    pub(super) fn connect(&mut self, address: SocketAddr) -> SocketId {
        self.connect_from(address, None)
    }

    /// As [`connect`](Self::connect), from `source`.
    pub(super) fn connect_from(&mut self, address: SocketAddr, source: Option<IpAddr>) -> SocketId {
        let socket = self.fixture.engine_mut().connect(address, source).expect("a place for the socket");
        self.monitor.made(socket, true);
        socket
    }

    /// Asks for data.
    pub(super) fn receive(&mut self, socket: SocketId) {
        self.monitor.asked(socket);
        self.fixture.engine_mut().receive(socket).expect("a live socket");
    }

    /// Stops asking. Says whether a `ReceivePaused` is due.
    pub(super) fn pause(&mut self, socket: SocketId) -> bool {
        let due = self.monitor.pausing(socket);
        self.fixture.engine_mut().pause_receive(socket).expect("a live socket");
        due
    }

    /// Throws away what comes.
    pub(super) fn discard(&mut self, socket: SocketId) {
        self.monitor.discarding(socket);
        self.fixture.engine_mut().discard(socket).expect("a live socket");
    }

    /// Begins a send.
    pub(super) fn send(&mut self, socket: SocketId, gather: Box<Gather>) {
        self.monitor.sending(socket);
        self.fixture.engine_mut().send(socket, gather).expect("a live socket");
    }

    /// Sends a payload of at most one slice to a peer that has room, and waits until all is taken.
    pub(super) fn send_now(&mut self, socket: SocketId, payload: impl Into<Payload>) {
        let mut gather = gather_of(payload);
        while !gather.is_empty() {
            self.send(socket, gather);
            let (back, result) = self.expect_sent(socket);
            gather = back;
            gather.advance(result.expect("the send succeeds"), drop);
        }
    }

    /// Half-closes.
    pub(super) fn shutdown_write(&mut self, socket: SocketId) {
        self.monitor.shutting(socket);
        self.fixture.engine_mut().shutdown_write(socket).expect("a live socket");
    }

    /// Begins to close.
    pub(super) fn close(&mut self, socket: SocketId, mode: CloseMode) {
        self.monitor.closing(socket);
        self.fixture.engine_mut().close(socket, mode).expect("a live socket");
    }

    /// Closes and waits for `Closed`.
    pub(super) fn close_now(&mut self, socket: SocketId, mode: CloseMode) {
        self.close(socket, mode);
        self.expect_closed(socket);
    }

    /// Polls once, waiting at most `wait`, and has the monitor look at what came.
    pub(super) fn poll(&mut self, wait: Duration) -> usize {
        let engine = self.fixture.engine_mut();
        let deadline = engine.now() + wait;
        self.poll_until(Some(deadline))
    }

    /// Polls once with this deadline, and has the monitor look at what came.
    pub(super) fn poll_until(&mut self, deadline: Option<crate::time::Time>) -> usize {
        let mut completions = Vec::new();
        self.fixture.poll(deadline, &mut completions).expect("the engine works");
        for completion in &completions {
            self.monitor.observe(completion);
        }
        let count = completions.len();
        self.events.extend(completions);
        count
    }

    /// One turn of a loop.
    pub(super) fn turn(&mut self) {
        self.poll(TURN);
    }

    // Looking.

    /// Takes the first waiting completion that is `wanted`.
    pub(super) fn take(&mut self, wanted: impl FnMut(&Event<F>) -> bool) -> Option<Event<F>> {
        let position = self.events.iter().position(wanted)?;
        self.events.remove(position)
    }

    /// Takes all waiting completions, in order.
    pub(super) fn take_all(&mut self) -> Vec<Event<F>> {
        self.events.drain(..).collect()
    }

    /// Takes the buffers that wait for `socket`, in order.
    pub(super) fn received_buffers(&mut self, socket: SocketId) -> Vec<Buffer> {
        let mut buffers = Vec::new();
        while let Some(event) =
            self.take(|event| matches!(event, Completion::Received { socket: of, .. } if *of == socket))
        {
            if let Completion::Received { buffer, .. } = event {
                buffers.push(buffer);
            }
        }
        buffers
    }

    /// Takes the bytes that wait for `socket`, in order; the buffers go home.
    pub(super) fn received(&mut self, socket: SocketId) -> Vec<u8> {
        self.received_buffers(socket).iter().flat_map(|buffer| buffer.iter().copied()).collect()
    }

    /// How many waiting completions are `wanted`.
    pub(super) fn count(&self, mut wanted: impl FnMut(&Event<F>) -> bool) -> usize {
        self.events.iter().filter(|event| wanted(event)).count()
    }

    /// What the engine has counted.
    pub(super) fn counters(&self) -> EngineCounters {
        self.fixture.engine().counters()
    }

    /// The receive arena.
    pub(super) fn arena(&self) -> ReceiveArena {
        self.fixture.engine().arena().clone()
    }

    /// What to say when a case waits in vain.
    pub(super) fn summary(&self) -> String {
        let mut text = format!("{:?}, and {} completions", self.counters(), self.events.len());
        for event in self.events.iter().take(8) {
            text.push_str(&format!("\n  {event:?}"));
        }
        text
    }

    /// Takes all buffers of the arena at once, with a connection of its own that sends enough and is paused then.
    #[track_caller]
    pub(super) fn hold_all_buffers(&mut self) -> (SocketId, F::Peer, Vec<Buffer>) {
        let (hog, mut peer) = self.pair();
        let count = self.arena().buffers() as usize;
        let bytes = pattern(8, count * self.arena().buffer_bytes());
        self.receive(hog);
        let (mut written, mut held) = (0, Vec::new());
        self.until("all buffers to be held", |rig| {
            written += write_available(&mut peer, &bytes[written..]);
            held.extend(rig.received_buffers(hog));
            rig.arena().outstanding() as usize == count
        });
        // Out of the line, so that the case's own sockets are the only ones in it.
        self.pause(hog);
        self.expect_paused(hog);
        (hog, peer, held)
    }

    /// Closes all that is open, waits for it, and checks that no buffer is out and none is lost.
    #[track_caller]
    pub(super) fn finish(mut self) {
        self.take_all();
        self.close_all();
        assert_eq!(self.arena().outstanding(), 0, "buffers that are out when nobody has one");
        drop(self.hold_all_buffers());
        self.close_all();
        for listener in self.monitor.listening() {
            self.close_listener(listener, 0);
        }
        self.until("every listener to be closed", |rig| {
            rig.take_all();
            rig.monitor.all_listeners_closed()
        });
        let arena = self.arena();
        drop(self);
        assert_eq!(arena.outstanding(), 0, "buffers that did not come home");
    }

    fn close_all(&mut self) {
        for socket in self.monitor.open() {
            self.close(socket, CloseMode::Orderly);
        }
        self.until("everything to be closed", |rig| {
            rig.take_all();
            rig.monitor.all_closed()
        });
    }
}

/// Reads all that is there; says how the stream ended if it did.
pub(super) fn read_available(peer: &mut impl Peer, bytes: &mut Vec<u8>) -> Option<Ending> {
    let mut block = vec![0; 64 * 1024];
    loop {
        match peer.try_read(&mut block) {
            Ok(0) => return Some(Ending::Finished),
            Ok(count) => bytes.extend_from_slice(&block[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Some(Ending::Reset),
            Err(error) => panic!("the peer can't read: {error}"),
        }
    }
}

/// Writes until nothing more fits; how much did.
pub(super) fn write_available(peer: &mut impl Peer, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match peer.try_write(&bytes[written..]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => panic!("the peer can't write: {error}"),
        }
    }
    written
}
