//! Connecting from within a task.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use super::{Connection, Context, Error, ThreadBound};
use crate::io_thread::{ConnectError, ConnectFailed, Target};
use crate::surface::{self, Client, ConnectRefusal, ServerBuilder};

/// Makes connections for tasks: from any task of its server, on the I/O thread of that task. Clones make connections of the same
/// [`Client`].
#[derive(Clone)]
pub struct Connector {
    connector: surface::Connector,
    waiting: Arc<Waiting>,
}

/// Why a connection was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotConnected {
    /// The request was not taken.
    #[error(transparent)]
    Refused(#[from] ConnectRefusal),
    /// It failed.
    #[error(transparent)]
    Failed(#[from] ConnectError),
}

/// Tasks that wait for a connection, by the tags of their requests. As many as requests may wait and connections may be.
#[derive(Default)]
struct Waiting {
    next: AtomicU64,
    places: Mutex<BTreeMap<u64, Place>>,
}

struct Place {
    outcome: Option<Result<ThreadBound<Connection>, ConnectError>>,
    waker: Option<Waker>,
}

impl Waiting {
    fn places(&self) -> MutexGuard<'_, BTreeMap<u64, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The outcome of a request; dropped if nobody waits for it any more.
    fn settle(&self, tag: u64, outcome: Result<ThreadBound<Connection>, ConnectError>) {
        let mut places = self.places();
        let Some(place) = places.get_mut(&tag) else {
            drop(places);
            return drop(outcome);
        };
        place.outcome = Some(outcome);
        let waker = place.waker.take();
        drop(places);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A request, which is nobody's when this is dropped.
struct Asked<'a> {
    waiting: &'a Waiting,
    tag: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let place = self.waiting.places().remove(&self.tag);
        // A connection that came too late ends here, with nothing locked.
        drop(place);
    }
}

impl Connector {
    /// Describes `client` to `builder`.
    pub(in crate::surface) fn add(builder: ServerBuilder, client: Client) -> (ServerBuilder, Self) {
        let waiting = Arc::<Waiting>::default();
        let (made, failed) = (Arc::clone(&waiting), Arc::clone(&waiting));
        let client =
            client.also_on_failed(move |failure: &ConnectFailed| failed.settle(failure.tag, Err(failure.error)));
        let (builder, connector) = builder.client_async(client, move |connection| {
            if let Some(tag) = connection.connected().map(|connected| connected.tag) {
                made.settle(tag, Ok(ThreadBound::new(connection)));
            }
            // The connection goes on with whoever has it, or ends in order if nobody does.
            std::future::ready(Ok::<(), Error>(()))
        });
        (builder, Self { connector, waiting })
    }

    /// Connects to `target`, on the I/O thread of `context`, which is that of the task that asks. The tag of the target is not
    /// used.
    ///
    /// The connection that is returned has no task of its own: it is used by the task that asked for it, and ends when it is dropped. What
    /// is sent on it then goes out by way of its own turn in the loop, one message at a time, and [`Sender::send_now`](super::Sender::send_now)
    /// refuses while one waits.
    ///
    /// Cancel safe: dropped before it is ready, it leaves no connection behind.
    ///
    /// # Errors
    /// [`NotConnected`], with the reason and its numbers.
    pub async fn connect(&self, context: &Context, target: Target) -> Result<Connection, NotConnected> {
        let tag = self.waiting.next.fetch_add(1, Ordering::Relaxed);
        let asked = Asked { waiting: &self.waiting, tag };
        self.waiting.places().insert(tag, Place { outcome: None, waker: None });
        let target = target.tag(tag).on_thread(context.io_thread());
        self.connector.connect(target).map_err(|refused| refused.reason)?;
        poll_fn(|polling| {
            let mut places = self.waiting.places();
            let Some(place) = places.get_mut(&asked.tag) else { return Poll::Pending };
            let outcome = place.outcome.take();
            let before = place.waker.replace(polling.waker().clone());
            drop(places);
            drop(before);
            match outcome {
                None => Poll::Pending,
                Some(Err(error)) => Poll::Ready(Err(error.into())),
                // Made on the thread that it was asked for, which is this one.
                Some(Ok(connection)) => match connection.into_inner() {
                    Ok(connection) => Poll::Ready(Ok(connection)),
                    Err(_) => Poll::Ready(Err(NotConnected::Refused(ConnectRefusal::ServerOver))),
                },
            }
        })
        .await
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connector").field("connector", &self.connector).finish_non_exhaustive()
    }
}
