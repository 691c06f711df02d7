//! What tasks and libraries may use besides the bytes of a connection.

use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::core::Core;
use super::{JoinHandle, OffloadError, Sleep, SpawnRefused, Timeout, Timer, offload, spawn};
use crate::connection::CloseReason;
use crate::surface::ConnectionHandle;
use crate::time::Time;

/// The surroundings of a connection's tasks: time, other tasks, other threads. Clones are of the same connection, and keep nothing of it
/// alive but a little memory.
#[derive(Clone)]
pub struct Context {
    core: Rc<Core>,
}

impl Context {
    pub(super) fn new(core: Rc<Core>) -> Self {
        Self { core }
    }

    /// The time: the same for everything in one turn of the loop; virtual in a simulation.
    pub fn now(&self) -> Time {
        self.core.wakes.now()
    }

    /// Waits for `duration`. A connection has at most [`Limits::sleeps_per_connection`](crate::Limits) sleeps at once; one more
    /// ends it as [`TaskFailed`](CloseReason::TaskFailed).
    ///
    /// With the connection its sleeps end: its own tasks are dropped then, and a task of another connection goes on at once, as it does if
    /// it begins to sleep on one that has ended.
    ///
    /// Cancel safe.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    /// Waits until `deadline`, as [`sleep`](Self::sleep) does.
    pub fn sleep_until(&self, deadline: Time) -> Sleep {
        Sleep::new(Arc::clone(&self.core.wakes), deadline)
    }

    /// Gives `future` so much time: [`Elapsed`](super::Elapsed) when it is over. The future is polled first, so that what is ready in time is never
    /// lost. It takes a [`sleep`](Self::sleep): for a task of another connection, the time is over when the connection has ended.
    ///
    /// Cancel safe if the future is.
    pub fn timeout<F: Future>(&self, duration: Duration, future: F) -> Timeout<F> {
        Timeout::new(self.sleep(duration), future)
    }

    /// Has `first` and `second` fetched into the processor's cache shortly before the tasks of this connection go on, from now on: what they
    /// begin with then, and have on the heap. (The future of the main task is fetched anyway.)
    ///
    /// A hint, for servers with many connections, where nothing of a connection is in the cache by the time that its next data comes: with
    /// 1,000 connections, HTTP/1 gained 2 to 4 %. At most the first KiB of each is fetched. What lies there is not looked at, so either may
    /// change, move or be dropped at any time; then the hint is worth nothing. The next call replaces it.
    pub fn fetch_ahead<A, B>(&self, first: &A, second: &B) {
        self.core.fetch_ahead(first, second);
    }

    /// The same time for what must be [`Send`].
    pub fn timer(&self) -> Timer {
        Timer::new(Arc::clone(&self.core.wakes))
    }

    /// Lets `future` run beside the main task. It ends with the connection at the latest: then it is polled once more, and dropped.
    ///
    /// # Errors
    /// [`SpawnRefused`] when the connection has as many as it may have ([`Limits::tasks_per_connection`](crate::Limits)).
    pub fn spawn_local<F>(&self, future: F) -> Result<JoinHandle<F::Output>, SpawnRefused>
    where
        F: Future + 'static,
    {
        spawn::spawn(&self.core.spawned, &self.core.wakes, future)
    }

    /// Has `work` done on a worker thread ([`Limits::offload_workers`](crate::Limits)), and waits for what it returns; for room too, if
    /// as many jobs are outstanding as may be. The results of a connection come in the order in which the jobs were taken.
    ///
    /// Cancel safe in that nothing leaks: dropped, it forgets the result. A job that was taken may be done all the same.
    ///
    /// # Errors
    /// [`OffloadError`] when the server has no workers, the task that asks is one of another connection, or the connection ends before the
    /// result is here. A job that panics ends the connection, as [`OffloadPanicked`](CloseReason::OffloadPanicked).
    pub async fn offload<T, F>(&self, work: F) -> Result<T, OffloadError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        offload::offload(Rc::clone(&self.core), work).await
    }

    /// Which I/O thread this is, from 0.
    pub fn io_thread(&self) -> usize {
        self.core.origin.io_thread()
    }

    /// A random number: from the seed in a simulation. Not for secrets.
    pub fn random(&self) -> u64 {
        self.core.random()
    }

    /// Waits until the connection has ended, and says why.
    ///
    /// Cancel safe.
    pub async fn closed(&self) -> CloseReason {
        let mut waiting = self.core.changes.waiting();
        poll_fn(|context| match self.core.ended.get() {
            Some(reason) => Poll::Ready(reason),
            None => {
                waiting.register(context.waker());
                Poll::Pending
            }
        })
        .await
    }

    /// Whether the server is draining: what is under way should be finished, and nothing new begun.
    pub fn is_draining(&self) -> bool {
        self.core.is_draining.get()
    }

    /// Waits until the server begins to drain ([`ServerHandle::drain`](crate::ServerHandle::drain)), or the connection has ended, which isn't
    /// told of it any more.
    ///
    /// Cancel safe.
    pub async fn draining(&self) {
        let mut waiting = self.core.changes.waiting();
        poll_fn(|context| {
            if self.core.is_draining.get() || self.core.ended.get().is_some() {
                return Poll::Ready(());
            }
            waiting.register(context.waker());
            Poll::Pending
        })
        .await;
    }

    /// While what is returned lives, draining doesn't close the connection as idle: for work that is under way while somebody
    /// waits for data.
    pub fn busy(&self) -> Busy {
        self.core.busy.set(self.core.busy.get() + 1);
        Busy { core: Rc::clone(&self.core) }
    }

    /// What other threads, and other connections, may hold of this connection.
    pub fn handle(&self) -> ConnectionHandle {
        self.core.wakes.handle(&self.core.mailbox)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Context").field("now", &self.now()).finish_non_exhaustive()
    }
}

/// Something is under way on a connection: see [`Context::busy`].
pub struct Busy {
    core: Rc<Core>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.core.busy.set(self.core.busy.get() - 1);
        if self.core.is_draining.get() && !self.core.view.is_lent() {
            // It is looked at again when it is called.
            self.core.wakes.call();
        }
    }
}

impl fmt::Debug for Busy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Busy").finish_non_exhaustive()
    }
}
