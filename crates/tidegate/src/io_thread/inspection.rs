//! What tests and the simulation look at, from outside of the loop.

use super::handlers::Timer;
use super::{IoThread, Tally};
use crate::engine::Engine;

impl<E: Engine> IoThread<E> {
    /// What was counted so far.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Send memory charged on this thread, in bytes, without what the floors pay.
    pub(crate) fn charged_bytes(&self) -> usize {
        self.pools.lease.charged()
    }

    /// Messages waiting on this thread.
    pub(crate) fn messages_waiting(&self) -> usize {
        self.pools.messages_waiting()
    }

    /// Sends of this thread with the system, and the most there may be.
    pub(crate) fn sends_outstanding(&self) -> (u32, u32) {
        (self.pools.sends.in_flight(), self.pools.sends.most())
    }

    /// Whether this thread has said that it is short of send memory.
    pub(crate) fn says_short_of_memory(&self) -> bool {
        self.pressure.says_short()
    }

    /// Offloaded jobs of this thread that are outstanding, and the most there may be.
    pub(crate) fn offloads_outstanding(&self) -> (u32, u32) {
        self.context.offloading.outstanding()
    }

    /// Connections of this thread, those that are connecting included.
    pub(crate) fn connections(&self) -> u32 {
        self.connections + self.connecting.len() as u32
    }

    /// Connections in line on this thread.
    pub(crate) fn in_line(&self) -> usize {
        self.in_line.len()
    }

    /// What is noted of slow connections, and rules that connections have of their own.
    pub(crate) fn flows_in_use(&self) -> usize {
        self.pools.flows.in_use()
    }

    /// The most that any queue of this thread may ever have held, in bytes.
    pub(crate) fn queue_bytes_limit(&self) -> usize {
        self.pools.flows.queue_bytes_max()
    }

    /// Arena buffers that are out.
    pub(crate) fn buffers_out(&self) -> u32 {
        // Those that were lent come home when the thread looks next, which one that has ended doesn't do.
        self.pools.arena.collect_returned();
        self.pools.arena.outstanding()
    }

    /// Timers of connections that are over: there must be none, or they would pile up and strike the next user of the slot.
    pub(crate) fn stale_timers(&self) -> usize {
        let is_stale = |timer: Timer| match timer {
            Timer::Machine(index) | Timer::Handler(index, _) | Timer::Filters(index) => {
                !self.slots.get(index).is_some_and(|slot| slot.in_use)
            }
            Timer::SystemAgain(_) | Timer::Connect(_) | Timer::LookUp(_) => false,
            Timer::Reconnect(_) | Timer::AcceptAgain => false,
            Timer::Producers | Timer::GroupHeld => false,
            Timer::HalfGrace | Timer::Grace => false,
        };
        let of_filters = self.filtering.slots().filter(|&index| !self.slots.get(index).is_some_and(|slot| slot.in_use));
        self.context.wheel.values().filter(|&timer| is_stale(timer)).count() + of_filters.count()
    }

    /// The most that a connection of this thread has queued, in bytes.
    pub(crate) fn queued_bytes_max(&mut self) -> usize {
        self.slots
            .iter_mut()
            .filter(|(_, slot)| slot.in_use)
            .map(|(_, slot)| slot.machine.queued_bytes())
            .max()
            .unwrap_or(0)
    }
}
