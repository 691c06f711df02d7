//! The simulated network by itself: what two ends of a connection see of each other.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use super::fixture::{Bench, address, config, gather};
use crate::engine::sim::{Faults, SimPeer, World};
use crate::engine::{CloseMode, Completion, Engine, SocketId};

/// Reads until nothing more is there; also returns how that ended.
fn read_all(peer: &mut SimPeer) -> (Vec<u8>, io::Result<()>) {
    let (mut all, mut bytes) = (Vec::new(), [0; 1000]);
    loop {
        match peer.read(&mut bytes) {
            Ok(0) => return (all, Ok(())),
            Ok(length) => all.extend_from_slice(&bytes[..length]),
            Err(error) => return (all, Err(error)),
        }
    }
}

fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> ErrorKind {
    result.expect_err("an error").kind()
}

fn send(bench: &mut Bench, socket: SocketId, bytes: Vec<u8>) -> usize {
    bench.engine.send(socket, gather(bytes)).expect("an open socket");
    match bench.next() {
        Completion::Sent { result, .. } => result.expect("a send"),
        other => panic!("{other:?}"),
    }
}

fn close(bench: &mut Bench, socket: SocketId, mode: CloseMode) {
    bench.engine.close(socket, mode).expect("an open socket");
    match bench.next() {
        Completion::Closed { socket: closed } => assert_eq!(closed, socket),
        other => panic!("{other:?}"),
    }
}

fn a_moment(bench: &Bench) {
    bench.world.run_for(Duration::from_millis(10));
}

#[test]
fn data_takes_the_latency_and_the_time_that_the_bandwidth_needs() {
    let faults = Faults { latency_ns: (1_000_000, 1_000_000), bandwidth_bytes: (1000, 1000), ..Faults::none() };
    let mut bench = Bench::new(faults, config());
    let (mut peer, socket) = bench.pair();
    assert_eq!(bench.engine.now().as_nanos() / 1_000_000, 3, "a handshake goes there, back and there");
    bench.engine.receive(socket).expect("an open socket");
    let begin = bench.world.now();
    peer.write(&[1; 500]).expect("room");
    assert_eq!(bench.next_data().len(), 500);
    let took = bench.engine.now().saturating_since(begin);
    assert_eq!(took.as_millis(), 501, "half a second at 1000 bytes a second, and the latency");
}

#[test]
fn the_end_follows_the_data_and_the_other_direction_goes_on() {
    let mut bench = Bench::new(Faults::none(), config());
    let (mut peer, socket) = bench.pair();
    bench.engine.receive(socket).expect("an open socket");
    peer.write(b"request").expect("room");
    peer.shutdown_write().expect("a connection");
    assert_eq!(kind(peer.write(b"more")), ErrorKind::BrokenPipe);
    assert_eq!(&bench.next_data()[..], b"request");
    assert!(matches!(bench.next(), Completion::PeerFinished { .. }));
    assert_eq!(send(&mut bench, socket, b"answer".to_vec()), 6);
    bench.engine.shutdown_write(socket).expect("an open socket");
    assert!(matches!(bench.next(), Completion::WriteShut { result: Ok(()), .. }));
    a_moment(&bench);
    let (bytes, end) = read_all(&mut peer);
    assert_eq!((&bytes[..], end.is_ok()), (&b"answer"[..], true));
    close(&mut bench, socket, CloseMode::Orderly);
    drop(peer);
    a_moment(&bench);
    assert_eq!(bench.world.endpoints(), 0);
}

#[test]
fn a_reset_overtakes_data_and_destroys_what_was_not_read() {
    let mut bench = Bench::new(Faults::none(), config());
    let (mut peer, socket) = bench.pair();
    send(&mut bench, socket, b"first".to_vec());
    a_moment(&bench);
    assert_eq!(peer.unread_bytes(), 5);
    send(&mut bench, socket, vec![0; 60_000]);
    close(&mut bench, socket, CloseMode::Abort);
    a_moment(&bench);
    assert_eq!(kind(peer.read(&mut [0; 10])), ErrorKind::ConnectionReset);
    assert_eq!(kind(peer.write(b"x")), ErrorKind::BrokenPipe);
}

#[test]
fn closing_with_unread_data_resets_the_peer() {
    let mut bench = Bench::new(Faults::none(), config());
    let (mut peer, socket) = bench.pair();
    send(&mut bench, socket, b"answer".to_vec());
    peer.write(b"unread").expect("room");
    a_moment(&bench);
    assert_eq!(bench.engine.unread_bytes(socket), 6);
    close(&mut bench, socket, CloseMode::Orderly);
    a_moment(&bench);
    assert_eq!(kind(peer.read(&mut [0; 10])), ErrorKind::ConnectionReset);
}

#[test]
fn a_closed_end_goes_on_sending_what_it_has_and_answers_data_with_a_reset() {
    let faults = Faults { bandwidth_bytes: (1_000_000, 1_000_000), segment_bytes: (1000, 1000), ..Faults::none() };
    let mut bench = Bench::new(faults, config());
    let (mut peer, socket) = bench.pair();
    send(&mut bench, socket, vec![7; 20_000]);
    close(&mut bench, socket, CloseMode::Orderly);
    bench.world.run_for(Duration::from_millis(5));
    let arrived = peer.unread_bytes();
    assert!(arrived > 0 && arrived < 20_000, "{arrived}");
    bench.world.run_for(Duration::from_millis(50));
    let (bytes, end) = read_all(&mut peer);
    assert_eq!((bytes.len(), end.is_ok()), (20_000, true));
    peer.write(b"too late").expect("room, as far as this end knows");
    a_moment(&bench);
    assert_eq!(kind(peer.write(b"again")), ErrorKind::ConnectionReset);
}

#[test]
fn data_for_a_closed_end_that_still_sends_resets_both() {
    let faults = Faults { bandwidth_bytes: (1_000_000, 1_000_000), segment_bytes: (1000, 1000), ..Faults::none() };
    let mut bench = Bench::new(faults, config());
    let (mut peer, socket) = bench.pair();
    send(&mut bench, socket, vec![7; 20_000]);
    close(&mut bench, socket, CloseMode::Orderly);
    peer.write(b"nobody reads this").expect("room");
    bench.world.run_for(Duration::from_millis(50));
    assert_eq!(kind(peer.read(&mut [0; 10])), ErrorKind::ConnectionReset);
    assert_eq!(bench.world.endpoints(), 1, "only the peer's own end is left");
}

#[test]
fn nothing_leaves_for_which_the_reader_has_no_room() {
    let faults = Faults { send_buffer_bytes: (10_000, 10_000), receive_buffer_bytes: (4_000, 4_000), ..Faults::none() };
    let mut bench = Bench::new(faults, config());
    let (mut peer, socket) = bench.pair();
    let mut sent = 0;
    for _ in 0..10 {
        assert_eq!(peer.write(&[1; 20_000]).map_or_else(|error| error.kind(), |_| ErrorKind::Other), {
            if sent < 14_000 { ErrorKind::Other } else { ErrorKind::WouldBlock }
        });
        a_moment(&bench);
        sent = peer.bytes().0.written;
    }
    assert_eq!(sent, 14_000, "a full send buffer and a full receive buffer");
    assert_eq!(bench.engine.unread_bytes(socket), 4_000);
    bench.engine.discard(socket).expect("an open socket");
    bench.run_for(Duration::from_millis(10));
    assert_eq!(peer.bytes().1.read, 14_000);
    assert_eq!(peer.write(&[1; 20_000]).expect("room"), 10_000);
}

#[test]
fn connecting_needs_a_listener_with_room_in_its_backlog() {
    let world = World::new(1, Faults::none());
    let mut lost = world.connect(address());
    assert_eq!(kind(lost.read(&mut [0])), ErrorKind::WouldBlock);
    world.run_for(Duration::from_millis(1));
    assert_eq!(kind(lost.read(&mut [0])), ErrorKind::ConnectionRefused);

    let listener = world.listen(SocketAddr::from(([0, 0, 0, 0], 0)), 2).expect("a free address");
    assert_eq!(kind(world.listen(listener.local_addr(), 2)), ErrorKind::AddrInUse);
    let target = SocketAddr::from(([192, 0, 2, 1], listener.local_addr().port()));
    let mut peers: Vec<SimPeer> = (0..3).map(|_| world.connect(target)).collect();
    world.run_for(Duration::from_millis(1));
    let connected: Vec<bool> = peers.iter().map(SimPeer::is_connected).collect();
    assert_eq!(connected, [true, true, false]);
    assert_ne!(peers[0].local_addr(), peers[1].local_addr());

    drop(listener);
    world.run_for(Duration::from_millis(1));
    assert_eq!(kind(peers[0].read(&mut [0])), ErrorKind::ConnectionReset);
}

#[test]
fn a_reader_of_single_bytes_gets_them_all() {
    let faults = Faults { receive_buffer_bytes: (3, 3), ..Faults::none() };
    let mut bench = Bench::new(faults, config());
    let (mut peer, socket) = bench.pair();
    send(&mut bench, socket, (0..100).collect());
    for expected in 0..100 {
        let mut byte = [0];
        if peer.unread_bytes() == 0 {
            a_moment(&bench);
        }
        assert_eq!(peer.read(&mut byte).expect("a byte"), 1);
        assert_eq!(byte[0], expected);
    }
}
