//! `tidegate serve --overflow`: what becomes of answers to peers that do not read them.

mod common;

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use common::{DEADLINE, Ended, Program, serve, tidegate};

/// What a flooder sends at most: far more than the buffers of both ends hold.
const FLOOD_BYTES: usize = 48 << 20;

/// Sends without reading for as long as it is taken from; how much that was, and how it ended.
fn flood(stream: &mut TcpStream, patience: Duration) -> (usize, Option<io::Error>) {
    stream.set_write_timeout(Some(patience)).expect("not zero");
    let chunk = vec![b'x'; 64 << 10];
    let mut sent = 0;
    while sent < FLOOD_BYTES {
        match stream.write(&chunk) {
            Ok(count) => sent += count,
            Err(error) => return (sent, Some(error)),
        }
    }
    (sent, None)
}

/// Starts an echo with this policy, small queues and no other limit for slow peers.
fn echo(overflow: &str) -> Program {
    serve(&["echo", "--overflow", overflow, "--send-queue", "32K", "--min-send-progress", "off", "--memory", "96M"])
}

/// The number of this name in the summary.
fn number(ended: &Ended, name: &str) -> u64 {
    let summary: serde_json::Value =
        serde_json::from_str(ended.stdout.lines().last().expect("a summary")).expect("JSON");
    summary[name].as_u64().unwrap_or_else(|| panic!("no {name} in {summary}"))
}

#[test]
fn an_echo_that_waits_stops_reading_and_drops_nothing() {
    for policy in ["wait", "wait=0", "close"] {
        let server = echo(policy);
        let mut stream = server.connect();
        let (sent, error) = flood(&mut stream, Duration::from_millis(500));
        let error = error.expect("nobody takes all of it");
        assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{policy}: {error}");
        let mut back = vec![0; sent];
        stream.read_exact(&mut back).expect("every byte comes back");
        assert!(back.iter().all(|&byte| byte == b'x'), "{policy}");
        drop(stream);
        let ended = server.drained();
        assert_eq!((number(&ended, "dropped_messages"), number(&ended, "dropped_bytes")), (0, 0), "{policy}");
    }
}

#[test]
fn an_echo_that_drops_reads_on_says_how_much_it_has_dropped_and_keeps_its_memory() {
    for policy in ["drop-oldest", "drop-newest"] {
        let server = echo(policy);
        let before_bytes = server.resident_bytes();
        let mut stream = server.connect();
        let (sent, error) = flood(&mut stream, DEADLINE);
        assert!(error.is_none(), "{policy}: {error:?} after {sent} bytes");
        let gain_bytes = server.resident_bytes().saturating_sub(before_bytes);
        assert!(gain_bytes < 16 << 20, "{policy}: {gain_bytes} bytes more");
        // It is still served.
        common::assert_echoed(&server.connect(), b"another one");
        drop(stream);
        let ended = server.drained();
        let (messages, bytes) = (number(&ended, "dropped_messages"), number(&ended, "dropped_bytes"));
        assert!(messages > 100 && bytes > 16 << 20, "{policy}: {messages} messages, {bytes} bytes");
        assert!(ended.stderr.contains("dropped_messages="), "{}", ended.stderr);
    }
}

#[test]
fn the_line_of_counters_has_what_was_dropped() {
    let server = serve(&["echo", "--overflow", "drop-oldest", "--stats", "20ms"]);
    let mut stream = server.connect();
    let (_, error) = flood(&mut stream, DEADLINE);
    assert!(error.is_none(), "{error:?}");
    drop(stream);
    let ended = server.drained();
    let of_stats = |line: &&str| line.contains("stats") && line.contains("dropped_bytes=");
    assert!(ended.stderr.lines().any(|line| of_stats(&line)), "{}", ended.stderr);
}

#[test]
fn a_policy_that_is_none_ends_with_status_2_and_says_which_there_are() {
    let cases = [
        ("drop", "drop-oldest, drop-newest or close"),
        ("wait=", "whole number"),
        ("wait=5", "units"),
        ("close=5s", "only wait takes a time"),
    ];
    for (policy, hint) in cases {
        let ended = tidegate(&["serve", "echo", "--overflow", policy]).ended();
        assert_eq!(ended.status.code(), Some(2), "{policy}: {ended:?}");
        assert!(ended.stderr.contains(hint) && ended.stderr.contains("--overflow"), "{policy}: {}", ended.stderr);
    }
}
