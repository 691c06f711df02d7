//! SIGTERM and SIGINT: the first drains, the second ends.

mod common;

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use common::{Ended, Program, assert_end, assert_receives, pattern, send_until_blocked, serve};
use rustix::process::Signal;

/// A client that keeps `server` from draining: it sends and doesn't read.
fn deaf_client(server: &Program) -> TcpStream {
    let stream = server.connect();
    assert!(send_until_blocked(&stream) > 0);
    stream
}

/// Waits until nobody can connect any more, which is how a drain shows first.
fn wait_until_draining(server: &Program) {
    let begun = Instant::now();
    while TcpStream::connect(server.address()).is_ok() {
        assert!(begun.elapsed() < common::DEADLINE, "it goes on listening");
        std::thread::yield_now();
    }
}

fn assert_status(ended: &Ended, status: i32) {
    assert_eq!(ended.status.code(), Some(status), "{ended:?}");
}

#[test]
fn what_was_sent_before_sigterm_is_answered() {
    let server = serve(&["echo", "--threads", "2"]);
    let streams: Vec<_> = (0..16).map(|_| server.connect()).collect();
    let all_sent = Barrier::new(streams.len() + 1);
    std::thread::scope(|scope| {
        for (seed, stream) in streams.into_iter().enumerate() {
            let bytes = pattern(seed as u64, 1 << 20);
            let all_sent = &all_sent;
            scope.spawn(move || {
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        (&mut &stream).write_all(&bytes).expect("everything is taken");
                        all_sent.wait();
                    });
                    assert_receives(&stream, &bytes);
                    assert_end(&stream);
                });
            });
        }
        all_sent.wait();
        server.signal(Signal::TERM);
    });
    assert_status(&server.ended(), 0);
}

#[test]
fn what_has_just_connected_at_sigterm_is_served_be_it_accepted_or_in_the_backlog() {
    for _ in 0..10 {
        let server = serve(&["echo"]);
        let mut streams: Vec<_> = (0..64).map(|_| server.connect()).collect();
        for stream in &mut streams {
            stream.write_all(b"hello").expect("it is taken");
        }
        server.signal(Signal::TERM);
        for stream in streams {
            assert_receives(&stream, b"hello");
            assert_end(&stream);
        }
        assert_status(&server.ended(), 0);
    }
}

#[test]
fn idle_connections_see_the_end_and_no_reset() {
    let server = serve(&["echo"]);
    let streams: Vec<_> = (0..100).map(|_| server.connect()).collect();
    for stream in &streams[..50] {
        common::assert_echoed(stream, b"once");
    }
    server.signal(Signal::TERM);
    for stream in streams {
        assert_end(&stream);
    }
    let ended = server.ended();
    assert_status(&ended, 0);
    assert!(ended.stderr.contains("connections=100"), "{}", ended.stderr);
    assert!(ended.stderr.contains("drained 100"), "{}", ended.stderr);
}

#[test]
fn what_is_busy_beyond_the_grace_period_is_reset_and_the_status_is_still_0() {
    let server = serve(&["echo"]);
    let deaf = deaf_client(&server);
    let begun = Instant::now();
    server.signal(Signal::TERM);
    let ended = server.ended();
    assert_status(&ended, 0);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(9_900), "the grace period was {took:?}");
    assert!(ended.stderr.contains("shutdown_grace 1"), "{}", ended.stderr);
    let error = std::io::copy(&mut &deaf, &mut std::io::sink()).expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_second_signal_ends_at_once_with_128_and_its_number() {
    for (first, second, status) in [
        (Signal::TERM, Signal::TERM, 143),
        (Signal::INT, Signal::INT, 130),
        (Signal::TERM, Signal::INT, 130),
        (Signal::INT, Signal::TERM, 143),
    ] {
        let server = serve(&["echo"]);
        let deaf = deaf_client(&server);
        server.signal(first);
        wait_until_draining(&server);
        assert!(!server.ends_within(Duration::from_millis(50)), "it waits for the busy connection");
        let begun = Instant::now();
        server.signal(second);
        assert_status(&server.ended(), status);
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(2), "it took {took:?}");
        drop(deaf);
    }
}

#[test]
fn sigint_drains_like_sigterm() {
    let server = serve(&["echo"]);
    let stream = server.connect();
    common::assert_echoed(&stream, b"once");
    server.signal(Signal::INT);
    assert_end(&stream);
    drop(stream);
    let ended = server.ended();
    assert_status(&ended, 0);
    assert!(ended.stderr.contains("SIGINT"), "{}", ended.stderr);
}

#[test]
fn a_server_without_connections_ends_at_once() {
    for _ in 0..20 {
        let server = serve(&["discard"]);
        let begun = Instant::now();
        server.drained();
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "it took {took:?}");
    }
}

#[test]
fn the_port_is_free_again_after_the_end() {
    let server = serve(&["echo"]);
    let address = server.address().to_string();
    let stream = server.connect();
    common::assert_echoed(&stream, b"once");
    server.signal(Signal::TERM);
    // The server closes first, so its side goes through TIME_WAIT.
    assert_end(&stream);
    drop(stream);
    assert_status(&server.ended(), 0);
    let next = serve(&["echo", "--listen", &address]);
    assert_eq!(next.address().to_string(), address);
    common::assert_echoed(&next.connect(), b"again");
    next.drained();
}
