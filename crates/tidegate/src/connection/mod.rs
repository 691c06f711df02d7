//! A connection as a plain state machine: no system call, no clock, no descriptor.
//!
//! [`Machine`] is told what happened (received, sent, finished, failed, a deadline passed, a wish of the
//! handler) and says, one [`Step`] at a time, what is to be done next. The I/O thread does it. So all of this runs
//! in a unit test, in a property test and in the simulation as it does in production.

mod filtered;
mod flow;
mod machine;
mod marks;
mod messages;
mod neglect;
mod offload;
mod overflow;
mod pace;
mod published;
mod reason;
mod refusal;
mod rules;
mod strain;
#[cfg(all(test, not(loom)))]
mod tests;
mod turns;

pub(crate) use filtered::{FILTER_BYTES, FILTERED_BYTES, FilterFailed, Filters};
pub(crate) use flow::Flow;
pub use flow::MinProgress;
pub(crate) use machine::{Delivery, Machine, Step};
use messages::List;
pub(crate) use messages::Pools;
pub use overflow::{Ask, Decision, FlowControl, FlowError, Overflow, QueueState};
pub(crate) use published::OldPayloads;
pub use reason::CloseReason;
pub use refusal::{Refusal, Refused, Sent};
pub(crate) use rules::{Flows, OverflowTally};
pub(crate) use turns::SendTurns;

/// The most filters of one connection: each may hold what was queued when the next one joined, so there is no way round the limit of the queue
/// by adding more.
pub(crate) const MAX_FILTERS: usize = 8;
