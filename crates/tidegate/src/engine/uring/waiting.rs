//! Submitting and waiting: one call per turn, and a look around before sleeping.

use std::io;
use std::time::{Duration, Instant};

use io_uring::EnterFlags;
use io_uring::types::{SubmitArgs, Timespec};

use super::UringEngine;
use crate::time::Time;

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
