//! What may wait to be sent on a connection, and what becomes of a message for which there is no room.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::memory::{Gather, Payload};

/// What becomes of a message that finds the send queue of its connection full, in bytes or in messages.
///
/// Under every policy, a message that has begun to go out is never dropped, the order is kept, and a message that is larger than the
/// whole queue is refused ([`Refusal::TooLarge`](crate::Refusal)). Send memory that is used up is something else than a full queue:
/// [`DropOldest`](Self::DropOldest) and [`DropNewest`](Self::DropNewest) drop then too, the others refuse
/// ([`Refusal::NoMemory`](crate::Refusal)).
#[derive(Clone)]
#[non_exhaustive]
pub enum Overflow {
    /// It is refused ([`Refusal::Full`](crate::Refusal)) and given back, and `on_writable` says when there is room. Above the high
    /// mark the connection is not read from, so an echo is never refused.
    Wait {
        /// How long a queue that has refused a message may stay without room for it. Then the connection is reset
        /// ([`CloseReason::SlowConsumer`](crate::CloseReason)). `None`: for ever.
        limit: Option<Duration>,
    },
    /// The oldest messages that wait and have not begun are dropped, whole, until it fits ([`Sent::EvictedOldest`](crate::Sent)). If it
    /// doesn't fit even so, it is dropped itself. Reading goes on above the high mark.
    DropOldest,
    /// It is dropped ([`Sent::DroppedNew`](crate::Sent)). Reading goes on above the high mark.
    DropNewest,
    /// The connection is reset ([`CloseReason::SlowConsumer`](crate::CloseReason)), and the message given back
    /// ([`Refusal::SlowConsumer`](crate::Refusal)). Above the high mark the connection is not read from.
    Close,
    /// The function says what to do, each time. It is called on the I/O thread and must not block; a panic is one of the
    /// handler's. Above the high mark the connection is not read from.
    Ask(Ask),
}

/// Decides about one message: see [`Overflow::Ask`].
pub type Ask = Arc<dyn Fn(&QueueState, &Payload) -> Decision + Send + Sync>;

/// What becomes of one message for which there is no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Decision {
    /// As with [`Overflow::Wait`] without a limit of time.
    Wait,
    /// As with [`Overflow::DropOldest`].
    DropOldest,
    /// As with [`Overflow::DropNewest`].
    DropNewest,
    /// As with [`Overflow::Close`].
    Close,
}

impl Overflow {
    /// How long a queue may refuse by default. Half of what the slowest peer has by default to take a byte
    /// ([`Limits::min_send_progress`](crate::Limits)): a producer that is held up harms more than one connection.
    pub const WAIT_LIMIT: Duration = Duration::from_secs(30);

    /// Whether what would be too much is dropped.
    pub(super) fn drops(&self) -> bool {
        matches!(self, Self::DropOldest | Self::DropNewest)
    }
}

impl Default for Overflow {
    /// To wait, for [`WAIT_LIMIT`](Self::WAIT_LIMIT).
    fn default() -> Self {
        Self::Wait { limit: Some(Self::WAIT_LIMIT) }
    }
}

impl PartialEq for Overflow {
    /// Two functions are equal if they are the same one.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Wait { limit }, Self::Wait { limit: other }) => limit == other,
            (Self::Ask(ask), Self::Ask(other)) => Arc::ptr_eq(ask, other),
            (Self::DropOldest, Self::DropOldest)
            | (Self::DropNewest, Self::DropNewest)
            | (Self::Close, Self::Close) => true,
            _ => false,
        }
    }
}

impl Eq for Overflow {}

impl fmt::Debug for Overflow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait { limit } => formatter.debug_struct("Wait").field("limit", limit).finish(),
            Self::DropOldest => formatter.write_str("DropOldest"),
            Self::DropNewest => formatter.write_str("DropNewest"),
            Self::Close => formatter.write_str("Close"),
            Self::Ask(_) => formatter.write_str("Ask"),
        }
    }
}

/// What may wait to be sent on each connection of a listener or a client, or on one connection, and what happens at the limit.
///
/// The defaults are those of [`Limits`](crate::Limits); [`Limits::flow_control`](crate::Limits::flow_control) has those of limits of
/// one's own:
///
/// ```
/// use tidegate::{FlowControl, Limits, Listener, Overflow};
///
/// let limits = Limits { send_queue_messages: 500, ..Limits::default() };
/// let flow = FlowControl { overflow: Overflow::DropOldest, ..limits.flow_control() };
/// let listener = Listener::tcp("127.0.0.1:7007".parse().unwrap()).flow(flow);
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlowControl {
    /// Bytes that may be on their way into the system's socket buffer at once; one slice of up to 64 KiB always goes out when nothing is.
    /// At least 4 KiB. Default: [`Limits::window_bytes`](crate::Limits).
    pub window_bytes: usize,
    /// Bytes that may wait: also the largest message. Below 4 GiB. Default: [`Limits::send_queue_bytes`](crate::Limits).
    pub queue_bytes: usize,
    /// Messages that may wait. Default: [`Limits::send_queue_messages`](crate::Limits).
    pub queue_messages: u32,
    /// Above this many queued bytes (or above three quarters of the messages) the connection is over its mark: `send` says so, and it is
    /// not read from unless what is too much is dropped, or [`reads_above_mark`](Self::reads_above_mark) is set. Default: [`Limits::high_mark_bytes`](crate::Limits).
    pub high_mark_bytes: usize,
    /// At or below this many queued bytes (and a half of the messages) it no longer is, and `on_writable` is called. Default:
    /// [`Limits::low_mark_bytes`](crate::Limits).
    pub low_mark_bytes: usize,
    /// What happens at the limit. Default: [`Limits::overflow`](crate::Limits).
    pub overflow: Overflow,
    /// How long a connection may stay over its mark without a break; then it is reset
    /// ([`CloseReason::SlowConsumer`](crate::CloseReason)). Default: [`Limits::over_mark_limit`](crate::Limits).
    pub over_mark_limit: Option<Duration>,
    /// Reading goes on above the high mark, whatever the policy: for a connection whose input is not answered on it, but sent elsewhere, as
    /// in a relay, where one direction must not wait for the other. `on_read` then promises no room for a reply; who passes on more than
    /// others take [pauses reading](crate::Connection::pause_read), as tasks do by themselves. Default: false.
    pub reads_above_mark: bool,
}

/// A [`FlowControl`] that can't be. The text has the numbers and the way out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct FlowError(pub(super) String);

impl FlowError {
    /// There is no connection to change.
    pub(crate) fn out_of_reach() -> Self {
        Self("the connection has ended, or is used by a task of another connection: let its own task change the flow control".into())
    }
}

impl FlowControl {
    /// Below this window every send is a small one, in bytes.
    const WINDOW_BYTES_MIN: usize = Gather::SLICE_BYTES / 16;

    /// Whether reading goes on above the high mark.
    pub(super) fn reads_on(&self) -> bool {
        self.reads_above_mark || self.overflow.drops()
    }

    /// Above this many queued messages the connection is over its mark: three quarters of the most.
    pub(super) fn high_mark_messages(&self) -> u32 {
        self.queue_messages - self.queue_messages.div_ceil(4)
    }

    /// At or below this many it no longer is: a half of the most.
    pub(super) fn low_mark_messages(&self) -> u32 {
        self.queue_messages / 2
    }

    /// Checks that it fits together, where a receive buffer has `buffer_bytes` and a reply of `reply_bytes` is promised. In the text,
    /// the names of the queue's limits begin with `prefix`.
    pub(crate) fn check(&self, buffer_bytes: usize, reply_bytes: usize, prefix: &str) -> Result<(), FlowError> {
        let refuse = |text: String| Err(FlowError(text));
        let (queue_bytes, high, low) = (self.queue_bytes, self.high_mark_bytes, self.low_mark_bytes);
        if self.window_bytes == 0 {
            return refuse("window_bytes is 0: nothing could be sent".into());
        }
        if self.queue_messages == 0 {
            return refuse(format!("{prefix}queue_messages is 0: nothing could be sent"));
        }
        if u32::try_from(queue_bytes).is_err() {
            return refuse(format!("{prefix}queue_bytes is {queue_bytes}: it must be at most {}", u32::MAX));
        }
        if high > queue_bytes {
            return refuse(format!("high_mark_bytes is {high}: it must not exceed {prefix}queue_bytes, {queue_bytes}"));
        }
        if high + buffer_bytes > queue_bytes && !self.reads_on() {
            return refuse(format!(
                "high_mark_bytes is {high} and a receive buffer has {buffer_bytes}: together they must not exceed {prefix}queue_bytes, \
                 {queue_bytes}, so that a reply always fits"
            ));
        }
        if high + reply_bytes > queue_bytes && !self.reads_on() {
            return refuse(format!(
                "high_mark_bytes is {high} and reply_bytes {reply_bytes}: together they must not exceed {prefix}queue_bytes, \
                 {queue_bytes}, so that a reply always fits"
            ));
        }
        if low > high {
            return refuse(format!("low_mark_bytes is {low}: it must not exceed high_mark_bytes, {high}"));
        }
        let wait_limit = match self.overflow {
            Overflow::Wait { limit } => limit,
            _ => None,
        };
        for (name, limit) in [("the limit of Overflow::Wait", wait_limit), ("over_mark_limit", self.over_mark_limit)] {
            if limit.is_some_and(|limit| limit.is_zero()) {
                return refuse(format!("{name} is 0: no connection could be slow for a moment (None sets no limit)"));
            }
        }
        if self.window_bytes < Self::WINDOW_BYTES_MIN {
            return refuse(format!(
                "window_bytes is {}: below {} every send is a small one",
                self.window_bytes,
                Self::WINDOW_BYTES_MIN
            ));
        }
        Ok(())
    }
}

/// How full the send queue of a connection is, and what has become of what was too much.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct QueueState {
    /// Bytes that are with the system, or that have begun and go out next: they can't be dropped any more.
    pub outstanding_bytes: usize,
    /// Bytes that wait behind them, as they count against the limit: capacity for owned vectors.
    pub queued_bytes: usize,
    /// Messages that wait behind them.
    pub queued_messages: u32,
    /// The most bytes that may wait.
    pub limit_bytes: usize,
    /// The most messages that may wait.
    pub limit_messages: u32,
    /// Messages of this connection that the policy has dropped so far.
    pub dropped_messages: u64,
    /// Bytes that they would have put on the wire.
    pub dropped_bytes: u64,
    /// For how long the connection has been over its mark in all, so far.
    pub over_mark: Duration,
    /// Since it last went over its mark, if it is.
    pub over_mark_for: Option<Duration>,
    /// Since a message was refused because the queue was full, or since room was last made after that, while the handler has not been
    /// told that there is room: for how long a producer has been held up.
    pub refusing_for: Option<Duration>,
}
