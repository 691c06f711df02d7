//! What a server has done.

use crate::connection::CloseReason;
use crate::io_thread::{RefusedBecause, Tally};

/// What a server has done from start to end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    tally: Tally,
}

impl Report {
    pub(crate) fn add(&mut self, tally: &Tally) {
        self.tally.opened += tally.opened;
        self.tally.connected += tally.connected;
        self.tally.connects_failed += tally.connects_failed;
        self.tally.bytes_received += tally.bytes_received;
        self.tally.bytes_sent += tally.bytes_sent;
        self.tally.dropped_messages += tally.dropped_messages;
        self.tally.dropped_bytes += tally.dropped_bytes;
        for (sum, count) in self.tally.closed.iter_mut().zip(tally.closed) {
            *sum += count;
        }
        for (sum, count) in self.tally.refused.iter_mut().zip(tally.refused) {
            *sum += count;
        }
    }

    /// Connections that were established, accepted and outgoing ones, without those that were [refused](Self::refused).
    pub fn connections(&self) -> u64 {
        self.tally.opened
    }

    /// Those of them that were outgoing, asked for with a [`Connector`](crate::Connector).
    pub fn connected(&self) -> u64 {
        self.tally.connected
    }

    /// Connections that were asked for and were not established.
    pub fn connects_failed(&self) -> u64 {
        self.tally.connects_failed
    }

    /// Connections turned away for this reason.
    pub fn refused(&self, because: RefusedBecause) -> u64 {
        self.tally.refused[because.number()]
    }

    /// How many connections were turned away for each reason, by its [name](RefusedBecause::name); reasons that did not occur included.
    pub fn refused_by_cause(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RefusedBecause::NAMES.into_iter().zip(self.tally.refused)
    }

    /// Bytes received, without what was thrown away after a close.
    pub fn bytes_received(&self) -> u64 {
        self.tally.bytes_received
    }

    /// Bytes that the system has taken for sending.
    pub fn bytes_sent(&self) -> u64 {
        self.tally.bytes_sent
    }

    /// Messages that the policies of send queues have dropped ([`Overflow`](crate::Overflow)).
    pub fn dropped_messages(&self) -> u64 {
        self.tally.dropped_messages
    }

    /// Bytes that they would have put on the wire.
    pub fn dropped_bytes(&self) -> u64 {
        self.tally.dropped_bytes
    }

    /// How many connections ended for `reason`, whatever numbers it carries.
    pub fn closed(&self, reason: &CloseReason) -> u64 {
        self.tally.closed[reason.number()]
    }

    /// How many connections ended for each reason, by its [name](CloseReason::name); reasons that did not occur included.
    pub fn closed_by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CloseReason::NAMES.into_iter().zip(self.tally.closed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_page_on_operating_has_every_reason_and_every_cause() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operating.md");
        let page = std::fs::read_to_string(page).expect("the page");
        for name in CloseReason::NAMES.iter().chain(&RefusedBecause::NAMES) {
            assert!(page.contains(&format!("`{name}`")), "{name} is not in docs/operating.md");
        }
    }
}
