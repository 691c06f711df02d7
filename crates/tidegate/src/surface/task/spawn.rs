//! Tasks beside the main one of a connection.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{self, Poll, Waker};

use pin_project_lite::pin_project;

use super::wakes::{SpawnedWake, Wakes};

/// The spawned tasks of a connection, by their numbers.
pub(super) struct Spawned {
    places: Vec<Place>,
    live: u32,
    limit: u32,
    /// The connection has ended: what is spawned now is dropped at once.
    is_over: bool,
}

/// A place for a task.
struct Place {
    /// `None` if it is free, or its task is being polled.
    task: Option<Pin<Box<dyn Future<Output = ()>>>>,
    is_taken: bool,
    waker: Waker,
}

/// What a spawned task takes, in bytes, without its future: its place, with the room of a vector that has just grown, its waker, and what
/// the task and its handle share.
pub(super) const SPAWNED_BYTES: usize = 2 * size_of::<Place>() + size_of::<SpawnedWake>() + 64;

impl Spawned {
    pub(super) fn new(limit: u32) -> Self {
        Self { places: Vec::new(), live: 0, limit, is_over: false }
    }

    /// How many there are.
    pub(super) fn live(&self) -> u32 {
        self.live
    }

    /// Whether there is room for one more.
    fn check(&self) -> Result<(), SpawnRefused> {
        if self.live < self.limit { Ok(()) } else { Err(SpawnRefused { limit: self.limit }) }
    }

    fn add(&mut self, task: Pin<Box<dyn Future<Output = ()>>>, wakes: &Arc<Wakes>) -> u32 {
        let free = self.places.iter().position(|place| !place.is_taken);
        let number = free.unwrap_or(self.places.len());
        if number == self.places.len() {
            wakes.have_spawned(self.limit);
            let waker = Waker::from(Arc::new(SpawnedWake { wakes: Arc::clone(wakes), number: number as u32 }));
            self.places.push(Place { task: None, is_taken: false, waker });
        }
        let place = &mut self.places[number];
        (place.task, place.is_taken) = (Some(task), true);
        self.live += 1;
        number as u32
    }

    /// Takes all tasks out, to be dropped.
    pub(super) fn take_all(&mut self) -> Vec<Pin<Box<dyn Future<Output = ()>>>> {
        (self.live, self.is_over) = (0, true);
        std::mem::take(&mut self.places).into_iter().filter_map(|place| place.task).collect()
    }
}

/// Polls task `number`. Others may be spawned meanwhile, by it too.
pub(super) fn poll_spawned(spawned: &RefCell<Spawned>, number: u32) {
    let taken = spawned.borrow_mut().places.get_mut(number as usize).and_then(|place| {
        // A wake that came late may be for one that was here before.
        Some((place.task.take()?, place.waker.clone()))
    });
    let Some((mut task, waker)) = taken else { return };
    let is_over = task.as_mut().poll(&mut task::Context::from_waker(&waker)).is_ready();
    let mut spawned = spawned.borrow_mut();
    // Not there any more if everything has been dropped meanwhile.
    if let Some(place) = spawned.places.get_mut(number as usize) {
        if is_over {
            place.is_taken = false;
            spawned.live -= 1;
        } else {
            place.task = Some(task);
            return;
        }
    }
    drop(spawned);
    // Dropping it may do anything, spawn for example.
    drop(task);
}

pin_project! {
    /// A future whose output its handle gets.
    struct Joined<F: Future> {
        #[pin]
        future: F,
        shared: Rc<Shared<F::Output>>,
    }
}

/// What a task and its handle share.
struct Shared<T> {
    output: Cell<Option<T>>,
    is_over: Cell<bool>,
    is_aborted: Cell<bool>,
    /// Of whoever awaits the handle.
    joiner: Cell<Option<Waker>>,
    /// Of the task.
    task: Cell<Option<Waker>>,
}

impl<T> Shared<T> {
    fn end(&self) {
        self.is_over.set(true);
        self.task.set(None);
        if let Some(waker) = self.joiner.take() {
            waker.wake();
        }
    }
}

impl<F: Future> Future for Joined<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<()> {
        let this = self.project();
        if !this.shared.is_aborted.get() {
            let Poll::Ready(output) = this.future.poll(context) else { return Poll::Pending };
            this.shared.output.set(Some(output));
        }
        Poll::Ready(())
    }
}

/// Says that the task is over, however it has ended.
struct Ends<T>(Rc<Shared<T>>);

impl<T> Drop for Ends<T> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Spawns `future` among `spawned`.
pub(super) fn spawn<F>(
    spawned: &RefCell<Spawned>,
    wakes: &Arc<Wakes>,
    future: F,
) -> Result<JoinHandle<F::Output>, SpawnRefused>
where
    F: Future + 'static,
{
    let shared = Rc::new(Shared {
        output: Cell::new(None),
        is_over: Cell::new(false),
        is_aborted: Cell::new(false),
        joiner: Cell::new(None),
        task: Cell::new(None),
    });
    let joined = Joined { future, shared: Rc::clone(&shared) };
    let ends = Ends(Rc::clone(&shared));
    let task: Pin<Box<dyn Future<Output = ()>>> = Box::pin(WithEnd { joined, _ends: ends });
    if spawned.borrow().is_over {
        drop(task);
        return Ok(JoinHandle { shared });
    }
    // Apart from taking it: one that is refused is dropped here, where what it does when it is dropped may spawn.
    let room = spawned.borrow().check();
    room?;
    let number = spawned.borrow_mut().add(task, wakes);
    let waker = spawned.borrow().places[number as usize].waker.clone();
    waker.wake_by_ref();
    shared.task.set(Some(waker));
    Ok(JoinHandle { shared })
}

pin_project! {
    /// A task: the future is dropped before its end is told.
    struct WithEnd<F: Future> {
        #[pin]
        joined: Joined<F>,
        _ends: Ends<F::Output>,
    }
}

impl<F: Future> Future for WithEnd<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<()> {
        self.project().joined.poll(context)
    }
}

/// A spawned task, as whoever spawned it may hold it. Awaited, it returns what the task does. Dropped, it leaves the task running.
pub struct JoinHandle<T> {
    shared: Rc<Shared<T>>,
}

impl<T> JoinHandle<T> {
    /// Ends the task: it is dropped when it would go on next.
    pub fn abort(&self) {
        self.shared.is_aborted.set(true);
        if let Some(waker) = self.shared.task.take() {
            waker.wake();
        }
    }

    /// Whether the task is over.
    pub fn is_finished(&self) -> bool {
        self.shared.is_over.get()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Aborted>;

    fn poll(self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Self::Output> {
        if self.shared.is_over.get() {
            return Poll::Ready(self.shared.output.take().ok_or(Aborted));
        }
        self.shared.joiner.set(Some(context.waker().clone()));
        Poll::Pending
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("JoinHandle").field("is_finished", &self.is_finished()).finish()
    }
}

/// A spawned task was aborted, or ended with its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the task was aborted, or its connection has ended")]
pub struct Aborted;

/// A task was not spawned: its connection has as many as it may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the connection has {limit} spawned tasks (Limits::tasks_per_connection): wait for one to end, or raise the limit"
)]
pub struct SpawnRefused {
    /// How many it may have.
    pub limit: u32,
}
