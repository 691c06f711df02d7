//! Connections served by tasks, in simulated worlds.

mod common;
mod echo;
