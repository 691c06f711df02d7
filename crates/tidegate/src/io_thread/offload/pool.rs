//! The pool: jobs on their way to workers, and back.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::thread::{self, Thread};

use crossbeam_queue::ArrayQueue;

use crate::io_thread::shared::{ConnectionKey, ThreadShared};
use crate::io_thread::swallow;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering, fence};

/// What is to be done, and what has come of it, behind a face without types.
pub(crate) trait Work: Send {
    /// Does it, once.
    fn run(&mut self);
    /// The place of the result: an `Option` of the type that the table of the handler knows.
    fn result(&mut self) -> &mut dyn Any;
}

/// Work that waits for a worker.
pub(crate) struct Job {
    ticket: Ticket,
    work: Box<dyn Work>,
}

/// Whose job it is, and the way home.
struct Ticket {
    home: Arc<ThreadShared>,
    connection: ConnectionKey,
    /// Its place among the results of the connection; `None`: as soon as it is done.
    order: Option<u64>,
    /// Set when nobody waits for the result any more.
    is_abandoned: Arc<AtomicBool>,
}

/// What became of a job.
pub(crate) enum Outcome {
    /// The result is in it.
    Done(Box<dyn Work>),
    /// It panicked.
    Panicked,
    /// Nobody waited for it any more when its turn came: it was not begun.
    Cancelled,
}

/// A job that has come home.
pub(crate) struct Finished {
    pub connection: ConnectionKey,
    pub order: Option<u64>,
    pub outcome: Outcome,
}

/// A job that has begun.
pub(crate) struct RunningJob(Job);

impl Job {
    pub(super) fn new(
        home: Arc<ThreadShared>,
        connection: ConnectionKey,
        order: Option<u64>,
        is_abandoned: Arc<AtomicBool>,
        work: Box<dyn Work>,
    ) -> Self {
        Self { ticket: Ticket { home, connection, order, is_abandoned }, work }
    }

    /// Begins, unless nobody waits for the result any more: then what it would have worked with is dropped here.
    pub(crate) fn begin(self) -> Option<RunningJob> {
        if !self.ticket.is_abandoned.load(Ordering::Acquire) {
            return Some(RunningJob(self));
        }
        drop_quietly(self.work);
        self.ticket.send_home(Outcome::Cancelled);
        None
    }
}

impl RunningJob {
    /// Does the work and sends the result home. A panic of the work ends here.
    pub(crate) fn run(self) {
        let Job { ticket, mut work } = self.0;
        let outcome = match catch_unwind(AssertUnwindSafe(|| work.run())) {
            Ok(()) => Outcome::Done(work),
            Err(panic) => {
                swallow(panic, "an offloaded job panicked: its connection is closed");
                drop_quietly(work);
                Outcome::Panicked
            }
        };
        ticket.send_home(outcome);
    }
}

impl Ticket {
    fn send_home(self, outcome: Outcome) {
        let Self { home, connection, order, .. } = self;
        if home.finished.push(Finished { connection, order, outcome }).is_err() {
            // Can't be: a place was reserved when the job was submitted.
            debug_assert!(false, "no place for a result of {connection:?}");
            tracing::error!("no place for the result of an offloaded job");
        }
        home.waker.wake();
    }
}

/// Drops what belongs to a handler, which may panic.
pub(super) fn drop_quietly<T>(what: T) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(what))) {
        swallow(panic, "an offloaded job panicked when it was dropped");
    }
}

/// Jobs that wait for a worker, and the workers.
pub(crate) struct OffloadPool {
    jobs: ArrayQueue<Job>,
    workers: Box<[Worker]>,
    is_closed: AtomicBool,
}

/// What others know of a worker.
#[derive(Default)]
struct Worker {
    thread: OnceLock<Thread>,
    /// It sleeps, or is about to: whoever clears this must wake it.
    sleeps: AtomicBool,
}

impl OffloadPool {
    /// For so many workers, with a place for every job that may be outstanding.
    pub(crate) fn new(workers: u32, jobs: usize) -> Arc<Self> {
        Arc::new(Self {
            jobs: ArrayQueue::new(if workers == 0 { 1 } else { jobs.max(1) }),
            workers: (0..workers).map(|_| Worker::default()).collect(),
            is_closed: AtomicBool::new(false),
        })
    }

    /// How many workers there are.
    pub(crate) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// How many jobs wait.
    pub(crate) fn waiting(&self) -> usize {
        self.jobs.len()
    }

    /// Puts a job in. Its place is reserved. Workers are woken by [`wake`](Self::wake).
    pub(super) fn submit(&self, job: Job) {
        if let Err(job) = self.jobs.push(job) {
            debug_assert!(false, "no place for a job that was counted");
            drop_quietly(job.work);
        }
    }

    /// The job that has waited longest.
    pub(crate) fn take(&self) -> Option<Job> {
        self.jobs.pop()
    }

    /// Wakes as many workers as there are new jobs, if so many sleep.
    pub(super) fn wake(&self, jobs: u32) {
        // A worker says that it sleeps and then looks for jobs once more; here it is the other way round. One of the two sees the other.
        fence(Ordering::SeqCst);
        let sleeping = self.workers.iter().filter(|worker| worker.sleeps.load(Ordering::Relaxed));
        for worker in sleeping.filter(|worker| worker.sleeps.swap(false, Ordering::AcqRel)).take(jobs as usize) {
            worker.wake();
        }
    }

    /// What worker `number` does on its thread, until the pool is closed.
    pub(crate) fn work(&self, number: usize) {
        let worker = &self.workers[number];
        // A worker has one thread.
        let _ = worker.thread.set(thread::current());
        while !self.is_closed.load(Ordering::Acquire) {
            if let Some(job) = self.take() {
                if let Some(running) = job.begin() {
                    running.run();
                }
                continue;
            }
            worker.sleeps.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            while self.jobs.is_empty()
                && !self.is_closed.load(Ordering::Acquire)
                && worker.sleeps.load(Ordering::Acquire)
            {
                thread::park();
            }
            worker.sleeps.store(false, Ordering::Relaxed);
        }
    }

    /// Lets the workers end: what has not begun will not.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.workers.iter().for_each(Worker::wake);
    }

    /// Drops what has not begun. Jobs may hold what holds the pool, so this is not left to its drop.
    pub(crate) fn clear(&self) {
        while let Some(job) = self.take() {
            drop_quietly(job.work);
        }
    }
}

impl Worker {
    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

impl ThreadShared {
    /// Drops results that nobody takes home any more.
    pub(crate) fn clear_finished(&self) {
        while let Some(finished) = self.finished.pop() {
            drop_quietly(finished.outcome);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::engine::Waker;

    struct Say(mpsc::Sender<u32>, u32, Option<u32>);

    impl Work for Say {
        fn run(&mut self) {
            self.0.send(self.1).expect("the test listens");
            assert!(self.1 != 3, "three is too many");
            self.2 = Some(self.1);
        }

        fn result(&mut self) -> &mut dyn Any {
            &mut self.2
        }
    }

    #[test]
    fn workers_sleep_wake_do_every_job_survive_a_panic_and_end() {
        const JOBS: u32 = 500;
        let pool = OffloadPool::new(3, JOBS as usize);
        let home = ThreadShared::new(Waker::new(std::sync::Arc::new(|| {})), 1, 1, 1, JOBS as usize, 1);
        let (say, said) = mpsc::channel();
        thread::scope(|scope| {
            for number in 0..pool.workers() {
                let pool = &pool;
                scope.spawn(move || pool.work(number));
            }
            let mut all = Vec::new();
            for number in 0..JOBS {
                let work = Box::new(Say(say.clone(), number, None));
                let key = ConnectionKey { slot: 0, generation: 1 };
                pool.submit(Job::new(Arc::clone(&home), key, None, Arc::new(AtomicBool::new(false)), work));
                pool.wake(1);
                if number % 7 == 0 {
                    // Let them fall asleep now and then: all that was submitted is done before there is more.
                    while all.len() <= number as usize {
                        all.push(said.recv_timeout(Duration::from_secs(20)).expect("a worker wakes up"));
                    }
                }
            }
            while all.len() < JOBS as usize {
                all.push(said.recv_timeout(Duration::from_secs(20)).expect("a worker wakes up"));
            }
            pool.close();
            all.sort_unstable();
            assert_eq!(all, (0..JOBS).collect::<Vec<_>>());
        });
        let mut panicked = 0;
        while let Some(finished) = home.finished.pop() {
            panicked += u32::from(matches!(finished.outcome, Outcome::Panicked));
        }
        assert_eq!(panicked, 1);
    }
}
