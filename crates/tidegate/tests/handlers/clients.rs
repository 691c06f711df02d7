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
    Destination, Handler, Limits, Server, ServerBuilder, Target,
};

use crate::harness::{DEADLINE, Running, any_port, engine};

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
    let bound = builder.threads(NonZeroUsize::MIN).engine(engine()).bind().expect("sound limits");
    let handle = bound.handle();
    connector.connect(Target::new(address).tag(3)).expect("room");
    let server = std::thread::spawn(move || bound.run());
    let _peer = accept(&listener);
    assert_eq!(next_connected(&seen).tag, 3);
    handle.abort();
    let report = server.join().expect("no panic").expect("the engine works");
    assert_eq!(report.connected(), 1);
}

#[test]
fn a_connection_comes_from_the_source_that_its_target_names() {
    let (listener, address) = listening();
    let (builder, connector, seen) = telling(Server::builder(), Client::tcp());
    let running = Running::start(builder);
    let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));
    connector.connect(Target::new(address).from_source(source)).expect("room");
    let (_peer, from) = listener.accept().expect("a connection");
    assert_eq!((from.ip(), next_connected(&seen).local), (source, from));
    // An address of a network that is for documentation only, so of no machine.
    let nowhere = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    connector.connect(Target::new(address).from_source(nowhere).tag(2)).expect("room");
    let failure = next_failure(&seen);
    assert!(
        matches!(failure.error, ConnectError::Failed { kind: std::io::ErrorKind::AddrNotAvailable, .. }),
        "{failure:?}"
    );
    assert!(failure.error.to_string().contains("more source addresses"), "{}", failure.error);
    running.handle.abort();
    assert_eq!(running.ended().connects_failed(), 1);
}

#[test]
fn a_connect_to_nobody_is_refused_and_leaves_its_place_to_the_next() {
    let (listener, address) = listening();
    drop(listener);
    let builder = Server::builder().limits(Limits { max_connections: 1, ..Limits::default() });
    let (builder, connector, seen) = telling(builder, Client::tcp());
    let running = Running::start(builder);
    for tag in 0..3 {
        connector.connect(Target::new(address).tag(tag)).expect("room");
        let failure = next_failure(&seen);
        let refused = (Destination::Address(address), tag, ConnectError::Refused);
        assert_eq!((failure.destination, failure.tag, failure.error), refused);
        assert_eq!(running.handle.connections(), 0, "the place is free when the failure is told");
    }
    let report = running.drained();
    assert_eq!((report.connections(), report.connects_failed()), (0, 3));
}

#[test]
fn a_connect_that_nobody_answers_times_out() {
    let (_sockets, address) = silent();
    let timeout = Duration::from_millis(50);
    let (builder, connector, seen) = telling(Server::builder(), Client::tcp().connect_timeout(timeout));
    let running = Running::start(builder);
    for tag in 0..5 {
        connector.connect(Target::new(address).tag(tag)).expect("room");
    }
    let mut tags: Vec<u64> = (0..5)
        .map(|_| {
            let failure = next_failure(&seen);
            assert_eq!(failure.error, ConnectError::TimedOut(timeout));
            failure.tag
        })
        .collect();
    tags.sort_unstable();
    assert_eq!(tags, [0, 1, 2, 3, 4]);
    assert_eq!(running.handle.connections(), 0);
    assert_eq!(running.drained().connects_failed(), 5);
}

#[test]
fn at_the_limit_a_connect_fails_with_the_numbers_and_succeeds_when_a_connection_has_ended() {
    let (listener, address) = listening();
    let builder = Server::builder().limits(Limits { max_connections: 2, ..Limits::default() });
    let (builder, connector, seen) = telling(builder, Client::tcp());
    let _running = Running::start(builder);
    let peers: Vec<TcpStream> = (0..2)
        .map(|tag| {
            connector.connect(Target::new(address).tag(tag)).expect("room");
            let peer = accept(&listener);
            next_connected(&seen);
            peer
        })
        .collect();
    connector.connect(Target::new(address).tag(2)).expect("room in the queue");
    let error = next_failure(&seen).error;
    assert_eq!(error, ConnectError::LimitReached { connections: 2, held: 0, limit: 2 });
    assert!(error.to_string().contains("max_connections"), "{error}");
    drop(peers);
    for _ in 0..2 {
        assert!(matches!(next(&seen), Seen::Closed(_)));
    }
    connector.connect(Target::new(address).tag(3)).expect("room");
    let _peer = accept(&listener);
    assert_eq!(next_connected(&seen).tag, 3);
}

/// Nothing but an end.
struct Quiet;

impl Handler for Quiet {
    type Message = std::convert::Infallible;

    fn on_read(&mut self, _: &mut Connection<'_>, _: Buffer) {}
}

#[test]
fn accepted_and_outgoing_connections_share_the_places_and_a_listener_keeps_one() {
    const LIMIT: u32 = 4;
    let (_listener, address) = listening();
    let limits = Limits { max_connections: LIMIT, ..Limits::default() };
    let (builder, connector, seen) =
        telling(Server::builder().limits(limits).listen(any_port(), |_| Quiet), Client::tcp());
    let running = Running::start(builder);
    // Once it has been accepted, the listener has its place for the next one.
    let first = running.connect();
    let deadline = std::time::Instant::now() + DEADLINE;
    while running.handle.connections() < 1 {
        assert!(std::time::Instant::now() < deadline, "not accepted");
        std::thread::yield_now();
    }
    for tag in 0..u64::from(LIMIT) {
        connector.connect(Target::new(address).tag(tag)).expect("room in the queue");
    }
    let mut connected = 0;
    for _ in 0..LIMIT {
        match next(&seen) {
            Seen::Connected(_) => connected += 1,
            Seen::Failed(failure) => {
                assert!(matches!(failure.error, ConnectError::LimitReached { limit: LIMIT, .. }), "{failure:?}");
            }
            other => panic!("neither connected nor failed: {other:?}"),
        }
    }
    assert_eq!(connected, 2, "of four places one is a connection's, and one the listener's");
    let second = running.connect();
    while running.handle.connections() < LIMIT {
        assert!(std::time::Instant::now() < deadline, "not accepted");
        std::thread::yield_now();
    }
    drop((first, second));
}

#[test]
fn draining_gives_up_what_is_connecting_and_what_waits() {
    let (_sockets, address) = silent();
    let (builder, connector, seen) = telling(Server::builder(), Client::tcp());
    let bound = builder.threads(NonZeroUsize::new(2).expect("not zero")).engine(engine()).bind().expect("sound limits");
    let handle = bound.handle();
    for tag in 0..20 {
        connector.connect(Target::new(address).tag(tag)).expect("room");
    }
    let server = std::thread::spawn(move || bound.run());
    let deadline = std::time::Instant::now() + DEADLINE;
    while handle.connections() < 20 {
        assert!(std::time::Instant::now() < deadline, "they are not being connected");
        std::thread::yield_now();
    }
    for tag in 20..40 {
        connector.connect(Target::new(address).tag(tag)).expect("room");
    }
    handle.drain();
    let mut tags: Vec<u64> = (0..40)
        .map(|_| {
            let failure = next_failure(&seen);
            assert_eq!(failure.error, ConnectError::Draining);
            failure.tag
        })
        .collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..40).collect::<Vec<u64>>());
    let report = server.join().expect("no panic").expect("the engine works");
    assert_eq!((report.connections(), report.connects_failed()), (0, 40));
    let refused = connector.connect(Target::new(address)).expect_err("over");
    assert_eq!(refused.reason, ConnectRefusal::ServerOver);
}

#[test]
fn a_queue_that_is_full_gives_the_target_back_with_the_numbers() {
    let limits = Limits { connects_waiting: 3, ..Limits::default() };
    let (builder, connector, _seen) = telling(Server::builder().limits(limits), Client::tcp());
    let bound = builder.threads(NonZeroUsize::new(2).expect("not zero")).engine(engine()).bind().expect("sound limits");
    let target = Target::new(SocketAddr::from(([127, 0, 0, 1], 9))).tag(5);
    for _ in 0..3 {
        connector.connect(target.clone().on_thread(1)).expect("room");
    }
    let refused = connector.connect(target.clone().on_thread(1)).expect_err("no room");
    assert_eq!(*refused.target, target.clone().on_thread(1));
    assert_eq!(refused.reason, ConnectRefusal::QueueFull { waiting: 3, limit: 3 });
    // The other thread has room.
    for _ in 0..3 {
        connector.connect(target.clone()).expect("room");
    }
    let refused = connector.connect(target.clone()).expect_err("no room");
    assert_eq!(refused.reason, ConnectRefusal::QueueFull { waiting: 6, limit: 3 });
    assert!(refused.to_string().contains("connects_waiting"), "{refused}");
    let refused = connector.connect(target.on_thread(2)).expect_err("there are two");
    assert_eq!(refused.reason, ConnectRefusal::NoSuchThread { io_thread: 2, threads: 2 });
    drop(bound);
}

#[test]
fn a_panic_in_the_maker_or_in_on_failed_harms_no_other_connection() {
    let (listener, address) = listening();
    let (dead, refusing) = listening();
    drop(dead);
    let (say, seen) = mpsc::channel();
    let failed = say.clone();
    let client = Client::tcp().on_failed(move |failure| {
        let _ = failed.send(Seen::Failed(failure.clone()));
        panic!("a test panics in on_failed");
    });
    let (builder, connector) = Server::builder().client(client, move |connected| {
        assert!(connected.tag != 1, "a test panics in the maker");
        Teller { connected: connected.clone(), say: say.clone() }
    });
    let running = Running::start(builder);
    connector.connect(Target::new(address).tag(1)).expect("room");
    crate::harness::assert_reset(&accept(&listener));
    connector.connect(Target::new(refusing).tag(2)).expect("room");
    assert_eq!(next_failure(&seen).tag, 2);
    connector.connect(Target::new(address).tag(3)).expect("room");
    let peer = accept(&listener);
    assert_eq!(read_exactly(&peer, 5), b"tag 3");
    drop(peer);
    let report = running.drained();
    assert_eq!(report.closed(&CloseReason::HandlerPanicked), 1);
    assert_eq!((report.connections(), report.connects_failed()), (2, 1));
}

#[test]
fn two_thousand_connections_from_eight_sources_live_on_both_threads() {
    const COUNT: u64 = 2_000;
    // With room for all: what overflows a backlog may be reset after a few tries.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
    socket.listen(COUNT as i32).expect("listening");
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().expect("its address");
    let limits = Limits { max_connections: COUNT as u32, connects_waiting: COUNT as usize, ..Limits::default() };
    let (builder, connector, seen) = telling(Server::builder().limits(limits), Client::tcp());
    let bound = builder.threads(NonZeroUsize::new(2).expect("not zero")).engine(engine()).bind().expect("sound limits");
    let handle = bound.handle();
    let server = std::thread::spawn(move || bound.run());
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let peers = Arc::clone(&accepted);
    std::thread::spawn(move || {
        for _ in 0..COUNT {
            peers.lock().unwrap_or_else(PoisonError::into_inner).push(accept(&listener));
        }
    });
    for tag in 0..COUNT {
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2 + (tag % 8) as u8));
        connector.connect(Target::new(address).from_source(source).tag(tag)).expect("room");
    }
    let mut on_thread = [0; 2];
    for _ in 0..COUNT {
        let connected = next_connected(&seen);
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2 + (connected.tag % 8) as u8));
        assert_eq!(connected.local.ip(), source);
        on_thread[connected.io_thread] += 1;
    }
    assert_eq!(handle.connections(), COUNT as u32);
    assert!(on_thread.iter().all(|&count| count > COUNT / 4), "shared out: {on_thread:?}");
    handle.abort();
    let report = server.join().expect("no panic").expect("the engine works");
    assert_eq!((report.connected(), report.connects_failed()), (COUNT, 0));
}

#[test]
fn many_threads_asking_at_once_never_exceed_the_limit_and_every_request_has_one_outcome() {
    const LIMIT: u32 = 10;
    const EACH: u64 = 200;
    let (listener, address) = listening();
    std::thread::spawn(move || {
        // Whoever comes is sent away again.
        while listener.accept().is_ok() {}
    });
    let limits = Limits { max_connections: LIMIT, ..Limits::default() };
    let outcomes: Arc<Vec<AtomicUsize>> = Arc::new((0..4 * EACH).map(|_| AtomicUsize::new(0)).collect());
    let (live, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));

    /// Counts those that live at once.
    struct Counted {
        live: Arc<AtomicUsize>,
    }
    impl Handler for Counted {
        type Message = std::convert::Infallible;
        fn on_read(&mut self, _: &mut Connection<'_>, _: Buffer) {}
    }
    impl Drop for Counted {
        fn drop(&mut self) {
            self.live.fetch_sub(1, Ordering::SeqCst);
        }
    }

    let failed = Arc::clone(&outcomes);
    let client = Client::tcp().on_failed(move |failure| {
        assert!(matches!(failure.error, ConnectError::LimitReached { .. }), "{failure:?}");
        failed[failure.tag as usize].fetch_add(1, Ordering::SeqCst);
    });
    let (made, live_now, most_so_far) = (Arc::clone(&outcomes), Arc::clone(&live), Arc::clone(&most));
    let (builder, connector) = Server::builder().limits(limits).client(client, move |connected| {
        made[connected.tag as usize].fetch_add(1, Ordering::SeqCst);
        most_so_far.fetch_max(live_now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Counted { live: Arc::clone(&live_now) }
    });
    let bound = builder.threads(NonZeroUsize::new(2).expect("not zero")).engine(engine()).bind().expect("sound limits");
    let handle = bound.handle();
    let server = std::thread::spawn(move || bound.run());
    let askers: Vec<_> = (0..4)
        .map(|asker| {
            let connector = connector.clone();
            std::thread::spawn(move || {
                for number in 0..EACH {
                    let target = Target::new(address).tag(asker * EACH + number);
                    while let Err(refused) = connector.connect(target.clone()) {
                        assert!(matches!(refused.reason, ConnectRefusal::QueueFull { .. }), "{refused}");
                        std::thread::yield_now();
                    }
                }
            })
        })
        .collect();
    for asker in askers {
        asker.join().expect("the asker ends");
    }
    let deadline = std::time::Instant::now() + DEADLINE;
    while outcomes.iter().any(|outcome| outcome.load(Ordering::SeqCst) == 0) {
        assert!(std::time::Instant::now() < deadline, "a request without an outcome");
        std::thread::yield_now();
    }
    handle.abort();
    let report = server.join().expect("no panic").expect("the engine works");
    assert!(outcomes.iter().all(|outcome| outcome.load(Ordering::SeqCst) == 1), "each has one");
    assert!(most.load(Ordering::SeqCst) <= LIMIT as usize, "{most:?} lived at once");
    assert_eq!(report.connected() + report.connects_failed(), 4 * EACH);
    assert!(report.connects_failed() > 0 && report.connected() > 0, "{report:?}");
}

#[test]
fn a_server_whose_listeners_keep_all_places_is_refused_a_client() {
    let limits = Limits { max_connections: 2, ..Limits::default() };
    let builder = Server::builder().limits(limits).listen(any_port(), |_| Quiet).listen(any_port(), |_| Quiet);
    let (builder, _connector, _seen) = telling(builder, Client::tcp());
    let error = builder.bind().expect_err("no place is left").to_string();
    assert!(error.contains("max_connections is 2") && error.contains("at least 3"), "{error}");
}
