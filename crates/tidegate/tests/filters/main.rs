//! Connections with filters, through the public interface alone: in the simulation, and on the real engines.

mod cipher;
mod common;
mod endings;
mod joining;
mod memory;
mod nets;
mod panics;
mod past_bugs;
mod published;
mod real;
mod talking;
mod throttled;
