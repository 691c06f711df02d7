//! Asking the selector: a look around before sleeping.

use std::io;
use std::time::{Duration, Instant};

use super::ReadinessEngine;
use crate::time::Time;

impl ReadinessEngine {
    /// Asks the selector what has changed, and waits for it until `deadline` (`None`: for ever) if there is nothing else to
    /// report or to do. Sets the time.
    pub(super) fn look(&mut self, deadline: Option<Time>, has_completions: bool) -> io::Result<()> {
        let busy = has_completions || !self.has_more.is_empty() || self.listeners.has_more();
        let may_wait = !busy && !self.wake.is_announced() && deadline.is_none_or(|deadline| deadline > self.now);
        let result = if may_wait { self.spin_then_sleep(deadline) } else { self.ask(Some(Duration::ZERO)) };
        // A request is an event and the send that answers it.
        self.spin.saw_batch(2 * self.events.len() as u64);
        self.counters.completions += self.events.len() as u64;
        self.now = self.clock().max(self.now);
        result
    }

    /// Looks for changes for a while, sleeps if there were none.
    fn spin_then_sleep(&mut self, deadline: Option<Time>) -> io::Result<()> {
        let left = |engine: &Self| deadline.map(|deadline| deadline.saturating_since(engine.clock()));
        if self.spin.is_busy() {
            // There is nothing to learn for a spin that would not be made anyway.
            return self.ask(left(self));
        }
        let look = self.spin.look();
        let began = Instant::now();
        if !look.is_zero() {
            let look = left(self).map_or(look, |left| look.min(left));
            loop {
                self.ask(Some(Duration::ZERO))?;
                if !self.events.is_empty() || self.wake.is_announced() {
                    self.spin.learn(began.elapsed());
                    return Ok(());
                }
                if began.elapsed() >= look {
                    break;
                }
            }
        }
        let result = self.ask(left(self));
        self.spin.learn(began.elapsed());
        result
    }

    fn ask(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.counters.polls += 1;
        self.selector.wait(limit, &mut self.events)
    }

    fn clock(&self) -> Time {
        Time::ZERO.saturating_add(self.began.elapsed())
    }
}
