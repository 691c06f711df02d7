//! Clients that do what they shouldn't must not be felt by others.

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use common::{assert_echoed, pattern, reset, send_until_blocked, serve};

/// What 16 clients that do their worst may cost: each fills its send queue and the window before it (64 KiB each), and has what
/// came in one batch before it could be stopped (up to 1 MiB) kept. They have sent twice as much.
const GAIN_MAX_BYTES: u64 = 24 << 20;

/// What a build with debug assertions takes in addition to what a server reckons for its code.
const DEBUG_BYTES: u64 = 4 << 20;

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

#[test]
fn with_far_too_little_memory_for_them_deaf_clients_are_closed_and_others_served_below_the_ceiling() {
    let server = serve(&["echo", "--threads", "1", "--max-connections", "200", "--memory", "16M"]);
    let deaf: Vec<TcpStream> = (0..100).map(|_| server.connect()).collect();
    std::thread::scope(|scope| {
        for stream in &deaf {
            scope.spawn(|| send_until_blocked(stream));
        }
    });
    // Those that were not closed hold what they hold, and have been without progress for longer than anybody who comes now.
    let other = server.connect();
    for seed in 0..200 {
        assert_echoed(&other, &pattern(seed, 2000));
    }
    assert_echoed(&other, &pattern(3, 1 << 20));
    let resident_bytes = server.resident_bytes();
    assert!(resident_bytes < (16 << 20) + DEBUG_BYTES, "{resident_bytes} bytes are resident");
    deaf.into_iter().for_each(reset);
    assert_echoed(&other, &pattern(4, 1 << 20));
    drop(other);
    let ended = server.drained();
    assert!(ended.stderr.contains("memory_pressure"), "{}", ended.stderr);
}

/// The kernel gave each send that waited for a half-closed peer to a worker thread of its own.
#[test]
fn no_kernel_thread_waits_for_a_peer_that_half_closed_and_does_not_read() {
    let server = serve(&["chargen", "--threads", "1"]);
    let deaf: Vec<TcpStream> = (0..8).map(|_| server.connect()).collect();
    for stream in &deaf {
        stream.shutdown(std::net::Shutdown::Write).expect("it is connected");
    }
    // While one that reads gets 64 MiB, the buffers of the others have long been full.
    let mut reader = server.connect();
    let mut chunk = vec![0; 1 << 20];
    for _ in 0..64 {
        reader.read_exact(&mut chunk).expect("lines without end");
    }
    let workers = server.threads().into_iter().filter(|name| name.starts_with("iou-wrk")).count();
    assert_eq!(workers, 0, "threads of the kernel that wait for a peer");
    drop(deaf);
    drop(reader);
    server.drained();
}
