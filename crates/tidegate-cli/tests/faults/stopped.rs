//! Client processes that are stopped in the middle of things.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::common::{self, Program, assert_echoed, pattern};
use crate::server::Server;

on_both_engines! {
    a_client_that_was_stopped_with_megabytes_outstanding_gets_everything_when_it_goes_on
    a_client_that_stays_stopped_is_ended_by_the_send_progress_that_is_asked_for
}

/// What the client that is stopped has unanswered: 8 connections with 4 messages of 128 KiB each.
const OUTSTANDING_BYTES: u64 = 4 << 20;

/// `tidegate load` of this server, begun.
fn load(server: &Server, arguments: &[&str]) -> Program {
    let address = server.address().to_string();
    common::tidegate(&[&["load", &address, "--json"], arguments].concat()).spawned()
}

/// Others get all that they ask for, each a new connection.
fn others_are_served(server: &Server) {
    for seed in 0..10 {
        let stream = common::connect(server.address());
        assert_echoed(&stream, &pattern(seed, 200_000));
    }
}

fn a_client_that_was_stopped_with_megabytes_outstanding_gets_everything_when_it_goes_on(engine: &str) {
    let server = Server::start(engine, &["echo"], &[], None);
    let client = load(&server, &["-c", "8", "-s", "128K", "-p", "4", "-d", "60s", "--verify"]);
    server.wait_until("it talks", |counters| counters.connections == 8 && counters.received_bytes > OUTSTANDING_BYTES);
    client.signal(Signal::STOP);
    // Until nothing moves any more: what is outstanding is in the buffers of both sides.
    let latest = server.wait_until("nothing moves", |latest| {
        let history = server.history();
        history.len() > 3 && history[history.len() - 3..].iter().all(|it| it.received_bytes == latest.received_bytes)
    });
    server.assert_below_ceiling();
    others_are_served(&server);
    assert!(!client.ends_within(Duration::ZERO), "it is stopped");
    client.signal(Signal::CONT);
    // More than was outstanding: so all that was has been answered.
    let enough = latest.received_bytes + 2 * OUTSTANDING_BYTES;
    server.wait_until("it goes on", |counters| counters.received_bytes > enough);
    client.signal(Signal::INT);
    let ended = client.ended();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).expect("an object");
    for (name, expected) in [("connected", 8), ("failed", 0), ("closed_early", 0), ("mismatches", 0)] {
        assert_eq!(report[name], expected, "{name} in {report}");
    }
    assert_eq!(report["bytes_sent"], report["bytes_received"], "everything came back: {report}");
    let summary = server.drained();
    assert_eq!(summary.connections, 8 + 10, "{summary:?}");
    assert_eq!(summary.bytes_received, summary.bytes_sent, "{summary:?}");
}

fn a_client_that_stays_stopped_is_ended_by_the_send_progress_that_is_asked_for(engine: &str) {
    let arguments = ["--min-send-progress", "1/1s"];
    let server = Server::start(engine, &[&["chargen"], &arguments[..]].concat(), &[], None);
    let client = load(&server, &["-c", "8", "--expect", "chargen", "-d", "60s"]);
    server.wait_until("it reads", |counters| counters.connections == 8 && counters.send_memory_bytes > 0);
    client.signal(Signal::STOP);
    // Another one reads all the time.
    let mut reader = std::io::BufReader::new(common::connect(server.address()));
    let mut line = String::new();
    let mut number = 0_u64;
    while server.history().last().is_none_or(|latest| latest.closed_for("send_too_slow") < 8) {
        for _ in 0..1_000 {
            line.clear();
            std::io::BufRead::read_line(&mut reader, &mut line).expect("a line in time");
            assert_eq!(line.get(..20), Some(format!("{number:020}").as_str()), "{line:?}");
            number += 1;
        }
    }
    server.assert_below_ceiling();
    drop((client, reader));
    let summary = server.drained();
    assert_eq!((summary.connections, summary.closed_for("send_too_slow")), (9, 8), "{summary:?}");
}
