//! `proxy`.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::running::{DEADLINE, Example, Talk};

/// A target, and a relay to it.
struct Relay {
    target: TcpListener,
    proxy: Example,
}

impl Relay {
    fn new() -> Self {
        let target = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = target.local_addr().expect("it is bound").to_string();
        Self { target, proxy: Example::start("proxy", &["127.0.0.1:0", &address, "1"]) }
    }

    /// Both ends of a connection through it: the client's and the target's.
    fn connect(&self) -> (Talk, Talk) {
        let client = self.proxy.connect();
        (client, Talk::on(self.target.accept().expect("the relay connects").0))
    }
}

#[test]
fn the_target_may_have_a_name() {
    let target = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let name = format!("localhost:{}", target.local_addr().expect("it is bound").port());
    let proxy = Example::start("proxy", &["127.0.0.1:0", &name]);
    let mut client = proxy.connect();
    client.write(b"tide\n");
    let mut accepted = Talk::on(target.accept().expect("the relay connects").0);
    assert_eq!(accepted.line().as_deref(), Some("tide"));
}

/// Bytes that tell by their values where they belong.
fn numbered(count: usize) -> Vec<u8> {
    (0..count).map(|number| (number ^ number >> 8 ^ number >> 16) as u8).collect()
}

#[test]
fn everything_is_passed_on_both_ways_and_each_way_ends_for_itself() {
    let relay = Relay::new();
    let (mut client, mut target) = relay.connect();
    client.write(b"what is the time?\n");
    assert_eq!(target.line().as_deref(), Some("what is the time?"));
    // The client has finished, and still gets all of a long answer.
    client.finish();
    assert!(target.rest().is_empty());
    let answer = numbered(5 << 20);
    let to_send = answer.clone();
    let sending = thread::spawn(move || {
        target.write(&to_send);
        target
    });
    assert!(client.read(answer.len()) == answer, "what arrives is not what was sent");
    let target = sending.join().expect("all was taken");
    target.finish();
    assert!(client.rest().is_empty());
}

#[test]
fn one_way_goes_on_while_the_other_stands_still() {
    let relay = Relay::new();
    let (mut client, target) = relay.connect();
    // The target sends until nobody takes any more: the client doesn't read.
    target.stream().set_write_timeout(Some(Duration::from_millis(300))).expect("not zero");
    let mut flood = 0;
    loop {
        match (&mut target.stream()).write(&[7; 64 << 10]) {
            Ok(count) => flood += count,
            Err(error) => break assert!(is_timeout(&error), "{error}"),
        }
    }
    // And the client sends all the same.
    let mut target = target;
    let sent = numbered(5 << 20);
    let to_send = sent.clone();
    let sending = thread::spawn(move || {
        client.write(&to_send);
        client
    });
    assert!(target.read(sent.len()) == sent, "what arrives is not what was sent");
    let mut client = sending.join().expect("all was taken");
    assert!(client.read(flood).iter().all(|&byte| byte == 7), "and nothing of the other way was lost");
}

#[test]
fn a_client_whose_target_refuses_is_closed() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port").local_addr().expect("it is bound");
    let proxy = Example::start("proxy", &["127.0.0.1:0", &closed.to_string()]);
    assert!(proxy.connect().rest().is_empty(), "closed in order");
}

#[test]
fn a_reset_on_one_side_is_a_reset_on_the_other() {
    let relay = Relay::new();
    let (mut client, mut target) = relay.connect();
    client.write(b"hello\n");
    // Once it is passed on: a target that resets before the connect was looked at is one that was never connected to.
    assert_eq!(target.line().as_deref(), Some("hello"));
    socket2::SockRef::from(target.stream()).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
    drop(target);
    assert_eq!(client.end().expect_err("a reset").kind(), ErrorKind::ConnectionReset);

    let (mut client, mut target) = relay.connect();
    // Once the two belong together: a client that has gone before is one that nobody serves.
    target.write(b"hello\n");
    assert_eq!(client.read(6), b"hello\n");
    socket2::SockRef::from(client.stream()).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
    drop(client);
    assert_eq!(target.end().expect_err("a reset").kind(), ErrorKind::ConnectionReset);
}

/// Whether nothing was taken in time.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[test]
fn a_fast_sender_and_a_stopped_receiver_stay_below_the_ceiling() {
    /// Offered on each connection, in bytes.
    const OFFERED: usize = 50 << 20;
    /// What the system's buffers of two sockets on either side of the relay, and the relay itself, can hold, amply.
    const HELD_MAX: usize = 16 << 20;
    const CONNECTIONS: usize = 4;

    let mut relay = Relay::new();
    let said = relay.proxy.line();
    let ceiling: usize = said.split(' ').find_map(|word| word.parse().ok()).expect("a number");
    let pairs: Vec<(Talk, Talk)> = (0..CONNECTIONS).map(|_| relay.connect()).collect();
    let (clients, targets): (Vec<Talk>, Vec<Talk>) = pairs.into_iter().unzip();
    let (stopped, stops) = mpsc::channel();
    let senders: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let stopped = stopped.clone();
            thread::spawn(move || {
                let chunk = vec![9; 256 << 10];
                let mut taken = 0;
                // Until nothing was taken for half a second; then it says how much was, and waits until the rest is.
                client.stream().set_write_timeout(Some(Duration::from_millis(500))).expect("not zero");
                let mut told = false;
                let began = Instant::now();
                while taken < OFFERED {
                    match (&mut client.stream()).write(&chunk[..chunk.len().min(OFFERED - taken)]) {
                        Ok(count) => taken += count,
                        Err(error) => {
                            assert!(is_timeout(&error), "{error}");
                            if !std::mem::replace(&mut told, true) {
                                let _ = stopped.send(taken);
                            }
                            assert!(began.elapsed() < 4 * DEADLINE, "the rest is never taken");
                        }
                    }
                }
                client.finish();
            })
        })
        .collect();
    for _ in 0..CONNECTIONS {
        let taken = stops.recv_timeout(DEADLINE).expect("a sender is stopped");
        assert!(taken < HELD_MAX, "{taken} bytes were taken from a sender whose receiver has stopped");
    }
    let resident = relay.proxy.resident_bytes();
    assert!(resident <= ceiling, "{resident} bytes resident, and the ceiling is {ceiling}");

    // The receivers go on, and get everything.
    let mut buffer = vec![0; 1 << 20];
    for target in targets {
        let mut received = 0;
        loop {
            match (&mut target.stream()).read(&mut buffer).expect("more, or an end in order") {
                0 => break,
                count => received += count,
            }
        }
        assert_eq!(received, OFFERED);
    }
    senders.into_iter().for_each(|sender| sender.join().expect("it has sent everything"));
    let resident = relay.proxy.resident_bytes();
    assert!(resident <= ceiling, "{resident} bytes resident, and the ceiling is {ceiling}");
}
