//! What the tasks of a connection share with the table that polls them.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::offload::Expecting;
use super::spawn::Spawned;
use super::waiters::{Waiter, Waiters};
use super::wakes::Wakes;
use super::{Error, Sender};
use crate::connection::{CloseReason, Refusal, Refused, Sent};
use crate::io_thread::{Accepted, Connected, View};
use crate::memory::{Buffer, Lendable, Lent, Payload};
use crate::random::split_mix;
use crate::surface::handle::Mailbox;
use crate::sync;

/// The views of connections.
pub(super) struct Views;

impl Lendable for Views {
    type Of<'a> = View<'a>;
}

/// How a connection came about.
pub(super) enum Origin {
    Accepted(Accepted),
    Connected(Connected),
}

/// A connection with tasks. Everything here stays on its thread.
pub(super) struct Core {
    /// The connection, while its tasks are polled.
    pub(super) view: Lent<Views>,
    pub(super) wakes: Arc<Wakes>,
    pub(super) origin: Origin,
    pub(super) mailbox: sync::Arc<Mailbox<Infallible>>,
    /// What was received and nobody has taken yet: at most one buffer, because reading pauses then.
    pub(super) inbox: Cell<Option<Buffer>>,
    /// The peer has finished, and that comes after what is in the inbox.
    pub(super) has_finished: Cell<bool>,
    /// More was sent than should wait: the next message waits until there is room.
    pub(super) is_over_mark: Cell<bool>,
    /// Somebody waits until everything is sent.
    pub(super) is_flushing: Cell<bool>,
    /// Why the connection has ended.
    pub(super) ended: Cell<Option<CloseReason>>,
    pub(super) is_draining: Cell<bool>,
    /// Somebody has waited for data, and none has come since.
    pub(super) is_hungry: Cell<bool>,
    pub(super) has_receiver: Cell<bool>,
    pub(super) has_sender: Cell<bool>,
    /// Those who keep the drain from closing the connection as idle.
    pub(super) busy: Cell<u32>,
    /// What somebody wants done who was not polled by this connection; see [`Wishes`].
    wishes: Cell<Wishes>,
    /// A message of such a one.
    outbox: Cell<Option<Payload>>,
    pub(super) receiver: Waiter,
    pub(super) sender: Waiter,
    /// Those who wait for the end, for the drain, or for room for a job.
    pub(super) changes: Waiters,
    pub(super) spawned: RefCell<Spawned>,
    pub(super) expecting: Expecting,
    /// The state of its random numbers.
    random: Cell<u64>,
}

/// What is to be done when the connection is called next.
#[derive(Clone, Copy, Default)]
struct Wishes {
    shutdown: bool,
    close: bool,
    abort: bool,
}

impl Core {
    pub(super) fn new(
        wakes: Arc<Wakes>,
        origin: Origin,
        mailbox: sync::Arc<Mailbox<Infallible>>,
        spawned_limit: u32,
        random: u64,
    ) -> Rc<Self> {
        Rc::new(Self {
            view: Lent::new(),
            wakes,
            origin,
            mailbox,
            inbox: Cell::new(None),
            has_finished: Cell::new(false),
            is_over_mark: Cell::new(false),
            is_flushing: Cell::new(false),
            ended: Cell::new(None),
            is_draining: Cell::new(false),
            is_hungry: Cell::new(false),
            has_receiver: Cell::new(true),
            has_sender: Cell::new(true),
            busy: Cell::new(0),
            wishes: Cell::default(),
            outbox: Cell::new(None),
            receiver: Waiter::default(),
            sender: Waiter::default(),
            changes: Waiters::default(),
            spawned: RefCell::new(Spawned::new(spawned_limit)),
            random: Cell::new(random),
            expecting: Expecting::default(),
        })
    }

    /// Lets `act` have the connection, if it is being called and nobody else has it.
    pub(super) fn with<R>(&self, act: impl FnOnce(&mut View<'_>) -> R) -> Option<R> {
        self.view.with(act)
    }

    /// Why the connection has ended or is ending, if it is.
    pub(super) fn ending(&self) -> Option<CloseReason> {
        self.ended.get().or_else(|| self.with(|view| view.machine.ending()).flatten())
    }

    /// Why it has, which it has.
    pub(super) fn reason(&self) -> CloseReason {
        self.ending().unwrap_or(CloseReason::ClosedByHandler)
    }

    /// A random number.
    pub(super) fn random(&self) -> u64 {
        let mut state = self.random.get();
        let number = split_mix(&mut state);
        self.random.set(state);
        number
    }

    /// Whether something is under way though no byte is: nobody waits for data, or there are other tasks.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.get() > 0 || !self.is_hungry.get() || self.spawned.borrow().live() > 0
    }
}

/// Receiving.
impl Core {
    /// The next that was received.
    pub(super) fn poll_receive(&self, context: &mut Context<'_>) -> Poll<Result<Option<Buffer>, Error>> {
        if let Some(buffer) = self.inbox.take() {
            if !self.view.is_lent() {
                // Reading goes on when the connection is called.
                self.wakes.call();
            }
            return Poll::Ready(Ok(Some(buffer)));
        }
        if self.has_finished.get() {
            return Poll::Ready(Ok(None));
        }
        if let Some(reason) = self.ending() {
            return Poll::Ready(Err(Error::Closed(reason)));
        }
        self.is_hungry.set(true);
        self.receiver.register(context.waker());
        Poll::Pending
    }

    /// Data has come.
    pub(super) fn receive(&self, buffer: Buffer) {
        self.inbox.set(Some(buffer));
        self.is_hungry.set(false);
        self.receiver.wake();
    }

    /// Whether the connection is not to be read from.
    pub(super) fn is_full(&self) -> bool {
        let buffer = self.inbox.take();
        let is_full = buffer.is_some() || !self.has_receiver.get();
        self.inbox.set(buffer);
        is_full
    }
}

/// Sending.
impl Core {
    /// Sends `payload`, or keeps it while there is no room for it.
    pub(super) fn poll_send(
        &self,
        context: &mut Context<'_>,
        payload: &mut Option<Payload>,
    ) -> Poll<Result<(), Error>> {
        if self.is_over_mark.get() && self.ending().is_none() {
            self.sender.register(context.waker());
            return Poll::Pending;
        }
        let Some(message) = payload.take() else { return Poll::Ready(Ok(())) };
        let why = match self.send(message) {
            Ok(_) => return Poll::Ready(Ok(())),
            Err(refused) => {
                *payload = Some(refused.payload);
                refused.why
            }
        };
        match why {
            Refusal::Full { .. } | Refusal::NoMemory { .. } => {
                self.sender.register(context.waker());
                Poll::Pending
            }
            Refusal::TooLarge { bytes, limit_bytes } => Poll::Ready(Err(Error::TooLarge { bytes, limit_bytes })),
            Refusal::SlowConsumer { .. } => Poll::Ready(Err(Error::Closed(CloseReason::SlowConsumer))),
            _ => Poll::Ready(Err(self.ending().map_or(Error::ShutDown, Error::Closed))),
        }
    }

    /// Sends a copy of the beginning of `parts`; how much it is.
    pub(super) fn poll_write(
        &self,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        if parts.iter().all(|part| part.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        if self.is_over_mark.get() && self.ending().is_none() {
            // Before anything is copied.
            self.sender.register(context.waker());
            return Poll::Pending;
        }
        let mut most = Sender::COPY_BYTES_MAX;
        loop {
            let bytes = beginning(parts, most);
            let length = bytes.len();
            match self.poll_send(context, &mut Some(bytes.into())) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(length)),
                // A queue or send memory that is smaller than usual: with the overhead of a message in mind, half of it fits.
                Poll::Ready(Err(Error::TooLarge { limit_bytes, .. }))
                    if (2..=2 * most).contains(&limit_bytes) && length > 1 =>
                {
                    most = (limit_bytes / 2).min(length / 2);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Takes a message, or gives it back.
    pub(super) fn send(&self, payload: Payload) -> Result<Sent, Refused> {
        let mut message = Some(payload);
        let sent = self.with(|view| self.send_by(view, &mut message));
        match (sent, message) {
            (Some(sent), None) => sent,
            // Somebody else has it: the connection is called and sends it then.
            (_, Some(payload)) => self.send_later(payload),
            (None, None) => Ok(Sent::Queued),
        }
    }

    fn send_by(&self, view: &mut View<'_>, message: &mut Option<Payload>) -> Result<Sent, Refused> {
        if let Err(refused) = self.send_outbox(view) {
            let Some(payload) = message.take() else { return Err(refused) };
            let why = refused.why;
            self.outbox.set(Some(refused.payload));
            return Err(Refused { payload, why });
        }
        let Some(payload) = message.take() else { return Ok(Sent::Queued) };
        let sent = view.send(payload);
        if matches!(sent, Ok(Sent::OverMark)) {
            // A policy that drops doesn't want its producers to wait.
            self.is_over_mark.set(!view.machine.drops_messages(view.pools));
        }
        sent
    }

    #[cold]
    #[inline(never)]
    fn send_later(&self, payload: Payload) -> Result<Sent, Refused> {
        if self.ended.get().is_some() || self.wishes.get().shutdown || self.wishes.get().close {
            return Err(Refused { payload, why: Refusal::Closing });
        }
        if let Some(before) = self.outbox.take() {
            let (queued_bytes, limit_bytes) = (before.held_bytes(), before.held_bytes());
            self.outbox.set(Some(before));
            return Err(Refused {
                payload,
                why: Refusal::Full { queued_bytes, limit_bytes, queued_messages: 1, limit_messages: 1 },
            });
        }
        self.outbox.set(Some(payload));
        self.wakes.call();
        Ok(Sent::Queued)
    }

    fn send_outbox(&self, view: &mut View<'_>) -> Result<(), Refused> {
        let Some(payload) = self.outbox.take() else { return Ok(()) };
        view.send(payload).map(drop)
    }

    /// Waits until the system has taken everything.
    pub(super) fn poll_flush(&self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let Some(reason) = self.ending() {
            return Poll::Ready(Err(Error::Closed(reason)));
        }
        let outbox = self.outbox.take();
        let is_empty = outbox.is_none();
        self.outbox.set(outbox);
        let has_sent = self.with(|view| {
            let has_sent = is_empty && view.machine.has_sent_all(view.key.slot, view.pools);
            if !has_sent {
                view.machine.heed_sends();
            }
            has_sent
        });
        if has_sent == Some(true) {
            self.is_flushing.set(false);
            return Poll::Ready(Ok(()));
        }
        self.is_flushing.set(true);
        self.sender.register(context.waker());
        if has_sent.is_none() {
            self.wakes.call();
        }
        Poll::Pending
    }

    /// If somebody waits until everything is sent: looks whether it is.
    #[cold]
    #[inline(never)]
    pub(super) fn look_at_flush(&self, view: &mut View<'_>) {
        if view.machine.has_sent_all(view.key.slot, view.pools) {
            view.machine.ignore_sends();
            self.is_flushing.set(false);
            self.sender.wake();
        } else {
            // It was asked for by somebody who could not reach the connection.
            view.machine.heed_sends();
        }
    }

    /// There is room again.
    pub(super) fn has_room(&self) {
        self.is_over_mark.set(false);
        self.sender.wake();
        self.changes.wake_all();
    }
}

/// Endings.
impl Core {
    pub(super) fn shutdown(&self) {
        self.wish(Wishes { shutdown: true, ..self.wishes.get() });
    }

    pub(super) fn abort(&self) {
        self.wish(Wishes { abort: true, ..self.wishes.get() });
    }

    fn wish(&self, wishes: Wishes) {
        self.wishes.set(wishes);
        if self.with(|view| self.grant(view)).is_none() && self.ended.get().is_none() {
            self.wakes.call();
        }
    }

    /// The same when the tasks have been polled: what is dropped on the way to an error doesn't end in order.
    fn wish_later(&self, wishes: Wishes) {
        self.wishes.set(wishes);
        if self.ended.get().is_none() {
            self.wakes.call();
        }
    }

    /// Does what was wished, in the order in which it makes sense.
    pub(super) fn grant(&self, view: &mut View<'_>) {
        if let Err(refused) = self.send_outbox(view) {
            match refused.why {
                Refusal::Full { .. } | Refusal::NoMemory { .. } if !self.wishes.get().abort => {
                    self.outbox.set(Some(refused.payload));
                    return;
                }
                Refusal::TooLarge { .. } => {
                    tracing::error!(why = %refused.why, "a task has sent a message to another connection that is too large for it");
                    return view.machine.abort(CloseReason::TaskFailed, view.pools);
                }
                _ => {}
            }
        }
        let wishes = self.wishes.take();
        if wishes.abort {
            view.abort();
        } else if wishes.close {
            // Whoever has finished after its peer has ended nothing.
            let reason = if self.has_finished.get() { CloseReason::Finished } else { CloseReason::ClosedByHandler };
            view.machine.close(reason, view.context.now, view.pools);
        } else if wishes.shutdown {
            view.machine.shutdown();
        }
    }

    /// The connection has ended.
    pub(super) fn end(&self, reason: CloseReason) {
        self.ended.set(Some(reason));
        self.is_over_mark.set(false);
        drop(self.outbox.take());
        self.receiver.wake();
        self.sender.wake();
        self.changes.wake_all();
        let expecting = std::mem::take(&mut *self.expecting.borrow_mut());
        expecting.iter().for_each(|expected| expected.give_up());
    }

    /// Half of it is not needed any more.
    pub(super) fn drop_receiver(&self) {
        self.has_receiver.set(false);
        drop(self.inbox.take());
        self.receiver.forget();
        if !self.has_sender.get() {
            self.wish_later(Wishes { close: true, ..self.wishes.get() });
        }
    }

    pub(super) fn drop_sender(&self) {
        self.has_sender.set(false);
        self.sender.forget();
        let wishes = self.wishes.get();
        self.wish_later(match self.has_receiver.get() {
            true => Wishes { shutdown: true, ..wishes },
            false => Wishes { close: true, ..wishes },
        });
    }
}

/// A copy of the first `most` bytes of `parts`.
fn beginning(parts: &[io::IoSlice<'_>], most: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len()).sum::<usize>().min(most));
    for part in parts {
        let room = most - bytes.len();
        bytes.extend_from_slice(&part[..part.len().min(room)]);
    }
    bytes
}
