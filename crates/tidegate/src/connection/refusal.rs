//! What becomes of a message that a handler wants sent.

use std::fmt;

use crate::memory::Payload;

/// What became of a message that was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Sent {
    /// It is in the queue, and there is room for more.
    Queued,
    /// It is in the queue, which is now above its high mark: better wait for `on_writable`. Unless the policy is to drop, reading has
    /// paused.
    OverMark,
    /// It is in the queue, and so many older messages were dropped for it ([`Overflow::DropOldest`](crate::Overflow)).
    EvictedOldest(u32),
    /// It was dropped, because there was no room for it ([`Overflow::DropNewest`](crate::Overflow)), or not even without all
    /// that was queued.
    DroppedNew,
}

/// A message that was not taken, with the reason. Nothing of it was sent.
pub struct Refused {
    /// The message, unchanged.
    pub payload: Payload,
    /// Why it was not taken.
    pub why: Refusal,
}

/// Why a message was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The connection's queue is full for now: `on_writable` comes when there is room.
    #[error(
        "the send queue holds {queued_bytes} of {limit_bytes} bytes in {queued_messages} of {limit_messages} messages"
    )]
    Full {
        /// Bytes in the queue.
        queued_bytes: usize,
        /// The most it may hold.
        limit_bytes: usize,
        /// Messages in the queue.
        queued_messages: u32,
        /// The most it may hold.
        limit_messages: u32,
    },
    /// The server's send memory is used up for now: `on_writable` comes when there is some.
    #[error("{wanted_bytes} bytes of send memory wanted, {free_bytes} of {total_bytes} free")]
    NoMemory {
        /// What the message would take.
        wanted_bytes: usize,
        /// What is free.
        free_bytes: usize,
        /// What there is in all.
        total_bytes: usize,
    },
    /// The message is larger than the queue, or than all send memory that the connection could get: it can never be taken.
    #[error("a message that takes {bytes} bytes never fits: the most is {limit_bytes}")]
    TooLarge {
        /// What the message would take.
        bytes: usize,
        /// The most the queue may hold, or the most send memory there is for a connection.
        limit_bytes: usize,
    },
    /// The connection's queue was full, and its policy is to close ([`Overflow::Close`](crate::Overflow)): it has been reset.
    #[error(
        "the connection was closed as a slow consumer: its send queue held {queued_bytes} of {limit_bytes} bytes in {queued_messages} of \
         {limit_messages} messages"
    )]
    SlowConsumer {
        /// Bytes in the queue.
        queued_bytes: usize,
        /// The most it may hold.
        limit_bytes: usize,
        /// Messages in the queue.
        queued_messages: u32,
        /// The most it may hold.
        limit_messages: u32,
    },
    /// The connection is being closed, or has finished sending.
    #[error("the connection no longer sends")]
    Closing,
}

impl Refusal {
    /// Whether it is for now only: `on_writable` says when to send again.
    pub const fn is_for_now(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::NoMemory { .. })
    }
}

impl fmt::Debug for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Refused").field("why", &self.why).field("bytes", &self.payload.len()).finish()
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(formatter)
    }
}

impl std::error::Error for Refused {}
