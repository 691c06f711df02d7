//! `broadcast`: measures servers that send one stream to many connections, side by side, and prints a table.

use std::env;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tidegate_bench::broadcast::{self, Options};
use tidegate_bench::compare::ServerCommand;

/// Measures broadcasts side by side: deliveries for each second of server processor time, in turns.
#[derive(Parser)]
struct Arguments {
    /// Turns per server.
    #[arg(long, default_value_t = 8)]
    rounds: usize,
    /// Milliseconds per turn.
    #[arg(long, default_value_t = 1_000)]
    slice_ms: u64,
    /// Connections that receive.
    #[arg(long, default_value_t = 1_000)]
    connections: usize,
    /// Bytes of a message, at least 24.
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// A server as NAME=COMMAND; tokio and tidegate by name alone, and both by default. The command must print a line that ends
    /// with the address it listens on, and send messages of --size bytes as `tidegate serve ticker` does.
    #[arg(long = "server", value_name = "NAME=COMMAND")]
    servers: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match options(&arguments).and_then(|options| broadcast::run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("broadcast: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &Arguments) -> io::Result<Options> {
    let program = env::current_exe()?;
    let beside = program.parent().unwrap_or(Path::new("."));
    let names = if arguments.servers.is_empty() {
        vec!["tokio".to_owned(), "tidegate".to_owned()]
    } else {
        arguments.servers.clone()
    };
    let servers = names.iter().map(|text| server(text, beside, arguments)).collect::<io::Result<_>>()?;
    Ok(Options {
        servers,
        rounds: arguments.rounds,
        slice: Duration::from_millis(arguments.slice_ms.max(1)),
        connections: arguments.connections.max(1),
        size: arguments.size.max(24),
    })
}

fn server(text: &str, beside: &Path, arguments: &Arguments) -> io::Result<ServerCommand> {
    let size = arguments.size.max(24);
    let (name, program, words) = match text.split_once('=') {
        Some((name, command)) => {
            let mut words = command.split_ascii_whitespace().map(str::to_owned);
            let program = words.next().ok_or_else(|| io::Error::other(format!("--server {text:?} has no command")))?;
            (name, program.into(), words.collect())
        }
        None if text == "tokio" => (text, beside.join("broadcast-tokio"), vec!["--size".to_owned(), size.to_string()]),
        None if text == "tidegate" => {
            let most = (arguments.connections + 8).to_string();
            let words = format!(
                "serve ticker --listen 127.0.0.1:0 --threads 1 --interval 0 --size {size} --max-connections {most}"
            );
            (text, beside.join("tidegate"), words.split(' ').map(str::to_owned).collect())
        }
        None => return Err(io::Error::other(format!("--server {text:?}: neither NAME=COMMAND nor tokio or tidegate"))),
    };
    Ok(ServerCommand { name: name.to_owned(), program, arguments: words })
}
