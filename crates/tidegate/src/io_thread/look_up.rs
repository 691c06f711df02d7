//! Looking up the names of hosts, on threads of its own.
//!
//! The system's look-up (`getaddrinfo`) blocks, can't be cancelled and has no limit of time, so no I/O thread makes one: it puts a
//! [`Question`] into a bounded queue and goes on. A worker answers it into a queue at home that has a place for every look-up that may be
//! outstanding, so an answer is never lost and no worker waits for an I/O thread. A look-up has its [`Place`] until its answer has come and
//! its addresses are of no use any more: one that is stuck keeps its place, however long that takes, and nobody waits for it longer than
//! his own limit of time says.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::shared::ThreadShared;
use super::swallow;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The most addresses of a name that are tried. A name with more is one of a service that has many hosts for each address that is out of order: whoever
/// has not been let in by eight of them would hardly be by the ninth, and time is shared among those that are left.
pub(crate) const ADDRESSES_MAX: usize = 8;

/// The longest name, in bytes: 253 characters are what the DNS can carry (RFC 1035, section 2.3.4: 255 octets with lengths and root).
pub(crate) const NAME_BYTES_MAX: usize = 253;

/// What a look-up takes while it is outstanding, in bytes: its places in the queues there and back, its name and its addresses.
pub(crate) const LOOK_UP_BYTES: usize =
    2 * (size_of::<Question>() + size_of::<Answer>()) + NAME_BYTES_MAX + ADDRESSES_MAX * size_of::<SocketAddr>();

/// What finds the addresses of a name.
pub(crate) type Resolver = std::sync::Arc<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// A name that is to be looked up.
pub(crate) struct Question {
    pub name: std::sync::Arc<str>,
    pub port: u16,
    /// Who finds it, if not the system.
    pub resolver: Option<Resolver>,
    /// Its number on its I/O thread.
    pub number: u32,
    /// Set when nobody waits for it any more.
    pub is_abandoned: Arc<AtomicBool>,
    pub home: Arc<ThreadShared>,
}

/// What came of a look-up.
pub(crate) struct Answer {
    pub number: u32,
    pub result: io::Result<Vec<SocketAddr>>,
}

impl Question {
    /// Looks the name up, with its own resolver or else by `system`, and sends the answer home. A panic ends here.
    pub(crate) fn answer(self, system: impl FnOnce(&str, u16) -> io::Result<Vec<SocketAddr>>) {
        let result = match (self.is_abandoned.load(Ordering::Acquire), &self.resolver) {
            // The answer is for the place alone.
            (true, _) => Err(io::Error::from(io::ErrorKind::TimedOut)),
            (false, Some(resolver)) => quietly(|| resolver(&self.name, self.port)),
            (false, None) => quietly(|| system(&self.name, self.port)),
        };
        let result = result.map(|mut addresses| {
            addresses.truncate(ADDRESSES_MAX);
            // A resolver may have found thousands: the place pays for no more than these.
            addresses.shrink_to_fit();
            addresses
        });
        if self.home.answers.push(Answer { number: self.number, result }).is_err() {
            // Can't be: there is a place for each that is outstanding.
            debug_assert!(false, "no place for an answer");
            tracing::error!("no place for the answer of a look-up");
        }
        self.home.waker.wake();
    }
}

fn quietly(look_up: impl FnOnce() -> io::Result<Vec<SocketAddr>>) -> io::Result<Vec<SocketAddr>> {
    catch_unwind(AssertUnwindSafe(look_up)).unwrap_or_else(|panic| {
        swallow(panic, "a look-up of a name panicked");
        Err(io::Error::other("the resolver panicked"))
    })
}

/// Look-ups that wait for a worker.
pub(crate) struct LookUps {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    /// Those that have a place.
    outstanding: AtomicU32,
    limit: u32,
    workers: u32,
}

#[derive(Default)]
struct Waiting {
    questions: VecDeque<Question>,
    is_closed: bool,
}

impl LookUps {
    /// For at most `limit` outstanding, with so many workers.
    pub(crate) fn new(limit: u32, workers: u32) -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::default(),
            changed: Condvar::new(),
            outstanding: AtomicU32::new(0),
            limit,
            workers,
        })
    }

    /// How many workers there are to be.
    pub(crate) fn workers(&self) -> u32 {
        self.workers
    }

    /// How many may be outstanding.
    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, if there is one.
    pub(super) fn take_place(look_ups: &Arc<Self>) -> Option<Arc<Place>> {
        let more = |outstanding| (outstanding < look_ups.limit).then_some(outstanding + 1);
        let taken = look_ups.outstanding.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        taken.is_ok().then(|| Arc::new(Place { look_ups: Arc::clone(look_ups) }))
    }

    /// How many places are taken.
    pub(crate) fn outstanding(&self) -> u32 {
        self.outstanding.load(Ordering::Acquire)
    }

    /// Puts in a question that has a place.
    pub(super) fn ask(&self, question: Question) {
        self.waiting().questions.push_back(question);
        self.changed.notify_one();
    }

    /// The question that has waited longest.
    pub(crate) fn next(&self) -> Option<Question> {
        self.waiting().questions.pop_front()
    }

    /// What a worker does, until the server is over.
    pub(crate) fn work(&self) {
        loop {
            let waiting = self.waiting();
            let idle = |waiting: &mut Waiting| waiting.questions.is_empty() && !waiting.is_closed;
            let mut waiting = self.changed.wait_while(waiting, idle).unwrap_or_else(PoisonError::into_inner);
            if waiting.is_closed {
                return;
            }
            let Some(question) = waiting.questions.pop_front() else { continue };
            drop(waiting);
            question.answer(ask_the_system);
        }
    }

    /// Lets the workers end, and drops what has not begun.
    pub(crate) fn close(&self) {
        let questions = {
            let mut waiting = self.waiting();
            waiting.is_closed = true;
            std::mem::take(&mut waiting.questions)
        };
        self.changed.notify_all();
        // They hold what holds this.
        drop(questions);
    }
}

/// The place of a look-up, which pays for its name and its addresses. Dropped: it is free.
pub(crate) struct Place {
    look_ups: Arc<LookUps>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.look_ups.outstanding.fetch_sub(1, Ordering::AcqRel);
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Place")
    }
}

/// The addresses of a name, as the system knows them: from its files, its caches, the DNS.
fn ask_the_system(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    (name, port).to_socket_addrs().map(|addresses| addresses.take(ADDRESSES_MAX).collect())
}
