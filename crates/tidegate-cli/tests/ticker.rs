//! `tidegate serve ticker`: one numbered stream for all.

mod common;

use std::io::Read as _;
use std::net::TcpStream;

use common::{serve, tidegate};
use rustix::process::Signal;

/// Reads `count` messages of `size` bytes, checks each byte, and returns their numbers.
fn read_messages(mut stream: &TcpStream, size: usize, count: usize) -> Vec<u64> {
    let mut bytes = vec![0; size];
    let mut numbers = Vec::new();
    for _ in 0..count {
        stream.read_exact(&mut bytes).expect("messages go on");
        numbers.push(checked_number(&bytes));
    }
    numbers
}

fn checked_number(bytes: &[u8]) -> u64 {
    let size = bytes.len();
    assert_eq!(bytes[..4], (size as u32).to_be_bytes());
    let number = u64::from_be_bytes(bytes[4..12].try_into().expect("eight bytes"));
    let first = usize::from(number as u8) + 20;
    let filler: Vec<u8> = (first..first + size - 20).map(|value| value as u8).collect();
    assert!(bytes[20..] == filler, "a torn message {number}");
    number
}

fn assert_without_gaps(numbers: &[u64]) {
    for pair in numbers.windows(2) {
        assert_eq!(pair[1], pair[0] + 1, "a gap");
    }
}

/// What the summary says about the ticker.
fn summary(stdout: &str) -> serde_json::Value {
    let last = stdout.lines().last().expect("a summary");
    serde_json::from_str::<serde_json::Value>(last).expect("JSON")["ticker"].clone()
}

#[test]
fn all_connections_get_the_same_numbers_without_a_gap() {
    let server = serve(&["ticker", "--interval", "1ms", "--threads", "2"]);
    let streams: Vec<_> = (0..6).map(|_| server.connect()).collect();
    let of_all: Vec<_> = streams.iter().map(|stream| read_messages(stream, 128, 500)).collect();
    of_all.iter().for_each(|numbers| assert_without_gaps(numbers));
    let (latest_first, earliest_last) =
        (of_all.iter().map(|numbers| numbers[0]).max(), of_all.iter().map(|numbers| numbers[499]).min());
    assert!(latest_first < earliest_last, "one stream: {latest_first:?} to {earliest_last:?} was for all");
    drop(streams);
    let ended = server.drained();
    let ticker = summary(&ended.stdout);
    assert!(ticker["published"].as_u64() >= Some(500) && ticker["delivered"].as_u64() >= Some(3_000), "{ticker}");
    assert_eq!(ticker["missed"], 0);
}

#[test]
fn without_an_interval_it_goes_as_fast_as_the_slowest_takes_it_and_the_numbers_have_no_gaps() {
    let server = serve(&["ticker", "--interval", "0", "--size", "1K"]);
    let streams: Vec<_> = (0..3).map(|_| server.connect()).collect();
    std::thread::scope(|scope| {
        for stream in &streams {
            scope.spawn(move || {
                let numbers = read_messages(stream, 1024, 30_000);
                assert!(numbers[0] >= 1);
                assert_without_gaps(&numbers);
            });
        }
    });
    drop(streams);
    let ended = server.drained();
    let ticker = summary(&ended.stdout);
    assert!(ticker["published"].as_u64() >= Some(30_000), "{ticker}");
    assert!(ticker["refused"].as_u64() > Some(0), "it is held back: {ticker}");
}

#[test]
fn a_receiver_that_stops_holds_it_up_and_the_log_says_who_and_memory_stays_flat() {
    the_log_says_who_holds_it_up(&[]);
}

#[test]
fn where_publishing_waits_for_ever_the_log_says_for_whom() {
    the_log_says_who_holds_it_up(&["--overflow", "wait=0"]);
}

fn the_log_says_who_holds_it_up(arguments: &[&str]) {
    let ticker = ["ticker", "--interval", "0", "--memory", "64M", "--max-connections", "100"];
    let server = serve(&[&ticker, arguments].concat());
    let healthy = server.connect();
    read_messages(&healthy, 128, 1_000);
    let stopped = server.connect();
    let peer = stopped.local_addr().expect("it is connected");
    // Until the stream comes to a stop: the healthy one gets nothing for longer than the log waits.
    healthy.set_read_timeout(Some(std::time::Duration::from_millis(3_000))).expect("not zero");
    let mut bytes = [0; 64 << 10];
    while (&healthy).read(&mut bytes).is_ok_and(|length| length > 0) {}
    assert!(server.resident_bytes() < 64 << 20);
    drop((healthy, stopped));
    let ended = server.drained();
    let names = |line: &str| line.contains("holds up its group") && line.contains(&peer.to_string());
    assert!(ended.stderr.lines().any(names), "the log names {peer}: {}", ended.stderr);
}

/// Healthy ones read this much while others have stopped: more than the kernel and the queues hold for those. The queues hold a second's
/// worth, so that a busy machine makes no reader a slow one.
const SIZE: usize = 16 << 10;
const COUNT: usize = 1_500;
/// The window and the kernel's send buffer by default; the kernel doubles what it is asked for.
const WINDOW: usize = 64 << 10;
const SEND_BUFFER: usize = 128 << 10;

/// Three that read on and three that have stopped; what the healthy ones read has no gaps.
fn with_stopped_readers(overflow: &str) -> (common::Program, Vec<TcpStream>) {
    let server = serve(&["ticker", "--interval", "2ms", "--size", "16K", "--send-queue", "8M", "--overflow", overflow]);
    let stopped: Vec<_> = (0..3).map(|_| server.connect()).collect();
    let healthy: Vec<_> = (0..3).map(|_| server.connect()).collect();
    std::thread::scope(|scope| {
        for stream in &healthy {
            scope.spawn(move || assert_without_gaps(&read_messages(stream, SIZE, COUNT)));
        }
    });
    (server, stopped)
}

#[test]
fn with_the_policy_to_close_the_stopped_ones_end_and_the_others_miss_nothing() {
    let (server, stopped) = with_stopped_readers("close");
    drop(stopped);
    let ended = server.drained();
    let last = ended.stdout.lines().last().expect("a summary");
    let closed = &serde_json::from_str::<serde_json::Value>(last).expect("JSON")["closed"];
    assert_eq!(closed["slow_consumer"], 3, "{closed}");
}

#[test]
fn with_the_policy_to_drop_the_oldest_who_wakes_up_sees_a_gap_and_then_the_present() {
    let (server, stopped) = with_stopped_readers("drop-oldest");
    for stream in &stopped {
        let numbers = read_messages(stream, SIZE, COUNT);
        assert!(numbers.is_sorted_by(|one, next| one < next), "in order, each once");
        assert!(numbers[COUNT - 1] - numbers[0] > COUNT as u64, "nothing was dropped");
        // What was on its way comes first: no more than the window and the kernel's two buffers, and the message that didn't fit.
        let old = 1 + numbers.windows(2).take_while(|pair| pair[1] == pair[0] + 1).count();
        let received = socket2::SockRef::from(stream).recv_buffer_size().expect("it is open");
        let bound = 2 * SEND_BUFFER + received + WINDOW + SIZE;
        assert!(old * SIZE <= bound, "{} old bytes, more than {bound}", old * SIZE);
    }
    drop(stopped);
    let ended = server.drained();
    let ticker = summary(&ended.stdout);
    assert!(ticker["missed"].as_u64() > Some(0), "{ticker}");
}

#[test]
fn draining_ends_the_stream_in_order_after_a_whole_message() {
    let server = serve(&["ticker", "--interval", "1ms", "--size", "100"]);
    let mut stream = server.connect();
    let before = read_messages(&stream, 100, 50);
    server.signal(Signal::TERM);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("an end, not a reset");
    assert_eq!(rest.len() % 100, 0);
    let numbers: Vec<u64> = before.into_iter().chain(rest.chunks(100).map(checked_number)).collect();
    assert_without_gaps(&numbers);
    drop(stream);
    let ended = server.ended();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

#[test]
fn the_options_of_the_ticker_are_checked() {
    for (arguments, word) in [
        (&["serve", "echo", "--interval", "1s"][..], "serve ticker"),
        (&["serve", "ticker", "--size", "23"], "--size"),
        (&["serve", "ticker", "--size", "65K"], "--send-queue"),
        (&["serve", "ticker", "--interval", "fast"], "or 0"),
    ] {
        let ended = tidegate(arguments).ended();
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}");
        assert!(ended.stderr.contains(word), "{arguments:?}: {}", ended.stderr);
    }
}

#[test]
fn the_ceiling_of_a_ticker_has_a_term_for_what_is_published() {
    let mut server = serve(&["ticker", "--memory", "96M", "--max-connections", "1000"]);
    let lines: Vec<String> = (0..7).map(|_| server.line()).collect();
    let bytes: Vec<u64> =
        lines.iter().filter_map(|line| line.strip_prefix("ceiling ")?.split_once(' ')?.1.parse().ok()).collect();
    assert!(lines[4].starts_with("ceiling publish 1"), "{lines:?}");
    assert_eq!(bytes[..5].iter().sum::<u64>(), bytes[5]);
    assert_eq!(bytes[5], 96 << 20);
    server.drained();
}
