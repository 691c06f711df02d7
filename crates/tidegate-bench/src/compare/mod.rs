//! Runs the comparison: starts servers and workers, gives turns, sums up.

pub(crate) mod child;
pub(crate) mod report;
pub(crate) mod rounds;
pub(crate) mod summary;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::machine::{self, Facts};
use crate::protocol::WorkerOrder;
use crate::scenario::Scenario;
use crate::verdict::{Goal, judge};

use child::{Server, Worker};
use rounds::{Contestant, Record};
use summary::ServerSummary;

/// The processor the servers run on.
pub(crate) const SERVER_CPU: usize = 0;
/// The processor the workers run on.
pub(crate) const CLIENT_CPU: usize = 1;
/// What bare must reach of tokio in scenario b for a run to be worth quoting.
const VALID_RATIO: f64 = 1.12;

/// A server to measure.
#[derive(Clone, Debug)]
pub struct ServerCommand {
    /// What the table calls it.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments; it must choose a free port and print it.
    pub arguments: Vec<String>,
}

impl ServerCommand {
    /// Reads NAME=COMMAND; the command is split at white space.
    ///
    /// # Errors
    ///
    /// When it is something else.
    pub fn parse(text: &str) -> io::Result<ServerCommand> {
        let invalid = || {
            let problem = format!("--server {text:?}: neither NAME=COMMAND nor one of the names that need no command");
            io::Error::new(io::ErrorKind::InvalidInput, problem)
        };
        let (name, command) = text.split_once('=').ok_or_else(invalid)?;
        let mut words = command.split_ascii_whitespace().map(str::to_owned);
        let program = words.next().ok_or_else(invalid)?.into();
        Ok(ServerCommand { name: name.to_owned(), program, arguments: words.collect() })
    }
}

/// What a run can be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The servers; ratios are to the first.
    pub servers: Vec<ServerCommand>,
    /// The loads, in order.
    pub scenarios: Vec<Scenario>,
    /// How many turns every server gets per scenario.
    pub rounds: usize,
    /// How often every server is started per scenario: the rounds are shared out.
    pub starts: usize,
    /// How long one turn is, before a scenario makes it longer.
    pub slice: Duration,
    /// The largest part of a turn that server or client may spend waiting for a processor.
    pub max_wait: f64,
    /// How long to wait for the machine to become quiet before a round.
    pub quiet_wait: Duration,
    /// Give servers and workers nearly all of their processors, whoever else wants them.
    pub favour: bool,
    /// Check the echoes of every server before each scenario.
    pub verify: bool,
    /// Microseconds the client spins before sleeping.
    pub client_spin_us: u64,
    /// Where the results go besides the tables.
    pub json: Option<PathBuf>,
}

/// The rounds of each start: as many starts as are asked for, or fewer where there are not rounds for all.
fn rounds_by_start(rounds: usize, starts: usize) -> Vec<Range<usize>> {
    let each = rounds.div_ceil(starts.max(1)).max(1);
    (0..rounds).step_by(each).map(|first| first..rounds.min(first + each)).collect()
}

/// The results of one scenario.
#[derive(Debug, Serialize)]
struct ScenarioResult {
    name: &'static str,
    title: &'static str,
    slice_ms: u128,
    slices_dropped: usize,
    rounds_not_quiet: usize,
    servers: Vec<ServerSummary>,
}

#[derive(Debug, Serialize)]
struct Results<'a> {
    machine: &'a Facts,
    rounds: usize,
    starts: usize,
    scenarios: &'a [ScenarioResult],
}

/// Runs everything and prints the tables.
///
/// # Errors
///
/// A server that does not start, echoes wrongly or closes a connection it should
/// not; a machine with fewer than two processors; a JSON file that cannot be written.
pub fn run(options: &Options) -> io::Result<()> {
    let descriptor_limit = machine::raise_descriptor_limit()?;
    let private_network = enter_private_network();
    let facts = Facts::gather(descriptor_limit, private_network);
    let mut results = Vec::new();
    for scenario in &options.scenarios {
        let result = run_scenario(scenario, options)?;
        report::print_table(scenario, &result);
        report::print_starts(&result, &rounds_by_start(options.rounds, options.starts));
        results.push(result);
    }
    report::print_facts(&facts);
    print_validity(&results);
    print_cost_of_tasks(&results, options.rounds);
    if let Some(path) = &options.json {
        let results = Results { machine: &facts, rounds: options.rounds, starts: options.starts, scenarios: &results };
        std::fs::write(path, serde_json::to_vec_pretty(&results)?)?;
    }
    Ok(())
}

/// Does without where it must, and says so.
pub(crate) fn enter_private_network() -> bool {
    if let Err(error) = machine::enter_private_network() {
        println!("no network of its own ({error}): sharing the machine's");
        return false;
    }
    if let Err(error) = machine::choose_unpaced_congestion_control() {
        println!("the congestion control stays as it is ({error})");
    }
    true
}

/// Servers are started anew for each scenario: what one load left behind in their
/// memory must not weigh on the next.
fn run_scenario(scenario: &Scenario, options: &Options) -> io::Result<ScenarioResult> {
    let slice = options.slice * scenario.slice_factor;
    let mut record = Record::default();
    for rounds in rounds_by_start(options.rounds, options.starts) {
        let mut contestants = start_all(scenario, options)?;
        rounds::run(&mut contestants, rounds, slice, options, &mut record)?;
    }
    let names: Vec<&str> = options.servers.iter().map(|one| one.name.as_str()).collect();
    Ok(ScenarioResult {
        name: scenario.name,
        title: scenario.title,
        slice_ms: slice.as_millis(),
        slices_dropped: record.dropped,
        rounds_not_quiet: record.not_quiet,
        servers: summary::sum_up(&names, &record.slices),
    })
}

/// Every server with a worker that is connected to it.
fn start_all(scenario: &Scenario, options: &Options) -> io::Result<Vec<Contestant>> {
    let mut contestants = Vec::with_capacity(options.servers.len());
    for command in &options.servers {
        machine::pin(SERVER_CPU)?;
        let server = Server::start(command, options.favour)?;
        machine::pin(CLIENT_CPU)?;
        let order = WorkerOrder {
            server: server.address(),
            load: scenario.load,
            verify: options.verify,
            spin_us: options.client_spin_us,
        };
        let worker = Worker::start(&order, options.favour)
            .map_err(|error| io::Error::other(format!("{}: {error}", command.name)))?;
        contestants.push(Contestant { name: command.name.clone(), server, worker });
    }
    Ok(contestants)
}

/// What tasks may cost more than handlers: a twentieth more processor time for each request.
const ASYNC_GOAL: f64 = 1.0 / 1.05;

/// Of every scenario in which both took part.
fn print_cost_of_tasks(results: &[ScenarioResult], rounds: usize) {
    for result in results {
        let find = |name| result.servers.iter().find(|server| server.name == name);
        if let (Some(tasks), Some(handlers)) = (find("tidegate-async"), find("tidegate-handler")) {
            let what = format!("tidegate-async to tidegate-handler, ({})", result.name);
            println!("{}", judge(&what, tasks.ratios_by_round(handlers), rounds, Goal::AtLeast(ASYNC_GOAL)));
        }
    }
}

fn print_validity(results: &[ScenarioResult]) {
    let Some(result) = results.iter().find(|result| result.name == "b") else {
        return;
    };
    let by_name: BTreeMap<&str, &ServerSummary> =
        result.servers.iter().map(|server| (server.name.as_str(), server)).collect();
    if let Some(ratio) = by_name.get("bare").and_then(|bare| bare.ratio_to("tokio")) {
        let verdict = if ratio.median >= VALID_RATIO { "valid" } else { "not valid" };
        println!("{verdict}: bare/tokio = {:.3} (needs {VALID_RATIO})", ratio.median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_belongs_to_one_start_and_no_start_is_without() {
        assert_eq!(rounds_by_start(10, 4), [0..3, 3..6, 6..9, 9..10]);
        assert_eq!(rounds_by_start(2, 5), [0..1, 1..2]);
        assert_eq!(rounds_by_start(7, 1), std::slice::from_ref(&(0..7)));
        assert_eq!(rounds_by_start(0, 3), []);
    }
}
