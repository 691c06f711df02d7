//! Sending: E16 to E18.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::fixture::{Fixture, Peer};
use super::material::{Choices, Watched, assert_same_bytes, gather_of, pattern, piece};
use super::rig::{Ending, QUIET_TURNS, Rig, read_available};
use crate::engine::{CloseMode, Completion, Engine, SocketId};
use crate::memory::{Gather, Payload};

/// More than any pair of socket buffers takes without a reader.
pub(super) const MORE_THAN_FITS: usize = 16 * 1024 * 1024;

/// Sends until a send stays in flight, to a peer that doesn't read. Says how many bytes were taken before.
pub(super) fn block<F: Fixture>(rig: &mut Rig<F>, socket: SocketId, mut gather: Box<Gather>) -> usize {
    let mut taken = 0;
    loop {
        rig.send(socket, gather);
        let mut back = None;
        for _ in 0..QUIET_TURNS {
            rig.turn();
            back = rig.take(|event| matches!(event, Completion::Sent { socket: of, .. } if *of == socket));
            if back.is_some() {
                break;
            }
        }
        let Some(Completion::Sent { gather: rest, result, .. }) = back else { return taken };
        let count = result.expect("the peer is there");
        taken += count;
        gather = rest;
        gather.advance(count, drop);
        assert!(!gather.is_empty(), "{taken} bytes went without a reader: this case would prove nothing");
    }
}

/// Sends all of `gather` while `peer` reads now and then. What the peer got, and how much each send took.
fn transfer<F: Fixture>(
    rig: &mut Rig<F>,
    socket: SocketId,
    gather: Box<Gather>,
    peer: &mut F::Peer,
    reads: u64,
) -> (Vec<u8>, Vec<usize>) {
    let total = gather.remaining();
    let (mut got, mut taken, mut choices) = (Vec::new(), Vec::new(), Choices::new(total as u64));
    rig.send(socket, gather);
    rig.until("all to be sent and read", |rig| {
        if choices.below(reads) == 0 {
            read_available(peer, &mut got);
        }
        if let Some(Completion::Sent { mut gather, result, .. }) =
            rig.take(|event| matches!(event, Completion::Sent { socket: of, .. } if *of == socket))
        {
            let count = result.expect("the peer is there");
            taken.push(count);
            gather.advance(count, drop);
            if !gather.is_empty() {
                rig.send(socket, gather);
            }
        }
        got.len() == total
    });
    (got, taken)
}

pub(super) fn a_send_brings_its_gather_back_with_what_was_taken<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (socket, mut peer) = rig.pair();
    let mut gather = gather_of(b"hello, ");
    gather.push(piece(b"world"));
    rig.send(socket, gather);
    let (mut gather, result) = rig.expect_sent(socket);
    let taken = result.expect("the peer is there");
    assert!((1..=12).contains(&taken));
    assert_eq!((gather.remaining(), gather.pieces()), (12, 2), "not advanced yet");
    gather.advance(taken, drop);
    assert_eq!(rig.read_exactly(&mut peer, taken), b"hello, world"[..taken]);
    rig.expect_quiet();
    rig.finish();
}

pub(super) fn a_gather_of_many_pieces_arrives_in_order<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    for pieces in [1, 63, 64, 65, 500] {
        let (socket, mut peer) = rig.pair();
        let mut gather = Box::new(Gather::default());
        let (mut wanted, mut choices) = (Vec::new(), Choices::new(pieces));
        for number in 0..pieces {
            let bytes = pattern(number, 1 + choices.below(2000) as usize);
            wanted.extend_from_slice(&bytes);
            // All kinds of payloads side by side.
            match number % 3 {
                0 => gather.push(piece(bytes)),
                1 => gather.push(piece(bytes::Bytes::from(bytes))),
                _ => gather.push(piece(Payload::copy_from(&bytes))),
            }
        }
        let (got, _) = transfer(&mut rig, socket, gather, &mut peer, 1);
        assert_same_bytes(&got, &wanted, "what the peer got");
    }
    rig.finish();
}

pub(super) fn a_large_gather_goes_in_slices_and_every_byte_is_right<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    for (receive_buffer, reads) in [(None, 1), (Some(8 * 1024), 2)] {
        let (socket, mut peer) = rig.pair_with(receive_buffer);
        let wanted = pattern(16, 8 * 1024 * 1024 / if receive_buffer.is_some() { 4 } else { 1 });
        let (got, taken) = transfer(&mut rig, socket, gather_of(wanted.clone()), &mut peer, reads);
        assert_same_bytes(&got, &wanted, "what the peer got");
        assert!(taken.len() >= wanted.len() / Gather::SLICE_BYTES);
        assert!(taken.iter().all(|&count| count <= Gather::SLICE_BYTES));
        rig.close_now(socket, CloseMode::Orderly);
    }
    rig.finish();
}

pub(super) fn a_send_that_is_blocked_completes_when_the_peer_reads<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (socket, mut peer) = rig.pair_with(Some(8 * 1024));
    let wanted = pattern(17, MORE_THAN_FITS);
    let taken = block(&mut rig, socket, gather_of(wanted.clone()));
    rig.expect_quiet();
    let mut got = Vec::new();
    rig.until("the send to go on", |rig| {
        read_available(&mut peer, &mut got);
        rig.count(|event| matches!(event, Completion::Sent { .. })) > 0
    });
    let (_, result) = rig.expect_sent(socket);
    let total = taken + result.expect("the peer reads");
    let rest = rig.read_exactly(&mut peer, total - got.len());
    got.extend(rest);
    // The engine doesn't repeat a short send: nothing more comes.
    rig.expect_quiet();
    read_available(&mut peer, &mut got);
    assert_same_bytes(&got, &wanted[..total], "what the peer got");
    rig.finish();
}

pub(super) fn a_send_after_the_peer_reset_fails_and_the_gather_comes_back<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (socket, peer) = rig.pair();
    rig.receive(socket);
    peer.reset();
    assert_eq!(rig.expect_failed(socket).kind(), io::ErrorKind::ConnectionReset);
    let drops = Arc::new(AtomicUsize::new(0));
    for _ in 0..3 {
        rig.send(socket, gather_of(Watched::payload(pattern(18, 1000), &drops)));
        let (gather, result) = rig.expect_sent(socket);
        let error = result.expect_err("nobody is there");
        let known = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
        assert!(known.contains(&error.kind()), "{error}");
        assert_eq!((gather.remaining(), drops.load(Ordering::SeqCst)), (1000, 0));
        drop(gather);
        assert_eq!(drops.swap(0, Ordering::SeqCst), 1);
    }
    // And a send that is blocked while the reset comes.
    let (socket, peer) = rig.pair_with(Some(8 * 1024));
    block(&mut rig, socket, gather_of(Watched::payload(pattern(19, MORE_THAN_FITS), &drops)));
    peer.reset();
    let (gather, result) = rig.expect_sent(socket);
    assert!(result.is_err(), "{result:?}");
    assert_eq!(drops.load(Ordering::SeqCst), 0);
    drop(gather);
    assert_eq!(drops.load(Ordering::SeqCst), 1);
    rig.finish();
}

pub(super) fn a_second_send_is_the_callers_error<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (socket, mut peer) = rig.pair();
    rig.send(socket, gather_of(b"first"));
    let engine = rig.fixture.engine_mut();
    let second = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine.send(socket, gather_of(b"second"))));
    assert_eq!(second.is_err(), cfg!(debug_assertions), "a panic in debug builds, and in no others");
    if let Ok(answer) = second {
        assert_eq!(answer.expect_err("one at a time").remaining(), 6);
    }
    // The first is not harmed.
    let (_, result) = rig.expect_sent(socket);
    let taken = result.expect("the peer is there");
    assert_eq!(rig.read_exactly(&mut peer, taken), b"first"[..taken]);
    rig.expect_quiet();
    rig.finish();
}

/// A send that is blocked, then cancelled by a close, of a payload that tells when it is freed. `before_close`
/// may tamper with the engine.
pub(super) fn cancel_a_watched_send<F: Fixture>(mode: CloseMode, before_close: impl FnOnce(&mut F)) {
    let mut rig = Rig::<F>::new();
    let drops = Arc::new(AtomicUsize::new(0));
    let (socket, mut peer) = rig.pair_with(Some(8 * 1024));
    let wanted = pattern(20, MORE_THAN_FITS);
    let taken = block(&mut rig, socket, gather_of(Watched::payload(wanted.clone(), &drops)));
    let mut got = Vec::new();
    // There is room again at the moment of the cancel, so that the system may still take bytes.
    read_available(&mut peer, &mut got);
    before_close(&mut rig.fixture);
    rig.close(socket, mode);
    let mut sent = None;
    rig.until("the last completion of the send", |rig| {
        if let Some(Completion::Sent { gather, result, .. }) =
            rig.take(|event| matches!(event, Completion::Sent { .. }))
        {
            sent = Some((gather, result));
        }
        assert_eq!(drops.load(Ordering::SeqCst), 0, "the memory of a send was freed before its last completion");
        sent.is_some()
    });
    let (gather, result) = sent.expect("just seen");
    assert_eq!(gather.remaining(), wanted.len() - taken, "the gather is back as it was");
    rig.expect_closed(socket);
    drop(gather);
    assert_eq!(drops.load(Ordering::SeqCst), 1);
    got.extend(rig.read_to_end(&mut peer).0);
    let total = taken + result.unwrap_or(0);
    assert!(got.len() <= total, "the peer got {} bytes of {total}", got.len());
    assert_same_bytes(&got, &wanted[..got.len()], "what the peer got");
    rig.finish();
}

/// A send that is recorded and cancelled by a close before any poll: the system may have sent all of it or nothing, but
/// what the peer gets is what was sent, as much as `Sent` says.
pub(super) fn cancel_a_recorded_send<F: Fixture>(before_close: impl FnOnce(&mut F)) {
    let mut rig = Rig::<F>::new();
    let drops = Arc::new(AtomicUsize::new(0));
    let (socket, mut peer) = rig.pair();
    let wanted = pattern(38, 50_000);
    rig.send(socket, gather_of(Watched::payload(wanted.clone(), &drops)));
    before_close(&mut rig.fixture);
    rig.close(socket, CloseMode::Orderly);
    let (_gather, result) = rig.expect_sent(socket);
    rig.expect_closed(socket);
    let (got, ending) = rig.read_to_end(&mut peer);
    assert_same_bytes(&got, &wanted[..result.unwrap_or(0)], "what the peer got");
    assert_eq!(ending, Ending::Finished);
    rig.finish();
}

pub(super) fn what_is_sent_is_kept_until_the_send_completes<F: Fixture>() {
    cancel_a_watched_send::<F>(CloseMode::Orderly, |_| {});
    cancel_a_watched_send::<F>(CloseMode::Abort, |_| {});
    cancel_a_recorded_send::<F>(|_| {});
}

pub(super) fn a_received_buffer_is_echoed_without_a_copy<F: Fixture>() {
    let mut rig = Rig::<F>::sized(4, 4);
    let (socket, mut peer) = rig.pair();
    rig.receive(socket);
    for round in 0..20 {
        let bytes = pattern(round, 3000);
        rig.write_all(&mut peer, &bytes);
        let mut gather = Box::new(Gather::default());
        rig.until("all to be received", |rig| {
            for buffer in rig.received_buffers(socket) {
                gather.push(piece(buffer));
            }
            gather.remaining() == bytes.len()
        });
        let pieces = gather.pieces() as u32;
        while !gather.is_empty() {
            assert!(rig.arena().outstanding() >= 1 && rig.arena().outstanding() <= pieces);
            rig.send(socket, gather);
            let (back, result) = rig.expect_sent(socket);
            gather = back;
            gather.advance(result.expect("the peer is there"), drop);
        }
        assert_eq!(rig.arena().outstanding(), 0, "sent buffers go home");
        assert_same_bytes(&rig.read_exactly(&mut peer, bytes.len()), &bytes, "the echo");
    }
    rig.finish();
}

pub(super) fn both_directions_flow_at_once<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (socket, mut peer) = rig.pair();
    let (up, down) = (pattern(21, 1024 * 1024), pattern(22, 1024 * 1024));
    let (mut written, mut received, mut got) = (0, Vec::new(), Vec::new());
    rig.receive(socket);
    rig.send(socket, gather_of(down.clone()));
    rig.until("both directions", |rig| {
        written += super::rig::write_available(&mut peer, &up[written..]);
        received.extend(rig.received(socket));
        read_available(&mut peer, &mut got);
        if let Some(Completion::Sent { mut gather, result, .. }) =
            rig.take(|event| matches!(event, Completion::Sent { .. }))
        {
            gather.advance(result.expect("the peer is there"), drop);
            if !gather.is_empty() {
                rig.send(socket, gather);
            }
        }
        received.len() == up.len() && got.len() == down.len()
    });
    assert_same_bytes(&received, &up, "what the engine got");
    assert_same_bytes(&got, &down, "what the peer got");
    rig.finish();
}
