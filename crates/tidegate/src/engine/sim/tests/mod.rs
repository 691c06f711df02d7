//! Tests of the simulated world: its streams, its engine, its determinism, its faults.

mod engine;
mod fixture;
mod hostile;
mod receiving;
mod streams;
