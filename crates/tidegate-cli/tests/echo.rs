//! `tidegate serve echo`: what goes in comes out.

mod common;

use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use common::{assert_echoed, assert_end, assert_receives, pattern, serve};

/// Around the size of a receive buffer, of a send queue, and far beyond both.
const SIZES: [usize; 9] = [0, 1, 63, 4095, 4096, 4097, 64 << 10, 1 << 20, 16 << 20];

#[test]
fn every_size_comes_back_byte_for_byte_on_one_connection() {
    let server = serve(&["echo"]);
    let stream = server.connect();
    for (seed, size) in SIZES.into_iter().enumerate() {
        assert_echoed(&stream, &pattern(seed as u64, size));
    }
    drop(stream);
    server.drained();
}

#[test]
fn every_size_comes_back_and_then_the_end_when_the_client_half_closes() {
    let server = serve(&["echo", "--threads", "2"]);
    for (seed, size) in SIZES.into_iter().enumerate() {
        let bytes = pattern(seed as u64, size);
        let stream = server.connect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (&mut &stream).write_all(&bytes).expect("everything is taken");
                stream.shutdown(Shutdown::Write).expect("it is connected");
            });
            assert_receives(&stream, &bytes);
            assert_end(&stream);
        });
    }
    let ended = server.drained();
    assert!(ended.stderr.contains(&format!("finished {}", SIZES.len())), "{}", ended.stderr);
}

#[test]
fn a_client_that_stops_reading_its_half_still_has_its_input_taken() {
    let server = serve(&["echo"]);
    let mut stream = server.connect();
    // Nothing is on its way to us, so this only says that we won't read.
    stream.shutdown(Shutdown::Read).expect("it is connected");
    stream.write_all(b"into the void").expect("it is taken");
    stream.shutdown(Shutdown::Write).expect("it is connected");
    drop(stream);
    assert_echoed(&server.connect(), b"others are served");
    server.drained();
}

#[test]
fn single_bytes_come_back_in_order() {
    let server = serve(&["echo"]);
    let mut stream = server.connect();
    stream.set_nodelay(true).expect("it is a TCP socket");
    let bytes = pattern(7, 2000);
    for byte in &bytes {
        stream.write_all(&[*byte]).expect("it is taken");
    }
    assert_receives(&stream, &bytes);
    drop(stream);
    server.drained();
}

#[test]
fn connections_that_say_nothing_stay_and_disturb_nobody() {
    let server = serve(&["echo"]);
    let silent: Vec<_> = (0..200).map(|_| server.connect()).collect();
    assert_echoed(&server.connect(), &pattern(1, 1 << 20));
    for (number, mut stream) in silent.iter().enumerate() {
        stream.write_all(&[number as u8]).expect("it is taken");
    }
    for (number, stream) in silent.iter().enumerate() {
        assert_receives(stream, &[number as u8]);
    }
    drop(silent);
    server.drained();
}

#[test]
fn several_listeners_serve_at_once_and_are_announced_in_order() {
    let server = serve(&["echo", "--listen", "127.0.0.1:0", "--listen", "127.0.0.2:0", "--listen", "[::1]:0"]);
    let hosts: Vec<_> = server.addresses.iter().map(|address| address.ip().to_string()).collect();
    assert_eq!(hosts, ["127.0.0.1", "127.0.0.2", "::1"]);
    let streams: Vec<_> = server.addresses.iter().map(|&address| common::connect(address)).collect();
    for (number, stream) in streams.iter().enumerate() {
        assert_echoed(stream, &pattern(number as u64, 100_000));
    }
    drop(streams);
    server.drained();
}

#[test]
fn ipv6_is_served() {
    let server = serve(&["echo", "--listen", "[::1]:0"]);
    assert!(server.address().is_ipv6());
    assert_echoed(&server.connect(), &pattern(6, 1 << 20));
    server.drained();
}

#[test]
fn the_listening_line_is_exact() {
    let mut server = common::tidegate(&["serve", "echo", "--listen", "127.0.0.1:0"]).spawned();
    let line = server.line();
    let port =
        line.strip_prefix("listening echo tcp 127.0.0.1:").expect("the line names service, protocol and address");
    assert_ne!(port.parse::<u16>().expect("a port"), 0, "the real port");
    server.drained();
}

#[test]
fn one_connection_after_another_is_served_without_leaving_descriptors() {
    let server = serve(&["echo"]);
    assert_echoed(&server.connect(), b"warm");
    let before = server.descriptors();
    for number in 0..300_u64 {
        let mut stream = server.connect();
        let bytes = pattern(number, 100);
        stream.write_all(&bytes).expect("it is taken");
        stream.shutdown(Shutdown::Write).expect("it is connected");
        let mut echoed = Vec::new();
        stream.read_to_end(&mut echoed).expect("everything and the end");
        assert_eq!(echoed, bytes);
    }
    let after = server.descriptors();
    // The last connections may be on their way out.
    assert!(after <= before + 4, "{before} descriptors before, {after} after");
    server.drained();
}
