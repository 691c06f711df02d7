//! The headline promise: ten thousand connections at once, each answered byte for byte.
//!
//! In a file of its own, because a test binary is a process, and this one opens more descriptors than others leave it; for
//! the same reason its parts run one after another.

mod common;

use std::io::Write as _;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};

use common::{DEADLINE, Program, assert_echoed, assert_end, assert_receives, pattern, serve};
use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors of this process that are not connections.
const SPARE: u64 = 100;

fn raise_own_descriptor_limit(connections: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the soft limit may always be raised to the hard one");
    let hard = limit.maximum.unwrap_or(u64::MAX);
    assert!(
        hard >= connections as u64 + SPARE,
        "this test needs {connections} descriptors and a few more, but the hard limit is {hard} (ulimit -Hn)"
    );
}

/// A connection from 127.0.0.1 to 127.0.0.8 in turn: one address has ports for fewer than 30,000, those of former tests included.
fn connect_from(number: usize, server: SocketAddr) -> TcpStream {
    let source = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 1 + (number % 8) as u8), 0));
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("there are descriptors");
    socket.bind(&source.into()).expect("the whole of 127/8 is this machine");
    socket.connect_timeout(&server.into(), DEADLINE).expect("it listens");
    socket.set_read_timeout(Some(DEADLINE)).expect("not zero");
    socket.set_write_timeout(Some(DEADLINE)).expect("not zero");
    socket.into()
}

/// All connect, then all send, then all are answered, twice; then all half-close and see the end.
fn assert_serves_at_once(server: &Program, connections: usize) {
    let mut streams: Vec<_> = (0..connections).map(|number| connect_from(number, server.address())).collect();
    for round in 0..2 {
        let message = |number: usize| pattern((round * connections + number) as u64, 64);
        for (number, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&message(number)).expect("it is taken");
        }
        for (number, stream) in streams.iter().enumerate() {
            assert_receives(stream, &message(number));
        }
    }
    for stream in &streams {
        stream.shutdown(Shutdown::Write).expect("it is connected");
    }
    for stream in &streams {
        assert_end(stream);
    }
}

#[test]
fn thousands_of_connections_are_served_at_once() {
    raise_own_descriptor_limit(10_000);

    let server = serve(&["echo", "--threads", "2"]);
    assert_serves_at_once(&server, 5_000);
    assert_serves_at_once(&server, 10_000);
    let ended = server.drained();
    assert!(ended.stderr.contains("connections=15000"), "{}", ended.stderr);
    assert!(ended.stderr.contains("closed=\"finished 15000\""), "{}", ended.stderr);

    let server = serve(&["echo", "--threads", "2"]);
    std::thread::scope(|scope| {
        for number in 0..200 {
            let stream = connect_from(number, server.address());
            scope.spawn(move || {
                assert_echoed(&stream, &pattern(number as u64, 1 << 20));
                stream.shutdown(Shutdown::Write).expect("it is connected");
                assert_end(&stream);
            });
        }
    });
    let ended = server.drained();
    assert!(ended.stderr.contains("closed=\"finished 200\""), "{}", ended.stderr);
}
