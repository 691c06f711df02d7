//! The engines that run on the system, with peers over loopback.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::fixture::{Fixture, Peer};
#[cfg(target_os = "linux")]
use super::planted::Plantable;
use crate::engine::readiness::{self, ReadinessEngine};
#[cfg(target_os = "linux")]
use crate::engine::uring::{self, Plant, SetupError, UringEngine};
use crate::engine::{Engine, EngineConfig, PreparedEngine};
#[cfg(target_os = "linux")]
use crate::memory::ArenaConfig;

/// Names the case that a process was started for.
const ALONE: &str = "TIDEGATE_CONFORMANCE_ALONE";

/// A way to make an engine that runs on the system.
pub(super) trait Making {
    /// The engine.
    type Made: Engine<Listener: From<TcpListener>>;
    /// The module of its tests, beside this one.
    const TESTS: &'static str;

    /// Whether this engine can run here; says why not on stderr.
    fn available() -> bool {
        true
    }
    /// Makes it, on the calling thread.
    fn make(config: EngineConfig) -> Self::Made;
}

/// io_uring.
#[cfg(target_os = "linux")]
pub(super) struct Uring;

#[cfg(target_os = "linux")]
impl Making for Uring {
    type Made = UringEngine;
    const TESTS: &'static str = "uring";

    fn available() -> bool {
        let config = EngineConfig {
            sockets: 1,
            arena: ArenaConfig { buffers: 1, buffer_bytes: 4096, owners: 1, lent_max: 0 },
            receive_budget_bytes: 4096,
            submission_entries: 4,
            completion_entries: 8,
            spin: Duration::ZERO,
            teardown_limit: EngineConfig::TEARDOWN_LIMIT,
            socket_options: crate::engine::SocketOptions::default(),
        };
        match uring::prepare(config) {
            Err(SetupError::Unavailable(error)) => {
                eprintln!("skipped: io_uring is not available here: {error}");
                false
            }
            prepared => {
                drop(prepared.expect("a ring"));
                true
            }
        }
    }

    fn make(config: EngineConfig) -> UringEngine {
        uring::prepare(config).expect("a ring").start().expect("a started ring")
    }
}

/// Readiness, by the best that this system has for it.
pub(super) struct Readiness;

impl Making for Readiness {
    type Made = ReadinessEngine;
    const TESTS: &'static str = "readiness";

    fn make(config: EngineConfig) -> ReadinessEngine {
        readiness::prepare(config).expect("a selector").start().expect("an engine")
    }
}

/// Readiness, by what every system has.
pub(super) struct PortableReadiness;

impl Making for PortableReadiness {
    type Made = ReadinessEngine;
    const TESTS: &'static str = "portable_readiness";

    fn make(config: EngineConfig) -> ReadinessEngine {
        readiness::prepare_portable(config).expect("a selector").start().expect("an engine")
    }
}

/// An engine, and sockets that must stay open beside it.
pub(super) struct Loopback<M: Making> {
    engine: M::Made,
    /// A listener whose backlog is full, and the connections that fill it.
    silent: Vec<Socket>,
    descriptors: Cell<Option<libc::rlimit>>,
}

impl<M: Making> Fixture for Loopback<M> {
    type Engine = M::Made;
    type Peer = TcpPeer;

    fn available() -> bool {
        M::available()
    }

    fn available_six() -> bool {
        let available = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
        if !available {
            eprintln!("skipped: there is no IPv6 here");
        }
        available
    }

    fn new(config: EngineConfig) -> Self {
        Self { engine: M::make(config), silent: Vec::new(), descriptors: Cell::new(None) }
    }

    fn engine(&self) -> &M::Made {
        &self.engine
    }

    fn engine_mut(&mut self) -> &mut M::Made {
        &mut self.engine
    }

    fn listener(&mut self, six: bool) -> (<M::Made as Engine>::Listener, SocketAddr) {
        let any = if six { SocketAddr::from((Ipv6Addr::LOCALHOST, 0)) } else { any_port() };
        let socket = tcp_socket(any);
        socket.bind(&any.into()).expect("a free port");
        socket.listen(1024).expect("listening");
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().expect("its address");
        (listener.into(), address)
    }

    fn connect_peer(&mut self, address: SocketAddr, receive_buffer_bytes: Option<usize>) -> TcpPeer {
        let socket = tcp_socket(address);
        if let Some(bytes) = receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes).expect("a small receive buffer");
        }
        socket.connect(&address.into()).expect("the backlog has room");
        socket.set_nonblocking(true).expect("non-blocking");
        socket.set_tcp_nodelay(true).expect("no delay");
        TcpPeer(TcpStream::from(socket))
    }

    fn refusing_address(&mut self) -> SocketAddr {
        let listener = TcpListener::bind(any_port()).expect("a free port");
        listener.local_addr().expect("its address")
    }

    fn silent_address(&mut self) -> SocketAddr {
        // A listener that nobody accepts from, with a backlog so full that requests are dropped unanswered.
        if self.silent.is_empty() {
            let listener = tcp_socket(any_port());
            listener.bind(&any_port().into()).expect("a free port");
            listener.listen(0).expect("listening");
            let address = listener.local_addr().expect("its address");
            self.silent.push(listener);
            for _ in 0..4 {
                let filler = tcp_socket(any_port());
                filler.set_nonblocking(true).expect("non-blocking");
                let answer = filler.connect(&address);
                assert!(answer.is_ok() || answer.is_err_and(|error| error.raw_os_error() == Some(libc::EINPROGRESS)));
                self.silent.push(filler);
            }
        }
        self.silent[0].local_addr().expect("its address").as_socket().expect("an address of the internet")
    }

    fn alone(name: &str) -> bool {
        if std::env::var_os(ALONE).is_some_and(|value| value == name) {
            return true;
        }
        let program = std::env::current_exe().expect("the test program");
        let path = format!("{}::{}::{name}", module_path!().rsplit_once("::").expect("a module").0, M::TESTS);
        let path = path.split_once("::").expect("a crate").1;
        let output = Command::new(program)
            .args(["--exact", path, "--nocapture", "--test-threads=1"])
            .env(ALONE, name)
            .output()
            .expect("the test program runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("1 passed"), "alone: {text}{}", String::from_utf8_lossy(&output.stderr));
        false
    }

    fn refuse_descriptors(&mut self, refuse: bool) {
        let limit = match self.descriptors.take() {
            Some(before) if !refuse => before,
            _ => {
                let before = descriptor_limit();
                self.descriptors.set(Some(before));
                // The lowest free descriptor is the next that anybody gets: below it, nobody gets one.
                let next = TcpListener::bind(any_port()).expect("one descriptor").as_raw_fd();
                libc::rlimit { rlim_cur: next as libc::rlim_t, ..before }
            }
        };
        // SAFETY: the pointer is to a value that lives until the call returns.
        let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }
}

#[cfg(target_os = "linux")]
impl Plantable for Loopback<Uring> {
    fn plant_free_on_cancel(&mut self) {
        self.engine.plant = Some(Plant::FreeOnCancel);
    }
}

/// The other end, over loopback.
pub(super) struct TcpPeer(TcpStream);

impl Peer for TcpPeer {
    fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("its address")
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn try_read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(bytes)?;
        // A reset that comes behind an end is not told by a read, and loses on the way what has not arrived: only the socket knows.
        match (count, bytes.len()) {
            (0, 1..) if self.0.take_error()?.is_some() => Err(io::ErrorKind::ConnectionReset.into()),
            _ => Ok(count),
        }
    }

    fn finish(&mut self) {
        self.0.shutdown(Shutdown::Write).expect("connected");
    }

    fn reset(self) {
        socket2::SockRef::from(&self.0).set_linger(Some(Duration::ZERO)).expect("a socket");
    }

    fn pass_time(&self) {
        std::thread::yield_now();
    }
}

fn tcp_socket(address: SocketAddr) -> Socket {
    Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket")
}

fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn descriptor_limit() -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a value that lives until the call returns.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    limit
}
