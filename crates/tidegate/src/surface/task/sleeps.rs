//! Sleeping: the points in time that the tasks of a connection wait for, on one timer of the connection.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll, Waker};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::wakes::Wakes;
use crate::time::Time;

/// The sleeps of one connection. Few, so they are looked through one by one.
pub(super) struct Sleeps {
    entries: Vec<Option<Entry>>,
    limit: usize,
    /// No sleep ends before this; it may be earlier than the first that does.
    earliest: Time,
    /// One more was wanted than there may be.
    pub(super) is_overrun: bool,
    /// The connection is over, and every sleep with it.
    pub(super) is_over: bool,
}

struct Entry {
    deadline: Time,
    /// `None` once it is over.
    waker: Option<Waker>,
}

/// What a sleep takes, in bytes, with the room of a vector that has just grown.
pub(super) const SLEEP_BYTES: usize = 2 * size_of::<Option<Entry>>();

impl Sleeps {
    pub(super) fn new(limit: usize) -> Self {
        Self { entries: Vec::new(), limit, earliest: Time::MAX, is_overrun: false, is_over: false }
    }

    /// When the timer is to expire.
    pub(super) fn earliest(&self) -> Time {
        self.earliest
    }

    fn add(&mut self, deadline: Time, waker: Waker) -> usize {
        let free = self.entries.iter().take(self.limit).position(Option::is_none);
        let place = free.unwrap_or(self.entries.len());
        if place == self.entries.len() {
            // One that is too many ends the connection, and waits for that.
            self.is_overrun |= place >= self.limit;
            self.entries.push(None);
        }
        self.entries[place] = Some(Entry { deadline, waker: Some(waker) });
        self.earliest = self.earliest.min(deadline);
        place
    }

    fn take(&mut self, place: usize) -> Option<Entry> {
        let entry = self.entries[place].take();
        while self.entries.len() > self.limit && self.entries.last().is_some_and(Option::is_none) {
            self.entries.pop();
        }
        entry
    }

    /// The waker of one whose time has come. For whoever calls to wake when this is no longer locked: wakers may do anything.
    pub(super) fn next_due(&mut self, now: Time) -> Option<Waker> {
        let mut earliest = Time::MAX;
        for entry in self.entries.iter_mut().flatten().filter(|entry| entry.waker.is_some()) {
            if entry.deadline <= now {
                return entry.waker.take();
            }
            earliest = earliest.min(entry.deadline);
        }
        self.earliest = earliest;
        None
    }
}

/// Lets others go first, and goes on.
pub async fn yield_now() {
    let mut has_yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Ends at a point in time; one that is over already lets others go first. Dropped, it is as if it had never been.
///
/// It may be sent to other threads and polled there. Sleeps end up to a millisecond late, never early, except with their connection: when
/// that has ended, the sleeps on it that tasks of other connections and other threads wait for end at once, and so do those that begin later.
#[must_use = "a sleep does nothing unless it is awaited"]
pub struct Sleep {
    wakes: Arc<Wakes>,
    deadline: Time,
    place: Option<usize>,
    /// It was over when it began, and has let others go first.
    has_yielded: bool,
}

impl Sleep {
    pub(super) fn new(wakes: Arc<Wakes>, deadline: Time) -> Self {
        Self { wakes, deadline, place: None, has_yielded: false }
    }

    /// When it ends.
    pub fn deadline(&self) -> Time {
        self.deadline
    }

    /// Makes it end at `deadline` instead; one that is over begins anew.
    pub fn reset(&mut self, deadline: Time) {
        self.forget();
        (self.deadline, self.has_yielded) = (deadline, false);
    }

    fn forget(&mut self) {
        if let Some(place) = self.place.take() {
            let entry = self.wakes.sleeps().take(place);
            // Dropped when nothing is locked: with its waker, a task may be dropped that sleeps too.
            drop(entry);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let waker = context.waker();
        let mut sleeps = this.wakes.sleeps();
        if let Some(place) = this.place {
            let entry = sleeps.entries[place].as_mut().and_then(|entry| entry.waker.as_mut());
            let Some(own) = entry else {
                sleeps.take(place);
                this.place = None;
                return Poll::Ready(());
            };
            if !own.will_wake(waker) {
                let before = std::mem::replace(own, waker.clone());
                drop(sleeps);
                drop(before);
            }
            return Poll::Pending;
        }
        if this.deadline <= this.wakes.now() || sleeps.is_over {
            drop(sleeps);
            if !std::mem::replace(&mut this.has_yielded, true) {
                waker.wake_by_ref();
                return Poll::Pending;
            }
            return Poll::Ready(());
        }
        let before = sleeps.earliest;
        this.place = Some(sleeps.add(this.deadline, waker.clone()));
        let is_news = sleeps.earliest < before || sleeps.is_overrun;
        drop(sleeps);
        if is_news {
            this.wakes.sleeps_change();
            this.wakes.call();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.forget();
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sleep").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// The time of a connection, for libraries that want to sleep and know nothing of it. It may be sent to other threads.
#[derive(Clone)]
pub struct Timer {
    wakes: Arc<Wakes>,
}

impl Timer {
    pub(super) fn new(wakes: Arc<Wakes>) -> Self {
        Self { wakes }
    }

    /// The time of the I/O thread of the connection: in its tasks and in those of other connections of that thread, now; elsewhere, that of
    /// its last turn.
    pub fn now(&self) -> Time {
        self.wakes.now()
    }

    /// Ends after `duration`, or with the connection. On another thread than that of the connection, after `duration` from the last turn
    /// of that thread.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    /// Ends at `deadline`, or with the connection.
    pub fn sleep_until(&self, deadline: Time) -> Sleep {
        Sleep::new(Arc::clone(&self.wakes), deadline)
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Timer").field("now", &self.now()).finish()
    }
}

pin_project! {
    /// A future that may take only so long.
    #[must_use = "a future does nothing unless it is awaited"]
    #[derive(Debug)]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        sleep: Sleep,
    }
}

impl<F> Timeout<F> {
    pub(super) fn new(sleep: Sleep, future: F) -> Self {
        Self { future, sleep }
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(context) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(this.sleep).poll(context).map(|()| Err(Elapsed))
    }
}

/// The time of a [`Timeout`] is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("it took longer than it may")]
pub struct Elapsed;
