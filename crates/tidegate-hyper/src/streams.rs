//! The requests of an HTTP/2 connection that are in progress.
//!
//! hyper hands each of them to an executor. They could be tasks of the connection, but then a server would have to be allowed as many tasks
//! for each connection as requests. So they are a part of the connection's main task, and so is hyper's side of the connection: what a
//! request has answered is written in the same poll.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use hyper::rt;

/// The requests in progress.
pub(crate) struct Streams {
    places: Rc<RefCell<Places>>,
    ready: Arc<Ready>,
    connection: Arc<Numbered>,
    /// For the numbers of those that are being polled.
    spare: RefCell<Vec<u32>>,
}

/// Where hyper puts them. They hold one too, so it doesn't keep them alive.
#[derive(Clone)]
pub(crate) struct StreamExecutor {
    places: Weak<RefCell<Places>>,
    ready: Arc<Ready>,
}

struct Places {
    /// By their numbers.
    all: Vec<Place>,
    free: Vec<u32>,
    limit: usize,
}

struct Place {
    /// `None` if it is free, or is being polled.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    wake: Arc<Numbered>,
}

/// What a place takes, in bytes, with the room of tables that have just grown.
pub(crate) const PLACE_BYTES: usize = 2 * (size_of::<Place>() + 3 * size_of::<u32>()) + size_of::<Numbered>() + 48;

/// Who is to be polled.
#[derive(Default)]
struct Ready {
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// None is in it twice.
    numbers: Vec<u32>,
    /// The task of all, while it isn't being polled.
    task: Option<Waker>,
}

/// The waker of one of them.
struct Numbered {
    ready: Arc<Ready>,
    number: u32,
    is_queued: AtomicBool,
}

/// The number of hyper's side of the connection.
const CONNECTION: u32 = u32::MAX;

/// How often one poll goes around, when those that it polls wake each other; then it is the turn of others.
const ROUNDS: usize = 16;

impl Ready {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing that is left half done by a panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Numbered {
    fn new(ready: &Arc<Ready>, number: u32) -> Arc<Self> {
        Arc::new(Self { ready: Arc::clone(ready), number, is_queued: AtomicBool::new(false) })
    }

    /// It is being polled: from here on it may be queued again.
    fn begin(&self) {
        // Acquire: what was done before its wake is seen.
        self.is_queued.swap(false, Ordering::Acquire);
    }
}

impl Wake for Numbered {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Release: who polls it sees what was done before its wake.
        if !self.is_queued.swap(true, Ordering::AcqRel) {
            let mut queue = self.ready.queue();
            queue.numbers.push(self.number);
            let task = queue.task.take();
            drop(queue);
            if let Some(task) = task {
                task.wake();
            }
        }
    }
}

impl Streams {
    /// At most `limit` at once. hyper's side of the connection is to be polled.
    pub(crate) fn new(limit: usize) -> Self {
        let ready = Arc::default();
        let connection = Numbered::new(&ready, CONNECTION);
        connection.wake_by_ref();
        let places = Rc::new(RefCell::new(Places { all: Vec::new(), free: Vec::new(), limit }));
        Self { places, ready, connection, spare: RefCell::default() }
    }

    pub(crate) fn executor(&self) -> StreamExecutor {
        StreamExecutor { places: Rc::downgrade(&self.places), ready: Arc::clone(&self.ready) }
    }

    /// hyper's side of the connection is to be polled in the [`poll`](Self::poll) that follows. Unlike a wake, it doesn't ask for one.
    pub(crate) fn queue_connection(&self) {
        self.ready.queue().task = None;
        self.connection.wake_by_ref();
    }

    /// Polls requests, and hyper's side of the connection by `connection`, until none of them is to be polled any more.
    pub(crate) fn poll<T>(
        &self,
        context: &mut Context<'_>,
        mut connection: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let mut numbers = self.spare.take();
        // Who is woken from here on is seen below.
        self.ready.queue().task = None;
        for _ in 0..ROUNDS {
            let mut queue = self.ready.queue();
            if queue.numbers.is_empty() {
                queue.task = Some(context.waker().clone());
                drop(queue);
                self.spare.replace(numbers);
                return Poll::Pending;
            }
            std::mem::swap(&mut queue.numbers, &mut numbers);
            drop(queue);
            for number in numbers.drain(..) {
                if number != CONNECTION {
                    self.poll_stream(number);
                    continue;
                }
                self.connection.begin();
                let waker = Waker::from(Arc::clone(&self.connection));
                if let Poll::Ready(result) = connection(&mut Context::from_waker(&waker)) {
                    return Poll::Ready(result);
                }
            }
        }
        self.spare.replace(numbers);
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_stream(&self, number: u32) {
        let (future, wake) = {
            let place = &mut self.places.borrow_mut().all[number as usize];
            place.wake.begin();
            (place.future.take(), Arc::clone(&place.wake))
        };
        // Woken after its end.
        let Some(mut future) = future else { return };
        let poll = future.as_mut().poll(&mut Context::from_waker(&Waker::from(wake)));
        let mut places = self.places.borrow_mut();
        if poll.is_pending() {
            places.all[number as usize].future = Some(future);
        } else {
            places.free.push(number);
            drop(places);
            // Dropping it may do anything.
            drop(future);
        }
    }
}

impl<F: Future<Output = ()> + 'static> rt::Executor<F> for StreamExecutor {
    fn execute(&self, future: F) {
        let Some(places) = self.places.upgrade() else { return };
        let mut places = places.borrow_mut();
        if places.all.len() - places.free.len() >= places.limit {
            tracing::debug!(limit = places.limit, "a request is dropped: too many were reset and are still there");
            return;
        }
        let number = places.free.pop().unwrap_or(places.all.len() as u32);
        if number as usize == places.all.len() {
            places.all.push(Place { future: None, wake: Numbered::new(&self.ready, number) });
        }
        let place = &mut places.all[number as usize];
        place.future = Some(Box::pin(future));
        let wake = Arc::clone(&place.wake);
        drop(places);
        wake.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::AtomicUsize;

    use hyper::rt::Executor;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends when it is polled for the last time; until then it keeps its waker where it can be found.
    struct Counts {
        polls_left: Rc<Cell<u32>>,
        waker: Kept,
    }

    impl Future for Counts {
        type Output = ();

        fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            self.polls_left.set(self.polls_left.get() - 1);
            *self.waker.borrow_mut() = Some(context.waker().clone());
            if self.polls_left.get() == 0 { Poll::Ready(()) } else { Poll::Pending }
        }
    }

    type Kept = Rc<RefCell<Option<Waker>>>;

    fn counts(polls: u32) -> (Counts, Rc<Cell<u32>>, Kept) {
        let (polls_left, waker) = (Rc::new(Cell::new(polls)), Rc::default());
        (Counts { polls_left: Rc::clone(&polls_left), waker: Rc::clone(&waker) }, polls_left, waker)
    }

    #[test]
    fn a_request_is_polled_when_it_is_new_and_when_it_was_woken_and_the_connection_after_it() {
        let task = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&task));
        let mut context = Context::from_waker(&waker);
        let streams = Streams::new(4);
        let polled = Cell::new(0);
        let mut poll = |streams: &Streams| {
            streams.poll(&mut context, |_| {
                polled.set(polled.get() + 1);
                Poll::<()>::Pending
            })
        };
        let (future, polls_left, request) = counts(2);
        assert!(poll(&streams).is_pending());
        assert_eq!(polled.get(), 1);
        streams.executor().execute(future);
        assert_eq!(task.0.load(Ordering::Relaxed), 1, "it has come from elsewhere");
        assert!(poll(&streams).is_pending());
        assert_eq!((polled.get(), polls_left.get()), (1, 1));
        request.borrow().as_ref().expect("a waker").wake_by_ref();
        request.borrow().as_ref().expect("a waker").wake_by_ref();
        assert_eq!(task.0.load(Ordering::Relaxed), 2, "one wake for all");
        streams.queue_connection();
        assert!(poll(&streams).is_pending());
        assert_eq!((polled.get(), polls_left.get()), (2, 0));
        request.borrow().as_ref().expect("a waker").wake_by_ref();
        assert!(poll(&streams).is_pending(), "it is over");
    }

    #[test]
    fn queueing_the_connection_asks_for_no_poll() {
        let task = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&task));
        let streams = Streams::new(1);
        for polls in 1..4 {
            streams.queue_connection();
            let polled = Cell::new(0);
            let poll = streams.poll(&mut Context::from_waker(&waker), |_| {
                polled.set(polled.get() + 1);
                Poll::<()>::Pending
            });
            assert!(poll.is_pending());
            assert_eq!((polled.get(), task.0.load(Ordering::Relaxed)), (1, 0), "poll {polls}");
        }
    }

    #[test]
    fn what_is_one_too_many_is_dropped_and_a_place_is_used_again() {
        let streams = Streams::new(2);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            let (first, second, third) = (counts(1), counts(1), counts(1));
            let executor = streams.executor();
            executor.execute(first.0);
            executor.execute(second.0);
            executor.execute(third.0);
            assert!(streams.poll(&mut context, |_| Poll::<()>::Pending).is_pending());
            assert_eq!((first.1.get(), second.1.get(), third.1.get()), (0, 0, 1));
        }
        assert_eq!(streams.places.borrow().all.len(), 2);
    }

    #[test]
    fn those_who_wake_themselves_for_ever_give_others_their_turn() {
        let task = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&task));
        let streams = Streams::new(1);
        let polls = Cell::new(0);
        let poll = streams.poll(&mut Context::from_waker(&waker), |own| {
            polls.set(polls.get() + 1);
            own.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        assert!(poll.is_pending());
        assert_eq!((polls.get(), task.0.load(Ordering::Relaxed)), (ROUNDS, 1));
    }

    #[test]
    fn the_requests_go_when_the_connection_does() {
        let streams = Streams::new(1);
        let executor = streams.executor();
        let (future, _, request) = counts(2);
        let kept = executor.clone();
        executor.execute(async move {
            let _kept = kept;
            future.await;
        });
        assert!(streams.poll(&mut Context::from_waker(Waker::noop()), |_| Poll::<()>::Pending).is_pending());
        let alive = Rc::downgrade(&streams.places);
        drop(streams);
        assert!(alive.upgrade().is_none());
        request.borrow().as_ref().expect("a waker").wake_by_ref();
        executor.execute(async {});
    }
}
