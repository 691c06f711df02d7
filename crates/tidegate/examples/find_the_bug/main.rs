//! How the simulation finds a bug in a server of one's own.
//!
//! `cargo run --release --example find_the_bug -p tidegate` runs a server that loses answers in one hostile world after the other, until
//! a client misses one, and then the corrected server in 500 worlds. `server.rs` has both, `test_bench.rs` the clients.

mod server;
mod test_bench;

use std::process::ExitCode;

use test_bench::{Which, run};

/// How many worlds are tried.
const SEEDS: u64 = 500;

fn main() -> ExitCode {
    match (0..SEEDS).find_map(|seed| run(Which::Forgetful, seed).err()) {
        Some(violation) => println!("The forgetful server, {violation}"),
        None => {
            println!("the bug was not found in {SEEDS} worlds");
            return ExitCode::FAILURE;
        }
    }
    match (0..SEEDS).find_map(|seed| run(Which::Careful, seed).err()) {
        Some(violation) => {
            println!("The careful server, {violation}");
            ExitCode::FAILURE
        }
        None => {
            println!("The careful server gives every answer in {SEEDS} worlds.");
            ExitCode::SUCCESS
        }
    }
}
