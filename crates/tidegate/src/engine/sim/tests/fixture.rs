//! A server and clients that know what the contract promises and check it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::engine::sim::{Faults, SimEngine, SimPeer, SimStream, Step, World};
use crate::engine::{CloseMode, Completion, Engine, EngineConfig, ListenerId, SocketId};
use crate::memory::{ArenaConfig, Buffer, Gather, Payload, Piece};
use crate::time::Time;

/// An engine configuration for tests: 64 sockets, 16 buffers of 4 KiB.
pub(super) fn config() -> EngineConfig {
    EngineConfig {
        sockets: 64,
        arena: ArenaConfig { buffers: 16, buffer_bytes: 4096, owners: 64, lent_max: 4 },
        receive_budget_bytes: 16 * 1024,
        submission_entries: EngineConfig::SUBMISSION_ENTRIES,
        completion_entries: EngineConfig::COMPLETION_ENTRIES,
        spin: EngineConfig::SPIN,
        teardown_limit: EngineConfig::TEARDOWN_LIMIT,
        socket_options: crate::engine::SocketOptions::default(),
    }
}

/// The address that tests listen on.
pub(super) fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000))
}

/// A gather of one payload.
pub(super) fn gather(bytes: impl Into<Payload>) -> Box<Gather> {
    let mut gather = Box::new(Gather::default());
    let payload = bytes.into();
    gather.push(Piece { charge_bytes: 0, held_bytes: payload.len(), payload });
    gather
}

/// One engine with one listener, and what it has reported and nobody has looked at yet.
pub(super) struct Bench {
    pub world: World,
    pub engine: SimEngine,
    pub listener: ListenerId,
    pub reports: VecDeque<Completion<SimStream>>,
}

impl Bench {
    pub fn new(faults: Faults, config: EngineConfig) -> Self {
        let world = World::new(1, faults);
        let mut engine = SimEngine::new(&world, config);
        let listener = engine.listen(world.listen(address(), 8).expect("a free address"));
        Self { world, engine, listener, reports: VecDeque::new() }
    }

    /// A client and the socket that the engine has accepted it on.
    pub fn pair(&mut self) -> (SimPeer, SocketId) {
        let peer = self.world.connect(address());
        self.engine.accept(self.listener, 1);
        let Completion::Accepted { stream, .. } = self.next() else { panic!("not accepted") };
        let socket = self.engine.adopt(stream).expect("a free place");
        (peer, socket)
    }

    /// The next completion.
    pub fn next(&mut self) -> Completion<SimStream> {
        self.poll_once();
        match self.reports.pop_front() {
            Some(report) => report,
            None => panic!("nothing happens\n{}", self.world.trace_text()),
        }
    }

    /// Waits until there is a completion, for at most ten seconds of virtual time.
    pub fn poll_once(&mut self) {
        if self.reports.is_empty() {
            let mut reports = Vec::new();
            let deadline = self.engine.now() + Duration::from_secs(10);
            self.engine.wait(Some(deadline), &mut reports).expect("a poll");
            self.reports.extend(reports);
        }
        self.world.check();
    }

    /// Lets the engine do what it has to do for `duration`, and returns all that it reports.
    pub fn run_for(&mut self, duration: Duration) -> Vec<Completion<SimStream>> {
        let until = self.world.now() + duration;
        let mut reports: Vec<_> = self.reports.drain(..).collect();
        while self.world.now() < until {
            self.engine.wait(Some(until), &mut reports).expect("a poll");
        }
        self.world.check();
        reports
    }

    /// The bytes of the next completion, which is data.
    pub fn next_data(&mut self) -> Buffer {
        match self.next() {
            Completion::Received { buffer, .. } => buffer,
            other => panic!("{other:?} and not data"),
        }
    }
}

/// A connection of the [`Echo`] server.
#[derive(Default)]
struct Echoed {
    waiting: VecDeque<Buffer>,
    is_sending: bool,
    is_paused: bool,
    peer_finished: bool,
    shut: bool,
    closing: bool,
    /// In which turn it was closed: what that turn's poll had already reported is still handled after it.
    closed_in_turn: u64,
}

/// Sends back what it gets, pauses when three buffers wait, and half-closes after the peer has.
pub(super) struct Echo {
    pub engine: SimEngine,
    listener: ListenerId,
    sockets: BTreeMap<u32, (SocketId, Echoed)>,
    pub accepted: u64,
    pub closed: u64,
    turns: u64,
    reports: Vec<Completion<SimStream>>,
}

impl Echo {
    pub fn new(world: &World, config: EngineConfig, address: SocketAddr) -> Self {
        let mut engine = SimEngine::new(world, config);
        let listener = engine.listen(world.listen(address, 16).expect("a free address"));
        engine.accept(listener, 4);
        Self { engine, listener, sockets: BTreeMap::new(), accepted: 0, closed: 0, turns: 0, reports: Vec::new() }
    }

    /// One turn of its loop.
    pub fn turn(&mut self) {
        self.turns += 1;
        let mut reports = std::mem::take(&mut self.reports);
        let deadline = self.engine.now() + Duration::from_millis(50);
        self.engine.poll(Some(deadline), &mut reports).expect("a poll");
        for report in reports.drain(..) {
            self.handle(report);
        }
        self.reports = reports;
    }

    fn handle(&mut self, report: Completion<SimStream>) {
        match report {
            Completion::Accepted { stream, .. } => {
                self.accepted += 1;
                self.engine.accept(self.listener, 1);
                if let Ok(socket) = self.engine.adopt(stream) {
                    self.engine.receive(socket).expect("a new socket");
                    assert!(self.sockets.insert(socket.index, (socket, Echoed::default())).is_none(), "a used place");
                }
            }
            Completion::AcceptFailed { .. } => self.engine.accept(self.listener, 1),
            Completion::Received { socket, buffer } => {
                assert!(!buffer.is_empty(), "no data");
                if self.is_open(socket) {
                    let echoed = self.of(socket);
                    assert!(!echoed.peer_finished, "data after the end");
                    echoed.waiting.push_back(buffer);
                    self.go_on(socket);
                }
            }
            Completion::ReceivePaused { socket } => {
                // Also after the pause was called off: it was on its way then.
                self.is_open(socket);
            }
            Completion::PeerFinished { socket } => {
                self.is_open(socket);
                assert!(!std::mem::replace(&mut self.of(socket).peer_finished, true), "the end comes twice");
                self.go_on(socket);
            }
            Completion::ReceiveFailed { socket, error } if error.kind() == io::ErrorKind::OutOfMemory => {
                self.is_open(socket);
                self.engine.receive(socket).expect("an open socket");
            }
            Completion::ReceiveFailed { socket, .. } => {
                self.is_open(socket);
                self.close(socket, CloseMode::Abort);
            }
            Completion::Sent { socket, mut gather, result } => {
                assert!(std::mem::replace(&mut self.of(socket).is_sending, false), "sent unasked");
                match result {
                    Ok(bytes) => {
                        assert!(bytes > 0, "a send of nothing");
                        gather.advance(bytes, drop);
                        if !gather.is_empty() && !self.of(socket).closing {
                            self.of(socket).is_sending = true;
                            self.engine.send(socket, gather).expect("an open socket");
                            return;
                        }
                        self.go_on(socket);
                    }
                    Err(error) if error.kind() == io::ErrorKind::OutOfMemory && !self.of(socket).closing => {
                        self.of(socket).is_sending = true;
                        self.engine.send(socket, gather).expect("an open socket");
                    }
                    Err(_) => self.close(socket, CloseMode::Abort),
                }
            }
            Completion::WriteShut { socket, .. } => {
                self.is_open(socket);
                self.close(socket, CloseMode::Orderly);
            }
            Completion::Closed { socket } => {
                let (id, echoed) = self.sockets.remove(&socket.index).expect("a socket in use");
                assert!(id == socket && echoed.closing && !echoed.is_sending, "closed too early");
                self.closed += 1;
            }
            Completion::Woken | Completion::ListenerClosed { .. } => {}
            other => panic!("{other:?} unasked"),
        }
    }

    fn of(&mut self, socket: SocketId) -> &mut Echoed {
        match self.sockets.get_mut(&socket.index) {
            Some((id, echoed)) if *id == socket => echoed,
            _ => panic!("{socket:?} is not in use"),
        }
    }

    /// False if it was closed in this very turn; earlier, and nothing of the kind may be reported.
    fn is_open(&mut self, socket: SocketId) -> bool {
        let turns = self.turns;
        let echoed = self.of(socket);
        assert!(!echoed.closing || echoed.closed_in_turn == turns, "reported after the close of {socket:?}");
        !echoed.closing
    }

    fn close(&mut self, socket: SocketId, mode: CloseMode) {
        let turns = self.turns;
        let echoed = self.of(socket);
        if !std::mem::replace(&mut echoed.closing, true) {
            echoed.closed_in_turn = turns;
            echoed.waiting.clear();
            self.engine.close(socket, mode).expect("an open socket");
        }
    }

    fn go_on(&mut self, socket: SocketId) {
        let echoed = self.of(socket);
        if echoed.closing {
            return;
        }
        if !echoed.is_sending
            && let Some(buffer) = echoed.waiting.pop_front()
        {
            echoed.is_sending = true;
            self.engine.send(socket, gather(buffer)).expect("an open socket");
        }
        let echoed = self.of(socket);
        let is_full = echoed.waiting.len() >= 3;
        if is_full != echoed.is_paused {
            echoed.is_paused = is_full;
            let done = if is_full { self.engine.pause_receive(socket) } else { self.engine.receive(socket) };
            done.expect("an open socket");
        }
        let echoed = self.of(socket);
        if echoed.peer_finished && !echoed.is_sending && !echoed.shut {
            echoed.shut = true;
            self.engine.shutdown_write(socket).expect("an open socket");
        }
    }
}

/// A client that writes a known sequence, reads it back, checks every byte, and half-closes in between.
pub(super) struct EchoClient {
    pub peer: Option<SimPeer>,
    total: usize,
    written: usize,
    read: usize,
    salt: u8,
    /// The whole sequence came back and then the end.
    pub succeeded: bool,
}

impl EchoClient {
    pub fn new(peer: SimPeer, total: usize) -> Self {
        let salt = peer.number() as u8;
        Self { peer: Some(peer), total, written: 0, read: 0, salt, succeeded: false }
    }

    fn byte(&self, place: usize) -> u8 {
        (place as u8) ^ ((place >> 8) as u8).wrapping_mul(31) ^ self.salt
    }

    /// Writes and reads what it can. Gives up at an error.
    pub fn go_on(&mut self) {
        if self.peer.is_some()
            && let Err(error) = self.try_go_on()
            && error.kind() != io::ErrorKind::WouldBlock
        {
            self.peer = None;
        }
    }

    fn try_go_on(&mut self) -> io::Result<()> {
        let mut bytes = [0; 3000];
        while let Some(peer) = &mut self.peer {
            match peer.read(&mut bytes) {
                Ok(0) => {
                    assert_eq!((self.read, self.written), (self.total, self.total), "an early end");
                    self.succeeded = true;
                    self.peer = None;
                    return Ok(());
                }
                Ok(length) => {
                    for &byte in &bytes[..length] {
                        assert_eq!(byte, self.byte(self.read), "byte {} of client {}", self.read, self.salt);
                        self.read += 1;
                    }
                    assert!(self.read <= self.written, "more came back than was sent");
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        while self.written < self.total {
            let length = (self.total - self.written).min(bytes.len());
            for (offset, byte) in bytes[..length].iter_mut().enumerate() {
                *byte = self.byte(self.written + offset);
            }
            let Some(peer) = &mut self.peer else { return Ok(()) };
            self.written += peer.write(&bytes[..length])?;
            if self.written == self.total {
                peer.shutdown_write()?;
            }
        }
        Ok(())
    }
}

/// What came out of [`run`].
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Outcome {
    pub hash: u64,
    pub events: u64,
    pub succeeded: usize,
    pub accepted: u64,
    pub time: Time,
}

/// Two echo servers and `clients` clients, until all is over.
pub(super) fn run(world: &World, config: &EngineConfig, clients: usize, bytes: usize) -> Outcome {
    let addresses = [7000, 7001].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let mut servers = addresses.map(|address| Echo::new(world, config.clone(), address));
    let mut peers: Vec<EchoClient> = Vec::new();
    for token in 0..clients as u64 {
        world.call_at(Time::from_nanos(token * 20_000), token);
    }
    let is_over = |servers: &[Echo; 2], peers: &[EchoClient]| {
        peers.len() == clients
            && peers.iter().all(|client| client.peer.is_none())
            && servers.iter().all(|server| server.sockets.is_empty())
    };
    let mut steps = 0;
    while !is_over(&servers, &peers) {
        steps += 1;
        assert!(steps < 3_000_000, "no end in sight at {}\n{}", world.now(), world.trace_text());
        match world.step() {
            Step::Engine(number) => servers[number].turn(),
            Step::Peer(number) => peers[number as usize].go_on(),
            Step::Timer(token) => {
                let peer = world.connect(addresses[token as usize % 2]);
                assert_eq!(peer.number() as usize, peers.len());
                let size = world.random_below(bytes as u64) as usize + 1;
                peers.push(EchoClient::new(peer, size));
            }
            Step::Idle => panic!("nothing happens any more\n{}", world.trace_text()),
        }
        if steps % 64 == 0 {
            world.check();
        }
    }
    world.check();
    for server in &servers {
        assert_eq!(server.engine.arena().free(), server.engine.arena().buffers() as usize, "a buffer is lost");
        let totals = server.engine.totals();
        for tally in [totals.receives, totals.sends, totals.closes, totals.shutdowns, totals.accepts] {
            assert_eq!(tally.begun, tally.completed, "{totals:?}");
        }
    }
    Outcome {
        hash: world.trace_hash(),
        events: world.trace_count(),
        succeeded: peers.iter().filter(|client| client.succeeded).count(),
        accepted: servers.iter().map(|server| server.accepted).sum(),
        time: world.now(),
    }
}
