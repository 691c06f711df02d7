//! The simulated engine by the contract: sockets, accepting, sending, connecting, ending.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::fixture::{Bench, address, config, gather};
use crate::engine::sim::{Fault, Faults, SimPeer, Step, World};
use crate::engine::{CloseMode, Completion, Engine, EngineConfig, Stale};

/// Bytes that tell when they are dropped.
fn watched(length: usize) -> (Bytes, Arc<AtomicBool>) {
    struct Watched(Vec<u8>, Arc<AtomicBool>);
    impl AsRef<[u8]> for Watched {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Watched {
        fn drop(&mut self) {
            self.1.store(true, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicBool::new(false));
    (Bytes::from_owner(Watched(vec![1; length], Arc::clone(&dropped))), dropped)
}

#[test]
fn without_credit_connections_wait_and_each_takes_one() {
    let mut bench = Bench::new(Faults::none(), config());
    let peers: Vec<SimPeer> = (0..3).map(|_| bench.world.connect(address())).collect();
    assert!(bench.run_for(Duration::from_millis(5)).is_empty());
    assert!(peers.iter().all(SimPeer::is_connected), "they wait in the backlog");
    bench.engine.accept(bench.listener, 2);
    let reports = bench.run_for(Duration::from_millis(5));
    assert_eq!(reports.len(), 2);
    for (report, peer) in reports.iter().zip(&peers) {
        let Completion::Accepted { peer: address, .. } = report else { panic!("{report:?}") };
        assert_eq!(*address, peer.local_addr());
    }
}

#[test]
fn a_failed_accept_uses_credit_and_the_connection_waits_on() {
    let mut bench = Bench::new(Faults::none().with(Fault::AcceptFailed, 1_000_000), config());
    let _peer = bench.world.connect(address());
    bench.engine.accept(bench.listener, 1);
    let Completion::AcceptFailed { error, .. } = bench.next() else { panic!("accepted") };
    assert_eq!(error.raw_os_error(), Some(24));
    bench.world.calm_down();
    assert!(bench.run_for(Duration::from_millis(5)).is_empty(), "nothing is tried again by itself");
    bench.engine.accept(bench.listener, 1);
    assert!(matches!(bench.next(), Completion::Accepted { .. }));
}

#[test]
fn closing_a_listener_sweeps_the_backlog_and_resets_the_rest() {
    let mut bench = Bench::new(Faults::none(), config());
    let mut peers: Vec<SimPeer> = (0..3).map(|_| bench.world.connect(address())).collect();
    bench.run_for(Duration::from_millis(5));
    bench.engine.close_listener(bench.listener, 2);
    bench.engine.accept(bench.listener, 5);
    let reports = bench.run_for(Duration::from_millis(5));
    assert!(matches!(reports[..2], [Completion::Accepted { .. }, Completion::Accepted { .. }]), "{reports:?}");
    assert!(matches!(reports[2..], [Completion::ListenerClosed { .. }]), "{reports:?}");
    drop(reports);
    bench.run_for(Duration::from_millis(5));
    let mut byte = [0];
    assert_eq!(peers[0].read(&mut byte).expect("streams that nobody adopts are closed"), 0);
    assert_eq!(peers[2].read(&mut byte).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    let mut late = bench.world.connect(address());
    bench.run_for(Duration::from_millis(5));
    assert_eq!(late.read(&mut byte).expect_err("refused").kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn places_are_bounded_and_identifiers_of_closed_sockets_are_stale() {
    let mut bench = Bench::new(Faults::none(), EngineConfig { sockets: 1, ..config() });
    let (_peer, first) = bench.pair();
    let _other = bench.world.connect(address());
    bench.engine.accept(bench.listener, 1);
    let Completion::Accepted { stream, .. } = bench.next() else { panic!("not accepted") };
    let stream = bench.engine.adopt(stream).expect_err("the only place is in use");
    assert_eq!(bench.engine.connect(address(), None), None);

    bench.engine.close(first, CloseMode::Orderly).expect("an open socket");
    assert_eq!(bench.engine.receive(first), Err(Stale), "a closing socket takes nothing more");
    assert!(matches!(bench.next(), Completion::Closed { socket } if socket == first));
    let stream = bench.engine.adopt(stream).expect_err("before the next poll the place is kept");
    bench.run_for(Duration::from_millis(1));
    let second = bench.engine.adopt(stream).expect("the place is free");
    assert_eq!((second.index, second.generation == first.generation), (first.index, false));
    for _ in 0..2 {
        assert_eq!(bench.engine.receive(first), Err(Stale));
        assert_eq!(bench.engine.close(first, CloseMode::Abort), Err(Stale));
        assert!(bench.engine.send(first, gather("back")).is_err());
    }
    assert_eq!(bench.engine.unread_bytes(first), 0);
}

#[test]
fn a_send_takes_what_there_is_room_for_and_brings_the_gather_back() {
    let faults = Faults { send_buffer_bytes: (1_000, 1_000), ..Faults::none() };
    let mut bench = Bench::new(faults, config());
    let (peer, socket) = bench.pair();
    bench.engine.send(socket, gather(vec![1; 100_000])).expect("an open socket");
    let Completion::Sent { mut gather, result, .. } = bench.next() else { panic!("not sent") };
    assert_eq!(result.expect("a send"), 1_000);
    assert_eq!(gather.remaining(), 100_000, "not advanced yet");
    gather.advance(1_000, drop);
    bench.engine.send(socket, gather).expect("an open socket");
    assert!(matches!(bench.next(), Completion::Sent { result: Ok(1_000), .. }));
    bench.run_for(Duration::from_millis(5));
    assert_eq!(peer.unread_bytes(), 2_000);
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "a second send")]
fn a_second_send_is_the_callers_error() {
    let mut bench = Bench::new(Faults::none(), config());
    let (_peer, socket) = bench.pair();
    bench.engine.send(socket, gather("one")).expect("an open socket");
    let _ = bench.engine.send(socket, gather("two"));
}

/// A socket whose send buffer is full, with a send in the system that waits for room.
fn clogged(faults: Faults) -> (Bench, SimPeer, crate::engine::SocketId, Arc<AtomicBool>) {
    let faults = Faults { send_buffer_bytes: (100, 100), receive_buffer_bytes: (100, 100), ..faults };
    let mut bench = Bench::new(faults, config());
    let (peer, socket) = bench.pair();
    for _ in 0..2 {
        bench.engine.send(socket, gather(vec![0; 100])).expect("an open socket");
        assert!(matches!(bench.next(), Completion::Sent { result: Ok(100), .. }));
        bench.run_for(Duration::from_millis(1));
    }
    let (bytes, dropped) = watched(1000);
    bench.engine.send(socket, gather(bytes)).expect("an open socket");
    assert!(bench.run_for(Duration::from_millis(5)).is_empty());
    (bench, peer, socket, dropped)
}

#[test]
fn close_waits_for_the_send_and_brings_its_memory_back() {
    let (mut bench, peer, socket, dropped) = clogged(Faults::none());
    assert_eq!(bench.world.outstanding(0), 1);
    bench.engine.close(socket, CloseMode::Abort).expect("an open socket");
    let Completion::Sent { gather, result, .. } = bench.next() else { panic!("not sent") };
    assert!(result.is_err() && !dropped.load(Ordering::SeqCst));
    assert_eq!(gather.remaining(), 1000);
    assert!(matches!(bench.next(), Completion::Closed { .. }));
    assert_eq!(bench.world.outstanding(0), 0);
    drop(peer);
}

#[test]
fn a_cancel_may_lose_the_race_with_a_send() {
    let (mut bench, _peer, socket, _) = clogged(Faults::none().with(Fault::CancelLosesRace, 1_000_000));
    bench.engine.close(socket, CloseMode::Abort).expect("an open socket");
    assert!(matches!(bench.next(), Completion::Sent { result: Ok(1..=1000), .. }));
    assert!(matches!(bench.next(), Completion::Closed { .. }));
}

#[test]
fn dropping_the_engine_frees_all_and_ends_the_connections() {
    let (mut bench, mut peer, socket, dropped) = clogged(Faults::none());
    bench.engine.receive(socket).expect("an open socket");
    peer.write(b"ping").expect("room");
    bench.world.run_for(Duration::from_millis(1));
    let kept = bench.next_data();
    let (arena, world) = (bench.engine.arena().clone(), bench.world.clone());
    drop(bench);
    assert!(dropped.load(Ordering::SeqCst));
    assert_eq!(arena.outstanding(), 1);
    assert_eq!(&kept[..], b"ping");
    drop(kept);
    assert_eq!(arena.free(), arena.buffers() as usize);
    world.run_for(Duration::from_millis(5));
    let mut bytes = [0; 1000];
    assert_eq!(peer.read(&mut bytes).expect("what was sent"), 100);
    assert_eq!(world.step(), Step::Peer(peer.number()));
}

#[test]
fn connecting_completes_whatever_happens() {
    let mut bench = Bench::new(Faults::none(), config());
    let good = bench.engine.connect(address(), None).expect("a place");
    bench.engine.accept(bench.listener, 1);
    assert!(matches!(bench.next(), Completion::Connected { socket, result: Ok(_) } if socket == good));
    let Completion::Accepted { stream, .. } = bench.next() else { panic!("not accepted") };
    let server = bench.engine.adopt(stream).expect("a place");
    bench.engine.receive(server).expect("an open socket");
    bench.engine.send(good, gather("hello")).expect("an open socket");
    assert!(matches!(bench.next(), Completion::Sent { result: Ok(5), .. }));
    assert_eq!(&bench.next_data()[..], b"hello");

    let nowhere = "127.0.0.1:9".parse().expect("an address");
    let bad = bench.engine.connect(nowhere, None).expect("a place");
    let Completion::Connected { result: Err(error), .. } = bench.next() else { panic!("connected") };
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    bench.engine.close(bad, CloseMode::Orderly).expect("an open socket");
    assert!(matches!(bench.next(), Completion::Closed { .. }));

    let canceled = bench.engine.connect(address(), None).expect("a place");
    bench.engine.close(canceled, CloseMode::Orderly).expect("an open socket");
    assert!(matches!(bench.next(), Completion::Connected { result: Err(_), .. }));
    assert!(matches!(bench.next(), Completion::Closed { .. }));
}

#[test]
fn wakes_coalesce_and_none_is_lost() {
    let mut bench = Bench::new(Faults::none(), config());
    let waker = bench.engine.waker();
    assert!(bench.run_for(Duration::from_millis(1)).is_empty());
    let polls = bench.engine.counters().polls;
    waker.wake();
    let other = waker.clone();
    std::thread::spawn(move || other.wake()).join().expect("the other thread ends");
    let reports = bench.run_for(Duration::from_millis(1));
    assert!(matches!(reports[..], [Completion::Woken]), "{reports:?}");
    assert!(bench.engine.counters().polls - polls < 5, "no busy loop");
}

#[test]
fn time_changes_only_in_poll_and_the_deadline_makes_an_engine_runnable() {
    let world = World::new(3, Faults::none());
    let mut engine = crate::engine::sim::SimEngine::new(&world, config());
    let mut reports = Vec::new();
    world.run_for(Duration::from_millis(1));
    assert_eq!(engine.now().as_nanos(), 0);
    let deadline = world.now() + Duration::from_secs(1);
    for _ in 0..2 {
        assert_eq!(world.step(), Step::Engine(0));
        engine.poll(Some(deadline), &mut reports).expect("a poll");
    }
    assert_eq!(engine.now(), deadline);
    assert!(reports.is_empty());
    engine.poll(None, &mut reports).expect("a poll");
    assert_eq!(world.step(), Step::Idle);
}
