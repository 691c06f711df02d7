//! `tidegate doctor`: what this machine can promise, and what stands in the way of more.

mod report;
mod settings;
mod verdict;

use std::io::{self, Write as _};
use std::num::{NonZeroU32, NonZeroUsize};

use clap::Args;

use self::report::Report;
use self::settings::Settings;
use self::verdict::Wanted;
use crate::Failure;
use crate::size::Size;

/// What to ask of the machine.
#[derive(Args, Debug)]
#[command(after_help = NOTES)]
pub(crate) struct DoctorOptions {
    /// Connections at once that the machine is asked for [default: 10000, or as many as can be promised if that is fewer]
    #[arg(long, value_name = "N")]
    connections: Option<NonZeroU32>,

    /// Memory that the server may use at worst, such as 128M [default: as serve chooses it]
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,

    /// One JSON object on stdout instead of the table
    #[arg(long)]
    json: bool,
}

const NOTES: &str = "\
It sets up each engine as a server would and takes it down again, reads the settings of the system and the limits of
the process, and changes nothing. It answers: which engine will run, how many connections can be promised with which
ceiling of memory (and what the kernel may use besides), and what stands in the way of more, each with the command
that changes it.

Status 0: what was asked for can be promised. Status 1: it can't. Status 2: bad arguments.

Example: can this machine serve 100,000 connections within 2 GiB?
  tidegate doctor --connections 100000 --memory 2G";

/// Looks, judges and says so.
pub(crate) fn run(options: &DoctorOptions) -> Result<(), Failure> {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let wanted = Wanted { connections: options.connections.map(Into::into), memory: options.memory, threads };
    let (settings, probe) = (Settings::look(), tidegate::probe());
    let verdict = verdict::judge(&wanted, &settings, &probe);
    let report = Report { wanted: &wanted, settings: &settings, probe: &probe, verdict: &verdict };
    let text = if options.json { format!("{}\n", report.json()) } else { report.table() };
    // Whoever has closed stdout still gets the status.
    let _ = io::stdout().lock().write_all(text.as_bytes());
    if verdict.kept { Ok(()) } else { Err(Failure::Refused(report.refusal())) }
}
