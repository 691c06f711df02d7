//! What connections wait for: send memory, a turn to send, a system that has memory again, a moment to look at the time.

use super::handlers::Timer;
use super::shortage::Verdict;
use super::{IoThread, Listed, is_current};
use crate::connection::CloseReason;
use crate::engine::Engine;
use crate::time::Time;

/// Connections waiting for send memory that one turn lets try again.
const MEMORY_TURNS: usize = 16;

impl<E: Engine> IoThread<E> {
    /// What a connection wants besides its steps: a place in a line, its timer set, a pause because the system is out of memory.
    #[inline(never)]
    pub(super) fn attend(&mut self, index: u32) {
        let now = self.context.now;
        let slot = &mut self.slots[index];
        let key = slot.key;
        if slot.machine.waits_for_memory() && !slot.listed.is_in(Listed::MEMORY_LINE) {
            slot.listed.enter(Listed::MEMORY_LINE);
            self.memory_line.join(key);
        }
        if slot.machine.waits_to_send() && !slot.listed.is_in(Listed::SEND_LINE) {
            slot.listed.enter(Listed::SEND_LINE);
            self.send_line.join(key);
        }
        if slot.machine.wants_rearming() {
            if let Some(timer) = slot.timer.take() {
                self.context.wheel.cancel(timer);
            }
            let look = slot.machine.next_look(now, &self.pools);
            if look != Time::MAX {
                slot.timer = Some(self.context.wheel.insert(look, Timer::Machine(key.slot)));
            }
        }
        if slot.machine.is_filtered() {
            self.attend_filters(index);
        }
        let slot = &mut self.slots[index];
        if let Some(begins) = slot.machine.shortage() {
            match self.shortages.found(index, begins, now) {
                Verdict::Waits => {}
                Verdict::TryAgainAt(time) => {
                    self.context.wheel.insert(time, Timer::SystemAgain(key.slot));
                }
                Verdict::GiveUp => {
                    tracing::warn!(
                        connection = index,
                        "the system stays out of memory for sockets: a connection is closed"
                    );
                    slot.machine.abort(CloseReason::SystemMemory, &mut self.pools);
                    self.mark_dirty(index);
                }
            }
        }
        if self.slots[index].machine.abandons_offloads() {
            self.abandon_offloads(key);
        }
    }

    /// Gives turns to send to those in line, as many as there are.
    pub(super) fn give_turns(&mut self) {
        if !self.send_line.is_empty() {
            self.serve_send_line();
        }
    }

    #[cold]
    #[inline(never)]
    fn serve_send_line(&mut self) {
        while self.pools.sends.has_room() {
            let slots = &self.slots;
            let Some(key) = self.send_line.next(|key| is_current(slots, key)) else { return };
            let slot = &mut self.slots[key.slot];
            slot.listed.leave(Listed::SEND_LINE);
            if slot.machine.waits_to_send() {
                slot.machine.turn_to_send(&mut self.pools);
                self.mark_dirty(key.slot);
            }
        }
    }

    /// Lets connections that wait for send memory try again, first come first served.
    pub(super) fn retry_memory(&mut self) {
        if self.memory_line.is_empty() {
            self.nobody_waits_for_memory();
        } else {
            self.serve_memory_line();
        }
    }

    #[cold]
    #[inline(never)]
    fn serve_memory_line(&mut self) {
        self.somebody_waits_for_memory();
        for _ in 0..MEMORY_TURNS {
            if !self.pools.can_charge_reply() {
                return;
            }
            let slots = &self.slots;
            let Some(key) = self.memory_line.next(|key| is_current(slots, key)) else { return };
            let slot = &mut self.slots[key.slot];
            slot.listed.leave(Listed::MEMORY_LINE);
            slot.machine.memory_is_back();
            self.mark_dirty(key.slot);
        }
        self.more_to_do |= !self.memory_line.is_empty();
    }
}
