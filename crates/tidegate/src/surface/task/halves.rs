//! The two directions of a connection.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{self, Poll};

use super::core::Core;
use super::{Context, Error};
use crate::connection::{CloseReason, FlowControl, FlowError, QueueState, Refused, Sent};
use crate::io_thread::JoinRefusal;
use crate::memory::{Buffer, Payload};
use crate::surface::{Connection, Group};

/// What is received on a connection. Dropped, the connection is not read from any more.
pub struct Receiver {
    pub(super) core: Rc<Core>,
    /// What is left of a buffer of which a part was read.
    pub(super) rest: Option<Buffer>,
}

impl Receiver {
    pub(super) fn new(core: Rc<Core>) -> Self {
        Self { core, rest: None }
    }

    /// The next that has come: at least one byte; `None` when the peer has finished, and everything was received before it.
    ///
    /// Cancel safe: dropped before it is ready, it has taken nothing.
    ///
    /// While nobody receives, at most one buffer waits with the connection, and reading pauses.
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection has ended otherwise, after everything that was received.
    pub async fn recv(&mut self) -> Result<Option<Buffer>, Error> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    /// As [`recv`](Self::recv), for futures that are written by hand.
    ///
    /// # Errors
    /// As there.
    pub fn poll_recv(&mut self, context: &mut task::Context<'_>) -> Poll<Result<Option<Buffer>, Error>> {
        match self.rest.take() {
            Some(rest) => Poll::Ready(Ok(Some(rest))),
            None => self.core.poll_receive(context),
        }
    }

    /// What has come, to be read piece by piece: empty when the peer has finished. It stays until it is [consumed](Self::consume).
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn poll_fill(&mut self, context: &mut task::Context<'_>) -> Poll<Result<&[u8], Error>> {
        if self.rest.is_none() {
            match self.core.poll_receive(context) {
                Poll::Ready(Ok(buffer)) => self.rest = buffer,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(self.rest.as_deref().unwrap_or_default()))
    }

    /// The first `count` bytes of what [`poll_fill`](Self::poll_fill) has shown were read.
    ///
    /// # Panics
    /// If it has shown fewer.
    pub fn consume(&mut self, count: usize) {
        match &mut self.rest {
            Some(rest) if rest.len() > count => rest.advance(count),
            rest => {
                let shown = rest.take().map_or(0, |rest| rest.len());
                assert_eq!(count, shown, "{count} bytes consumed of {shown}");
            }
        }
    }

    /// As [`Connection::closed`](super::Connection::closed).
    pub async fn closed(&mut self) -> CloseReason {
        self.context().closed().await
    }

    /// As [`Connection::context`](super::Connection::context).
    pub fn context(&self) -> Context {
        Context::new(Rc::clone(&self.core))
    }

    /// The whole connection again.
    ///
    /// # Errors
    /// Both back, if they are not of one connection.
    pub fn unsplit(self, sender: Sender) -> Result<super::Connection, (Self, Sender)> {
        if Rc::ptr_eq(&self.core, &sender.core) {
            Ok(super::Connection { receiver: self, sender })
        } else {
            Err((self, sender))
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.core.drop_receiver();
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Receiver").finish_non_exhaustive()
    }
}

/// What is sent on a connection. Dropped, it finishes our side: the peer sees the end after what was sent.
pub struct Sender {
    pub(super) core: Rc<Core>,
}

impl Sender {
    pub(super) fn new(core: Rc<Core>) -> Self {
        Self { core }
    }

    /// Sends a whole message, when flow control has room for it: it waits while the queue is over its high mark, or the message doesn't fit,
    /// or there is no send memory. Ready, the message has been taken; it goes out in order.
    ///
    /// Cancel safe: dropped before it is ready, nothing of the message was taken, and it is dropped too.
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection has ended or is ending, [`Error::ShutDown`] after [`shutdown`](Self::shutdown),
    /// [`Error::TooLarge`] when the message can never fit.
    pub async fn send(&mut self, payload: impl Into<Payload>) -> Result<(), Error> {
        let mut payload = Some(payload.into());
        poll_fn(|context| self.core.poll_send(context, &mut payload)).await
    }

    /// As [`send`](Self::send), for futures that are written by hand: takes the message out of `payload` when it is ready with `Ok`.
    ///
    /// # Errors
    /// As there; the message stays in `payload`.
    pub fn poll_send(
        &mut self,
        context: &mut task::Context<'_>,
        payload: &mut Option<Payload>,
    ) -> Poll<Result<(), Error>> {
        self.core.poll_send(context, payload)
    }

    /// An empty vector with room for `bytes`, to make a message of, as [`crate::Connection::message_buffer`] gives it. A task of another
    /// connection gets one from the allocator.
    pub fn message_buffer(&self, bytes: usize) -> Vec<u8> {
        self.core.message_buffer(bytes)
    }

    /// Sends a copy of some of these bytes, when flow control has room for them: as many of them as make a good message, at most
    /// [`COPY_BYTES_MAX`](Self::COPY_BYTES_MAX). Returns how many.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn poll_write(
        &mut self,
        context: &mut task::Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        self.core.poll_write(context, parts)
    }

    /// What one [`poll_write`](Self::poll_write) copies at most, in bytes: a quarter of the default queue.
    pub const COPY_BYTES_MAX: usize = 16 << 10;

    /// As [`flush`](Self::flush), for futures that are written by hand.
    ///
    /// # Errors
    /// As there.
    pub fn poll_flush(&mut self, context: &mut task::Context<'_>) -> Poll<Result<(), Error>> {
        self.core.poll_flush(context)
    }

    /// Takes a message now, or gives it back: exactly as [`Connection::send`](crate::Connection::send) does.
    ///
    /// # Errors
    /// As there.
    pub fn send_now(&mut self, payload: impl Into<Payload>) -> Result<Sent, Refused> {
        self.core.send(payload.into())
    }

    /// Waits until the system has taken everything that was sent, and what groups have published to the connection meanwhile.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection has ended before that.
    pub async fn flush(&mut self) -> Result<(), Error> {
        poll_fn(|context| self.core.poll_flush(context)).await
    }

    /// Finishes sending: the peer sees the end of the stream after what is queued. Receiving goes on.
    pub fn shutdown(&mut self) {
        self.core.shutdown();
    }

    /// As [`Connection::closed`](super::Connection::closed).
    pub async fn closed(&mut self) -> CloseReason {
        self.context().closed().await
    }

    /// As [`Connection::context`](super::Connection::context).
    pub fn context(&self) -> Context {
        Context::new(Rc::clone(&self.core))
    }

    /// As [`Connection::join`](crate::Connection::join).
    ///
    /// # Errors
    /// As there.
    pub fn join(&mut self, group: &Group) -> Result<bool, JoinRefusal> {
        self.with(|connection| connection.join(group)).unwrap_or(Err(JoinRefusal::OutOfReach))
    }

    /// As [`Connection::leave`](crate::Connection::leave).
    pub fn leave(&mut self, group: &Group) -> bool {
        self.with(|connection| connection.leave(group)).unwrap_or(false)
    }

    /// As [`Connection::flow`](crate::Connection::flow); `None` when the connection has ended, or for a task of another connection.
    pub fn flow(&self) -> Option<FlowControl> {
        self.with(|connection| connection.flow())
    }

    /// As [`Connection::set_flow`](crate::Connection::set_flow).
    ///
    /// # Errors
    /// As there.
    pub fn set_flow(&mut self, flow: FlowControl) -> Result<(), FlowError> {
        self.with(|connection| connection.set_flow(flow)).unwrap_or_else(|| Err(FlowError::out_of_reach()))
    }

    /// As [`Connection::queue_state`](crate::Connection::queue_state); `None` when the connection has ended, or for a task of another
    /// connection.
    pub fn queue_state(&self) -> Option<QueueState> {
        self.with(|connection| connection.queue_state())
    }

    /// What a handler would be given.
    fn with<R>(&self, act: impl FnOnce(&mut Connection<'_>) -> R) -> Option<R> {
        self.core.with(|view| act(&mut Connection::new(view.reborrow(), &self.core.mailbox)))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.core.drop_sender();
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sender").finish_non_exhaustive()
    }
}
