//! What one connection may hold and how long its ending may take.

use std::time::Duration;

/// So many bytes in so much time, at least.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MinProgress {
    /// Bytes, at least 1.
    pub bytes: u64,
    /// In this much time, above zero.
    pub within: Duration,
}

impl MinProgress {
    /// `bytes` in each period of `within`.
    pub const fn new(bytes: u64, within: Duration) -> Self {
        Self { bytes, within }
    }
}

/// The limits of one connection, as its state machine uses them, without those of its send queue, which are
/// [`Rules`](super::rules::Rules). Made from [`Limits`](crate::Limits), which documents
/// each and has checked that they fit together.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    /// What the connection may charge to send memory without asking the common reserve.
    pub floor_bytes: usize,
    /// Arena buffers that it may hold.
    pub held_buffers: u32,
    /// What a reply to one `on_read` is promised (a reply with the received buffer itself always fits).
    pub reply_bytes: usize,
    /// How long a close may take to send what is queued.
    pub close_timeout: Duration,
    /// How long to wait for the peer to finish after we did.
    pub linger_timeout: Duration,
    /// How many bytes to throw away meanwhile.
    pub linger_bytes: u64,
    /// How long until the first byte goes either way.
    pub first_byte_timeout: Option<Duration>,
    /// How long without a byte either way.
    pub idle_timeout: Option<Duration>,
    /// How fast the peer must take what waits for it.
    pub min_send_progress: Option<MinProgress>,
    /// How fast the peer must send while it is read from.
    pub min_receive_rate: Option<MinProgress>,
}
