//! Timers of handlers.

use std::time::{Duration, Instant};

use tidegate::Limits;

use crate::harness::{DEADLINE, Event, Events, Running};

fn timer(events: &Events) -> u8 {
    events.wait_for("a timer", |event| match event {
        Event::Timer(timer) => Some(timer),
        _ => None,
    })
}

#[test]
fn a_timer_expires_not_before_its_time_and_in_order() {
    let (server, events) = Running::scripted(Limits::default(), |connection, event| {
        if let Event::Connected(_) = event {
            connection.set_timer(0, Duration::from_millis(120));
            connection.set_timer(1, Duration::from_millis(60));
            connection.set_timer(2, Duration::ZERO);
        }
    });
    let begun = Instant::now();
    let stream = server.connect();
    assert_eq!(timer(&events), 2);
    assert_eq!(timer(&events), 1);
    assert!(begun.elapsed() >= Duration::from_millis(60), "after {:?}", begun.elapsed());
    assert_eq!(timer(&events), 0);
    assert!(begun.elapsed() >= Duration::from_millis(120), "after {:?}", begun.elapsed());
    assert!(begun.elapsed() < DEADLINE);
    drop(stream);
    server.drained();
}

#[test]
fn a_timer_that_is_set_again_expires_once_at_the_new_time() {
    let (server, events) = Running::scripted(Limits::default(), |connection, event| match event {
        Event::Connected(_) => {
            connection.set_timer(0, Duration::from_millis(1));
            connection.set_timer(0, Duration::from_millis(80));
            connection.set_timer(1, Duration::from_millis(160));
        }
        Event::Timer(1) => connection.close(),
        _ => {}
    });
    let begun = Instant::now();
    let stream = server.connect();
    assert_eq!(timer(&events), 0);
    assert!(begun.elapsed() >= Duration::from_millis(80), "after {:?}", begun.elapsed());
    assert_eq!(timer(&events), 1, "the first setting of timer 0 is void");
    drop(stream);
    server.drained();
}

#[test]
fn a_cancelled_timer_does_not_expire_and_cancelling_twice_is_nothing() {
    let (server, events) = Running::scripted(Limits::default(), |connection, event| {
        if let Event::Connected(_) = event {
            connection.set_timer(0, Duration::from_millis(20));
            connection.set_timer(1, Duration::from_millis(100));
            connection.cancel_timer(0);
            connection.cancel_timer(0);
            connection.cancel_timer(3);
        }
    });
    let stream = server.connect();
    assert_eq!(timer(&events), 1, "timer 0 was cancelled");
    drop(stream);
    server.drained();
}

#[test]
fn timers_end_with_their_connection() {
    let (server, events) = Running::scripted(Limits::default(), |connection, event| match event {
        Event::Read(_) => {
            connection.set_timer(0, Duration::from_millis(30));
            connection.abort();
        }
        // The next user of the same slot: an earlier timer of the first must not reach it.
        Event::Connected(_) => connection.set_timer(1, Duration::from_millis(100)),
        _ => {}
    });
    let first = server.connect();
    std::io::Write::write_all(&mut &first, b"x").expect("it is taken");
    events.closed();
    let second = server.connect();
    assert_eq!(timer(&events), 1, "timer 0 belonged to a connection that has ended");
    drop((first, second));
    server.drained();
}
