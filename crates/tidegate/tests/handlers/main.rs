//! Handlers on a real server with real sockets: what they may do, and what happens when they do it badly.

mod accepting;
mod clients;
mod endings;
mod harness;
mod messages;
mod names;
mod offload;
mod pace;
mod panics;
mod sending;
mod threads;
mod timers;
