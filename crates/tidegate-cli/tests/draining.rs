//! What a drain leaves: a summary, no reset, and nobody cut off who could be served.

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{DEADLINE, Ended, assert_echoed, serve};
use rustix::process::Signal;
use serde_json::Value;

/// The last line on stdout, which must be an object.
fn summary(ended: &Ended) -> Value {
    let last = ended.stdout.lines().last().unwrap_or_else(|| panic!("nothing on stdout: {ended:?}"));
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error} in the last line on stdout: {last}"))
}

#[test]
fn the_last_line_on_stdout_is_an_object_with_bytes_and_reasons() {
    let server = serve(&["echo"]);
    let finished = server.connect();
    assert_echoed(&finished, &[7; 1000]);
    finished.shutdown(std::net::Shutdown::Write).expect("it is connected");
    common::assert_end(&finished);
    let idle: Vec<TcpStream> = (0..3).map(|_| server.connect()).collect();
    for stream in &idle {
        assert_echoed(stream, &[8; 10]);
    }
    server.signal(Signal::TERM);
    for stream in idle {
        common::assert_end(&stream);
    }
    let ended = server.ended();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let summary = summary(&ended);
    assert_eq!(summary["connections"], 4);
    assert_eq!(summary["bytes_received"], 1030);
    assert_eq!(summary["bytes_sent"], 1030);
    assert_eq!(summary["closed"]["finished"], 1);
    assert_eq!(summary["closed"]["drained"], 3);
}

/// Keeps 16 requests outstanding until the server has finished; returns how many bytes came back.
fn talk_without_a_pause(mut stream: &TcpStream) -> usize {
    let mut received = 0;
    let mut chunk = vec![0; 16 << 10];
    let mut outstanding = 0;
    loop {
        while outstanding < 16 << 10 {
            match stream.write(&chunk[..1024]) {
                Ok(count) => outstanding += count,
                Err(error) => panic!("after {received} bytes: {error}"),
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) => return received,
            Ok(count) => {
                received += count;
                outstanding -= count.min(outstanding);
            }
            Err(error) => panic!("after {received} bytes: {error}"),
        }
    }
}

#[test]
fn peers_that_never_pause_are_closed_in_order_after_half_of_the_grace_period() {
    let server = serve(&["echo", "--shutdown-grace", "2s"]);
    let streams: Vec<TcpStream> = (0..8).map(|_| server.connect()).collect();
    for stream in &streams {
        assert_echoed(stream, &[1; 24]);
    }
    let begun = Instant::now();
    server.signal(Signal::TERM);
    let received: usize = std::thread::scope(|scope| {
        let talkers: Vec<_> = streams.iter().map(|stream| scope.spawn(move || talk_without_a_pause(stream))).collect();
        talkers.into_iter().map(|talker| talker.join().expect("no reset, no error")).sum()
    });
    drop(streams);
    let ended = server.ended();
    assert!(begun.elapsed() < Duration::from_secs(3) + DEADLINE / 10, "it took {:?}", begun.elapsed());
    let summary = summary(&ended);
    assert_eq!(summary["bytes_sent"], received + 8 * 24, "what was sent has arrived: {summary}");
    assert_eq!(summary["closed"]["drained"], 8, "{summary}");
}

#[test]
fn who_connected_and_sent_while_the_server_was_stopped_is_answered() {
    let server = serve(&["echo", "--threads", "2"]);
    server.signal(Signal::STOP);
    let mut streams: Vec<TcpStream> = (0..100).map(|_| server.connect()).collect();
    for stream in &mut streams {
        stream.write_all(b"are you there?").expect("the system takes it");
    }
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    for stream in &streams {
        common::assert_receives(stream, b"are you there?");
        common::assert_end(stream);
    }
    let summary = summary(&server.ended());
    assert_eq!(summary["connections"], 100);
    assert_eq!(summary["bytes_sent"], 1400);
}

#[test]
fn the_grace_period_is_what_it_was_told() {
    let server = serve(&["echo", "--shutdown-grace", "600ms"]);
    let deaf = server.connect();
    assert!(common::send_until_blocked(&deaf) > 0);
    let begun = Instant::now();
    server.signal(Signal::TERM);
    let ended = server.ended();
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(590), "the grace period was {took:?}");
    assert_eq!(summary(&ended)["closed"]["shutdown_grace"], 1, "{ended:?}");
}

#[test]
fn counters_are_logged_while_it_runs() {
    let server = serve(&["echo", "--stats", "20ms", "--log", "json"]);
    let stream = server.connect();
    assert_echoed(&stream, &[1; 100]);
    // Long enough for a line after the echo: as soon as the program has written one, this connection is answered again.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(200) {
        assert_echoed(&stream, &[2; 100]);
    }
    drop(stream);
    let ended = server.drained();
    let lines: Vec<Value> = ended.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let counters: Vec<&Value> = lines.iter().filter(|line| line["fields"]["message"] == "stats").collect();
    assert!(!counters.is_empty(), "{}", ended.stderr);
    assert!(counters.iter().any(|line| line["fields"]["connections"] == 1), "{}", ended.stderr);
    assert!(counters.iter().all(|line| line["fields"]["buffers_in_use"].is_u64()), "{}", ended.stderr);
}
