//! Tests of the simulated world: its streams, its engine, its determinism, its faults.

mod fixture;
mod hostile;
