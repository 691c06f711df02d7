//! Outgoing connections until they are established: asked for by any thread, made by the I/O threads.
//!
//! A request waits in the queue of one I/O thread. The thread takes it, takes a place among the server's connections for
//! it, and begins to connect. Until the outcome the socket is known only here: a slot, a machine and a handler are
//! made for a connection that is established, not before. Every request that was taken into a queue has one outcome,
//! a handler or a [`ConnectFailed`].

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_queue::ArrayQueue;

use super::handlers::{Arrival, NO_DESCRIPTION, Timer};
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
    /// The address to connect to.
    pub address: SocketAddr,
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
        Self { address, source: None, tag: 0, io_thread: None, first_data: Bytes::new() }
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
    /// [`MemoryPressure`](crate::CloseReason::MemoryPressure). Until then it is the caller's.
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
    pub(super) description: Option<std::sync::Arc<Description>>,
}

impl Connected {
    /// What the filters of the connection have learned about it: nothing if it has none.
    pub fn description(&self) -> &Description {
        self.description.as_deref().unwrap_or(&NO_DESCRIPTION)
    }
}

/// A connection that was asked for and is not coming.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectFailed {
    /// The address that was to be connected to.
    pub address: SocketAddr,
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
    /// It was connected, and ended before its filters were established: the reason is what the report counts it for.
    #[error("connected, but the filters were not established: {reason}")]
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
}

/// The sockets of one I/O thread that are connecting, by index. At most as many as the server may have connections.
pub(super) struct Connecting {
    kinds: Vec<Outgoing>,
    /// The number of the first kind's handler table: they come behind those of the listeners.
    first_table: usize,
    sockets: BTreeMap<u32, Attempt>,
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
    request: ConnectRequest,
    timer: Option<TimerKey>,
    /// Why it will not be a connection, once that is settled: then it is being closed.
    failure: Option<ConnectError>,
}

impl Connecting {
    pub(super) fn new(kinds: Vec<Outgoing>, first_table: usize) -> Self {
        Self { kinds, first_table, sockets: BTreeMap::new(), keeping: Keeping::default() }
    }

    /// How many sockets are connecting.
    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    fn get_mut(&mut self, socket: SocketId) -> Option<&mut Attempt> {
        self.sockets.get_mut(&socket.index).filter(|attempt| attempt.generation == socket.generation)
    }
}

impl<E: Engine> IoThread<E> {
    /// Takes requests for connections. Called directly after a poll, when the engine has a place for whatever the server has a
    /// place for.
    pub(super) fn take_connects(&mut self) {
        if !self.connecting.kinds.is_empty() && !self.context.shared.connects.is_empty() {
            self.take_some_connects();
        }
    }

    #[cold]
    #[inline(never)]
    fn take_some_connects(&mut self) {
        let shared = Arc::clone(&self.context.shared);
        for _ in 0..CONNECTS_PER_TURN {
            let Some(request) = shared.connects.pop() else { return };
            self.try_connect(request);
        }
        self.more_to_do = true;
    }

    /// Begins to connect, or says that it failed.
    pub(super) fn try_connect(&mut self, request: ConnectRequest) {
        match self.begin_connect(&request) {
            Ok(socket) => {
                let deadline = self.context.now + self.connecting.kinds[request.client].connect_timeout;
                let timer = Some(self.context.wheel.insert(deadline, Timer::Connect(socket.index)));
                let attempt = Attempt { generation: socket.generation, request, timer, failure: None };
                self.connecting.sockets.insert(socket.index, attempt);
            }
            Err(error) => self.connect_failed(request, error),
        }
    }

    fn begin_connect(&mut self, request: &ConnectRequest) -> Result<SocketId, ConnectError> {
        if request.maintained.as_ref().is_some_and(|attempts| attempts.is_cancelled()) {
            return Err(ConnectError::Cancelled);
        }
        if self.phase != Phase::Running {
            return Err(ConnectError::Draining);
        }
        let table = self.connecting.first_table + request.client;
        if let Some(limiter) = &self.limiters[table]
            && !limiter.take()
        {
            return Err(ConnectError::LimiterFull { limit: limiter.most() });
        }
        let begun = self.begin_counted_connect(request);
        if begun.is_err() {
            give_back(&self.limiters[table]);
        }
        begun
    }

    fn begin_counted_connect(&mut self, request: &ConnectRequest) -> Result<SocketId, ConnectError> {
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
        let Some(socket) = self.engine.connect(request.target.address, request.target.source) else {
            // Can't be: every thread has room for all.
            tracing::error!(address = %request.target.address, "no place for a connect that was counted");
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
                let Some(Attempt { request, timer, .. }) = self.connecting.sockets.remove(&socket.index) else {
                    return;
                };
                if let Some(timer) = timer {
                    self.context.wheel.cancel(timer);
                }
                self.tally.connected += 1;
                let connected = Connected {
                    peer: request.target.address,
                    local,
                    io_thread: self.context.thread,
                    tag: request.target.tag,
                    description: None,
                };
                let table = self.connecting.first_table + request.client;
                let first_data = request.target.first_data.clone();
                self.keep(socket, request);
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
            self.connect_failed(request, error);
        }
        true
    }

    pub(super) fn connect_failed(&mut self, request: ConnectRequest, error: ConnectError) {
        self.tally.connects_failed += 1;
        let (address, tag) = (request.target.address, request.target.tag);
        tracing::debug!(%address, tag, %error, "a connect has failed");
        if let Some(on_failed) = &self.connecting.kinds[request.client].on_failed {
            let failed = ConnectFailed { address, tag, io_thread: self.context.thread, error };
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
        self.connecting.sockets.is_empty() && self.context.shared.connects.is_over()
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
                    queue.push(ConnectRequest { target, client: 0, maintained: None }).is_ok()
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
