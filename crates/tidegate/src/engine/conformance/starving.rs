//! An arena without a free buffer: E13.

use std::time::Duration;

use super::fixture::{Fixture, Peer};
use super::material::pattern;
use super::rig::{QUIET_TURNS, Rig};
use crate::engine::{CloseMode, Completion, Engine, SocketId};
use crate::memory::Buffer;

/// The sockets that have received something, in the order of the completions, and the buffers.
fn all_received<F: Fixture>(rig: &mut Rig<F>) -> Vec<(SocketId, Buffer)> {
    let mut received = Vec::new();
    while let Some(Completion::Received { socket, buffer }) =
        rig.take(|event| matches!(event, Completion::Received { .. }))
    {
        received.push((socket, buffer));
    }
    received
}

pub(super) fn an_empty_arena_is_neither_an_end_nor_an_error<F: Fixture>() {
    let mut rig = Rig::<F>::sized(64, 4);
    let mut pairs = rig.pairs(50);
    for (number, (socket, peer)) in pairs.iter_mut().enumerate() {
        rig.write_all(peer, &[number as u8; 100]);
        rig.receive(*socket);
    }
    let mut held = Vec::new();
    rig.until("four to have a buffer each", |rig| {
        held.extend(all_received(rig));
        held.len() == 4
    });
    rig.expect_quiet();
    assert_eq!(rig.arena().outstanding(), 4);
    // Each has got its own; and with the buffers back, all the others get theirs.
    let mut served = 0;
    while served < 50 {
        for (socket, buffer) in held.drain(..) {
            let number = pairs.iter().position(|(of, _)| *of == socket).expect("one of the pairs");
            assert_eq!(buffer[..], [number as u8; 100]);
            served += 1;
        }
        if served < 50 {
            rig.until("more to be served", |rig| {
                held.extend(all_received(rig));
                !held.is_empty()
            });
        }
    }
    rig.expect_quiet();
    rig.finish();
}

pub(super) fn as_many_receives_go_on_as_buffers_come_back_first_come_first_served<F: Fixture>() {
    let mut rig = Rig::<F>::sized(64, 4);
    let mut pairs = rig.pairs(50);
    for (_, peer) in &mut pairs {
        rig.write_all(peer, &[1; 100]);
    }
    rig.turn();
    for (socket, _) in &pairs {
        rig.receive(*socket);
    }
    let mut held = std::collections::VecDeque::new();
    rig.until("four to have a buffer each", |rig| {
        held.extend(all_received(rig));
        held.len() == 4
    });
    rig.expect_quiet();
    let mut served: Vec<SocketId> = held.iter().map(|(socket, _)| *socket).collect();
    for count in [1, 3, 2, 4, 1, 4].into_iter().cycle() {
        let left = pairs.len() - served.len();
        if left == 0 {
            break;
        }
        held.drain(..count);
        let due = count.min(left);
        let mut came = 0;
        rig.until("as many as buffers came back", |rig| {
            for (socket, buffer) in all_received(rig) {
                served.push(socket);
                held.push_back((socket, buffer));
                came += 1;
            }
            came >= due
        });
        rig.expect_quiet();
        assert_eq!(came, due, "{count} buffers came back");
    }
    let asked: Vec<SocketId> = pairs.iter().map(|(socket, _)| *socket).collect();
    assert_eq!(served[4..], asked[4..], "first come, first served");
    drop(held);
    rig.finish();
}

pub(super) fn nothing_happens_while_all_receives_wait_for_buffers<F: Fixture>() {
    let mut rig = Rig::<F>::sized(64, 4);
    let (_hog, _hog_peer, held) = rig.hold_all_buffers();
    let mut pairs = rig.pairs(50);
    for (socket, peer) in &mut pairs {
        rig.write_all(peer, &[1; 100]);
        rig.receive(*socket);
    }
    rig.expect_quiet();
    let before = rig.counters();
    assert!(before.starving >= 50, "{before:?}");
    for _ in 0..50 {
        rig.turn();
    }
    let after = rig.counters();
    assert_eq!(after.completions, before.completions, "an engine that spins on an empty arena");
    assert!(after.polls - before.polls <= 100, "{} system calls in 50 polls", after.polls - before.polls);
    assert_eq!(after.starving, before.starving);
    drop(held);
    rig.finish();
}

pub(super) fn pausing_a_receive_in_line_gives_up_its_place_and_loses_nothing<F: Fixture>() {
    let mut rig = Rig::<F>::sized(8, 2);
    let (_hog, _hog_peer, mut held) = rig.hold_all_buffers();
    let mut pairs = rig.pairs(3);
    for (number, (socket, peer)) in pairs.iter_mut().enumerate() {
        rig.write_all(peer, &[number as u8; 10]);
        rig.receive(*socket);
        rig.expect_quiet();
    }
    let (first, second, third) = (pairs[0].0, pairs[1].0, pairs[2].0);
    assert!(rig.pause(first));
    rig.expect_paused(first);
    held.pop();
    // The paused one would have been the next; now the second is.
    let of_second = rig.expect_received(second);
    assert_eq!(of_second[..], [1; 10]);
    rig.expect_quiet();
    // Resumed, it stands at the end of the line.
    rig.receive(first);
    rig.expect_quiet();
    drop(of_second);
    let of_third = rig.expect_received(third);
    assert_eq!(of_third[..], [2; 10]);
    rig.expect_quiet();
    drop(of_third);
    assert_eq!(rig.expect_received(first)[..], [0; 10]);
    drop(held);
    rig.finish();
}

pub(super) fn closing_a_socket_in_line_lets_the_others_go_on<F: Fixture>() {
    let mut rig = Rig::<F>::sized(8, 2);
    let (_hog, _hog_peer, mut held) = rig.hold_all_buffers();
    let mut pairs = rig.pairs(4);
    for (socket, peer) in &mut pairs {
        rig.write_all(peer, b"waiting");
        rig.receive(*socket);
        rig.expect_quiet();
    }
    rig.close_now(pairs[0].0, CloseMode::Orderly);
    rig.close(pairs[2].0, CloseMode::Abort);
    held.clear();
    rig.expect_closed(pairs[2].0);
    for number in [1, 3] {
        assert_eq!(rig.receive_exactly(pairs[number].0, 7), b"waiting");
    }
    rig.until("the line to be empty", |rig| rig.counters().starving == 0);
    rig.finish();
}

pub(super) fn an_idle_receive_in_line_keeps_no_buffer_from_others<F: Fixture>() {
    let mut rig = Rig::<F>::sized(16, 2);
    let (_hog, _hog_peer, mut held) = rig.hold_all_buffers();
    let idle = rig.pairs(6);
    for (socket, _) in &idle {
        rig.receive(*socket);
    }
    let (socket, mut peer) = rig.pair();
    rig.write_all(&mut peer, b"busy");
    rig.receive(socket);
    rig.expect_quiet();
    held.pop();
    // The idle ones stand before it, but they have no use for the buffer.
    assert_eq!(rig.receive_exactly(socket, 4), b"busy");
    rig.expect_quiet();
    for (socket, mut peer) in idle {
        rig.write_all(&mut peer, b"awake");
        assert_eq!(rig.receive_exactly(socket, 5), b"awake");
    }
    drop(held);
    rig.finish();
}

pub(super) fn a_buffer_finds_who_has_use_for_it_without_other_traffic<F: Fixture>() {
    let mut rig = Rig::<F>::sized(16, 2);
    let (_hog, _hog_peer, mut held) = rig.hold_all_buffers();
    let idle = rig.pairs(6);
    for (socket, _) in &idle {
        rig.receive(*socket);
    }
    let (socket, mut peer) = rig.pair();
    rig.write_all(&mut peer, b"busy");
    rig.receive(socket);
    rig.expect_quiet();
    held.pop();
    // Polls that wait for long: nothing but the buffer can end them.
    let begin = rig.fixture.engine().now();
    while rig.received(socket) != b"busy" {
        let waited = rig.fixture.engine().now().saturating_since(begin);
        assert!(waited < Duration::from_secs(5), "asleep with a free buffer and data to receive");
        rig.poll(Duration::from_secs(20));
    }
    let waited = rig.fixture.engine().now().saturating_since(begin);
    assert!(waited < Duration::from_secs(5), "asleep for {waited:?} with a free buffer and data to receive");
    drop((held, idle));
    rig.finish();
}

pub(super) fn the_end_of_a_stream_is_seen_after_starving<F: Fixture>() {
    let mut rig = Rig::<F>::sized(8, 2);
    let (_hog, _hog_peer, held) = rig.hold_all_buffers();
    let (silent, mut silent_peer) = rig.pair();
    let (talking, mut talking_peer) = rig.pair();
    let (reset, reset_peer) = rig.pair();
    for socket in [silent, talking, reset] {
        rig.receive(socket);
    }
    let bytes = pattern(13, 20_000);
    rig.write_all(&mut talking_peer, &bytes);
    talking_peer.finish();
    silent_peer.finish();
    reset_peer.reset();
    for _ in 0..QUIET_TURNS {
        rig.turn();
    }
    drop(held);
    let got = rig.receive_exactly(talking, bytes.len());
    assert_eq!(got, bytes);
    rig.expect_finished(talking);
    rig.expect_finished(silent);
    rig.expect_failed(reset);
    rig.expect_quiet();
    rig.finish();
}

pub(super) fn a_lent_buffer_that_comes_home_revives_a_receive_in_line<F: Fixture>() {
    let mut rig = Rig::<F>::sized(8, 2);
    let (_hog, _hog_peer, held) = rig.hold_all_buffers();
    let lent: Vec<_> = held.into_iter().map(Buffer::into_bytes).collect();
    let (socket, mut peer) = rig.pair();
    rig.write_all(&mut peer, b"next");
    rig.receive(socket);
    rig.expect_quiet();
    std::thread::spawn(move || drop(lent)).join().expect("the borrower ends");
    assert_eq!(rig.receive_exactly(socket, 4), b"next");
    rig.take_all();
    assert_eq!(rig.arena().outstanding(), 0);
    rig.finish();
}
