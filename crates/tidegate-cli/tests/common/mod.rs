//! Starts the real program and talks to it as its clients do.
#![allow(dead_code, reason = "every test file uses a part of it")]

mod sandbox;

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// After this, what was waited for is not coming. Long, because two busy processors run many tests at once.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A program that is about to be started.
pub struct Start {
    command: Command,
    listens: bool,
    stderr: Stderr,
}

enum Stderr {
    Collected,
    NeverRead,
}

/// The program, running. Killed when it is dropped.
pub struct Program {
    child: Child,
    /// Readable when the process has ended.
    ended: OwnedFd,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    /// A pipe that nobody reads.
    _unread: Option<std::process::ChildStderr>,
    /// Where it listens, in the order of the arguments.
    pub addresses: Vec<SocketAddr>,
}

/// What a program that has ended leaves.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    /// What it wrote to stdout after the addresses.
    pub stdout: String,
    pub stderr: String,
}

/// `tidegate` with these arguments.
pub fn tidegate(arguments: &[&str]) -> Start {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).env_remove("RUST_LOG");
    // A run of the tests may be about one engine.
    if let (Ok(engine), Some(&"serve")) = (std::env::var("TIDEGATE_TEST_ENGINE"), arguments.first())
        && !arguments.contains(&"--engine")
    {
        command.args(["--engine", &engine]);
    }
    Start { command, listens: arguments.contains(&"--listen"), stderr: Stderr::Collected }
}

/// Starts `tidegate serve` with these arguments, on a free port unless they say where, and waits until it listens.
pub fn serve(arguments: &[&str]) -> Program {
    tidegate(&[&["serve"], arguments].concat()).serving()
}

impl Start {
    /// With an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// With stderr a pipe that nobody ever reads.
    pub fn stderr_never_read(mut self) -> Self {
        self.stderr = Stderr::NeverRead;
        self
    }

    /// Through a shell that first runs `prelude`.
    pub fn after_shell_command(mut self, prelude: &str) -> Self {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("{prelude} && exec \"$0\" \"$@\""));
        shell.arg(self.command.get_program()).args(self.command.get_args()).env_remove("RUST_LOG");
        self.command = shell;
        self
    }

    /// As the last arguments of another program, which must become it: `ip netns exec <name>` does.
    pub fn through(mut self, program: &[&str]) -> Self {
        if let [name, arguments @ ..] = program {
            let mut outer = Command::new(name);
            outer.args(arguments).arg(self.command.get_program()).args(self.command.get_args()).env_remove("RUST_LOG");
            self.command = outer;
        }
        self
    }

    /// Where the system refuses these calls with `error`, as container engines do.
    pub fn refused(mut self, calls: &'static [libc::c_long], error: i32) -> Self {
        sandbox::refuse(&mut self.command, calls, error);
        self
    }

    /// Starts it and waits until it listens.
    pub fn serving(mut self) -> Program {
        if !self.listens {
            self.command.args(["--listen", "127.0.0.1:0"]);
        }
        let listeners = self.command.get_args().filter(|argument| *argument == "--listen").count();
        let mut program = self.spawned();
        for _ in 0..listeners {
            let line = program.line();
            let address = line.rsplit(' ').next().unwrap_or_default();
            program.addresses.push(address.parse().unwrap_or_else(|_| panic!("not a listening line: {line}")));
        }
        program
    }

    /// Starts it and waits for it to end.
    pub fn ended(self) -> Ended {
        self.spawned().ended()
    }

    /// Starts it and waits for nothing.
    pub fn spawned(mut self) -> Program {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("the program can be started");
        let pid = Pid::from_child(&child);
        let ended = pidfd_open(pid, PidfdFlags::empty()).expect("the child was not waited for");
        let (say, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
        let mut stderr = child.stderr.take();
        let collected = match self.stderr {
            Stderr::NeverRead => None,
            Stderr::Collected => stderr.take().map(|mut pipe| {
                std::thread::spawn(move || {
                    let mut text = Vec::new();
                    let _ = pipe.read_to_end(&mut text);
                    String::from_utf8_lossy(&text).into_owned()
                })
            }),
        };
        Program { child, ended, lines, stderr: collected, _unread: stderr, addresses: Vec::new() }
    }
}

impl Program {
    /// The first address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// A connection to it.
    pub fn connect(&self) -> TcpStream {
        connect(self.address())
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it was not waited for");
    }

    /// The next line on its stdout.
    pub fn line(&mut self) -> String {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => line,
            Err(_) => {
                let _ = self.child.kill();
                let stderr = self.stderr.take().map(|collected| collected.join().unwrap_or_default());
                panic!("no line on stdout; stderr: {}", stderr.unwrap_or_default());
            }
        }
    }

    /// What it has resident in memory, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process that runs has memory");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("in KiB");
        kib * 1024
    }

    /// The names of its threads, those that the kernel runs for it included.
    pub fn threads(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.map(|name| name.trim().to_owned()).collect()
    }

    /// Its open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs").count()
    }

    /// Whether it ends within `time`.
    pub fn ends_within(&self, time: Duration) -> bool {
        let mut fds = [PollFd::new(&self.ended, PollFlags::IN)];
        let time = Timespec::try_from(time).expect("short");
        poll(&mut fds, Some(&time)).expect("poll works") > 0
    }

    /// Waits for it to end.
    pub fn ended(mut self) -> Ended {
        assert!(self.ends_within(DEADLINE), "the program doesn't end");
        let status = self.child.wait().expect("it is our child");
        let mut stdout = String::new();
        while let Ok(line) = self.lines.recv_timeout(DEADLINE) {
            stdout += &line;
            stdout.push('\n');
        }
        let stderr = self.stderr.take().map(|collected| collected.join().expect("it only reads")).unwrap_or_default();
        Ended { status, stdout, stderr }
    }

    /// Drains it with SIGTERM; it must end well.
    pub fn drained(self) -> Ended {
        self.signal(Signal::TERM);
        let ended = self.ended();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        ended
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection to `address` whose reads and writes fail after the deadline.
pub fn connect(address: SocketAddr) -> TcpStream {
    with_deadlines(TcpStream::connect_timeout(&address, DEADLINE).expect("it listens"))
}

/// The same stream, whose reads and writes fail after the deadline.
pub fn with_deadlines(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
    stream.set_write_timeout(Some(DEADLINE)).expect("not zero");
    stream
}

/// `length` bytes that look random and are the same for the same seed, so that what is lost, doubled or swapped shows.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Sends `bytes` while it reads as many back, and compares.
pub fn assert_echoed(stream: &TcpStream, bytes: &[u8]) {
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (&mut &*stream).write_all(bytes));
        assert_receives(stream, bytes);
        writer.join().expect("it only writes").expect("everything is taken");
    });
}

/// Reads as many bytes as `expected` has, and compares. A read with a timeout is not restarted when the process was stopped and goes on,
/// so that it can be interrupted.
pub fn assert_receives(mut stream: &TcpStream, expected: &[u8]) {
    let mut chunk = vec![0; 64 << 10];
    let mut at = 0;
    while at < expected.len() {
        let room = chunk.len().min(expected.len() - at);
        let count = match stream.read(&mut chunk[..room]) {
            Ok(0) => panic!("the stream ends after {at} of {} bytes", expected.len()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => panic!("after {at} of {} bytes: {error}", expected.len()),
        };
        assert!(chunk[..count] == expected[at..at + count], "different bytes after {at} of {}", expected.len());
        at += count;
    }
}

/// The next thing on the stream must be its end.
pub fn assert_end(mut stream: &TcpStream) {
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(count) => assert_eq!(count, 0, "more bytes, where the end should be"),
        Err(error) => panic!("no end of the stream, but: {error}"),
    }
}

/// Sends until nothing has been taken for a while, or the connection is reset, and returns how much was taken.
pub fn send_until_blocked(mut stream: &TcpStream) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(300))).expect("not zero");
    let chunk = pattern(99, 64 << 10);
    let mut sent = 0;
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < DEADLINE, "it takes everything: {sent} bytes");
        // A write may be cut short: the next goes on where it ended.
        match stream.write(&chunk[sent % chunk.len()..]) {
            Ok(count) => sent += count,
            Err(error) if is_timeout(&error) || is_reset(&error) => return sent,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => panic!("after {sent} bytes: {error}"),
        }
    }
}

/// Whether a read or write took longer than it may.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Whether the peer has reset the connection.
pub fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// Nothing comes for a short time.
pub fn assert_silent(mut stream: &TcpStream) {
    stream.set_read_timeout(Some(Duration::from_millis(200))).expect("not zero");
    let mut byte = [0];
    match stream.read(&mut byte) {
        Err(error) if is_timeout(&error) => {}
        other => panic!("nothing should come, but: {other:?}"),
    }
    stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
}

/// Ends a connection with a reset.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("it is a TCP socket");
}
