//! TCP relays side by side: what a second of processor time is worth in bytes and in round trips.
//!
//! Every relay is in front of the same far end, which echoes or sends without end. The relays share CPU 0 and take turns; client and far end
//! are on CPU 1. Every byte is checked before the turns, and what a relay holds while its receivers have stopped is looked at.

pub mod source;

mod contestant;
mod stopped;
mod streams;

use std::env;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::compare::child::Server;
use crate::compare::report::{self, number, percent};
use crate::compare::rounds::order_of;
use crate::compare::summary::{ServerSummary, sum_up};
use crate::compare::{CLIENT_CPU, ServerCommand, enter_private_network};
use crate::machine::{self, Facts};
use crate::tools::{self, HAPROXY, SOCAT};
use crate::verdict::{Goal, judge};

use contestant::Contestant;

pub use contestant::Relay;

/// A load and what it is called.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// What `--loads` calls it.
    pub name: &'static str,
    /// What it does.
    pub kind: Kind,
    /// Over how many connections.
    pub connections: usize,
}

/// What is done over a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The far end sends as fast as it can, the client takes all of it.
    Streams,
    /// 64 bytes there and back, one at a time on each connection.
    RoundTrips,
    /// The far end sends, and the client takes nothing.
    Stopped,
}

/// Every load, in the order in which they run.
pub const ALL: [Load; 4] = [
    Load { name: "streams", kind: Kind::Streams, connections: 8 },
    Load { name: "small-50", kind: Kind::RoundTrips, connections: 50 },
    Load { name: "small-400", kind: Kind::RoundTrips, connections: 400 },
    Load { name: "stopped", kind: Kind::Stopped, connections: 200 },
];

impl Load {
    /// The load of that name.
    ///
    /// # Errors
    ///
    /// A sentence naming the ones there are.
    pub fn find(name: &str) -> Result<Load, String> {
        ALL.into_iter().find(|load| load.name == name).ok_or_else(|| {
            let names = ALL.map(|load| load.name).join(", ");
            format!("no load {name:?}; there are {names}")
        })
    }

    fn title(&self) -> String {
        let connections = self.connections;
        match self.kind {
            Kind::Streams => format!("{connections} streams from the far end to the client"),
            Kind::RoundTrips => format!("{connections} connections x 64 B there and back"),
            Kind::Stopped => format!("{connections} fast senders whose receivers have stopped"),
        }
    }
}

/// What a run can be told.
#[derive(Debug)]
pub struct Options {
    /// The relays; ratios are to the first.
    pub relays: Vec<Relay>,
    /// The loads, in order.
    pub loads: Vec<Load>,
    /// How many turns every relay gets.
    pub rounds: usize,
    /// How long one turn is.
    pub slice: Duration,
    /// The largest part of a turn that a relay may spend waiting for a processor.
    pub max_wait: f64,
    /// How long to wait for the machine to become quiet before a round.
    pub quiet_wait: Duration,
    /// Where the programs of this crate are.
    pub beside: PathBuf,
}

/// Runs everything and prints the tables.
///
/// # Errors
///
/// A tool that is missing, a relay that does not start, changes a byte or closes a connection.
pub fn run(options: &Options) -> io::Result<()> {
    let uses = |wanted: fn(&Relay) -> bool| options.relays.iter().any(wanted);
    let haproxy = uses(|relay| matches!(relay, Relay::Haproxy { .. })).then_some(HAPROXY);
    let socat = uses(|relay| matches!(relay, Relay::Socat)).then_some(SOCAT);
    tools::require(&haproxy.into_iter().chain(socat).collect::<Vec<_>>())?;
    let descriptor_limit = machine::raise_descriptor_limit()?;
    let private_network = enter_private_network();
    let facts = Facts::gather(descriptor_limit, private_network);
    for load in &options.loads {
        // The far end is where the client is: what the relay takes is what is measured.
        machine::pin(CLIENT_CPU)?;
        let far_end = Server::start(&far_end(load, options)?, false)?;
        match load.kind {
            Kind::Stopped => stopped::run(load, options, far_end.address())?,
            Kind::Streams | Kind::RoundTrips => run_load(load, options, far_end.address())?,
        }
    }
    report::print_facts(&facts);
    Ok(())
}

fn far_end(load: &Load, options: &Options) -> io::Result<ServerCommand> {
    let (program, arguments) = match load.kind {
        Kind::RoundTrips => (options.beside.join("echo-bare"), Vec::new()),
        Kind::Streams | Kind::Stopped => (env::current_exe()?, vec!["source".to_owned()]),
    };
    Ok(ServerCommand { name: "far end".to_owned(), program, arguments })
}

fn run_load(load: &Load, options: &Options, far_end: SocketAddr) -> io::Result<()> {
    let mut contestants = Vec::new();
    for relay in &options.relays {
        let contestant = Contestant::start(relay, load, far_end)
            .map_err(|error| io::Error::other(format!("{}: {error}", relay.name())))?;
        contestants.push(contestant);
    }
    let (mut slices, mut dropped, mut not_quiet) = (Vec::new(), 0, 0);
    for round in 0..options.rounds {
        not_quiet += usize::from(!machine::wait_for_quiet(options.quiet_wait));
        for place in order_of(round, contestants.len()) {
            let slice = contestants[place]
                .take_turn(options.slice, round, place)
                .map_err(|error| io::Error::other(format!("{}: {error}", options.relays[place].name())))?;
            if slice.wait <= options.max_wait {
                slices.push(slice);
            } else {
                dropped += 1;
            }
        }
    }
    let names: Vec<&str> = options.relays.iter().map(Relay::name).collect();
    let summaries = sum_up(&names, &slices);
    print_table(load, &summaries);
    println!("\n{dropped} turns dropped for waiting, {not_quiet} rounds begun without a quiet machine");
    let Some((first, others)) = summaries.split_first() else { return Ok(()) };
    for other in others {
        let what = format!("{} to {}, {}", other.name, first.name, load.name);
        println!("{}", judge(&what, other.ratios_by_round(first), options.rounds, Goal::Known));
    }
    Ok(())
}

fn print_table(load: &Load, relays: &[ServerSummary]) {
    let first = relays.first().map_or("", |relay| &relay.name);
    // Of streams, what is counted are thousands of bytes.
    let (rate, per_cpu) = match load.kind {
        Kind::Streams => ("MB/s", "MB per relay CPU-s"),
        Kind::RoundTrips | Kind::Stopped => ("k round trips/s", "k round trips per relay CPU-s"),
    };
    println!("\n### {}: {}\n", load.name, load.title());
    println!(
        "| relay | turns | {rate} (p10-p90) | {per_cpu} (p10-p90) | ratio to {first} (p10-p90) | relay/client busy |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for relay in relays {
        println!(
            "| {} | {} | {} | {} | {} | {}/{} |",
            relay.name,
            relay.slices_kept,
            number(relay.k_per_second, 1),
            number(relay.k_per_cpu_second, 1),
            number(relay.ratio_to(first), 3),
            percent(relay.server_busy),
            percent(relay.client_busy),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_its_own_load() {
        for load in ALL {
            assert_eq!(Load::find(load.name).map(|found| found.title()), Ok(load.title()));
        }
        assert!(Load::find("large").err().unwrap_or_default().contains("small-50"));
    }
}
