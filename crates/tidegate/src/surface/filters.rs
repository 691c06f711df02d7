//! The filters of a listener or a client, as they are described.

use std::fmt;

use crate::connection::{FILTER_BYTES, FILTERED_BYTES};
use crate::filter::{FilterFactory, Reserve, SharedReserve};
use crate::io_thread::Factories;
use crate::memory::MESSAGE_OVERHEAD_BYTES;

/// What makes the filters of each connection, and what may be added to them later.
#[derive(Clone, Default)]
pub(super) struct FilterKit {
    factories: Factories,
    later: Vec<Reserve>,
}

impl FilterKit {
    pub(super) fn add(&mut self, factory: impl FilterFactory) {
        self.factories.push(std::sync::Arc::new(factory));
    }

    pub(super) fn add_later(&mut self, reserve: Reserve) {
        self.later.push(reserve);
    }

    pub(super) fn factories(&self) -> Factories {
        self.factories.clone()
    }

    /// What a filter that is added later may have on its way.
    pub(super) fn later_write_bytes(&self) -> usize {
        self.later.iter().map(|reserve| reserve.write_bytes).max().unwrap_or(0)
    }

    /// How many may be added later.
    pub(super) fn later_count(&self) -> usize {
        self.later.len()
    }

    fn shared_reserves(&self) -> impl Iterator<Item = SharedReserve> {
        self.factories.iter().map(|factory| factory.shared_reserve())
    }

    /// What the filters of one connection take, without those that are added later.
    pub(super) fn own_bytes(&self) -> usize {
        sum(self.factories.iter().map(|factory| filter_bytes(factory.reserve())))
    }

    /// What each of those that are added later takes in the worst case besides what it writes.
    pub(super) fn later_state_bytes(&self) -> usize {
        sum(self.later.iter().map(|reserve| filter_bytes(Reserve { write_bytes: 0, ..*reserve })))
    }
}

fn filter_bytes(reserve: Reserve) -> usize {
    sum([FILTER_BYTES + MESSAGE_OVERHEAD_BYTES, reserve.state_bytes, reserve.write_bytes])
}

/// A sum that stays at the largest number when it comes there: more than any machine has, in any case.
fn sum(terms: impl IntoIterator<Item = usize>) -> usize {
    terms.into_iter().fold(0, usize::saturating_add)
}

/// What filters take for each connection at worst, over all listeners and clients. A connection has those of one of them, and gives them
/// back when it ends: so the most of any, and not the sum. Nothing if nobody has filters.
pub(super) fn filters_bytes<'a>(kits: impl Iterator<Item = &'a FilterKit> + Clone) -> usize {
    let most = |bytes: fn(&FilterKit) -> usize| kits.clone().map(bytes).max().unwrap_or(0);
    let (own, later) = (most(FilterKit::own_bytes), most(FilterKit::later_state_bytes));
    let later_writes = most(FilterKit::later_count).saturating_mul(most(FilterKit::later_write_bytes));
    match own.saturating_add(later) {
        0 => 0,
        bytes => sum([FILTERED_BYTES, bytes, later_writes]),
    }
}

/// What filters take besides, however many connections there are: what each factory keeps for all, and what one call takes on each I/O
/// thread.
pub(super) fn shared_bytes<'a>(kits: impl Iterator<Item = &'a FilterKit> + Clone, threads: usize) -> usize {
    let shared = sum(kits.clone().flat_map(FilterKit::shared_reserves).map(|reserve| reserve.shared_bytes));
    let call = kits.flat_map(FilterKit::shared_reserves).map(|reserve| reserve.call_bytes).max().unwrap_or(0);
    shared.saturating_add(threads.saturating_mul(call))
}

impl fmt::Debug for FilterKit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FilterKit").field("filters", &self.factories.len()).field("later", &self.later).finish()
    }
}
