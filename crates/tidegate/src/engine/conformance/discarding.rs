//! Receiving to throw away: E15.

use std::io;

use super::fixture::{Fixture, Peer};
use super::material::pattern;
use super::rig::{Rig, write_available};
use crate::engine::{Completion, SocketId};

/// Takes what `socket` has discarded so far.
fn discarded<F: Fixture>(rig: &mut Rig<F>, socket: SocketId) -> usize {
    let mut total = 0;
    while let Some(Completion::Discarded { bytes, .. }) =
        rig.take(|event| matches!(event, Completion::Discarded { socket: of, .. } if *of == socket))
    {
        total += bytes;
    }
    total
}

pub(super) fn discarding_counts_every_byte_and_uses_no_buffer<F: Fixture>() {
    let mut rig = Rig::<F>::sized(8, 4);
    let (_hog, _hog_peer, held) = rig.hold_all_buffers();
    let (socket, mut peer) = rig.pair();
    rig.discard(socket);
    let wanted = pattern(9, 1024 * 1024);
    let (mut written, mut total) = (0, 0);
    rig.until("all to be discarded", |rig| {
        written += write_available(&mut peer, &wanted[written..]);
        total += discarded(rig, socket);
        total == wanted.len()
    });
    assert_eq!(rig.arena().outstanding(), rig.arena().buffers());
    peer.finish();
    rig.expect_finished(socket);
    rig.expect_quiet();
    drop(held);
    rig.finish();
}

pub(super) fn what_was_filled_before_a_discard_is_counted_and_goes_home<F: Fixture>() {
    for (turns, paused) in [(0, false), (1, false), (2, false), (1, true)] {
        let mut rig = Rig::<F>::sized(4, 16);
        let (socket, mut peer) = rig.pair();
        let bytes = pattern(10, 40_000);
        rig.write_all(&mut peer, &bytes);
        rig.receive(socket);
        for _ in 0..turns {
            rig.poll(std::time::Duration::ZERO);
        }
        if paused {
            rig.pause(socket);
        }
        rig.discard(socket);
        peer.finish();
        rig.expect_finished(socket);
        // Delivered before the discard, or thrown away and counted: every byte is one or the other.
        let total = rig.received(socket).len() + discarded(&mut rig, socket);
        assert_eq!(total, bytes.len());
        assert_eq!(rig.arena().outstanding(), 0);
        rig.finish();
    }
}

pub(super) fn a_discard_of_a_paused_socket_reports_the_end<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (socket, mut peer) = rig.pair();
    rig.receive(socket);
    rig.turn();
    rig.pause(socket);
    rig.expect_paused(socket);
    rig.write_all(&mut peer, &pattern(11, 5000));
    peer.finish();
    rig.expect_quiet();
    rig.discard(socket);
    rig.expect_finished(socket);
    assert_eq!(discarded(&mut rig, socket), 5000);
    rig.expect_quiet();
    rig.finish();
}

pub(super) fn a_discard_reports_a_reset_once<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (socket, peer) = rig.pair();
    rig.discard(socket);
    rig.turn();
    peer.reset();
    assert_eq!(rig.expect_failed(socket).kind(), io::ErrorKind::ConnectionReset);
    rig.expect_quiet();
    // Asking again, in either way, changes nothing.
    rig.discard(socket);
    rig.receive(socket);
    rig.expect_quiet();
    rig.finish();
}

pub(super) fn a_discard_in_line_needs_no_buffer<F: Fixture>() {
    let mut rig = Rig::<F>::sized(8, 2);
    let (_hog, _hog_peer, held) = rig.hold_all_buffers();
    let (socket, mut peer) = rig.pair();
    rig.write_all(&mut peer, &pattern(12, 3000));
    rig.receive(socket);
    rig.expect_quiet();
    rig.discard(socket);
    peer.finish();
    rig.expect_finished(socket);
    assert_eq!(discarded(&mut rig, socket), 3000);
    assert_eq!(rig.counters().starving, 0, "it has left the line");
    drop(held);
    rig.finish();
}
