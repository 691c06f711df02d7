//! Half-closing: E19.

use super::fixture::{Fixture, Peer};
use super::material::{assert_same_bytes, pattern};
use super::rig::{Ending, QUIET_TURNS, Rig};
use crate::engine::CloseMode;

pub(super) fn a_half_close_shows_the_end_after_everything_sent<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    for receiving in [false, true] {
        let (socket, mut peer) = rig.pair();
        if receiving {
            rig.receive(socket);
            rig.turn();
        }
        let bytes = pattern(23, 60_000);
        rig.send_now(socket, bytes.clone());
        rig.shutdown_write(socket);
        rig.expect_write_shut(socket).expect("the peer is there");
        let (got, ending) = rig.read_to_end(&mut peer);
        assert_same_bytes(&got, &bytes, "what came before the end");
        assert_eq!(ending, Ending::Finished);
        rig.expect_quiet();
    }
    rig.finish();
}

pub(super) fn receiving_goes_on_after_a_half_close<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    for receiving in [true, false] {
        let (socket, mut peer) = rig.pair();
        if receiving {
            rig.receive(socket);
        }
        rig.shutdown_write(socket);
        rig.expect_write_shut(socket).expect("the peer is there");
        assert_eq!(rig.read_to_end(&mut peer), (Vec::new(), Ending::Finished));
        let bytes = pattern(24, 50_000);
        if !receiving {
            rig.receive(socket);
        }
        rig.write_all(&mut peer, &bytes);
        assert_same_bytes(&rig.receive_exactly(socket, bytes.len()), &bytes, "data after the half-close");
        // Pausing works as before.
        rig.pause(socket);
        rig.expect_paused(socket);
        peer.finish();
        rig.expect_quiet();
        rig.receive(socket);
        rig.expect_finished(socket);
        rig.close_now(socket, CloseMode::Orderly);
    }
    rig.finish();
}

pub(super) fn both_sides_half_close_and_every_byte_arrives<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (up, down) = (pattern(25, 40_000), pattern(26, 40_000));
    // The peer first, then the engine: what is sent after the peer's end still arrives.
    let (socket, mut peer) = rig.pair();
    rig.write_all(&mut peer, &up);
    peer.finish();
    rig.receive(socket);
    rig.expect_finished(socket);
    assert_same_bytes(&rig.received(socket), &up, "what came before the end");
    rig.send_now(socket, down.clone());
    rig.shutdown_write(socket);
    rig.expect_write_shut(socket).expect("the peer is there");
    let (got, ending) = rig.read_to_end(&mut peer);
    assert_same_bytes(&got, &down, "what was sent after the end of the peer");
    assert_eq!(ending, Ending::Finished);
    rig.close_now(socket, CloseMode::Orderly);

    // Both at once.
    let (socket, mut peer) = rig.pair();
    rig.receive(socket);
    rig.shutdown_write(socket);
    rig.write_all(&mut peer, &up);
    peer.finish();
    rig.expect_write_shut(socket).expect("the peer is there");
    rig.expect_finished(socket);
    assert_same_bytes(&rig.received(socket), &up, "what came before the end");
    assert_eq!(rig.read_to_end(&mut peer), (Vec::new(), Ending::Finished));
    rig.close_now(socket, CloseMode::Orderly);
    rig.finish();
}

pub(super) fn a_half_close_after_the_peer_is_gone_completes_once<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (socket, peer) = rig.pair();
    peer.reset();
    for _ in 0..QUIET_TURNS {
        rig.turn();
    }
    rig.shutdown_write(socket);
    // Done or failed: the system decides. Once, in either case.
    let _ = rig.expect_write_shut(socket);
    rig.expect_quiet();
    rig.close_now(socket, CloseMode::Orderly);
    rig.finish();
}
