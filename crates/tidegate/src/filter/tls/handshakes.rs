//! How many handshakes may go on at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::filter::{FilterError, FilterFailure};

/// The handshakes of one factory, over all I/O threads.
#[derive(Debug)]
pub(super) struct Handshakes {
    limit: usize,
    count: AtomicUsize,
}

/// One handshake that goes on.
pub(super) struct Slot(Arc<Handshakes>);

impl Handshakes {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, count: AtomicUsize::new(0) })
    }

    /// Begins one, until the slot is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Result<Slot, FilterError> {
        // Relaxed: the count guards nothing but itself.
        let more = |count: usize| (count < self.limit).then_some(count + 1);
        match self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Slot(Arc::clone(self))),
            Err(count) => Err(FilterError::new(
                FilterFailure::Busy,
                format!("{count} of {} TLS handshakes go on already (max_handshakes)", self.limit),
            )),
        }
    }

    /// How many go on.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}
