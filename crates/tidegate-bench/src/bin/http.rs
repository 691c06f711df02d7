//! `http`: measures HTTP servers side by side and prints tables.

use std::env;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tidegate_bench::compare::ServerCommand;
use tidegate_bench::http::{self, ALL, Load, Options};

/// Measures HTTP servers side by side with wrk and h2load: requests for each second of server processor time, in turns.
#[derive(Parser)]
struct Arguments {
    /// Turns per server and load.
    #[arg(long, default_value_t = 16)]
    rounds: usize,
    /// Seconds per turn.
    #[arg(long, default_value_t = 2)]
    slice_seconds: u64,
    /// Which loads to run; all unless given.
    #[arg(long, value_delimiter = ',', value_parser = Load::find)]
    loads: Vec<Load>,
    /// A server as NAME=COMMAND; hyper, hyper-bounded and tidegate by name alone, and these by default. The command must print a line with
    /// the address it listens on; {http} in it stands for 1 or 2, {connections} for how many there must be room for.
    #[arg(long = "server", value_name = "NAME=COMMAND")]
    servers: Vec<String>,
    /// Drop a turn when server or client waited longer than this for a processor, in percent.
    #[arg(long, default_value_t = 8.0)]
    max_wait: f64,
    /// Milliseconds to wait for a quiet machine before each round.
    #[arg(long, default_value_t = 3_000)]
    quiet_wait_ms: u64,
    /// Let servers and clients go before everything else on their processors.
    #[arg(long)]
    favour: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match options(&arguments).and_then(|options| http::run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("http: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &Arguments) -> io::Result<Options> {
    let program = env::current_exe()?;
    let beside = program.parent().unwrap_or(Path::new("."));
    let names = match arguments.servers.as_slice() {
        [] => ["hyper", "hyper-bounded", "tidegate"].map(str::to_owned).to_vec(),
        names => names.to_vec(),
    };
    Ok(Options {
        servers: names.iter().map(|text| server(text, beside)).collect::<io::Result<_>>()?,
        loads: if arguments.loads.is_empty() { ALL.to_vec() } else { arguments.loads.clone() },
        rounds: arguments.rounds,
        slice_seconds: arguments.slice_seconds.max(1),
        max_wait: arguments.max_wait / 100.0,
        quiet_wait: Duration::from_millis(arguments.quiet_wait_ms),
        favour: arguments.favour,
    })
}

fn server(text: &str, beside: &Path) -> io::Result<ServerCommand> {
    let known = |program: &str, words: &str| ServerCommand {
        name: text.to_owned(),
        program: beside.join(program),
        arguments: words.split(' ').map(str::to_owned).collect(),
    };
    match text {
        "hyper" => Ok(known("http-hyper", "--http {http}")),
        "hyper-bounded" => Ok(known("http-hyper", "--http {http} --buffers bounded")),
        "tidegate" => Ok(known(
            "examples/http_hello",
            "--listen 127.0.0.1:0 --threads 1 --http {http} --connections {connections}",
        )),
        _ => ServerCommand::parse(text),
    }
}
