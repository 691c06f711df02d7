//! Tidegate: a completion-driven TCP server framework whose limits are promises.
#![warn(missing_docs)]

mod connection;
mod engine;
mod memory;
mod sync;
mod time;

pub use connection::{CloseReason, Refusal, Refused, Sent};
pub use memory::{Buffer, Payload};
pub use time::Time;
