//! A test of the chat in the simulation: its very code, in one world after the other.
//!
//! ```console
//! $ cargo run --release --example simulate -p tidegate
//! ```
//!
//! Each world has a network and a system of its own, with whatever can go wrong in them, made from a seed. First a room with a bug that shows
//! only when it is busy, until a member misses a line; then the room that the example `chat` opens, in 300 worlds. A seed as argument
//! (`-- 17`) runs that one world, the same every time. `members.rs` has the members and what they expect.

#[path = "../chat/room.rs"]
mod room;

mod members;

use std::process::ExitCode;

use members::run;
use room::WhenBusy;

/// How many worlds are tried.
const SEEDS: u64 = 300;

fn main() -> ExitCode {
    if let Some(seed) = std::env::args().nth(1).and_then(|argument| argument.parse().ok()) {
        return match run(WhenBusy::Waits, seed) {
            Ok(seen) => {
                println!("all is well: {seen:?}");
                ExitCode::SUCCESS
            }
            Err(violation) => {
                println!("{violation}");
                ExitCode::FAILURE
            }
        };
    }
    match (0..SEEDS).find_map(|seed| run(WhenBusy::Forgets, seed).err()) {
        Some(violation) => println!("The room that forgets, {violation}"),
        None => {
            println!("the bug was not found in {SEEDS} worlds");
            return ExitCode::FAILURE;
        }
    }
    match (0..SEEDS).find_map(|seed| run(WhenBusy::Waits, seed).err()) {
        Some(violation) => {
            println!("The room that waits, {violation}");
            ExitCode::FAILURE
        }
        None => {
            println!("In the room that waits nobody misses a line in {SEEDS} worlds.");
            ExitCode::SUCCESS
        }
    }
}
