//! From serving to draining to the end: what a thread does when the server enters a new phase.

use super::{IoThread, Listed, Phase, Timer};
use crate::connection::CloseReason;
use crate::engine::{Engine, SocketId};

impl<E: Engine> IoThread<E> {
    /// Does what a new phase of the server asks for, once.
    pub(super) fn follow_phase(&mut self) {
        let phase = self.shared.phase();
        if phase > self.phase {
            self.enter_phase(phase);
        }
    }

    #[cold]
    #[inline(never)]
    fn enter_phase(&mut self, phase: Phase) {
        self.phase = phase;
        self.context.is_draining = true;
        self.cancel_connects();
        self.groups_follow(phase);
        if let Some(acceptor) = &mut self.acceptor {
            acceptor.close(&mut self.engine);
        }
        match phase {
            Phase::Running => {}
            Phase::Draining => {
                self.context.wheel.insert(self.context.now + self.shutdown_grace / 2, Timer::HalfGrace);
                self.grace_ends = self.context.now + self.shutdown_grace;
                self.context.wheel.insert(self.grace_ends, Timer::Grace);
                // Every connection is looked at in flush: what is idle is closed there.
                for index in self.mark_all_dirty() {
                    self.call(index, |table, handler, view| table.on_drain(handler, view));
                }
            }
            Phase::Aborting => self.abort_all(),
        }
    }

    /// While draining: closes a connection that is idle, and for which nothing is left to be delivered.
    #[cold]
    #[inline(never)]
    pub(super) fn close_if_idle(&mut self, index: u32) {
        let slot = &self.slots[index];
        let socket = SocketId { index, generation: slot.key.generation };
        let is_busy = slot.handler().is_some_and(|handler| self.tables[slot.table as usize].is_busy(handler));
        // A client in the middle of a handshake is about to ask for something: it has the time that there is for handshakes. Who is connected
        // to by ourselves is not asked any more.
        let is_client = usize::from(slot.table) < self.addresses.len();
        let is_busy = is_busy || is_client && slot.machine.is_being_established(index, &self.pools);
        let is_idle = slot.machine.is_idle() && self.engine.unread_bytes(socket) == 0 && !is_busy;
        if is_idle && !self.stays_for_publications() {
            self.slots[index].machine.close(CloseReason::Drained, self.context.now, &mut self.pools);
        }
    }

    /// Half of the grace period is over, and some connections were never idle: they are closed in order, so that no peer that goes on
    /// talking is reset.
    #[cold]
    #[inline(never)]
    pub(super) fn close_all(&mut self) {
        for (index, slot) in self.slots.iter_mut().filter(|(_, slot)| slot.in_use) {
            slot.machine.close(CloseReason::Drained, self.context.now, &mut self.pools);
            if !slot.listed.is_in(Listed::DIRTY) {
                slot.listed.enter(Listed::DIRTY);
                self.dirty.push(index);
            }
        }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn abort_all(&mut self) {
        self.phase = Phase::Aborting;
        self.serve_line();
        self.mark_all_dirty();
    }

    #[cold]
    #[inline(never)]
    pub(super) fn mark_all_dirty(&mut self) -> Vec<u32> {
        let live: Vec<u32> = self.slots.iter_mut().filter(|(_, slot)| slot.in_use).map(|(index, _)| index).collect();
        for &index in &live {
            self.mark_dirty(index);
        }
        live
    }
}
