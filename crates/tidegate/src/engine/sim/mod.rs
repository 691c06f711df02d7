//! A simulated world: the whole of a server and its clients on one thread, in virtual time, from one seed.
//!
//! A [`World`] has a network with a clock of its own. [`SimEngine`]s in it keep the engine contract, as an unfriendly
//! system would: with short transfers, late and reordered completions, resets, an empty arena, cancels that come too
//! late, and whatever else [`Faults`] allows. [`SimPeer`]s are the clients. [`World::step`] decides who is next;
//! where it could be several, the seed does. Two runs of one seed are the same, byte for byte and completion for
//! completion, and [`World::trace_hash`] proves it.
//!
//! ```text
//! loop {
//!     match world.step() {
//!         Step::Engine(number) => turn the loop of that I/O thread once,
//!         Step::Peer(number) => let that client read and write,
//!         Step::Timer(token) => do what was planned for this moment,
//!         Step::Idle => stop,
//!     }
//! }
//! ```
//!
//! From the bottom to the top: [`random`] and [`faults`] (the dice), [`trace`] (the log), `fate` (the clock and what
//! is ahead), `endpoint`, `network` and `wire` (streams), `socket`, `ring`, `system` and `reap` (an engine: what is
//! recorded, what the system does with it, how it is reported), `world` (who is next), `sim_engine` and `peer` (the
//! outside).

mod endpoint;
mod fate;
mod faults;
mod network;
mod peer;
mod random;
mod reap;
mod ring;
mod sim_engine;
mod socket;
mod system;
#[cfg(test)]
mod tests;
mod trace;
mod wire;
mod world;

pub(crate) use endpoint::StreamBytes;
pub use faults::Fault;
pub(crate) use faults::Faults;
pub(crate) use peer::{SimClog, SimPeer};
pub(crate) use ring::{EngineTotals, Tally};
pub(crate) use sim_engine::{SimEngine, SimListener, SimStream};
pub(crate) use world::{Step, World};
