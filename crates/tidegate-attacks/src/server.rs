//! The server under attack: the real program, in a process of its own.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use crate::announcement::{Announcement, Announcing, Summary};

/// How long the server may take to say where it listens.
const STARTUP: Duration = Duration::from_secs(15);

/// How long it may live on after it should have ended; then it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often its memory is read while it is expected to end.
const GLANCE: Duration = Duration::from_millis(10);

/// Lines of its stdout and bytes of its log that are kept.
const LINES_MAX: usize = 1024;
const LOG_BYTES_MAX: usize = 32 << 10;

/// The program that was asked for, or else the one beside this one.
///
/// # Errors
/// When it is not there; with the command that builds it if it should be beside this one.
pub fn program(asked: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(program) = asked {
        // Whole, because a name without a folder would be looked for elsewhere.
        return program.canonicalize().map_err(|error| format!("--program {}: {error}", program.display()));
    }
    let own = env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
    let directory = own.parent().unwrap_or(Path::new("."));
    let program = directory.join("tidegate");
    if program.is_file() {
        return Ok(program);
    }
    let profile = if directory.ends_with("release") { " --release" } else { "" };
    Err(format!("{} is not there: build it with `cargo build{profile} -p tidegate-cli`", program.display()))
}

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Start {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its hard limit of descriptors, when it is to be lower than ours.
    pub descriptors: Option<u64>,
    /// The file that puts it into a cgroup.
    pub cgroup_processes: Option<PathBuf>,
}

/// A server, running. Killed when it is dropped.
pub struct Server {
    child: Child,
    lines: Receiver<String>,
    log: Option<JoinHandle<Vec<u8>>>,
    peak_bytes: u64,
    /// What it has said about itself.
    pub announcement: Announcement,
}

/// How it ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit status; `None`: it had to be killed.
    pub status: Option<ExitStatus>,
    /// From the signal to the exit.
    pub took: Duration,
    /// The last line of its stdout, read.
    pub summary: Result<Summary, String>,
    /// The most memory that it ever had resident (`VmHWM`).
    pub peak_bytes: u64,
    /// The end of its log.
    pub log: String,
}

impl Server {
    /// Starts one and waits for what it says about itself.
    pub fn start(start: &Start) -> Result<Self, String> {
        let mut child = start.command().spawn().map_err(|error| format!("{}: {error}", start.program.display()))?;
        let (say, lines) = sync_channel(LINES_MAX);
        let stdout = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
        let mut stderr = child.stderr.take().ok_or("no stderr")?;
        let log = std::thread::spawn(move || {
            let (mut log, mut chunk) = (Vec::new(), [0; 4096]);
            while let Ok(count @ 1..) = stderr.read(&mut chunk) {
                log.extend_from_slice(&chunk[..count]);
                let surplus = log.len().saturating_sub(LOG_BYTES_MAX);
                log.drain(..surplus);
            }
            log
        });
        let address = ([127, 0, 0, 1], 0).into();
        let announcement = Announcement { address, ceiling_bytes: 0, kernel_bytes: 0 };
        let mut server = Self { child, lines, log: Some(log), peak_bytes: 0, announcement };
        match server.announced() {
            Ok(announcement) => server.announcement = announcement,
            Err(text) => {
                let _ = server.child.kill();
                return Err(format!("the server did not start as it should: {text}\n{}", server.log()));
            }
        }
        Ok(server)
    }

    fn announced(&mut self) -> Result<Announcement, String> {
        let deadline = Instant::now() + STARTUP;
        let mut announcing = Announcing::default();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(announcement) = announcing.line(&line)? {
                        return Ok(announcement);
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Err(announcing.missing()),
                Err(RecvTimeoutError::Disconnected) => return Err(format!("it has ended; {}", announcing.missing())),
            }
        }
    }

    /// Lowers its limit of descriptors while it runs.
    pub fn lower_descriptors(&self, limit: u64) -> Result<(), String> {
        let limits = Rlimit { current: Some(limit), maximum: Some(limit) };
        prlimit(Some(self.pid()), Resource::Nofile, limits)
            .map(drop)
            .map_err(|error| format!("lowering the server's descriptors to {limit}: {error}"))
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> Option<usize> {
        Some(fs::read_dir(format!("/proc/{}/fd", self.child.id())).ok()?.count())
    }

    /// Drains it by SIGTERM, waits for its end, and kills it when it has not ended long after `within`.
    pub fn end(mut self, within: Duration) -> Ended {
        self.look();
        let begun = Instant::now();
        let _ = kill_process(self.pid(), Signal::TERM);
        let status = loop {
            self.look();
            match self.child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if begun.elapsed() < within + PATIENCE => std::thread::sleep(GLANCE),
                Ok(None) | Err(_) => {
                    let _ = self.child.kill();
                    let _ = self.child.wait();
                    break None;
                }
            }
        };
        let took = begun.elapsed();
        // The reader has ended with the process: what it had to say is in the channel.
        let last = self.lines.iter().last();
        let summary =
            last.ok_or_else(|| "nothing on stdout at the end".to_owned()).and_then(|line| Summary::parse(&line));
        Ended { status, took, summary, peak_bytes: self.peak_bytes, log: self.log() }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn look(&mut self) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        // A process that has ended has no memory any more.
        self.peak_bytes = self.peak_bytes.max(peak_bytes(&status).unwrap_or(0));
    }

    fn log(&mut self) -> String {
        let log = self.log.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Start {
    fn command(&self) -> Command {
        let mut steps = String::new();
        if let Some(limit) = self.descriptors {
            steps += &format!("ulimit -n {limit} && ");
        }
        let mut command = if steps.is_empty() && self.cgroup_processes.is_none() {
            Command::new(&self.program)
        } else {
            // The shell limits itself and becomes the server.
            let mut shell = Command::new("sh");
            if self.cgroup_processes.is_some() {
                steps += "echo $$ > \"$TIDEGATE_CGROUP_PROCESSES\" && ";
            }
            shell.arg("-c").arg(format!("{steps}exec \"$0\" \"$@\"")).arg(&self.program);
            shell
        };
        if let Some(file) = &self.cgroup_processes {
            command.env("TIDEGATE_CGROUP_PROCESSES", file);
        }
        command.args(&self.arguments).env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// The `VmHWM` line of `/proc/PID/status`, in bytes.
fn peak_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_and_a_process_that_ended_has_none() {
        assert_eq!(peak_bytes("VmPeak:\t  9 kB\nVmHWM:\t   1234 kB\nVmRSS:\t 1 kB"), Some(1234 * 1024));
        assert_eq!(peak_bytes("Name:\ttidegate\nState:\tZ (zombie)"), None);
    }

    #[test]
    fn a_server_that_says_nothing_is_refused_with_what_is_missing() {
        let start = Start {
            program: "echo".into(),
            arguments: vec!["listening echo tcp 127.0.0.1:1".into()],
            descriptors: Some(64),
            cgroup_processes: None,
        };
        let text = Server::start(&start).err().expect("echo is no server");
        assert!(text.contains("no line `ceiling total BYTES`") && text.contains("it has ended"), "{text}");
    }
}
