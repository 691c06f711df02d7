//! Where the requests of an HTTP/2 connection run.

use hyper::rt;
use tidegate::task;

use crate::current;

/// The [`hyper::rt::Executor`] of a connection: what it is given runs as a task of the connection, on its I/O thread, and ends with it.
/// Nothing of it needs to be `Send`.
///
/// A connection has at most [`Limits::tasks_per_connection`](tidegate::Limits) such tasks. What is one too many is dropped, which resets
/// its stream.
#[derive(Clone, Debug)]
pub struct Executor {
    context: task::Context,
}

impl Executor {
    /// That of the connection of `context`.
    pub fn new(context: &task::Context) -> Self {
        Self { context: context.clone() }
    }
}

impl<F: Future<Output = ()> + 'static> rt::Executor<F> for Executor {
    fn execute(&self, future: F) {
        let future = current::Entered::new(self.context.clone(), future);
        if let Err(refused) = self.context.spawn_local(future) {
            tracing::debug!(%refused, "a request is dropped");
        }
    }
}
