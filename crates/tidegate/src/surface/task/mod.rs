//! Serving connections with `async fn`: one task for each, on its I/O thread.
//!
//! [`ServerBuilder::listen_async`](crate::ServerBuilder::listen_async) takes a function that makes a future of a [`Connection`]. The future
//! lives on the connection's I/O thread and need not be `Send`. Everything that handlers have is there too: pooled buffers, enforced flow
//! control, limits, the simulation.
//!
//! ```no_run
//! use tidegate::{Listener, Server, task};
//!
//! async fn echo(mut connection: task::Connection) -> Result<(), task::Error> {
//!     while let Some(data) = connection.recv().await? {
//!         connection.send(data).await?;
//!     }
//!     Ok(())
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     Server::builder().listen_async(Listener::tcp("127.0.0.1:7007".parse()?), echo).bind()?.run()?;
//!     Ok(())
//! }
//! ```
//!
//! # Endings
//!
//! A task that returns `Ok` has ended its connection in order, once the [`Connection`] or both its halves are dropped; one that returns an
//! error has reset it, as [`TaskFailed`](crate::CloseReason::TaskFailed). When the connection ends otherwise, everything that waits for it
//! gets [`Error::Closed`] with the reason; the tasks are polled once more, and then dropped.

mod connection;
mod connector;
mod context;
mod core;
mod error;
mod halves;
mod offload;
mod sleeps;
mod spawn;
mod table;
#[cfg(any(feature = "futures-io", feature = "tokio"))]
mod traits;
mod waiters;
mod wakes;

pub use self::connection::Connection;
pub use self::connector::{Connector, NotConnected};
pub use self::context::{Busy, Context};
pub use self::error::Error;
pub use self::halves::{Receiver, Sender};
pub use self::offload::OffloadError;
pub use self::sleeps::{Elapsed, Sleep, Timeout, Timer, yield_now};
pub use self::spawn::{Aborted, JoinHandle, SpawnRefused};
pub use crate::memory::ThreadBound;

pub(super) use self::table::{TaskTable, place_bytes};
