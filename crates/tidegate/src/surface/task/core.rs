//! What the tasks of a connection share with the table that polls them.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::offload::Expecting;
use super::spawn::Spawned;
use super::waiters::{Waiter, Waiters};
use super::wakes::Wakes;
use super::{Error, Sender};
use crate::connection::{CloseReason, Refusal, Refused, Sent};
use crate::io_thread::{Accepted, Connected, View};
use crate::memory::{Buffer, Lendable, Lent, Payload, prefetch, prefetch_bytes};
use crate::random::split_mix;
use crate::surface::handle::Mailbox;
use crate::sync;

/// How many messages tasks may receive and send in one call before others have their turn: a task for which something is ready all the time
/// would go on for ever. As many as one batch of the system brings, and their replies, several times over.
const BUDGET: u32 = 256;

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

impl Origin {
    pub(super) fn io_thread(&self) -> usize {
        match self {
            Self::Accepted(accepted) => accepted.io_thread,
            Self::Connected(connected) => connected.io_thread,
        }
    }
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
    /// Reading was paused for it.
    pub(super) is_paused: Cell<bool>,
    /// The peer has finished, and that comes after what is in the inbox.
    pub(super) has_finished: Cell<bool>,
    /// More was sent than should wait: the next message waits until there is room.
    pub(super) is_over_mark: Cell<bool>,
    flush: Cell<Flush>,
    /// `shutdown` was called.
    is_shut: Cell<bool>,
    /// What may still be received and sent in this call.
    budget: Cell<u32>,
    /// Why the connection has ended.
    pub(super) ended: Cell<Option<CloseReason>>,
    pub(super) is_draining: Cell<bool>,
    /// Somebody has waited for data, and none has come since.
    pub(super) is_hungry: Cell<bool>,
    pub(super) has_receiver: Cell<bool>,
    pub(super) has_sender: Cell<bool>,
    /// Those who keep the drain from closing the connection as idle.
    pub(super) busy: Cell<u32>,
    /// What is to be done when the connection is called next: what follows from a drop, and whatever is wished by somebody who is not
    /// polled by this connection.
    wishes: Cell<Wishes>,
    /// A message of such a one.
    outbox: Cell<Option<Payload>>,
    /// There is something in these two.
    has_wishes: Cell<bool>,
    receiver: Waiter,
    sender: Waiter,
    /// That of the main task.
    pub(super) waker: Waker,
    /// The main task is to be polled, and it is the connection itself that knows: spares most requests the way through its waker.
    pub(super) is_main_ready: Cell<bool>,
    /// Those who wait for the end, for the drain, or for room for a job.
    pub(super) changes: Waiters,
    pub(super) spawned: RefCell<Spawned>,
    pub(super) expecting: Expecting,
    /// The state of its random numbers.
    random: Cell<u64>,
    /// What the tasks have asked to be fetched before they are polled.
    ahead: Cell<[Ahead; 2]>,
}

/// Where something lies that will be used, or has lain, and its length in bytes. It is never read.
#[derive(Clone, Copy)]
struct Ahead(*const u8, usize);

impl Ahead {
    const NOTHING: Self = Self(std::ptr::null(), 0);

    fn of<T>(value: &T) -> Self {
        Self(std::ptr::from_ref(value).cast(), size_of::<T>())
    }
}

/// Whether somebody waits until everything is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flush {
    Idle,
    Wanted,
    /// It is, and who waits has not seen it yet.
    Done,
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
            origin,
            mailbox,
            inbox: Cell::new(None),
            has_finished: Cell::new(false),
            is_over_mark: Cell::new(false),
            flush: Cell::new(Flush::Idle),
            is_paused: Cell::new(false),
            has_wishes: Cell::new(false),
            is_shut: Cell::new(false),
            budget: Cell::new(BUDGET),
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
            waker: Waker::from(Arc::clone(&wakes)),
            is_main_ready: Cell::new(false),
            changes: Waiters::default(),
            spawned: RefCell::new(Spawned::new(spawned_limit)),
            random: Cell::new(random),
            ahead: Cell::new([Ahead::NOTHING; 2]),
            wakes,
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

    /// Wakes who waits there. Only what is called from a callback of the connection, or polled in one, may do so.
    fn wake(&self, waiter: &Waiter) {
        waiter.wake(&self.waker, || self.is_main_ready.set(true));
    }

    pub(super) fn wake_receiver(&self) {
        self.wake(&self.receiver);
    }

    /// Whether one more message may be received or sent in this call; if not, `context` goes on in the next.
    fn may_go_on(&self, context: &mut Context<'_>) -> bool {
        let left = self.budget.get().checked_sub(1);
        match left {
            Some(left) => self.budget.set(left),
            None => {
                // The end of a call renews it. Who is polled by a task of another connection may not be called for long, and one that has
                // ended never is.
                if self.ended.get().is_some() {
                    self.renew_budget();
                } else {
                    self.wakes.call();
                }
                context.waker().wake_by_ref();
            }
        }
        left.is_some()
    }

    /// A call is over.
    pub(super) fn renew_budget(&self) {
        self.budget.set(BUDGET);
    }

    /// Has these fetched before the tasks are polled.
    pub(super) fn fetch_ahead<A, B>(&self, first: &A, second: &B) {
        self.ahead.set([Ahead::of(first), Ahead::of(second)]);
    }

    /// The tasks will be polled soon.
    pub(super) fn prefetch(&self) {
        prefetch(&*self.wakes);
        for Ahead(address, bytes) in self.ahead.get() {
            prefetch_bytes(address, bytes);
        }
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
        if !self.may_go_on(context) {
            return Poll::Pending;
        }
        if let Some(buffer) = self.inbox.take() {
            if self.is_paused.get() {
                // Reading goes on when the connection is called, which it is if it is one of its own tasks that receives.
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
        self.wake(&self.receiver);
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
        if self.must_wait(context) {
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

    /// An empty vector with room for `bytes`; who can't reach the connection gets one from the allocator.
    pub(super) fn message_buffer(&self, bytes: usize) -> Vec<u8> {
        self.with(|view| view.pools.spares.take(bytes)).unwrap_or_else(|| Vec::with_capacity(bytes))
    }

    /// Whether nothing may be sent for now, though nothing is wrong.
    fn must_wait(&self, context: &mut Context<'_>) -> bool {
        if !self.may_go_on(context) {
            return true;
        }
        let waits = self.is_over_mark.get() && !self.is_shut.get() && self.ending().is_none();
        if waits {
            self.sender.register(context.waker());
        }
        waits
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
        // Before anything is copied.
        if self.must_wait(context) {
            return Poll::Pending;
        }
        let mut most = Sender::COPY_BYTES_MAX;
        loop {
            let length = parts.iter().map(|part| part.len()).sum::<usize>().min(most);
            let mut bytes = self.message_buffer(length);
            copy_beginning(parts, length, &mut bytes);
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
        if self.has_wishes.get() {
            self.grant(view);
            if self.has_wishes.get()
                && let Some(payload) = message.take()
            {
                // What waits in the outbox goes first.
                return self.send_later(payload);
            }
        }
        match message.take() {
            Some(payload) => self.submit(view, payload),
            None => Ok(Sent::Queued),
        }
    }

    fn submit(&self, view: &mut View<'_>, payload: Payload) -> Result<Sent, Refused> {
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
        let wishes = self.wishes.get();
        let is_over = self.ended.get().is_some() || self.is_shut.get();
        if is_over || wishes.shutdown || wishes.close || wishes.abort {
            return Err(Refused { payload, why: Refusal::Closing });
        }
        let before = self.outbox.take();
        if let Some(before) = before {
            let bytes = before.held_bytes();
            self.outbox.set(Some(before));
            let why = Refusal::Full { queued_bytes: bytes, limit_bytes: bytes, queued_messages: 1, limit_messages: 1 };
            return Err(Refused { payload, why });
        }
        self.outbox.set(Some(payload));
        self.has_wishes.set(true);
        self.flush.set(Flush::Idle);
        self.wakes.call();
        Ok(Sent::Queued)
    }

    /// Waits until the system has taken everything.
    pub(super) fn poll_flush(&self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let Some(reason) = self.ending() {
            return Poll::Ready(Err(Error::Closed(reason)));
        }
        let has_sent = self.with(|view| {
            self.grant(view);
            let has_sent = self.has_sent_all(view);
            if !has_sent {
                view.machine.heed_sends();
            }
            has_sent
        });
        // Who can't reach the connection has to be told.
        if has_sent.unwrap_or(self.flush.get() == Flush::Done) {
            self.flush.set(Flush::Idle);
            return Poll::Ready(Ok(()));
        }
        self.sender.register(context.waker());
        if self.flush.replace(Flush::Wanted) != Flush::Wanted && has_sent.is_none() {
            self.wakes.call();
        }
        Poll::Pending
    }

    fn has_sent_all(&self, view: &View<'_>) -> bool {
        !self.has_wishes.get() && view.machine.has_sent_all(view.key.slot, view.pools)
    }

    /// Whether somebody waits until everything is sent.
    pub(super) fn is_flushing(&self) -> bool {
        self.flush.get() == Flush::Wanted
    }

    /// If somebody waits until everything is sent: looks whether it is.
    #[cold]
    #[inline(never)]
    pub(super) fn look_at_flush(&self, view: &mut View<'_>) {
        if self.has_sent_all(view) {
            view.machine.ignore_sends();
            self.flush.set(Flush::Done);
            self.wake(&self.sender);
        } else {
            view.machine.heed_sends();
        }
    }

    /// There is room again.
    pub(super) fn has_room(&self) {
        self.is_over_mark.set(false);
        self.wake(&self.sender);
        self.changes.wake_all();
    }
}

/// Endings.
impl Core {
    pub(super) fn shutdown(&self) {
        self.is_shut.set(true);
        self.wish(Wishes { shutdown: true, ..self.wishes.get() });
    }

    pub(super) fn abort(&self) {
        self.wish(Wishes { abort: true, ..self.wishes.get() });
    }

    fn wish(&self, wishes: Wishes) {
        self.wish_later(wishes);
        self.with(|view| self.grant(view));
    }

    /// The same when the tasks have been polled: what is dropped on the way to an error doesn't end in order.
    fn wish_later(&self, wishes: Wishes) {
        self.wishes.set(wishes);
        self.has_wishes.set(true);
        if self.ended.get().is_none() {
            self.wakes.call();
        }
    }

    /// Does what is to be done, if anything is.
    pub(super) fn grant(&self, view: &mut View<'_>) {
        if self.has_wishes.get() {
            self.grant_wishes(view);
        }
    }

    #[cold]
    #[inline(never)]
    fn grant_wishes(&self, view: &mut View<'_>) {
        let wishes = self.wishes.get();
        if wishes.abort {
            drop(self.outbox.take());
            view.abort();
        }
        if let Some(payload) = self.outbox.take() {
            match self.submit(view, payload) {
                Ok(_) => self.wake(&self.sender),
                Err(Refused { payload, why: Refusal::Full { .. } | Refusal::NoMemory { .. } }) => {
                    // It is tried again when there is room; what is to be done after it waits too.
                    return self.outbox.set(Some(payload));
                }
                Err(Refused { why: why @ Refusal::TooLarge { .. }, .. }) => {
                    tracing::error!(%why, "a message from a task of another connection can't be sent: the connection is reset");
                    view.machine.abort(CloseReason::TaskFailed, view.pools);
                }
                // It has ended, or is about to.
                Err(_) => {}
            }
        }
        self.has_wishes.set(false);
        self.wishes.set(Wishes::default());
        if wishes.close {
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
        self.has_wishes.set(false);
        drop(self.outbox.take());
        self.wake(&self.receiver);
        self.wake(&self.sender);
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

/// Copies the first `length` bytes of `parts` into the empty vector `bytes`.
fn copy_beginning(parts: &[io::IoSlice<'_>], length: usize, bytes: &mut Vec<u8>) {
    for part in parts {
        let room = length - bytes.len();
        bytes.extend_from_slice(&part[..part.len().min(room)]);
    }
}
