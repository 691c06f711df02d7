//! What wakes the tasks of a connection, from any thread.
//!
//! Each task has a bit that says that it is to be polled. A waker sets it and lets the I/O thread call the connection: through the word that
//! each connection slot has for requests of other threads, so that a wake needs no memory and can't be refused, and one for a connection
//! that is over does nothing. A task that is woken while its connection is polled needs no call: whoever polls looks at the bits again.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Wake;

use super::sleeps::Sleeps;
use crate::io_thread::{ConnectionKey, Request, ThreadShared};
use crate::surface::ConnectionHandle;
use crate::surface::handle::Mailbox;
use crate::time::Time;

/// The part of a connection with tasks that other threads may touch. As a waker, that of its main task.
pub(super) struct Wakes {
    key: ConnectionKey,
    thread: crate::sync::Arc<ThreadShared>,
    /// Tells the thread that it lives on from others.
    home: usize,
    /// Its tasks are being polled: for its own thread only.
    is_polled: AtomicBool,
    /// The main task is to be polled.
    main: AtomicBool,
    /// Spawned tasks that are to be polled, a bit each, from the first that is spawned on.
    spawned: OnceLock<Box<[AtomicU64]>>,
    sleeps: Mutex<Sleeps>,
    /// The sleeps want the timer set, or there are too many of them.
    sleeps_changed: AtomicBool,
}

thread_local! {
    /// Its address tells threads apart.
    static HERE: u8 = const { 0 };
}

/// A number that no other thread has which runs at the same time.
fn here() -> usize {
    HERE.with(|here| std::ptr::from_ref(here) as usize)
}

impl Wakes {
    /// For a connection of this thread.
    pub(super) fn new(key: ConnectionKey, thread: crate::sync::Arc<ThreadShared>, sleeps: usize) -> Arc<Self> {
        Arc::new(Self {
            key,
            thread,
            home: here(),
            is_polled: AtomicBool::new(false),
            main: AtomicBool::new(true),
            spawned: OnceLock::new(),
            sleeps: Mutex::new(Sleeps::new(sleeps)),
            sleeps_changed: AtomicBool::new(false),
        })
    }

    /// Polling begins, or ends: until then no wake of this thread needs a call.
    pub(super) fn set_polled(&self, is_polled: bool) {
        self.is_polled.store(is_polled, Ordering::Relaxed);
    }

    /// That of the thread: whoever polls what is of this connection, all tasks of the thread agree about it.
    pub(super) fn now(&self) -> Time {
        self.thread.now()
    }

    pub(super) fn sleeps(&self) -> MutexGuard<'_, Sleeps> {
        self.sleeps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets those go on whose time has come.
    pub(super) fn end_sleeps_until(&self, now: Time) {
        while let Some(waker) = { self.sleeps().next_due(now) } {
            waker.wake();
        }
    }

    /// The connection is over: lets everybody go on who sleeps on it, and whoever will.
    pub(super) fn end_all_sleeps(&self) {
        self.sleeps().is_over = true;
        self.end_sleeps_until(Time::MAX);
    }

    /// The timer is to be looked at; a call follows.
    pub(super) fn sleeps_change(&self) {
        self.sleeps_changed.store(true, Ordering::Relaxed);
    }

    /// Whether it is; it no longer is then.
    pub(super) fn take_sleeps_changed(&self) -> bool {
        // Relaxed: what another thread has changed comes with a call, which brings this along. The look before it spares most calls the
        // exchange.
        self.sleeps_changed.load(Ordering::Relaxed) && self.sleeps_changed.swap(false, Ordering::Relaxed)
    }

    /// Lets the I/O thread call the connection, unless it is doing so.
    pub(super) fn call(&self) {
        if here() != self.home {
            self.thread.request(self.key, Request::Wake);
        } else if !self.is_polled.load(Ordering::Relaxed) {
            self.thread.request_here(self.key, Request::Wake);
        }
    }

    pub(super) fn handle(&self, mailbox: &crate::sync::Arc<Mailbox<Infallible>>) -> ConnectionHandle {
        ConnectionHandle::new(self.key, crate::sync::Arc::clone(&self.thread), crate::sync::Arc::clone(mailbox))
    }

    /// Whether the main task is to be polled; it no longer is then.
    pub(super) fn take_main(&self) -> bool {
        // Acquire: what the waker did before is visible to the task. The look before it spares most calls the exchange.
        self.main.load(Ordering::Relaxed) && self.main.swap(false, Ordering::Acquire)
    }

    /// There may be as many as `limit` spawned tasks from now on.
    pub(super) fn have_spawned(&self, limit: u32) {
        self.spawned.get_or_init(|| (0..limit.div_ceil(u64::BITS)).map(|_| AtomicU64::new(0)).collect());
    }

    /// The next spawned task that is to be polled, from number `from` on; it no longer is then.
    pub(super) fn take_spawned(&self, from: u32) -> Option<u32> {
        let words = self.spawned.get()?;
        let (first, offset) = ((from / u64::BITS) as usize, from % u64::BITS);
        let mut mask = u64::MAX << offset;
        for (number, word) in words.iter().enumerate().skip(first) {
            let bits = word.load(Ordering::Relaxed) & mask;
            if bits != 0 {
                let bit = bits.trailing_zeros();
                // Acquire: as for the main task.
                word.fetch_and(!(1 << bit), Ordering::Acquire);
                return Some(number as u32 * u64::BITS + bit);
            }
            mask = u64::MAX;
        }
        None
    }

    /// Whether some task is to be polled.
    pub(super) fn has_ready(&self) -> bool {
        let spawned = self.spawned.get().into_iter().flatten();
        self.main.load(Ordering::Relaxed) || spawned.into_iter().any(|word| word.load(Ordering::Relaxed) != 0)
    }

    pub(super) fn make_ready(&self, spawned: u32) -> bool {
        let (number, bit) = ((spawned / u64::BITS) as usize, 1 << (spawned % u64::BITS));
        let word = self.spawned.get().and_then(|words| words.get(number));
        // Release: the task sees what was done before its wake.
        word.is_some_and(|word| word.fetch_or(bit, Ordering::AcqRel) & bit == 0)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Release: the task sees what was done before its wake. Who finds it set knows that a call is on its way.
        if !self.main.swap(true, Ordering::AcqRel) {
            self.call();
        }
    }
}

/// The waker of a spawned task.
pub(super) struct SpawnedWake {
    pub(super) wakes: Arc<Wakes>,
    pub(super) number: u32,
}

impl Wake for SpawnedWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.wakes.make_ready(self.number) {
            self.wakes.call();
        }
    }
}
