//! The log must never hold anything up, and must be of use.

mod common;

use std::time::{Duration, Instant};

use common::{assert_echoed, pattern, reset, serve, tidegate};

#[test]
fn a_stderr_that_nobody_reads_holds_up_neither_the_service_nor_the_end() {
    for format in ["text", "json"] {
        let server =
            tidegate(&["serve", "echo", "--log", format]).env("RUST_LOG", "trace").stderr_never_read().serving();
        let other = server.connect();
        // Three lines a round, of over 50 bytes each: far more than a pipe's 64 KiB and the queue before it.
        for number in 0..3000_u64 {
            let stream = server.connect();
            assert_echoed(&stream, &pattern(number, 10));
            reset(stream);
        }
        assert_echoed(&other, &pattern(1, 4 << 20));
        drop(other);
        let begun = Instant::now();
        server.drained();
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "it took {took:?} to end");
    }
}

#[test]
fn a_stuck_stderr_does_not_cost_memory_without_bound() {
    let server = tidegate(&["serve", "echo", "--threads", "1"]).env("RUST_LOG", "trace").stderr_never_read().serving();
    let stream = server.connect();
    assert_echoed(&stream, &pattern(0, 1 << 20));
    for _ in 0..5000 {
        assert_echoed_without_threads(&stream);
    }
    let before_bytes = server.resident_bytes();
    for _ in 0..15_000 {
        assert_echoed_without_threads(&stream);
    }
    let gain_bytes = server.resident_bytes().saturating_sub(before_bytes);
    assert!(gain_bytes < 1 << 20, "15,000 lines that nobody reads cost {gain_bytes} bytes");
    drop(stream);
    server.drained();
}

fn assert_echoed_without_threads(mut stream: &std::net::TcpStream) {
    use std::io::Write as _;
    stream.write_all(b"a line of the log").expect("it is taken");
    common::assert_receives(stream, b"a line of the log");
}

#[test]
fn a_closed_stderr_and_a_closed_stdout_do_no_harm() {
    // The listening line must still come, so stdout is closed only where the port is known.
    let server = tidegate(&["serve", "echo"]).after_shell_command("exec 2>&-").serving();
    assert_echoed(&server.connect(), b"without stderr");
    let address = server.address();
    server.drained();

    let server =
        tidegate(&["serve", "echo", "--listen", &address.to_string()]).after_shell_command("exec >&-").spawned();
    let begun = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        assert!(begun.elapsed() < common::DEADLINE, "it doesn't listen");
        std::thread::yield_now();
    }
    assert_echoed(&common::connect(address), b"without stdout");
    server.drained();
}

#[test]
fn the_end_is_summed_up_with_a_count_for_each_reason() {
    let server = serve(&["echo"]);
    let streams: Vec<_> = (0..5).map(|_| server.connect()).collect();
    for stream in &streams {
        assert_echoed(stream, &[7; 1000]);
    }
    server.signal(rustix::process::Signal::TERM);
    for stream in streams {
        common::assert_end(&stream);
    }
    let ended = server.ended();
    for part in ["connections=5", "received_bytes=5000", "sent_bytes=5000", "drained 5"] {
        assert!(ended.stderr.contains(part), "{part} is missing in {}", ended.stderr);
    }
}

#[test]
fn json_is_one_object_a_line() {
    let server = serve(&["echo", "--log", "json"]);
    assert_echoed(&server.connect(), b"hello");
    let ended = server.drained();
    assert!(ended.stderr.lines().count() >= 3, "{}", ended.stderr);
    for line in ended.stderr.lines() {
        assert!(line.starts_with(r#"{"timestamp":""#) && line.ends_with('}'), "{line}");
    }
    assert!(ended.stderr.contains(r#""connections":1"#), "{}", ended.stderr);
}

#[test]
fn connections_are_logged_on_demand_and_not_by_default() {
    let quiet = serve(&["echo"]);
    let stream = quiet.connect();
    assert_echoed(&stream, b"hello");
    let peer = stream.local_addr().expect("it is connected").to_string();
    drop(stream);
    assert!(!quiet.drained().stderr.contains(&peer));

    let talkative = tidegate(&["serve", "echo"]).env("RUST_LOG", "tidegate=debug").serving();
    let stream = talkative.connect();
    assert_echoed(&stream, b"hello");
    let peer = stream.local_addr().expect("it is connected").to_string();
    stream.shutdown(std::net::Shutdown::Write).expect("it is connected");
    common::assert_end(&stream);
    drop(stream);
    let ended = talkative.drained();
    assert!(ended.stderr.contains(&format!("connected peer={peer}")), "{}", ended.stderr);
    assert!(ended.stderr.contains("closed reason=finished"), "{}", ended.stderr);
}
