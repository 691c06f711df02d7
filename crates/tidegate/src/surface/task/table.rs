//! Connections with tasks, behind the face that the loop knows.

use std::any::Any;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use crossbeam_queue::ArrayQueue;

use super::core::{Core, Origin};
use super::sleeps::SLEEP_BYTES;
use super::spawn::{SPAWNED_BYTES, poll_spawned};
use super::wakes::Wakes;
use super::{Connection, Error};
use crate::connection::CloseReason;
use crate::io_thread::{Arrival, ConnectionKey, Fetch, Handlers, View};
use crate::memory::{Buffer, Chunked, FreeList, prefetch};
use crate::surface::Limits;
use crate::surface::handle::Mailbox;
use crate::sync;
use crate::time::Time;

/// How often the tasks of a connection are looked at in one call, when they wake themselves or each other; then others have their turn.
const ROUNDS: u32 = 16;

/// The timer of the connection that its sleeps share.
const TIMER: u8 = 0;

/// The tasks of one listener, or one kind of outgoing connections, on one I/O thread.
pub(crate) struct TaskTable<F, Fut> {
    serve: sync::Arc<F>,
    tasks: Chunked<Place<Fut>>,
    places: FreeList,
    mailbox: sync::Arc<Mailbox<Infallible>>,
    spawned_limit: u32,
    sleeps_limit: usize,
}

/// A place for a connection with tasks.
#[derive(Default)]
enum Place<Fut> {
    #[default]
    Free,
    /// Its main task is not made yet.
    Arrived(Box<Origin>),
    Hosted(Hosted<Fut>),
}

/// A connection with tasks.
struct Hosted<Fut> {
    core: Rc<Core>,
    /// `None` once it is over.
    main: Option<Pin<Box<Fut>>>,
    /// What the timer is set to.
    timer: Time,
}

/// What a connection with tasks takes in the tables of its listener or client, in bytes, with its main task: without what the task itself
/// puts into boxes and collections, and without the futures that it spawns.
pub(crate) fn place_bytes<Fut>(limits: &Limits) -> usize {
    let shared = size_of::<Core>() + size_of::<Wakes>() + size_of::<Fut>() + 4 * ALLOCATION_BYTES;
    let spawned = limits.tasks_per_connection as usize * (SPAWNED_BYTES + 2 * ALLOCATION_BYTES);
    let sleeps = usize::from(limits.sleeps_per_connection) * SLEEP_BYTES;
    size_of::<Place<Fut>>() + size_of::<u32>() + shared + spawned + sleeps
}

/// What an allocation takes besides what it is for, at worst: its header and rounding.
const ALLOCATION_BYTES: usize = 24;

impl<F, Fut> TaskTable<F, Fut>
where
    F: Fn(Connection) -> Fut,
    Fut: Future<Output = Result<(), Error>> + 'static,
{
    /// An empty table.
    pub(crate) fn new(serve: sync::Arc<F>, limits: &Limits) -> Self {
        Self {
            serve,
            tasks: Chunked::new(limits.max_connections),
            places: FreeList::new(limits.max_connections),
            mailbox: sync::Arc::new(ArrayQueue::new(1)),
            spawned_limit: limits.tasks_per_connection,
            sleeps_limit: usize::from(limits.sleeps_per_connection),
        }
    }

    /// Something has happened to a connection: it is told, and its tasks that waited for it go on.
    #[inline]
    fn happened(&mut self, key: u32, mut view: View<'_>, tell: impl FnOnce(&Core, &mut View<'_>)) {
        if let Some(Place::Hosted(hosted)) = self.tasks.get_mut(key) {
            hosted.core.wakes.set_polled(true);
            tell(&hosted.core, &mut view);
            hosted.core.grant(&mut view);
            if hosted.core.is_flushing() {
                hosted.core.look_at_flush(&mut view);
            }
            hosted.run(&mut view);
        }
    }

    fn take(&mut self, key: u32) -> Option<Hosted<Fut>> {
        let place = std::mem::take(self.tasks.get_mut(key)?);
        // Free before the tasks are dropped, which may panic.
        self.places.give(key);
        match place {
            Place::Hosted(hosted) => Some(hosted),
            Place::Free | Place::Arrived(_) => None,
        }
    }
}

impl<Fut: Future<Output = Result<(), Error>>> Hosted<Fut> {
    /// Polls those tasks that are to be polled, and does what they want.
    fn run(&mut self, view: &mut View<'_>) {
        let core = Rc::clone(&self.core);
        let failed = core.view.lend(view, || self.poll_ready());
        if let Some(error) = failed {
            tracing::debug!(%error, "a task has failed: its connection is reset");
            view.machine.abort(CloseReason::TaskFailed, view.pools);
        }
        core.wakes.set_polled(false);
        core.renew_budget();
        core.grant(view);
        let is_full = core.is_full();
        if is_full != core.is_paused.get() {
            core.is_paused.set(is_full);
            if is_full { view.machine.pause_read() } else { view.machine.resume_read() }
        }
        if core.wakes.take_sleeps_changed() {
            self.set_timer(view);
        }
        if core.is_main_ready.get() || core.wakes.has_ready() {
            core.wakes.call();
        }
    }

    /// Polls until nobody is to be polled any more, or it is the turn of others; the error of the main task, if it has failed.
    fn poll_ready(&mut self) -> Option<Error> {
        for _ in 0..ROUNDS {
            let mut polled = false;
            let is_woken = self.core.wakes.take_main();
            if (self.core.is_main_ready.take() || is_woken)
                && let Some(main) = &mut self.main
            {
                polled = true;
                if let Poll::Ready(result) = main.as_mut().poll(&mut Context::from_waker(&self.core.waker)) {
                    self.main = None;
                    if let Err(error) = result {
                        return Some(error);
                    }
                }
            }
            let mut from = 0;
            while let Some(number) = self.core.wakes.take_spawned(from) {
                polled = true;
                poll_spawned(&self.core.spawned, number);
                from = number + 1;
            }
            if !polled {
                break;
            }
        }
        None
    }

    /// Sets the timer for the first sleep that ends.
    #[cold]
    #[inline(never)]
    fn set_timer(&mut self, view: &mut View<'_>) {
        let sleeps = self.core.wakes.sleeps();
        let (earliest, is_overrun) = (sleeps.earliest(), sleeps.is_overrun);
        drop(sleeps);
        if earliest < self.timer {
            self.timer = earliest;
            view.set_timer_at(TIMER, earliest);
        }
        if is_overrun {
            tracing::error!(
                "a task sleeps more often at once than Limits::sleeps_per_connection allows: its connection is reset"
            );
            view.machine.abort(CloseReason::TaskFailed, view.pools);
        }
    }

    /// The connection is over: what waits for it gets to know why, and has one more chance to do something about it.
    fn end(mut self, reason: CloseReason) {
        let polled = catch_unwind(AssertUnwindSafe(|| {
            self.core.end(reason);
            // An error of the main task keeps the others from nothing.
            while self.poll_ready().is_some() {}
        }));
        // Also when one has panicked: the others would hold each other for ever.
        self.drop_tasks();
        if let Err(panic) = polled {
            resume_unwind(panic);
        }
    }

    /// Drops the tasks, which hold the core, which holds them.
    fn drop_tasks(self) {
        let Self { core, main, .. } = self;
        // When they are dropped, also if that panics: only tasks of others sleep on it then.
        let _ends = EndsSleeps(Arc::clone(&core.wakes));
        drop(main);
        let spawned = core.spawned.borrow_mut().take_all();
        drop(spawned);
        let expecting = std::mem::take(&mut *core.expecting.borrow_mut());
        drop(expecting);
        drop(core.inbox.take());
    }
}

/// Ends the sleeps of a connection when it is dropped.
struct EndsSleeps(Arc<Wakes>);

impl Drop for EndsSleeps {
    fn drop(&mut self) {
        self.0.end_all_sleeps();
    }
}

impl<F, Fut> Handlers for TaskTable<F, Fut>
where
    F: Fn(Connection) -> Fut,
    Fut: Future<Output = Result<(), Error>> + 'static,
{
    fn open(&mut self, arrival: &Arrival<'_>) -> u32 {
        let origin = match arrival {
            Arrival::Accepted(accepted) => Origin::Accepted((*accepted).clone()),
            Arrival::Connected(connected) => Origin::Connected((*connected).clone()),
        };
        match self.places.take() {
            Some(key) => {
                *self.tasks.ensure(key) = Place::Arrived(Box::new(origin));
                key
            }
            // Can't be: there are as many places as the server takes connections.
            None => panic!("no place for another task"),
        }
    }

    fn on_connect(&mut self, key: u32, mut view: View<'_>) {
        let Some(place) = self.tasks.get_mut(key) else { return };
        let Place::Arrived(origin) = std::mem::take(place) else { return };
        let wakes = Wakes::new(view.key, sync::Arc::clone(&view.context.shared), self.sleeps_limit);
        wakes.set_polled(true);
        let core = Core::new(wakes, *origin, sync::Arc::clone(&self.mailbox), self.spawned_limit, view.random());
        core.is_draining.set(view.context.is_draining);
        view.machine.ignore_sends();
        // In its place before anybody else's code runs: if that panics, what it has spawned until then is dropped with it.
        *place = Place::Hosted(Hosted { core: Rc::clone(&core), main: None, timer: Time::MAX });
        let serve = &self.serve;
        let main = core.view.lend(&mut view, || Box::pin(serve(Connection::new(&core))));
        if let Place::Hosted(hosted) = place {
            hosted.main = Some(main);
            hosted.run(&mut view);
        }
    }

    fn prepares(&self) -> bool {
        true
    }

    #[inline]
    fn prepare(&self, key: u32, what: Fetch) {
        if what == Fetch::Place {
            return self.tasks.prefetch(key);
        }
        let Some(Place::Hosted(hosted)) = self.tasks.get(key) else { return };
        if what == Fetch::Rest {
            return hosted.core.prefetch();
        }
        prefetch(&*hosted.core);
        if let Some(main) = &hosted.main {
            prefetch(&**main);
        }
    }

    fn on_read(&mut self, key: u32, view: View<'_>, data: Buffer) {
        self.happened(key, view, |core, _| core.receive(data));
    }

    fn on_writable(&mut self, key: u32, view: View<'_>) {
        self.happened(key, view, |core, _| core.has_room());
    }

    fn on_sent(&mut self, key: u32, view: View<'_>, _: usize) {
        self.happened(key, view, |_, _| {});
    }

    fn on_peer_shutdown(&mut self, key: u32, view: View<'_>) {
        self.happened(key, view, |core, _| {
            core.has_finished.set(true);
            core.is_hungry.set(false);
            core.wake_receiver();
        });
    }

    fn on_timer(&mut self, key: u32, view: View<'_>, _: u8) {
        if let Some(Place::Hosted(hosted)) = self.tasks.get_mut(key) {
            hosted.timer = Time::MAX;
        }
        self.happened(key, view, |core, view| {
            core.wakes.sleeps_change();
            core.wakes.end_sleeps_until(view.context.now);
        });
    }

    fn on_message(&mut self, _: u32, _: View<'_>) {}

    fn on_result(&mut self, key: u32, view: View<'_>, result: &mut dyn Any) {
        self.happened(key, view, |core, _| {
            let expected = core.expecting.borrow_mut().pop_front();
            if let Some(expected) = expected {
                expected.arrive(result);
            }
        });
    }

    fn on_wake(&mut self, key: u32, view: View<'_>) {
        self.happened(key, view, |_, _| {});
    }

    fn while_closing(&mut self, key: u32, mut view: View<'_>) {
        if let Some(Place::Hosted(hosted)) = self.tasks.get_mut(key) {
            // Tasks of other connections and other threads that sleep on this one go on in time.
            hosted.core.wakes.end_sleeps_until(view.context.now);
            if hosted.timer <= view.context.now {
                hosted.timer = Time::MAX;
            }
            hosted.set_timer(&mut view);
        }
    }

    fn on_drain(&mut self, key: u32, view: View<'_>) {
        self.happened(key, view, |core, _| {
            core.is_draining.set(true);
            core.changes.wake_all();
        });
    }

    fn is_busy(&self, key: u32) -> bool {
        match self.tasks.get(key) {
            Some(Place::Hosted(hosted)) => hosted.core.is_busy(),
            _ => false,
        }
    }

    fn is_flushing(&self, key: u32) -> bool {
        match self.tasks.get(key) {
            Some(Place::Hosted(hosted)) => hosted.core.is_flushing(),
            _ => false,
        }
    }

    fn on_close(&mut self, key: u32, reason: &CloseReason) {
        if let Some(hosted) = self.take(key) {
            hosted.end(*reason);
        }
    }

    fn remove(&mut self, key: u32) {
        if let Some(hosted) = self.take(key) {
            // Tasks of other connections may wait for something of it.
            hosted.core.end(CloseReason::HandlerPanicked);
            hosted.drop_tasks();
        }
    }

    fn next_message(&mut self) -> Option<ConnectionKey> {
        None
    }

    fn drop_message(&mut self) {}
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_connection_with_a_small_task_takes_less_than_a_kilobyte_without_spawned_tasks_and_sleeps() {
        type Small = std::future::Ready<Result<(), Error>>;
        let none = Limits { tasks_per_connection: 0, sleeps_per_connection: 0, ..Limits::default() };
        let bytes = place_bytes::<Small>(&none);
        assert!(
            bytes < 1024,
            "{bytes} bytes: {} for what is shared, {} for wakes",
            size_of::<Core>(),
            size_of::<Wakes>()
        );
        let (spawned, sleeps) = (10 * (SPAWNED_BYTES + 2 * ALLOCATION_BYTES), 10 * SLEEP_BYTES);
        let some = Limits { tasks_per_connection: 10, sleeps_per_connection: 10, ..Limits::default() };
        assert_eq!(place_bytes::<Small>(&some), bytes + spawned + sleeps);
    }
}
