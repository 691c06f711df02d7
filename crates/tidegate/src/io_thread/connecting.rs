//! Outgoing connections until they are established: asked for by any thread, made by the I/O threads.
//!
//! A request waits in the queue of one I/O thread. The thread takes it, takes a place among the server's connections for
//! it, and begins to connect. Until the outcome the socket is known only here: a slot, a machine and a handler are
//! made for a connection that is established, not before. Every request that was taken into a queue has one outcome,
//! a handler or a [`ConnectFailed`]. What names a host is looked up first, see `looking_up`.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_queue::ArrayQueue;

use super::handlers::{Arrival, NO_DESCRIPTION, Timer};
use super::look_up::Resolver;
use super::looking_up::{LookingUp, Route};
use super::maintaining::{Attempts, Ended, Keeping};
use super::shared::Phase;
use super::timers::TimerKey;
use super::{IoThread, give_back, swallow};
use crate::connection::CloseReason;
use crate::engine::{CloseMode, Engine, SocketId};
use crate::filter::Description;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU32, Ordering};

/// Requests that one turn takes from the queue, so that a flood of them leaves room for I/O.
const CONNECTS_PER_TURN: usize = 256;

/// Where to connect to, from where, and what to say first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Where to connect to.
    pub destination: Destination,
    /// The address to connect from; by default the system chooses. The port is always the system's to choose. A source
    /// address has some 28,000 ports for each target (`net.ipv4.ip_local_port_range`): more connections to one target
    /// need more sources.
    pub source: Option<IpAddr>,
    /// Whatever tells the connections of one [`Connector`](crate::Connector) apart: comes back in [`Connected`] and
    /// [`ConnectFailed`]. 0 by default.
    pub tag: u64,
    /// Which I/O thread the connection shall live on, from 0; by default the one with the fewest connections.
    pub io_thread: Option<usize>,
    /// What is sent as soon as the connection is established, before anything that its handler sends. Nothing by default.
    pub first_data: Bytes,
}

impl Target {
    /// A connection to `address`.
    pub fn new(address: SocketAddr) -> Self {
        Self::to(Destination::Address(address))
    }

    /// A connection to `port` of the host with this name, which is looked up when the connection is made: by the system
    /// (`getaddrinfo`), or by [`Client::resolver`](crate::Client::resolver), on a thread that does nothing else. A name that is an address is one.
    ///
    /// Its addresses, at most the first eight, are tried one after the other until one is connected, each for an equal share of the
    /// time that is left: the [time](crate::Client::connect_timeout) is for all of it, from the look-up on. They are not tried side by side.
    ///
    /// ```
    /// # use tidegate::Target;
    /// let target = Target::host("db.example.org", 5432).tag(1);
    /// assert_eq!(target.destination.to_string(), "db.example.org:5432");
    /// ```
    pub fn host(name: impl Into<std::sync::Arc<str>>, port: u16) -> Self {
        let name = name.into();
        Self::to(match name.parse::<IpAddr>() {
            Ok(address) => Destination::Address(SocketAddr::new(address, port)),
            Err(_) => Destination::Host { name, port },
        })
    }

    pub(super) fn to(destination: Destination) -> Self {
        Self { destination, source: None, tag: 0, io_thread: None, first_data: Bytes::new() }
    }

    /// From this address of the machine, with a port that the system chooses.
    pub fn from_source(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// With this tag.
    pub fn tag(mut self, tag: u64) -> Self {
        self.tag = tag;
        self
    }

    /// With this as the first that is sent, at most [`Limits::send_queue_bytes`](crate::Limits). It is charged to send memory like any
    /// message when the connection is established; when there is none for it then, the connection ends as
    /// [`MemoryPressure`](crate::CloseReason::MemoryPressure), without a handler, and the connect has failed as
    /// [`NotEstablished`](ConnectError::NotEstablished). Until then it is the caller's.
    ///
    /// ```
    /// # use tidegate::Target;
    /// let target = Target::new("127.0.0.1:7007".parse()?).first_data(&b"HELLO 1\n"[..]);
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub fn first_data(mut self, data: impl Into<Bytes>) -> Self {
        self.first_data = data.into();
        self
    }

    /// On this I/O thread, from 0.
    pub fn on_thread(mut self, io_thread: usize) -> Self {
        self.io_thread = Some(io_thread);
        self
    }
}

/// Where an outgoing connection goes to.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Destination {
    /// An address and a port.
    Address(SocketAddr),
    /// A port of a host whose addresses are looked up.
    Host {
        /// The name, at most 253 bytes.
        name: std::sync::Arc<str>,
        /// The port.
        port: u16,
    },
}

impl fmt::Display for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(formatter),
            Self::Host { name, port } => write!(formatter, "{name}:{port}"),
        }
    }
}

/// An established outgoing connection, for whoever makes its handler.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Connected {
    /// Whom it is connected to.
    pub peer: SocketAddr,
    /// Its own address.
    pub local: SocketAddr,
    /// Which I/O thread the connection lives on, from 0.
    pub io_thread: usize,
    /// The tag of its [`Target`].
    pub tag: u64,
    pub(super) destination: Destination,
    pub(super) description: Option<std::sync::Arc<Description>>,
}

impl Connected {
    /// Where it was to go to: the name of the host, if it was asked for by that.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// What the filters of the connection have learned about it: nothing if it has none.
    pub fn description(&self) -> &Description {
        self.description.as_deref().unwrap_or(&NO_DESCRIPTION)
    }
}

/// A connection that was asked for and is not coming.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectFailed {
    /// Where it was to go to.
    pub destination: Destination,
    /// The tag of its [`Target`].
    pub tag: u64,
    /// Which I/O thread has tried, from 0.
    pub io_thread: usize,
    /// Why.
    pub error: ConnectError,
}

/// Why a connection that was asked for is not coming.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// There was no answer in time: the limit is [`Client::connect_timeout`](crate::Client::connect_timeout).
    #[error("no answer within {0:?} (Client::connect_timeout)")]
    TimedOut(Duration),
    /// The name has no addresses: none is known, or the look-up says that there is no such name.
    #[error("the name has no address: nobody knows such a host")]
    NameNotFound,
    /// The look-up of the name has failed in another way.
    #[error("can't look the name up: {}", describe(*kind, *os_error))]
    LookUpFailed {
        /// What it was. The system's look-up has no kind of its own for names that don't exist and says `Uncategorized`.
        kind: io::ErrorKind,
        /// The system's number for it, if it has one.
        os_error: Option<i32>,
    },
    /// As many names are being looked up as may be, those included whose look-up nobody waits for any more.
    #[error(
        "{limit} names are being looked up, as many as may be (Limits::look_ups_outstanding): connect again later, or raise the limit"
    )]
    TooManyLookUps {
        /// [`Limits::look_ups_outstanding`](crate::Limits::look_ups_outstanding).
        limit: u32,
    },
    /// The other side refused.
    #[error("connection refused: nobody listens at that address and port")]
    Refused,
    /// The server has as many connections as it may have.
    #[error(
        "the server has {connections} connections and keeps {held} places for its listeners, of {limit} in all \
         (Limits::max_connections): raise the limit, or connect again when a connection has ended"
    )]
    LimitReached {
        /// Connections at that moment, outgoing ones that were not established yet included.
        connections: u32,
        /// Places that are kept for connections to be accepted.
        held: u32,
        /// [`Limits::max_connections`](crate::Limits::max_connections).
        limit: u32,
    },
    /// The client's [`ConnectionLimiter`](crate::ConnectionLimiter) counts as many connections as it may.
    #[error(
        "the client's limiter has {limit} connections, as many as it may: connect again when one has ended, or raise its limit"
    )]
    LimiterFull {
        /// [`ConnectionLimiter::most`](crate::ConnectionLimiter::most).
        limit: u32,
    },
    /// The connection was [maintained](crate::Connector::maintain), and that was cancelled before it was established.
    #[error("cancelled")]
    Cancelled,
    /// The server was told to drain or to abort before the connection was established.
    #[error("the server is draining: it makes no more connections")]
    Draining,
    /// It was connected, and ended before it could be used: its filters were not established, or there was no send memory for its [first
    /// data](Target::first_data), with [`MemoryPressure`](CloseReason::MemoryPressure) as the reason. The reason is what the report counts it for.
    #[error("connected, but the filters were not established, or the first data could not be sent: {reason}")]
    NotEstablished {
        /// Why it ended.
        reason: CloseReason,
    },
    /// The system failed to connect in another way.
    #[error("can't connect: {}{}", describe(*kind, *os_error), connect_advice(*kind, *os_error))]
    Failed {
        /// What it was.
        kind: io::ErrorKind,
        /// The system's number for it, if it has one.
        os_error: Option<i32>,
    },
}

impl ConnectError {
    fn from_error(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            kind => Self::Failed { kind, os_error: error.raw_os_error() },
        }
    }

    pub(super) fn from_look_up(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NameNotFound,
            kind => Self::LookUpFailed { kind, os_error: error.raw_os_error() },
        }
    }

    /// Whether another address of the same host may do better.
    fn is_of_the_address(self) -> bool {
        matches!(self, Self::Refused | Self::Failed { .. } | Self::TimedOut(_))
    }
}

fn describe(kind: io::ErrorKind, os_error: Option<i32>) -> String {
    os_error.map_or_else(|| kind.to_string(), |number| io::Error::from_raw_os_error(number).to_string())
}

fn connect_advice(kind: io::ErrorKind, os_error: Option<i32>) -> &'static str {
    /// `EMFILE`, on every Unix.
    const TOO_MANY_OPEN_FILES: i32 = 24;
    match (kind, os_error) {
        (io::ErrorKind::AddrNotAvailable, _) => {
            "; the source address is not one of this machine, or all its ports to this target are taken: use more source \
             addresses"
        }
        (_, Some(TOO_MANY_OPEN_FILES)) => "; raise the limit of open files (ulimit -n)",
        _ => "",
    }
}

/// A request on its way to its I/O thread.
#[derive(Clone, Debug)]
pub(crate) struct ConnectRequest {
    /// What is wanted.
    pub target: Target,
    /// Which kind of outgoing connections, in the order of their description.
    pub client: usize,
    /// If it is to be made again whenever it has ended: how that goes so far.
    pub maintained: Option<Box<Attempts>>,
    /// Where its name has led, once it was looked up.
    pub route: Option<Box<Route>>,
}

/// Requests on their way to one I/O thread. Bounded: a full one refuses. Closed when the server drains, so that no request is
/// taken that nobody would answer.
pub(crate) struct ConnectQueue {
    requests: ArrayQueue<ConnectRequest>,
    /// Whether it is closed, and how many are about to put a request in.
    gate: AtomicU32,
}

/// The queue is closed; the rest of the word counts those who are at it.
const CLOSED: u32 = 1 << 31;

/// Why a queue has not taken a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotQueued {
    /// It holds as many as it may.
    Full,
    /// The server is draining or over.
    Closed,
}

impl ConnectQueue {
    /// For at most `requests` requests, at least 1.
    pub(crate) fn new(requests: usize) -> Self {
        Self { requests: ArrayQueue::new(requests.max(1)), gate: AtomicU32::new(0) }
    }

    /// Puts a request in, from any thread. The owner must be woken afterwards, whatever the result.
    pub(crate) fn push(&self, request: ConnectRequest) -> Result<(), NotQueued> {
        let before = self.gate.fetch_add(1, Ordering::AcqRel);
        let result = match before & CLOSED {
            0 => self.requests.push(request).map_err(|_| NotQueued::Full),
            _ => Err(NotQueued::Closed),
        };
        self.gate.fetch_sub(1, Ordering::AcqRel);
        result
    }

    /// From now on nothing more is taken.
    pub(crate) fn close(&self) {
        self.gate.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// The request that has waited longest.
    pub(crate) fn pop(&self) -> Option<ConnectRequest> {
        self.requests.pop()
    }

    /// Whether none waits.
    fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    /// How many may wait.
    pub(crate) fn capacity(&self) -> usize {
        self.requests.capacity()
    }

    /// Whether nothing is in it and nothing will be. In this order: who has left the gate has left his request.
    fn is_over(&self) -> bool {
        self.gate.load(Ordering::Acquire) == CLOSED && self.is_empty()
    }
}

/// What is told of connections that are not coming.
pub(crate) type OnFailed = std::sync::Arc<dyn Fn(&ConnectFailed) + Send + Sync>;

/// A kind of outgoing connections, as an I/O thread knows it.
#[derive(Clone)]
pub(crate) struct Outgoing {
    /// How long a connect may take.
    pub connect_timeout: Duration,
    /// Who is told when it fails.
    pub on_failed: Option<OnFailed>,
    /// Who finds the addresses of names, if not the system.
    pub resolver: Option<Resolver>,
}

/// The sockets of one I/O thread that are connecting, by index. At most as many as the server may have connections.
pub(super) struct Connecting {
    kinds: Vec<Outgoing>,
    /// The number of the first kind's handler table: they come behind those of the listeners.
    first_table: usize,
    sockets: BTreeMap<u32, Attempt>,
    /// The requests whose names are being looked up.
    pub(super) looking_up: LookingUp,
    /// Requests that go on with their next address, or are made again, as soon as the engine has places.
    again: VecDeque<ConnectRequest>,
    /// The connections that are maintained.
    pub(super) keeping: Keeping,
}

/// What a connection takes while it is connecting, in bytes: its attempt, its timer, and their share of the tree's nodes.
pub(crate) const CONNECTING_BYTES: usize = 2 * size_of::<Attempt>() + 32;

/// What a place in a queue of requests takes, in bytes.
pub(crate) const REQUEST_BYTES: usize = size_of::<ConnectRequest>() + size_of::<usize>();

/// A socket that is connecting.
struct Attempt {
    generation: u32,
    address: SocketAddr,
    request: ConnectRequest,
    timer: Option<TimerKey>,
    /// Why it will not be a connection, once that is settled: then it is being closed.
    failure: Option<ConnectError>,
}

impl Connecting {
    pub(super) fn new(kinds: Vec<Outgoing>, first_table: usize) -> Self {
        Self {
            kinds,
            first_table,
            sockets: BTreeMap::new(),
            looking_up: LookingUp::default(),
            again: VecDeque::new(),
            keeping: Keeping::default(),
        }
    }

    /// How many sockets are connecting.
    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// The kind of connections that this is about.
    pub(super) fn kind(&self, request: &ConnectRequest) -> &Outgoing {
        &self.kinds[request.client]
    }

    fn get_mut(&mut self, socket: SocketId) -> Option<&mut Attempt> {
        self.sockets.get_mut(&socket.index).filter(|attempt| attempt.generation == socket.generation)
    }
}

impl<E: Engine> IoThread<E> {
    /// Takes requests for connections. Called directly after a poll, when the engine has a place for whatever the server has a
    /// place for.
    pub(super) fn take_connects(&mut self) {
        if !self.connecting.kinds.is_empty() {
            let shared = &self.context.shared;
            if !shared.connects.is_empty() || !shared.answers.is_empty() || !self.connecting.again.is_empty() {
                self.take_some_connects();
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn take_some_connects(&mut self) {
        let shared = Arc::clone(&self.context.shared);
        while let Some(answer) = shared.answers.pop() {
            self.name_looked_up(answer);
        }
        for _ in 0..self.connecting.again.len() {
            let Some(request) = self.connecting.again.pop_front() else { break };
            self.try_connect(request);
        }
        for _ in 0..CONNECTS_PER_TURN {
            let Some(request) = shared.connects.pop() else { return };
            self.try_connect(request);
        }
        self.more_to_do = true;
    }

    /// Makes a request again, or goes on with it, when the engine has places.
    pub(super) fn try_connect_soon(&mut self, request: ConnectRequest) {
        self.connecting.again.push_back(request);
        self.more_to_do = true;
    }

    /// Begins to connect, or to look up where to, or says that it failed.
    pub(super) fn try_connect(&mut self, mut request: ConnectRequest) {
        let now = self.context.now;
        let (address, time) = match (&mut request.route, &request.target.destination) {
            (Some(route), _) => match route.next(now) {
                Some(next) => next,
                None => return self.connect_failed(request, ConnectError::NameNotFound),
            },
            (None, Destination::Address(address)) => (*address, self.connecting.kinds[request.client].connect_timeout),
            (None, Destination::Host { .. }) => return self.look_up(request),
        };
        match self.begin_connect(&request, address) {
            Ok(socket) => {
                let timer = Some(self.context.wheel.insert(now + time, Timer::Connect(socket.index)));
                let attempt = Attempt { generation: socket.generation, address, request, timer, failure: None };
                self.connecting.sockets.insert(socket.index, attempt);
            }
            Err(error) => self.connect_failed(request, error),
        }
    }

    /// Whether anything is still to be begun for this request.
    pub(super) fn may_begin(&self, request: &ConnectRequest) -> Result<(), ConnectError> {
        if request.maintained.as_ref().is_some_and(|attempts| attempts.is_cancelled()) {
            return Err(ConnectError::Cancelled);
        }
        if self.phase != Phase::Running {
            return Err(ConnectError::Draining);
        }
        Ok(())
    }

    fn begin_connect(&mut self, request: &ConnectRequest, address: SocketAddr) -> Result<SocketId, ConnectError> {
        self.may_begin(request)?;
        let table = self.connecting.first_table + request.client;
        if let Some(limiter) = &self.limiters[table]
            && !limiter.take()
        {
            return Err(ConnectError::LimiterFull { limit: limiter.most() });
        }
        let begun = self.begin_counted_connect(request, address);
        if begun.is_err() {
            give_back(&self.limiters[table]);
        }
        begun
    }

    fn begin_counted_connect(
        &mut self,
        request: &ConnectRequest,
        address: SocketAddr,
    ) -> Result<SocketId, ConnectError> {
        let limit = self.connections_max;
        let at_limit = |connections: u32| ConnectError::LimitReached {
            connections,
            held: limit.saturating_sub(connections),
            limit,
        };
        // Each listener has a place that no outgoing connection takes, or the two could wait for each other for ever.
        let outgoing_limit = limit.saturating_sub(self.addresses.len() as u32);
        if !self.shared.begin_outgoing(self.context.thread, limit, outgoing_limit) {
            // A drain that this thread has not heard of yet may have taken all places for its last accepts.
            let draining = self.shared.phase() != Phase::Running;
            return Err(if draining { ConnectError::Draining } else { at_limit(self.shared.connections()) });
        }
        let Some(socket) = self.engine.connect(address, request.target.source) else {
            // Can't be: every thread has room for all.
            tracing::error!(%address, "no place for a connect that was counted");
            self.shared.outgoing_released(self.context.thread);
            return Err(at_limit(self.shared.connections()));
        };
        Ok(socket)
    }

    /// A connect has ended.
    #[cold]
    #[inline(never)]
    pub(super) fn connected(&mut self, socket: SocketId, result: io::Result<SocketAddr>) {
        let Some(attempt) = self.connecting.get_mut(socket) else {
            debug_assert!(false, "{socket:?} has connected, and nobody asked for it");
            return;
        };
        if attempt.failure.is_some() {
            // Given up before it was known: its close is under way, whatever came of it.
            return;
        }
        match result {
            Ok(local) => {
                let Some(Attempt { address, request, timer, .. }) = self.connecting.sockets.remove(&socket.index)
                else {
                    return;
                };
                if let Some(timer) = timer {
                    self.context.wheel.cancel(timer);
                }
                self.tally.connected += 1;
                let connected = Connected {
                    peer: address,
                    local,
                    io_thread: self.context.thread,
                    tag: request.target.tag,
                    destination: request.target.destination.clone(),
                    description: None,
                };
                let table = self.connecting.first_table + request.client;
                let first_data = request.target.first_data.clone();
                self.keep(socket, address, request);
                self.establish(socket, table, &Arrival::Connected(&connected), first_data);
            }
            Err(error) => self.give_up(socket, ConnectError::from_error(&error)),
        }
    }

    /// A connect has taken as long as it may.
    pub(super) fn connect_timed_out(&mut self, index: u32) {
        // The timer is cancelled with its attempt, so this is the one it was set for.
        if let Some(attempt) = self.connecting.sockets.get_mut(&index) {
            let socket = SocketId { index, generation: attempt.generation };
            attempt.timer = None;
            let client = attempt.request.client;
            let timeout = self.connecting.kinds[client].connect_timeout;
            self.give_up(socket, ConnectError::TimedOut(timeout));
        }
    }

    /// Gives up all connects, once, and from now on takes no more: the server drains.
    pub(super) fn cancel_connects(&mut self) {
        self.context.shared.connects.close();
        self.stop_reconnecting();
        let all: Vec<SocketId> = self
            .connecting
            .sockets
            .iter()
            .map(|(&index, attempt)| SocketId { index, generation: attempt.generation })
            .collect();
        for socket in all {
            self.give_up(socket, ConnectError::Draining);
        }
        self.give_up_look_ups(ConnectError::Draining, |_| true);
        for request in std::mem::take(&mut self.connecting.again) {
            self.connect_failed(request, ConnectError::Draining);
        }
    }

    /// Gives up connects that were cancelled.
    pub(super) fn give_up_cancelled(&mut self) {
        let cancelled = |attempt: &Attempt| attempt.request.maintained.as_ref().is_some_and(|one| one.is_cancelled());
        let all: Vec<SocketId> = self
            .connecting
            .sockets
            .iter()
            .filter(|(_, attempt)| cancelled(attempt))
            .map(|(&index, attempt)| SocketId { index, generation: attempt.generation })
            .collect();
        for socket in all {
            self.give_up(socket, ConnectError::Cancelled);
        }
        // Those that are to be made again find out when they are.
        self.give_up_look_ups(ConnectError::Cancelled, |request| {
            request.maintained.as_ref().is_some_and(|one| one.is_cancelled())
        });
    }

    /// Begins to close a connecting socket, if that hasn't begun. What is told follows when it is closed.
    fn give_up(&mut self, socket: SocketId, error: ConnectError) {
        let Some(attempt) = self.connecting.get_mut(socket) else { return };
        if attempt.failure.is_some() {
            return;
        }
        attempt.failure = Some(error);
        if let Some(timer) = attempt.timer.take() {
            self.context.wheel.cancel(timer);
        }
        let done = self.engine.close(socket, CloseMode::Abort);
        debug_assert!(done.is_ok(), "{socket:?} is stale while it connects");
    }

    /// The engine has closed a socket: if it was one that should have connected, says so and returns true.
    pub(super) fn connect_closed(&mut self, socket: SocketId) -> bool {
        !self.connecting.sockets.is_empty() && self.attempt_closed(socket)
    }

    #[cold]
    #[inline(never)]
    fn attempt_closed(&mut self, socket: SocketId) -> bool {
        if self.connecting.get_mut(socket).is_none() {
            return false;
        }
        if let Some(Attempt { request, failure: Some(error), .. }) = self.connecting.sockets.remove(&socket.index) {
            // The place is free before anybody is told, who may want to use it for the next try.
            self.shared.outgoing_released(self.context.thread);
            give_back(&self.limiters[self.connecting.first_table + request.client]);
            let goes_on = request.route.as_ref().is_some_and(|route| route.leads_on());
            if goes_on && error.is_of_the_address() && self.may_begin(&request).is_ok() {
                tracing::debug!(destination = %request.target.destination, %error, "an address of a host has failed: the next one");
                self.try_connect_soon(request);
            } else {
                self.connect_failed(request, error);
            }
        }
        true
    }

    pub(super) fn connect_failed(&mut self, request: ConnectRequest, error: ConnectError) {
        self.tally.connects_failed += 1;
        let (destination, tag) = (request.target.destination.clone(), request.target.tag);
        tracing::debug!(%destination, tag, %error, "a connect has failed");
        if let Some(on_failed) = &self.connecting.kinds[request.client].on_failed {
            let failed = ConnectFailed { destination, tag, io_thread: self.context.thread, error };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| on_failed(&failed))) {
                swallow(panic, "Client::on_failed panicked");
            }
        }
        if request.maintained.is_some() {
            self.try_again_later(request, Ended::Failed(error));
        }
    }

    /// Whether nothing is connecting any more, and nothing will be.
    pub(super) fn connects_are_over(&self) -> bool {
        let connecting = &self.connecting;
        connecting.sockets.is_empty()
            && connecting.again.is_empty()
            && !connecting.looking_up.is_wanted()
            && self.context.shared.connects.is_over()
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::thread;

    use super::*;

    #[test]
    fn loom_a_request_that_was_taken_is_seen_before_the_queue_is_over() {
        loom::model(|| {
            let queue = Arc::new(ConnectQueue::new(2));
            let asker = {
                let queue = Arc::clone(&queue);
                thread::spawn(move || {
                    let target = Target::new(SocketAddr::from(([127, 0, 0, 1], 1)));
                    queue.push(ConnectRequest { target, client: 0, maintained: None, route: None }).is_ok()
                })
            };
            queue.close();
            let mut seen = usize::from(queue.pop().is_some());
            let over = queue.is_over();
            let taken = asker.join().expect("the asker ends");
            let late = usize::from(queue.pop().is_some());
            assert!(!over || late == 0, "a request after the end");
            seen += late;
            assert_eq!(seen, usize::from(taken), "taken and seen are the same");
            assert!(queue.is_over());
        });
    }
}
