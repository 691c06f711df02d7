//! `slow-http`: attacks an HTTP server with slow clients beside a healthy one, and prints a table.

use std::env;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use tidegate_bench::compare::ServerCommand;
use tidegate_bench::slow_http::{self, ALL, Attack, Options};

/// Attacks an HTTP server with slowhttptest, plain and by TLS, while a healthy client asks ten times a second.
#[derive(Parser)]
struct Arguments {
    /// Attacking connections.
    #[arg(long, default_value_t = 1_000)]
    connections: usize,
    /// Seconds of each attack.
    #[arg(long, default_value_t = 45)]
    seconds: u64,
    /// Which attacks to run; all unless given.
    #[arg(long, value_delimiter = ',', value_parser = Attack::find)]
    attacks: Vec<Attack>,
    /// Another server than the example http_hello, as NAME=COMMAND. It must answer "Hello, World!" and print two lines: one with the address
    /// it listens on, one with "at most N bytes". {connections} stands for how many there must be room for.
    #[arg(long, value_name = "NAME=COMMAND")]
    server: Option<String>,
    /// What is added to that command for TLS, where {chain} and {key} stand for files.
    #[arg(long, requires = "server", value_name = "ARGUMENTS", allow_hyphen_values = true)]
    tls: Option<String>,
}

fn main() -> ExitCode {
    match options(&Arguments::parse()).and_then(|options| slow_http::run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slow-http: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &Arguments) -> io::Result<Options> {
    let program = env::current_exe()?;
    let beside = program.parent().unwrap_or(Path::new("."));
    let words = |text: &str| text.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let (server, tls) = match &arguments.server {
        Some(text) => (ServerCommand::parse(text)?, arguments.tls.as_deref().map(words).unwrap_or_default()),
        None => {
            let server = ServerCommand {
                name: "tidegate".to_owned(),
                program: beside.join("examples/http_hello"),
                arguments: words("--listen 127.0.0.1:0 --threads 1 --connections {connections}"),
            };
            (server, words("--tls {chain} {key}"))
        }
    };
    Ok(Options {
        server,
        tls,
        attacks: if arguments.attacks.is_empty() { ALL.to_vec() } else { arguments.attacks.clone() },
        connections: arguments.connections.max(1),
        seconds: arguments.seconds.max(1),
    })
}
