//! The threads that do offloaded jobs.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::io_thread::{OffloadPool, ServerShared};
use crate::sync::Arc;

/// The stack of a worker, in bytes: what a job may need of it is not known, so the ceiling has all of it.
pub(super) const WORKER_STACK_BYTES: usize = 1 << 20;

/// The workers of a server that runs. Dropped: they end.
pub(super) struct Workers {
    shared: Arc<ServerShared>,
    alive: std::sync::Arc<Alive>,
    /// How long those are waited for that are in the middle of something.
    patience: Duration,
}

#[derive(Default)]
struct Alive {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Alive {
    fn add(&self, change: isize) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count = count.saturating_add_signed(change);
        self.changed.notify_all();
    }
}

impl Workers {
    /// Starts the workers of the pool that the I/O threads share.
    ///
    /// # Errors
    /// What the system says if it has no more threads, with the number of the worker.
    pub(super) fn start(shared: &Arc<ServerShared>, patience: Duration) -> Result<Self, (usize, io::Error)> {
        let workers = Self { shared: Arc::clone(shared), alive: std::sync::Arc::default(), patience };
        for number in 0..shared.pool.workers() {
            let (pool, alive) = (Arc::clone(&shared.pool), std::sync::Arc::clone(&workers.alive));
            alive.add(1);
            let body = move || {
                work_on(&pool, number);
                alive.add(-1);
            };
            let builder = thread::Builder::new().name(format!("tidegate-work-{number}"));
            if let Err(error) = builder.stack_size(WORKER_STACK_BYTES).spawn(body) {
                workers.alive.add(-1);
                return Err((number, error));
            }
        }
        Ok(workers)
    }
}

/// A worker goes on whatever happens: panics of jobs are caught where they run, so this is for what nobody thought of.
fn work_on(pool: &OffloadPool, number: usize) {
    while catch_unwind(AssertUnwindSafe(|| pool.work(number))).is_err() {
        tracing::error!(worker = number, "a worker panicked: this is a bug in Tidegate; it goes on");
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.pool.close();
        let count = self.alive.count.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = self.alive.changed.wait_timeout_while(count, self.patience, |count| *count > 0);
        let (count, _) = ended.unwrap_or_else(PoisonError::into_inner);
        if *count > 0 {
            tracing::warn!(
                jobs = *count,
                "the server has ended, but jobs still run that were offloaded: their threads end when they return"
            );
        }
        drop(count);
        self.shared.pool.clear();
        self.shared.threads.iter().for_each(|thread| thread.clear_finished());
    }
}
