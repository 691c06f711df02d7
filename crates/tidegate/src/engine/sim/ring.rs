//! The system's half of a simulated engine: sockets, recorded operations, and completions on their way.
//!
//! An operation is recorded by its method, handed over by the next poll (or a later one), done by the system when it
//! can be, and reported some time after that. The three steps are apart so that everything which can come between
//! them in life can do so here: data between a cancel and its effect, a close between a completion and its report.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::endpoint::{EndpointId, Failure, Owner};
use super::faults::Fault;
use super::network::Network;
use super::random::Random;
use super::socket::{Close, End, Operation, Receive, Send, Socket, Want};
use super::trace::Record;
use crate::engine::{CloseMode, EngineConfig, EngineCounters, ListenerId, SocketId, Stale};
use crate::memory::{Gather, ReceiveArena};
use crate::time::Time;

/// Operations of one kind: how many were handed to the system, and of how many the last completion was reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tally {
    /// Handed to the system.
    pub begun: u64,
    /// Reported.
    pub completed: u64,
}

/// What an engine has done, by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct EngineTotals {
    /// Receives, from arming to the last completion.
    pub receives: Tally,
    /// Sends.
    pub sends: Tally,
    /// Connects.
    pub connects: Tally,
    /// Half-closes.
    pub shutdowns: Tally,
    /// Closes.
    pub closes: Tally,
    /// Accepts, counted by credit used.
    pub accepts: Tally,
    /// Bytes delivered in buffers.
    pub received_bytes: u64,
    /// Bytes thrown away by `discard`.
    pub discarded_bytes: u64,
    /// Bytes in buffers that went home undelivered, because the socket was closed.
    pub undelivered_bytes: u64,
    /// Bytes that sends have taken.
    pub sent_bytes: u64,
}

/// The system's half of an engine.
pub(super) struct Ring {
    pub(super) number: u32,
    pub(super) config: EngineConfig,
    pub(super) arena: ReceiveArena,
    pub(super) now: Time,
    /// What the engine hands out as randomness.
    pub(super) random: Random,
    pub(super) slots: Vec<Slot>,
    pub(super) free: Vec<u32>,
    /// Places whose `Closed` was reported by the last poll. The caller may not have come to it yet, so they are used
    /// again only after the next one has begun.
    pub(super) freed: Vec<u32>,
    pub(super) listeners: Vec<RingListener>,
    pub(super) recorded: VecDeque<Submission>,
    /// Completions on their way, by when they are due and then in the order in which they came about.
    pub(super) entries: BTreeMap<(u64, u64), Entry>,
    /// Completions that have come about since the last poll: what would be in the completion queue.
    pub(super) queued: u32,
    /// Receives in line for a buffer.
    pub(super) starving: VecDeque<SocketId>,
    /// Sockets that have more data than fits into one poll.
    pub(super) ready: VecDeque<SocketId>,
    /// Until then the arena seems to be empty.
    pub(super) exhausted_until: Time,
    pub(super) counters: EngineCounters,
    pub(super) totals: EngineTotals,
    /// Until when the last poll was ready to wait.
    pub(super) deadline: Option<Time>,
    /// The last poll has found nothing to do: the next one can wait.
    pub(super) settled: bool,
    pub(super) alive: bool,
    /// Somebody has called the waker.
    pub(super) woken: Arc<AtomicBool>,
    /// Another thread has returned a buffer.
    pub(super) buffer_returned: Arc<AtomicBool>,
}

/// The place of a socket.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) generation: u32,
    pub(super) socket: Option<Box<Socket>>,
}

/// A listener of an engine.
#[derive(Debug)]
pub(super) struct RingListener {
    /// Its number in the network.
    pub(super) number: u32,
    pub(super) credit: u64,
    pub(super) closing: bool,
    /// When the last of its completions is due.
    pub(super) last_due_ns: u64,
}

/// Something to hand over.
#[derive(Clone, Debug)]
pub(super) enum Submission {
    Connect(SocketId),
    Arm(SocketId),
    CancelReceive(SocketId),
    Send(SocketId),
    Shutdown(SocketId),
    Close(SocketId),
    Accept { listener: ListenerId, count: u32 },
    CloseListener { listener: ListenerId, sweep: u32 },
    Refuse { endpoint: EndpointId, answer: Bytes },
}

/// A completion on its way.
#[derive(Debug)]
pub(super) enum Entry {
    Connected { socket: SocketId, result: Result<SocketAddr, Failure> },
    Filled { socket: SocketId, buffer: u32, length: usize },
    Discarded { socket: SocketId, bytes: usize },
    ReceiveEnded { socket: SocketId, end: End },
    Sent { socket: SocketId, result: Result<usize, Failure> },
    WriteShut { socket: SocketId, result: Result<(), Failure> },
    Closed { socket: SocketId },
    Accepted { listener: ListenerId, endpoint: EndpointId, peer: SocketAddr },
    AcceptFailed { listener: ListenerId, failure: Failure },
    ListenerClosed { listener: ListenerId },
}

impl Entry {
    /// Completions of one lane are never reordered.
    pub(super) fn lane(&self) -> (u8, u32) {
        match self {
            Self::Accepted { listener, .. }
            | Self::AcceptFailed { listener, .. }
            | Self::ListenerClosed { listener } => (0, listener.0),
            Self::Filled { socket, .. } | Self::Discarded { socket, .. } | Self::ReceiveEnded { socket, .. } => {
                (1, socket.index)
            }
            Self::Connected { socket, .. }
            | Self::Sent { socket, .. }
            | Self::WriteShut { socket, .. }
            | Self::Closed { socket } => (2, socket.index),
        }
    }
}

impl Ring {
    /// An engine with nothing to do.
    pub(super) fn new(
        number: u32,
        config: EngineConfig,
        arena: ReceiveArena,
        random: Random,
        woken: Arc<AtomicBool>,
        buffer_returned: Arc<AtomicBool>,
    ) -> Self {
        assert!(config.sockets <= config.arena.owners, "each socket can hold buffers");
        Self {
            number,
            config,
            arena,
            now: Time::ZERO,
            random,
            slots: Vec::new(),
            free: Vec::new(),
            freed: Vec::new(),
            listeners: Vec::new(),
            recorded: VecDeque::new(),
            entries: BTreeMap::new(),
            queued: 0,
            starving: VecDeque::new(),
            ready: VecDeque::new(),
            exhausted_until: Time::ZERO,
            counters: EngineCounters::default(),
            totals: EngineTotals::default(),
            deadline: None,
            settled: false,
            alive: true,
            woken,
            buffer_returned,
        }
    }

    /// See [`Engine::listen`](crate::engine::Engine::listen).
    pub(super) fn listen(&mut self, number: u32) -> ListenerId {
        self.listeners.push(RingListener { number, credit: 0, closing: false, last_due_ns: 0 });
        ListenerId(self.listeners.len() as u32 - 1)
    }

    /// See [`Engine::accept`](crate::engine::Engine::accept).
    pub(super) fn accept(&mut self, listener: ListenerId, count: u32) {
        self.recorded.push_back(Submission::Accept { listener, count });
    }

    /// See [`Engine::close_listener`](crate::engine::Engine::close_listener).
    pub(super) fn close_listener(&mut self, listener: ListenerId, sweep: u32) {
        self.recorded.push_back(Submission::CloseListener { listener, sweep });
    }

    /// See [`Engine::refuse`](crate::engine::Engine::refuse).
    pub(super) fn refuse(&mut self, endpoint: EndpointId, answer: Bytes) {
        self.recorded.push_back(Submission::Refuse { endpoint, answer });
    }

    /// Takes over an endpoint. `None`: all places are in use.
    pub(super) fn adopt(&mut self, endpoint: EndpointId, network: &mut Network) -> Option<SocketId> {
        let id = self.open_slot(Socket::new(Some(endpoint), None))?;
        network.give_to(endpoint, Owner::Socket { engine: self.number, index: id.index });
        Some(id)
    }

    /// See [`Engine::connect`](crate::engine::Engine::connect).
    pub(super) fn connect(&mut self, address: SocketAddr, source: Option<IpAddr>) -> Option<SocketId> {
        let mut socket = Socket::new(None, Some(address));
        socket.source = source;
        socket.connect = Operation::Recorded;
        let id = self.open_slot(socket)?;
        self.recorded.push_back(Submission::Connect(id));
        Some(id)
    }

    /// See [`Engine::receive`](crate::engine::Engine::receive).
    pub(super) fn receive(&mut self, id: SocketId) -> Result<(), Stale> {
        let socket = self.open(id)?;
        if !socket.ended && matches!(socket.want, Want::Nothing | Want::Pause) {
            socket.want = Want::Data;
            self.ask(id);
        }
        Ok(())
    }

    /// See [`Engine::discard`](crate::engine::Engine::discard).
    pub(super) fn discard(&mut self, id: SocketId) -> Result<(), Stale> {
        let socket = self.open(id)?;
        if socket.ended || socket.want == Want::Discard {
            return Ok(());
        }
        socket.want = Want::Discard;
        match socket.receive {
            Receive::None | Receive::Ending => self.ask(id),
            Receive::Recorded | Receive::Armed { .. } => self.record_cancel(id),
            Receive::Starving => {
                self.leave_line(id);
                self.ask(id);
            }
        }
        Ok(())
    }

    /// See [`Engine::pause_receive`](crate::engine::Engine::pause_receive).
    pub(super) fn pause_receive(&mut self, id: SocketId, network: &mut Network) -> Result<(), Stale> {
        let socket = self.open(id)?;
        if socket.want != Want::Data {
            return Ok(());
        }
        socket.want = Want::Pause;
        match socket.receive {
            Receive::Recorded | Receive::Armed { .. } => self.record_cancel(id),
            Receive::Starving => {
                self.leave_line(id);
                self.end_receive(id, End::Canceled, network);
            }
            Receive::Ending => {}
            Receive::None => panic!("socket {id:?} wants data and nobody fetches it"),
        }
        Ok(())
    }

    /// See [`Engine::send`](crate::engine::Engine::send).
    pub(super) fn send(&mut self, id: SocketId, gather: Box<Gather>) -> Result<(), Box<Gather>> {
        assert!(!gather.is_empty(), "a send of nothing");
        let Ok(socket) = self.open(id) else { return Err(gather) };
        if !matches!(socket.send, Send::None) {
            debug_assert!(false, "a second send on {id:?}");
            return Err(gather);
        }
        socket.send = Send::Recorded(gather);
        self.recorded.push_back(Submission::Send(id));
        Ok(())
    }

    /// See [`Engine::shutdown_write`](crate::engine::Engine::shutdown_write).
    pub(super) fn shutdown_write(&mut self, id: SocketId) -> Result<(), Stale> {
        let socket = self.open(id)?;
        if !matches!(socket.send, Send::None) || socket.shutdown != Operation::None {
            debug_assert!(false, "a half-close of {id:?} with another operation in flight");
            return Err(Stale);
        }
        socket.shutdown = Operation::Recorded;
        self.recorded.push_back(Submission::Shutdown(id));
        Ok(())
    }

    /// See [`Engine::close`](crate::engine::Engine::close).
    pub(super) fn close(&mut self, id: SocketId, mode: CloseMode) -> Result<(), Stale> {
        self.open(id)?.close = Close::Recorded(mode);
        self.recorded.push_back(Submission::Close(id));
        Ok(())
    }

    /// Ends everything at once, as the drop of an engine does after it has reaped to zero.
    pub(super) fn tear_down(&mut self, network: &mut Network) {
        self.alive = false;
        for (_, entry) in std::mem::take(&mut self.entries) {
            match entry {
                Entry::Filled { buffer, length, .. } => drop(self.arena.filled(buffer, length, 0)),
                Entry::Accepted { endpoint, .. } => network.close(endpoint, CloseMode::Orderly),
                _ => {}
            }
        }
        for slot in &mut self.slots {
            let Some(socket) = slot.socket.take() else { continue };
            slot.generation = slot.generation.wrapping_add(1);
            if let Some(endpoint) = socket.endpoint {
                network.close(endpoint, CloseMode::Orderly);
            }
        }
        for listener in &self.listeners {
            network.unbind(listener.number);
        }
        for submission in std::mem::take(&mut self.recorded) {
            if let Submission::Refuse { endpoint, answer } = submission {
                self.turn_away(endpoint, &answer, network);
            }
        }
        self.starving.clear();
        self.ready.clear();
    }

    /// Whether a turn of this engine's loop would find something to do at `now`.
    pub(super) fn is_runnable(&self, now: Time) -> bool {
        self.alive && (self.next_time(now).is_some_and(|time| time <= now))
    }

    /// When this engine has something to do, if that is known; not before `now`.
    pub(super) fn next_time(&self, now: Time) -> Option<Time> {
        if !self.alive {
            return None;
        }
        let at_once = !self.settled
            || !self.recorded.is_empty()
            || !self.ready.is_empty()
            || self.woken.load(Ordering::Acquire)
            || self.buffer_returned.load(Ordering::Acquire);
        if at_once {
            return Some(now);
        }
        let entry = self.entries.first_key_value().map(|((due_ns, _), _)| Time::from_nanos(*due_ns));
        let fed = !self.starving.is_empty() && self.arena.free() > 0;
        let fed = fed.then_some(self.exhausted_until);
        [entry, self.deadline, fed].into_iter().flatten().min().map(|time| time.max(now))
    }

    /// What was counted so far.
    pub(super) fn counters(&self) -> EngineCounters {
        EngineCounters { starving: self.starving.len() as u32, ..self.counters }
    }

    /// See [`Engine::unread_bytes`](crate::engine::Engine::unread_bytes).
    pub(super) fn unread_bytes(&self, id: SocketId, network: &Network) -> usize {
        self.socket(id).and_then(|socket| socket.endpoint).map_or(0, |endpoint| network.unread_bytes(endpoint))
    }

    /// See [`Engine::peer_address`](crate::engine::Engine::peer_address).
    pub(super) fn peer_address(&self, id: SocketId, network: &Network) -> Option<SocketAddr> {
        let endpoint = self.socket(id).and_then(|socket| socket.endpoint)?;
        network.get(endpoint).map(|endpoint| endpoint.remote)
    }

    /// See [`Engine::oldest_published`](crate::engine::Engine::oldest_published).
    pub(super) fn oldest_published(&self, id: SocketId) -> Option<Time> {
        match &self.socket(id)?.send {
            Send::Recorded(gather) | Send::Waiting(gather) | Send::Ending(gather) => gather.oldest_published(),
            Send::None => None,
        }
    }

    /// How many operations are in the system, closes included.
    pub(super) fn outstanding(&self) -> u64 {
        let totals = &self.totals;
        [totals.receives, totals.sends, totals.connects, totals.shutdowns, totals.closes, totals.accepts]
            .into_iter()
            .map(|tally| tally.begun - tally.completed)
            .sum()
    }

    /// Checks what must hold between any two steps.
    ///
    /// # Panics
    /// If it doesn't.
    pub(super) fn check(&self) {
        let number = self.number;
        let filled = self.entries.values().filter(|entry| matches!(entry, Entry::Filled { .. })).count();
        let (free, out, all) = (self.arena.free(), self.arena.outstanding(), self.arena.buffers());
        assert_eq!(
            free + out as usize + filled,
            all as usize,
            "engine {number}: {free} buffers free, {out} out, {filled} filled and not reported"
        );
        let cancels: BTreeSet<u32> = self
            .recorded
            .iter()
            .filter_map(|submission| match submission {
                Submission::CancelReceive(id) => Some(id.index),
                _ => None,
            })
            .collect();
        for (index, slot) in self.slots.iter().enumerate() {
            let Some(socket) = slot.socket.as_deref() else { continue };
            let id = SocketId { index: index as u32, generation: slot.generation };
            let is_starving = self.starving.contains(&id);
            assert_eq!(is_starving, socket.receive == Receive::Starving, "engine {number}: the line and {id:?}");
            let is_asked = matches!(socket.want, Want::Data | Want::Discard | Want::Pause) || socket.is_closing();
            assert!(is_asked || socket.receive == Receive::None, "engine {number}: {id:?} receives unasked");
            let is_served = socket.receive != Receive::None || socket.want == Want::Nothing || socket.is_closing();
            assert!(is_served, "engine {number}: {id:?} wants {:?} in vain", socket.want);
            // E11, E15, E22: a receive that is not wanted any more ends; its cancel is on its way to the system until then.
            let is_unwanted = match (socket.receive, socket.want) {
                (Receive::Recorded | Receive::Armed { .. } | Receive::Starving, Want::Pause) => true,
                (Receive::Armed { discards }, Want::Discard) => !discards,
                _ => false,
            };
            let is_canceled = cancels.contains(&id.index) || socket.is_closing();
            assert!(is_canceled || !is_unwanted, "engine {number}: the cancel of the receive of {id:?} is lost");
        }
        let places = self.slots.iter().filter(|slot| slot.socket.is_some()).count();
        let places = places + self.free.len() + self.freed.len();
        assert!(places == self.slots.len() || !self.alive, "engine {number}: a place is lost");
    }

    /// The socket, unless it is closed.
    pub(super) fn socket(&self, id: SocketId) -> Option<&Socket> {
        let slot = self.slots.get(id.index as usize)?;
        if slot.generation == id.generation { slot.socket.as_deref() } else { None }
    }

    /// The socket, unless it is closed.
    pub(super) fn socket_mut(&mut self, id: SocketId) -> Option<&mut Socket> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation == id.generation { slot.socket.as_deref_mut() } else { None }
    }

    /// The socket, unless it is closed or closing.
    fn open(&mut self, id: SocketId) -> Result<&mut Socket, Stale> {
        self.socket_mut(id).filter(|socket| !socket.is_closing()).ok_or(Stale)
    }

    fn open_slot(&mut self, socket: Socket) -> Option<SocketId> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if (self.slots.len() as u32) < self.config.sockets => {
                self.slots.push(Slot::default());
                self.slots.len() as u32 - 1
            }
            None => return None,
        };
        let slot = &mut self.slots[index as usize];
        slot.socket = Some(Box::new(socket));
        Some(SocketId { index, generation: slot.generation })
    }

    /// Makes the system fetch what the socket wants, unless it already does.
    pub(super) fn ask(&mut self, id: SocketId) {
        if let Some(socket) = self.socket_mut(id)
            && socket.receive == Receive::None
        {
            socket.receive = Receive::Recorded;
            self.recorded.push_back(Submission::Arm(id));
        }
    }

    fn record_cancel(&mut self, id: SocketId) {
        if let Some(socket) = self.socket_mut(id)
            && !socket.cancel_recorded
        {
            socket.cancel_recorded = true;
            self.recorded.push_back(Submission::CancelReceive(id));
        }
    }

    /// Takes the socket out of the line for buffers.
    pub(super) fn leave_line(&mut self, id: SocketId) {
        self.starving.retain(|&other| other != id);
        if let Some(socket) = self.socket_mut(id) {
            socket.receive = Receive::None;
        }
    }

    /// Sends a completion on its way; it will not overtake what is due at `not_before_ns`. Returns when it is due.
    pub(super) fn report(&mut self, entry: Entry, not_before_ns: u64, network: &mut Network) -> u64 {
        let fate = &mut network.fate;
        let (usual, late, close) = (fate.faults.completion_ns, fate.faults.late_ns, fate.faults.close_ns);
        let mut delay_ns = fate.draw(usual) + fate.delay_by(Fault::LateCompletion, late);
        if matches!(entry, Entry::Closed { .. }) {
            delay_ns += fate.delay_by(Fault::CloseLate, close);
        }
        let due_ns = fate.now().as_nanos().saturating_add(delay_ns).max(not_before_ns);
        self.entries.insert((due_ns, fate.next_sequence()), entry);
        self.queued += 1;
        due_ns
    }

    /// Writes down what was done to a socket or listener of this engine.
    pub(super) fn note(&self, network: &mut Network, kind: &'static str, place: (u32, u32), count: u64, content: u64) {
        network.fate.note(Record { engine: Some(self.number), kind, place, count, content });
    }
}
