//! Why a connection ended.

use std::fmt;
use std::io;

/// Why a connection ended: exactly one for each, counted in the [`Report`](crate::Report).
///
/// The first cause wins: a connection that is reset while it is being closed by its handler was closed by its handler. Except
/// [`CloseTimeout`](Self::CloseTimeout) and [`SendTooSlow`](Self::SendTooSlow), which say that something was lost and take the place of
/// who closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// Both sides have finished: the peer half-closed, and so did the handler.
    Finished,
    /// The handler called `close`.
    ClosedByHandler,
    /// The handler called `abort`.
    AbortedByHandler,
    /// Somebody called `close` on a `ConnectionHandle`.
    ClosedByHandle,
    /// Somebody called `abort` on a `ConnectionHandle`.
    AbortedByHandle,
    /// The handler panicked, or its maker or a filter did.
    HandlerPanicked,
    /// The peer reset the connection.
    Reset,
    /// The connection failed in another way.
    Failed(io::ErrorKind),
    /// Memory ran out for others, and this connection, which held some, had gone longest without progress.
    MemoryPressure,
    /// The server drained, and the connection was idle, or still busy when half of the grace period was over; closed in order, with everything
    /// sent that was queued.
    Drained,
    /// The server drained, and the connection was still busy when the grace period was over.
    ShutdownGrace,
    /// The connection was being closed in order (by its handler, a handle or the drain), and the peer didn't take what was queued
    /// within [`Limits::close_timeout`](crate::Limits).
    CloseTimeout,
    /// No byte went either way within [`Limits::first_byte_timeout`](crate::Limits); closed in order.
    FirstByteTimeout,
    /// No byte went either way for [`Limits::idle_timeout`](crate::Limits), and nothing waited to be sent or to be read by the
    /// handler; closed in order.
    IdleTimeout,
    /// The peer took what waited for it more slowly than [`Limits::min_send_progress`](crate::Limits) asks for; reset.
    SendTooSlow,
    /// The peer sent more slowly than [`Limits::min_receive_rate`](crate::Limits) asks for, closed in order; or than a filter does.
    ReceiveTooSlow,
    /// The system was out of memory for this connection's socket, and stayed so for 10 s; reset.
    SystemMemory,
    /// The peer took what was sent to it so slowly that its queue was full and the policy was to close, or stayed without room, or over
    /// its mark, for longer than it may ([`FlowControl`](crate::FlowControl)); reset.
    SlowConsumer,
    /// A job that the handler had [offloaded](crate::Connection::offload) panicked; reset.
    OffloadPanicked,
    /// The filters of the connection were not established within [`Limits::handshake_timeout`](crate::Limits), or within a shorter time of
    /// their own.
    HandshakeTimeout,
    /// The peer broke the protocol of a filter ([`FilterFailure::Protocol`](crate::filter::FilterFailure)).
    ProtocolError,
    /// The stream ended within a unit of a filter's protocol: a record, a message, a header.
    Truncated,
    /// The peer sent a unit that is larger than a filter allows.
    MessageTooLarge,
    /// The peer took too long to send a whole unit of a filter's protocol.
    MessageTimeout,
    /// The peer did not answer a filter that asked whether it is there.
    NoAnswer,
    /// A filter does not allow the peer: for its certificate, or its network.
    NotAllowed,
    /// Too many connections were establishing their filters at once.
    Busy,
    /// The connection's task has ended with an error ([`task`](crate::task)); reset.
    TaskFailed,
}

impl CloseReason {
    /// How many names there are.
    pub(crate) const COUNT: usize = 28;

    /// A short fixed name, for counters and logs.
    pub const fn name(&self) -> &'static str {
        Self::NAMES[self.number()]
    }

    /// The names by [`number`](Self::number).
    pub(crate) const NAMES: [&'static str; Self::COUNT] = [
        "finished",
        "closed_by_handler",
        "aborted_by_handler",
        "closed_by_handle",
        "aborted_by_handle",
        "handler_panicked",
        "reset",
        "failed",
        "memory_pressure",
        "drained",
        "shutdown_grace",
        "close_timeout",
        "first_byte_timeout",
        "idle_timeout",
        "send_too_slow",
        "receive_too_slow",
        "system_memory",
        "slow_consumer",
        "offload_panicked",
        "handshake_timeout",
        "protocol_error",
        "truncated",
        "message_too_large",
        "message_timeout",
        "no_answer",
        "not_allowed",
        "busy",
        "task_failed",
    ];

    /// A number below [`COUNT`](Self::COUNT), for counters.
    pub(crate) const fn number(&self) -> usize {
        match self {
            Self::Finished => 0,
            Self::ClosedByHandler => 1,
            Self::AbortedByHandler => 2,
            Self::ClosedByHandle => 3,
            Self::AbortedByHandle => 4,
            Self::HandlerPanicked => 5,
            Self::Reset => 6,
            Self::Failed(_) => 7,
            Self::MemoryPressure => 8,
            Self::Drained => 9,
            Self::ShutdownGrace => 10,
            Self::CloseTimeout => 11,
            Self::FirstByteTimeout => 12,
            Self::IdleTimeout => 13,
            Self::SendTooSlow => 14,
            Self::ReceiveTooSlow => 15,
            Self::SystemMemory => 16,
            Self::SlowConsumer => 17,
            Self::OffloadPanicked => 18,
            Self::HandshakeTimeout => 19,
            Self::ProtocolError => 20,
            Self::Truncated => 21,
            Self::MessageTooLarge => 22,
            Self::MessageTimeout => 23,
            Self::NoAnswer => 24,
            Self::NotAllowed => 25,
            Self::Busy => 26,
            Self::TaskFailed => 27,
        }
    }

    /// What an error of the system means for the connection.
    pub(crate) fn from_error(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                Self::Reset
            }
            kind => Self::Failed(kind),
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(kind) => write!(formatter, "failed: {kind}"),
            reason => formatter.write_str(&reason.name().replace('_', " ")),
        }
    }
}
