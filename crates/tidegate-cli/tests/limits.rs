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

#[test]
fn one_address_gets_no_more_connections_than_it_may_have() {
    let server = serve(&["echo", "--max-connections-per-ip", "2"]);
    let first = server.connect();
    let second = server.connect();
    assert_echoed(&first, b"first");
    assert_echoed(&second, b"second");
    assert_end_or_reset(&server.connect());
    first.shutdown(Shutdown::Write).expect("it is connected");
    assert_end(&first);
    drop(first);
    // The place comes back when the server has let go of the connection, which is soon, but later than its end is seen.
    let begun = std::time::Instant::now();
    while !is_served(&server) {
        assert!(begun.elapsed() < common::DEADLINE, "the place doesn't come back");
    }
    drop(second);
    let ended = server.drained();
    assert!(ended.stdout.contains("\"refused\":{\"per_ip\":"), "{}", ended.stdout);
}

#[test]
fn networks_that_may_connect_are_told_by_allow_and_deny() {
    let server = serve(&["echo", "--allow", "127.0.0.0/8", "--deny", "127.0.0.0/9"]);
    assert_end_or_reset(&server.connect());
    let ended = server.drained();
    assert!(ended.stdout.contains("\"denied\":1"), "{}", ended.stdout);
    let server = serve(&["echo", "--allow", "127.0.0.1"]);
    assert_echoed(&server.connect(), b"allowed");
    server.drained();
}

fn is_served(server: &common::Program) -> bool {
    let mut stream = server.connect();
    let mut answer = [0; 2];
    stream.write_all(b"hi").is_ok() && std::io::Read::read_exact(&mut stream, &mut answer).is_ok()
}

fn assert_end_or_reset(mut stream: &std::net::TcpStream) {
    let mut byte = [0];
    match std::io::Read::read(&mut stream, &mut byte) {
        Ok(0) => {}
        Err(error) if common::is_reset(&error) => {}
        other => panic!("neither an end nor a reset, but: {other:?}"),
    }
}

#[test]
fn connections_beyond_the_rate_wait_and_none_is_refused() {
    let server = serve(&["echo", "--accept-rate", "50"]);
    let begun = std::time::Instant::now();
    let streams: Vec<_> = (0..30).map(|_| server.connect()).collect();
    for stream in &streams {
        assert_echoed(stream, b"in time");
    }
    // 5 at once, a tenth of a second's worth, and 25 more at 50 a second.
    assert!(begun.elapsed() >= std::time::Duration::from_millis(450), "it took {:?}", begun.elapsed());
    drop(streams);
    let ended = server.drained();
    assert!(ended.stdout.contains("\"connections\":30"), "{}", ended.stdout);
}

#[test]
fn the_throughput_preset_serves_a_quarter_lets_as_many_wait_as_it_may_and_refuses_the_rest() {
    let server = serve(&["echo", "--preset", "throughput", "--max-connections", "4", "--threads", "1"]);
    let served = server.connect();
    assert_echoed(&served, b"served");
    let mut waiting: Vec<_> = (0..3).map(|_| server.connect()).collect();
    for stream in &mut waiting {
        stream.write_all(b"in line").expect("the system takes it");
    }
    assert_end_or_reset(&server.connect());
    assert_silent(&waiting[0]);
    let mut leaves = served;
    for stream in waiting {
        leaves.shutdown(Shutdown::Write).expect("it is connected");
        assert_end(&leaves);
        drop(leaves);
        assert_receives(&stream, b"in line");
        leaves = stream;
    }
    drop(leaves);
    let ended = server.drained();
    assert!(ended.stdout.contains("\"full\":"), "{}", ended.stdout);
}

/// Readers that have stopped held all common send memory, and nobody came after them.
#[test]
fn a_reader_is_served_however_many_others_have_stopped_before_it() {
    // What is left for send memory here is less than what 40 readers can hold.
    let server = serve(&["chargen", "--memory", "20M", "--max-connections", "64", "--threads", "2"]);
    let stopped: Vec<_> = (0..40).map(|_| server.connect()).collect();
    // Each of them has been sent something, as far as there was memory: so the others wait for it.
    let reader = server.connect();
    let mut lines = std::io::BufReader::new(&reader);
    let mut line = String::new();
    for number in 0..40_000 {
        line.clear();
        std::io::BufRead::read_line(&mut lines, &mut line).expect("a line in time");
        assert_eq!(line.get(..20), Some(format!("{number:020}").as_str()), "{line:?}");
    }
    drop(reader);
    drop(stopped);
    let ended = server.drained();
    assert!(!ended.stdout.contains("first_byte_timeout"), "{}", ended.stdout);
}
