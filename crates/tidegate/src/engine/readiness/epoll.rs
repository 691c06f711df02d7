//! Readiness on Linux: epoll, called directly.
//!
//! The `polling` crate would do, and is used where this can't be ([`Selector`](super::selector::Selector)), but costs five system
//! calls a wait (it sets a timer and renews two one-shot registrations) where this costs one, and doesn't tell whether the peer has
//! finished, so that every receive would take a second call to find the socket empty.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::selector::{Event, Key};

/// An epoll instance and an event counter to wake it.
pub(super) struct Epoll {
    descriptor: OwnedFd,
    reported: Vec<libc::epoll_event>,
    /// The most events of one wait.
    batch: usize,
}

/// What a wait takes as its limit: the kernel's own form, the same on 32 and 64 bits.
#[repr(C)]
struct KernelTimespec {
    seconds: i64,
    nanoseconds: i64,
}

/// The bytes of a signal mask, as the kernel counts; none is given.
const SIGNAL_MASK_BYTES: libc::size_t = 8;

const SOCKET_EVENTS: libc::c_int = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLPRI | libc::EPOLLET;

impl Epoll {
    /// An instance that reports at most `batch` events a wait.
    ///
    /// # Errors
    /// What the system says; `ENOSYS` or `EPERM` when it has no wait with a limit finer than a millisecond (Linux before
    /// 5.11, or a security profile older than that).
    pub(super) fn new(batch: usize) -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let descriptor = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: a descriptor that epoll_create1 has just made belongs to nobody else.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let mut epoll = Self { descriptor, reported: Vec::with_capacity(batch), batch };
        epoll.wait(Some(Duration::ZERO))?;
        Ok(epoll)
    }

    /// Registers a descriptor for all changes of its state. It is forgotten when it is closed.
    pub(super) fn add(&self, descriptor: RawFd, key: Key, socket: bool) -> io::Result<()> {
        let events = if socket { SOCKET_EVENTS } else { libc::EPOLLIN | libc::EPOLLET };
        let mut event = libc::epoll_event { events: events as u32, u64: key.0 as u64 };
        // SAFETY: the pointer is to a value that lives until the call returns.
        check(unsafe { libc::epoll_ctl(self.descriptor.as_raw_fd(), libc::EPOLL_CTL_ADD, descriptor, &raw mut event) })
            .map(drop)
    }

    /// Waits for changes, at most for `limit` (`None`: for ever). A signal ends the wait with none.
    pub(super) fn wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.reported.clear();
        let timespec = limit.map(|limit| KernelTimespec {
            seconds: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: i64::from(limit.subsec_nanos()),
        });
        // SAFETY: the list has room for as many events as are asked for, the timespec lives until the call returns, and no signal
        // mask is given.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.descriptor.as_raw_fd(),
                self.reported.as_mut_ptr(),
                self.batch as libc::c_int,
                timespec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
                std::ptr::null::<libc::sigset_t>(),
                SIGNAL_MASK_BYTES,
            )
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        // SAFETY: the kernel has written so many events, at most as many as asked for.
        unsafe { self.reported.set_len(count as usize) };
        Ok(())
    }

    /// What the last wait has reported.
    pub(super) fn events(&self) -> impl Iterator<Item = Event> + '_ {
        self.reported.iter().map(|event| {
            let flags = event.events as libc::c_int;
            let broken = libc::EPOLLERR | libc::EPOLLHUP;
            Event {
                key: Key(event.u64 as usize),
                readable: flags & (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLPRI | broken) != 0,
                writable: flags & (libc::EPOLLOUT | broken) != 0,
                // Behind urgent data a receive stops short although there is more.
                to_the_end: flags & (libc::EPOLLRDHUP | libc::EPOLLPRI | broken) != 0,
            }
        })
    }

    /// How many events the last wait has reported.
    pub(super) fn count(&self) -> usize {
        self.reported.len()
    }
}

/// Ends a wait from another thread. It is registered for changes, of which each signal is one: it is never read, and in the life of
/// a process never full.
pub(super) struct EventCounter(OwnedFd);

impl EventCounter {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let descriptor = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: a descriptor that eventfd has just made belongs to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    pub(super) fn signal(&self) {
        let one: u64 = 1;
        // SAFETY: eight bytes of a variable that lives until the call returns.
        let written = unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
        debug_assert_eq!(written, 8, "an event counter takes eight bytes");
    }

    pub(super) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
