//! `tidegate load --expect ticker` and `--read-rate`: what is found in the stream of a ticker, and how fast it is read.

mod common;

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{Ended, serve, tidegate};
use serde_json::Value;

const MESSAGE_BYTES: usize = 128;

/// The first number of every stream: a subscriber comes when it likes.
const FIRST: u64 = 1_000_000;

/// A server of the test's own: `publish` gets each connection, on a thread of its own, and every number from [`FIRST`] on until it fails.
fn ticker(publish: impl Fn(&mut TcpStream, u64) -> io::Result<()> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are ports");
    let address = listener.local_addr().expect("it is bound");
    let publish = Arc::new(publish);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let publish = Arc::clone(&publish);
            std::thread::spawn(move || (FIRST..).all(|number| publish(&mut stream, number).is_ok()));
        }
    });
    address
}

fn message(number: u64, length: usize, age: Duration) -> Vec<u8> {
    let published = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970") - age;
    let mut bytes = (length as u32).to_be_bytes().to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend((published.as_nanos() as u64).to_be_bytes());
    bytes.extend((bytes.len()..length).map(|place| (number as u8).wrapping_add(place as u8)));
    bytes
}

/// Publishes a message as they should be.
fn tick(stream: &mut TcpStream, number: u64) -> io::Result<()> {
    stream.write_all(&message(number, MESSAGE_BYTES, Duration::ZERO))
}

#[track_caller]
fn load(address: SocketAddr, arguments: &[&str], status: i32) -> (Value, Ended) {
    let address = address.to_string();
    let ended = tidegate(&[&["load", &address, "--json"], arguments].concat()).ended();
    assert_eq!(ended.status.code(), Some(status), "{ended:?}");
    let report = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    (report, ended)
}

#[track_caller]
fn number(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("{name} is not a count: {report}"))
}

#[test]
fn a_ticker_is_followed_from_wherever_it_is_and_every_delivery_is_timed() {
    let age = Duration::from_millis(50);
    let address = ticker(move |stream, number| stream.write_all(&message(number, 1_000, age)));
    for size in [&[][..], &["--size", "1000"]] {
        let (report, ended) = load(address, &[&["--expect", "ticker", "-c", "3", "-d", "300ms"], size].concat(), 0);
        for (name, expected) in [("connected", 3), ("closed_early", 0), ("mismatches", 0), ("gaps", 0), ("missed", 0)] {
            assert_eq!(report[name], expected, "{name}: {report}");
        }
        let messages = number(&report, "messages");
        assert!(messages > 0 && messages * 1_000 <= number(&report, "bytes_received"), "{report}");
        assert_eq!(number(&report, "bytes_sent"), 0, "{report}");
        let p50_us = report["latency_us"]["p50"].as_f64().expect("it was measured");
        assert!((50_000.0..60_000_000.0).contains(&p50_us), "{report}");
        assert_eq!(ended.stderr, "");
    }
}

#[test]
fn messages_that_are_missing_are_counted_and_are_a_failure_unless_they_are_allowed() {
    let address = ticker(|stream, number| match number % 10 {
        7..=9 => Ok(()),
        _ => tick(stream, number),
    });
    let arguments = ["--expect", "ticker", "-c", "2", "-d", "200ms"];
    let (report, ended) = load(address, &arguments, 1);
    assert!(ended.stderr.contains("3 messages are missing after message 1000006"), "{ended:?}");
    assert_eq!(number(&report, "missed"), 3 * number(&report, "gaps"), "{report}");

    let (report, ended) = load(address, &[&arguments[..], &["--gaps", "allowed"]].concat(), 0);
    assert!(number(&report, "gaps") > 0 && number(&report, "messages") > 0, "{report}");
    assert_eq!((number(&report, "mismatches"), &ended.stderr[..]), (0, ""), "{report}");
}

#[test]
fn messages_that_are_wrong_come_twice_or_are_torn_are_failures_always() {
    type Publish = fn(&mut TcpStream, u64) -> io::Result<()>;
    const AT: u64 = FIRST + 100;
    let faults: [(&str, Publish); 5] = [
        ("a byte of message 1000100 is wrong", |stream, number| {
            let mut bytes = message(number, MESSAGE_BYTES, Duration::ZERO);
            bytes[MESSAGE_BYTES - 1] ^= u8::from(number == AT);
            stream.write_all(&bytes)
        }),
        ("message 1000100 comes after message 1000100", |stream, number| {
            tick(stream, number)?;
            if number == AT { tick(stream, number) } else { Ok(()) }
        }),
        ("message 1000100 comes after message 1000101", |stream, number| match number {
            AT => tick(stream, number + 1).and_then(|()| tick(stream, number)),
            _ if number == AT + 1 => Ok(()),
            _ => tick(stream, number),
        }),
        ("behind message 1000099 is a message of 64 bytes, and not of 128", |stream, number| {
            let length = if number == AT { 64 } else { MESSAGE_BYTES };
            stream.write_all(&message(number, length, Duration::ZERO))
        }),
        ("the end comes within a message", |stream, number| {
            if number == AT {
                stream.write_all(&[0; 3])?;
                return Err(io::ErrorKind::WriteZero.into());
            }
            tick(stream, number)
        }),
    ];
    for (text, publish) in faults {
        let arguments = ["--expect", "ticker", "--gaps", "allowed", "-c", "1", "-d", "300ms"];
        let (report, ended) = load(ticker(publish), &arguments, 1);
        assert!(ended.stderr.contains(text), "{text} is missing: {ended:?}");
        assert_eq!(number(&report, "mismatches"), 1, "{report}");
    }
}

#[test]
fn no_connection_reads_faster_than_it_is_meant_to_and_none_at_all_with_0() {
    let flood: fn(&mut TcpStream, u64) -> io::Result<()> = tick;
    let chargen = serve(&["chargen"]);
    for (address, expect) in [(ticker(flood), "ticker"), (chargen.address(), "chargen")] {
        let arguments = ["--expect", expect, "-c", "3", "-d", "1s", "--read-rate"];
        let begun = Instant::now();
        let (report, _) = load(address, &[&arguments[..], &["40000"]].concat(), 0);
        let seconds = begun.elapsed().as_secs_f64();
        let bytes = number(&report, "bytes_received") as f64;
        // What is read last takes its time afterwards.
        assert!(bytes <= 3.0 * (40_000.0 * seconds + 4096.0), "{bytes} bytes in {seconds} s: {report}");
        assert!(bytes >= 3.0 * 4096.0, "{expect}: {report}");

        let (report, _) = load(address, &[&arguments[..], &["0"]].concat(), 0);
        assert_eq!((number(&report, "connected"), number(&report, "bytes_received")), (3, 0), "{expect}: {report}");
    }
}

#[test]
fn connections_that_are_not_read_from_and_the_server_ends_are_counted_as_closed_early() {
    // One is reset, one ends in order, one stays.
    let ends = Arc::new(AtomicU64::new(0));
    let address = ticker(move |stream, number| {
        if number < FIRST + 200 {
            return tick(stream, number);
        }
        match ends.fetch_add(1, Ordering::Relaxed) {
            0 => socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO))?,
            1 => {}
            _ => return stream.read_exact(&mut [0]),
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    });
    let begun = Instant::now();
    let arguments = ["--expect", "ticker", "-c", "3", "-d", "4s", "--read-rate", "0"];
    let (report, _) = load(address, &arguments, 0);
    assert_eq!((number(&report, "connected"), number(&report, "closed_early")), (3, 2), "{report}");
    assert_eq!((number(&report, "bytes_received"), number(&report, "failed")), (0, 0), "{report}");
    assert!(begun.elapsed() >= Duration::from_secs(4), "one was there to the end");
}

#[test]
fn answers_that_are_read_slowly_all_come_in_the_end() {
    let server = serve(&["echo"]);
    for rate in ["20000", "0"] {
        let arguments = ["-s", "1000", "-p", "8", "-c", "3", "-d", "500ms", "--verify", "--read-rate", rate];
        let (report, _) = load(server.address(), &arguments, 0);
        assert!(number(&report, "messages") >= 24, "{report}");
        assert_eq!(number(&report, "bytes_sent"), number(&report, "bytes_received"), "{report}");
        // What was sent at first and what was read of it at that rate, and twice as much for a slow machine.
        assert!(number(&report, "messages") <= 2 * (24 + 3 * 20), "{report}");
    }
}
