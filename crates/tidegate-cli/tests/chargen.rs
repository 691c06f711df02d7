//! `tidegate serve chargen`: numbered lines for as long as the peer reads.

mod common;

use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpStream};

use common::{assert_end, serve};

const LINE_BYTES: usize = 64;

/// Reads lines and checks their numbers.
fn assert_lines(mut stream: &TcpStream, numbers: std::ops::Range<u64>) {
    let mut text = vec![0; LINE_BYTES * 1024];
    let mut expected = numbers.start;
    while expected < numbers.end {
        let lines = (numbers.end - expected).min(1024) as usize;
        let text = &mut text[..lines * LINE_BYTES];
        stream.read_exact(text).expect("lines go on");
        for line in text.chunks(LINE_BYTES) {
            let number = std::str::from_utf8(&line[..20]).expect("digits").parse::<u64>();
            assert_eq!(number, Ok(expected));
            assert_eq!((line[20], line[LINE_BYTES - 1]), (b' ', b'\n'));
            assert!(line[21..LINE_BYTES - 1].iter().all(u8::is_ascii_graphic));
            expected += 1;
        }
    }
}

#[test]
fn the_numbers_are_right_over_10_mib() {
    let server = serve(&["chargen"]);
    assert_lines(&server.connect(), 0..(10 << 20) / LINE_BYTES as u64);
    let ended = server.drained();
    assert!(ended.stderr.contains("reset 1"), "{}", ended.stderr);
}

#[test]
fn every_connection_counts_for_itself() {
    let server = serve(&["chargen"]);
    let streams: Vec<_> = (0..8).map(|_| server.connect()).collect();
    for stream in &streams {
        assert_lines(stream, 0..1000);
    }
    for stream in &streams {
        assert_lines(stream, 1000..20_000);
    }
    drop(streams);
    server.drained();
}

#[test]
fn nothing_more_is_produced_for_peers_that_do_not_read() {
    let server = serve(&["chargen", "--threads", "1"]);
    let reader = server.connect();
    assert_lines(&reader, 0..50_000);
    let before_bytes = server.resident_bytes();
    let deaf: Vec<_> = (0..32).map(|_| server.connect()).collect();
    // One connection of one thread reads on: while it is served many times over, the others are at rest.
    assert_lines(&reader, 50_000..200_000);
    let gain_bytes = server.resident_bytes().saturating_sub(before_bytes);
    assert!(gain_bytes < 8 << 20, "32 peers that don't read cost {gain_bytes} bytes");
    // Nothing is lost for those that read late.
    assert_lines(&deaf[31], 0..200_000);
    // What is not read keeps a server from draining.
    drop((reader, deaf));
    server.drained();
}

#[test]
fn a_peer_that_half_closes_is_served_on_and_what_it_says_is_ignored() {
    let server = serve(&["chargen"]);
    let mut stream = server.connect();
    stream.write_all(b"thank you, that is enough\n").expect("it is taken");
    stream.shutdown(Shutdown::Write).expect("it is connected");
    assert_lines(&stream, 0..100_000);
    drop(stream);
    server.drained();
}

#[test]
fn draining_ends_the_lines_in_order_after_a_whole_one() {
    let server = serve(&["chargen"]);
    let mut stream = server.connect();
    assert_lines(&stream, 0..1000);
    let mut rest = Vec::new();
    server.signal(rustix::process::Signal::TERM);
    stream.read_to_end(&mut rest).expect("an end, not a reset");
    assert_eq!(rest.len() % LINE_BYTES, 0);
    assert_end(&stream);
    drop(stream);
    let ended = server.ended();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.stderr.contains("drained 1"), "{}", ended.stderr);
}
