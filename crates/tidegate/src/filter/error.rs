//! How filters fail.

use std::borrow::Cow;
use std::fmt;

/// What kind of failure ends a connection: one [`CloseReason`](crate::CloseReason) each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FilterFailure {
    /// The peer broke the protocol of the filter.
    Protocol,
    /// The stream ended within a unit (a record, a message, a header).
    Truncated,
    /// A unit is larger than allowed.
    TooLarge,
    /// Establishing took too long.
    EstablishTimeout,
    /// A whole unit took too long.
    MessageTimeout,
    /// The peer has not sent its first byte in time.
    FirstByte,
    /// The peer has been silent for too long.
    Idle,
    /// The peer sends too slowly.
    TooSlow,
    /// The peer did not answer a keep-alive.
    NoAnswer,
    /// The peer is not allowed to: its certificate, its network.
    NotAllowed,
    /// Too many are establishing at once.
    Busy,
}

/// Why a filter ends its connection.
#[derive(Clone, Debug)]
pub struct FilterError {
    /// What kind of failure.
    pub failure: FilterFailure,
    /// What happened, with numbers.
    pub text: Cow<'static, str>,
    /// Whether what the filter still [wants to write](super::Filter::wants_write) (an alert) is sent before the end. What is queued above it
    /// is thrown away all the same. Default: false, the connection is reset.
    pub farewell: bool,
}

impl FilterError {
    /// A failure that resets the connection.
    pub fn new(failure: FilterFailure, text: impl Into<Cow<'static, str>>) -> Self {
        Self { failure, text: text.into(), farewell: false }
    }

    /// Sends what the filter still wants to write first.
    pub fn with_farewell(mut self) -> Self {
        self.farewell = true;
        self
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl std::error::Error for FilterError {}
