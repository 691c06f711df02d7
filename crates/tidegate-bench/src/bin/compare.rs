//! `compare`: measures echo servers side by side and prints tables.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Parser, Subcommand};
use tidegate_bench::compare::{self, Options, ServerCommand};
use tidegate_bench::protocol::WorkerOrder;
use tidegate_bench::scenario::{ALL, Scenario};
use tidegate_bench::worker;

/// Measures echo servers side by side: short turns, paired ratios.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Turns per server and scenario.
    #[arg(long, default_value_t = 12)]
    rounds: usize,
    /// How often the servers are started in each scenario; the rounds are shared out. Two starts of one program differ by up to a few per cent:
    /// from six on it is said what the ratios are over all starts.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    starts: u16,
    /// Milliseconds per turn; four times that with 10,000 connections.
    #[arg(long, default_value_t = 250)]
    slice_ms: u64,
    /// Which scenarios to run; all unless given.
    #[arg(long, value_delimiter = ',', value_parser = Scenario::find)]
    scenarios: Vec<Scenario>,
    /// A server as NAME=COMMAND, or one of tokio, bare, bare-epoll, tidegate, readiness, tidegate-handler,
    /// readiness-handler, tidegate-async by name alone. The command must print a line that ends with the address it listens on.
    #[arg(long = "server", value_name = "NAME=COMMAND")]
    servers: Vec<String>,
    /// Drop a turn when server or client waited longer than this for a processor, in percent.
    #[arg(long, default_value_t = 8.0)]
    max_wait: f64,
    /// Milliseconds to wait for a quiet machine before each round.
    #[arg(long, default_value_t = 3_000)]
    quiet_wait_ms: u64,
    /// Let servers and client go before everything else on their processors. Unkind to others
    /// on the machine; needs root and a kernel that schedules sessions as groups.
    #[arg(long)]
    favour: bool,
    /// Check every byte of some echoes before each scenario.
    #[arg(long, default_value_t = true, action = ArgAction::Set,
          num_args = 0..=1, default_missing_value = "true")]
    verify: bool,
    /// Microseconds the client looks for answers before sleeping.
    #[arg(long, default_value_t = 0)]
    client_spin_us: u64,
    /// Also write the results, turn by turn, to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Role {
    /// Loads one server on command; started by `compare` itself.
    #[command(hide = true)]
    Worker {
        /// The order as JSON.
        order: String,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let succeeded = match &arguments.role {
        Some(Role::Worker { order }) => match serde_json::from_str::<WorkerOrder>(order) {
            Ok(order) => worker::run(&order),
            Err(error) => complain(&error),
        },
        None => match options(arguments).and_then(|options| compare::run(&options)) {
            Ok(()) => true,
            Err(error) => complain(&error),
        },
    };
    if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn complain(error: &dyn std::error::Error) -> bool {
    eprintln!("compare: {error}");
    false
}

fn options(arguments: Arguments) -> io::Result<Options> {
    let program = env::current_exe()?;
    let beside = program.parent().unwrap_or(Path::new("."));
    let servers = if arguments.servers.is_empty() {
        default_servers(beside)
    } else {
        let servers = arguments.servers.iter();
        servers.map(|text| parse_server(text, beside)).collect::<io::Result<_>>()?
    };
    let scenarios = if arguments.scenarios.is_empty() { ALL.to_vec() } else { arguments.scenarios };
    Ok(Options {
        servers,
        scenarios,
        rounds: arguments.rounds,
        starts: arguments.starts.into(),
        slice: Duration::from_millis(arguments.slice_ms.max(1)),
        max_wait: arguments.max_wait / 100.0,
        quiet_wait: Duration::from_millis(arguments.quiet_wait_ms),
        favour: arguments.favour,
        verify: arguments.verify,
        client_spin_us: arguments.client_spin_us,
        json: arguments.json,
    })
}

/// The two peers, and Tidegate's own program when it has been built.
fn default_servers(beside: &Path) -> Vec<ServerCommand> {
    ["tokio", "bare", "tidegate"]
        .into_iter()
        .filter_map(|name| known_server(name, beside))
        .filter(|server| server.name != "tidegate" || server.program.exists())
        .collect()
}

fn known_server(name: &str, beside: &Path) -> Option<ServerCommand> {
    const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];
    let (program, arguments): (&str, &[&str]) = match name {
        "tokio" => ("echo-tokio", &[]),
        "bare" => ("echo-bare", &[]),
        "bare-epoll" => ("echo-bare-epoll", &[]),
        "tidegate" => ("tidegate", &["serve", "echo", "--threads", "1"]),
        "tidegate-handler" => ("echo-tidegate", &[]),
        "tidegate-async" => ("echo-tidegate", &["--async"]),
        "readiness-handler" => ("echo-tidegate", &["--engine", "readiness"]),
        "readiness" => ("tidegate", &["serve", "echo", "--threads", "1", "--engine", "readiness"]),
        _ => return None,
    };
    Some(ServerCommand {
        name: name.to_owned(),
        program: beside.join(program),
        arguments: arguments.iter().chain(&LISTEN).map(ToString::to_string).collect(),
    })
}

fn parse_server(text: &str, beside: &Path) -> io::Result<ServerCommand> {
    if let Some(server) = known_server(text, beside) {
        return Ok(server);
    }
    ServerCommand::parse(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_name_and_a_command_in_words() -> io::Result<()> {
        let server = parse_server("mine=/bin/echo-mine --port 0", Path::new("/x"))?;
        assert_eq!(server.name, "mine");
        assert_eq!(server.program, Path::new("/bin/echo-mine"));
        assert_eq!(server.arguments, ["--port", "0"]);
        Ok(())
    }

    #[test]
    fn known_servers_need_no_command() -> io::Result<()> {
        let server = parse_server("bare", Path::new("/x"))?;
        assert_eq!(server.program, Path::new("/x/echo-bare"));
        let server = parse_server("readiness", Path::new("/x"))?;
        assert_eq!(server.program, Path::new("/x/tidegate"));
        assert_eq!(server.arguments[4..], ["--engine", "readiness", "--listen", "127.0.0.1:0"]);
        assert!(parse_server("nobody", Path::new("/x")).is_err());
        assert!(parse_server("nobody=", Path::new("/x")).is_err());
        Ok(())
    }
}
