//! Clients that do what they shouldn't must not be felt by others.

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use common::{assert_echoed, pattern, reset, send_until_blocked, serve};

/// What a server may gain in memory while clients do their worst: the send memory that it may use at all is 64 MiB, but a handful of
/// clients gets nowhere near it.
const GAIN_MAX_BYTES: u64 = 8 << 20;

#[test]
fn a_reset_in_mid_stream_leaves_the_server_serving_others() {
    let server = serve(&["echo"]);
    let other = server.connect();
    for seed in 0..20 {
        let mut stream = server.connect();
        stream.write_all(&pattern(seed, 300_000)).expect("the buffers of the system take this");
        let mut some = [0; 1000];
        stream.read_exact(&mut some).expect("it echoes");
        reset(stream);
        assert_echoed(&other, &pattern(seed, 10_000));
    }
    drop(other);
    let ended = server.drained();
    assert!(ended.stderr.contains("reset 20"), "{}", ended.stderr);
}

#[test]
fn a_reset_before_anything_was_sent_is_nothing_special() {
    let server = serve(&["echo"]);
    for _ in 0..100 {
        reset(server.connect());
    }
    assert_echoed(&server.connect(), &pattern(1, 100_000));
    server.drained();
}

#[test]
fn clients_that_never_read_disturb_nobody_and_cost_bounded_memory() {
    let server = serve(&["echo", "--threads", "1"]);
    let other = server.connect();
    assert_echoed(&other, &pattern(0, 1 << 20));
    let before_bytes = server.resident_bytes();

    let deaf: Vec<TcpStream> = (0..16).map(|_| server.connect()).collect();
    std::thread::scope(|scope| {
        for stream in &deaf {
            scope.spawn(|| assert!(send_until_blocked(stream) > 0));
        }
    });
    assert_echoed(&other, &pattern(1, 4 << 20));
    assert_echoed(&server.connect(), &pattern(2, 1 << 20));
    let gain_bytes = server.resident_bytes().saturating_sub(before_bytes);
    assert!(gain_bytes < GAIN_MAX_BYTES, "16 clients that never read cost {gain_bytes} bytes");

    deaf.into_iter().for_each(reset);
    assert_echoed(&other, &pattern(3, 10_000));
    drop(other);
    server.drained();
}

#[test]
fn a_client_that_reads_late_gets_everything() {
    let server = serve(&["echo"]);
    let stream = server.connect();
    let sent = send_until_blocked(&stream);
    // What `send_until_blocked` sends over and over.
    let chunk = pattern(99, 64 << 10);
    let expected: Vec<u8> = chunk.iter().copied().cycle().take(sent).collect();
    common::assert_receives(&stream, &expected);
    drop(stream);
    server.drained();
}
