//! Work that tasks have done on other threads.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::core::Core;
use crate::connection::CloseReason;
use crate::io_thread::{OffloadRefusal, Work};

/// Why a job was not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OffloadError {
    /// The server has no workers.
    #[error("the server has no workers: set Limits::offload_workers to how many it shall have")]
    NoWorkers,
    /// The connection has ended, or is ending.
    #[error("the connection has ended: {0}")]
    Closed(CloseReason),
    /// The connection is not one of the task that asks: only a connection's own tasks may have work done for it.
    #[error("a task can't offload for the connection of another: offload by its own connection, or spawn a task there")]
    OutOfReach,
}

/// Those who wait for the results of jobs, in the order in which the jobs were submitted: results come in it.
pub(super) type Expecting = RefCell<VecDeque<Rc<dyn Expects>>>;

/// Somebody who waits for a result.
pub(super) trait Expects {
    /// Takes it.
    fn arrive(&self, result: &mut dyn Any);
    /// There will be none.
    fn give_up(&self);
}

/// The place of a result.
struct Expected<T> {
    result: Cell<Option<T>>,
    is_over: Cell<bool>,
    /// `None` also when nobody waits any more.
    waker: Cell<Option<Waker>>,
    is_forgotten: Cell<bool>,
}

impl<T: 'static> Expects for Expected<T> {
    fn arrive(&self, result: &mut dyn Any) {
        if !self.is_forgotten.get() {
            self.result.set(result.downcast_mut::<Option<T>>().and_then(Option::take));
        }
        self.give_up();
    }

    fn give_up(&self) {
        self.is_over.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A job on its way: first what is to be done, then what has come of it.
struct Job<F, T> {
    work: Option<F>,
    result: Option<T>,
}

impl<F: FnOnce() -> T + Send, T: Send + 'static> Work for Job<F, T> {
    fn run(&mut self) {
        self.result = self.work.take().map(|work| work());
    }

    fn result(&mut self) -> &mut dyn Any {
        &mut self.result
    }
}

/// Forgets a result if nobody waits for it any more.
struct Forgets<T>(Rc<Expected<T>>);

impl<T> Drop for Forgets<T> {
    fn drop(&mut self) {
        self.0.is_forgotten.set(true);
        drop((self.0.result.take(), self.0.waker.take()));
    }
}

/// Has `work` done elsewhere.
pub(super) async fn offload<F, T>(core: Rc<Core>, work: F) -> Result<T, OffloadError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let mut work = Some(work);
    let mut room = core.changes.waiting();
    let expected = std::future::poll_fn(|context| {
        let submitted = core.with(|view| match view.may_offload() {
            Ok(()) => {
                view.offload(Box::new(Job { work: work.take(), result: None::<T> }), true);
                Ok(())
            }
            Err(why) => Err(why),
        });
        match submitted {
            Some(Ok(())) => {
                let expected = Rc::new(Expected {
                    result: Cell::new(None),
                    is_over: Cell::new(false),
                    waker: Cell::new(None),
                    is_forgotten: Cell::new(false),
                });
                core.expecting.borrow_mut().push_back(Rc::clone(&expected) as Rc<dyn Expects>);
                Poll::Ready(Ok(Forgets(expected)))
            }
            Some(Err(OffloadRefusal::NoWorkers)) => Poll::Ready(Err(OffloadError::NoWorkers)),
            Some(Err(OffloadRefusal::ConnectionFull { .. } | OffloadRefusal::ThreadFull { .. })) => {
                room.register(context.waker());
                Poll::Pending
            }
            Some(Err(OffloadRefusal::Closing)) => Poll::Ready(Err(OffloadError::Closed(core.reason()))),
            None => match core.ending() {
                Some(reason) => Poll::Ready(Err(OffloadError::Closed(reason))),
                None => Poll::Ready(Err(OffloadError::OutOfReach)),
            },
        }
    })
    .await?;
    std::future::poll_fn(|context| {
        let expected = &expected.0;
        match expected.result.take() {
            Some(result) => Poll::Ready(Ok(result)),
            None if expected.is_over.get() => Poll::Ready(Err(OffloadError::Closed(core.reason()))),
            None => {
                expected.waker.set(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    })
    .await
}
