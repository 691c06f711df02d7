//! Outgoing connections, on io_uring, with plain sockets as the other side.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate::{
    Buffer, Client, CloseReason, ConnectError, ConnectFailed, ConnectRefusal, Connected, Connection, Connector,
    Handler, Limits, Server, ServerBuilder, Target,
};

use crate::harness::{DEADLINE, Running, any_port};

/// What the other side of a test sees of a client.
#[derive(Debug)]
enum Seen {
    Connected(Connected),
    Read(Vec<u8>),
    Closed(CloseReason),
    Failed(ConnectFailed),
}

/// Says what happens to it, and says its tag to its peer.
struct Teller {
    connected: Connected,
    say: mpsc::Sender<Seen>,
}

impl Handler for Teller {
    type Message = std::convert::Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        connection.send(format!("tag {}", self.connected.tag)).expect("room");
        let _ = self.say.send(Seen::Connected(self.connected.clone()));
    }

    fn on_read(&mut self, _: &mut Connection<'_>, data: Buffer) {
        let _ = self.say.send(Seen::Read(data.to_vec()));
    }

    fn on_close(self, reason: &CloseReason) {
        let _ = self.say.send(Seen::Closed(*reason));
    }
}

/// A server with a client whose connections tell the test what happens to them.
fn telling(builder: ServerBuilder, client: Client) -> (ServerBuilder, Connector, Receiver<Seen>) {
    let (say, seen) = mpsc::channel();
    let failed = say.clone();
    let client = client.on_failed(move |failure| {
        let _ = failed.send(Seen::Failed(failure.clone()));
    });
    let make = move |connected: &Connected| Teller { connected: connected.clone(), say: say.clone() };
    let (builder, connector) = builder.client(client, make);
    (builder, connector, seen)
}

fn next(seen: &Receiver<Seen>) -> Seen {
    seen.recv_timeout(DEADLINE).expect("something happens")
}

fn next_failure(seen: &Receiver<Seen>) -> ConnectFailed {
    match next(seen) {
        Seen::Failed(failure) => failure,
        other => panic!("not a failure: {other:?}"),
    }
}

fn next_connected(seen: &Receiver<Seen>) -> Connected {
    match next(seen) {
        Seen::Connected(connected) => connected,
        other => panic!("not connected: {other:?}"),
    }
}

fn listening() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("its address");
    (listener, address)
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
    stream
}

fn read_exactly(mut stream: &TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).expect("it comes");
    bytes
}

/// A listener whose backlog is full: connects to it are neither answered nor refused.
fn silent() -> (Vec<socket2::Socket>, SocketAddr) {
    let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let listener = new();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
    listener.listen(0).expect("listening");
    let address = listener.local_addr().expect("its address");
    let mut sockets = vec![listener];
    for _ in 0..4 {
        let filler = new();
        filler.set_nonblocking(true).expect("non-blocking");
        // Established, or under way.
        let _ = filler.connect(&address);
        sockets.push(filler);
    }
    (sockets, address.as_socket().expect("an address of the internet"))
}

#[test]
fn a_server_without_listeners_connects_exchanges_and_ends_when_it_is_drained() {
    let (listener, address) = listening();
    let (builder, connector, seen) = telling(Server::builder(), Client::tcp());
    let running = Running::start(builder);
    connector.connect(Target::new(address).tag(7)).expect("room");
    let peer = accept(&listener);
    let connected = next_connected(&seen);
    assert_eq!((connected.peer, connected.tag, connected.io_thread), (address, 7, 0));
    assert_eq!(connected.local, peer.peer_addr().expect("its peer"));
    assert_eq!(read_exactly(&peer, 5), b"tag 7");
    (&peer).write_all(b"hello").expect("room");
    assert!(matches!(next(&seen), Seen::Read(bytes) if bytes == b"hello"));
    assert_eq!(running.handle.connections(), 1);
    drop(peer);
    assert!(matches!(next(&seen), Seen::Closed(CloseReason::Finished)));
    let report = running.drained();
    assert_eq!((report.connections(), report.connected(), report.connects_failed()), (1, 1, 0));
    let refused = connector.connect(Target::new(address).tag(8)).expect_err("the server is over");
    assert_eq!((refused.reason, refused.target.tag), (ConnectRefusal::ServerOver, 8));
}

#[test]
fn what_is_asked_for_before_the_server_runs_is_done_when_it_does() {
    let (listener, address) = listening();
    let (builder, connector, seen) = telling(Server::builder(), Client::tcp());
    let refused = connector.connect(Target::new(address)).expect_err("nobody has bound the server");
    assert_eq!(refused.reason, ConnectRefusal::NotBound);
    let bound = builder.threads(NonZeroUsize::MIN).bind().expect("sound limits");
    let handle = bound.handle();
    connector.connect(Target::new(address).tag(3)).expect("room");
    let server = std::thread::spawn(move || bound.run());
    let _peer = accept(&listener);
    assert_eq!(next_connected(&seen).tag, 3);
    handle.abort();
    let report = server.join().expect("no panic").expect("the engine works");
    assert_eq!(report.connected(), 1);
}
