//! Programs of others, which are run to their end: what they print, and what they took.

use std::env;
use std::io;
use std::process::{Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use crate::compare::child::Process;
use crate::machine::Usage;

/// How often the account of a running program is read.
const SAMPLE: Duration = Duration::from_millis(10);

/// A program, and the package of Debian and its kin that has it.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// What it is called.
    pub program: &'static str,
    /// What is to be installed.
    pub package: &'static str,
}

/// Loads HTTP/1.
pub const WRK: Tool = Tool { program: "wrk", package: "wrk" };
/// Loads HTTP/1 and HTTP/2.
pub const H2LOAD: Tool = Tool { program: "h2load", package: "nghttp2-client" };
/// Attacks HTTP/1.
pub const SLOWHTTPTEST: Tool = Tool { program: "slowhttptest", package: "slowhttptest" };
/// Relays TCP, among much else.
pub const HAPROXY: Tool = Tool { program: "haproxy", package: "haproxy" };
/// Relays anything.
pub const SOCAT: Tool = Tool { program: "socat", package: "socat" };

/// Fails, with how to install them, unless all of `tools` are there.
///
/// # Errors
///
/// The command that installs what is missing.
pub fn require(tools: &[Tool]) -> io::Result<()> {
    let missing: Vec<&Tool> = tools.iter().filter(|tool| !is_there(tool.program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<&str> = missing.iter().map(|tool| tool.program).collect();
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("missing: {}; as root: apt-get install {}", programs.join(", "), packages.join(" ")),
    ))
}

/// Whether a program of that name would be found.
fn is_there(program: &str) -> bool {
    let paths = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&paths).any(|directory| directory.join(program).is_file())
}

/// A program that has ended well.
#[derive(Debug)]
pub struct Finished {
    /// What it printed.
    pub output: String,
    /// What it used of the processors, up to some milliseconds before its end.
    pub usage: Usage,
    /// How long it ran.
    pub elapsed: Duration,
}

/// Runs a program to its end, on the processor of the calling thread.
///
/// # Errors
///
/// When it can't be started, ends badly, or runs longer than `patience`.
pub fn run(tool: Tool, arguments: &[String], patience: Duration, favour: bool) -> io::Result<Finished> {
    let told = |problem: String| io::Error::other(format!("{} {}: {problem}", tool.program, arguments.join(" ")));
    let begin = Instant::now();
    let mut process = Process::start(Command::new(tool.program).args(arguments).stdin(Stdio::null()), favour)
        .map_err(|error| told(error.to_string()))?;
    let (mut output, mut usage) = (String::new(), Usage::default());
    loop {
        match process.next_line(SAMPLE) {
            Ok(line) => {
                output.push_str(&line);
                output.push('\n');
            }
            Err(RecvTimeoutError::Timeout) => {
                // A process that has ended has no account any more.
                usage = Usage::of(process.pid()).unwrap_or(usage);
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if begin.elapsed() > patience {
            return Err(told(format!("still running after {} s", patience.as_secs())));
        }
    }
    let status = process.wait()?;
    if !status.success() {
        return Err(told(format!("{status}\n{output}")));
    }
    Ok(Finished { output, usage, elapsed: begin.elapsed() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: Tool = Tool { program: "sh", package: "dash" };

    fn shell(script: &str) -> io::Result<Finished> {
        run(SHELL, &["-c".to_owned(), script.to_owned()], Duration::from_secs(10), false)
    }

    #[test]
    fn a_program_that_ends_well_is_heard() -> io::Result<()> {
        assert_eq!(shell("echo one; echo two")?.output, "one\ntwo\n");
        Ok(())
    }

    #[test]
    fn a_program_that_ends_badly_is_an_error() {
        let error = shell("echo why; exit 3").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("why") && error.contains('3'), "{error}");
    }

    #[test]
    fn what_is_missing_is_said_with_the_way_to_get_it() {
        let tool = Tool { program: "no-such-program", package: "some-package" };
        let error = require(&[SHELL, tool]).err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(error, "missing: no-such-program; as root: apt-get install some-package");
        assert!(require(&[SHELL]).is_ok());
    }
}
