//! Attacks a real Tidegate server beside healthy clients, and judges whether its limits held.
//!
//! Each attack has a server of its own, in a process of its own. See `docs/attacks.md` for what each does and what must hold.
//!
//! Exit status: 0 when every verdict is good or the attack can't take place here, 1 when one is not, 2 for arguments that make no
//! sense.
#![forbid(unsafe_code)]

mod announcement;
mod attacks;
mod control;
mod crowd;
mod healthy;
mod memory_cgroup;
mod pattern;
mod prove;
mod server;
mod stage;
mod subscribers;
mod table;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use clap::builder::PossibleValuesParser;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::stage::{Attack, Conclusion, Sabotage, Scale, Setting};
use crate::table::Row;

/// Lines of a server's log that are shown when it failed.
const LOG_LINES: usize = 12;

/// Attack a real Tidegate server beside healthy clients, and judge whether its limits held.
#[derive(Parser, Debug)]
#[command(name = "tidegate-attacks", version, about, long_about = None, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    scene: Option<Scene>,

    /// Seconds and hundreds of connections for each attack, instead of tens of seconds and thousands
    #[arg(long)]
    short: bool,

    /// Only this attack; may be given several times [default: all]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(attacks::ALL.map(|attack| attack.name)))]
    attack: Vec<String>,

    /// A JSON object a line for each attack, instead of a table
    #[arg(long)]
    json: bool,

    /// The engine of the server [default: the server's own choice]
    #[arg(long, value_name = "NAME")]
    engine: Option<String>,

    /// The program of the server [default: the `tidegate` beside this program]
    #[arg(long, value_name = "FILE", global = true)]
    program: Option<PathBuf>,

    /// Attack servers that must fail, in the short form, to show that the suite can fail
    #[arg(long, conflicts_with_all = ["attack", "json"])]
    prove: bool,
}

/// Something else than an attack.
#[derive(clap::Subcommand, Debug)]
enum Scene {
    Subscribers(subscribers::Subscribers),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            eprintln!("tidegate-attacks: {text}");
            ExitCode::FAILURE
        }
    }
}

/// Says whether all is well.
fn run(arguments: &Arguments) -> Result<bool, String> {
    let program = server::program(arguments.program.as_deref())?;
    if let Some(Scene::Subscribers(plan)) = &arguments.scene {
        raise_descriptors();
        return subscribers::run(plan, &program);
    }
    let setting = Setting {
        program: &program,
        scale: if arguments.short || arguments.prove { Scale::Short } else { Scale::Full },
        engine: arguments.engine.as_deref(),
        descriptors: raise_descriptors(),
    };
    if arguments.prove {
        return Ok(prove::prove(&setting, |text| println!("{text}")));
    }
    let asked =
        |attack: &Attack| arguments.attack.is_empty() || arguments.attack.iter().any(|name| name == attack.name);
    let mut rows = Vec::new();
    for attack in attacks::ALL.iter().filter(|attack| asked(attack)) {
        eprintln!("{}: {} ...", attack.name, attack.summary);
        let begun = Instant::now();
        let conclusion = setting.attack(attack, &Sabotage::default());
        let row = Row { attack: attack.name, conclusion, took: begun.elapsed() };
        if row.failed() {
            show_log(&row);
        }
        if arguments.json {
            println!("{}", table::json_line(&row));
        }
        // What keeps one attack from being made keeps the others.
        let go_on = row.conclusion.is_ok();
        rows.push(row);
        if !go_on {
            break;
        }
    }
    if !arguments.json {
        print!("{}", table::table(&rows));
    }
    Ok(!rows.iter().any(Row::failed))
}

/// The end of the log of a server that failed.
fn show_log(row: &Row) {
    if let Ok(Conclusion::Judged(judged)) = &row.conclusion {
        let log = &judged.observation.ended.log;
        let lines = log.lines().count();
        eprintln!("the end of the server's log:");
        log.lines().skip(lines.saturating_sub(LOG_LINES)).for_each(|line| eprintln!("  {line}"));
    }
}

/// Raises the soft limit of descriptors to the hard one, and returns what it is then.
fn raise_descriptors() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    let soft = limit.current.unwrap_or(u64::MAX);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_ok() { hard } else { soft }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_sound_and_know_every_attack() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
        for attack in attacks::ALL {
            assert!(Arguments::try_parse_from(["", "--short", "--attack", attack.name]).is_ok(), "{}", attack.name);
        }
        assert!(Arguments::try_parse_from(["", "--attack", "kindness"]).is_err());
        assert!(Arguments::try_parse_from(["", "--prove", "--json"]).is_err());
    }
}
