//! Identifiers: E5.

use std::collections::HashMap;

use super::fixture::Fixture;
use super::material::gather_of;
use super::rig::{Ending, Rig};
use crate::engine::{CloseMode, Engine, SocketId, Stale};

pub(super) fn indices_stay_below_the_configured_sockets<F: Fixture>() {
    let mut rig = Rig::<F>::sized(4, 4);
    // The monitor checks every identifier against the four places.
    for round in 0..20 {
        let pairs = rig.pairs(4);
        for (number, (socket, _)) in pairs.iter().enumerate() {
            rig.close_now(*socket, if (number + round) % 2 == 0 { CloseMode::Orderly } else { CloseMode::Abort });
        }
    }
    rig.finish();
}

pub(super) fn an_index_that_is_used_again_has_another_generation<F: Fixture>() {
    let mut rig = Rig::<F>::sized(2, 4);
    let mut seen = HashMap::<u32, Vec<u32>>::new();
    for _ in 0..20 {
        let (socket, _peer) = rig.pair();
        let generations = seen.entry(socket.index).or_default();
        assert!(!generations.contains(&socket.generation), "{socket:?} was there before");
        generations.push(socket.generation);
        rig.close_now(socket, CloseMode::Orderly);
    }
    rig.finish();
}

/// A caller that works through what one poll has reported may adopt a stream before it comes to a `Closed` behind it. A
/// place that were used again at once would have two users then, as the caller sees it.
pub(super) fn an_index_is_not_used_again_before_the_next_poll<F: Fixture>() {
    let mut rig = Rig::<F>::sized(4, 4);
    let (listener, address) = rig.listen();
    for closed_by_connect in [false, true] {
        let (_kept, _peer_of_kept) = rig.pair();
        let (closing, _peer_of_closing) = rig.pair();
        rig.accept(listener, 1);
        let _peer = rig.fixture.connect_peer(address, None);
        let (stream, _) = rig.expect_accepted(listener);
        rig.close(closing, CloseMode::Orderly);
        rig.expect_closed(closing);
        // `expect_closed` has polled, and not again since it has seen `Closed`.
        let next = if closed_by_connect { rig.connect(address) } else { rig.adopt(stream) };
        assert_ne!(next.index, closing.index);
        for socket in rig.monitor.open() {
            rig.close_now(socket, CloseMode::Abort);
        }
        rig.turn();
        rig.take_all();
    }
    rig.finish();
}

/// Tries every operation on a stale identifier.
fn assert_stale<F: Fixture>(rig: &mut Rig<F>, stale: SocketId) {
    let engine = rig.fixture.engine_mut();
    assert_eq!(engine.receive(stale), Err(Stale));
    assert_eq!(engine.pause_receive(stale), Err(Stale));
    assert_eq!(engine.discard(stale), Err(Stale));
    assert_eq!(engine.shutdown_write(stale), Err(Stale));
    assert_eq!(engine.close(stale, CloseMode::Abort), Err(Stale));
    assert_eq!(engine.close(stale, CloseMode::Orderly), Err(Stale));
    let gather = engine.send(stale, gather_of(b"to nobody")).expect_err("a stale identifier");
    assert_eq!(gather.remaining(), 9, "the gather comes back whole");
    assert_eq!(engine.unread_bytes(stale), 0);
    assert_eq!(engine.peer_address(stale), None);
}

pub(super) fn every_operation_on_a_stale_id_is_refused<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (socket, _peer) = rig.pair();
    rig.receive(socket);
    rig.turn();
    rig.close_now(socket, CloseMode::Orderly);
    assert_stale(&mut rig, socket);
    rig.expect_quiet();
    // One that never was.
    assert_stale(&mut rig, SocketId { index: 63, generation: u32::MAX });
    assert_stale(&mut rig, SocketId { index: u32::MAX, generation: 0 });
    rig.expect_quiet();
    rig.finish();
}

pub(super) fn a_stale_id_has_no_effect_on_the_next_user_of_its_index<F: Fixture>() {
    let mut rig = Rig::<F>::sized(1, 4);
    let (old, _) = rig.pair();
    rig.close_now(old, CloseMode::Orderly);
    let (new, mut peer) = rig.pair();
    assert_eq!(new.index, old.index, "there is one place");
    assert_stale(&mut rig, old);
    rig.expect_quiet();
    rig.write_all(&mut peer, b"for the new one");
    // The stale `receive` has asked for nothing.
    rig.expect_quiet();
    rig.receive(new);
    assert_stale(&mut rig, old);
    assert_eq!(rig.receive_exactly(new, 15), b"for the new one");
    // The stale `pause_receive` and `discard` have stopped nothing.
    assert_stale(&mut rig, old);
    rig.write_all(&mut peer, b"more");
    assert_eq!(rig.receive_exactly(new, 4), b"more");
    // The stale `shutdown_write` and `send` have sent nothing.
    rig.send_now(new, b"answer");
    assert_stale(&mut rig, old);
    assert_eq!(rig.read_exactly(&mut peer, 6), b"answer");
    rig.close_now(new, CloseMode::Orderly);
    assert_eq!(rig.read_to_end(&mut peer), (Vec::new(), Ending::Finished));
    rig.finish();
}

pub(super) fn adopting_beyond_the_configured_sockets_gives_the_stream_back<F: Fixture>() {
    let mut rig = Rig::<F>::sized(2, 4);
    let (one, _peer_of_one) = rig.pair();
    let (_two, _peer_of_two) = rig.pair();
    let (listener, address) = rig.listen();
    rig.accept(listener, 1);
    let mut peer = rig.fixture.connect_peer(address, None);
    let (stream, _) = rig.expect_accepted(listener);
    let stream = rig.fixture.engine_mut().adopt(stream).expect_err("both places are in use");
    // It is alive and well, and finds a place when there is one.
    rig.write_all(&mut peer, b"hello");
    rig.close_now(one, CloseMode::Orderly);
    rig.turn();
    let socket = rig.adopt(stream);
    rig.receive(socket);
    assert_eq!(rig.receive_exactly(socket, 5), b"hello");
    rig.finish();
}

pub(super) fn connecting_beyond_the_configured_sockets_is_refused<F: Fixture>() {
    let mut rig = Rig::<F>::sized(2, 4);
    let (one, _peer_of_one) = rig.pair();
    let (_two, _peer_of_two) = rig.pair();
    let (_, address) = rig.listen();
    assert_eq!(rig.fixture.engine_mut().connect(address, None), None);
    rig.expect_quiet();
    rig.close_now(one, CloseMode::Orderly);
    rig.turn();
    let socket = rig.connect(address);
    rig.expect_connected(socket).expect("somebody listens");
    rig.finish();
}
