//! A connection, as its handler sees it.

use std::any::Any;
use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use crate::connection::{FlowControl, FlowError, QueueState, Refused, Sent};
use crate::filter::Filter;
use crate::io_thread::{JoinRefusal, OffloadRefusal, View, Work};
use crate::memory::Payload;
use crate::surface::handle::Mailbox;
use crate::surface::{ConnectionHandle, Group};
use crate::sync::Arc;
use crate::time::Time;

/// The connection of a handler, during a callback. It can't be kept; for later there is [`handle`](Self::handle).
///
/// Nothing here makes a system call: everything is recorded and done when the callback has returned.
pub struct Connection<'a, M: 'static = Infallible> {
    view: View<'a>,
    mailbox: &'a Arc<Mailbox<M>>,
}

impl<'a, M: Send + 'static> Connection<'a, M> {
    pub(crate) fn new(view: View<'a>, mailbox: &'a Arc<Mailbox<M>>) -> Self {
        Self { view, mailbox }
    }

    /// Takes a whole message into the send queue. It goes out in order, after what is queued.
    ///
    /// An empty message is taken and sends nothing. Where there is no room, the policy of the queue decides
    /// ([`Overflow`](crate::Overflow)): it may drop older messages for this one, or this one.
    ///
    /// # Errors
    /// [`Refused`] gives the message back, with the reason: the queue is full for now (wait for
    /// `on_writable`), send memory is used up for now (likewise), the message can never fit, the policy has closed the connection for it,
    /// or the connection no longer sends.
    pub fn send(&mut self, payload: impl Into<Payload>) -> Result<Sent, Refused> {
        self.view.send(payload.into())
    }

    /// An empty vector with room for `bytes`, to make a message of: often the memory of one that was sent, which spares the allocator. Its
    /// capacity, which is what a message is charged, is no more than 64 bytes or four times `bytes`, whichever is more.
    pub fn message_buffer(&mut self, bytes: usize) -> Vec<u8> {
        self.view.pools.spares.take(bytes)
    }

    /// Finishes sending: the peer sees the end of the stream after what is queued. Receiving goes on. When the peer has
    /// finished too, the connection is over.
    pub fn shutdown(&mut self) {
        self.view.machine.shutdown();
    }

    /// Ends the connection in order: what is queued is sent (for at most [`Limits::close_timeout`](crate::Limits)), what
    /// comes is thrown away, and when the peer has finished, or has had its time, the connection is closed. Of the
    /// handler, only `on_close` is called after this.
    pub fn close(&mut self) {
        self.view.close();
    }

    /// Ends the connection at once: what is queued is thrown away and the peer sees a reset.
    pub fn abort(&mut self) {
        self.view.abort();
    }

    /// Puts a filter on top of those that the connection has. What was received and not handed to the handler yet is read through it; what was
    /// sent before goes out before it, as it is. Until it is established, nothing that is sent goes out, unless the filter lets it.
    ///
    /// What it takes in memory is in the [`Ceiling`](crate::Ceiling) if [`Listener::filter_later`](crate::Listener::filter_later) or
    /// [`Client::filter_later`](crate::Client::filter_later) has said so.
    ///
    /// Does nothing once the connection is being closed.
    ///
    /// # Errors
    /// [`TooManyFilters`]: the filter was not added.
    pub fn add_filter(&mut self, filter: Box<dyn Filter>) -> Result<(), TooManyFilters> {
        self.view.add_filter(filter).map_err(|limit| TooManyFilters { limit })
    }

    /// No more `on_read` until [`resume_read`](Self::resume_read). The peer is slowed down by TCP, and neither its end nor a
    /// reset is seen meanwhile; timers run on.
    pub fn pause_read(&mut self) {
        self.view.machine.pause_read();
    }

    /// Reads again.
    pub fn resume_read(&mut self) {
        self.view.machine.resume_read();
    }

    /// Sets timer `timer` to expire `after` from now, in place of what it was set to. Timers expire up to a
    /// millisecond late, never early.
    ///
    /// # Panics
    /// If `timer` is not below [`Limits::timers_per_connection`](crate::Limits).
    pub fn set_timer(&mut self, timer: u8, after: Duration) {
        self.view.set_timer(timer, after);
    }

    /// Calls timer `timer` off. Does nothing if it is not set.
    pub fn cancel_timer(&mut self, timer: u8) {
        self.view.cancel_timer(timer);
    }

    /// The time: the same for everything in one turn of the loop; virtual in a simulation.
    pub fn now(&self) -> Time {
        self.view.context.now
    }

    /// A random number: from the seed in a simulation. Not for secrets.
    pub fn random(&mut self) -> u64 {
        self.view.random()
    }

    /// Bytes that wait in the send queue, without what the system is sending.
    pub fn queued_bytes(&self) -> usize {
        self.view.machine.queued_bytes()
    }

    /// No more calls of `on_sent`: nobody listens.
    pub(crate) fn ignore_sends(&mut self) {
        self.view.machine.ignore_sends();
    }

    /// How full the send queue is, and what has become of what was too much. Costs nothing that [`send`](Self::send) doesn't.
    pub fn queue_state(&self) -> QueueState {
        self.view.machine.queue_state(self.view.context.now, self.view.pools)
    }

    /// What may wait to be sent, and what happens at the limit.
    pub fn flow(&self) -> FlowControl {
        self.view.machine.flow_control(self.view.pools).clone()
    }

    /// Goes by `flow` from now on, in place of what its listener or client, or [`Limits`](crate::Limits), says. Nothing that was taken is
    /// dropped for it: a queue that holds more than it may from now on is full, and the policy decides at the next send. Has no effect
    /// on a connection that is being closed.
    ///
    /// Connections with equal flow controls share one. Those of one I/O thread can have 256 different ones of their own.
    ///
    /// # Errors
    /// [`FlowError`], with the numbers, when `flow` contradicts itself or the promise of a reply (as [`bind`](crate::ServerBuilder::bind)
    /// checks it for a listener), or when connections have too many different ones; then nothing has changed.
    pub fn set_flow(&mut self, flow: FlowControl) -> Result<(), FlowError> {
        self.view.machine.set_flow(flow, self.view.context.now, self.view.pools)
    }

    /// Joins `group`: from now on the connection gets what is published to it, without a gap, until it leaves or ends. What was published
    /// before may be among it, if it had not been delivered on this I/O thread yet. Returns false if it was in already.
    ///
    /// What is published counts against the connection's send queue like what its handler sends, and its overflow policy decides when the
    /// queue is full. After that, `on_writable` is called as after a send of the handler.
    ///
    /// # Errors
    /// [`JoinRefusal`] when the connection is in as many groups as it may be ([`Limits::groups_per_connection`](crate::Limits)), or the
    /// group is of another server.
    pub fn join(&mut self, group: &Group) -> Result<bool, JoinRefusal> {
        let server = group.server().ok_or(JoinRefusal::OtherServer)?;
        self.view.join(group.number(), server)
    }

    /// Leaves `group`; false if it was not in. What is in the send queue already is sent. A connection that ends leaves by itself.
    pub fn leave(&mut self, group: &Group) -> bool {
        group.server().is_some_and(|server| self.view.leave(group.number(), server))
    }

    /// Which I/O thread this connection lives on, from 0.
    pub fn io_thread(&self) -> usize {
        self.view.context.thread
    }

    /// Has `work` done on a worker thread and its result handed to [`on_message`](crate::Handler::on_message): for what takes long or
    /// blocks, which no callback may. The results of a connection come in the order in which the jobs were submitted, whichever is
    /// done first.
    ///
    /// While results are outstanding the connection is not idle, and [`on_peer_shutdown`](crate::Handler::on_peer_shutdown) waits for
    /// them, so that a peer that has finished gets its answers. With [`Limits::offload_jobs_per_connection`](crate::Limits) outstanding
    /// the connection is not read from. When the connection ends, jobs that have not begun are dropped without being done, and results
    /// of others are dropped. A job that panics ends its connection, as
    /// [`OffloadPanicked`](crate::CloseReason::OffloadPanicked), when its turn comes. A job that never returns keeps its worker.
    ///
    /// ```
    /// # use tidegate::{Buffer, Connection, Handler};
    /// struct Hashes;
    ///
    /// impl Handler for Hashes {
    ///     type Message = u64;
    ///
    ///     fn on_read(&mut self, connection: &mut Connection<'_, u64>, data: Buffer) {
    ///         let data = data.into_bytes();
    ///         let work = move || data.iter().fold(0_u64, |hash, &byte| hash.rotate_left(5) ^ u64::from(byte));
    ///         if connection.offload(work).is_err() {
    ///             connection.close(); // or keep the job, and try again in `on_writable`
    ///         }
    ///     }
    ///
    ///     fn on_message(&mut self, connection: &mut Connection<'_, u64>, hash: u64) {
    ///         let _ = connection.send(format!("{hash:x}\n"));
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// [`OffloadRefused`] gives the job back, with the reason and its numbers. When it is for now only, `on_writable` says when there is
    /// room, and reading pauses until then.
    pub fn offload<F>(&mut self, work: F) -> Result<(), OffloadRefused<F>>
    where
        F: FnOnce() -> M + Send + 'static,
    {
        self.submit(work, true)
    }

    /// As [`offload`](Self::offload), but the result comes as soon as it is there, whatever was submitted before.
    ///
    /// # Errors
    /// As [`offload`](Self::offload).
    pub fn offload_unordered<F>(&mut self, work: F) -> Result<(), OffloadRefused<F>>
    where
        F: FnOnce() -> M + Send + 'static,
    {
        self.submit(work, false)
    }

    fn submit<F>(&mut self, work: F, in_order: bool) -> Result<(), OffloadRefused<F>>
    where
        F: FnOnce() -> M + Send + 'static,
    {
        match self.view.may_offload() {
            Ok(()) => {
                self.view.offload(Box::new(Job { work: Some(work), result: None::<M> }), in_order);
                Ok(())
            }
            Err(why) => Err(OffloadRefused { work, why }),
        }
    }

    /// Jobs of this connection that are outstanding: waiting, running, or done and not handed over yet.
    pub fn offloads_outstanding(&self) -> u32 {
        self.view.offloads_outstanding()
    }

    /// What other threads, and other connections, may hold of this connection.
    pub fn handle(&self) -> ConnectionHandle<M> {
        ConnectionHandle::new(self.view.key, Arc::clone(&self.view.context.shared), Arc::clone(self.mailbox))
    }
}

/// A job that was not taken, with the reason. Nothing of it was done.
pub struct OffloadRefused<F> {
    /// The job, unchanged.
    pub work: F,
    /// Why it was not taken.
    pub why: OffloadRefusal,
}

impl<F> fmt::Debug for OffloadRefused<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("OffloadRefused").field("why", &self.why).finish_non_exhaustive()
    }
}

impl<F> fmt::Display for OffloadRefused<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(formatter)
    }
}

impl<F> std::error::Error for OffloadRefused<F> {}

/// An offloaded job on its way: first what is to be done, then what has come of it.
struct Job<F, M> {
    work: Option<F>,
    result: Option<M>,
}

impl<F: FnOnce() -> M + Send, M: Send + 'static> Work for Job<F, M> {
    fn run(&mut self) {
        self.result = self.work.take().map(|work| work());
    }

    fn result(&mut self) -> &mut dyn Any {
        &mut self.result
    }
}

/// A connection has as many filters as it may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the connection has {limit} filters, which is the most: join what two of them do in one")]
pub struct TooManyFilters {
    /// How many it may have.
    pub limit: usize,
}

impl<M> fmt::Debug for Connection<'_, M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connection").field("key", &self.view.key).finish_non_exhaustive()
    }
}
