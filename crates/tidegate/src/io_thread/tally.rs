//! What an I/O thread counts.

use super::acceptor::RefusedBecause;
use crate::connection::CloseReason;

/// What an I/O thread has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Connections that were served: those included whose filters were never established, which had no handler.
    pub opened: u64,
    /// Those of them that we connected.
    pub connected: u64,
    /// Connections that were asked for and did not come about.
    pub connects_failed: u64,
    /// Bytes received and not thrown away.
    pub bytes_received: u64,
    /// Bytes that the system has taken.
    pub bytes_sent: u64,
    /// Messages that policies of send queues have dropped, and their bytes.
    pub dropped_messages: u64,
    pub dropped_bytes: u64,
    /// Connections by the number of their close reason.
    pub closed: [u64; CloseReason::COUNT],
    /// Connections that were turned away, by the number of the reason.
    pub refused: [u64; RefusedBecause::COUNT],
}
