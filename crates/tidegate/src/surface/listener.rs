//! Where connections come from.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use bytes::Bytes;

use super::filters::FilterKit;
use crate::connection::FlowControl;
use crate::engine::{ANSWER_BYTES_MAX, SocketOptions, apply_socket_options, defer_accept};
use crate::filter::{FilterFactory, Reserve};
use crate::io_thread::{AccessList, ConnectionLimiter};

/// A place to accept connections at.
#[derive(Clone, Debug)]
pub struct Listener {
    address: SocketAddr,
    backlog: u32,
    busy_answer: Bytes,
    defer_accept: Option<Duration>,
    access: AccessList,
    limiter: Option<ConnectionLimiter>,
    flow: Option<FlowControl>,
    filters: FilterKit,
    reserved_bytes: usize,
    call_bytes: usize,
}

impl Listener {
    /// Connections that the system keeps while the server has not taken them; the system caps it at `net.core.somaxconn`
    /// (4,096 by default since Linux 5.4).
    pub const BACKLOG: u32 = 4096;

    /// TCP at `address`; port 0 lets the system choose one ([`Bound::local_addrs`](crate::Bound::local_addrs) tells which).
    pub fn tcp(address: SocketAddr) -> Self {
        Self {
            address,
            backlog: Self::BACKLOG,
            busy_answer: Bytes::new(),
            defer_accept: None,
            access: AccessList::new(),
            limiter: None,
            flow: None,
            filters: FilterKit::default(),
            reserved_bytes: 0,
            call_bytes: 0,
        }
    }

    /// How many connections may wait to be accepted, [`BACKLOG`](Self::BACKLOG) by default.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = connections;
        self
    }

    /// What a connection is told that is refused, for whatever reason, before it is closed: for HTTP a `503`, say. At most
    /// [`BUSY_ANSWER_BYTES_MAX`](Self::BUSY_ANSWER_BYTES_MAX), which [`bind`](crate::ServerBuilder::bind) checks. Default: nothing.
    ///
    /// It is sent without waiting, and what the peer has sent by then is thrown away; so most peers read the answer and then the end.
    /// One that goes on sending may see a reset instead.
    pub fn busy_answer(mut self, answer: impl Into<Bytes>) -> Self {
        self.busy_answer = answer.into();
        self
    }

    /// The longest [`busy_answer`](Self::busy_answer), in bytes: it goes out whole, because every new socket has room for it.
    pub const BUSY_ANSWER_BYTES_MAX: usize = ANSWER_BYTES_MAX;

    /// Lets the system keep a connection back until its client has sent something, for protocols in which clients speak
    /// first: then a connection that says nothing costs the server nothing. Default: not.
    ///
    /// Linux only (`TCP_DEFER_ACCEPT`); elsewhere, and in a [`Simulation`](crate::sim::Simulation), it has no effect. `time` is
    /// rounded up to whole seconds, and by the system to a retransmission of its handshake (after 1, 3, 7, 15 s and
    /// so on); a client that has said nothing by then is accepted all the same, when it answers that. Zero turns it off.
    pub fn defer_accept(mut self, time: Duration) -> Self {
        self.defer_accept = Some(time);
        self
    }

    /// Who may connect; others are refused. Everybody by default.
    pub fn access(mut self, access: AccessList) -> Self {
        self.access = access;
        self
    }

    /// Counts the connections of this listener at `limiter` too, together with those of everybody else who has a clone of it.
    pub fn limiter(mut self, limiter: &ConnectionLimiter) -> Self {
        self.limiter = Some(limiter.clone());
        self
    }

    pub(crate) fn access_list(&self) -> &AccessList {
        &self.access
    }

    pub(crate) fn its_limiter(&self) -> Option<&ConnectionLimiter> {
        self.limiter.as_ref()
    }

    /// What may wait to be sent on each connection, and what happens at the limit, in place of what [`Limits`](crate::Limits) says.
    /// [`bind`](crate::ServerBuilder::bind) checks it. A handler may change it for its connection
    /// ([`Connection::set_flow`](crate::Connection::set_flow)).
    pub fn flow(mut self, flow: FlowControl) -> Self {
        self.flow = Some(flow);
        self
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

    /// Counts `bytes` in the ceiling for each connection: what its handler takes on the heap at most, such as the buffers of a protocol.
    /// The server can't see to it: it is the handler's promise. Called several times, the bytes add up. Default: 0.
    ///
    /// A connection is of one listener or client and gives back what it has when it ends, so the term of the [`Ceiling`](crate::Ceiling) is
    /// the most that any of them reserves, for [`Limits::max_connections`](crate::Limits).
    pub fn reserve(mut self, bytes: usize) -> Self {
        self.reserved_bytes = self.reserved_bytes.saturating_add(bytes);
        self
    }

    /// Counts `bytes` in the ceiling for each I/O thread: what one call of a handler takes while it runs, on top of what the handler
    /// [keeps](Self::reserve). An I/O thread runs one call at a time. The term is the most that any listener says. Default: 0.
    pub fn reserve_call(mut self, bytes: usize) -> Self {
        self.call_bytes = self.call_bytes.max(bytes);
        self
    }

    /// The address that was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn backlog_connections(&self) -> u32 {
        self.backlog
    }

    pub(crate) fn flow_control(&self) -> Option<&FlowControl> {
        self.flow.as_ref()
    }

    pub(super) fn reserved_bytes(&self) -> usize {
        self.reserved_bytes
    }

    pub(super) fn call_bytes(&self) -> usize {
        self.call_bytes
    }

    pub(super) fn filters(&self) -> &FilterKit {
        &self.filters
    }

    pub(crate) fn answer(&self) -> &Bytes {
        &self.busy_answer
    }

    pub(crate) fn bind(&self, options: &SocketOptions) -> io::Result<TcpListener> {
        let domain = socket2::Domain::for_address(self.address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        // A restart must not wait for the connections of the last run to leave TIME_WAIT. On Unix this doesn't let two
        // servers share a port; on Windows it would.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        // Accepted sockets inherit it: messages go out when they are sent.
        socket.set_tcp_nodelay(true)?;
        // They inherit these too, at no cost per connection.
        apply_socket_options(&socket, options)?;
        if self.address.is_ipv6() {
            // [::]:port and 0.0.0.0:port are two listeners, on every system.
            socket.set_only_v6(true)?;
        }
        socket.bind(&self.address.into())?;
        let listener = TcpListener::from(socket);
        if let Some(time) = self.defer_accept {
            defer_accept(&listener, time)?;
        }
        socket2::SockRef::from(&listener).listen(i32::try_from(self.backlog).unwrap_or(i32::MAX))?;
        Ok(listener)
    }
}
