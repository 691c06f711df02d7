//! What a relay holds when senders are fast and receivers have stopped.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::memory::{self, ceiling_of};
use crate::worker::connect;

use super::contestant::{Relay, Running};
use super::streams::Streams;
use super::{Load, Options};

/// It holds as much as it will when it has not grown for so long.
const STILL: Duration = Duration::from_secs(1);
/// For this long it may grow.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a relay may take to print its ceiling.
const CEILING_PATIENCE: Duration = Duration::from_secs(1);

/// Lets every relay be filled, one after the other, and prints what it held. Then every stream is read on and compared. One that fails doesn't
/// keep the others from being looked at: the first failure is returned when all were.
pub fn run(load: &Load, options: &Options, far_end: SocketAddr) -> io::Result<()> {
    println!("\n### {}: {}\n", load.name, load.title());
    println!("| relay | resident before, KiB | resident at most, KiB | a connection, KiB | ceiling, KiB | verdict |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let mut outcome = Ok(());
    for relay in &options.relays {
        let named = |error: io::Error| io::Error::other(format!("{}: {error}", relay.name()));
        outcome = outcome.and(print_row(load, relay, far_end).map_err(named));
    }
    outcome
}

fn print_row(load: &Load, relay: &Relay, far_end: SocketAddr) -> io::Result<()> {
    let mut running = relay.start(far_end, load.connections)?;
    let ceiling = ceiling_of(|| running.line(CEILING_PATIENCE));
    let before = resident(&running);
    let mut streams = Streams::new(connect::connect_all(running.address(), load.connections)?)?;
    let most = fill(&running);
    running.still_runs()?;
    let read_on = streams.check();
    let verdict = match ceiling {
        _ if read_on.is_err() => "NOT SERVED when read again",
        Some(ceiling) if most <= ceiling => "kept",
        Some(_) => "EXCEEDED",
        None => "none is printed",
    };
    println!(
        "| {} | {} | {} | {:.1} | {} | {verdict} |",
        relay.name(),
        before >> 10,
        most >> 10,
        most.saturating_sub(before) as f64 / 1024.0 / load.connections as f64,
        ceiling.map_or_else(|| "-".to_owned(), |ceiling| (ceiling >> 10).to_string()),
    );
    read_on?;
    if ceiling.is_some_and(|ceiling| most > ceiling) {
        return Err(io::Error::other(format!("{most} bytes resident are above the ceiling")));
    }
    Ok(())
}

/// Waits until it grows no more; the most that was seen.
fn fill(relay: &Running) -> u64 {
    let begin = Instant::now();
    let (mut most, mut since) = (0, Instant::now());
    while since.elapsed() < STILL && begin.elapsed() < PATIENCE {
        let resident = resident(relay);
        if resident > most {
            (most, since) = (resident, Instant::now());
        }
        thread::sleep(Duration::from_millis(20));
    }
    most
}

/// Of the relay and its children, in bytes; pages that they share are counted once.
fn resident(relay: &Running) -> u64 {
    let processes = relay.processes();
    let of = if processes.len() > 1 { memory::proportional_bytes } else { memory::resident_bytes };
    processes.into_iter().filter_map(of).sum()
}
