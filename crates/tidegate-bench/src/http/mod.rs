//! HTTP servers side by side: what a second of server processor time is worth in requests.
//!
//! In each round every server has a turn, in which `wrk` or `h2load` makes its connections and asks as fast as it is answered. All servers
//! stay up. Before, their answers are compared: they must not differ in more than the date.

mod answers;
mod load;
mod output;

use std::io;
use std::time::{Duration, Instant};

use crate::compare::child::Server;
use crate::compare::report::{self, number, percent};
use crate::compare::rounds::{Slice, order_of};
use crate::compare::summary::{ServerSummary, sum_up};
use crate::compare::{CLIENT_CPU, SERVER_CPU, ServerCommand, enter_private_network};
use crate::machine::{self, Facts, Usage};
use crate::tools::{self, H2LOAD, WRK};
use crate::verdict::{Goal, judge};

pub use load::{ALL, Client, Load};

/// What requests per server processor second are wanted to be, beside the first server's.
const GOAL: f64 = 1.05;

/// What a run can be told.
#[derive(Debug)]
pub struct Options {
    /// The servers; ratios are to the first. In their arguments, `{http}` is 1 or 2, and `{connections}` how many there must be room for.
    pub servers: Vec<ServerCommand>,
    /// The loads, in order.
    pub loads: Vec<Load>,
    /// How many turns every server gets.
    pub rounds: usize,
    /// How long one turn is, in whole seconds.
    pub slice_seconds: u64,
    /// The largest part of a turn that server or client may spend waiting for a processor.
    pub max_wait: f64,
    /// How long to wait for the machine to become quiet before a round.
    pub quiet_wait: Duration,
    /// Give servers and clients nearly all of their processors.
    pub favour: bool,
}

struct Contestant<'a> {
    command: &'a ServerCommand,
    server: Server,
    /// What one answer's body has.
    body_bytes: u64,
    /// For a client that is told how many requests to make: those of one turn.
    requests: u64,
}

/// Runs everything and prints the tables.
///
/// # Errors
///
/// A tool that is missing, a server that does not start or answers otherwise than the first, and any request without a good answer.
pub fn run(options: &Options) -> io::Result<()> {
    tools::require(&[WRK, H2LOAD])?;
    let descriptor_limit = machine::raise_descriptor_limit()?;
    let private_network = enter_private_network();
    let facts = Facts::gather(descriptor_limit, private_network);
    for load in &options.loads {
        run_load(load, options)?;
    }
    report::print_facts(&facts);
    Ok(())
}

fn run_load(load: &Load, options: &Options) -> io::Result<()> {
    let mut contestants = Vec::new();
    let mut first_answer = None;
    for command in &options.servers {
        machine::pin(SERVER_CPU)?;
        let server = Server::start(&filled_in(command, load), options.favour)?;
        machine::pin(CLIENT_CPU)?;
        let named = |error: io::Error| io::Error::other(format!("{}: {error}", command.name));
        let answer = answers::ask(server.address(), load.http2()).map_err(named)?;
        let first = first_answer.get_or_insert_with(|| answer.clone());
        if answer != *first {
            return Err(io::Error::other(format!("{} answers {answer:?}, the first server {first:?}", command.name)));
        }
        let mut contestant = Contestant { command, server, body_bytes: answer.body_bytes, requests: 0 };
        warm_up(&mut contestant, load, options).map_err(named)?;
        contestants.push(contestant);
    }
    let (mut slices, mut dropped, mut not_quiet) = (Vec::new(), 0, 0);
    for round in 0..options.rounds {
        not_quiet += usize::from(!machine::wait_for_quiet(options.quiet_wait));
        for place in order_of(round, contestants.len()) {
            let contestant = &mut contestants[place];
            let slice = take_turn(contestant, load, options, round, place)
                .map_err(|error| io::Error::other(format!("{}: {error}", contestant.command.name)))?;
            if slice.wait <= options.max_wait {
                slices.push(slice);
            } else {
                dropped += 1;
            }
        }
    }
    let names: Vec<&str> = options.servers.iter().map(|server| server.name.as_str()).collect();
    let summaries = sum_up(&names, &slices);
    print_table(load, &summaries);
    println!(
        "\n{dropped} turns dropped for waiting, {not_quiet} rounds begun without a quiet machine; no request failed"
    );
    let Some((first, others)) = summaries.split_first() else { return Ok(()) };
    for other in others {
        let goal = if other.name.starts_with("tidegate") { Goal::AtLeast(GOAL) } else { Goal::Known };
        let what = format!("{} to {}, {}", other.name, first.name, load.name);
        println!("{}", judge(&what, other.ratios_by_round(first), options.rounds, goal));
    }
    Ok(())
}

fn filled_in(command: &ServerCommand, load: &Load) -> ServerCommand {
    let version = if load.http2() { "2" } else { "1" };
    // Connections of the turn before may not have gone yet.
    let connections = (2 * load.connections + 100).to_string();
    let words = command.arguments.iter();
    let arguments = words.map(|word| word.replace("{http}", version).replace("{connections}", &connections)).collect();
    ServerCommand { arguments, ..command.clone() }
}

/// A turn that is not counted; it tells how many requests one that is has.
fn warm_up(contestant: &mut Contestant<'_>, load: &Load, options: &Options) -> io::Result<()> {
    // Enough for every connection to be used some times.
    let probe = (20 * load.connections * load.streams) as u64;
    let seconds = options.slice_seconds;
    let outcome = load.run(contestant.server.address(), 1, probe, contestant.body_bytes, options.favour)?;
    let per_second = outcome.requests as f64 / outcome.elapsed.as_secs_f64();
    contestant.requests = ((per_second * seconds as f64) as u64).max(probe);
    contestant.server.still_runs()
}

fn take_turn(
    contestant: &mut Contestant<'_>,
    load: &Load,
    options: &Options,
    round: usize,
    place: usize,
) -> io::Result<Slice> {
    let pid = contestant.server.pid();
    let before = Usage::of(pid)?;
    let begin = Instant::now();
    let outcome = load.run(
        contestant.server.address(),
        options.slice_seconds,
        contestant.requests,
        contestant.body_bytes,
        options.favour,
    )?;
    let elapsed_ns = begin.elapsed().as_nanos() as u64;
    contestant.server.still_runs()?;
    let served = Usage::of(pid)?.since(before);
    Ok(Slice {
        round,
        contestant: place,
        requests: outcome.requests,
        elapsed_ns,
        server_cpu_ns: served.cpu_ns,
        client_cpu_ns: outcome.usage.cpu_ns,
        wait: served.wait_ns.max(outcome.usage.wait_ns) as f64 / elapsed_ns as f64,
        latencies: Vec::new(),
    })
}

fn print_table(load: &Load, servers: &[ServerSummary]) {
    let first = servers.first().map_or("", |server| &server.name);
    println!("\n### {}: {}\n", load.name, load.title());
    println!(
        "| server | turns | k req/s (p10-p90) | k req per server CPU-s (p10-p90) | ratio to {first} (p10-p90) \
         | server/client busy |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for server in servers {
        println!(
            "| {} | {} | {} | {} | {} | {}/{} |",
            server.name,
            server.slices_kept,
            number(server.k_per_second, 1),
            number(server.k_per_cpu_second, 1),
            number(server.ratio_to(first), 3),
            percent(server.server_busy),
            percent(server.client_busy),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_filled_in_for_the_load() {
        let words = ["--http", "{http}", "--connections", "{connections}"].map(str::to_owned);
        let command = ServerCommand { name: "x".to_owned(), program: "x".into(), arguments: words.to_vec() };
        let load = Load::find("h2").expect("there is one");
        assert_eq!(filled_in(&command, &load).arguments, ["--http", "2", "--connections", "300"]);
    }
}
