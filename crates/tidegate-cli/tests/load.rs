//! `tidegate load`: what it measures, what it finds, and what it refuses.

mod common;

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::{DEADLINE, Ended, Program, serve, tidegate};
use rustix::process::Signal;
use serde_json::Value;

/// Starts a load with `--json`.
fn start(address: SocketAddr, arguments: &[&str]) -> Program {
    let address = address.to_string();
    tidegate(&[&["load", &address, "--json"], arguments].concat()).spawned()
}

/// Waits for the end of a load and returns what it reports.
#[track_caller]
fn report(load: Program, status: i32) -> (Value, Ended) {
    let ended = load.ended();
    assert_eq!(ended.status.code(), Some(status), "{ended:?}");
    let report = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    (report, ended)
}

#[track_caller]
fn load(address: SocketAddr, arguments: &[&str], status: i32) -> Value {
    report(start(address, arguments), status).0
}

#[track_caller]
fn number(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("{name} is not a count: {report}"))
}

#[track_caller]
fn latency_ms(report: &Value, name: &str) -> f64 {
    report["latency_us"][name].as_f64().unwrap_or_else(|| panic!("{name} was not measured: {report}")) / 1_000.0
}

/// A count from the server's summary, the last line on its stdout.
#[track_caller]
fn summary(server: &Ended, name: &str) -> u64 {
    let last = server.stdout.lines().last().unwrap_or_else(|| panic!("nothing on stdout: {server:?}"));
    let summary: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {server:?}"));
    number(&summary, name)
}

/// A server of the test's own: `serve` gets each connection, on a thread of its own.
fn server(serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are ports");
    let address = listener.local_addr().expect("it is bound");
    let serve = std::sync::Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = std::sync::Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Echoes messages of 64 bytes; `each` may change a message, and do whatever it likes before it is sent back.
fn echo_each(mut stream: TcpStream, mut each: impl FnMut(usize, &mut Vec<u8>)) -> io::Result<()> {
    stream.set_nodelay(true)?;
    for number in 0.. {
        let mut message = vec![0; 64];
        if stream.read_exact(&mut message).is_err() {
            break;
        }
        each(number, &mut message);
        stream.write_all(&message)?;
    }
    Ok(())
}

/// Does nothing for a while, as a server that stalls.
fn stall(time: Duration) {
    let (_kept, never) = mpsc::channel::<()>();
    assert_eq!(never.recv_timeout(time), Err(mpsc::RecvTimeoutError::Timeout));
}

#[test]
fn a_plain_run_is_reported_in_full_and_the_bytes_of_both_sides_agree_exactly() {
    let server = serve(&["echo"]);
    let report = load(server.address(), &["-c", "20", "-p", "3", "-d", "1s", "--verify"], 0);
    let server = server.drained();
    for (name, expected) in [
        ("connections_attempted", 20),
        ("connected", 20),
        ("refused", 0),
        ("failed", 0),
        ("closed_early", 0),
        ("mismatches", 0),
    ] {
        assert_eq!(report[name], expected, "{name}: {report}");
    }
    let messages = number(&report, "messages");
    assert!(messages >= 60, "{report}");
    assert_eq!(number(&report, "bytes_sent"), messages * 64, "{report}");
    assert_eq!(number(&report, "bytes_received"), messages * 64, "{report}");
    assert_eq!(summary(&server, "bytes_received"), messages * 64, "{server:?}");
    assert_eq!(summary(&server, "bytes_sent"), messages * 64, "{server:?}");
    assert!(server.stderr.contains("finished 20"), "{server:?}");

    let seconds = report["seconds"].as_f64().expect("a number");
    assert!((1.0..DEADLINE.as_secs_f64()).contains(&seconds), "{report}");
    let rate = report["messages_per_second"].as_f64().expect("a number");
    assert!((rate - messages as f64 / seconds).abs() <= 1.0, "{report}");
    let latencies = ["p50", "p90", "p99", "p999", "max"].map(|name| latency_ms(&report, name));
    assert!(latencies[0] > 0.0 && latencies.is_sorted(), "{report}");
    assert_eq!(report.as_object().expect("an object").len(), 14, "{report}");
}

#[test]
fn without_json_there_is_a_table() {
    let server = serve(&["echo"]);
    let ended = tidegate(&["load", &server.address().to_string(), "-c", "2", "-d", "100ms"]).ended();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    for part in ["2  connected", "0  mismatches", "messages/s", "us  p99"] {
        assert!(ended.stdout.contains(part), "{part} is missing: {ended:?}");
    }
    assert_eq!(ended.stderr, "", "no progress where there is no terminal");
}

#[test]
fn messages_of_any_size_and_depth_come_back_whole() {
    let server = serve(&["echo"]);
    let mut bytes = 0;
    for arguments in [
        ["-s", "1", "-p", "1000", "-c", "3"],
        ["-s", "100000", "-p", "5", "-c", "4"],
        ["-s", "2M", "-p", "8", "-c", "2"],
        ["-s", "3000", "-p", "100", "-c", "5"],
    ] {
        for verify in [&[][..], &["--verify"]] {
            let report = load(server.address(), &[&arguments, verify, &["-d", "300ms"]].concat(), 0);
            assert_eq!(number(&report, "failed") + number(&report, "mismatches"), 0, "{report}");
            assert!(number(&report, "messages") > 0, "{report}");
            assert_eq!(number(&report, "bytes_sent"), number(&report, "bytes_received"), "{report}");
            bytes += number(&report, "bytes_sent");
        }
    }
    assert_eq!(summary(&server.drained(), "bytes_received"), bytes);
}

#[test]
fn an_open_loop_sends_what_is_due_and_no_more() {
    let server = serve(&["echo"]);
    let report = load(server.address(), &["-c", "20", "-r", "64000", "-p", "8", "-d", "1s", "--verify"], 0);
    let messages = number(&report, "messages");
    // 64,000 bytes a second are 1,000 messages; those of the last ticks are not due, or late on a busy machine.
    assert!((700..=1_000).contains(&messages), "{report}");
    assert_eq!(number(&report, "mismatches"), 0, "{report}");
}

#[test]
fn a_stall_counts_for_every_message_that_was_due_meanwhile() {
    let address = server(|stream| {
        echo_each(stream, |number, _| {
            if number == 100 {
                stall(Duration::from_millis(200));
            }
        })
    });
    // 500 messages a second, one at a time: during the stall one is on its way, and 100 more are due.
    let report = load(address, &["-c", "1", "-r", "32000", "-d", "1s"], 0);
    assert!((250..=500).contains(&number(&report, "messages")), "{report}");
    assert!(latency_ms(&report, "max") >= 199.0, "{report}");
    assert!(latency_ms(&report, "p99") >= 180.0, "{report}");
    assert!(latency_ms(&report, "p90") >= 80.0, "{report}");
}

#[test]
fn changed_bytes_are_mismatches_with_status_1() {
    let address = server(|stream| {
        echo_each(stream, |number, message| {
            if number == 10 || number == 12 {
                message[63] ^= 1;
            }
        })
    });
    let (verified, ended) = report(start(address, &["-c", "2", "-d", "500ms", "--verify"]), 1);
    assert_eq!(verified["mismatches"], 4, "two on each connection: {verified}");
    assert_eq!(verified["failed"], 0, "{verified}");
    assert!(ended.stderr.contains("byte 703 came back changed"), "{ended:?}");
    let unverified = load(address, &["-c", "2", "-d", "500ms"], 0);
    assert_eq!(unverified["mismatches"], 0, "only lengths are looked at: {unverified}");
}

#[test]
fn more_than_was_sent_is_a_mismatch_even_without_verification() {
    let address = server(|stream| {
        echo_each(stream, |number, message| {
            if number == 5 {
                message.push(0);
            }
        })
    });
    let (report, ended) = report(start(address, &["-c", "1", "-d", "300ms"]), 1);
    assert_eq!(report["mismatches"], 1, "{report}");
    assert!(ended.stderr.contains("more came back than was sent"), "{ended:?}");
}

#[test]
fn answers_that_never_come_are_a_failure() {
    let address = server(|mut stream| io::copy(&mut stream, &mut io::sink()).map(drop));
    let (report, ended) = report(start(address, &["-c", "3", "-p", "2", "-d", "100ms"]), 1);
    assert_eq!((number(&report, "connected"), number(&report, "failed")), (3, 3), "{report}");
    assert!(ended.stderr.contains("2 messages were not answered within 5s"), "{ended:?}");
}

#[test]
fn a_refused_port_is_counted_and_ends_with_status_1() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are ports");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let (report, ended) = report(start(address, &["-c", "7", "-d", "10s"]), 1);
    assert!(ended.stderr.contains("7 of 7 were refused"), "{ended:?}");
    assert_eq!((number(&report, "connections_attempted"), number(&report, "refused")), (7, 7), "{report}");
    assert_eq!((number(&report, "connected"), number(&report, "failed")), (0, 0), "{report}");
    assert!(report["latency_us"]["p50"].is_null(), "{report}");
}

#[test]
fn connections_that_the_server_ends_are_counted_and_no_failure() {
    let ends = server(|mut stream| stream.read_exact(&mut [0; 640]));
    let report = load(ends, &["-c", "4", "-p", "16", "-d", "10s"], 0);
    assert_eq!((number(&report, "closed_early"), number(&report, "failed")), (4, 0), "{report}");
    assert!(report["seconds"].as_f64().expect("a number") < 9.0, "nobody is left, so it ends: {report}");

    let resets = server(|mut stream| {
        stream.read_exact(&mut [0; 64])?;
        common::reset(stream);
        Ok(())
    });
    let report = load(resets, &["-c", "4", "-d", "10s"], 0);
    assert_eq!((number(&report, "closed_early"), number(&report, "failed")), (4, 0), "{report}");
}

#[test]
fn a_server_that_drains_in_the_middle_loses_no_answer() {
    for arguments in [&["-c", "30", "-p", "4"][..], &["-c", "30", "-p", "4", "-r", "4M"]] {
        let server = serve(&["echo", "--threads", "2"]);
        let descriptors = server.descriptors();
        let load = start(server.address(), &[arguments, &["-d", "20s", "--verify"]].concat());
        wait_until_loaded(&server, descriptors + 30, &load);
        server.signal(Signal::TERM);
        let (report, _) = report(load, 0);
        let server = server.ended();
        assert_eq!(server.status.code(), Some(0), "{server:?}");
        assert_eq!((number(&report, "connected"), number(&report, "closed_early")), (30, 30), "{report}");
        assert_eq!((number(&report, "failed"), number(&report, "mismatches")), (0, 0), "{report}");
        assert_eq!(number(&report, "bytes_received"), summary(&server, "bytes_sent"), "{report} {server:?}");
        assert!(number(&report, "messages") > 0, "{report}");
        assert!(report["seconds"].as_f64().expect("a number") < 19.0, "it ends when nobody is left: {report}");
    }
}

/// Waits until the server has so many descriptors, and the load has been on for a while.
fn wait_until_loaded(server: &Program, descriptors: usize, load: &Program) {
    let begun = Instant::now();
    while server.descriptors() < descriptors {
        assert!(begun.elapsed() < DEADLINE, "nobody connects");
        std::thread::yield_now();
    }
    assert!(!load.ends_within(Duration::from_millis(300)), "it is to go on for long");
}

#[test]
fn chargen_lines_are_counted_and_checked() {
    let server = serve(&["chargen"]);
    let report = load(server.address(), &["--expect", "chargen", "-c", "5", "-d", "500ms"], 0);
    assert_eq!((number(&report, "connected"), number(&report, "mismatches")), (5, 0), "{report}");
    let (lines, bytes) = (number(&report, "messages"), number(&report, "bytes_received"));
    assert!(lines > 0 && (lines * 64..=lines * 64 + 5 * 63).contains(&bytes), "{report}");
    assert_eq!(report["bytes_sent"], 0, "{report}");
    assert!(report["latency_us"]["max"].is_null(), "nothing is asked, so nothing is answered: {report}");
    server.drained();
}

#[test]
fn a_chargen_server_that_drains_is_read_to_the_end() {
    let server = serve(&["chargen"]);
    let descriptors = server.descriptors();
    let load = start(server.address(), &["--expect", "chargen", "-c", "5", "-d", "20s"]);
    wait_until_loaded(&server, descriptors + 5, &load);
    server.signal(Signal::TERM);
    let (report, _) = report(load, 0);
    let server = server.ended();
    assert_eq!(number(&report, "mismatches"), 0, "{report}");
    assert_eq!(number(&report, "bytes_received"), summary(&server, "bytes_sent"), "{report} {server:?}");
    assert_eq!((number(&report, "connected"), number(&report, "closed_early")), (5, 5), "{report}");
}

#[test]
fn a_line_that_is_missing_is_a_mismatch() {
    let address = server(|mut stream| {
        for number in (0..10).chain(11..) {
            writeln!(stream, "{number:020} abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOP")?;
        }
        Ok(())
    });
    let (report, ended) = report(start(address, &["--expect", "chargen", "-c", "1", "-d", "200ms"]), 1);
    assert_eq!(report["mismatches"], 1, "{report}");
    assert!(number(&report, "messages") > 100, "{report}");
    assert!(ended.stderr.contains("line 10 is wrong"), "{ended:?}");
}

#[test]
fn connections_that_never_read_or_say_nothing_are_beside_the_block() {
    let server = serve(&["echo"]);
    let beside = ["--never-read", "3", "--silent", "4"];
    let report = load(server.address(), &[&["-c", "10", "-d", "1s", "--verify"][..], &beside].concat(), 0);
    assert_eq!((number(&report, "connections_attempted"), number(&report, "connected")), (17, 17), "{report}");
    assert_eq!((number(&report, "failed"), number(&report, "closed_early")), (0, 0), "{report}");
    let messages = number(&report, "messages");
    assert!(messages >= 10, "{report}");
    assert_eq!(number(&report, "bytes_received"), messages * 64, "of the block alone: {report}");
    let server = server.drained();
    // Those that never read have sent all that the server and both systems would take.
    let more = summary(&server, "bytes_received") - messages * 64;
    assert!(more >= 3 * (16 << 10), "only {more} bytes: {server:?}");
    assert!(server.stderr.contains("finished 14"), "{server:?}");
}

#[test]
fn only_silent_connections_are_a_load_too() {
    let server = serve(&["echo"]);
    let report = load(server.address(), &["-c", "0", "--silent", "100", "-d", "100ms"], 0);
    assert_eq!((number(&report, "connected"), number(&report, "messages")), (100, 0), "{report}");
    assert!(server.drained().stderr.contains("finished 100"));
}

#[test]
fn connections_come_from_several_addresses() {
    let server = tidegate(&["serve", "echo"]).env("RUST_LOG", "debug").serving();
    let report = load(server.address(), &["-c", "8", "--sources", "4", "-d", "100ms"], 0);
    assert_eq!(report["connected"], 8, "{report}");
    let server = server.drained();
    for source in 1..=4 {
        assert!(server.stderr.contains(&format!("peer=127.0.0.{source}:")), "{server:?}");
    }
}

#[test]
fn connections_are_begun_at_their_rate() {
    let server = serve(&["echo"]);
    let begun = Instant::now();
    let report = load(server.address(), &["-c", "0", "--silent", "21", "--connect-rate", "20", "-d", "10ms"], 0);
    assert_eq!(report["connected"], 21, "{report}");
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1), "the last is begun after a second, not {took:?}");
}

#[test]
fn a_chargen_server_copes_with_those_that_never_read() {
    let server = serve(&["chargen"]);
    let arguments = ["--expect", "chargen", "-c", "2", "--never-read", "3", "--silent", "1", "-d", "300ms"];
    let report = load(server.address(), &arguments, 0);
    assert_eq!((number(&report, "connected"), number(&report, "mismatches")), (6, 0), "{report}");
    assert!(number(&report, "messages") > 0, "{report}");
    server.drained();
}

#[test]
fn sigint_ends_the_run_early_and_the_result_is_printed() {
    let (say, first) = mpsc::sync_channel(1);
    let address = server(move |stream| {
        echo_each(stream, |number, _| {
            if number == 20 {
                let _ = say.try_send(());
            }
        })
    });
    let load = start(address, &["-c", "3", "-d", "1h", "--verify"]);
    first.recv_timeout(DEADLINE).expect("the load is on");
    load.signal(Signal::INT);
    let (report, _) = report(load, 0);
    assert!(number(&report, "messages") >= 20, "{report}");
    assert_eq!(number(&report, "bytes_received"), number(&report, "messages") * 64, "{report}");
    assert!(report["seconds"].as_f64().expect("a number") < DEADLINE.as_secs_f64(), "{report}");
}

#[test]
fn arguments_that_contradict_each_other_are_refused_with_2_and_the_numbers() {
    for (arguments, part) in [
        (&["-s", "1M", "-p", "100"][..], "104857600"),
        (&["-c", "0"], "--connections 0"),
        (&["--expect", "chargen", "-r", "1M"], "--rate"),
        (&["-c", "60000", "--sources", "1"], "60000"),
        (&["--sources", "255"], "254"),
        (&["-d", "soon"], "500ms"),
        (&["-d", "0s"], "1ms"),
        (&["--expect", "ticker", "-r", "1M"], "--rate"),
        (&["--gaps", "allowed"], "--gaps"),
    ] {
        let ended = tidegate(&[&["load", "127.0.0.1:7007"], arguments].concat()).ended();
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        assert_eq!(ended.stdout, "", "{ended:?}");
        assert!(ended.stderr.contains(part), "{part} is missing: {ended:?}");
    }
}

#[test]
fn more_connections_than_descriptors_are_refused_with_the_numbers() {
    let ended = tidegate(&["load", "127.0.0.1:7007", "-c", "500"]).after_shell_command("ulimit -n 300").ended();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    for part in ["500 connections", "564 descriptors", "300", "at most 236"] {
        assert!(ended.stderr.contains(part), "{part} is missing: {ended:?}");
    }
}
