//! What others may hold of a connection.

use std::convert::Infallible;
use std::fmt;

use crossbeam_queue::ArrayQueue;

use crate::io_thread::{ConnectionKey, Request, ThreadShared};
use crate::sync::Arc;

/// Messages on their way to the connections of one listener on one I/O thread. Bounded: a full one refuses.
pub(crate) type Mailbox<M> = ArrayQueue<(ConnectionKey, M)>;

/// A connection, as other threads and other connections may hold it: to post a message, to close, to abort. Clones are
/// handles of the same connection. Stale handles are harmless.
pub struct ConnectionHandle<M: 'static = Infallible> {
    key: ConnectionKey,
    thread: Arc<ThreadShared>,
    mailbox: Arc<Mailbox<M>>,
}

/// A message that was not posted: the mailbox holds as many as it may ([`Limits::mailbox_messages`](crate::Limits)).
pub struct PostError<M> {
    /// The message, unchanged.
    pub message: M,
    /// How many the mailbox holds at most.
    pub limit: usize,
}

impl<M: Send + 'static> ConnectionHandle<M> {
    pub(crate) fn new(key: ConnectionKey, thread: Arc<ThreadShared>, mailbox: Arc<Mailbox<M>>) -> Self {
        Self { key, thread, mailbox }
    }

    /// Posts a message to the connection's `on_message`. If the connection has ended meanwhile, the message is dropped.
    ///
    /// # Errors
    /// When the mailbox is full; the message comes back.
    pub fn post(&self, message: M) -> Result<(), PostError<M>> {
        match self.mailbox.push((self.key, message)) {
            Ok(()) => {
                self.thread.waker.wake();
                Ok(())
            }
            Err((_, message)) => Err(PostError { message, limit: self.mailbox.capacity() }),
        }
    }

    /// As [`Connection::close`](crate::Connection::close), from any thread. Can't fail.
    pub fn close(&self) {
        self.thread.request(self.key, Request::Close);
    }

    /// As [`Connection::abort`](crate::Connection::abort), from any thread. Can't fail.
    pub fn abort(&self) {
        self.thread.request(self.key, Request::Abort);
    }
}

impl<M> Clone for ConnectionHandle<M> {
    fn clone(&self) -> Self {
        Self { key: self.key, thread: Arc::clone(&self.thread), mailbox: Arc::clone(&self.mailbox) }
    }
}

impl<M> fmt::Debug for ConnectionHandle<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ConnectionHandle").field("key", &self.key).finish_non_exhaustive()
    }
}

impl<M> fmt::Debug for PostError<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PostError").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl<M> fmt::Display for PostError<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the mailbox is full: it holds {} messages (Limits::mailbox_messages)", self.limit)
    }
}

impl<M> std::error::Error for PostError<M> {}
