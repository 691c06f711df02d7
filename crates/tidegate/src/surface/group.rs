//! Groups: publish once, no copy per receiver.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;

use crate::io_thread::{GroupStats, Phase, PublishRefusal, ServerShared};
use crate::sync::Arc;

/// Connections that all get what is published to the group. Clones are the same group.
///
/// Made before the server is bound ([`ServerBuilder::group`](crate::ServerBuilder::group)) or afterwards
/// ([`ServerHandle::group`](crate::ServerHandle::group)). Connections [join](crate::Connection::join) in their callbacks and leave by
/// themselves when they end. Anybody may [`publish`](Self::publish), from any thread and from callbacks.
///
/// What is published is a counted reference to the same bytes all the way: no byte is copied for a receiver. It is handed to each I/O
/// thread once, charged to [`Limits::publish_memory_bytes`](crate::Limits) once, and each receiver pays only for the entry in its
/// send queue, whose limit and policy are its own.
///
/// # Order
///
/// All members see what one publisher (one thread, or the callbacks of one connection) published in the order in which it was published.
/// Between publishers there is an order on each I/O thread, the same for all members there; on different threads it may differ.
///
/// ```
/// use std::convert::Infallible;
/// use tidegate::{Buffer, Connection, Group, Handler, Listener, Server};
///
/// struct Subscriber {
///     news: Group,
/// }
///
/// impl Handler for Subscriber {
///     type Message = Infallible;
///
///     fn on_connect(&mut self, connection: &mut Connection<'_>) {
///         let _ = connection.join(&self.news);
///     }
///
///     fn on_read(&mut self, _connection: &mut Connection<'_>, data: Buffer) {
///         let _ = self.news.publish(data.to_vec()); // what one says, all hear
///     }
/// }
///
/// let (server, news) = Server::builder().group();
/// let server = server.listen(Listener::tcp("127.0.0.1:0".parse().unwrap()), move |_| Subscriber { news: news.clone() });
/// ```
#[derive(Clone)]
pub struct Group {
    number: u32,
    server: std::sync::Arc<OnceLock<Arc<ServerShared>>>,
}

/// A message that was not published to anybody. It comes back.
#[derive(Clone, PartialEq, Eq)]
pub struct PublishRefused {
    /// The message, unchanged.
    pub payload: Bytes,
    /// Why it was not taken.
    pub why: PublishRefusal,
}

/// There are as many groups as there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there are {limit} groups, as many as there may be (Limits::groups)")]
pub struct GroupsExhausted {
    /// [`Limits::groups`](crate::Limits).
    pub limit: u32,
}

impl Group {
    pub(super) fn new(number: u32, server: std::sync::Arc<OnceLock<Arc<ServerShared>>>) -> Self {
        Self { number, server }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn server(&self) -> Option<&ServerShared> {
        self.server.get().map(|server| &**server)
    }

    /// Publishes a whole message to all members: taken for all I/O threads, or refused for all. Returns for how many connections it was.
    /// Never blocks. An empty message is taken and sends nothing.
    ///
    /// # Errors
    /// [`PublishRefused`] gives the message back, with the reason and its numbers. [`QueueFull`](PublishRefusal::QueueFull) and
    /// [`NoMemory`](PublishRefusal::NoMemory) are for now only: [`wait_for_room`](Self::wait_for_room) or
    /// [`on_room`](Self::on_room) say when to try again.
    pub fn publish(&self, payload: impl Into<Bytes>) -> Result<u32, PublishRefused> {
        let payload = payload.into();
        let Some(server) = self.server() else {
            return Err(PublishRefused { payload, why: PublishRefusal::NotBound });
        };
        let published = server.publishing.publish(self.number, payload, server);
        published.map_err(|(payload, why)| PublishRefused { payload, why })
    }

    /// Waits until a publish that was refused may be tried again, for at most `timeout`; whether it may. When several wait, all are told,
    /// and some may be refused again. Returns false at once when the server drains or is over.
    ///
    /// Blocks: for threads of the program, never from callbacks.
    pub fn wait_for_room(&self, timeout: Duration) -> bool {
        self.server().is_some_and(|server| {
            let is_over = || server.phase() != Phase::Running;
            server.publishing.group(self.number).wait_for_room(timeout, is_over)
        })
    }

    /// Calls `notice` from now on when there is room again after a publish was refused, and when the server drains. It is called on an
    /// I/O thread and must not block: it is there to post to a connection ([`ConnectionHandle::post`](crate::ConnectionHandle::post)), or
    /// to wake a thread. Returns false, and changes nothing, if the group has a notice already or the server is not bound yet.
    pub fn on_room(&self, notice: impl Fn() + Send + Sync + 'static) -> bool {
        self.server().is_some_and(|server| server.publishing.group(self.number).set_notice(Box::new(notice)))
    }

    /// Connections that are in the group now; 0 before the server is bound.
    pub fn members(&self) -> u32 {
        self.server().map_or(0, |server| server.publishing.group(self.number).members())
    }

    /// What the group has done so far.
    pub fn stats(&self) -> GroupStats {
        self.server().map_or_else(GroupStats::default, |server| server.publishing.group(self.number).stats())
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Group").field("number", &self.number).finish_non_exhaustive()
    }
}

impl fmt::Debug for PublishRefused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PublishRefused").field("why", &self.why).field("bytes", &self.payload.len()).finish()
    }
}

impl fmt::Display for PublishRefused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(formatter)
    }
}

impl std::error::Error for PublishRefused {}
