//! What is decided when a connection is accepted: who is refused, who waits, and for what.

use std::convert::Infallible;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use tidegate::{
    Accepted, BindError, Buffer, CloseReason, Connection, ConnectionLimiter, Handler, Limits, Listener, RefusedBecause,
    Server, WhenFull,
};

use crate::harness::{DEADLINE, Running, any_port, fill, read_to_end};

const BUSY: &[u8] = b"busy: come again later\n";

/// What has happened to a handler.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Made(SocketAddr),
    Closed(CloseReason),
}

/// Sends back what comes, and tells of its beginning and its end.
struct Echo(Sender<Seen>);

impl Handler for Echo {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        let _ = connection.send(data);
    }

    fn on_close(self, reason: &CloseReason) {
        let _ = self.0.send(Seen::Closed(*reason));
    }
}

fn serve(limits: Limits, listener: Listener) -> (Running, Receiver<Seen>) {
    let (say, seen) = mpsc::channel();
    let make = move |accepted: &Accepted| {
        let _ = say.send(Seen::Made(accepted.peer));
        Echo(say.clone())
    };
    (Running::start(Server::builder().limits(limits).listen(listener.busy_answer(BUSY), make)), seen)
}

/// A connection from 127.0.0.`last`.
fn connect_from(last: u8, address: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let local = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
    socket.bind(&local.into()).expect("all of 127/8 is this machine");
    socket.connect(&address.into()).expect("it listens");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
    stream
}

/// Says `word` and gets it back.
fn assert_served(mut stream: &TcpStream, word: &[u8]) {
    stream.write_all(word).expect("it is taken");
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back).expect("it comes back");
    assert_eq!(back, word);
}

/// Connects until it is served; how often it was refused before.
fn connect_until_served(last: u8, address: SocketAddr) -> (TcpStream, u64) {
    let begun = Instant::now();
    for refused in 0.. {
        assert!(begun.elapsed() < DEADLINE, "there is no place for a new connection");
        let stream = connect_from(last, address);
        // A word would race a refusal; whoever says nothing is told at once, or sees nothing.
        stream.set_read_timeout(Some(Duration::from_millis(100))).expect("not zero");
        // A byte of the answer, or the end of a stream without one; nothing for one that is served.
        let told = (&stream).read_exact(&mut [0; 1]);
        if told.is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)) {
            stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
            assert_served(&stream, b"at last");
            return (stream, refused);
        }
    }
    unreachable!("it is served or the deadline passes")
}

/// Finishes and waits for the server to have done so too.
fn end(stream: TcpStream) {
    stream.shutdown(Shutdown::Write).expect("it is connected");
    // The handler of this file leaves its side open: the server closes when it drains, so a reset ends it sooner.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("it is a TCP socket");
}

fn next(seen: &Receiver<Seen>) -> Seen {
    seen.recv_timeout(DEADLINE).expect("something happens")
}

fn made(seen: &Receiver<Seen>) -> SocketAddr {
    loop {
        if let Seen::Made(peer) = next(seen) {
            return peer;
        }
    }
}

fn closed(seen: &Receiver<Seen>) -> CloseReason {
    loop {
        if let Seen::Closed(reason) = next(seen) {
            return reason;
        }
    }
}

#[test]
fn an_address_has_so_many_connections_and_no_other_address_less_for_it() {
    let limits = Limits { connections_per_ip: Some(2), ..Limits::default() };
    let (server, seen) = serve(limits, any_port());
    let address = server.addresses[0];
    let first = connect_from(2, address);
    let second = connect_from(2, address);
    assert_served(&first, b"one");
    assert_served(&second, b"two");
    for _ in 0..10 {
        assert_eq!(read_to_end(&connect_from(2, address)), BUSY);
    }
    let others: Vec<_> = (3..8).map(|last| connect_from(last, address)).collect();
    for other in &others {
        assert_served(other, b"another address");
    }
    assert_eq!(server.handle.connections(), 7);
    // A place that is free again is free for the same address.
    end(first);
    closed(&seen);
    let (third, refused) = connect_until_served(2, address);
    assert_eq!(read_to_end(&connect_from(2, address)), BUSY);
    drop((second, third, others));
    let report = server.drained();
    assert_eq!(report.refused(RefusedBecause::PerIp), 11 + refused);
    assert_eq!((report.connections(), report.refused(RefusedBecause::Full)), (8, 0));
}

#[test]
fn a_full_server_that_refuses_tells_why_at_once_and_serves_again_when_there_is_room() {
    let limits = Limits { max_connections: 3, when_full: WhenFull::Refuse, ..Limits::default() };
    let (server, seen) = serve(limits, any_port());
    let address = server.addresses[0];
    let mut served: Vec<_> = (0..3).map(|_| connect_from(1, address)).collect();
    for stream in &served {
        assert_served(stream, b"served");
    }
    // Many more at once than are refused in one turn, some of which have sent something already.
    let beyond: Vec<_> = (0..200).map(|_| connect_from(1, address)).collect();
    for stream in &beyond {
        assert_eq!(read_to_end(stream), BUSY);
    }
    for stream in &served {
        assert_served(stream, b"none the worse");
    }
    end(served.remove(0));
    closed(&seen);
    let (_again, refused) = connect_until_served(1, address);
    assert_eq!(read_to_end(&connect_from(1, address)), BUSY);
    assert_eq!(server.handle.stats().refused(RefusedBecause::Full), 201 + refused);
    let report = server.drained();
    assert_eq!((report.connections(), report.refused(RefusedBecause::Full)), (4, 201 + refused));
    let causes: Vec<_> = report.refused_by_cause().collect();
    assert_eq!(causes, [("full", 201 + refused), ("per_ip", 0), ("unserved", 0), ("denied", 0), ("limiter", 0)]);
}

#[test]
fn a_full_server_that_waits_refuses_nobody() {
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let (server, seen) = serve(limits, any_port());
    let address = server.addresses[0];
    let first = connect_from(1, address);
    assert_served(&first, b"first");
    let second = connect_from(1, address);
    end(first);
    closed(&seen);
    assert_served(&second, b"second");
    let report = server.drained();
    assert_eq!(report.refused_by_cause().map(|(_, count)| count).sum::<u64>(), 0);
}

#[test]
fn connections_are_accepted_at_the_rate_and_none_is_refused() {
    // Bursts of 2: of 12, the last comes half a second after the first ones.
    let limits = Limits { accept_rate: Some(20), ..Limits::default() };
    let (server, seen) = serve(limits, any_port());
    let address = server.addresses[0];
    let begun = Instant::now();
    let streams: Vec<_> = (0..12).map(|_| connect_from(1, address)).collect();
    let arrivals: Vec<Duration> = (0..12)
        .map(|_| {
            made(&seen);
            begun.elapsed()
        })
        .collect();
    assert!(arrivals[11] >= Duration::from_millis(495), "too fast: {arrivals:?}");
    for stream in &streams {
        assert_served(stream, b"in time");
    }
    drop(streams);
    assert_eq!(server.drained().connections(), 12);
}

#[test]
fn a_drain_takes_what_waits_in_the_backlog_at_any_rate() {
    let limits = Limits { accept_rate: Some(1), ..Limits::default() };
    let (server, seen) = serve(limits, any_port());
    let address = server.addresses[0];
    let mut streams: Vec<_> = (0..20).map(|_| connect_from(1, address)).collect();
    for stream in &mut streams {
        stream.write_all(b"asked").expect("it is taken");
        stream.shutdown(Shutdown::Write).expect("it is connected");
    }
    made(&seen);
    let begun = Instant::now();
    let report = server.drained();
    assert!(begun.elapsed() < Duration::from_secs(9), "19 at one a second take longer");
    assert_eq!(report.connections(), 20);
    for stream in &streams {
        assert_eq!(read_to_end(stream), b"asked");
    }
}

#[test]
fn beyond_the_active_ones_connections_wait_unserved_and_come_first_come_first_served() {
    let limits = Limits { active_connections: Some(2), max_connections: 10, ..Limits::default() };
    // Nobody in line may be ended by a timeout that has not begun.
    let limits = Limits { first_byte_timeout: None, idle_timeout: None, ..limits };
    let (server, seen) = serve(limits, any_port());
    let address = server.addresses[0];
    let mut streams: Vec<_> = (0..6).map(|_| connect_from(1, address)).collect();
    let order: Vec<_> = streams.iter().map(|stream| stream.local_addr().expect("connected")).collect();
    for stream in &mut streams {
        stream.write_all(b"patient").expect("it is taken");
    }
    assert_eq!((made(&seen), made(&seen)), (order[0], order[1]));
    // All were accepted, and only two are served.
    let begun = Instant::now();
    while server.handle.connections() < 6 {
        assert!(begun.elapsed() < DEADLINE, "they are not accepted");
        std::thread::yield_now();
    }
    assert_eq!(seen.recv_timeout(Duration::from_millis(200)), Err(mpsc::RecvTimeoutError::Timeout));
    for turn in 0..4 {
        let leaves = streams.remove(0);
        let mut back = [0; 7];
        (&leaves).read_exact(&mut back).expect("it was served");
        end(leaves);
        assert_eq!(made(&seen), order[turn + 2]);
    }
    assert_eq!(server.drained().connections(), 6);
}

#[test]
fn a_drain_serves_those_in_line_too() {
    let limits = Limits { active_connections: Some(1), max_connections: 10, ..Limits::default() };
    let (server, seen) = serve(limits, any_port());
    let mut streams: Vec<_> = (0..5).map(|_| connect_from(1, server.addresses[0])).collect();
    for stream in &mut streams {
        stream.write_all(b"asked").expect("it is taken");
    }
    made(&seen);
    server.handle.drain();
    // Each leaves when it has its answer, which makes the place free for the next.
    for stream in streams {
        assert_eq!(read_to_end(&stream), b"asked");
    }
    let report = server.ended();
    assert_eq!((report.connections(), report.refused(RefusedBecause::Unserved)), (5, 0));
    assert_eq!(report.closed(&CloseReason::Drained), 5);
}

/// Sends without end.
struct Endless;

impl Handler for Endless {
    type Message = crate::harness::Note;

    fn on_connect(&mut self, connection: &mut Connection<'_, Self::Message>) {
        fill(connection);
    }

    fn on_read(&mut self, _connection: &mut Connection<'_, Self::Message>, _data: Buffer) {}

    fn on_writable(&mut self, connection: &mut Connection<'_, Self::Message>) {
        fill(connection);
    }
}

#[test]
fn those_in_line_are_turned_away_and_counted_when_the_grace_is_over() {
    let limits = Limits { active_connections: Some(1), max_connections: 10, ..Limits::default() };
    let limits = Limits { shutdown_grace: Duration::from_millis(200), ..limits };
    let server = Running::start(Server::builder().limits(limits).listen(any_port(), |_| Endless));
    let streams: Vec<_> = (0..4).map(|_| connect_from(1, server.addresses[0])).collect();
    // The first one gets something and reads no more: it is busy for ever.
    (&streams[0]).read_exact(&mut [0; 1]).expect("it is served");
    let begun = Instant::now();
    while server.handle.connections() < 4 {
        assert!(begun.elapsed() < DEADLINE, "they are not accepted");
        std::thread::yield_now();
    }
    let report = server.drained();
    assert_eq!((report.connections(), report.refused(RefusedBecause::Unserved)), (1, 3));
    for stream in &streams[1..] {
        assert_eq!(read_to_end(stream), b"");
    }
}

#[test]
fn an_abort_turns_those_in_line_away_at_once() {
    let limits = Limits { active_connections: Some(1), max_connections: 10, ..Limits::default() };
    let (server, seen) = serve(limits, any_port());
    let streams: Vec<_> = (0..4).map(|_| connect_from(1, server.addresses[0])).collect();
    made(&seen);
    let begun = Instant::now();
    while server.handle.connections() < 4 {
        assert!(begun.elapsed() < DEADLINE, "they are not accepted");
        std::thread::yield_now();
    }
    server.handle.abort();
    let report = server.ended();
    assert_eq!((report.connections(), report.refused(RefusedBecause::Unserved)), (1, 3));
    drop(streams);
}

#[cfg(target_os = "linux")]
#[test]
fn with_deferred_accept_who_says_nothing_is_not_accepted_and_who_speaks_is() {
    // No timeout of the server's own may end anybody.
    let limits = Limits { first_byte_timeout: None, ..Limits::default() };
    let (server, seen) = serve(limits, any_port().defer_accept(Duration::from_secs(60)));
    let silent = connect_from(2, server.addresses[0]);
    let speaks = connect_from(3, server.addresses[0]);
    assert_served(&speaks, b"hello");
    assert_eq!(made(&seen), speaks.local_addr().expect("connected"));
    // The silent one was there first.
    assert_eq!(server.handle.connections(), 1);
    assert_eq!(seen.recv_timeout(Duration::from_millis(200)), Err(mpsc::RecvTimeoutError::Timeout));
    assert_served(&silent, b"now I speak");
    assert_eq!(made(&seen), silent.local_addr().expect("connected"));
    drop((silent, speaks));
    assert_eq!(server.drained().connections(), 2);
}

#[test]
fn a_busy_answer_that_is_too_long_is_refused_with_its_numbers() {
    let (most, address) = (Listener::BUSY_ANSWER_BYTES_MAX, SocketAddr::from(([127, 0, 0, 1], 0)));
    let bind = |bytes| {
        let listener = Listener::tcp(address).busy_answer(vec![b'x'; bytes]);
        Server::builder().listen(listener, |_| Endless).bind()
    };
    assert!(bind(most).is_ok());
    match bind(most + 1) {
        Err(BindError::Limits(error)) => {
            let text = error.to_string();
            assert!(text.contains("1025") && text.contains("1024") && text.contains("127.0.0.1"), "{text}");
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn servers_that_share_a_limiter_wake_each_other() {
    let limiter = ConnectionLimiter::new(1);
    let start = || serve(Limits::default(), any_port().limiter(&limiter));
    let ((one, _seen), (other, seen)) = (start(), start());
    let mut first = one.connect();
    first.write_all(b"1").expect("it is taken");
    let mut byte = [0];
    first.read_exact(&mut byte).expect("an echo");
    let mut second = other.connect();
    second.write_all(b"2").expect("it is taken");
    assert!(seen.try_recv().is_err(), "there is one place, and the first has it");
    drop(first);
    second.read_exact(&mut byte).expect("an echo, once the first is gone");
    assert_eq!((byte, limiter.connections()), (*b"2", 1));
    drop(second);
    one.drained();
    other.drained();
    assert_eq!(limiter.connections(), 0);
}
