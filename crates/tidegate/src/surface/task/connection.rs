//! A connection, as its task sees it.

use std::fmt;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{self, Poll};
use std::time::Duration;

use super::core::{Core, Origin};
use super::{Context, Error, JoinHandle, OffloadError, Receiver, Sender, Sleep, SpawnRefused, Timeout};
use crate::connection::{CloseReason, FlowControl, FlowError, QueueState, Refused, Sent};
use crate::filter::Description;
use crate::io_thread::{Accepted, Connected, JoinRefusal};
use crate::memory::{Buffer, Payload};
use crate::surface::{ConnectionHandle, Group};
use crate::time::Time;

/// A connection, for its task. Dropped, it ends in order: what was sent goes out, and then it is closed.
///
/// It stays on its I/O thread. What is sent and wished is recorded, and done when the tasks of the connection have been polled.
pub struct Connection {
    pub(super) receiver: Receiver,
    pub(super) sender: Sender,
}

impl Connection {
    pub(super) fn new(core: &Rc<Core>) -> Self {
        Self { receiver: Receiver::new(Rc::clone(core)), sender: Sender::new(Rc::clone(core)) }
    }

    fn core(&self) -> &Rc<Core> {
        &self.sender.core
    }

    /// As [`Receiver::recv`].
    ///
    /// # Errors
    /// As there.
    pub async fn recv(&mut self) -> Result<Option<Buffer>, Error> {
        self.receiver.recv().await
    }

    /// As [`Sender::send`].
    ///
    /// # Errors
    /// As there.
    pub async fn send(&mut self, payload: impl Into<Payload>) -> Result<(), Error> {
        self.sender.send(payload).await
    }

    /// As [`Sender::send_now`].
    ///
    /// # Errors
    /// As there.
    pub fn send_now(&mut self, payload: impl Into<Payload>) -> Result<Sent, Refused> {
        self.sender.send_now(payload)
    }

    /// As [`Sender::flush`].
    ///
    /// # Errors
    /// As there.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.sender.flush().await
    }

    /// As [`Receiver::poll_recv`].
    ///
    /// # Errors
    /// As there.
    pub fn poll_recv(&mut self, context: &mut task::Context<'_>) -> Poll<Result<Option<Buffer>, Error>> {
        self.receiver.poll_recv(context)
    }

    /// As [`Receiver::poll_fill`].
    ///
    /// # Errors
    /// As there.
    pub fn poll_fill(&mut self, context: &mut task::Context<'_>) -> Poll<Result<&[u8], Error>> {
        self.receiver.poll_fill(context)
    }

    /// As [`Receiver::consume`].
    ///
    /// # Panics
    /// As there.
    pub fn consume(&mut self, count: usize) {
        self.receiver.consume(count);
    }

    /// As [`Sender::poll_send`].
    ///
    /// # Errors
    /// As there.
    pub fn poll_send(
        &mut self,
        context: &mut task::Context<'_>,
        payload: &mut Option<Payload>,
    ) -> Poll<Result<(), Error>> {
        self.sender.poll_send(context, payload)
    }

    /// As [`Sender::message_buffer`].
    pub fn message_buffer(&self, bytes: usize) -> Vec<u8> {
        self.sender.message_buffer(bytes)
    }

    /// As [`Sender::poll_write`].
    ///
    /// # Errors
    /// As there.
    pub fn poll_write(&mut self, context: &mut task::Context<'_>, parts: &[IoSlice<'_>]) -> Poll<Result<usize, Error>> {
        self.sender.poll_write(context, parts)
    }

    /// As [`Sender::poll_flush`].
    ///
    /// # Errors
    /// As there.
    pub fn poll_flush(&mut self, context: &mut task::Context<'_>) -> Poll<Result<(), Error>> {
        self.sender.poll_flush(context)
    }

    /// As [`Sender::shutdown`].
    pub fn shutdown(&mut self) {
        self.sender.shutdown();
    }

    /// Ends the connection at once: what is queued is thrown away and the peer sees a reset.
    pub fn abort(&mut self) {
        self.core().abort();
    }

    /// Waits until the connection has ended, and says why.
    ///
    /// Cancel safe: it can be dropped and called again. Reading goes on only until one buffer has come that nobody takes; what
    /// the peer does after that is seen when it was taken.
    pub async fn closed(&mut self) -> CloseReason {
        self.context().closed().await
    }

    /// The two directions, each for itself: for tasks that receive and send independently of each other.
    ///
    /// When the sender is dropped, our side finishes; when the receiver is, the connection is not read from any more; when both are, it
    /// ends in order.
    pub fn split(self) -> (Receiver, Sender) {
        (self.receiver, self.sender)
    }

    /// For spawned tasks and libraries: time, other tasks and other threads.
    pub fn context(&self) -> Context {
        Context::new(Rc::clone(self.core()))
    }

    /// Who is on the other side.
    pub fn peer(&self) -> SocketAddr {
        match &self.core().origin {
            Origin::Accepted(accepted) => accepted.peer,
            Origin::Connected(connected) => connected.peer,
        }
    }

    /// The address of this side: that of the listener if it was accepted.
    pub fn local(&self) -> SocketAddr {
        match &self.core().origin {
            Origin::Accepted(accepted) => accepted.local,
            Origin::Connected(connected) => connected.local,
        }
    }

    /// How it was accepted, if it was.
    pub fn accepted(&self) -> Option<&Accepted> {
        match &self.core().origin {
            Origin::Accepted(accepted) => Some(accepted),
            Origin::Connected(_) => None,
        }
    }

    /// How it was made, if it was asked for.
    pub fn connected(&self) -> Option<&Connected> {
        match &self.core().origin {
            Origin::Accepted(_) => None,
            Origin::Connected(connected) => Some(connected),
        }
    }

    /// What the filters of the connection have learned about it: nothing if it has none.
    pub fn description(&self) -> &Description {
        match &self.core().origin {
            Origin::Accepted(accepted) => accepted.description(),
            Origin::Connected(connected) => connected.description(),
        }
    }

    /// Which I/O thread this connection lives on, from 0.
    pub fn io_thread(&self) -> usize {
        self.core().origin.io_thread()
    }

    /// As [`Context::now`].
    pub fn now(&self) -> Time {
        self.core().wakes.now()
    }

    /// As [`Context::sleep`].
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.context().sleep(duration)
    }

    /// As [`Context::sleep_until`].
    pub fn sleep_until(&self, deadline: Time) -> Sleep {
        self.context().sleep_until(deadline)
    }

    /// As [`Context::timeout`]. For what borrows the connection itself, as [`recv`](Self::recv) does, take that of the
    /// [`context`](Self::context).
    pub fn timeout<F: Future>(&self, duration: Duration, future: F) -> Timeout<F> {
        self.context().timeout(duration, future)
    }

    /// As [`Context::spawn_local`].
    ///
    /// # Errors
    /// As there.
    pub fn spawn_local<F>(&self, future: F) -> Result<JoinHandle<F::Output>, SpawnRefused>
    where
        F: Future + 'static,
    {
        self.context().spawn_local(future)
    }

    /// As [`Context::offload`].
    ///
    /// # Errors
    /// As there.
    pub async fn offload<T, F>(&self, work: F) -> Result<T, OffloadError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        self.context().offload(work).await
    }

    /// A random number: from the seed in a simulation. Not for secrets.
    pub fn random(&self) -> u64 {
        self.context().random()
    }

    /// As [`Connection::join`](crate::Connection::join).
    ///
    /// # Errors
    /// As there.
    pub fn join(&mut self, group: &Group) -> Result<bool, JoinRefusal> {
        self.sender.join(group)
    }

    /// As [`Connection::leave`](crate::Connection::leave).
    pub fn leave(&mut self, group: &Group) -> bool {
        self.sender.leave(group)
    }

    /// As [`Sender::flow`].
    pub fn flow(&self) -> Option<FlowControl> {
        self.sender.flow()
    }

    /// As [`Connection::set_flow`](crate::Connection::set_flow).
    ///
    /// # Errors
    /// As there.
    pub fn set_flow(&mut self, flow: FlowControl) -> Result<(), FlowError> {
        self.sender.set_flow(flow)
    }

    /// As [`Sender::queue_state`].
    pub fn queue_state(&self) -> Option<QueueState> {
        self.sender.queue_state()
    }

    /// What other threads, and other connections, may hold of this connection.
    pub fn handle(&self) -> ConnectionHandle {
        self.context().handle()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connection").field("peer", &self.peer()).finish_non_exhaustive()
    }
}
