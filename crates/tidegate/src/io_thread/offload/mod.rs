//! Work that handlers have done on other threads, so that no I/O thread waits for it.
//!
//! A job is a box that goes from its I/O thread through one bounded queue to a worker, which does it, and home through a queue that
//! has a place for every job that may be outstanding: so a result is never lost, and no worker waits for an I/O thread. The results
//! of one connection are handed to its handler in the order in which the jobs were submitted, unless it chose otherwise.

mod home;
mod pool;

pub use self::home::OffloadRefusal;
pub(crate) use self::home::{OFFLOAD_JOB_BYTES, Offloading};
pub(crate) use self::pool::{Finished, OffloadPool, Work};
