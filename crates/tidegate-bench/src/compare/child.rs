//! The processes a run starts: servers, and one worker for each.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::machine;
use crate::protocol::{GO, Reply, Turn, WorkerOrder};

use super::ServerCommand;

/// How long a server may take to say where it listens.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How long a worker may take to connect and verify.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// How long the answers still due at the end of a turn may take.
const DRAIN_PATIENCE: Duration = Duration::from_secs(20);

/// How long a server that does not say where it listens may take until it does.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// A child process that ends with its owner, and the lines it prints.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    /// Starts it on the processor of the calling thread.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn start(command: &mut Command, favour: bool) -> io::Result<Process> {
        command.stdout(Stdio::piped());
        // SAFETY: both steps are plain system calls; they neither allocate nor take a lock.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
                    return Err(io::Error::last_os_error());
                }
                if favour {
                    machine::favour_this_process()?;
                }
                Ok(())
            });
        }
        let mut child = command.spawn()?;
        let output = child.stdout.take();
        let (sender, lines) = mpsc::channel();
        if let Some(output) = output {
            thread::spawn(move || pass_on(output, &sender));
        }
        Ok(Process { child, lines })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its output; `Disconnected` when there will be none.
    pub fn next_line(&self, patience: Duration) -> Result<String, RecvTimeoutError> {
        self.lines.recv_timeout(patience)
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    fn line(&self, patience: Duration) -> io::Result<String> {
        self.lines.recv_timeout(patience).map_err(|error| {
            io::Error::other(match error {
                RecvTimeoutError::Timeout => format!("silent for {} s", patience.as_secs()),
                RecvTimeoutError::Disconnected => "ended unexpectedly".to_owned(),
            })
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if the process has been collected already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads on even when nobody listens: a full pipe would stop the process.
fn pass_on(output: ChildStdout, lines: &mpsc::Sender<String>) {
    for line in BufReader::new(output).lines() {
        let Ok(line) = line else { return };
        let _ = lines.send(line);
    }
}

/// A running server.
pub struct Server {
    process: Process,
    address: SocketAddr,
}

impl Server {
    /// Starts it on the processor of the calling thread and waits for its address.
    pub fn start(command: &ServerCommand, favour: bool) -> io::Result<Server> {
        let process = spawn(command, favour)?;
        loop {
            let line = process.line(START_PATIENCE).map_err(|error| named(command, &error))?;
            if let Some(address) = listening_address(&line) {
                return Ok(Server { process, address });
            }
        }
    }

    /// Starts one that does not say where it listens: waits until it takes connections at `address`.
    pub fn start_at(command: &ServerCommand, address: SocketAddr) -> io::Result<Server> {
        let mut process = spawn(command, false)?;
        let deadline = Instant::now() + CONNECT_PATIENCE;
        while let Err(error) = TcpStream::connect(address) {
            if let Some(status) = process.ended()? {
                return Err(named(command, &io::Error::other(format!("ended: {status}"))));
            }
            if Instant::now() > deadline {
                return Err(named(command, &error));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Server { process, address })
    }

    /// The next line that it prints, if one comes in time.
    pub fn line(&self, patience: Duration) -> Option<String> {
        self.process.next_line(patience).ok()
    }

    /// Fails when it has ended, with how.
    pub fn still_runs(&mut self) -> io::Result<()> {
        match self.process.ended()? {
            None => Ok(()),
            Some(status) => Err(io::Error::other(format!("the server has ended: {status}"))),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }
}

fn spawn(command: &ServerCommand, favour: bool) -> io::Result<Process> {
    Process::start(Command::new(&command.program).args(&command.arguments).stdin(Stdio::null()), favour)
        .map_err(|error| named(command, &error))
}

fn named(command: &ServerCommand, error: &io::Error) -> io::Error {
    let hint = if error.kind() == io::ErrorKind::NotFound { "; build it first, with the whole package" } else { "" };
    io::Error::other(format!("{} ({}): {error}{hint}", command.name, command.program.display()))
}

/// The last address of a line, if it has one.
fn listening_address(line: &str) -> Option<SocketAddr> {
    line.split_ascii_whitespace().rev().find_map(|word| word.trim_end_matches(',').parse().ok())
}

/// A connected worker.
pub struct Worker {
    process: Process,
    commands: ChildStdin,
}

impl Worker {
    /// Starts this program again as a worker and waits until it has connected and verified.
    pub fn start(order: &WorkerOrder, favour: bool) -> io::Result<Worker> {
        let order = serde_json::to_string(order)?;
        let mut process =
            Process::start(Command::new(env::current_exe()?).args(["worker", &order]).stdin(Stdio::piped()), favour)?;
        let commands =
            process.child.stdin.take().ok_or_else(|| io::Error::other("the worker has no standard input"))?;
        let worker = Worker { process, commands };
        match worker.reply(READY_PATIENCE)? {
            Reply::Ready => Ok(worker),
            Reply::Failed(reason) => Err(io::Error::other(reason)),
            Reply::Turn(_) => Err(io::Error::other("the worker answered before being asked")),
        }
    }

    /// Has the worker load its server for `length` and returns what came of it.
    pub fn turn(&mut self, length: Duration) -> io::Result<Turn> {
        writeln!(self.commands, "{GO} {}", length.as_millis())?;
        match self.reply(length + DRAIN_PATIENCE)? {
            Reply::Turn(turn) => Ok(turn),
            Reply::Failed(reason) => Err(io::Error::other(reason)),
            Reply::Ready => Err(io::Error::other("the worker answered out of turn")),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    fn reply(&self, patience: Duration) -> io::Result<Reply> {
        let line = self.process.line(patience)?;
        Ok(serde_json::from_str(&line)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_the_last_of_the_line() {
        let address = Some(SocketAddr::from(([127, 0, 0, 1], 4711)));
        assert_eq!(listening_address("listening echo tcp 127.0.0.1:4711"), address);
        assert_eq!(listening_address("listening on 127.0.0.1:4711, on io_uring"), address);
        assert_eq!(listening_address("starting"), None);
        assert_eq!(listening_address(""), None);
    }
}
