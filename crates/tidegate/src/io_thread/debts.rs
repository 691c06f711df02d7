//! A second account of who is owed what, kept where a simulation looks: that of a connection says nothing when it is wrong itself.

use std::collections::BTreeSet;
use std::time::Duration;

use super::shared::ConnectionKey;
use super::timers::TICK_NANOS;
use super::{IoThread, Listed, Phase, is_current};
use crate::engine::Engine;
use crate::time::Time;

/// Connections whose handlers are owed an `on_writable`. Empty unless [`Engine::IS_CHECKED`].
#[derive(Default)]
pub(super) struct Debts {
    writable: BTreeSet<(u32, u32)>,
}

impl<E: Engine> IoThread<E> {
    /// A handler has returned: what it was promised is noted.
    #[inline]
    pub(super) fn note_debt(&mut self, index: u32) {
        if E::IS_CHECKED && self.slots[index].machine.owes_writable() {
            self.debts.writable.insert((index, self.slots[index].key.generation));
        }
    }

    /// `on_writable` is about to be called.
    #[inline]
    pub(super) fn pay_debt(&mut self, index: u32) {
        if E::IS_CHECKED {
            self.debts.writable.remove(&(index, self.slots[index].key.generation));
        }
    }

    /// A debt that was forgotten, between two turns.
    pub(crate) fn forgotten_debt(&mut self) -> Option<String> {
        let slots = &self.slots;
        let machine = |slot: u32, generation: u32| {
            is_current(slots, ConnectionKey { slot, generation })
                .then(|| slots.get(slot))
                .flatten()
                .map(|slot| &slot.machine)
        };
        self.debts
            .writable
            .retain(|&(slot, generation)| machine(slot, generation).is_some_and(|one| one.may_be_told()));
        let forgotten =
            |&&(slot, generation): &&(u32, u32)| machine(slot, generation).is_some_and(|one| !one.owes_writable());
        let &(slot, _) = self.debts.writable.iter().find(forgotten)?;
        Some(format!("connection {slot} was promised on_writable, and will not be told"))
    }

    /// A connection for which something was to be done and has not been, between two turns.
    pub(crate) fn neglected(&mut self) -> Option<String> {
        let pools = &self.pools;
        let settled = self.slots.iter_mut().filter(|(_, slot)| slot.in_use && !slot.listed.is_in(Listed::DIRTY));
        let mut neglected = settled.filter_map(|(index, slot)| Some((index, slot.machine.neglected(pools)?)));
        neglected.next().map(|(index, how)| format!("connection {index} {how}"))
    }

    /// A line that counts others than those who stand in it, between two turns: it would keep their places for ever.
    pub(crate) fn miscounted_line(&mut self) -> Option<String> {
        let lines = [
            ("send memory", Listed::MEMORY_LINE, self.memory_line.count()),
            ("a turn to send", Listed::SEND_LINE, self.send_line.count()),
        ];
        lines.into_iter().find_map(|(what, list, count)| {
            let standing = self.slots.iter_mut().filter(|(_, slot)| slot.in_use && slot.listed.is_in(list)).count();
            (standing != count)
                .then(|| format!("{standing} connections wait for {what}, and their line counts {count}"))
        })
    }

    /// A time at which something must happen and nobody looks, between two turns.
    pub(crate) fn lost_timer(&mut self) -> Option<String> {
        let (pools, wheel, now) = (&self.pools, &self.context.wheel, self.context.now);
        let lost = self.context.handler_timers.iter().find(|(_, key)| wheel.deadline_of(**key).is_none());
        if let Some(((index, timer), _)) = lost {
            return Some(format!("timer {timer} of connection {index} is set, and will not fire"));
        }
        if self.phase == Phase::Draining && now > self.grace_ends + Duration::from_nanos(TICK_NANOS) {
            return Some(format!("the grace of the drain was over at {}, and is not at {now}", self.grace_ends));
        }
        let settled = self.slots.iter_mut().filter(|(_, slot)| slot.in_use && !slot.listed.is_in(Listed::DIRTY));
        let mut late = settled.filter_map(|(index, slot)| {
            if slot.machine.awaits_rearming() {
                return Some(format!("connection {index} waits for its timer to be set"));
            }
            let latest = slot.machine.latest_look(now, pools);
            let armed = slot.timer.and_then(|key| wheel.deadline_of(key)).unwrap_or(Time::MAX);
            (armed > latest)
                .then(|| format!("something of connection {index} is due at {latest}, and its timer is set to {armed}"))
        });
        late.next()
    }
}
