//! Polling, time and wake-ups: E1 to E4.

use std::time::Duration;

use super::fixture::{Fixture, Peer};
use super::material::gather_of;
use super::rig::{QUIET_TURNS, Rig};
use crate::engine::{CloseMode, Completion, Engine};
use crate::time::Time;

fn is_woken<S>(event: &Completion<S>) -> bool {
    matches!(event, Completion::Woken)
}

pub(super) fn a_wake_before_a_poll_is_reported<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let waker = rig.fixture.engine().waker();
    // Before the very first poll, and after some.
    for _ in 0..3 {
        waker.wake();
        rig.poll(Duration::from_secs(5));
        assert_eq!(rig.take_all().into_iter().filter(is_woken).count(), 1);
        rig.expect_quiet();
    }
    rig.finish();
}

pub(super) fn many_wakes_coalesce_and_none_is_lost<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let waker = rig.fixture.engine().waker();
    for round in 0..1000 {
        let wakes = 1 + round % 7;
        for _ in 0..wakes {
            waker.wake();
        }
        // Each round's wakes are reported by the poll that follows them.
        rig.poll(Duration::from_secs(5));
        let reported = rig.take_all().into_iter().filter(is_woken).count();
        assert!((1..=wakes).contains(&reported), "{reported} completions of {wakes} wakes in round {round}");
    }
    // From many threads at once.
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let waker = waker.clone();
            std::thread::spawn(move || (0..1000).for_each(|_| waker.wake()))
        })
        .collect();
    for thread in threads {
        thread.join().expect("the thread ends");
    }
    rig.expect("Woken", is_woken);
    for _ in 0..QUIET_TURNS {
        rig.turn();
    }
    rig.take_all();
    rig.expect_quiet();
    rig.finish();
}

pub(super) fn clones_of_a_waker_wake_the_same_engine<F: Fixture>() {
    let mut one = Rig::<F>::new();
    let mut two = Rig::<F>::new();
    let waker = one.fixture.engine().waker();
    let clone = waker.clone();
    drop(waker);
    clone.wake();
    one.poll(Duration::from_secs(5));
    assert_eq!(one.take_all().into_iter().filter(is_woken).count(), 1);
    two.expect_quiet();
    one.finish();
    // Nobody is there any more; it does nothing.
    clone.wake();
    two.expect_quiet();
    two.finish();
}

pub(super) fn an_engine_with_nothing_to_do_does_nothing<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (listener, _) = rig.listen();
    rig.accept(listener, 4);
    let mut pairs = rig.pairs(10);
    for (socket, peer) in pairs.iter_mut().take(5) {
        rig.receive(*socket);
        rig.write_all(peer, b"once");
        assert_eq!(rig.receive_exactly(*socket, 4), b"once");
    }
    rig.expect_quiet();
    let before = rig.counters();
    for _ in 0..50 {
        rig.turn();
    }
    let after = rig.counters();
    assert_eq!(after.completions, before.completions);
    assert!(after.polls - before.polls <= 100, "{} system calls in 50 polls", after.polls - before.polls);
    rig.finish();
}

pub(super) fn time_stands_still_outside_poll<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (socket, mut peer) = rig.pair();
    let mut last = rig.fixture.engine().now();
    for _ in 0..20 {
        // The clock on the wall goes on meanwhile, and operations are recorded.
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_millis(1) {
            std::hint::spin_loop();
        }
        rig.receive(socket);
        rig.pause(socket);
        peer.try_write(b"x").expect("there is room");
        assert_eq!(rig.fixture.engine().now(), last);
        rig.poll(Duration::from_millis(2));
        assert!(rig.fixture.engine().now() >= last, "time goes forward");
        last = rig.fixture.engine().now();
    }
    assert!(last > Time::ZERO);
    rig.take_all();
    rig.finish();
}

pub(super) fn methods_only_record_until_the_next_poll<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (listener, address) = rig.listen();
    let (socket, mut peer) = rig.pair();
    rig.write_all(&mut peer, b"there");
    let mut accepted = rig.fixture.connect_peer(address, None);
    // Everything could complete at once; the methods return with nothing done that anybody can see, and
    // one or a few polls bring it all.
    rig.receive(socket);
    rig.send(socket, gather_of(b"answer"));
    rig.accept(listener, 1);
    let client = rig.connect(address);
    assert_eq!(rig.arena().outstanding(), 0);
    assert_eq!(rig.count(|_| true), 0);
    assert_eq!(rig.receive_exactly(socket, 5), b"there");
    rig.expect_sent(socket).1.expect("the peer is there");
    rig.expect_accepted(listener);
    rig.expect_connected(client).expect("somebody listens");
    assert_eq!(rig.read_exactly(&mut peer, 6), b"answer");
    rig.close_now(client, CloseMode::Orderly);
    assert!(rig.read_to_end(&mut accepted).0.is_empty());
    rig.finish();
}

pub(super) fn a_poll_with_a_deadline_in_the_past_returns_at_once<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (socket, mut peer) = rig.pair();
    rig.receive(socket);
    rig.turn();
    let begin = std::time::Instant::now();
    for _ in 0..100 {
        rig.poll_until(Some(Time::ZERO));
        let now = rig.fixture.engine().now();
        rig.poll_until(Some(now));
    }
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?} for 200 polls that don't wait", begin.elapsed());
    rig.expect_quiet();
    // It looks all the same: an engine that is always polled like this still makes progress.
    rig.write_all(&mut peer, b"data");
    let mut polls = 0;
    while rig.count(|event| matches!(event, Completion::Received { .. })) == 0 {
        rig.poll_until(Some(Time::ZERO));
        polls += 1;
        assert!(polls < 1_000_000, "no progress");
    }
    rig.finish();
}

pub(super) fn a_poll_reaches_its_deadline<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    rig.expect_quiet();
    for _ in 0..3 {
        let begin = rig.fixture.engine().now();
        let deadline = begin + Duration::from_millis(20);
        // A poll may return early with nothing; time gets there in a few, and not far beyond.
        let mut polls = 0;
        while rig.fixture.engine().now() < deadline {
            rig.poll_until(Some(deadline));
            polls += 1;
            assert!(polls <= 20, "{polls} polls that returned early with nothing");
        }
        let late = rig.fixture.engine().now().saturating_since(deadline);
        assert!(late < Duration::from_millis(180), "{late:?} too late");
        assert!(rig.take_all().is_empty());
    }
    rig.finish();
}

pub(super) fn a_poll_appends_behind_what_is_there<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let waker = rig.fixture.engine().waker();
    let mut completions = Vec::new();
    for count in 1..=3 {
        waker.wake();
        let deadline = rig.fixture.engine().now() + Duration::from_secs(5);
        rig.fixture.poll(Some(deadline), &mut completions).expect("the engine works");
        assert_eq!(completions.iter().filter(|event| is_woken(event)).count(), count, "nothing is taken away");
    }
    rig.finish();
}

pub(super) fn random_numbers_differ<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let engine = rig.fixture.engine_mut();
    let mut numbers: Vec<_> = (0..1000).map(|_| engine.random()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 1000);
    rig.finish();
}
