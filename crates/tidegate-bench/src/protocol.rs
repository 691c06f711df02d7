//! What `compare` and its worker processes say to each other: one line each way.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::scenario::Load;

/// What a worker is started with, as JSON in its one argument.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct WorkerOrder {
    /// The server to load.
    pub server: SocketAddr,
    /// The load.
    pub load: Load,
    /// Check every byte of some echoes before the first turn.
    pub verify: bool,
    /// Microseconds the client looks for answers before sleeping.
    pub spin_us: u64,
}

/// A line from a worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Connected, and verified if that was asked for.
    Ready,
    /// The turn is over; nothing is in flight.
    Turn(Turn),
    /// The server did something wrong, or the worker cannot go on.
    Failed(String),
}

/// What one turn came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Turn {
    /// Requests answered.
    pub requests: u64,
    /// From the first request to the last answer.
    pub elapsed_ns: u64,
    /// Latencies as (nanoseconds, how many), ascending.
    pub latencies: Vec<(u64, u64)>,
}

/// The command that starts a turn.
pub const GO: &str = "go";
