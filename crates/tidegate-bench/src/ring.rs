//! The io_uring set-up shared by the bare server and the measuring client.

use std::io;

use io_uring::{CompletionQueue, IoUring, SubmissionQueue, Submitter};

/// The three parts of one ring, which lives as long as the process.
pub struct Ring {
    /// Enters the kernel; holds the registered index of the ring's descriptor.
    pub submitter: Submitter<'static>,
    /// Requests on their way to the kernel.
    pub submissions: SubmissionQueue<'static>,
    /// Answers of the kernel.
    pub completions: CompletionQueue<'static>,
}

impl Ring {
    /// Sets up a ring for the calling thread alone.
    ///
    /// The submission queue is meant to be small: it is walked in a circle, and a
    /// large one is only a larger walk through the cache.
    ///
    /// # Errors
    ///
    /// When io_uring is not available, or the kernel is older than 6.6.
    pub fn open(submission_entries: u32, completion_entries: u32) -> io::Result<Ring> {
        let mut builder = IoUring::builder();
        builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_no_sqarray()
            .setup_cqsize(completion_entries)
            .setup_clamp();
        let ring = Box::leak(Box::new(builder.build(submission_entries)?));
        let (mut submitter, submissions, completions) = ring.split();
        submitter.register_ring_fd()?;
        Ok(Ring { submitter, submissions, completions })
    }

    /// Queues one request, entering the kernel only when the queue is full.
    ///
    /// # Errors
    ///
    /// When that entry fails for a lasting reason.
    ///
    /// # Safety
    ///
    /// Whatever memory the request names must stay valid until its last completion.
    #[inline]
    pub unsafe fn push(&mut self, entry: &io_uring::squeue::Entry) -> io::Result<()> {
        // SAFETY: the caller vouches for the memory the request names.
        while unsafe { self.submissions.push(entry) }.is_err() {
            self.submit()?;
        }
        Ok(())
    }

    /// Hands over everything queued and waits until at least one answer is there.
    ///
    /// # Errors
    ///
    /// When the kernel refuses for a lasting reason; an interruption is none.
    #[inline]
    pub fn submit_and_wait(&mut self) -> io::Result<()> {
        self.enter(1)
    }

    /// Hands over everything queued, runs deferred work that is ready, does not wait.
    ///
    /// # Errors
    ///
    /// As [`Ring::submit_and_wait`].
    #[inline]
    pub fn submit(&mut self) -> io::Result<()> {
        self.enter(0)
    }

    /// Whether the kernel has work that only an entry would carry out.
    #[must_use]
    #[inline]
    pub fn has_deferred_work(&self) -> bool {
        self.submissions.taskrun()
    }

    /// Whether an answer is there to be read.
    #[must_use]
    #[inline]
    pub fn has_completions(&mut self) -> bool {
        self.completions.sync();
        !self.completions.is_empty()
    }

    #[inline]
    fn enter(&mut self, wanted: usize) -> io::Result<()> {
        /// `IORING_ENTER_GETEVENTS`.
        const GET_EVENTS: u32 = 1;
        // Publishes the read position too: without it a full completion queue would stay full.
        self.completions.sync();
        self.submissions.sync();
        let queued = u32::try_from(self.submissions.len()).unwrap_or(u32::MAX);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        // SAFETY: no argument is passed, and the flag asks for nothing but completions.
        let entered = unsafe { self.submitter.enter::<libc::sigset_t>(queued, wanted, GET_EVENTS, None) };
        self.submissions.sync();
        self.completions.sync();
        match entered {
            Ok(_) => Ok(()),
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN | libc::ETIME)) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
