//! The program `tidegate`: servers on the Tidegate framework, and what it takes to run them and to load them.
//!
//! Exit status: 0 after a drained run or a load that went well, 1 when the machine refuses something (an address,
//! descriptors, memory, a promise) or a load found faults, 2 for arguments that make no sense, 128 + its number when a second signal ends the program.
#![forbid(unsafe_code)]

mod arguments;
mod descriptors;
mod doctor;
mod load;
mod logging;
mod parse;
mod serve;
mod signals;
mod size;
mod span;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command};

/// Why the program ends otherwise than well. The text is for a person: what failed, with its numbers, and what to do.
#[derive(Debug)]
enum Failure {
    /// The arguments contradict each other: exit status 2.
    Usage(String),
    /// The machine refuses: exit status 1.
    Refused(String),
    /// What was wrong is in the report that was printed: exit status 1.
    Reported,
}

fn main() -> ExitCode {
    tidegate::share_one_heap();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Help and version go to stdout with status 0, everything else to stderr with status 2.
        Err(error) if error.use_stderr() => {
            logging::say_on_stderr(error.render().to_string());
            return ExitCode::from(2);
        }
        Err(error) => error.exit(),
    };
    let outcome = match arguments.command {
        Command::Serve(options) => serve::run(&options),
        Command::Load(options) => load::run(&options),
        Command::Doctor(options) => doctor::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(text)) => {
            logging::say_on_stderr(format!("tidegate: {text}\n\nFor more information, try '--help'.\n"));
            ExitCode::from(2)
        }
        Err(Failure::Refused(text)) => {
            logging::say_on_stderr(format!("tidegate: {text}\n"));
            ExitCode::from(1)
        }
        Err(Failure::Reported) => ExitCode::from(1),
    }
}
