//! How connections with filters end: by their peers, by their filters, by the time, by the server.

use std::time::Duration;

use tidegate::sim::Simulation;
use tidegate::{Limits, Listener, Server, Time};

use crate::cipher::{ALARM, Ciphers, GOODBYE};
use crate::common::{HELLO_0, Log, Noting, Raw, address, reasons, record, run};

/// Serves one peer; returns what the handler noted, what the peer heard, how and when it ended, and the counted reason.
fn serve_one(raw: impl FnOnce(&[u8]) -> (Raw, std::rc::Rc<std::cell::RefCell<crate::common::Seen>>)) -> Outcome {
    serve_one_within(raw, Duration::from_secs(60))
}

struct Outcome {
    log: Vec<String>,
    heard: Vec<u8>,
    ended: Option<&'static str>,
    ended_at: Option<Time>,
    reasons: Vec<(&'static str, u64)>,
}

fn serve_one_within(
    raw: impl FnOnce(&[u8]) -> (Raw, std::rc::Rc<std::cell::RefCell<crate::common::Seen>>),
    time: Duration,
) -> Outcome {
    let mut simulation = Simulation::new(3);
    let log = Log::default();
    let noted = Log::clone(&log);
    let listener = Listener::tcp(address()).filter(Ciphers { key: 0 });
    let server = Server::builder().limits(Limits::default()).listen(listener, move |_| Noting(Log::clone(&noted)));
    let address = simulation.serve(server).expect("sound limits")[0];
    let (raw, seen) = raw(&HELLO_0);
    simulation.client(address, Duration::from_millis(1), raw);
    let report = run(&mut simulation, time);
    assert_eq!(report.connections(), 1);
    let log = log.lock().expect("no panic").clone();
    let seen = seen.borrow();
    Outcome { log, heard: seen.bytes.clone(), ended: seen.ended, ended_at: seen.ended_at, reasons: reasons(&report) }
}

fn said(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn a_peer_that_says_goodbye_and_finishes_is_answered_in_kind() {
    for piece in [1, 2, 3, 7, 1000] {
        let outcome = serve_one(|hello| {
            let (raw, seen) = Raw::new(&said(&[hello, &record(b"abc"), &record(b"de"), &[GOODBYE, 0, 0]]));
            (raw.in_pieces(piece, Duration::from_millis(3)).finishing(), seen)
        });
        assert_eq!(outcome.log, ["connect", "read abc", "read de", "peer shutdown", "close finished"]);
        assert_eq!(outcome.heard, said(&[&HELLO_0, &record(b"abc"), &record(b"de"), &[GOODBYE, 0, 0]]));
        assert_eq!((outcome.ended, outcome.reasons), (Some("end"), vec![("finished", 1)]));
    }
}

#[test]
fn a_goodbye_without_the_end_of_the_stream_counts_as_the_end_and_the_wire_is_waited_for() {
    let outcome =
        serve_one(|hello| Raw::new(&said(&[hello, &record(b"abc"), &[GOODBYE, 0, 0], b"and more, of no meaning"])));
    assert_eq!(outcome.log, ["connect", "read abc", "peer shutdown", "close finished"]);
    assert_eq!(outcome.heard, said(&[&HELLO_0, &record(b"abc"), &[GOODBYE, 0, 0]]));
    assert_eq!((outcome.ended, outcome.reasons), (Some("end"), vec![("finished", 1)]));
    assert!(outcome.ended_at < Some(Time::ZERO + Duration::from_secs(1)), "the peer sees our end at once");
}

#[test]
fn the_end_of_the_stream_without_a_goodbye_is_a_truncation() {
    for cut in 0..record(b"abc").len() {
        let outcome = serve_one(|hello| {
            let (raw, seen) = Raw::new(&said(&[hello, &record(b"xyz"), &record(b"abc")[..cut]]));
            (raw.finishing(), seen)
        });
        assert_eq!(outcome.log, ["connect", "read xyz", "close truncated"], "cut at {cut}");
        assert_eq!(outcome.reasons, [("truncated", 1)]);
    }
}

#[test]
fn a_peer_that_breaks_the_protocol_hears_the_farewell_and_then_the_end() {
    let outcome = serve_one(|hello| Raw::new(&said(&[hello, &record(b"abc"), &[7, 0, 0]])));
    assert_eq!(outcome.log, ["connect", "read abc", "close protocol_error"]);
    // What was echoed may have gone out before the filter saw what followed, or not.
    assert!(outcome.heard.ends_with(&[ALARM, 0, 0]) && outcome.heard.starts_with(&HELLO_0), "{:?}", outcome.heard);
    assert_eq!((outcome.ended, outcome.reasons), (Some("end"), vec![("protocol_error", 1)]));
}

#[test]
fn without_a_farewell_it_is_reset() {
    let outcome = serve_one(|hello| {
        let (raw, seen) = Raw::new(&said(&[hello, &[crate::cipher::DATA, 0xFF, 0xFF]]));
        (raw.in_pieces(hello.len(), Duration::from_millis(100)), seen)
    });
    assert_eq!((outcome.log, outcome.ended), (vec!["connect".into(), "close message_too_large".into()], Some("reset")));
    assert_eq!(outcome.reasons, [("message_too_large", 1)]);
}

#[test]
fn one_that_breaks_the_protocol_before_it_is_established_never_has_a_handler() {
    let outcome = serve_one(|_| Raw::new(b"GET / HTTP/1.1\r\n\r\n"));
    assert!(outcome.log.is_empty(), "{:?}", outcome.log);
    assert_eq!(outcome.reasons, [("message_too_large", 1)]);
    let outcome = serve_one(|_| Raw::new(&[7, 0, 0]));
    assert!(outcome.log.is_empty(), "{:?}", outcome.log);
    assert_eq!((outcome.heard, outcome.reasons), (vec![ALARM, 0, 0], vec![("protocol_error", 1)]));
}

#[test]
fn one_that_is_silent_in_the_handshake_ends_in_time_and_never_has_a_handler() {
    for says in [&HELLO_0[..0], &HELLO_0[..1], &HELLO_0[..3]] {
        let outcome = serve_one(|_| Raw::new(says));
        assert!(outcome.log.is_empty(), "{:?}", outcome.log);
        assert_eq!((outcome.ended, outcome.reasons), (Some("end"), vec![("handshake_timeout", 1)]));
        let ended_at = outcome.ended_at.expect("it ended");
        let about = |seconds| Time::ZERO + Duration::from_secs(seconds);
        assert!(ended_at >= about(10) && ended_at < about(11), "{ended_at:?}");
    }
}

#[test]
fn one_that_goes_during_the_handshake_is_over() {
    let outcome = serve_one(|_| {
        let (raw, seen) = Raw::new(&HELLO_0[..2]);
        (raw.finishing(), seen)
    });
    assert!(outcome.log.is_empty(), "{:?}", outcome.log);
    assert_eq!(outcome.reasons, [("truncated", 1)]);
}

#[test]
fn draining_ends_idle_connections_with_a_goodbye_and_lets_handshakes_that_have_begun_come_to_their_end() {
    let about = |seconds| Time::ZERO + Duration::from_secs(seconds);
    let outcome = serve_one_within(|_| Raw::new(&[]), Duration::from_secs(1));
    assert!(outcome.log.is_empty(), "{:?}", outcome.log);
    assert_eq!((outcome.ended, outcome.reasons), (Some("end"), vec![("drained", 1)]));
    assert!(outcome.ended_at < Some(about(2)));

    let outcome = serve_one_within(|_| Raw::new(&HELLO_0[..2]), Duration::from_secs(1));
    assert!(outcome.log.is_empty(), "{:?}", outcome.log);
    assert_eq!((outcome.ended, outcome.reasons), (Some("end"), vec![("drained", 1)]));
    // Half of the grace period after the drain began.
    assert!(outcome.ended_at >= Some(about(6)) && outcome.ended_at < Some(about(7)), "{:?}", outcome.ended_at);

    let outcome = serve_one_within(
        |hello| {
            let (raw, seen) = Raw::new(hello);
            (raw.in_pieces(2, Duration::from_secs(3)), seen)
        },
        Duration::from_secs(1),
    );
    assert_eq!(outcome.log, ["connect", "close drained"]);
    assert_eq!((outcome.ended, outcome.reasons), (Some("end"), vec![("drained", 1)]));
    assert!(outcome.ended_at >= Some(about(3)) && outcome.ended_at < Some(about(4)), "{:?}", outcome.ended_at);

    let outcome = serve_one_within(|hello| Raw::new(&said(&[hello, &record(b"hi")])), Duration::from_secs(1));
    assert_eq!(outcome.log, ["connect", "read hi", "close drained"]);
    assert_eq!(outcome.heard, said(&[&HELLO_0, &record(b"hi"), &[GOODBYE, 0, 0]]));
    assert_eq!((outcome.ended, outcome.reasons), (Some("end"), vec![("drained", 1)]));
}
