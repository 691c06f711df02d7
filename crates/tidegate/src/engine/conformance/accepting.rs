//! Accepting: E6 to E9.

use super::fixture::{Fixture, Peer};
use super::rig::{Ending, QUIET_TURNS, Rig};
use crate::engine::Completion;

pub(super) fn accept_credit_is_never_exceeded<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (listener, address) = rig.listen();
    rig.accept(listener, 2);
    let peers: Vec<_> = (0..5).map(|_| rig.fixture.connect_peer(address, None)).collect();
    let mut streams = vec![rig.expect_accepted(listener), rig.expect_accepted(listener)];
    rig.expect_quiet();
    rig.accept(listener, 1);
    streams.push(rig.expect_accepted(listener));
    rig.expect_quiet();
    rig.accept(listener, 1);
    rig.accept(listener, 5);
    streams.extend([rig.expect_accepted(listener), rig.expect_accepted(listener)]);
    rig.expect_quiet();
    assert_eq!((streams.len(), peers.len()), (5, 5));
    drop(streams);
    rig.finish();
}

pub(super) fn every_accepted_connection_comes_with_the_address_of_its_own_peer<F: Fixture>() {
    for six in [false, true] {
        if !six || F::available_six() {
            accept_a_dozen::<F>(six);
        }
    }
}

fn accept_a_dozen<F: Fixture>(six: bool) {
    let mut rig = Rig::<F>::new();
    let (listener, address) = rig.listen_on(six);
    assert_eq!(address.is_ipv6(), six);
    // All credit and all connections before one poll: the accepts complete in one batch.
    rig.accept(listener, 12);
    rig.poll(std::time::Duration::ZERO);
    let mut peers: Vec<_> = (0..12).map(|_| rig.fixture.connect_peer(address, None)).collect();
    let mut seen = Vec::new();
    for _ in 0..12 {
        let (stream, from) = rig.expect_accepted(listener);
        let socket = rig.adopt(stream);
        // The peer of that address, and no other, gets what goes into this socket.
        let peer = peers.iter_mut().find(|peer| peer.address() == from).expect("a peer of that address");
        rig.send_now(socket, b"you");
        assert_eq!(rig.read_exactly(peer, 3), b"you");
        seen.push(from);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 12, "each address once");
    rig.finish();
}

pub(super) fn listeners_are_told_apart<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (one, at_one) = rig.listen();
    let (two, at_two) = rig.listen();
    assert_ne!(one, two);
    rig.accept(one, 1);
    rig.accept(two, 1);
    let peer_of_two = rig.fixture.connect_peer(at_two, None);
    let (_stream, from) = rig.expect_accepted(two);
    assert_eq!(from, peer_of_two.address());
    rig.close_listener(two, 0);
    rig.expect_listener_closed(two);
    let peer_of_one = rig.fixture.connect_peer(at_one, None);
    let (_stream, from) = rig.expect_accepted(one);
    assert_eq!(from, peer_of_one.address());
    let (three, _) = rig.listen();
    assert!(three != one && three != two, "a listener id is never used again");
    rig.finish();
}

pub(super) fn a_failed_accept_uses_one_credit_and_is_not_tried_again<F: Fixture>() {
    if !F::alone("a_failed_accept_uses_one_credit_and_is_not_tried_again") {
        return;
    }
    let mut rig = Rig::<F>::short_of_descriptors();
    let (listener, address) = rig.listen();
    let peer = rig.fixture.connect_peer(address, None);
    // It is in the backlog when there is credit: one that comes later may make one accept fail, and not each.
    rig.expect_quiet();
    rig.fixture.refuse_descriptors(true);
    rig.accept(listener, 3);
    for _ in 0..3 {
        let wanted = |event: &_| matches!(event, Completion::AcceptFailed { listener: of, .. } if *of == listener);
        match rig.expect("AcceptFailed", wanted) {
            Completion::AcceptFailed { error, .. } => assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}"),
            other => panic!("not AcceptFailed: {other:?}"),
        }
    }
    rig.expect_quiet();
    rig.fixture.refuse_descriptors(false);
    rig.expect_quiet();
    // The connection has waited in the backlog; it takes new credit to get it.
    rig.accept(listener, 1);
    let (stream, from) = rig.expect_accepted(listener);
    assert_eq!(from, peer.address());
    drop(stream);
    rig.finish();
}

pub(super) fn a_connection_that_was_reset_in_the_backlog_uses_one_credit<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (listener, address) = rig.listen();
    rig.fixture.connect_peer(address, None).reset();
    for _ in 0..QUIET_TURNS {
        rig.turn();
    }
    let healthy = rig.fixture.connect_peer(address, None);
    rig.accept(listener, 1);
    // Systems differ in whether such a connection is accepted and fails then, fails to be accepted, or is gone.
    let first = rig.expect("the accept to end", |event| {
        matches!(event, Completion::Accepted { .. } | Completion::AcceptFailed { .. })
    });
    let gone = matches!(&first, Completion::Accepted { peer, .. } if *peer == healthy.address());
    rig.expect_quiet();
    if !gone {
        rig.accept(listener, 1);
        let (_, from) = rig.expect_accepted(listener);
        assert_eq!(from, healthy.address());
    }
    drop(first);
    rig.finish();
}

pub(super) fn looking_again_neither_adds_nor_loses_credit<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (listener, address) = rig.listen();
    rig.accept(listener, 0);
    let mut peers = vec![rig.fixture.connect_peer(address, None)];
    rig.expect_quiet();
    rig.accept(listener, 3);
    let mut streams = vec![rig.expect_accepted(listener)];
    for _ in 0..5 {
        // Twice in one poll, and while a connection comes.
        rig.accept(listener, 0);
        rig.accept(listener, 0);
        rig.turn();
    }
    rig.accept(listener, 0);
    peers.extend((0..3).map(|_| rig.fixture.connect_peer(address, None)));
    streams.extend([rig.expect_accepted(listener), rig.expect_accepted(listener)]);
    rig.expect_quiet();
    rig.accept(listener, 0);
    rig.expect_quiet();
    rig.accept(listener, 1);
    streams.push(rig.expect_accepted(listener));
    assert_eq!((streams.len(), peers.len()), (4, 4));
    drop(streams);
    rig.finish();
}

pub(super) fn closing_a_listener_delivers_what_waits_in_the_backlog<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (listener, address) = rig.listen();
    let mut peers: Vec<_> = (0..5).map(|_| rig.fixture.connect_peer(address, None)).collect();
    for (number, peer) in peers.iter_mut().enumerate() {
        rig.write_all(peer, &[number as u8; 10]);
        peer.finish();
    }
    rig.expect_quiet();
    rig.close_listener(listener, 100);
    rig.expect_listener_closed(listener);
    // All before `ListenerClosed`, as the monitor has checked.
    for _ in 0..5 {
        let event = rig.take(|event| matches!(event, Completion::Accepted { .. })).expect("one of the backlog");
        let Completion::Accepted { stream, peer: from, .. } = event else { continue };
        let number = peers.iter().position(|peer| peer.address() == from).expect("one of the peers");
        let socket = rig.adopt(stream);
        rig.receive(socket);
        assert_eq!(rig.receive_exactly(socket, 10), [number as u8; 10]);
        rig.expect_finished(socket);
    }
    rig.expect_quiet();
    // Nobody listens there any more.
    let socket = rig.connect(address);
    assert!(rig.expect_connected(socket).is_err());
    rig.finish();
}

pub(super) fn a_sweep_takes_no_more_than_it_was_told<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (listener, address) = rig.listen();
    let mut peers: Vec<_> = (0..5).map(|_| rig.fixture.connect_peer(address, None)).collect();
    rig.close_listener(listener, 2);
    rig.expect_listener_closed(listener);
    let taken = rig.take_all();
    assert_eq!(taken.len(), 2, "{taken:?}");
    let mut cut = 0;
    for peer in &mut peers {
        if !taken
            .iter()
            .any(|event| matches!(event, Completion::Accepted { peer: from, .. } if *from == peer.address()))
        {
            assert_eq!(rig.read_to_end(peer).0, b"");
            cut += 1;
        }
    }
    assert_eq!(cut, 3, "the others are not left hanging");
    rig.finish();
}

pub(super) fn a_sweep_counts_what_had_been_accepted_already<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (listener, address) = rig.listen();
    rig.accept(listener, 3);
    rig.expect_quiet();
    // Up to three may have been accepted by the system when the close is recorded; four in all, however many.
    let peers: Vec<_> = (0..6).map(|_| rig.fixture.connect_peer(address, None)).collect();
    rig.close_listener(listener, 4);
    rig.expect_listener_closed(listener);
    let taken = rig.take_all();
    assert_eq!(taken.len(), 4, "{taken:?}");
    drop(peers);
    rig.finish();
}

pub(super) fn closing_a_listener_takes_back_unused_credit<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    // Credit that the system has, and credit that it hasn't seen yet.
    for polled in [true, false] {
        let (listener, _) = rig.listen();
        rig.accept(listener, 10);
        if polled {
            rig.expect_quiet();
        }
        rig.close_listener(listener, 0);
        rig.expect_listener_closed(listener);
        rig.expect_quiet();
    }
    rig.finish();
}

pub(super) fn a_stream_that_is_dropped_unadopted_is_closed<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (listener, address) = rig.listen();
    rig.accept(listener, 1);
    let mut peer = rig.fixture.connect_peer(address, None);
    let (stream, _) = rig.expect_accepted(listener);
    drop(stream);
    assert_eq!(rig.read_to_end(&mut peer), (Vec::new(), Ending::Finished));
    rig.finish();
}
