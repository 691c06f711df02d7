//! Connections that the server makes itself.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use super::filters::FilterKit;
use crate::connection::FlowControl;
use crate::filter::{FilterFactory, Reserve};
use crate::io_thread::{
    Attempts, ConnectFailed, ConnectRequest, ConnectionLimiter, ConnectionMaintaining, Destination, Maintained,
    NAME_BYTES_MAX, NotQueued, OnFailed, Outgoing, Resolver, ServerShared, Target,
};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

/// A kind of outgoing connections: how they are made, as a [`Listener`](crate::Listener) is how they are accepted.
/// Given to [`ServerBuilder::client`](crate::ServerBuilder::client).
#[derive(Clone)]
pub struct Client {
    connect_timeout: Duration,
    on_failed: Option<OnFailed>,
    resolver: Option<Resolver>,
    limiter: Option<ConnectionLimiter>,
    flow: Option<FlowControl>,
    filters: FilterKit,
    reserved_bytes: usize,
}

impl Client {
    /// How long a connect may take by default: long enough for three tries of a TCP handshake (after 1 and 3 s),
    /// and much less than the two minutes after which Linux gives up.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

    /// TCP.
    pub fn tcp() -> Self {
        Self {
            connect_timeout: Self::CONNECT_TIMEOUT,
            on_failed: None,
            resolver: None,
            limiter: None,
            flow: None,
            filters: FilterKit::default(),
            reserved_bytes: 0,
        }
    }

    /// How long a connect may take, from when an I/O thread has begun it, with the look-up of a [host](Target::host) and all its
    /// addresses; then it fails with
    /// [`ConnectError::TimedOut`](crate::ConnectError::TimedOut). [`CONNECT_TIMEOUT`](Self::CONNECT_TIMEOUT) by default.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Calls `tell` for each connection that was asked for and is not coming. It runs on an I/O thread and must not
    /// block; it may ask for the next connection. A panic in it is logged and harms nobody.
    pub fn on_failed(mut self, tell: impl Fn(&ConnectFailed) + Send + Sync + 'static) -> Self {
        self.on_failed = Some(std::sync::Arc::new(tell));
        self
    }

    /// Finds the addresses of [hosts](Target::host) by `look_up`, which is given a name and a port, instead of by the system. It runs on one of
    /// [`Limits::look_up_threads`](crate::Limits) and may block there: for its own limit of time if it has one, because it can't be
    /// cancelled. An empty list and [`NotFound`](std::io::ErrorKind::NotFound) mean that there is no such host
    /// ([`ConnectError::NameNotFound`](crate::ConnectError::NameNotFound)). A panic in it is logged and counts as a failure.
    pub fn resolver(
        mut self,
        look_up: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        self.resolver = Some(std::sync::Arc::new(look_up));
        self
    }

    /// Calls `tell` besides what is called already.
    pub(super) fn also_on_failed(mut self, tell: impl Fn(&ConnectFailed) + Send + Sync + 'static) -> Self {
        let before = self.on_failed.take();
        self.on_failed(move |failed| {
            tell(failed);
            if let Some(before) = &before {
                before(failed);
            }
        })
    }

    /// Counts the connections of this client at `limiter` too, together with those of everybody else who has a clone of it.
    pub fn limiter(mut self, limiter: &ConnectionLimiter) -> Self {
        self.limiter = Some(limiter.clone());
        self
    }

    pub(super) fn its_limiter(&self) -> Option<&ConnectionLimiter> {
        self.limiter.as_ref()
    }

    /// What may wait to be sent on each connection, and what happens at the limit: as
    /// [`Listener::flow`](crate::Listener::flow).
    pub fn flow(mut self, flow: FlowControl) -> Self {
        self.flow = Some(flow);
        self
    }

    pub(super) fn flow_control(&self) -> Option<&FlowControl> {
        self.flow.as_ref()
    }

    /// Lets a filter of `factory` transform what each connection sends and receives. Called several times, they stack upwards: the first is
    /// next to the wire, the last next to the handler. See [`filter`](crate::filter).
    ///
    /// The handler is made when all are established ([`Limits::handshake_timeout`](crate::Limits)). What they need for each connection is a
    /// term of the [`Ceiling`](crate::Ceiling).
    pub fn filter(mut self, factory: impl FilterFactory) -> Self {
        self.filters.add(factory);
        self
    }

    /// Counts a filter in the ceiling that handlers may add later ([`Connection::add_filter`](crate::Connection::add_filter)). Without it, such a
    /// filter writes from common send memory alone, and what it keeps is in no account.
    pub fn filter_later(mut self, reserve: Reserve) -> Self {
        self.filters.add_later(reserve);
        self
    }

    /// Counts `bytes` in the ceiling for each connection, as [`Listener::reserve`](crate::Listener::reserve) does.
    pub fn reserve(mut self, bytes: usize) -> Self {
        self.reserved_bytes = self.reserved_bytes.saturating_add(bytes);
        self
    }

    pub(super) fn reserved_bytes(&self) -> usize {
        self.reserved_bytes
    }

    pub(super) fn filters(&self) -> &FilterKit {
        &self.filters
    }

    pub(super) fn outgoing(&self) -> Outgoing {
        Outgoing {
            connect_timeout: self.connect_timeout,
            on_failed: self.on_failed.clone(),
            resolver: self.resolver.clone(),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Client").field("connect_timeout", &self.connect_timeout).finish_non_exhaustive()
    }
}

/// Asks for connections, from any thread. Clones ask for connections of the same [`Client`].
///
/// Usable from [`bind`](crate::ServerBuilder::bind) on: what is asked for before the server runs is done when it does. Every
/// request that is taken has exactly one outcome while the server runs: a handler is made and its
/// [`on_connect`](crate::Handler::on_connect) called, or [`Client::on_failed`] is.
#[derive(Clone)]
pub struct Connector {
    client: usize,
    server: std::sync::Arc<OnceLock<Arc<ServerShared>>>,
}

/// A connection that was not asked for: the request comes back.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct ConnectRefused {
    /// What was wanted, unchanged.
    pub target: Box<Target>,
    /// Why it was not taken.
    pub reason: ConnectRefusal,
}

/// Why a request for a connection was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectRefusal {
    /// As many requests wait as may. For now only.
    #[error(
        "{waiting} connects wait for I/O threads that may have {limit} waiting each (Limits::connects_waiting): ask again \
         when some have been made, or raise the limit"
    )]
    QueueFull {
        /// How many wait: for the I/O thread that was asked for, or for all.
        waiting: usize,
        /// How many may, for each I/O thread.
        limit: usize,
    },
    /// The first data is longer than a message may be.
    #[error("{bytes} bytes of first data, but a message has at most {limit} (Limits::send_queue_bytes)")]
    FirstDataTooLarge {
        /// How much it is.
        bytes: usize,
        /// [`Limits::send_queue_bytes`](crate::Limits::send_queue_bytes).
        limit: usize,
    },
    /// The name of the host is empty, or longer than any can be.
    #[error("a name of {bytes} bytes: the name of a host has from 1 to {limit}")]
    NameLength {
        /// Its length.
        bytes: usize,
        /// The longest.
        limit: usize,
    },
    /// As many connections are maintained as may be.
    #[error(
        "{wanted} more connections to maintain, but {maintained} are already, of {limit} (Limits::connections_maintained)"
    )]
    TooManyMaintained {
        /// How many more.
        wanted: u32,
        /// How many are maintained.
        maintained: u32,
        /// [`Limits::connections_maintained`](crate::Limits::connections_maintained).
        limit: u32,
    },
    /// There is no such I/O thread.
    #[error("there is no I/O thread {io_thread}: the server has {threads}, counted from 0 (ServerBuilder::threads)")]
    NoSuchThread {
        /// The one that was asked for.
        io_thread: usize,
        /// How many there are.
        threads: usize,
    },
    /// The server that the connector belongs to has not been bound.
    #[error("the server is not bound yet: call ServerBuilder::bind first")]
    NotBound,
    /// The server drains, or is over.
    #[error("the server is draining or over: it makes no more connections")]
    ServerOver,
}

impl Connector {
    pub(super) fn new(client: usize, server: std::sync::Arc<OnceLock<Arc<ServerShared>>>) -> Self {
        Self { client, server }
    }

    /// Asks for a connection. Returns at once: the outcome is told to its handler, or to [`Client::on_failed`].
    ///
    /// # Errors
    /// [`ConnectRefused`] gives the target back when the request was not taken, with the reason and its numbers.
    pub fn connect(&self, target: Target) -> Result<(), ConnectRefused> {
        self.ask(&target, None).map_err(|reason| ConnectRefused { target: Box::new(target), reason })
    }

    /// Keeps connections alive: makes them again whenever they have failed or ended, until the server drains, the attempts are used up, or
    /// the handle that is returned cancels it. See [`ConnectionMaintaining`]. Each attempt that fails is told to [`Client::on_failed`] too.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), and when more would be maintained than [`Limits::connections_maintained`](crate::Limits).
    pub fn maintain(&self, maintaining: ConnectionMaintaining) -> Result<MaintainingHandle, ConnectRefused> {
        let target = maintaining.target.clone();
        self.begin_to_maintain(maintaining).map_err(|reason| ConnectRefused { target: Box::new(target), reason })
    }

    fn begin_to_maintain(&self, maintaining: ConnectionMaintaining) -> Result<MaintainingHandle, ConnectRefusal> {
        let server = self.server.get().ok_or(ConnectRefusal::NotBound)?;
        let (wanted, limit) = (maintaining.count, server.client_limits.maintained);
        let too_many = |maintained| ConnectRefusal::TooManyMaintained { wanted, maintained, limit };
        server.maintain(wanted, limit).map_err(too_many)?;
        let target = maintaining.target.clone();
        let maintained = Arc::new(Maintained::new(maintaining));
        let handle = MaintainingHandle { maintained: Arc::clone(&maintained), server: Arc::clone(server) };
        for begun in 0..wanted {
            let attempts = Box::new(Attempts::new(Arc::clone(&maintained)));
            if let Err(reason) = self.ask(&target, Some(attempts)) {
                server.maintains_no_longer(wanted - begun);
                handle.cancel();
                return Err(reason);
            }
        }
        Ok(handle)
    }

    fn ask(&self, target: &Target, maintained: Option<Box<Attempts>>) -> Result<(), ConnectRefusal> {
        let server = self.server.get().ok_or(ConnectRefusal::NotBound)?;
        let (bytes, limit) = (target.first_data.len(), server.client_limits.first_data_bytes);
        if bytes > limit {
            return Err(ConnectRefusal::FirstDataTooLarge { bytes, limit });
        }
        if let Destination::Host { name, .. } = &target.destination
            && !(1..=NAME_BYTES_MAX).contains(&name.len())
        {
            return Err(ConnectRefusal::NameLength { bytes: name.len(), limit: NAME_BYTES_MAX });
        }
        let threads = server.threads.len();
        let request = ConnectRequest { target: target.clone(), client: self.client, maintained, route: None };
        let chosen = match target.io_thread {
            Some(io_thread) if io_thread >= threads => {
                return Err(ConnectRefusal::NoSuchThread { io_thread, threads });
            }
            Some(io_thread) => io_thread..io_thread + 1,
            None => 0..threads,
        };
        let mut closed = false;
        // The least busy one, and any other if its queue is full.
        for number in std::iter::once(least_busy(server, chosen.clone())).chain(chosen.clone()) {
            let thread = &server.threads[number];
            let result = thread.connects.push(request.clone());
            thread.waker.wake();
            match result {
                Ok(()) => return Ok(()),
                Err(NotQueued::Full) => {}
                Err(NotQueued::Closed) => closed = true,
            }
        }
        if closed {
            return Err(ConnectRefusal::ServerOver);
        }
        let queues = chosen.map(|number| &server.threads[number].connects);
        let limit = server.threads[0].connects.capacity();
        Err(ConnectRefusal::QueueFull { waiting: queues.map(|queue| queue.len()).sum(), limit })
    }
}

/// Ends what [`Connector::maintain`] has begun, from any thread. Dropped, it ends nothing. Clones end the same.
#[derive(Clone)]
pub struct MaintainingHandle {
    maintained: Arc<Maintained>,
    server: Arc<ServerShared>,
}

impl MaintainingHandle {
    /// Connections are not made again; connects that have begun are given up. Established connections stay until they end.
    pub fn cancel(&self) {
        self.maintained.cancel();
        self.server.cancel_maintained();
    }
}

impl fmt::Debug for MaintainingHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MaintainingHandle").field("maintained", &self.maintained).finish_non_exhaustive()
    }
}

/// The I/O thread with the fewest connections, those that wait to be made included.
fn least_busy(server: &ServerShared, threads: std::ops::Range<usize>) -> usize {
    let load = |number: &usize| {
        let thread = &server.threads[*number];
        thread.connections.load(Ordering::Relaxed) as usize + thread.connects.len()
    };
    let first = threads.start;
    threads.min_by_key(load).unwrap_or(first)
}

impl fmt::Debug for Connector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connector").field("client", &self.client).finish_non_exhaustive()
    }
}
