//! Where futures of hyper run.

use hyper::rt;
use tidegate::task;

/// A [`hyper::rt::Executor`] of tasks of a connection: what it is given runs on the connection's I/O thread, and ends with it. Nothing of it
/// needs to be `Send`. For hyper's client over HTTP/2, and for its server without the rest of this crate.
///
/// A connection has at most [`Limits::tasks_per_connection`](tidegate::Limits) such tasks. What is one too many is dropped.
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

impl<F> rt::Executor<F> for Executor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        if let Err(refused) = self.context.spawn_local(future) {
            tracing::warn!(%refused, "a future of hyper is dropped");
        }
    }
}
