//! The account of time: what is due, kept apart from the machine and in a simpler way.

use super::*;
use crate::connection::machine::Life;
use crate::connection::marks::Mark;

impl World {
    pub(super) fn is_over(&self) -> bool {
        matches!(self.machine.life, Life::Closing(_) | Life::Closed)
    }

    /// Whether something waits to be sent.
    pub(super) fn is_sendable(&self) -> bool {
        let nothing = self.queued.is_empty() && self.begun.is_empty();
        !self.is_over() && !nothing
    }

    /// A message was taken, and nothing waited before it.
    pub(super) fn account_wait(&mut self) {
        self.paced = self.now;
        self.taken_bytes = 0;
    }

    /// The system took `bytes`.
    pub(super) fn account_taken(&mut self, bytes: usize) {
        self.spoke = true;
        self.active = self.now;
        self.taken_bytes += bytes as u64;
        let wanted = self.pools.flow.min_send_progress.map_or(0, |progress| progress.bytes);
        if self.taken_bytes >= wanted || self.begun.is_empty() && self.offers_all {
            self.account_wait();
        }
    }

    /// The peer sent `bytes`.
    pub(super) fn account_heard(&mut self, bytes: usize) {
        self.spoke = true;
        self.active = self.now;
        let Some(rate) = self.pools.flow.min_receive_rate else { return };
        self.heard_bytes += bytes as u64;
        if self.rate_passed.is_none() || self.heard_bytes >= rate.bytes {
            self.rate_passed = Some(Duration::ZERO);
            self.rate_runs_since = (self.receive == Receive::On).then_some(self.now);
            self.heard_bytes = 0;
        }
    }

    /// The server doesn't ask for data any more.
    pub(super) fn stop_rate(&mut self) {
        let runs_since = self.rate_runs_since.take();
        if let (Some(passed), Some(since)) = (&mut self.rate_passed, runs_since) {
            *passed += self.now.saturating_since(since);
        }
    }

    /// Everything for which the connection may end now.
    pub(super) fn overdue(&self) -> Vec<CloseReason> {
        let mut due = Vec::new();
        if self.is_over() {
            return due;
        }
        let flow = &self.pools.flow;
        if self.closing && !self.shut && self.now >= self.machine.deadline() {
            due.push(CloseReason::CloseTimeout);
        }
        let since = |since: Time| self.now.saturating_since(since);
        let lingers = self.closing && self.shut;
        if let Some(progress) = flow.min_send_progress
            && self.in_flight.is_some()
            && since(self.paced) >= progress.within
            && !lingers
        {
            due.push(CloseReason::SendTooSlow);
        }
        if !self.machine.is_open() {
            return due;
        }
        // Who waits for a turn, or for the system to have memory, doesn't wait for its peer.
        let wait_limit = match self.control.overflow {
            Overflow::Wait { limit } => limit,
            _ => None,
        };
        let refusing_since = self.refusing_since.filter(|_| !self.shutdown_called);
        let clocks =
            [(refusing_since, wait_limit), (self.over_mark.then_some(self.over_since), self.control.over_mark_limit)];
        let is_late = clocks.into_iter().any(|(since, limit)| {
            since.zip(limit).is_some_and(|(since, limit)| self.now.saturating_since(since) >= limit)
        });
        if is_late && self.pace_held.is_none() {
            due.push(CloseReason::SlowConsumer);
        }
        // Who waits for memory is silent because of the server.
        let excused = self.machine.waits_for_memory();
        if !self.spoke && !excused && flow.first_byte_timeout.is_some_and(|timeout| since(self.active) >= timeout) {
            due.push(CloseReason::FirstByteTimeout);
        }
        if self.is_idle() && !excused && flow.idle_timeout.is_some_and(|timeout| since(self.active) >= timeout) {
            due.push(CloseReason::IdleTimeout);
        }
        if let (Some(rate), Some(passed), Some(runs_since)) =
            (flow.min_receive_rate, self.rate_passed, self.rate_runs_since)
            && passed + since(runs_since) >= rate.within
        {
            due.push(CloseReason::ReceiveTooSlow);
        }
        due
    }

    /// The machine looks at the time: what is busy now was not idle before, nor what waits for memory.
    pub(super) fn account_look(&mut self) {
        if self.machine.waits_for_memory() || !self.is_idle() && self.spoke {
            self.active = self.now;
        }
        if self.pace_held.is_some() && self.machine.is_open() && self.machine.marks.has(Mark::QueueWatched) {
            // ... and who waits for a turn has the whole time again.
            if self.over_mark {
                self.over_before += self.now.saturating_since(self.over_since);
                self.over_since = self.now;
            }
            self.refusing_since = self.refusing_since.map(|_| self.now);
        }
    }

    fn is_idle(&self) -> bool {
        self.in_flight.is_none() && !self.is_sendable() && self.delivered == self.received
    }
}
