//! Who tells what has become ready: epoll on Linux, the `polling` crate elsewhere.
//!
//! Both are edge-triggered: each socket is registered once, for both directions, and every change is told once. What was told is kept
//! with the socket until a call finds it used up.

use std::io;
use std::num::NonZeroUsize;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use polling::{Events, PollMode, Poller};

#[cfg(target_os = "linux")]
use super::epoll::{Epoll, EventCounter};
use crate::engine::SocketId;

/// What an event belongs to: the index of a socket with its generation, so that an event that comes late is told from one of the next
/// user of the place; or the number of a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key(pub usize);

/// What a key stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// A place and the generation of its user, as many bits as the key has.
    Socket { index: u32, generation: u32 },
    /// A listener.
    Listener(u32),
    /// The waker.
    Waker,
}

/// The bits of an index in a key; one is for telling sockets from others, and the rest for the generation.
const INDEX_BITS: u32 = if usize::BITS >= 64 { 32 } else { 24 };
const OTHER: usize = 1 << (usize::BITS - 1);
const INDEX_MASK: usize = (1 << INDEX_BITS) - 1;
const GENERATION_MASK: u32 = (1_u64 << (usize::BITS - INDEX_BITS - 1)).wrapping_sub(1) as u32;
/// Not a listener's number: there are fewer.
const WAKER: Key = Key(OTHER | (INDEX_MASK - 1));

impl Key {
    /// The most places that keys can tell apart.
    pub(super) const SOCKETS_MAX: u64 = 1 << INDEX_BITS;

    pub(super) fn of_socket(id: SocketId) -> Self {
        Self(((id.generation & GENERATION_MASK) as usize) << INDEX_BITS | id.index as usize)
    }

    pub(super) fn of_listener(number: u32) -> Self {
        Self(OTHER | number as usize)
    }

    pub(super) fn source(self) -> Source {
        let index = (self.0 & INDEX_MASK) as u32;
        if self.0 & OTHER == 0 {
            Source::Socket { index, generation: (self.0 >> INDEX_BITS) as u32 }
        } else if self == WAKER {
            Source::Waker
        } else {
            Source::Listener(index)
        }
    }

    /// Whether the generation of a key is that of a user.
    pub(super) fn is_generation(part: u32, generation: u32) -> bool {
        part == generation & GENERATION_MASK
    }
}

/// A change that was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Event {
    pub key: Key,
    /// There is something to read: data, the end, an error.
    pub readable: bool,
    /// There is room to write, or writing fails.
    pub writable: bool,
    /// A receive that brings less than there was room for doesn't mean that nothing is left: the end may follow, and is not told again.
    pub to_the_end: bool,
}

/// Tells what has become ready.
pub(super) struct Selector {
    kind: Selecting,
    /// The most events of one wait.
    batch: usize,
    full: bool,
}

enum Selecting {
    #[cfg(target_os = "linux")]
    Direct(Epoll),
    Portable {
        poller: Arc<Poller>,
        events: Events,
    },
}

/// The fewest and most events taken at once; between them the size of a completion queue decides.
///
/// A batch is received, handled and answered before the next: with many connections what is known of a socket, here and in the
/// kernel, should still be in the cache when its answer goes out. With 1,000 connections, 32 at once gave a tenth more requests per CPU
/// second than 1,024, and one wait for 32 costs next to nothing for each.
const BATCH_MIN: usize = 16;
const BATCH_MAX: usize = 32;

impl Selector {
    /// The best that the system has, and what wakes it.
    ///
    /// # Errors
    /// What the system says; a system without edge-triggered readiness is not supported.
    pub(super) fn new(batch: u32) -> io::Result<(Self, Alarm)> {
        #[cfg(target_os = "linux")]
        match Self::direct(batch) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                tracing::debug!(%error, "epoll_pwait2 is not available");
            }
            made => return made,
        }
        Self::portable(batch)
    }

    #[cfg(target_os = "linux")]
    fn direct(batch: u32) -> io::Result<(Self, Alarm)> {
        let batch = (batch as usize).clamp(BATCH_MIN, BATCH_MAX);
        let epoll = Epoll::new(batch)?;
        let counter = EventCounter::new()?;
        epoll.add(counter.raw(), WAKER, false)?;
        Ok((Self { kind: Selecting::Direct(epoll), batch, full: false }, Alarm::Counter(counter)))
    }

    /// What every system has.
    pub(super) fn portable(batch: u32) -> io::Result<(Self, Alarm)> {
        let poller = Arc::new(Poller::new()?);
        if !poller.supports_edge() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no edge-triggered readiness"));
        }
        let batch = (batch as usize).clamp(BATCH_MIN, BATCH_MAX);
        let events = Events::with_capacity(NonZeroUsize::new(batch).unwrap_or(NonZeroUsize::MIN));
        let kind = Selecting::Portable { poller: Arc::clone(&poller), events };
        Ok((Self { kind, batch, full: false }, Alarm::Poller(poller)))
    }

    /// Whether a wait is one call of the system's own.
    pub(super) fn is_direct(&self) -> bool {
        match &self.kind {
            #[cfg(target_os = "linux")]
            Selecting::Direct(_) => true,
            Selecting::Portable { .. } => false,
        }
    }

    /// Registers a connected or connecting socket, for both directions.
    pub(super) fn add_socket(&self, socket: &OwnedFd, key: Key) -> io::Result<()> {
        self.add(socket, key, true)
    }

    /// Registers a listener.
    pub(super) fn add_listener(&self, listener: &OwnedFd, key: Key) -> io::Result<()> {
        self.add(listener, key, false)
    }

    fn add(&self, descriptor: &OwnedFd, key: Key, socket: bool) -> io::Result<()> {
        match &self.kind {
            #[cfg(target_os = "linux")]
            Selecting::Direct(epoll) => epoll.add(descriptor.as_raw_fd(), key, socket),
            Selecting::Portable { poller, .. } => {
                let event = polling::Event::new(key.0, true, socket);
                // SAFETY: `remove` comes before every close of a registered descriptor, also when the engine is dropped.
                unsafe { poller.add_with_mode(descriptor, event, PollMode::Edge) }
            }
        }
    }

    /// Must be called before a registered descriptor is closed.
    pub(super) fn remove(&self, descriptor: BorrowedFd<'_>) {
        match &self.kind {
            // The kernel does it when the descriptor is closed. Where a child process still has a copy events may come late; the
            // generation in the key tells.
            #[cfg(target_os = "linux")]
            Selecting::Direct(_) => {}
            Selecting::Portable { poller, .. } => {
                if let Err(error) = poller.delete(descriptor) {
                    tracing::debug!(%error, "a registration is gone before its socket");
                }
            }
        }
    }

    /// Waits for changes, at most for `limit` (`None`: for ever), and appends them. May return with none.
    pub(super) fn wait(&mut self, limit: Option<Duration>, out: &mut Vec<Event>) -> io::Result<()> {
        match &mut self.kind {
            #[cfg(target_os = "linux")]
            Selecting::Direct(epoll) => {
                epoll.wait(limit)?;
                self.full = epoll.count() >= self.batch;
                out.extend(epoll.events());
            }
            Selecting::Portable { poller, events } => {
                events.clear();
                poller.wait(events, limit)?;
                self.full = events.len() >= self.batch;
                // It doesn't say whether the stream has ended, so it may have.
                out.extend(events.iter().map(|event| Event {
                    key: Key(event.key),
                    readable: event.readable || event.is_interrupt(),
                    writable: event.writable || event.is_interrupt(),
                    to_the_end: true,
                }));
            }
        }
        Ok(())
    }

    /// The most events of one wait.
    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// Whether the last wait has brought all that fits, so that there may be more.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }
}

/// Ends a wait from another thread.
pub(super) enum Alarm {
    #[cfg(target_os = "linux")]
    Counter(EventCounter),
    Poller(Arc<Poller>),
}

impl Alarm {
    pub(super) fn ring(&self) {
        match self {
            #[cfg(target_os = "linux")]
            Self::Counter(counter) => counter.signal(),
            Self::Poller(poller) => {
                if let Err(error) = poller.notify() {
                    tracing::error!(%error, "can't wake an I/O thread");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_sockets_their_users_listeners_and_the_waker_apart() {
        for (index, generation) in [(0, 0), (0, 1), (5, u32::MAX), (INDEX_MASK as u32, 7)] {
            let key = Key::of_socket(SocketId { index, generation });
            match key.source() {
                Source::Socket { index: of, generation: part } => {
                    assert_eq!(of, index);
                    assert!(Key::is_generation(part, generation));
                    assert!(!Key::is_generation(part, generation.wrapping_add(1)));
                }
                other => panic!("{key:?} is {other:?}"),
            }
            assert_ne!(key.0, usize::MAX, "what the polling crate keeps for itself");
        }
        assert_eq!(Key::of_listener(3).source(), Source::Listener(3));
        assert_eq!(WAKER.source(), Source::Waker);
        assert_ne!(WAKER.0, usize::MAX);
    }
}
