//! Tidegate: a completion-driven TCP server framework whose limits are promises.
#![warn(missing_docs)]

mod connection;
mod engine;
mod io_thread;
mod memory;
mod surface;
mod sync;
mod time;

pub use connection::{CloseReason, Refusal, Refused, Sent};
pub use memory::{Buffer, Payload};
pub use surface::*;
pub use time::Time;
