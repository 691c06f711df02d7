//! What can go wrong in a task.

use std::io;

use super::{Elapsed, NotConnected, OffloadError, SpawnRefused};
use crate::connection::CloseReason;

/// Why something was not done for a task. What a task returns: then its connection is reset, as
/// [`TaskFailed`](CloseReason::TaskFailed) unless it has ended before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection has ended, or is ending.
    #[error("the connection has ended: {0}")]
    Closed(CloseReason),
    /// Nothing more can be sent: `shutdown` was called before.
    #[error("the connection no longer sends, because shutdown was called")]
    ShutDown,
    /// The message can never be sent: it is larger than the connection's queue, or than its send memory.
    #[error("a message that takes {bytes} bytes never fits: the most is {limit_bytes} (Limits::send_queue_bytes)")]
    TooLarge {
        /// What it would take, in bytes.
        bytes: usize,
        /// The most there is.
        limit_bytes: usize,
    },
    /// A [`Timeout`](super::Timeout) is over.
    #[error(transparent)]
    Elapsed(#[from] Elapsed),
    /// A task was not spawned.
    #[error(transparent)]
    Spawn(#[from] SpawnRefused),
    /// A job was not offloaded.
    #[error(transparent)]
    Offload(#[from] OffloadError),
    /// A connection was not made.
    #[error(transparent)]
    Connect(#[from] NotConnected),
    /// Something that the task itself uses has failed.
    #[error(transparent)]
    Io(io::Error),
    /// The task itself has failed.
    #[error("{0}")]
    Other(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// That of the task's own.
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Other(error.into())
    }

    /// Why the connection has ended, if it is that.
    pub fn close_reason(&self) -> Option<CloseReason> {
        match self {
            Self::Closed(reason) => Some(*reason),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    /// One that was made of an `Error` becomes that again.
    fn from(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => error,
            Err(error) => Self::Io(error),
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Closed(CloseReason::Failed(kind)) => *kind,
            Error::Closed(CloseReason::Finished) | Error::ShutDown => io::ErrorKind::BrokenPipe,
            Error::Closed(CloseReason::Reset) => io::ErrorKind::ConnectionReset,
            Error::Closed(_) => io::ErrorKind::ConnectionAborted,
            Error::TooLarge { .. } => io::ErrorKind::InvalidInput,
            Error::Elapsed(_) => io::ErrorKind::TimedOut,
            Error::Connect(_) => io::ErrorKind::NotConnected,
            Error::Spawn(_) | Error::Offload(_) | Error::Other(_) => io::ErrorKind::Other,
            Error::Io(_) => return if let Error::Io(error) = error { error } else { io::ErrorKind::Other.into() },
        };
        Self::new(kind, error)
    }
}
