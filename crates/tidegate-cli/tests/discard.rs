//! `tidegate serve discard`: everything is taken, nothing comes back.

mod common;

use std::io::Write as _;
use std::net::Shutdown;

use common::{assert_end, assert_silent, pattern, serve};

#[test]
fn sixteen_mib_are_swallowed_and_then_comes_the_end() {
    let server = serve(&["discard"]);
    let mut stream = server.connect();
    stream.write_all(&pattern(1, 16 << 20)).expect("everything is taken");
    assert_silent(&stream);
    stream.shutdown(Shutdown::Write).expect("it is connected");
    assert_end(&stream);
    let ended = server.drained();
    assert!(ended.stderr.contains("received_bytes=16777216 sent_bytes=0"), "{}", ended.stderr);
}

#[test]
fn many_at_once_are_swallowed_in_bounded_memory() {
    let server = serve(&["discard", "--threads", "1"]);
    let before_bytes = server.resident_bytes();
    std::thread::scope(|scope| {
        for seed in 0..16 {
            let mut stream = server.connect();
            scope.spawn(move || {
                stream.write_all(&pattern(seed, 4 << 20)).expect("everything is taken");
                stream.shutdown(Shutdown::Write).expect("it is connected");
                assert_end(&stream);
            });
        }
    });
    let gain_bytes = server.resident_bytes().saturating_sub(before_bytes);
    assert!(gain_bytes < 8 << 20, "it gained {gain_bytes} bytes");
    server.drained();
}
