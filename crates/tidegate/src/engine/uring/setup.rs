//! Making a ring: which flags this kernel takes, how large the queues may be, what an error means.

use std::io;

use io_uring::IoUring;

/// Why no ring could be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    /// The kernel has no io_uring, or a security profile hides it.
    #[error(
        "io_uring is not available: {0}; a container's seccomp profile may forbid it, or the setting \
         kernel.io_uring_disabled"
    )]
    Unavailable(io::Error),
    /// The kernel is too old.
    #[error("this kernel's io_uring lacks what Tidegate needs ({0}): Linux 6.1 or later is required")]
    TooOld(io::Error),
    /// Memory, most likely the limit on locked memory.
    #[error(
        "no memory for a ring of {submissions} submissions and {completions} completions: {error}; raise the limit \
         on locked memory (ulimit -l), or use fewer threads"
    )]
    NoMemory {
        /// The smallest submission queue that was tried.
        submissions: u32,
        /// The smallest completion queue that was tried.
        completions: u32,
        /// What the system said.
        error: io::Error,
    },
    /// Something else.
    #[error("can't set up io_uring: {0}")]
    Other(io::Error),
}

impl SetupError {
    /// Whether it is a matter of io_uring, and another engine may do: not of descriptors, for instance.
    pub(crate) fn is_of_the_ring(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::TooOld(_) | Self::NoMemory { .. } => true,
            // From a call after the setup: for instance to register buffers, which a kernel too old doesn't know.
            Self::Other(error) => matches!(
                error.raw_os_error(),
                Some(libc::EPERM | libc::EACCES | libc::ENOSYS | libc::ENOMEM | libc::EINVAL | libc::EOPNOTSUPP)
            ),
        }
    }
}

/// The smallest queues worth running with; below them there is not enough locked memory for anything.
const SUBMISSION_ENTRIES_MIN: u32 = 16;
const COMPLETION_ENTRIES_MIN: u32 = 16;

/// Makes a ring that is disabled until its owner enables it, probing downwards: first without what Linux 6.1 lacks,
/// then with smaller queues where memory is short.
pub(super) fn build_ring(submissions: u32, completions: u32) -> Result<IoUring, SetupError> {
    let (mut submissions, mut completions) = (submissions.max(1), completions.max(2));
    loop {
        // NO_SQARRAY came with Linux 6.6, everything else here by 6.1.
        let result = attempt(submissions, completions, true).or_else(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => attempt(submissions, completions, false),
            _ => Err(error),
        });
        let error = match result {
            Ok(ring) => return Ok(ring),
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::ENOMEM) if submissions > SUBMISSION_ENTRIES_MIN || completions > COMPLETION_ENTRIES_MIN => {
                submissions = (submissions / 2).max(SUBMISSION_ENTRIES_MIN);
                completions = (completions / 2).max(COMPLETION_ENTRIES_MIN);
            }
            Some(libc::ENOMEM) => return Err(SetupError::NoMemory { submissions, completions, error }),
            Some(libc::EPERM | libc::ENOSYS | libc::EACCES) => return Err(SetupError::Unavailable(error)),
            Some(libc::EINVAL) => return Err(SetupError::TooOld(error)),
            _ => return Err(SetupError::Other(error)),
        }
    }
}

/// Whether the newest flag, which rings also work without, is taken.
pub(super) fn takes_no_sqarray() -> bool {
    attempt(SUBMISSION_ENTRIES_MIN, COMPLETION_ENTRIES_MIN, true).is_ok()
}

fn attempt(submissions: u32, completions: u32, no_sqarray: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_r_disabled()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(completions.max(submissions))
        .setup_clamp();
    if no_sqarray {
        builder.setup_no_sqarray();
    }
    builder.build(submissions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do() {
        let text = SetupError::Unavailable(io::Error::from_raw_os_error(libc::EPERM)).to_string();
        assert!(text.contains("seccomp") && text.contains("io_uring_disabled"), "{text}");
        let error = io::Error::from_raw_os_error(libc::ENOMEM);
        let text = SetupError::NoMemory { submissions: 16, completions: 16, error }.to_string();
        assert!(text.contains("ulimit -l") && text.contains("16"), "{text}");
    }
}
