//! Pausing, in every state of a receive: E11 and the second half of E12.

use std::io;

use super::fixture::{Fixture, Peer};
use super::material::{Choices, assert_same_bytes, pattern};
use super::rig::{QUIET_TURNS, Rig, write_available};
use crate::engine::{CloseMode, Completion, SocketId};

pub(super) fn pausing_an_idle_receive_completes_and_stops_delivery<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (socket, mut peer) = rig.pair();
    rig.receive(socket);
    rig.expect_quiet();
    assert!(rig.pause(socket));
    rig.expect_paused(socket);
    rig.write_all(&mut peer, b"later");
    rig.expect_quiet();
    // A second pause is one of a socket that doesn't receive.
    assert!(!rig.pause(socket));
    rig.expect_quiet();
    rig.receive(socket);
    assert_eq!(rig.receive_exactly(socket, 5), b"later");
    rig.finish();
}

pub(super) fn pausing_a_socket_that_does_not_receive_does_nothing<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (socket, mut peer) = rig.pair();
    assert!(!rig.pause(socket));
    rig.expect_quiet();
    rig.write_all(&mut peer, b"data");
    assert!(!rig.pause(socket));
    rig.expect_quiet();
    rig.receive(socket);
    assert_eq!(rig.receive_exactly(socket, 4), b"data");
    rig.finish();
}

pub(super) fn pausing_a_receive_that_was_just_asked_for_loses_nothing<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    for data_before in [false, true] {
        let (socket, mut peer) = rig.pair();
        if data_before {
            rig.write_all(&mut peer, b"data");
            rig.turn();
        }
        rig.receive(socket);
        assert!(rig.pause(socket));
        rig.expect_paused(socket);
        let mut got = rig.received(socket);
        rig.expect_quiet();
        if !data_before {
            rig.write_all(&mut peer, b"data");
        }
        rig.receive(socket);
        got.extend(rig.receive_exactly(socket, 4 - got.len()));
        assert_eq!(got, b"data");
        rig.close_now(socket, CloseMode::Orderly);
    }
    rig.finish();
}

pub(super) fn pausing_while_data_races_keeps_what_was_filled_in_order<F: Fixture>() {
    let mut rig = Rig::<F>::sized(4, 64);
    let (socket, mut peer) = rig.pair();
    let wanted = pattern(6, 2 * 1024 * 1024);
    let (mut written, mut got) = (0, Vec::new());
    while got.len() < wanted.len() {
        // Data is there when the receive is armed, and more comes while it is cancelled.
        written += write_available(&mut peer, &wanted[written..wanted.len().min(written + 200_000)]);
        rig.receive(socket);
        rig.turn();
        rig.pause(socket);
        written += write_available(&mut peer, &wanted[written..wanted.len().min(written + 50_000)]);
        rig.expect_paused(socket);
        got.extend(rig.received(socket));
        for _ in 0..3 {
            rig.turn();
        }
        assert_eq!(rig.received(socket), b"", "data after ReceivePaused");
    }
    assert_same_bytes(&got, &wanted, "what was received around pauses");
    rig.finish();
}

pub(super) fn a_pause_that_is_called_off_leaves_a_receive_that_goes_on<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    for turns_between in [0, 1] {
        let (socket, mut peer) = rig.pair();
        rig.receive(socket);
        rig.turn();
        rig.pause(socket);
        for _ in 0..turns_between {
            rig.poll(std::time::Duration::ZERO);
        }
        // Still pausing, or paused already: either way it receives from here on.
        rig.receive(socket);
        for round in 0..5_u8 {
            rig.write_all(&mut peer, &[round; 100]);
            assert_eq!(rig.receive_exactly(socket, 100), [round; 100]);
        }
        rig.take_all();
        assert!(rig.pause(socket));
        rig.expect_paused(socket);
        rig.take_all();
    }
    rig.finish();
}

pub(super) fn pausing_and_resuming_at_random_loses_and_repeats_nothing<F: Fixture>() {
    for seed in 0..8 {
        let mut choices = Choices::new(seed);
        let mut rig = Rig::<F>::sized(4, 8);
        let (socket, mut peer) = rig.pair();
        let wanted = pattern(seed, 300_000);
        let (mut written, mut got) = (0, Vec::new());
        for _ in 0..600 {
            match choices.below(6) {
                0 | 1 => {
                    let size = 1 + choices.below(5000) as usize;
                    written += write_available(&mut peer, &wanted[written..wanted.len().min(written + size)]);
                }
                2 => rig.receive(socket),
                3 => drop(rig.pause(socket)),
                4 => drop(rig.poll(std::time::Duration::ZERO)),
                _ => got.extend(rig.received(socket)),
            }
        }
        rig.receive(socket);
        let mut rest = &wanted[written..];
        rig.until("the rest", |rig| {
            if !rest.is_empty() {
                rest = &rest[write_available(&mut peer, rest)..];
            }
            got.extend(rig.received(socket));
            got.len() >= wanted.len()
        });
        assert_same_bytes(&got, &wanted, "what was received at random");
        rig.finish();
    }
}

/// A paused receive, the pause still racing or long complete, or a receive never asked for.
fn pause_in_some_way<F: Fixture>(rig: &mut Rig<F>, socket: SocketId, way: usize) {
    if way > 0 {
        rig.receive(socket);
        rig.turn();
        rig.pause(socket);
        rig.expect_paused(socket);
    }
}

pub(super) fn a_paused_socket_reports_no_end_of_the_stream<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    for way in 0..2 {
        let (socket, mut peer) = rig.pair();
        pause_in_some_way(&mut rig, socket, way);
        rig.write_all(&mut peer, b"last words");
        peer.finish();
        rig.expect_quiet();
        rig.receive(socket);
        rig.expect_finished(socket);
        assert_eq!(rig.received(socket), b"last words");
    }
    rig.finish();
}

pub(super) fn a_paused_socket_reports_no_reset<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    for way in 0..2 {
        let (socket, peer) = rig.pair();
        pause_in_some_way(&mut rig, socket, way);
        peer.reset();
        rig.expect_quiet();
        rig.receive(socket);
        assert_eq!(rig.expect_failed(socket).kind(), io::ErrorKind::ConnectionReset);
    }
    rig.finish();
}

pub(super) fn a_pause_that_races_the_end_keeps_the_end_for_later<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    for (armed, reset) in [(true, false), (false, false), (true, true), (false, true)] {
        for length in [0, 100, 20_000] {
            let (socket, mut peer) = rig.pair();
            rig.receive(socket);
            if armed {
                rig.turn();
            }
            let bytes = pattern(7, length);
            rig.write_all(&mut peer, &bytes);
            let mut got = rig.received(socket);
            if reset {
                peer.reset();
            } else {
                peer.finish();
            }
            // The end may be on its way up already; the pause comes first for the caller all the same.
            let due = rig.pause(socket);
            if due {
                rig.expect_paused(socket);
                got.extend(rig.received(socket));
                rig.expect_quiet();
                rig.receive(socket);
            }
            if reset {
                rig.expect_failed(socket);
            } else {
                rig.expect_finished(socket);
            }
            got.extend(rig.received(socket));
            // A reset may destroy what was not received yet.
            assert_same_bytes(&got, &bytes[..if reset { got.len() } else { length }], "what came before the end");
            rig.take_all();
        }
    }
    rig.finish();
}

pub(super) fn a_pause_that_was_called_off_leaves_no_trace_behind_a_later_one<F: Fixture>() {
    let mut rig = Rig::<F>::sized(4, 2);
    let (_hog, _hog_peer, held) = rig.hold_all_buffers();
    let (socket, mut peer) = rig.pair();
    rig.write_all(&mut peer, b"data");
    rig.receive(socket);
    rig.until("the receive to starve", |rig| rig.counters().starving > 0);
    // Without a poll: paused in line, called off with buffers back, paused again. The monitor sees to it that no data comes
    // after the `ReceivePaused`, whichever pause it is of.
    rig.pause(socket);
    drop(held);
    rig.receive(socket);
    rig.pause(socket);
    rig.expect_paused(socket);
    let mut got = Vec::new();
    for _ in 0..QUIET_TURNS {
        rig.turn();
        got.extend(rig.received(socket));
    }
    rig.receive(socket);
    let rest = rig.receive_exactly(socket, 4 - got.len());
    got.extend(rest);
    assert_eq!(got, b"data");
    rig.finish();
}

pub(super) fn a_pause_that_follows_a_receive_hides_the_error_again<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (socket, peer) = rig.pair();
    rig.receive(socket);
    rig.turn();
    peer.reset();
    rig.pause(socket);
    rig.expect_paused(socket);
    rig.expect_quiet();
    for _ in 0..3 {
        rig.receive(socket);
        assert!(rig.pause(socket));
        rig.expect_paused(socket);
        rig.expect_quiet();
    }
    rig.receive(socket);
    assert_eq!(rig.expect_failed(socket).kind(), io::ErrorKind::ConnectionReset);
    rig.finish();
}

pub(super) fn pausing_a_receive_that_has_ended_does_nothing<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    for reset in [false, true] {
        let (socket, mut peer) = rig.pair();
        rig.receive(socket);
        if reset {
            peer.reset();
            rig.expect_failed(socket);
        } else {
            peer.finish();
            rig.expect_finished(socket);
        }
        rig.pause(socket);
        for _ in 0..QUIET_TURNS {
            rig.turn();
        }
        assert_eq!(rig.count(|event| matches!(event, Completion::ReceivePaused { .. })), 0);
        rig.receive(socket);
        rig.expect_quiet();
    }
    rig.finish();
}
