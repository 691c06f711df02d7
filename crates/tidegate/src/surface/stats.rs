//! What a server is doing now.

use crate::connection::CloseReason;
use crate::io_thread::{OverflowStats, RefusedBecause, ServerShared, StatsSum};

/// What a server is doing and has done so far, as [`ServerHandle::stats`](crate::ServerHandle::stats) found it. The counters are
/// published by each I/O thread once a turn of its loop, so those of a busy server are of slightly different moments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    connections: u32,
    publish_memory_bytes: usize,
    sum: StatsSum,
}

impl Stats {
    pub(super) fn of(shared: &ServerShared) -> Self {
        let mut sum = StatsSum::default();
        for thread in &shared.threads {
            thread.stats.add_to(&mut sum);
        }
        let pool = &shared.publishing.pool;
        Self { connections: shared.connections(), publish_memory_bytes: pool.total() - pool.free(), sum }
    }

    /// Connections now, those on their way to their I/O thread included.
    pub fn connections(&self) -> u32 {
        self.connections
    }

    /// Connections opened so far.
    pub fn opened(&self) -> u64 {
        self.sum.opened
    }

    /// Connections turned away for this reason so far.
    pub fn refused(&self, because: RefusedBecause) -> u64 {
        self.sum.refused[because.number()]
    }

    /// Bytes received so far, without what was thrown away after a close.
    pub fn bytes_received(&self) -> u64 {
        self.sum.bytes_received
    }

    /// Bytes that the system has taken for sending so far.
    pub fn bytes_sent(&self) -> u64 {
        self.sum.bytes_sent
    }

    /// Messages that the policies of send queues have dropped so far.
    pub fn dropped_messages(&self) -> u64 {
        self.overflows().map(|overflows| overflows.dropped_messages).sum()
    }

    /// Bytes that they would have put on the wire.
    pub fn dropped_bytes(&self) -> u64 {
        self.overflows().map(|overflows| overflows.dropped_bytes).sum()
    }

    /// What the policies of send queues have done so far, and who is slow now: for each listener in the order in which they were
    /// described, and then for each client.
    pub fn overflows(&self) -> impl Iterator<Item = &OverflowStats> {
        self.sum.overflows.iter()
    }

    /// Receive buffers that handlers hold, that wait to be sent, are being sent, or are lent. An idle connection has none.
    pub fn buffers_in_use(&self) -> u32 {
        self.sum.buffers_in_use
    }

    /// Send memory in use now, in bytes, beyond what the floors of the connections pay.
    pub fn send_memory_bytes(&self) -> u64 {
        self.sum.send_memory_bytes
    }

    /// Publish memory in use now, in bytes: what was published to groups and not sent to everybody yet.
    pub fn publish_memory_bytes(&self) -> usize {
        self.publish_memory_bytes
    }

    /// How many connections were refused for each cause so far, by its name; causes that did not occur included.
    pub fn refused_by_cause(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RefusedBecause::NAMES.into_iter().zip(self.sum.refused)
    }

    /// Connections that ended for `reason` so far, whatever numbers it carries.
    pub fn closed(&self, reason: &CloseReason) -> u64 {
        self.sum.closed[reason.number()]
    }

    /// Connections that ended for each reason so far, by its [name](CloseReason::name); reasons that did not occur included.
    pub fn closed_by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CloseReason::NAMES.into_iter().zip(self.sum.closed)
    }
}
