//! Which engine a server runs on.

use std::io;

#[cfg(target_os = "linux")]
use crate::engine::uring;
use crate::engine::{EngineConfig, PreparedEngine, Waker, readiness};

/// Which engine a server runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum EngineChoice {
    /// The best that this system allows: io_uring, or readiness where that can't be had (a container's seccomp profile forbids it, the
    /// kernel is too old, locked memory is short); the log says why.
    #[default]
    Auto,
    /// io_uring (Linux 6.1 and later).
    Uring,
    /// Readiness: epoll on Linux, kqueue on macOS and the BSDs.
    Readiness,
}

/// The engines of a server, one for each I/O thread, all of one kind.
pub(super) enum Engines {
    #[cfg(target_os = "linux")]
    Uring(Vec<uring::Prepared>),
    Readiness(Vec<readiness::Prepared>),
}

impl Engines {
    /// Sets up `threads` engines.
    ///
    /// # Errors
    /// A text that says what the system refuses, and the way out.
    pub(super) fn prepare(choice: EngineChoice, config: &EngineConfig, threads: usize) -> Result<Self, String> {
        match choice {
            EngineChoice::Readiness => Self::readiness(config, threads),
            #[cfg(target_os = "linux")]
            EngineChoice::Uring => Self::uring(config, threads)
                .map_err(|error| format!("{error}; or use the engine on readiness, which needs none of it")),
            #[cfg(target_os = "linux")]
            EngineChoice::Auto => match Self::uring(config, threads) {
                Err(error) if error.is_of_the_ring() => {
                    tracing::warn!(%error, "no io_uring: serving by readiness, which takes more processor time per request");
                    Self::readiness(config, threads)
                }
                prepared => prepared.map_err(|error| error.to_string()),
            },
            #[cfg(not(target_os = "linux"))]
            EngineChoice::Uring => Err("io_uring exists on Linux only: use the engine on readiness".into()),
            #[cfg(not(target_os = "linux"))]
            EngineChoice::Auto => Self::readiness(config, threads),
        }
    }

    #[cfg(target_os = "linux")]
    fn uring(config: &EngineConfig, threads: usize) -> Result<Self, uring::SetupError> {
        // What was set up is given back when one fails: there is one kind for all threads.
        (0..threads).map(|_| uring::prepare(config.clone())).collect::<Result<_, _>>().map(Self::Uring)
    }

    fn readiness(config: &EngineConfig, threads: usize) -> Result<Self, String> {
        let prepared: io::Result<_> = (0..threads).map(|_| readiness::prepare(config.clone())).collect();
        prepared.map(Self::Readiness).map_err(|error| format!("can't set up the engine on readiness: {error}"))
    }

    /// Ways to end the engines' polls, in the order of the threads.
    pub(super) fn wakers(&self) -> Vec<Waker> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Uring(engines) => engines.iter().map(PreparedEngine::waker).collect(),
            Self::Readiness(engines) => engines.iter().map(PreparedEngine::waker).collect(),
        }
    }

    /// The name of the kind.
    pub(super) fn name(&self) -> &'static str {
        match self {
            #[cfg(target_os = "linux")]
            Self::Uring(_) => "uring",
            Self::Readiness(_) => "readiness",
        }
    }
}
