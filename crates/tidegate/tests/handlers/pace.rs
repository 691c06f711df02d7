//! The limits of time, with real sockets: who is silent or slow ends with a reason, and who is prompt never does.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidegate::{CloseReason, Limits, MinProgress};

use crate::harness::{Event, Events, Running, assert_reset, fill, read_to_end};

const SHORT: Duration = Duration::from_millis(200);

/// An echo server.
fn echo(limits: Limits) -> (Running, Events) {
    Running::scripted(limits, |connection, event| {
        if let Event::Read(bytes) = event {
            connection.send(bytes.clone()).expect("there is room");
        }
    })
}

/// Says something and hears it back.
fn exchange(mut stream: &TcpStream, byte: u8) {
    stream.write_all(&[byte]).expect("it is connected");
    let mut answer = [0];
    stream.read_exact(&mut answer).expect("the echo");
    assert_eq!(answer, [byte]);
}

#[test]
fn where_no_byte_goes_a_connection_is_closed_in_order_and_where_one_goes_it_is_not() {
    let greets = AtomicBool::new(true);
    let limits = Limits { first_byte_timeout: Some(SHORT), ..Limits::default() };
    let (server, events) = Running::scripted(limits, move |connection, event| match event {
        // Only the first connection is greeted, so that it depends on no client's haste whether a byte goes in time.
        Event::Connected(_) if greets.swap(false, Ordering::Relaxed) => {
            connection.send("!").expect("there is room");
        }
        Event::Read(bytes) => {
            connection.send(bytes.clone()).expect("there is room");
        }
        _ => {}
    });
    let begun = Instant::now();
    let mut greeted = server.connect();
    greeted.read_exact(&mut [0]).expect("the greeting");
    let silent = server.connect();
    assert_eq!(read_to_end(&silent), b"");
    assert!(begun.elapsed() >= SHORT, "after {:?}", begun.elapsed());
    drop(silent);
    assert_eq!(events.closed(), CloseReason::FirstByteTimeout);
    exchange(&greeted, 2);
    greeted.shutdown(Shutdown::Write).expect("it is connected");
    assert_eq!(events.closed(), CloseReason::Finished);
    drop(greeted);
    assert_eq!(server.drained().closed(&CloseReason::FirstByteTimeout), 1);
}

#[test]
fn who_falls_silent_is_closed_in_order_as_idle_and_not_before_its_time() {
    let (server, events) = echo(Limits { idle_timeout: Some(SHORT), ..Limits::default() });
    let stream = server.connect();
    let said = Instant::now();
    exchange(&stream, 3);
    assert_eq!(read_to_end(&stream), b"");
    assert!(said.elapsed() >= SHORT, "after {:?}", said.elapsed());
    drop(stream);
    assert_eq!(events.closed(), CloseReason::IdleTimeout);
    server.drained();
}

#[test]
fn a_pause_by_the_handler_does_not_stop_the_idle_timeout() {
    let limits = Limits { idle_timeout: Some(SHORT), ..Limits::default() };
    let (server, events) = Running::scripted(limits, |connection, event| {
        if let Event::Connected(_) = event {
            connection.pause_read();
        }
    });
    let stream = server.connect();
    assert_eq!(read_to_end(&stream), b"");
    drop(stream);
    assert_eq!(events.closed(), CloseReason::IdleTimeout);
    server.drained();
}

#[test]
fn who_does_not_take_what_is_sent_is_reset_as_too_slow() {
    let progress = Some(MinProgress::new(1, SHORT));
    let (server, events) =
        Running::scripted(Limits { min_send_progress: progress, ..Limits::default() }, |connection, event| {
            if let Event::Connected(_) | Event::Writable = event {
                fill(connection);
            }
        });
    let deaf = server.connect();
    assert_eq!(events.closed(), CloseReason::SendTooSlow);
    assert_reset(&deaf);
    assert_eq!(server.drained().closed(&CloseReason::SendTooSlow), 1);
}

#[test]
fn who_takes_everything_at_once_is_fast_enough_whatever_little_that_is() {
    // Far more than is ever sent; but nothing of it ever waits.
    let progress = Some(MinProgress::new(1 << 30, SHORT));
    let (server, events) = echo(Limits { min_send_progress: progress, ..Limits::default() });
    let stream = server.connect();
    let begun = Instant::now();
    while begun.elapsed() < SHORT * 3 {
        exchange(&stream, 4);
    }
    stream.shutdown(Shutdown::Write).expect("it is connected");
    assert_eq!(events.closed(), CloseReason::Finished);
    drop(stream);
    server.drained();
}

#[test]
fn who_sends_less_than_the_rate_is_closed_once_it_has_begun() {
    let rate = Some(MinProgress::new(1_000_000, SHORT));
    let (server, events) = echo(Limits { min_receive_rate: rate, ..Limits::default() });
    let (silent, slow) = (server.connect(), server.connect());
    exchange(&slow, 5);
    assert_eq!(read_to_end(&slow), b"");
    drop(slow);
    assert_eq!(events.closed(), CloseReason::ReceiveTooSlow);
    exchange(&silent, 6);
    drop(silent);
    let report = server.drained();
    assert_eq!(report.connections(), 2);
}

#[test]
fn with_one_turn_to_send_many_connections_are_served() {
    let (server, events) = echo(Limits { sends_outstanding: 1, ..Limits::default() });
    let streams: Vec<TcpStream> = (0..20).map(|_| server.connect()).collect();
    for round in 0..20 {
        for mut stream in &streams {
            stream.write_all(&[round; 1_000]).expect("it is connected");
        }
        for mut stream in &streams {
            let mut answer = [0; 1_000];
            stream.read_exact(&mut answer).expect("the echo");
            assert_eq!(answer, [round; 1_000]);
        }
    }
    for stream in &streams {
        stream.shutdown(Shutdown::Write).expect("it is connected");
        assert_eq!(events.closed(), CloseReason::Finished);
    }
    drop(streams);
    assert_eq!(server.drained().bytes_sent(), 20 * 20 * 1_000);
}
