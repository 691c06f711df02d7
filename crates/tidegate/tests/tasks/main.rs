//! Connections served by tasks, in simulated worlds.

mod common;
mod connecting;
mod echo;
mod endings;
mod offloading;
mod receiving;
mod sending;
mod spawning;
mod timing;
mod waking;
