//! Polls that really wait: E2 and E4 against a second thread and the clock on the wall.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::fixture::{Fixture, Peer};
use super::rig::Rig;
use crate::engine::{Completion, Engine};
use crate::memory::Buffer;

/// A deadline that no case is to reach.
const FAR: Duration = Duration::from_secs(20);
/// What counts as soon, on a machine that is busy.
const SOON: Duration = Duration::from_secs(5);

pub(super) fn a_poll_sleeps_until_its_deadline_and_not_much_longer<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    rig.expect_quiet();
    for wait in [5, 30, 80] {
        let wait = Duration::from_millis(wait);
        rig.poll(Duration::ZERO);
        let before = rig.counters();
        let begin = Instant::now();
        let deadline = rig.fixture.engine().now() + wait;
        while rig.fixture.engine().now() < deadline {
            rig.poll_until(Some(deadline));
        }
        let slept = begin.elapsed();
        assert!(slept + Duration::from_millis(1) >= wait, "{slept:?} of {wait:?}");
        assert!(slept < wait * 10, "{slept:?} instead of {wait:?}");
        let calls = rig.counters().polls - before.polls;
        assert!(calls <= 5, "{calls} system calls in one sleep");
    }
    rig.finish();
}

pub(super) fn a_wake_from_another_thread_ends_a_poll_that_waits<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    rig.expect_quiet();
    let waker = rig.fixture.engine().waker();
    let (begun, begins) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        begins.recv().expect("the poll begins");
        // Not to wait for something, but to let the poll fall asleep: without it the case is still right.
        std::thread::sleep(Duration::from_millis(20));
        waker.wake();
    });
    begun.send(()).expect("the thread is there");
    let begin = Instant::now();
    let deadline = Some(rig.fixture.engine().now() + FAR);
    while rig.take(|event| matches!(event, Completion::Woken)).is_none() {
        assert!(begin.elapsed() < SOON, "not woken");
        rig.poll_until(deadline);
    }
    assert!(begin.elapsed() < SOON, "woken after {:?}", begin.elapsed());
    thread.join().expect("the thread ends");
    rig.finish();
}

pub(super) fn no_wake_of_a_thousand_is_lost<F: Fixture>() {
    const ROUNDS: usize = 1000;
    let mut rig = Rig::<F>::new();
    let waker = rig.fixture.engine().waker();
    let (seen, sees) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        for _ in 0..ROUNDS {
            // At once after the one before was seen: while the engine goes back to sleep.
            waker.wake();
            if sees.recv_timeout(SOON).is_err() {
                return false;
            }
        }
        true
    });
    let begin = Instant::now();
    for round in 0..ROUNDS {
        loop {
            assert!(begin.elapsed() < SOON * 2, "wake {round} was lost, or comes late");
            let deadline = Some(rig.fixture.engine().now() + FAR);
            rig.poll_until(deadline);
            if rig.take(|event| matches!(event, Completion::Woken)).is_some() {
                break;
            }
        }
        rig.take_all();
        seen.send(()).expect("the thread is there");
    }
    assert!(thread.join().expect("the thread ends"));
    rig.finish();
}

pub(super) fn a_lent_buffer_returned_by_another_thread_ends_a_poll_that_waits<F: Fixture>() {
    let mut rig = Rig::<F>::sized(8, 2);
    let (_hog, _hog_peer, held) = rig.hold_all_buffers();
    let lent: Vec<_> = held.into_iter().map(Buffer::into_bytes).collect();
    let (socket, mut peer) = rig.pair();
    rig.write_all(&mut peer, b"next");
    rig.receive(socket);
    rig.expect_quiet();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        drop(lent);
    });
    let begin = Instant::now();
    let deadline = Some(rig.fixture.engine().now() + FAR);
    // There is no other traffic: only the buffer that comes home can end the poll.
    while rig.received(socket) != b"next" {
        assert!(begin.elapsed() < SOON, "the receive in line was not revived");
        rig.poll_until(deadline);
    }
    assert!(begin.elapsed() < SOON, "revived after {:?}", begin.elapsed());
    thread.join().expect("the thread ends");
    rig.finish();
}

pub(super) fn a_poll_without_a_deadline_ends_with_a_completion<F: Fixture>()
where
    F::Peer: Send + 'static,
{
    let mut rig = Rig::<F>::new();
    let (socket, mut peer) = rig.pair();
    rig.receive(socket);
    rig.expect_quiet();
    // A second wake so that a poll that misses the data fails instead of waiting for ever.
    let waker = rig.fixture.engine().waker();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        peer.try_write(b"data").expect("there is room");
        peer
    });
    let (done, is_done) = mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        if is_done.recv_timeout(SOON) == Err(mpsc::RecvTimeoutError::Timeout) {
            waker.wake();
        }
    });
    let mut got = Vec::new();
    while got != b"data" {
        rig.poll_until(None);
        got.extend(rig.received(socket));
        assert_eq!(rig.count(|event| matches!(event, Completion::Woken)), 0, "only the wake ended the poll");
    }
    drop(done);
    guard.join().expect("the guard ends");
    drop(thread.join().expect("the thread ends"));
    rig.finish();
}
