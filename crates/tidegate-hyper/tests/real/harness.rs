//! A server in a thread, and what clients need.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use tidegate::{EngineChoice, Limits, Listener, Report, RunError, Server, ServerBuilder, ServerHandle};

/// After this, what was waited for is not coming.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub fn builder() -> ServerBuilder {
    Server::builder()
        .limits(Limits { max_connections: 200, ..Limits::default() })
        .threads(NonZeroUsize::new(2).expect("two"))
}

pub fn any_port() -> Listener {
    Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// A server that runs. Aborted when it is dropped.
pub struct Running {
    pub address: SocketAddr,
    pub handle: ServerHandle,
    report: Receiver<Result<Report, RunError>>,
}

impl Running {
    pub fn start(builder: ServerBuilder, engine: EngineChoice) -> Self {
        let bound = builder.engine(engine).bind().expect("a free port and sound limits");
        let (address, handle) = (bound.local_addrs()[0], bound.handle());
        let (say, report) = mpsc::channel();
        std::thread::spawn(move || {
            let _ = say.send(bound.run());
        });
        Self { address, handle, report }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        stream.set_write_timeout(Some(DEADLINE)).expect("a deadline");
        stream
    }

    /// Drains, and returns what it reports.
    pub fn drained(self) -> Report {
        self.handle.drain();
        self.report.recv_timeout(DEADLINE).expect("it ends").expect("well")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// Sends a request and reads its response, whose body has a length.
pub fn ask(stream: &mut TcpStream, request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a response");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().expect("a number"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("a body");
    (head, String::from_utf8(body).expect("text"))
}

/// Whether this system has a program; says so if not.
pub fn is_there(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        assert!(std::env::var_os("TIDEGATE_TEST_MUST_RUN").is_none(), "{program} is missing");
        println!("skipped: there is no {program}");
    }
    there
}
