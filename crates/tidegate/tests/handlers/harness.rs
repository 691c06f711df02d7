//! A server in a thread, clients with deadlines, and a handler that does what a test tells it.

use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use tidegate::{
    Buffer, CloseReason, Connection, ConnectionHandle, EngineChoice, Handler, Limits, Listener, Report, RunError,
    Server, ServerBuilder, ServerHandle,
};

/// After this, what was waited for is not coming.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A server that runs. Aborted when it is dropped.
pub(crate) struct Running {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) handle: ServerHandle,
    report: Receiver<Result<Report, RunError>>,
}

impl Running {
    /// Runs a server with one I/O thread.
    pub(crate) fn start(builder: ServerBuilder) -> Self {
        let bound = builder.threads(NonZeroUsize::MIN).engine(engine()).bind().expect("free ports and sound limits");
        let (addresses, handle) = (bound.local_addrs().to_vec(), bound.handle());
        let (say, report) = mpsc::channel();
        std::thread::spawn(move || {
            let _ = say.send(bound.run());
        });
        Self { addresses, handle, report }
    }

    /// Runs a server with one listener whose handlers follow `script`, and returns what happens to them.
    pub(crate) fn scripted(
        limits: Limits,
        script: impl Fn(&mut Connection<'_, Note>, &Event) + Send + Sync + 'static,
    ) -> (Self, Events) {
        let (say, events) = mpsc::channel();
        let script: Script = Arc::new(script);
        let make = move |_: &_| Scripted { script: Arc::clone(&script), say: say.clone() };
        (Self::start(Server::builder().limits(limits).listen(any_port(), make)), Events(events))
    }

    /// A connection to the first listener.
    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.addresses[0])
    }

    /// Drains, and returns what it reports.
    pub(crate) fn drained(self) -> Report {
        self.handle.drain();
        self.ended()
    }

    /// Waits for the end of a server that was told to end.
    pub(crate) fn ended(self) -> Report {
        self.report.recv_timeout(DEADLINE).expect("the server ends").expect("the engine works")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// The engine that this run of the tests is about.
pub(crate) fn engine() -> EngineChoice {
    match std::env::var("TIDEGATE_TEST_ENGINE").as_deref() {
        Err(_) | Ok("auto") => EngineChoice::Auto,
        Ok("uring") => EngineChoice::Uring,
        Ok("readiness") => EngineChoice::Readiness,
        Ok(other) => panic!("TIDEGATE_TEST_ENGINE={other}: auto, uring or readiness"),
    }
}

/// A listener on a port that the system chooses.
pub(crate) fn any_port() -> Listener {
    Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// A connection whose reads and writes fail after the deadline.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
    stream.set_write_timeout(Some(DEADLINE)).expect("not zero");
    stream
}

/// Reads to the end, which must be in order.
pub(crate) fn read_to_end(mut stream: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an end, not a reset");
    bytes
}

/// Reads until the connection is reset.
pub(crate) fn assert_reset(mut stream: &TcpStream) {
    let error = io::copy(&mut stream, &mut io::sink()).expect_err("a reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// Closes with a reset.
pub(crate) fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("it is a TCP socket");
}

/// A message that says when it is dropped.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) number: u32,
    pub(crate) dropped: Option<Sender<u32>>,
}

impl Note {
    pub(crate) fn new(number: u32) -> Self {
        Self { number, dropped: None }
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if let Some(dropped) = &self.dropped {
            let _ = dropped.send(self.number);
        }
    }
}

/// What happens to a handler.
#[derive(Debug)]
pub(crate) enum Event {
    Connected(ConnectionHandle<Note>),
    Read(Vec<u8>),
    Writable,
    Sent(usize),
    PeerShutdown,
    Timer(u8),
    Message(u32),
    Closed(CloseReason),
}

/// What has happened.
pub(crate) struct Events(Receiver<Event>);

impl Events {
    /// Waits for the first event of which `pick` makes something; events before it are skipped.
    pub(crate) fn wait_for<T>(&self, what: &str, pick: impl Fn(Event) -> Option<T>) -> T {
        loop {
            match self.0.recv_timeout(DEADLINE) {
                Ok(event) => {
                    if let Some(picked) = pick(event) {
                        return picked;
                    }
                }
                Err(error) => panic!("{what} doesn't come: {error}"),
            }
        }
    }

    pub(crate) fn connected(&self) -> ConnectionHandle<Note> {
        self.wait_for("a connection", |event| match event {
            Event::Connected(handle) => Some(handle),
            _ => None,
        })
    }

    pub(crate) fn closed(&self) -> CloseReason {
        self.wait_for("a close", |event| match event {
            Event::Closed(reason) => Some(reason),
            _ => None,
        })
    }

    pub(crate) fn message(&self) -> u32 {
        self.wait_for("a message", |event| match event {
            Event::Message(number) => Some(number),
            _ => None,
        })
    }

    /// Waits until nothing has happened for a while.
    pub(crate) fn wait_for_silence(&self) {
        while self.0.recv_timeout(Duration::from_millis(200)).is_ok() {}
    }
}

type Script = Arc<dyn Fn(&mut Connection<'_, Note>, &Event) + Send + Sync>;

/// Runs a script at every event, and then tells the test of it.
struct Scripted {
    script: Script,
    say: Sender<Event>,
}

impl Scripted {
    fn happened(&self, connection: &mut Connection<'_, Note>, event: Event) {
        (self.script)(connection, &event);
        let _ = self.say.send(event);
    }
}

impl Handler for Scripted {
    type Message = Note;

    fn on_connect(&mut self, connection: &mut Connection<'_, Note>) {
        let handle = connection.handle();
        self.happened(connection, Event::Connected(handle));
    }

    fn on_read(&mut self, connection: &mut Connection<'_, Note>, data: Buffer) {
        self.happened(connection, Event::Read(data.to_vec()));
    }

    fn on_writable(&mut self, connection: &mut Connection<'_, Note>) {
        self.happened(connection, Event::Writable);
    }

    fn on_sent(&mut self, connection: &mut Connection<'_, Note>, bytes: usize) {
        self.happened(connection, Event::Sent(bytes));
    }

    fn on_peer_shutdown(&mut self, connection: &mut Connection<'_, Note>) {
        connection.shutdown();
        self.happened(connection, Event::PeerShutdown);
    }

    fn on_timer(&mut self, connection: &mut Connection<'_, Note>, timer: u8) {
        self.happened(connection, Event::Timer(timer));
    }

    fn on_message(&mut self, connection: &mut Connection<'_, Note>, message: Note) {
        self.happened(connection, Event::Message(message.number));
    }

    fn on_close(self, reason: &CloseReason) {
        let _ = self.say.send(Event::Closed(*reason));
    }
}

/// Sends to the peer, as much as is taken, in messages of 16 KiB. For `on_connect` and `on_writable`.
pub(crate) fn fill(connection: &mut Connection<'_, Note>) {
    while let Ok(tidegate::Sent::Queued) = connection.send(vec![7; 16 << 10]) {}
}
