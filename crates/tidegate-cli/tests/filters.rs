//! What stands between the wire and the service: rates, and proxies in front.

mod common;

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use common::{assert_echoed, assert_end, assert_receives, pattern, serve, tidegate};

#[test]
fn a_proxy_that_is_trusted_says_who_is_connected_and_the_service_gets_the_rest() {
    let server = tidegate(&["serve", "echo", "--proxy-protocol", "10.0.0.0/8", "--proxy-protocol", "127.0.0.0/8"])
        .env("RUST_LOG", "debug")
        .serving();
    let mut line = server.connect();
    for byte in b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\nhello" {
        line.write_all(&[*byte]).expect("it is connected");
    }
    assert_receives(&line, b"hello");
    let mut binary = server.connect();
    binary
        .write_all(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C\xC0\0\x02\x08\xC6\x33\x64\x01\xC3\x50\x01\xBB")
        .expect("so is it");
    assert_echoed(&binary, &pattern(1, 100_000));
    let mut check = server.connect();
    check.write_all(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").expect("so is it");
    assert_echoed(&check, b"a health check");
    drop((line, binary, check));
    let ended = server.drained();
    for source in ["192.0.2.7:50000", "192.0.2.8:50000", "198.51.100.1:443"] {
        assert!(ended.stderr.contains(source), "{source} is missing in {}", ended.stderr);
    }
}

/// Reads to the end, which may be a reset; what came before it.
fn rest(mut stream: &std::net::TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert!(common::is_reset(&error), "{error}");
    }
    bytes
}

#[test]
fn who_sends_no_header_or_is_not_trusted_is_reset() {
    let server = serve(&["echo", "--proxy-protocol", "127.0.0.0/8"]);
    let mut stream = server.connect();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it is connected");
    assert_eq!(rest(&stream), b"");
    let ended = server.drained();
    assert!(ended.stdout.contains(r#""protocol_error":1"#), "{}", ended.stdout);

    let server = serve(&["echo", "--proxy-protocol", "10.0.0.0/8"]);
    assert_eq!(rest(&server.connect()), b"");
    let ended = server.drained();
    assert!(ended.stdout.contains(r#""not_allowed":1"#), "{}", ended.stdout);
}

#[test]
fn a_peer_that_sends_too_slowly_is_closed_and_one_that_keeps_up_is_not() {
    let server = serve(&["echo", "--min-rate", "100/500ms"]);
    let fast = server.connect();
    let mut slow = server.connect();
    slow.write_all(b"slow").expect("it is connected");
    assert_receives(&slow, b"slow");
    let slow = std::thread::spawn(move || assert_end(&slow));
    while !slow.is_finished() {
        assert_echoed(&fast, &pattern(3, 1000));
    }
    slow.join().expect("it is closed in order");
    assert_echoed(&fast, b"still there");
    drop(fast);
    let ended = server.drained();
    assert!(ended.stdout.contains(r#""receive_too_slow":1"#), "{}", ended.stdout);
}

#[test]
fn a_limited_rate_holds_for_each_connection() {
    let server = serve(&["echo", "--rate-limit", "64K"]);
    let began = Instant::now();
    let streams = [server.connect(), server.connect()];
    std::thread::scope(|scope| {
        for stream in &streams {
            scope.spawn(|| assert_echoed(stream, &pattern(5, 112 << 10)));
        }
    });
    // 16 KiB at once, and 96 KiB at the rate.
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1490), "{took:?}");
    // Two that shared it would take 3.2 s and more, and one of whom is looked at too late as long as that is.
    assert!(took < Duration::from_secs(20), "{took:?}");
    drop(streams);
    server.drained();
}
