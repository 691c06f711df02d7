//! Outgoing connections to hosts by their names, on the real engines.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::{
    Buffer, Client, ConnectError, ConnectFailed, Connected, Connection, Connector, Destination, Handler, Limits,
    Server, ServerBuilder, Target,
};

use crate::harness::{DEADLINE, Running, any_port};

struct Echo;

impl Handler for Echo {
    type Message = std::convert::Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        connection.send(data).expect("a reply is never refused");
    }
}

type Seen = Receiver<Result<Connected, ConnectFailed>>;

/// A server that echoes, with one I/O thread, and a client that tells what becomes of its requests.
fn telling(limits: Limits, client: Client) -> (ServerBuilder, Connector, Seen) {
    let (say, seen) = mpsc::channel();
    let failed = say.clone();
    let client = client.on_failed(move |failure| {
        let _ = failed.send(Err(failure.clone()));
    });
    let builder = Server::builder().limits(limits).listen(any_port(), |_| Echo);
    let (builder, connector) = builder.client(client, move |connected: &Connected| {
        let _ = say.send(Ok(connected.clone()));
        Echo
    });
    (builder, connector, seen)
}

fn listening() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("its address");
    (listener, address)
}

/// A resolver that says when it is asked, and answers when it is told what.
fn on_demand() -> (Client, Receiver<String>, mpsc::Sender<io::Result<Vec<SocketAddr>>>) {
    let (ask, asked) = mpsc::channel();
    let (answer, answers) = mpsc::channel::<io::Result<Vec<SocketAddr>>>();
    let answers = Mutex::new(answers);
    let client = Client::tcp().resolver(move |name, port| {
        ask.send(format!("{name}:{port}")).expect("the test goes on");
        answers.lock().expect("no panic").recv().unwrap_or_else(|_| Ok(Vec::new()))
    });
    (client, asked, answer)
}

#[test]
fn the_system_finds_localhost() {
    let (listener, address) = listening();
    let (builder, connector, seen) = telling(Limits::default(), Client::tcp());
    let running = Running::start(builder);
    connector.connect(Target::host("localhost", address.port()).tag(3)).expect("room");
    let connected = seen.recv_timeout(DEADLINE).expect("an outcome").expect("it is connected");
    assert_eq!((connected.peer, connected.tag), (address, 3));
    assert_eq!(connected.destination().to_string(), format!("localhost:{}", address.port()));
    drop((listener, running));
}

#[test]
fn a_name_that_cannot_be_is_not_found_or_not_looked_up() {
    let (builder, connector, seen) = telling(Limits::default(), Client::tcp());
    let running = Running::start(builder);
    // Reserved never to exist (RFC 6761).
    connector.connect(Target::host("nobody.invalid", 9).tag(4)).expect("room");
    let failure = seen.recv_timeout(DEADLINE).expect("an outcome").expect_err("there is no such host");
    assert_eq!((failure.destination.to_string(), failure.tag), ("nobody.invalid:9".to_owned(), 4));
    let is_of_the_name = |error| {
        matches!(error, ConnectError::NameNotFound | ConnectError::LookUpFailed { .. } | ConnectError::TimedOut(_))
    };
    assert!(is_of_the_name(failure.error), "{failure:?}");
    drop(running);
}

#[test]
fn while_a_look_up_hangs_its_io_thread_serves_everybody_else() {
    let (listener, address) = listening();
    let (client, asked, answer) = on_demand();
    let (builder, connector, seen) = telling(Limits::default(), client);
    let running = Running::start(builder);
    connector.connect(Target::host("slow.test", 80)).expect("room");
    assert_eq!(asked.recv_timeout(DEADLINE).expect("it is asked"), "slow.test:80");
    let mut other = running.connect();
    for round in 0..20_u8 {
        let mut answer = [0];
        other.write_all(&[round]).expect("room");
        other.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, [round]);
    }
    connector.connect(Target::new(address).tag(1)).expect("room");
    assert_eq!(seen.recv_timeout(DEADLINE).expect("an outcome").expect("no name, no look-up").tag, 1);
    answer.send(Ok(vec![address])).expect("it waits for that");
    let connected = seen.recv_timeout(DEADLINE).expect("an outcome").expect("it is connected");
    assert_eq!(connected.peer, address);
    drop((listener, running));
}

#[test]
fn what_a_resolver_says_is_told_and_its_panic_harms_nobody() {
    let client = Client::tcp().resolver(|name, _| match name {
        "panics.test" => panic!("for the test"),
        "denied.test" => Err(io::ErrorKind::PermissionDenied.into()),
        _ => Err(io::ErrorKind::NotFound.into()),
    });
    let (builder, connector, seen) = telling(Limits { look_up_threads: 1, ..Limits::default() }, client);
    let running = Running::start(builder);
    for (name, kind) in [
        ("panics.test", Some(io::ErrorKind::Other)),
        ("denied.test", Some(io::ErrorKind::PermissionDenied)),
        ("missing.test", None),
    ] {
        connector.connect(Target::host(name, 80)).expect("room");
        let failure = seen.recv_timeout(DEADLINE).expect("an outcome").expect_err("it has no address");
        let expected =
            kind.map_or(ConnectError::NameNotFound, |kind| ConnectError::LookUpFailed { kind, os_error: None });
        assert_eq!(failure.error, expected);
        assert!(matches!(failure.destination, Destination::Host { port: 80, .. }));
    }
    drop(running);
}

#[test]
fn a_look_up_that_hangs_times_out_with_its_request_and_holds_up_no_end() {
    let (client, asked, answer) = on_demand();
    let client = client.connect_timeout(Duration::from_millis(50));
    let (builder, connector, seen) = telling(Limits { look_up_threads: 1, ..Limits::default() }, client);
    let running = Running::start(builder);
    connector.connect(Target::host("stuck.test", 80).tag(1)).expect("room");
    asked.recv_timeout(DEADLINE).expect("it is asked");
    let failure = seen.recv_timeout(DEADLINE).expect("an outcome").expect_err("nobody answers");
    assert_eq!(failure.error, ConnectError::TimedOut(Duration::from_millis(50)));
    connector.connect(Target::host("behind.test", 80).tag(2)).expect("room");
    let failure = seen.recv_timeout(DEADLINE).expect("an outcome").expect_err("the only thread is stuck");
    assert_eq!((failure.tag, failure.error), (2, ConnectError::TimedOut(Duration::from_millis(50))));
    // The server ends though the resolver never returns.
    let report = running.drained();
    assert_eq!(report.connects_failed(), 2);
    drop(answer);
}

#[test]
fn a_server_that_drains_gives_up_its_look_ups() {
    let (client, asked, answer) = on_demand();
    let (builder, connector, seen) = telling(Limits::default(), client);
    let running = Running::start(builder);
    connector.connect(Target::host("stuck.test", 80)).expect("room");
    asked.recv_timeout(DEADLINE).expect("it is asked");
    let seen = Arc::new(Mutex::new(seen));
    let report = running.drained();
    assert_eq!(report.connects_failed(), 1);
    let failure = seen.lock().expect("no panic").try_recv().expect("an outcome").expect_err("it drains");
    assert_eq!(failure.error, ConnectError::Draining);
    drop(answer);
}
