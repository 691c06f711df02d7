//! The ceilings that the program is given, and those of the machine.

mod common;

use std::io::Write as _;
use std::net::Shutdown;

use common::{assert_echoed, assert_end, assert_receives, assert_silent, serve, tidegate};

#[test]
fn the_connection_beyond_the_limit_waits_until_one_closes_and_none_is_refused() {
    let server = serve(&["echo", "--max-connections", "4", "--threads", "2"]);
    let served: Vec<_> = (0..4).map(|_| server.connect()).collect();
    for stream in &served {
        assert_echoed(stream, b"served");
    }
    let mut waiting: Vec<_> = (0..8).map(|_| server.connect()).collect();
    for stream in &mut waiting {
        stream.write_all(b"patient").expect("the system takes it");
    }
    assert_silent(&waiting[0]);
    // They come in as others go, in the order in which they came.
    let mut leaving: Vec<_> = served;
    for stream in waiting {
        let leaves = leaving.remove(0);
        leaves.shutdown(Shutdown::Write).expect("it is connected");
        assert_end(&leaves);
        drop(leaves);
        assert_receives(&stream, b"patient");
        leaving.push(stream);
    }
    drop(leaving);
    let ended = server.drained();
    assert!(ended.stderr.contains("connections=12"), "{}", ended.stderr);
}

#[test]
fn a_limit_of_one_serves_one_after_another() {
    let server = serve(&["echo", "--max-connections", "1"]);
    for number in 0..50_u8 {
        let stream = server.connect();
        assert_echoed(&stream, &[number; 100]);
    }
    server.drained();
}

#[test]
fn more_connections_than_descriptors_are_refused_with_the_numbers() {
    let ended = tidegate(&["serve", "echo", "--max-connections", "500", "--listen", "127.0.0.1:0"])
        .after_shell_command("ulimit -n 300")
        .ended();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    for part in ["500", "564", "300", "ulimit -n", "at most 236"] {
        assert!(ended.stderr.contains(part), "{part} is missing in {}", ended.stderr);
    }
}

#[test]
fn the_soft_limit_is_raised_to_the_hard_one_and_the_default_follows_it() {
    // 464 descriptors carry 400 connections; the soft limit alone would carry 6.
    let server = tidegate(&["serve", "echo"]).after_shell_command("ulimit -Sn 70 && ulimit -Hn 464").serving();
    let streams: Vec<_> = (0..400).map(|_| server.connect()).collect();
    for stream in &streams {
        assert_echoed(stream, b"all at once");
    }
    let mut beyond = server.connect();
    beyond.write_all(b"one more").expect("the system takes it");
    assert_silent(&beyond);
    drop(streams);
    assert_receives(&beyond, b"one more");
    drop(beyond);
    server.drained();
}

#[test]
fn too_little_memory_is_refused_with_the_numbers() {
    let ended = tidegate(&["serve", "echo", "--memory", "16M", "--listen", "127.0.0.1:0"]).ended();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    for part in ["--memory 16M", "16777216", "10000 connections", "fewer connections"] {
        assert!(ended.stderr.contains(part), "{part} is missing in {}", ended.stderr);
    }
}

#[test]
fn the_memory_that_is_allowed_is_the_ceiling_that_is_logged() {
    let server = serve(&["chargen", "--memory", "80M", "--threads", "2", "--max-connections", "1000"]);
    let ended = server.drained();
    let text = ended.stderr.split("memory_bytes=").nth(1).and_then(|rest| rest.split(' ').next());
    let bytes: usize = text.and_then(|text| text.parse().ok()).expect("the sum is logged");
    assert!(bytes <= 80 << 20 && bytes > (80 << 20) - (1 << 20), "{bytes} bytes of {}", 80 << 20);
}
