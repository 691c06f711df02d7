//! The machine runs out of descriptors while the program serves.

mod common;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use common::{DEADLINE, Program, assert_echoed, assert_end, assert_receives, assert_silent, tidegate};
use rustix::process::{Resource, Rlimit, prlimit};

/// Lets the program have descriptors with numbers below `limit` from now on.
fn allow(server: &Program, limit: u64) {
    let limit = Rlimit { current: Some(limit), maximum: Some(600) };
    prlimit(Some(server.pid()), Resource::Nofile, limit).expect("it is our child, and the hard limit stays");
}

/// Lets the program have just so many descriptors more than it has.
fn allow_more(server: &Program, more: usize) {
    let directory = format!("/proc/{}/fd", server.pid().as_raw_nonzero());
    let names =
        std::fs::read_dir(directory).expect("it runs").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let taken: BTreeSet<u64> = names.filter_map(|name| name.parse().ok()).collect();
    // The lowest free number is the next that it gets.
    let last = (0..).filter(|number| !taken.contains(number)).nth(more - 1).expect("numbers don't end");
    allow(server, last + 1);
}

/// How many connections [`use_up_posted_accepts`] makes.
const USED_UP: usize = 100;

/// Serves one after another until no accept is left that was posted under an earlier limit, which it would go by: an engine
/// has up to 16 on a listener. Many more than 16, because not each uses one up: a connection that comes while the next accept is being
/// posted is taken by that one, and the accept that was woken for it goes back to the end of the line.
fn use_up_posted_accepts(server: &Program) {
    for number in 0..USED_UP as u8 {
        let stream = server.connect();
        assert_echoed(&stream, &[number; 10]);
        stream.shutdown(Shutdown::Write).expect("it is connected");
        assert_end(&stream);
    }
}

/// The processor time that the program has used, in ticks of 10 ms.
fn processor_ticks(server: &Program) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", server.pid().as_raw_nonzero())).expect("it runs");
    let fields: Vec<&str> = text.rsplit_once(')').expect("the name is in brackets").1.split_whitespace().collect();
    // The 14th and 15th of all, which count from 1 and begin before the name.
    fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number")
}

/// How often `text` is in the log so far.
fn logged(log: &std::path::Path, text: &str) -> usize {
    std::fs::read_to_string(log).expect("the log is there").matches(text).count()
}

#[test]
fn without_descriptors_connections_wait_in_the_backlog_nobody_spins_and_all_are_served_in_the_end() {
    let log = std::env::temp_dir().join(format!("tidegate-descriptors-{}.log", std::process::id()));
    let prelude = format!("ulimit -n 600 && exec 2>'{}'", log.display());
    let server = tidegate(&["serve", "echo", "--threads", "2", "--max-connections", "400"])
        .after_shell_command(&prelude)
        .serving();
    let served: Vec<TcpStream> = (0..5).map(|_| server.connect()).collect();
    for stream in &served {
        assert_echoed(stream, b"served");
    }

    // Room for three more, and twelve come.
    allow_more(&server, 3);
    use_up_posted_accepts(&server);
    let mut beyond: Vec<TcpStream> = (0..12).map(|_| server.connect()).collect();
    for stream in &mut beyond {
        stream.write_all(b"patient").expect("the system takes it");
    }
    for stream in &beyond[..3] {
        assert_receives(stream, b"patient");
    }
    let (begun, ticks) = (Instant::now(), processor_ticks(&server));
    for stream in &beyond[3..] {
        assert_silent(stream);
    }
    let waited_ms = begun.elapsed().as_millis() as u64;
    let used_ms = (processor_ticks(&server) - ticks) * 10;
    assert!(used_ms * 10 < waited_ms, "{used_ms} ms of processor time in {waited_ms} ms of waiting");
    for stream in &served {
        assert_echoed(stream, b"none the worse");
    }

    // Descriptors come back as connections end: those that wait longest get them.
    drop(served);
    for stream in &beyond[3..8] {
        assert_receives(stream, b"patient");
    }
    // And when the limit is lifted, everybody is served.
    allow(&server, 600);
    for stream in &beyond[8..] {
        assert_receives(stream, b"patient");
    }
    let begun = Instant::now();
    while logged(&log, "accepting works again") == 0 {
        assert!(begun.elapsed() < DEADLINE, "accepting works, and the log doesn't say so");
        assert_silent(&beyond[0]);
    }
    assert_eq!(logged(&log, "accepting fails"), 1, "one warning for one episode");
    assert_eq!(logged(&log, "accepting works again"), 1);
    // It goes on at full speed.
    let after: Vec<_> = (0..100).map(|_| server.connect()).collect();
    for stream in &after {
        assert_echoed(stream, b"as before");
    }
    drop((beyond, after));
    server.drained();
    let all = format!("connections={}", 5 + USED_UP + 12 + 100);
    assert_eq!(logged(&log, &all), 1, "all were served");
    let _ = std::fs::remove_file(log);
}

#[test]
fn a_program_without_a_spare_descriptor_accepts_again_after_every_end() {
    let log = std::env::temp_dir().join(format!("tidegate-descriptors-edge-{}.log", std::process::id()));
    let prelude = format!("ulimit -n 600 && exec 2>'{}'", log.display());
    let server = tidegate(&["serve", "echo", "--threads", "1"]).after_shell_command(&prelude).serving();
    // Room for one: they come one after another, each when the last one has gone, at the edge all the time.
    allow_more(&server, 1);
    use_up_posted_accepts(&server);
    let mut streams: Vec<_> = (0..10).map(|_| server.connect()).collect();
    for stream in &mut streams {
        stream.write_all(b"next").expect("the system takes it");
    }
    let begun = Instant::now();
    for stream in streams {
        assert_receives(&stream, b"next");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "each end is found out within a second at worst");
    assert_eq!(
        logged(&log, "accepting fails"),
        1,
        "one episode: {}",
        std::fs::read_to_string(&log).unwrap_or_default()
    );
    server.drained();
    let _ = std::fs::remove_file(log);
}
