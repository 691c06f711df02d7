//! Connections with filters: made, established, told the time, and let go. Everything here happens to them alone.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::connecting::Connected;
use super::handlers::{Accepted, Arrival, Timer};
use super::timers::TimerKey;
use super::{IoThread, swallow};
use crate::connection::FilterFailed;
use crate::engine::Engine;
use crate::filter::{Filter, FilterFactory, FilterPeer, Side};
use crate::time::Time;

/// What makes the filters of the connections of one listener or client, from the lowest up.
pub(crate) type Factories = Vec<std::sync::Arc<dyn FilterFactory>>;

/// How soon after the present the filters of a connection look again at the earliest.
const SOON: Duration = Duration::from_millis(1);

/// Filters, each with what it may have on its way, in bytes.
type Made = Vec<(Box<dyn Filter>, usize)>;

/// What an I/O thread knows of connections with filters.
pub(super) struct Filtering {
    /// By the number of the table.
    factories: Vec<Factories>,
    /// How connections came about that have no handler yet, because their filters are not established or they can't be used, by slot.
    pub(super) arrivals: BTreeMap<u32, Arrived>,
    /// When the filters of a connection look at the time next, by slot.
    timers: BTreeMap<u32, (Time, TimerKey)>,
}

/// An [`Arrival`] that waits for its handler.
pub(super) enum Arrived {
    Accepted(Accepted),
    Connected(Connected),
}

impl Arrived {
    pub(super) fn of(arrival: &Arrival<'_>) -> Self {
        match arrival {
            Arrival::Accepted(accepted) => Self::Accepted((*accepted).clone()),
            Arrival::Connected(connected) => Self::Connected((*connected).clone()),
        }
    }
}

impl Filtering {
    pub(super) fn new(factories: Vec<Factories>) -> Self {
        Self { factories, arrivals: BTreeMap::new(), timers: BTreeMap::new() }
    }

    /// Whether the connections of table `table` have filters.
    #[inline(always)]
    pub(super) fn has_factories(&self, table: usize) -> bool {
        !self.factories[table].is_empty()
    }

    /// Timers of filters, and connections that wait for their handlers: both by slot, for the invariants of a simulation.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> {
        self.arrivals.keys().chain(self.timers.keys()).copied()
    }
}

impl<E: Engine> IoThread<E> {
    /// The filters of a connection may have handed on the last that was sent without another send: a task that waits for that goes on.
    #[cold]
    #[inline(never)]
    pub(super) fn tell_of_flush(&mut self, index: u32) {
        let slot = &self.slots[index];
        let waits = slot.handler().is_some_and(|handler| self.tables[slot.table as usize].is_flushing(handler));
        if waits && slot.machine.has_sent_all(index, &self.pools) {
            self.call(index, |table, handler, view| table.on_wake(handler, view));
            self.mark_dirty(index);
        }
    }

    /// Makes the filters of a connection that has just come about. Its handler follows when they are established.
    #[cold]
    #[inline(never)]
    pub(super) fn begin_filters(&mut self, index: u32, arrival: &Arrival<'_>) {
        let peer = match arrival {
            Arrival::Accepted(accepted) => FilterPeer { address: accepted.peer, side: Side::Accepted },
            Arrival::Connected(connected) => FilterPeer { address: connected.peer, side: Side::Connected },
        };
        self.filtering.arrivals.insert(index, Arrived::of(arrival));
        let slot = &mut self.slots[index];
        let factories = &self.filtering.factories[slot.table as usize];
        let make = || -> Result<Made, FilterFailed> {
            let made = factories.iter().map(|factory| Ok((factory.make(&peer)?, factory.reserve().write_bytes)));
            made.collect::<Result<_, _>>().map_err(FilterFailed::Error)
        };
        match catch_unwind(AssertUnwindSafe(make)).map_err(FilterFailed::Panicked).flatten() {
            Ok(filters) => slot.machine.begin_filtered(filters, index, self.context.now, &mut self.pools),
            Err(failed) => {
                slot.machine.abort_for_filters(&failed, &mut self.pools);
                self.say_failed(index, failed);
            }
        }
    }

    /// The filters of a connection are established: its handler is made.
    #[cold]
    #[inline(never)]
    pub(super) fn established(&mut self, index: u32) {
        let described = self.slots[index].machine.describe(index, &mut self.pools);
        let description = match described {
            Ok(description) => std::sync::Arc::new(description),
            // Who has asked for it is told when it is over.
            Err(panic) => return self.panicked(index, panic),
        };
        let Some(arrived) = self.filtering.arrivals.remove(&index) else {
            debug_assert!(false, "filters established twice");
            return;
        };
        match arrived {
            Arrived::Accepted(mut accepted) => {
                accepted.description = Some(description);
                self.make_handler(index, &Arrival::Accepted(&accepted));
            }
            Arrived::Connected(mut connected) => {
                connected.description = Some(description);
                self.make_handler(index, &Arrival::Connected(&connected));
            }
        }
    }

    /// Says in the log how filters have failed.
    #[cold]
    #[inline(never)]
    pub(super) fn say_failed(&self, index: u32, failed: FilterFailed) {
        match failed {
            FilterFailed::Error(error) => {
                tracing::debug!(connection = index, failure = ?error.failure, %error, "a filter ends its connection");
            }
            FilterFailed::Panicked(panic) => swallow(panic, "a filter panicked: its connection is closed"),
        }
    }

    /// Sets the timer of the filters of a connection, unless it goes off early enough as it is.
    #[cold]
    #[inline(never)]
    pub(super) fn attend_filters(&mut self, index: u32) {
        let Some(look) = self.slots[index].machine.filters_look(index, &self.pools) else { return };
        // A filter that names a time that is over, again and again, does not keep the thread from everything else.
        let look = look.max(self.context.now + SOON);
        let set = self.filtering.timers.get(&index);
        if set.is_none_or(|&(time, _)| look < time) {
            if let Some(&(_, timer)) = set {
                self.context.wheel.cancel(timer);
            }
            let timer = self.context.wheel.insert(look, Timer::Filters(index));
            self.filtering.timers.insert(index, (look, timer));
        }
    }

    /// It is time for the filters of a connection to look.
    #[cold]
    #[inline(never)]
    pub(super) fn filters_look(&mut self, index: u32) {
        self.filtering.timers.remove(&index);
        let failed = self.slots[index].machine.filters_time_passed(index, self.context.now, &mut self.pools);
        if let Some(failed) = failed {
            self.say_failed(index, *failed);
        }
        self.mark_dirty(index);
    }

    /// A connection with filters, or without any because they could not be made, is over.
    #[cold]
    #[inline(never)]
    pub(super) fn release_filters(&mut self, index: u32) {
        if let Some((_, timer)) = self.filtering.timers.remove(&index) {
            self.context.wheel.cancel(timer);
        }
        if let Some(panic) = self.slots[index].machine.release_filters(index, &mut self.pools) {
            swallow(panic, "a filter panicked when it was dropped");
        }
    }
}
