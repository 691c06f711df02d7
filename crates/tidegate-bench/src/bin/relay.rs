//! `relay`: measures TCP relays side by side and prints tables.

use std::env;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tidegate_bench::compare::ServerCommand;
use tidegate_bench::protocol::WorkerOrder;
use tidegate_bench::relay::{self, ALL, Load, Options, Relay, source};
use tidegate_bench::worker;

/// Measures TCP relays side by side: bytes and round trips for each second of the relay's processor time, in turns.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Turns per relay and load.
    #[arg(long, default_value_t = 16)]
    rounds: usize,
    /// Milliseconds per turn.
    #[arg(long, default_value_t = 1_000)]
    slice_ms: u64,
    /// Which loads to run; all unless given.
    #[arg(long, value_delimiter = ',', value_parser = Load::find)]
    loads: Vec<Load>,
    /// A relay as NAME=COMMAND; haproxy, haproxy-splice, socat, tokio and tidegate by name alone, and all of them by default. The command
    /// must print a line with the address it listens on; {upstream} in it stands for where it is to connect, {connections} for how many
    /// sockets there must be room for.
    #[arg(long = "server", value_name = "NAME=COMMAND")]
    servers: Vec<String>,
    /// Drop a turn when the relay waited longer than this for a processor, in percent.
    #[arg(long, default_value_t = 8.0)]
    max_wait: f64,
    /// Milliseconds to wait for a quiet machine before each round.
    #[arg(long, default_value_t = 3_000)]
    quiet_wait_ms: u64,
}

#[derive(Subcommand)]
enum Role {
    /// The far end of streams; started by `relay` itself.
    #[command(hide = true)]
    Source {
        /// Address to listen on.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// Loads one relay on command; started by `relay` itself.
    #[command(hide = true)]
    Worker {
        /// The order as JSON.
        order: String,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.role {
        Some(Role::Source { listen }) => source::serve(*listen).map(|never| match never {}),
        Some(Role::Worker { order }) => match serde_json::from_str::<WorkerOrder>(order) {
            // It has told what went wrong to who started it.
            Ok(order) if worker::run(&order) => Ok(()),
            Ok(_) => return ExitCode::FAILURE,
            Err(error) => Err(error.into()),
        },
        None => options(&arguments).and_then(|options| relay::run(&options)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relay: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &Arguments) -> io::Result<Options> {
    let program = env::current_exe()?;
    let beside = program.parent().unwrap_or(Path::new("."));
    let names = match arguments.servers.as_slice() {
        [] => ["haproxy", "haproxy-splice", "socat", "tokio", "tidegate"].map(str::to_owned).to_vec(),
        names => names.to_vec(),
    };
    Ok(Options {
        relays: names.iter().map(|text| relay(text, beside)).collect::<io::Result<_>>()?,
        loads: if arguments.loads.is_empty() { ALL.to_vec() } else { arguments.loads.clone() },
        rounds: arguments.rounds,
        slice: Duration::from_millis(arguments.slice_ms.max(1)),
        max_wait: arguments.max_wait / 100.0,
        quiet_wait: Duration::from_millis(arguments.quiet_wait_ms),
        beside: beside.to_owned(),
    })
}

fn relay(text: &str, beside: &Path) -> io::Result<Relay> {
    let known = |program: &str, words: &str| {
        Relay::Program(ServerCommand {
            name: text.to_owned(),
            program: beside.join(program),
            arguments: words.split(' ').map(str::to_owned).collect(),
        })
    };
    match text {
        "haproxy" => Ok(Relay::Haproxy { splice: false }),
        "haproxy-splice" => Ok(Relay::Haproxy { splice: true }),
        "socat" => Ok(Relay::Socat),
        "tokio" => Ok(known("relay-tokio", "--upstream {upstream}")),
        "tidegate" => Ok(known("examples/proxy", "127.0.0.1:0 {upstream} 1")),
        _ => ServerCommand::parse(text).map(Relay::Program),
    }
}
