//! Every connection ends for one reason, and the report counts it.

use std::io::Write as _;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use tidegate::{CloseReason, Limits};

use crate::harness::{Event, Running, assert_reset, fill, read_to_end, reset};

/// Waits for the end that `provoke` brings about, and returns its reason as the handler and as the report have it.
fn reasons(
    limits: Limits,
    word: &'static [u8],
    provoke: impl FnOnce(std::net::TcpStream),
) -> (CloseReason, Vec<String>) {
    let (server, events) = Running::scripted(limits, |connection, event| match event {
        Event::Read(bytes) if bytes == b"close" => connection.close(),
        Event::Read(bytes) if bytes == b"abort" => connection.abort(),
        _ => {}
    });
    let mut stream = server.connect();
    stream.write_all(word).expect("it is taken");
    events.connected();
    if !word.is_empty() {
        events.wait_for("the word", |event| matches!(event, Event::Read(_)).then_some(()));
    }
    provoke(stream);
    let reason = events.closed();
    let report = server.drained();
    let counted = report.closed_by_reason().filter(|&(_, count)| count > 0);
    (reason, counted.map(|(name, count)| format!("{name} {count}")).collect())
}

#[test]
fn each_reason_is_told_to_the_handler_and_counted_once() {
    let (reason, counted) = reasons(Limits::default(), b"", |stream| {
        stream.shutdown(Shutdown::Write).expect("it is connected");
        assert_eq!(read_to_end(&stream), b"");
    });
    assert_eq!((reason, counted), (CloseReason::Finished, vec!["finished 1".to_owned()]));

    let (reason, counted) = reasons(Limits::default(), b"close", |stream| assert_eq!(read_to_end(&stream), b""));
    assert_eq!((reason, counted), (CloseReason::ClosedByHandler, vec!["closed_by_handler 1".to_owned()]));

    let (reason, counted) = reasons(Limits::default(), b"abort", |stream| assert_reset(&stream));
    assert_eq!((reason, counted), (CloseReason::AbortedByHandler, vec!["aborted_by_handler 1".to_owned()]));

    let (reason, counted) = reasons(Limits::default(), b"hello", reset);
    assert_eq!((reason, counted), (CloseReason::Reset, vec!["reset 1".to_owned()]));
}

#[test]
fn a_closed_connection_waits_for_its_peer_only_so_long() {
    let limits = Limits { linger_timeout: Duration::from_millis(100), ..Limits::default() };
    let begun = Instant::now();
    // The peer sees the end and doesn't close.
    let mut kept = None;
    let (reason, _) = reasons(limits, b"close", |stream| kept = Some(stream));
    assert_eq!(reason, CloseReason::ClosedByHandler);
    assert!(begun.elapsed() >= Duration::from_millis(100));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}: longer than the limit", begun.elapsed());
    assert_eq!(read_to_end(&kept.expect("it was kept")), b"", "an end, not a reset");
}

#[test]
fn a_close_that_the_peer_does_not_take_times_out() {
    let limits = Limits { close_timeout: Duration::from_millis(100), ..Limits::default() };
    let (server, events) = Running::scripted(limits, |connection, event| {
        if let Event::Connected(_) | Event::Writable = event {
            fill(connection);
        }
    });
    let deaf = server.connect();
    let handle = events.connected();
    events.wait_for_silence();
    handle.close();
    assert_eq!(events.closed(), CloseReason::CloseTimeout);
    assert_reset(&deaf);
    assert_eq!(server.drained().closed(&CloseReason::CloseTimeout), 1);
}

#[test]
fn what_is_busy_beyond_the_grace_period_is_aborted_and_the_server_ends() {
    let limits = Limits { shutdown_grace: Duration::from_millis(100), ..Limits::default() };
    let (server, events) = Running::scripted(limits, |connection, event| {
        if let Event::Connected(_) | Event::Writable = event {
            fill(connection);
        }
    });
    let deaf = server.connect();
    events.wait_for_silence();
    let begun = Instant::now();
    let report = server.drained();
    assert!(begun.elapsed() >= Duration::from_millis(100), "after {:?}", begun.elapsed());
    assert_eq!(report.closed(&CloseReason::ShutdownGrace), 1);
    assert_reset(&deaf);
}

#[test]
fn an_abort_of_the_server_ends_all_at_once() {
    let (server, events) = Running::scripted(Limits::default(), |_, _| {});
    let streams: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for _ in 0..20 {
        events.connected();
    }
    assert_eq!(server.handle.connections(), 20);
    server.handle.abort();
    for stream in &streams {
        assert_reset(stream);
    }
    assert_eq!(server.ended().connections(), 20);
}

#[test]
fn connections_that_are_idle_when_the_server_drains_end_in_order_as_drained() {
    let (server, events) = Running::scripted(Limits::default(), |_, _| {});
    let stream = server.connect();
    events.connected();
    server.handle.drain();
    assert_eq!(read_to_end(&stream), b"");
    drop(stream);
    assert_eq!(server.ended().closed(&CloseReason::Drained), 1);
}

#[test]
fn a_close_after_a_half_close_waits_for_the_peer_only_as_long_as_any_other() {
    let limits = Limits { linger_timeout: Duration::from_millis(100), ..Limits::default() };
    let (server, events) = Running::scripted(limits, |connection, event| {
        if let Event::Connected(_) = event {
            connection.shutdown();
        }
    });
    let stream = server.connect();
    let handle = events.connected();
    assert_eq!(read_to_end(&stream), b"", "the half-close is done");
    let begun = Instant::now();
    handle.close();
    assert_eq!(events.closed(), CloseReason::ClosedByHandle);
    assert!(begun.elapsed() < Duration::from_secs(4), "it took {:?}", begun.elapsed());
    drop(stream);
    server.drained();
}

#[test]
fn a_drain_right_after_both_sides_have_finished_waits_for_nothing() {
    // The end of the peer and the drain may be seen in one turn of the loop, in which the handler is not told of the end.
    for _ in 0..50 {
        let (server, _events) = Running::scripted(Limits::default(), |connection, event| {
            if let Event::Connected(_) = event {
                connection.shutdown();
            }
        });
        let stream = server.connect();
        assert_eq!(read_to_end(&stream), b"");
        drop(stream);
        let begun = Instant::now();
        server.drained();
        assert!(begun.elapsed() < Duration::from_secs(4), "it took {:?}", begun.elapsed());
    }
}
