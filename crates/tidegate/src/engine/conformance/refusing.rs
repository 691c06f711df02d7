//! Turning connections away: E26.

use std::io;

use super::fixture::{Fixture, Peer, StreamOf};
use super::material::{assert_same_bytes, pattern};
use super::rig::{Ending, QUIET_TURNS, Rig};
use crate::engine::{ANSWER_BYTES_MAX, CloseMode};

/// As long as an answer may be.
static LONGEST: [u8; ANSWER_BYTES_MAX] = [b'n'; ANSWER_BYTES_MAX];

/// A connection that was accepted and not adopted, and its peer.
fn accepted<F: Fixture>(rig: &mut Rig<F>) -> (StreamOf<F>, F::Peer) {
    let (listener, address) = rig.listen();
    let peer = rig.fixture.connect_peer(address, None);
    rig.accept(listener, 1);
    (rig.expect_accepted(listener).0, peer)
}

pub(super) fn a_refused_peer_reads_the_answer_and_then_the_end<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (stream, mut peer) = accepted(&mut rig);
    rig.refuse(stream, &LONGEST);
    // Recorded only: nothing is sent before the next poll.
    let error = peer.try_read(&mut [0; 8]).expect_err("nothing to read yet");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    let (got, ending) = rig.read_to_end(&mut peer);
    assert_same_bytes(&got, &LONGEST, "the answer");
    assert_eq!(ending, Ending::Finished);
    rig.finish();
}

pub(super) fn a_refusal_without_an_answer_is_the_end<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (stream, mut peer) = accepted(&mut rig);
    rig.refuse(stream, b"");
    assert_eq!(rig.read_to_end(&mut peer), (Vec::new(), Ending::Finished));
    rig.finish();
}

pub(super) fn a_refusal_throws_away_what_has_arrived_and_does_not_reset<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    for length in [1, 3_000, 60_000] {
        let (stream, mut peer) = accepted(&mut rig);
        rig.write_all(&mut peer, &pattern(31, length));
        // Long enough for all of it to arrive.
        for _ in 0..QUIET_TURNS {
            rig.turn();
        }
        rig.refuse(stream, b"busy");
        assert_eq!(rig.read_to_end(&mut peer), (b"busy".to_vec(), Ending::Finished), "after {length} bytes");
    }
    rig.finish();
}

pub(super) fn a_refusal_takes_no_place_no_buffer_and_no_completion<F: Fixture>() {
    let mut rig = Rig::<F>::sized(1, 2);
    let (only, mut its_peer, held) = rig.hold_all_buffers();
    let refused: Vec<_> = (0..10).map(|_| accepted(&mut rig)).collect();
    let mut peers = Vec::new();
    for (stream, peer) in refused {
        rig.refuse(stream, b"no place");
        peers.push(peer);
    }
    rig.expect_quiet();
    for peer in &mut peers {
        assert_eq!(rig.read_to_end(peer), (b"no place".to_vec(), Ending::Finished));
    }
    // The one that has the place is none the worse.
    drop(held);
    rig.send_now(only, b"still here".to_vec());
    assert_eq!(rig.read_exactly(&mut its_peer, 10), b"still here");
    rig.close_now(only, CloseMode::Abort);
    rig.finish();
}

pub(super) fn refusing_a_peer_that_is_gone_harms_nobody<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (reset, peer) = accepted(&mut rig);
    peer.reset();
    let (finished, peer) = accepted(&mut rig);
    drop(peer);
    for _ in 0..QUIET_TURNS {
        rig.turn();
    }
    rig.refuse(reset, b"busy");
    rig.refuse(finished, b"busy");
    rig.expect_quiet();
    let (socket, mut peer) = rig.pair();
    rig.send_now(socket, b"you".to_vec());
    assert_eq!(rig.read_exactly(&mut peer, 3), b"you");
    rig.finish();
}

pub(super) fn what_was_refused_last_is_answered_at_the_end_of_the_engine<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (stream, mut peer) = accepted(&mut rig);
    rig.refuse(stream, b"closing");
    drop(rig);
    let (mut got, mut block) = (Vec::new(), [0; 64]);
    let begun = std::time::Instant::now();
    loop {
        match peer.try_read(&mut block) {
            Ok(0) => break,
            Ok(count) => got.extend_from_slice(&block[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => peer.pass_time(),
            Err(error) => panic!("no end of the stream, but: {error}"),
        }
        assert!(begun.elapsed() < super::rig::PATIENCE, "the answer doesn't end");
    }
    assert_eq!(got, b"closing");
}
