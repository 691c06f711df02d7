//! `idle`: measures what idle connections take, server by server, and prints a table.

use std::env;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use tidegate_bench::compare::ServerCommand;
use tidegate_bench::idle::{self, Contestant, Options, Protocol};

/// Measures the memory of idle connections: resident memory of the server, and memory of the kernel.
#[derive(Parser)]
struct Arguments {
    /// How many connections are idle.
    #[arg(long, default_value_t = 15_000)]
    connections: usize,
    /// How many times each server is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// An echo server as NAME=COMMAND; tokio by name alone. {connections} stands for how many there must be room for.
    #[arg(long = "echo", value_name = "NAME=COMMAND")]
    echoes: Vec<String>,
    /// An HTTP server as NAME=COMMAND; hyper, hyper-bounded and tidegate-http by name alone.
    #[arg(long = "http", value_name = "NAME=COMMAND")]
    https: Vec<String>,
}

/// What is measured unless something is named.
const ECHOES: [&str; 3] = ["tokio", "tidegate-handler", "tidegate-async"];
const HTTPS: [&str; 3] = ["hyper", "hyper-bounded", "tidegate-http"];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match options(&arguments).and_then(|options| idle::run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("idle: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &Arguments) -> io::Result<Options> {
    let program = env::current_exe()?;
    let beside = program.parent().unwrap_or(Path::new("."));
    let owned = |names: [&str; 3]| names.map(str::to_owned).to_vec();
    let (echoes, https) = match (&arguments.echoes, &arguments.https) {
        (echoes, https) if echoes.is_empty() && https.is_empty() => (owned(ECHOES), owned(HTTPS)),
        (echoes, https) => (echoes.clone(), https.clone()),
    };
    let echoes = echoes.iter().map(|text| (text, Protocol::Echo));
    let servers = echoes.chain(https.iter().map(|text| (text, Protocol::Http)));
    let servers = servers
        .map(|(text, protocol)| Ok(Contestant { command: server(text, beside)?, protocol }))
        .collect::<io::Result<_>>()?;
    Ok(Options { servers, connections: arguments.connections.max(1), rounds: arguments.rounds.max(1) })
}

fn server(text: &str, beside: &Path) -> io::Result<ServerCommand> {
    let known = |program: &str, words: &str| ServerCommand {
        name: text.to_owned(),
        program: beside.join(program),
        arguments: words.split_ascii_whitespace().map(str::to_owned).collect(),
    };
    match text {
        "tokio" => Ok(known("echo-tokio", "")),
        "tidegate-handler" => Ok(known("echo-tidegate", "--connections {connections}")),
        "tidegate-async" => Ok(known("echo-tidegate", "--async --connections {connections}")),
        "hyper" => Ok(known("http-hyper", "")),
        "hyper-bounded" => Ok(known("http-hyper", "--buffers bounded")),
        "tidegate-http" => {
            Ok(known("examples/http_hello", "--listen 127.0.0.1:0 --threads 1 --http 1 --connections {connections}"))
        }
        _ => ServerCommand::parse(text),
    }
}
