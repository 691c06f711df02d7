//! Tidegate: a completion-driven TCP server framework whose limits are promises.
#![warn(missing_docs)]

mod engine;
mod memory;
mod sync;
mod time;

pub use memory::{Buffer, Payload};
pub use time::Time;
