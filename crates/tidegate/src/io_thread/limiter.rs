//! A limit of connections that listeners and clients share, also those of several servers.

use std::fmt;
use std::sync::RwLock;

use crate::engine::Waker;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Connections at once over all listeners and clients that have a clone of it, of one server or of several
/// ([`Listener::limiter`](crate::Listener::limiter), [`Client::limiter`](crate::Client::limiter)). It counts besides
/// [`Limits::max_connections`](crate::Limits::max_connections), from accept, or from when an I/O thread begins to connect, until release.
///
/// When it is full, listeners do as [`Limits::when_full`](crate::Limits::when_full) says, and a connect fails with
/// [`ConnectError::LimiterFull`](crate::ConnectError::LimiterFull). A listener that waits has taken up to 8 connections that it keeps
/// unserved; the others wait in the backlog. What is kept when the server drains is refused.
///
/// ```
/// use tidegate::{ConnectionLimiter, Listener};
///
/// let limiter = ConnectionLimiter::new(1_000);
/// let plain = Listener::tcp("127.0.0.1:7007".parse()?).limiter(&limiter);
/// let internal = Listener::tcp("127.0.0.1:7008".parse()?).limiter(&limiter);
/// assert_eq!((limiter.connections(), limiter.most()), (0, 1_000));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ConnectionLimiter {
    shared: Arc<Shared>,
}

struct Shared {
    most: u32,
    taken: AtomicU32,
    seats: [SeatShared; ConnectionLimiter::LISTENERS_MAX],
}

/// A place for a listener that waits for room.
#[derive(Default)]
struct SeatShared {
    is_taken: AtomicBool,
    waits: AtomicBool,
    /// Written only before the listener begins and after it has ended: so whoever wakes it never waits for this.
    waker: RwLock<Option<Waker>>,
}

impl ConnectionLimiter {
    /// The most listeners that can share a limiter at a time; [`bind`](crate::ServerBuilder::bind) refuses more.
    pub const LISTENERS_MAX: usize = 64;

    /// At most `most` connections at once.
    pub fn new(most: u32) -> Self {
        let seats = std::array::from_fn(|_| SeatShared::default());
        Self { shared: Arc::new(Shared { most, taken: AtomicU32::new(0), seats }) }
    }

    /// Connections that it counts now.
    pub fn connections(&self) -> u32 {
        self.shared.taken.load(Ordering::SeqCst)
    }

    /// The most there may be.
    pub fn most(&self) -> u32 {
        self.shared.most
    }

    /// Counts one more connection, if it may be.
    pub(crate) fn take(&self) -> bool {
        let more = |taken: u32| (taken < self.shared.most).then(|| taken + 1);
        self.shared.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// A connection is over: who waits for that is told.
    pub(crate) fn give_back(&self) {
        let before = self.shared.taken.fetch_sub(1, Ordering::SeqCst);
        debug_assert!(before > 0, "a connection that was not counted");
        for seat in &self.shared.seats {
            // Sequentially consistent with who first says that it waits and then looks again: one of the two sees the other.
            let waits = seat.waits.load(Ordering::SeqCst) && seat.waits.swap(false, Ordering::SeqCst);
            if waits && let Ok(waker) = seat.waker.try_read() {
                waker.as_ref().inspect(|waker| waker.wake());
            }
        }
    }

    /// A seat for a listener whose acceptor `waker` wakes; `None`: all are taken.
    pub(crate) fn sit(&self, waker: Waker) -> Option<Seat> {
        let free = |seat: &SeatShared| !seat.is_taken.swap(true, Ordering::AcqRel);
        let number = self.shared.seats.iter().position(free)?;
        if let Ok(mut place) = self.shared.seats[number].waker.write() {
            *place = Some(waker);
        }
        Some(Seat { limiter: self.clone(), number })
    }
}

impl fmt::Debug for ConnectionLimiter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (connections, most) = (self.connections(), self.most());
        formatter.debug_struct("ConnectionLimiter").field("connections", &connections).field("most", &most).finish()
    }
}

/// A listener's place at a limiter.
#[derive(Debug)]
pub(crate) struct Seat {
    pub limiter: ConnectionLimiter,
    number: usize,
}

impl Seat {
    /// The acceptor is to be woken when there may be room. Afterwards it must look once more.
    pub(crate) fn wait(&self) {
        self.limiter.shared.seats[self.number].waits.store(true, Ordering::SeqCst);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let seat = &self.limiter.shared.seats[self.number];
        seat.waits.store(false, Ordering::SeqCst);
        if let Ok(mut waker) = seat.waker.write() {
            *waker = None;
        }
        seat.is_taken.store(false, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_most_are_counted_and_who_waits_is_woken_once() {
        let limiter = ConnectionLimiter::new(2);
        let woken = std::sync::Arc::new(AtomicU32::new(0));
        let counter = std::sync::Arc::clone(&woken);
        let waker = Waker::new(std::sync::Arc::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        }));
        let seat = limiter.sit(waker).expect("a seat");
        assert_eq!([limiter.take(), limiter.take(), limiter.take()], [true, true, false]);
        seat.wait();
        limiter.give_back();
        limiter.give_back();
        assert_eq!((woken.load(Ordering::SeqCst), limiter.connections()), (1, 0));
    }

    #[test]
    fn seats_are_used_again() {
        let limiter = ConnectionLimiter::new(1);
        let sit = || limiter.sit(Waker::new(std::sync::Arc::new(|| {})));
        let mut seats: Vec<Seat> = (0..ConnectionLimiter::LISTENERS_MAX).filter_map(|_| sit()).collect();
        assert!(seats.len() == ConnectionLimiter::LISTENERS_MAX && sit().is_none());
        seats.pop();
        assert!(sit().is_some());
    }

    #[test]
    fn threads_together_never_count_more() {
        let limiter = ConnectionLimiter::new(3);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        if limiter.take() {
                            assert!((1..=3).contains(&limiter.connections()));
                            limiter.give_back();
                        }
                    }
                });
            }
        });
        assert_eq!(limiter.connections(), 0);
    }
}
