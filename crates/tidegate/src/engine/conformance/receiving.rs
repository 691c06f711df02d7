//! Receiving by demand: E10 and E12.

use std::io;

use super::fixture::{Fixture, Peer};
use super::material::{assert_same_bytes, pattern};
use super::rig::{QUIET_TURNS, Rig};

pub(super) fn a_receive_without_data_holds_no_buffer<F: Fixture>() {
    let mut rig = Rig::<F>::sized(64, 4);
    let mut pairs = rig.pairs(50);
    for (socket, _) in &pairs {
        rig.receive(*socket);
    }
    rig.expect_quiet();
    assert_eq!(rig.arena().outstanding(), 0);
    // All 50 wait, four buffers are there, and the last who asked gets data as well as the first.
    for number in [49, 0, 25] {
        let (socket, peer) = &mut pairs[number];
        rig.write_all(peer, b"data");
        assert_eq!(rig.receive_exactly(*socket, 4), b"data");
    }
    rig.expect_quiet();
    assert_eq!(rig.arena().outstanding(), 0);
    rig.finish();
}

pub(super) fn data_arrives_in_order_without_another_call<F: Fixture>() {
    let mut rig = Rig::<F>::sized(4, 16);
    let (socket, mut peer) = rig.pair();
    rig.receive(socket);
    let (wanted, mut got, mut written) = (pattern(3, 1024 * 1024), Vec::new(), 0);
    // Bursts of many sizes, some smaller than a buffer, with and without a turn between them.
    for (number, size) in [1, 10, 4095, 4096, 4097, 1, 30_000, 8192].into_iter().cycle().enumerate() {
        let end = (written + size).min(wanted.len());
        rig.write_all(&mut peer, &wanted[written..end]);
        written = end;
        if number % 3 == 0 {
            rig.turn();
        }
        got.extend(rig.received(socket));
        if written == wanted.len() {
            break;
        }
    }
    got.extend(rig.receive_exactly(socket, wanted.len() - got.len()));
    assert_same_bytes(&got, &wanted, "what was received");
    rig.finish();
}

pub(super) fn asking_twice_is_asking_once<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (socket, mut peer) = rig.pair();
    rig.receive(socket);
    rig.receive(socket);
    rig.turn();
    rig.receive(socket);
    rig.write_all(&mut peer, b"once");
    assert_eq!(rig.receive_exactly(socket, 4), b"once");
    rig.receive(socket);
    assert!(rig.pause(socket));
    rig.expect_paused(socket);
    rig.write_all(&mut peer, b"kept");
    rig.expect_quiet();
    rig.receive(socket);
    assert_eq!(rig.receive_exactly(socket, 4), b"kept");
    peer.finish();
    rig.expect_finished(socket);
    rig.expect_quiet();
    rig.finish();
}

pub(super) fn the_end_of_the_stream_comes_once_after_all_data<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    // The end behind data, in the same batch; the end alone; the end before anybody asks.
    for length in [0, 1, 4096, 50_000] {
        for asked_before in [true, false] {
            let (socket, mut peer) = rig.pair();
            let bytes = pattern(length as u64, length);
            if asked_before {
                rig.receive(socket);
                rig.turn();
            }
            rig.write_all(&mut peer, &bytes);
            peer.finish();
            if !asked_before {
                rig.receive(socket);
            }
            rig.expect_finished(socket);
            assert_same_bytes(&rig.received(socket), &bytes, "what came before the end");
            rig.expect_quiet();
            // There is nothing more to ask for.
            rig.receive(socket);
            rig.expect_quiet();
        }
    }
    rig.finish();
}

pub(super) fn a_reset_is_a_failed_receive_and_comes_once<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    for asked_before in [true, false] {
        let (socket, peer) = rig.pair();
        if asked_before {
            rig.receive(socket);
            rig.turn();
        }
        peer.reset();
        for _ in 0..QUIET_TURNS {
            rig.turn();
        }
        if !asked_before {
            rig.receive(socket);
        }
        let error = rig.expect_failed(socket);
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
        rig.expect_quiet();
        rig.receive(socket);
        rig.expect_quiet();
    }
    rig.finish();
}

pub(super) fn a_full_buffer_is_as_long_as_the_arena_says<F: Fixture>() {
    let mut rig = Rig::<F>::with(|config| config.arena.buffer_bytes = 8192);
    let (socket, mut peer) = rig.pair();
    rig.write_all(&mut peer, &pattern(4, 16_384));
    rig.turn();
    rig.receive(socket);
    let first = rig.expect_received(socket);
    assert_eq!(first.len(), 8192, "all was there, and a buffer takes 8,192 bytes");
    drop(first);
    assert_eq!(rig.receive_exactly(socket, 8192), pattern(4, 16_384)[8192..]);
    rig.finish();
}

pub(super) fn unread_bytes_are_what_was_not_asked_for_or_unknown<F: Fixture>() {
    use crate::engine::Engine;
    let mut rig = Rig::<F>::new();
    let (socket, mut peer) = rig.pair();
    assert_eq!(rig.fixture.engine().unread_bytes(socket), 0);
    rig.write_all(&mut peer, &pattern(5, 1000));
    for _ in 0..QUIET_TURNS {
        rig.turn();
    }
    let unread = rig.fixture.engine().unread_bytes(socket);
    assert!(unread == 1000 || unread == 0, "{unread} of 1000 bytes");
    rig.receive(socket);
    rig.receive_exactly(socket, 1000);
    assert_eq!(rig.fixture.engine().unread_bytes(socket), 0);
    rig.finish();
}
