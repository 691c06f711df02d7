//! What users of the library see.

mod client;
mod connection;
mod engines;
mod filters;
mod group;
#[cfg(all(test, not(loom)))]
mod group_tests;
mod handle;
mod handler;
mod kernel;
mod limits;
mod listener;
mod machine;
mod report;
mod server;
mod simulation;
#[cfg(all(test, not(loom)))]
mod simulation_tests;
mod stats;
mod table;
pub mod task;
mod workers;

pub use self::client::{Client, ConnectRefusal, ConnectRefused, Connector, MaintainingHandle};
pub use self::connection::{Connection, OffloadRefused, TooManyFilters};
pub use self::engines::EngineChoice;
pub use self::group::{Group, GroupsExhausted, PublishRefused};
pub use self::handle::{ConnectionHandle, PostError};
pub use self::handler::Handler;
pub use self::limits::{Ceiling, Limits, LimitsError};
pub use self::listener::Listener;
pub use self::machine::{ControlGroup, Machine};
pub use self::report::Report;
pub use self::server::{BindError, Bound, RunError, Server, ServerBuilder, ServerHandle};
pub use self::stats::Stats;
pub use crate::engine::{EngineProbe, Feature, FeatureKind, Probe, probe};
pub use crate::io_thread::{
    Accepted, ConnectError, ConnectFailed, Connected, Destination, GroupStats, HeldUp, JoinRefusal, OverflowStats,
    PublishRefusal, RefusedBecause, Target, WhenFull,
};
pub use crate::io_thread::{AccessList, ConnectionLimiter, OffloadRefusal};
pub use crate::io_thread::{ConnectionMaintaining, GaveUp, MaintainingEvent};

/// The same server in a simulated world: see [`Simulation`](sim::Simulation).
pub mod sim {
    pub use super::simulation::{Client, ClientId, Fault, Next, Peer, Simulation, Violation};
}
