//! A connection whose handler has work done elsewhere: it is not idle meanwhile, its peer's end waits for the results, and with
//! too much of it outstanding the connection is not read from.

use super::machine::{Life, Machine};
use super::marks::{Mark, Marks};
use crate::time::Time;

impl Machine {
    /// One more job is outstanding; `full`: no other may be.
    pub(crate) fn offload_begun(&mut self, full: bool) {
        self.marks.set(Mark::Offloading, true);
        self.marks.set(Mark::OffloadFull, full);
    }

    /// A job is no longer outstanding, `left` are. This counts as a sign of life: what follows from the result takes its time too.
    pub(crate) fn offload_ended(&mut self, left: u32, now: Time) {
        self.marks.set(Mark::Offloading, left > 0);
        self.marks.set(Mark::OffloadFull, false);
        self.active = now;
        if self.marks.has(Mark::OffloadRefused) {
            self.owe_writable(0);
        }
    }

    /// A job was refused because this connection has as many outstanding as it may: the handler is told when one has ended.
    pub(crate) fn offload_refused(&mut self) {
        self.marks.set(Mark::OffloadRefused, true);
    }

    /// A job was refused because all connections together have as many as they may: the handler is told when there is room. Returns
    /// whether it must join the line for that.
    pub(crate) fn wait_to_offload(&mut self) -> bool {
        let joins = !self.marks.has(Mark::WaitsToOffload);
        self.marks.set(Mark::WaitsToOffload, true);
        joins
    }

    /// Whether it stands in that line.
    pub(crate) fn waits_to_offload(&self) -> bool {
        self.marks.has(Mark::WaitsToOffload)
    }

    /// There is room for another job.
    pub(crate) fn may_offload_again(&mut self) {
        self.marks.set(Mark::WaitsToOffload, false);
        // Until it has been told: its peer's end comes after that.
        self.marks.set(Mark::OffloadRefused, true);
        self.owe_writable(0);
    }

    /// Whether jobs are outstanding that nobody waits for any more: the handler is no longer served.
    pub(crate) fn abandons_offloads(&self) -> bool {
        self.marks.has(Mark::Offloading) && self.life != Life::Open
    }

    /// The jobs were cancelled.
    pub(crate) fn offloads_abandoned(&mut self) {
        self.marks.clear(Marks::of(&[Mark::Offloading, Mark::OffloadFull, Mark::OffloadRefused]));
    }
}
