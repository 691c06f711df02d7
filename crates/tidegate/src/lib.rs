//! Tidegate: a completion-driven TCP server framework whose limits are promises.
//!
//! A server has one or more listeners. Each makes a [`Handler`] for every connection, a value that lives on the
//! connection's I/O thread and is called when something has happened to it. What it wants (send, close, a timer) is
//! recorded by the [`Connection`] that it is given, and done when the callback has returned.
//!
//! # An echo server
//!
//! ```no_run
//! use std::convert::Infallible;
//! use tidegate::{Buffer, Connection, Handler, Listener, Server};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type Message = Infallible;
//!
//!     fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
//!         let _ = connection.send(data); // never refused: `on_read` comes only when there is room for a reply
//!     }
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let server = Server::builder().listen(Listener::tcp("127.0.0.1:7007".parse()?), |_| Echo).bind()?;
//!     server.run()?;
//!     Ok(())
//! }
//! ```
//!
//! [`bind`](ServerBuilder::bind) does all that can fail; [`run`](Bound::run) serves until a [`ServerHandle`] drains or
//! aborts the server, and returns a [`Report`].
//!
//! # Sending
//!
//! [`Connection::send`] takes a whole message or refuses it, on the spot. A message is anything that makes a [`Payload`]: a received
//! [`Buffer`], a `Vec<u8>`, a `String`, [`bytes::Bytes`], static bytes. One that was taken goes out whole and in order, for as long as the
//! connection lives. [`Refused`] gives a message back with the reason and its numbers; when it is for now only,
//! [`Handler::on_writable`] says when there is room. While much is queued, the connection is not read from.
//!
//! That is the default policy for a queue that is full, [`Overflow::Wait`]. Others drop the oldest or the newest message, close the
//! connection, or ask; [`FlowControl`] sets policy and limits for a [listener](Listener::flow), a [client](Client::flow) or a
//! [connection](Connection::set_flow).
//!
//! # Async
//!
//! [`ServerBuilder::listen_async`] serves each connection with a future in place of a handler, on the same I/O thread and with the same
//! limits: see [`task`].
//!
//! # Connecting
//!
//! [`ServerBuilder::client`] describes outgoing connections: they have handlers of the same trait, live on the same I/O threads and
//! count against the same limits. The [`Connector`] that it returns asks for them, from any thread. Every request has one
//! outcome: a handler, made for the [`Connected`], or a call of [`Client::on_failed`].
//!
//! ```no_run
//! # use std::convert::Infallible;
//! # use tidegate::{Buffer, Connection, Handler};
//! use tidegate::{Client, Server, Target};
//!
//! struct Greeter;
//! # impl Handler for Greeter {
//! #     type Message = Infallible;
//! #     fn on_connect(&mut self, connection: &mut Connection<'_>) { let _ = connection.send("hello\n"); }
//! #     fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {}
//! # }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::tcp().on_failed(|failure| eprintln!("{}: {}", failure.destination, failure.error));
//! let (server, connector) = Server::builder().client(client, |_connected| Greeter);
//! let bound = server.bind()?;
//! connector.connect(Target::new("127.0.0.1:7007".parse()?).tag(1))?;
//! bound.run()?; // until a `ServerHandle` drains it
//! # Ok(())
//! # }
//! ```
//!
//! # Limits
//!
//! [`Limits`] has a name and a default for every bound. [`Limits::ceiling`] is the sum of what a server may use, and
//! [`ServerBuilder::memory`] works backwards from such a sum. At a limit nothing is lost that was taken, unless the
//! policy of a queue is to drop: connections wait in the backlog, sends are refused, reading pauses.
//!
//! ```
//! use tidegate::{Limits, Server};
//!
//! let limits = Limits { max_connections: 1_000, ..Limits::default() };
//! println!("at most {} bytes on two I/O threads", limits.ceiling(2, 0).total());
//! let builder = Server::builder().limits(limits).memory(64 << 20); // send memory is what is left of it
//! ```
//!
//! # Groups
//!
//! A [`Group`] sends one message to many connections: published once, from any thread, and copied for none of them. Connections
//! [join](Connection::join) it. Each receiver's own [`Overflow`] decides what happens when its queue is full.
//!
//! # Endings
//!
//! [`shutdown`](Connection::shutdown) finishes our side and goes on receiving. [`close`](Connection::close) sends what is queued, then
//! waits a while for the peer, so that nothing it has not read yet is destroyed. [`abort`](Connection::abort) resets. Every connection ends
//! for one [`CloseReason`], which [`Handler::on_close`] is told and the report counts. A handler that panics ends its own
//! connection and no other.
//!
//! # Other threads
//!
//! A [`ConnectionHandle`] posts messages to a connection's [`Handler::on_message`], closes it or aborts it, from any thread and from
//! other connections. A handle of a connection that is over is harmless.
//!
//! # Simulation
//!
//! [`sim::Simulation`] runs the same server in a world of virtual time, with a network that has faults, from one seed. A run is
//! repeated exactly from its seed.
//!
//! # More
//!
//! The [`guide`] goes from an echo to a production server, weighs handlers against async functions, works out sums of limits, tests with the
//! simulation, and says what maps to what for those who come from tokio.
//!
//! # Requirements
//!
//! Linux. With io_uring where it is allowed (6.1 or later), else by readiness: see [`EngineChoice`]. The pages in `docs/` of the repository say how it is built (`architecture.md`), what each
//! limit bounds (`memory.md`) and how it is tested (`testing.md`).
#![warn(missing_docs)]

mod connection;
mod engine;
pub mod filter;
pub mod guide;
mod io_thread;
mod memory;
mod network;
mod random;
mod surface;
mod sync;
mod time;

pub use connection::{
    Ask, CloseReason, Decision, FlowControl, FlowError, MinProgress, Overflow, QueueState, Refusal, Refused, Sent,
};
pub use memory::{Buffer, Payload, share_one_heap};
pub use network::{Network, NetworkError};
pub use surface::*;
pub use time::Time;
