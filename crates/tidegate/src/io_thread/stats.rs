//! What an I/O thread publishes of itself, for whoever asks from another thread.

use super::acceptor::RefusedBecause;
use super::producers::{OverflowStats, TableStats};
use crate::connection::CloseReason;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Counters of one I/O thread. Only the thread writes, once a turn; each is true by itself, and together they are of about the
/// same turn.
#[derive(Default)]
pub(crate) struct ThreadStats {
    opened: AtomicU64,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
    send_memory_bytes: AtomicU64,
    buffers_in_use: AtomicU32,
    closed: [AtomicU64; CloseReason::COUNT],
    refused: [AtomicU64; RefusedBecause::COUNT],
    /// What the policies of send queues have done, for each listener and then each client.
    pub(crate) tables: Box<[TableStats]>,
}

/// What was read of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StatsSum {
    pub opened: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub send_memory_bytes: u64,
    pub buffers_in_use: u32,
    pub closed: [u64; CloseReason::COUNT],
    pub refused: [u64; RefusedBecause::COUNT],
    /// For each listener, and then each client.
    pub overflows: Vec<OverflowStats>,
}

impl ThreadStats {
    /// For a thread with so many tables of handlers.
    pub(super) fn new(tables: usize) -> Self {
        Self { tables: (0..tables).map(|_| TableStats::default()).collect(), ..Self::default() }
    }

    /// Publishes what changes all the time.
    pub(super) fn publish(&self, bytes_received: u64, bytes_sent: u64, send_memory_bytes: u64, buffers_in_use: u32) {
        self.bytes_received.store(bytes_received, Ordering::Relaxed);
        self.bytes_sent.store(bytes_sent, Ordering::Relaxed);
        self.send_memory_bytes.store(send_memory_bytes, Ordering::Relaxed);
        self.buffers_in_use.store(buffers_in_use, Ordering::Relaxed);
    }

    /// So many connections have been opened.
    pub(super) fn publish_opened(&self, opened: u64) {
        self.opened.store(opened, Ordering::Relaxed);
    }

    /// So many have been closed for `reason`.
    pub(super) fn publish_closed(&self, reason: CloseReason, count: u64) {
        self.closed[reason.number()].store(count, Ordering::Relaxed);
    }

    /// So many have been turned away for this reason.
    pub(super) fn publish_refused(&self, because: RefusedBecause, count: u64) {
        self.refused[because.number()].store(count, Ordering::Relaxed);
    }

    /// Adds them to `sum`.
    pub(crate) fn add_to(&self, sum: &mut StatsSum) {
        sum.opened += self.opened.load(Ordering::Relaxed);
        sum.bytes_received += self.bytes_received.load(Ordering::Relaxed);
        sum.bytes_sent += self.bytes_sent.load(Ordering::Relaxed);
        sum.send_memory_bytes += self.send_memory_bytes.load(Ordering::Relaxed);
        sum.buffers_in_use += self.buffers_in_use.load(Ordering::Relaxed);
        for (sum, count) in sum.closed.iter_mut().zip(&self.closed) {
            *sum += count.load(Ordering::Relaxed);
        }
        for (sum, count) in sum.refused.iter_mut().zip(&self.refused) {
            *sum += count.load(Ordering::Relaxed);
        }
        sum.overflows.resize(self.tables.len(), OverflowStats::default());
        for (sum, table) in sum.overflows.iter_mut().zip(&self.tables) {
            sum.add(&table.read());
        }
    }
}
