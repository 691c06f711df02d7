//! The threads that do offloaded jobs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::io_thread::{LookUps, OffloadPool, ServerShared};
use crate::surface::RunError;
use crate::sync::Arc;

/// The stack of a worker, in bytes: what a job may need of it is not known, so the ceiling has all of it.
pub(super) const WORKER_STACK_BYTES: usize = 1 << 20;

/// The stack of a thread that looks up names, in bytes: the system's look-up keeps answers of up to 64 KiB on it.
pub(super) const LOOK_UP_STACK_BYTES: usize = 256 << 10;

/// The workers of a server that runs. Dropped: they end, but for look-ups of names that are under way, whose threads end when those do.
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
    /// Starts the workers of the pool that the I/O threads share, and those that look up names, if there is anything to connect to.
    ///
    /// # Errors
    /// What the system says if it has no more threads, with the number of the worker.
    pub(super) fn start(shared: &Arc<ServerShared>, patience: Duration, look_ups: bool) -> Result<Self, RunError> {
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
                return Err(RunError::StartWorker { worker: number, source: error });
            }
        }
        if look_ups {
            start_look_ups(&shared.look_ups)?;
        }
        Ok(workers)
    }
}

/// Starts the threads that look up names. Nobody waits for them in the end: a look-up can't be cancelled.
fn start_look_ups(look_ups: &Arc<LookUps>) -> Result<(), RunError> {
    for thread in 0..look_ups.workers() {
        let look_ups = Arc::clone(look_ups);
        let builder = thread::Builder::new().name(format!("tidegate-names-{thread}"));
        let started = builder.stack_size(LOOK_UP_STACK_BYTES).spawn(move || look_ups.work());
        started.map_err(|source| RunError::StartLookUps { thread, source })?;
    }
    Ok(())
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
        self.shared.look_ups.close();
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
