//! The filters of the library on connections of the simulation.

use std::time::Duration;

use tidegate::filter::proxy::{ProxyHeader, ProxyProtocol};
use tidegate::filter::{FilterError, FilterFactory, Heard, KeepAlive, KeepAliveCodec, RateLimit, ReadTimeout};
use tidegate::sim::Simulation;
use tidegate::{
    Buffer, Client, CloseReason, Connected, Connection, Handler, Limits, Listener, MinProgress, Server, Target, Time,
};

use crate::common::{Log, Noting, Raw, address, reasons, run};
use crate::talking::Asker;

/// What came of one peer.
struct Outcome {
    log: Vec<String>,
    heard: Vec<u8>,
    ended_at: Option<Time>,
    reasons: Vec<(&'static str, u64)>,
}

/// Serves one peer through a filter, and waits for at most 100 s.
fn serve_one(
    filter: impl FilterFactory,
    limits: Limits,
    raw: (Raw, std::rc::Rc<std::cell::RefCell<crate::common::Seen>>),
) -> Outcome {
    let mut simulation = Simulation::new(3);
    let log = Log::default();
    let noted = Log::clone(&log);
    let listener = Listener::tcp(address()).filter(filter);
    let server = Server::builder().limits(limits).listen(listener, move |accepted| {
        if let Some(source) = accepted.description().source {
            noted.lock().expect("no panic").push(format!("from {source}"));
        }
        Noting(Log::clone(&noted))
    });
    let address = simulation.serve(server).expect("sound limits")[0];
    let (raw, seen) = raw;
    simulation.client(address, Duration::from_millis(1), raw);
    let report = run(&mut simulation, Duration::from_secs(100));
    let log = log.lock().expect("no panic").clone();
    let seen = seen.borrow();
    Outcome { log, heard: seen.bytes.clone(), ended_at: seen.ended_at, reasons: reasons(&report) }
}

fn at(milliseconds: u64) -> Time {
    Time::ZERO + Duration::from_millis(milliseconds)
}

#[track_caller]
fn assert_ended(outcome: &Outcome, from_ms: u64, until_ms: u64) {
    let ended_at = outcome.ended_at.expect("it has ended");
    assert!((at(from_ms)..at(until_ms)).contains(&ended_at), "at {ended_at}");
}

fn trusting() -> ProxyProtocol {
    ProxyProtocol::from(["0.0.0.0/0".parse().expect("a network"), "::/0".parse().expect("a network")])
}

#[test]
fn a_handler_is_made_when_the_header_is_whole_and_knows_who_is_connected() {
    let says = b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\nhello";
    for piece in [1, 5, 46, 1000] {
        let (raw, seen) = Raw::new(says);
        let raw = raw.in_pieces(piece, Duration::from_millis(7)).finishing();
        let outcome = serve_one(trusting(), Limits::default(), (raw, seen));
        assert_eq!(outcome.log[..2], ["from 192.0.2.7:50000", "connect"]);
        assert_eq!((&outcome.heard[..], outcome.reasons), (&b"hello"[..], vec![("finished", 1)]));
    }
}

#[test]
fn a_header_that_is_late_wrong_or_cut_short_ends_the_connection_without_a_handler() {
    let outcome = serve_one(trusting(), Limits::default(), Raw::new(b"PROXY"));
    assert_eq!((outcome.log.len(), &outcome.reasons), (0, &vec![("handshake_timeout", 1)]));
    assert_ended(&outcome, 3_000, 3_500);
    let outcome = serve_one(trusting(), Limits::default(), Raw::new(b"GET /"));
    assert_eq!((outcome.log.len(), outcome.reasons), (0, vec![("protocol_error", 1)]));
    let (raw, seen) = Raw::new(b"PROXY TCP4");
    let outcome = serve_one(trusting(), Limits::default(), (raw.finishing(), seen));
    assert_eq!((outcome.log.len(), outcome.reasons), (0, vec![("truncated", 1)]));
    let outcome = serve_one(ProxyProtocol::from([]), Limits::default(), Raw::new(b"PROXY UNKNOWN\r\n"));
    assert_eq!((outcome.log.len(), outcome.reasons), (0, vec![("not_allowed", 1)]));
}

#[test]
fn a_silent_peer_is_closed_in_order_when_its_time_is_over() {
    let patience = ReadTimeout::new().first_byte(Duration::from_secs(2)).idle(Duration::from_secs(4));
    let outcome = serve_one(patience, Limits::default(), Raw::new(b""));
    assert_eq!(outcome.reasons, [("first_byte_timeout", 1)]);
    assert_ended(&outcome, 2_000, 2_500);
    let outcome = serve_one(patience, Limits::default(), Raw::new(b"hello"));
    assert_eq!((&outcome.heard[..], &outcome.reasons), (&b"hello"[..], &vec![("idle_timeout", 1)]));
    assert_ended(&outcome, 4_000, 4_500);
}

#[test]
fn a_peer_that_trickles_is_too_slow_for_a_rate() {
    let rate = ReadTimeout::new().min_rate(10, Duration::from_secs(2), Duration::from_secs(1));
    let (raw, seen) = Raw::new(&[7; 100]);
    let outcome = serve_one(rate, Limits::default(), (raw.in_pieces(1, Duration::from_secs(1)), seen));
    assert_eq!(outcome.reasons, [("receive_too_slow", 1)]);
    assert_ended(&outcome, 3_000, 3_500);
    let (raw, seen) = Raw::new(&[7; 40]);
    let raw = raw.in_pieces(6, Duration::from_secs(1)).finishing();
    let outcome = serve_one(rate, Limits::default(), (raw, seen));
    assert_eq!((outcome.heard.len(), outcome.reasons), (40, vec![("finished", 1)]));
}

#[test]
fn what_a_rate_holds_back_comes_whole_and_is_not_the_peers_slowness() {
    // A turn takes 250 ms and longer; a peer that takes nothing for 100 ms is reset.
    let limits =
        Limits { min_send_progress: Some(MinProgress::new(1, Duration::from_millis(100))), ..Limits::default() };
    for limit in [
        RateLimit::per_connection(200).burst(50),
        RateLimit::per_connection(200).burst(50).sending_only(),
        RateLimit::per_connection(200).burst(200).receiving_only(),
        RateLimit::shared(200).burst(1),
    ] {
        let (raw, seen) = Raw::new(&[7; 1_200]);
        let outcome =
            serve_one(limit, limits.clone(), (raw.in_pieces(300, Duration::from_millis(1)).finishing(), seen));
        assert_eq!((outcome.heard.len(), &outcome.reasons), (1_200, &vec![("finished", 1)]));
        assert_ended(&outcome, 4_990, 8_000);
    }
}

/// `?` is a ping, `!` its answer.
struct Questions;

impl KeepAliveCodec for Questions {
    fn bytes_max(&self) -> usize {
        1
    }

    fn ping(&self, _number: u64) -> Vec<u8> {
        b"?".to_vec()
    }

    fn hear(&self, message: &[u8]) -> Result<Heard, FilterError> {
        Ok(match message {
            b"?" => Heard::Ping(b"!".to_vec()),
            b"!" => Heard::Answer,
            _ => Heard::Message,
        })
    }
}

fn asking() -> KeepAlive {
    KeepAlive::new(Questions).after(Duration::from_secs(5)).answer_within(Duration::from_secs(1)).pings(3)
}

#[test]
fn a_peer_that_does_not_answer_is_given_up() {
    let outcome = serve_one(asking(), Limits::default(), Raw::new(b"hello"));
    assert_eq!((&outcome.heard[..], &outcome.reasons), (&b"hello???"[..], &vec![("no_answer", 1)]));
    assert_ended(&outcome, 8_000, 8_500);
    assert!(!outcome.log.iter().any(|line| line.contains(['?', '!'])), "{:?}", outcome.log);
}

/// Says something after a while, and finishes when it comes back.
struct Late;

impl Handler for Late {
    type Message = std::convert::Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        connection.set_timer(1, Duration::from_secs(60));
    }

    fn on_timer(&mut self, connection: &mut Connection<'_>, _timer: u8) {
        connection.send("late").expect("room");
    }

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        assert_eq!(&data[..], b"late");
        connection.shutdown();
    }
}

#[test]
fn two_sides_that_ask_each_other_stay_for_as_long_as_they_want() {
    let mut simulation = Simulation::new(5);
    let log = Log::default();
    let noted = Log::clone(&log);
    let listener = Listener::tcp(address()).filter(asking());
    let server = Server::builder().listen(listener, move |_| Noting(Log::clone(&noted)));
    let (server, connector) = server.client(Client::tcp().filter(asking()), |_: &Connected| Late);
    let address = simulation.serve(server).expect("sound limits")[0];
    connector.connect(Target::new(address)).expect("room");
    let report = run(&mut simulation, Duration::from_secs(100));
    assert_eq!(reasons(&report), [("finished", 2)]);
    assert_eq!(*log.lock().expect("no panic"), ["connect", "read late", "peer shutdown", "close finished"]);
}

#[test]
fn a_client_says_for_whom_it_speaks_before_anything_else_over_any_network() {
    for seed in 0..8 {
        let mut simulation = Simulation::new(seed);
        let outcome = std::sync::Arc::default();
        let (source, destination) = ("[2001:db8::7]:5".parse().expect("an address"), address());
        let listener = Listener::tcp(address()).filter(trusting()).filter(RateLimit::per_connection(100_000));
        let server = Server::builder().listen(listener, move |accepted| {
            assert_eq!(accepted.description().source, Some(source));
            crate::common::Echo
        });
        let told = std::sync::Arc::clone(&outcome);
        let client = Client::tcp().filter(ProxyHeader::version_2(source, destination).checksum());
        let (server, connector) = server.client(client, move |_: &Connected| Asker {
            total: 20_000,
            message_bytes: 777,
            sent: 0,
            received: 0,
            outcome: std::sync::Arc::clone(&told),
        });
        let address = simulation.serve(server).expect("sound limits")[0];
        connector.connect(Target::new(address)).expect("room");
        run(&mut simulation, Duration::from_secs(30));
        let outcome = outcome.lock().expect("no panic");
        let ended = |&(received, reason): &(usize, CloseReason)| {
            received == 20_000 && reason == CloseReason::Finished || reason == CloseReason::Reset
        };
        assert!(outcome.len() == 1 && outcome.iter().all(ended), "seed {seed}: {outcome:?}");
    }
}
