//! Starts an example as a program of its own, and talks to it as its users do.
#![allow(dead_code, reason = "every package with examples uses a part of it")]

use std::env;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

/// After this, what was waited for is not coming. Long, because few processors may run many tests at once.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// An example that runs. Killed when it is dropped.
pub struct Example {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// What it said before it listened.
    pub said: Vec<String>,
    pub address: SocketAddr,
}

/// An example that has ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
}

/// The program of an example, next to that of this test. Cargo builds both when it tests a whole package; when this test alone was asked
/// for, the example is built here.
fn program(name: &str) -> PathBuf {
    let own = env::current_exe().expect("this program is a file");
    let directory = own.parent().and_then(|dependencies| dependencies.parent()).expect("a directory of Cargo's");
    let program = directory.join("examples").join(name);
    if !program.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "-p", env!("CARGO_PKG_NAME"), "--example", name]);
        if cfg!(feature = "tls") {
            build.args(["--features", "tls"]);
        }
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo runs").success(), "{name} can't be built");
    }
    program
}

impl Example {
    /// Starts the example with these arguments, and waits until it listens.
    pub fn start(name: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program(name));
        let mut child = command.args(arguments).stdout(Stdio::piped()).spawn().expect("the example starts");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut example = Self { child, stdout, said: Vec::new(), address: SocketAddr::from(([0, 0, 0, 0], 0)) };
        loop {
            let line = example.line();
            if let Some(address) = line.strip_prefix("listening on ") {
                example.address = address.parse().expect("an address");
                return example;
            }
            example.said.push(line);
        }
    }

    /// Runs the example until it ends by itself.
    pub fn run(name: &str, arguments: &[&str]) -> Ended {
        let output = Command::new(program(name)).args(arguments).stderr(Stdio::inherit()).output().expect("it starts");
        Ended { status: output.status, stdout: String::from_utf8_lossy(&output.stdout).into_owned() }
    }

    /// The next line that it says.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        let length = self.stdout.read_line(&mut line).expect("it says something in text");
        assert!(length > 0, "it has ended");
        line.trim_end().to_owned()
    }

    /// A connection to it, whose reads and writes fail after the deadline.
    pub fn connect(&self) -> Talk {
        Talk::to(self.address)
    }

    /// The memory that it has in use now, in bytes.
    pub fn resident_bytes(&self) -> usize {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        let kilobytes: usize = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
        kilobytes << 10
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One end of a connection.
pub struct Talk {
    reader: BufReader<TcpStream>,
}

impl Talk {
    /// A connection to `address`.
    pub fn to(address: SocketAddr) -> Self {
        Self::on(TcpStream::connect(address).expect("it listens"))
    }

    /// Over `stream`.
    pub fn on(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
        stream.set_write_timeout(Some(DEADLINE)).expect("not zero");
        Self { reader: BufReader::new(stream) }
    }

    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream().write_all(bytes).expect("it reads");
    }

    /// Says that nothing more is coming from here.
    pub fn finish(&self) {
        self.stream().shutdown(std::net::Shutdown::Write).expect("it is connected");
    }

    /// The next line, without its end; `None` when the other side has finished.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let length = self.reader.read_line(&mut line).expect("a line in time");
        (length > 0).then(|| line.trim_end_matches('\n').to_owned())
    }

    /// The next `count` bytes.
    pub fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes).expect("that much, in time");
        bytes
    }

    /// Everything until the other side has finished.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.reader.read_to_end(&mut bytes).expect("an end, in time and in order");
        bytes
    }

    /// Reads until the connection ends, in order or not.
    pub fn end(&mut self) -> io::Result<u64> {
        io::copy(&mut self.reader, &mut io::sink())
    }
}
