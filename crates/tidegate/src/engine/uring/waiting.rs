//! Submitting and waiting: one call per turn, and a look around before sleeping.

use std::io;
use std::time::{Duration, Instant};

use io_uring::EnterFlags;
use io_uring::types::{SubmitArgs, Timespec};

use super::UringEngine;
use crate::time::Time;

/// How long to look for completions before sleeping, adapted to what it brings.
///
/// Waking a sleeping thread costs far more than a short wait (35 us across processors where it was measured), so with a few busy
/// connections a wait that would have been short is better spent looking. It is wasted when waits are long, and when there
/// are many busy connections: then work piles up during a short sleep and is done the cheaper for it (with 1,000 connections
/// looking cost 3 to 4 % of the requests per CPU second, of this engine and of a bare loop alike).
pub(super) struct Spin {
    most: Duration,
    now: Duration,
    /// Completions per poll, lately, times [`SHARE`](Self::SHARE).
    batch: u64,
}

impl Spin {
    /// Polls that bring more completions than this, on average, are of many busy connections. A request is two completions.
    const BATCH_MAX: u64 = 12;
    /// Each poll counts for one part in so many of the average.
    const SHARE: u64 = 8;

    /// Starts with `most`; zero never spins.
    pub(super) fn new(most: Duration) -> Self {
        Self { most, now: most, batch: 0 }
    }

    /// A poll has brought so many completions.
    pub(super) fn saw_batch(&mut self, completions: u64) {
        self.batch = self.batch - self.batch / Self::SHARE + completions;
    }

    /// Whether many connections are busy.
    fn is_busy(&self) -> bool {
        self.batch > Self::BATCH_MAX * Self::SHARE
    }

    /// How long to look now.
    fn look(&self) -> Duration {
        if self.is_busy() { Duration::ZERO } else { self.now }
    }

    /// A wait is over after `waited`, which includes the time that waking took.
    fn learn(&mut self, waited: Duration) {
        // A sleep is never measured shorter than the wake-up itself, so "about as short as a spin" has to allow for one.
        if waited < self.most * 4 {
            self.now = self.most;
        } else {
            self.now /= 2;
            if self.now < Duration::from_micros(1) {
                self.now = Duration::ZERO;
            }
        }
    }
}

impl UringEngine {
    /// Hands over what is recorded and waits for a completion until `deadline` (`None`: for ever). Sets the time.
    pub(super) fn submit_and_wait(&mut self, deadline: Option<Time>) -> io::Result<()> {
        self.submit_spilled()?;
        let may_wait = deadline.is_none_or(|deadline| deadline > self.now);
        let result = if may_wait { self.spin_then_sleep(deadline) } else { self.enter(0, None) };
        self.now = self.clock().max(self.now);
        result
    }

    /// Submits, and waits for a completion: looks for one for a while, sleeps if none came.
    fn spin_then_sleep(&mut self, deadline: Option<Time>) -> io::Result<()> {
        let left = |engine: &Self| deadline.map(|deadline| deadline.saturating_since(engine.clock()));
        if self.spin.is_busy() {
            // There is nothing to learn for a spin that would not be made anyway.
            return self.enter(1, left(self));
        }
        let look = self.spin.look();
        if look.is_zero() {
            let began = Instant::now();
            let result = self.enter(1, left(self));
            self.spin.learn(began.elapsed());
            return result;
        }
        self.enter(0, None)?;
        if self.has_completions() {
            return Ok(());
        }
        let began = Instant::now();
        let look = left(self).map_or(look, |left| look.min(left));
        while began.elapsed() < look {
            if self.ring.submission().taskrun() || self.has_completions() {
                let result = self.enter(0, None);
                self.spin.learn(began.elapsed());
                return result;
            }
            for _ in 0..16 {
                std::hint::spin_loop();
            }
        }
        let result = self.enter(1, left(self));
        self.spin.learn(began.elapsed());
        result
    }

    /// Brings the submissions that found the queue full into it, as far as the kernel takes them.
    fn submit_spilled(&mut self) -> io::Result<()> {
        while !self.spilled.is_empty() {
            {
                let mut queue = self.ring.submission();
                while let Some(entry) = self.spilled.front() {
                    // SAFETY: as in `push`: what the entry points to is owned until its completion.
                    if unsafe { queue.push(entry) }.is_err() {
                        break;
                    }
                    self.spilled.pop_front();
                }
            }
            if self.spilled.is_empty() {
                break;
            }
            // SAFETY: no argument is passed, so there is nothing for the kernel to read but the queue itself.
            let submitted = unsafe {
                let waiting = self.ring.submission().len() as u32;
                self.ring.submitter().enter::<libc::sigset_t>(waiting, 0, 0, None)
            };
            match submitted {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if is_passing(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// One call: submits the queue, runs what the kernel has deferred, waits for `wanted` completions for at most `limit`.
    fn enter(&mut self, wanted: u32, limit: Option<Duration>) -> io::Result<()> {
        let submissions = self.ring.submission().len() as u32;
        let mut flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if self.no_iowait {
            flags |= EnterFlags::NO_IOWAIT;
        }
        let timespec: Timespec;
        let arguments = match limit {
            Some(limit) => {
                timespec = Timespec::from(limit);
                SubmitArgs::new().timespec(&timespec)
            }
            None => SubmitArgs::new(),
        };
        // SAFETY: the arguments and the timespec they point to live until the call returns; the entries in the queue point to
        // memory that is owned until their completion (see `push`).
        let entered = unsafe { self.ring.submitter().enter(submissions, wanted, flags.bits(), Some(&arguments)) };
        match entered {
            Ok(_) => Ok(()),
            Err(error) if is_passing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn clock(&self) -> Time {
        Time::ZERO.saturating_add(self.began.elapsed())
    }

    fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }
}

/// Errors that say "not now": the time is over, a signal came, the completion queue must be emptied first, memory is short.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spinning_stops_when_waits_are_long_and_comes_back_when_they_are_short() {
        let most = Duration::from_micros(20);
        let mut spin = Spin::new(most);
        for _ in 0..10 {
            spin.learn(Duration::from_millis(5));
        }
        assert_eq!(spin.now, Duration::ZERO);
        spin.learn(Duration::from_micros(60));
        assert_eq!(spin.now, most);
    }

    #[test]
    fn spinning_stops_when_polls_bring_much_and_comes_back_when_they_bring_little() {
        let mut spin = Spin::new(Duration::from_micros(20));
        for _ in 0..50 {
            spin.saw_batch(40);
        }
        assert_eq!(spin.look(), Duration::ZERO);
        for _ in 0..50 {
            spin.saw_batch(4);
        }
        assert_eq!(spin.look(), Duration::from_micros(20));
    }

    #[test]
    fn an_engine_told_not_to_spin_never_does() {
        let mut spin = Spin::new(Duration::ZERO);
        spin.learn(Duration::ZERO);
        assert_eq!(spin.now, Duration::ZERO);
    }
}
