//! Dropping an engine: E24.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::fixture::{Fixture, Peer};
use super::material::{Watched, assert_same_bytes, gather_of, pattern};
use super::rig::{PATIENCE, Rig, read_available};
use super::sending::{MORE_THAN_FITS, block};
use crate::engine::CloseMode;

/// After the engine is gone: waits until every peer has seen an end, of whatever kind, and gives what each has read before.
fn assert_all_end<P: Peer>(peers: &mut [P]) -> Vec<Vec<u8>> {
    let patience = Instant::now() + PATIENCE;
    let read_to_end = |peer: &mut P| {
        let mut bytes = Vec::new();
        while read_available(peer, &mut bytes).is_none() {
            assert!(Instant::now() < patience, "a connection outlives its engine");
            peer.pass_time();
        }
        bytes
    };
    peers.iter_mut().map(read_to_end).collect()
}

pub(super) fn tear_down_with_everything_in_flight_frees_everything<F: Fixture>() {
    let mut rig = Rig::<F>::sized(64, 8);
    let drops = Arc::new(AtomicUsize::new(0));
    let mut peers = Vec::new();
    let (listener, listening) = rig.listen();
    rig.accept(listener, 10);

    // Sends that wait for their peers; two with a receive beside them, one of them being closed.
    for number in 0..4 {
        let (socket, peer) = rig.pair_with(Some(8 * 1024));
        if number >= 2 {
            rig.receive(socket);
        }
        block(&mut rig, socket, gather_of(Watched::payload(pattern(35, MORE_THAN_FITS), &drops)));
        if number == 3 {
            rig.close(socket, CloseMode::Orderly);
        }
        peers.push(peer);
    }
    // Receives that wait for data, one being paused, one with data that has just come.
    for number in 0..6 {
        let (socket, mut peer) = rig.pair();
        rig.receive(socket);
        rig.turn();
        if number == 0 {
            rig.pause(socket);
        }
        if number == 1 {
            peer.try_write(b"just now").expect("there is room");
        }
        peers.push(peer);
    }
    // Connects that nobody answers, and one that was not even submitted.
    let silent = rig.fixture.silent_address();
    for _ in 0..3 {
        rig.connect(silent);
    }
    rig.turn();
    rig.take_all();
    rig.connect(listening);
    // Receives in line for a buffer.
    let (_hog, hog_peer, held) = rig.hold_all_buffers();
    peers.push(hog_peer);
    for _ in 0..4 {
        let (socket, mut peer) = rig.pair();
        rig.write_all(&mut peer, b"waiting");
        rig.receive(socket);
        peers.push(peer);
    }
    rig.turn();
    rig.take_all();
    // A send that was recorded and not submitted.
    let (socket, peer) = rig.pair();
    rig.take_all();
    rig.send(socket, gather_of(Watched::payload(pattern(36, 1000), &drops)));
    peers.push(peer);
    drop(held);

    let arena = rig.arena();
    let begin = Instant::now();
    drop(rig);
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?} to reap what can be cancelled", begin.elapsed());
    assert_eq!(drops.load(Ordering::SeqCst), 5, "every gather is freed");
    assert_eq!(arena.outstanding(), 0, "every buffer is home");
    let wanted = pattern(35, MORE_THAN_FITS);
    for got in &assert_all_end(&mut peers)[..4] {
        assert_same_bytes(got, &wanted[..got.len()], "what the peer of a blocked send got");
    }
}

pub(super) fn tear_down_with_nothing_polled_frees_everything<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let pairs = rig.pairs(4);
    let drops = Arc::new(AtomicUsize::new(0));
    let (listener, address) = rig.listen();
    rig.accept(listener, 3);
    rig.connect(address);
    for (socket, _) in &pairs {
        rig.receive(*socket);
        rig.send(*socket, gather_of(Watched::payload(pattern(37, 100_000), &drops)));
    }
    rig.close(pairs[0].0, CloseMode::Abort);
    rig.close_listener(listener, 5);
    let arena = rig.arena();
    drop(rig);
    assert_eq!(drops.load(Ordering::SeqCst), 4);
    assert_eq!(arena.outstanding(), 0);
    let mut peers: Vec<_> = pairs.into_iter().map(|(_, peer)| peer).collect();
    assert_all_end(&mut peers);
    // An engine that never did anything.
    drop(Rig::<F>::new());
}

pub(super) fn a_buffer_outlives_its_engine<F: Fixture>() {
    let mut rig = Rig::<F>::sized(4, 4);
    let (socket, mut peer) = rig.pair();
    rig.receive(socket);
    rig.write_all(&mut peer, b"kept");
    let kept = rig.expect_received(socket);
    rig.write_all(&mut peer, b"lent");
    let lent = rig.expect_received(socket).into_bytes();
    let arena = rig.arena();
    drop(rig);
    assert_eq!((&kept[..], &lent[..]), (&b"kept"[..], &b"lent"[..]));
    drop(kept);
    std::thread::spawn(move || drop(lent)).join().expect("the borrower ends");
    arena.collect_returned();
    assert_eq!(arena.outstanding(), 0);
}

/// Only where the system may keep the memory of an operation for longer than a tear-down waits.
pub(super) fn a_tear_down_without_time_leaks_and_does_not_free<F: Fixture>() {
    let mut rig = Rig::<F>::with(|config| config.teardown_limit = Duration::ZERO);
    let drops = Arc::new(AtomicUsize::new(0));
    let (socket, mut peer) = rig.pair_with(Some(8 * 1024));
    let wanted = pattern(39, MORE_THAN_FITS);
    block(&mut rig, socket, gather_of(Watched::payload(wanted.clone(), &drops)));
    drop(rig);
    assert_eq!(drops.load(Ordering::SeqCst), 0, "memory that the system may still use was freed");
    let got = assert_all_end(std::slice::from_mut(&mut peer)).remove(0);
    assert_same_bytes(&got, &wanted[..got.len()], "what the peer got");
}
