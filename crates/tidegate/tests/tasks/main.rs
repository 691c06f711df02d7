//! Connections served by tasks, in simulated worlds.

mod common;
mod connecting;
mod echo;
mod endings;
mod offloading;
mod real;
mod receiving;
mod sending;
mod spawning;
mod timing;
mod together;
#[cfg(any(feature = "futures-io", feature = "tokio"))]
mod traits;
mod waking;
