//! The simulated engine by the contract: receiving by demand.

use std::time::Duration;

use super::fixture::{Bench, config};
use crate::engine::sim::{Fault, Faults, SimPeer, SimStream};
use crate::engine::{CloseMode, Completion, Engine, EngineConfig, SocketId};
use crate::memory::ArenaConfig;

const MOMENT: Duration = Duration::from_millis(5);

fn with_buffers(buffers: u32) -> EngineConfig {
    EngineConfig { arena: ArenaConfig { buffers, ..config().arena }, ..config() }
}

fn pairs(bench: &mut Bench, count: usize) -> Vec<(SimPeer, SocketId)> {
    (0..count).map(|_| bench.pair()).collect()
}

/// The names of completions.
fn names(reports: &[Completion<SimStream>]) -> Vec<&'static str> {
    let name = |report: &Completion<SimStream>| match report {
        Completion::Received { .. } => "received",
        Completion::ReceivePaused { .. } => "paused",
        Completion::PeerFinished { .. } => "finished",
        Completion::ReceiveFailed { .. } => "failed",
        Completion::Discarded { .. } => "discarded",
        Completion::Closed { .. } => "closed",
        _ => "other",
    };
    reports.iter().map(name).collect()
}

#[test]
fn a_receive_takes_buffers_only_when_data_is_there() {
    let mut bench = Bench::new(Faults::none(), config());
    let (mut peer, socket) = bench.pair();
    bench.engine.receive(socket).expect("an open socket");
    bench.engine.receive(socket).expect("asking twice is asking once");
    assert!(bench.run_for(MOMENT).is_empty());
    assert_eq!(bench.engine.arena().free(), 16);
    peer.write(&[5; 10_000]).expect("room");
    let reports = bench.run_for(MOMENT);
    assert_eq!(names(&reports), ["received"; 3]);
    assert_eq!(bench.engine.arena().held_by(socket.index), 3);
    peer.write(&[5; 10]).expect("room");
    assert_eq!(bench.next_data().len(), 10);
}

#[test]
fn a_pause_delivers_what_was_filled_and_then_nothing_not_even_the_end() {
    let faults = Faults { completion_ns: (2_000_000, 2_000_000), ..Faults::none() };
    let mut bench = Bench::new(faults, config());
    let (mut peer, socket) = bench.pair();
    bench.engine.pause_receive(socket).expect("pausing what doesn't receive does nothing");
    bench.engine.receive(socket).expect("an open socket");
    bench.run_for(Duration::from_micros(100));
    peer.write(b"filled").expect("room");
    bench.run_for(Duration::from_micros(100));
    bench.engine.pause_receive(socket).expect("an open socket");
    let reports = bench.run_for(MOMENT);
    assert_eq!(names(&reports), ["received", "paused"]);
    peer.write(b"later").expect("room");
    peer.shutdown_write().expect("a connection");
    assert!(bench.run_for(MOMENT).is_empty());
    bench.engine.receive(socket).expect("an open socket");
    assert_eq!(names(&bench.run_for(MOMENT)), ["received", "finished"]);
    bench.engine.receive(socket).expect("an open socket");
    assert!(bench.run_for(MOMENT).is_empty(), "there is nothing more to ask for");
}

#[test]
fn the_end_that_comes_during_a_pause_is_kept_for_the_next_receive() {
    let faults = Faults { completion_ns: (2_000_000, 2_000_000), ..Faults::none() };
    let mut bench = Bench::new(faults, config());
    let (mut peer, socket) = bench.pair();
    bench.engine.receive(socket).expect("an open socket");
    bench.run_for(Duration::from_micros(100));
    peer.shutdown_write().expect("a connection");
    bench.run_for(Duration::from_micros(100));
    bench.engine.pause_receive(socket).expect("an open socket");
    assert_eq!(names(&bench.run_for(MOMENT)), ["paused"]);
    bench.engine.receive(socket).expect("an open socket");
    assert_eq!(names(&bench.run_for(MOMENT)), ["finished"]);
}

#[test]
fn a_pause_that_is_called_off_leaves_no_trace() {
    let mut bench = Bench::new(Faults::none(), config());
    let (mut peer, socket) = bench.pair();
    bench.engine.receive(socket).expect("an open socket");
    bench.run_for(MOMENT);
    bench.engine.pause_receive(socket).expect("an open socket");
    bench.engine.receive(socket).expect("an open socket");
    assert!(bench.run_for(MOMENT).is_empty());
    peer.write(b"on and on").expect("room");
    assert_eq!(&bench.next_data()[..], b"on and on");
}

#[test]
fn a_receive_that_the_system_interrupts_goes_on() {
    let mut bench = Bench::new(Faults::none().with(Fault::ReceiveInterrupted, 1_000_000), config());
    let (mut peer, socket) = bench.pair();
    bench.engine.receive(socket).expect("an open socket");
    bench.run_for(MOMENT);
    peer.write(b"data").expect("room");
    assert!(bench.run_for(MOMENT).is_empty());
    assert!(bench.engine.counters().rearmed > 10, "interrupted again and again");
    bench.world.calm_down();
    assert_eq!(&bench.next_data()[..], b"data");
}

#[test]
fn a_cancel_may_lose_the_race_with_data() {
    let mut bench = Bench::new(Faults::none().with(Fault::CancelLosesRace, 1_000_000), with_buffers(1));
    let (mut peer, socket) = bench.pair();
    bench.engine.receive(socket).expect("an open socket");
    peer.write(&[1; 8000]).expect("room");
    let first = bench.next_data();
    bench.run_for(MOMENT);
    assert_eq!(bench.engine.counters().starving, 1);
    drop(first);
    bench.engine.poll(None, &mut Vec::new()).expect("a poll");
    bench.engine.pause_receive(socket).expect("an open socket");
    assert_eq!(names(&bench.run_for(MOMENT)), ["received", "paused"]);
}

#[test]
fn starving_receives_wait_in_line_and_as_many_go_on_as_buffers_come_home() {
    let mut bench = Bench::new(Faults::none(), with_buffers(2));
    let mut held = Vec::new();
    let mut pairs = pairs(&mut bench, 6);
    for (peer, socket) in &mut pairs {
        bench.engine.receive(*socket).expect("an open socket");
        peer.write(b"data").expect("room");
        held.extend(bench.run_for(Duration::from_millis(1)));
    }
    let counters = bench.engine.counters();
    assert_eq!((held.len(), counters.starved, counters.starving), (2, 4, 4));
    assert!(bench.run_for(Duration::from_secs(1)).is_empty());
    assert!(bench.engine.counters().polls - counters.polls < 3, "an engine doesn't spin meanwhile");
    held.clear();
    held.extend(bench.run_for(MOMENT));
    let counters = bench.engine.counters();
    assert_eq!((names(&held), counters.starved, counters.starving), (vec!["received"; 2], 4, 2));
}

#[test]
fn a_newcomer_does_not_overtake_the_line_when_a_buffer_is_free_again() {
    let mut bench = Bench::new(Faults::none(), with_buffers(1));
    let mut pairs = pairs(&mut bench, 3);
    let mut held = Vec::new();
    for (peer, socket) in &mut pairs[..2] {
        bench.engine.receive(*socket).expect("an open socket");
        peer.write(b"data").expect("room");
        held.extend(bench.run_for(Duration::from_millis(1)));
    }
    let (mut late, late_socket) = pairs.pop().expect("a third");
    bench.engine.receive(late_socket).expect("an open socket");
    bench.run_for(Duration::from_millis(1));
    held.clear();
    late.write(b"late").expect("room");
    bench.world.run_for(MOMENT);
    for expected in [pairs[1].1, late_socket] {
        let Completion::Received { socket, .. } = bench.next() else { panic!("no data") };
        assert_eq!(socket, expected);
    }
}

#[test]
fn a_buffer_that_another_thread_returns_ends_the_waiting() {
    let mut bench = Bench::new(Faults::none(), with_buffers(1));
    let (mut peer, socket) = bench.pair();
    bench.engine.receive(socket).expect("an open socket");
    peer.write(&[1; 5000]).expect("room");
    let lent = bench.next_data().into_bytes();
    assert!(bench.run_for(MOMENT).is_empty());
    std::thread::spawn(move || drop(lent)).join().expect("the other thread ends");
    assert_eq!(names(&bench.run_for(MOMENT)), ["received"]);
}

#[test]
fn the_line_is_first_come_first_served_and_a_starving_socket_can_pause_and_close() {
    let mut bench = Bench::new(Faults::none(), with_buffers(1));
    let mut pairs = pairs(&mut bench, 5);
    let mut held = Vec::new();
    for (peer, socket) in &mut pairs {
        bench.engine.receive(*socket).expect("an open socket");
        peer.write(b"data").expect("room");
        held.extend(bench.run_for(Duration::from_millis(1)));
    }
    assert_eq!(bench.engine.counters().starving, 4);
    bench.engine.pause_receive(pairs[1].1).expect("an open socket");
    assert_eq!(names(&bench.run_for(MOMENT)), ["paused"]);
    bench.engine.close(pairs[2].1, CloseMode::Orderly).expect("an open socket");
    assert_eq!(names(&bench.run_for(MOMENT)), ["closed"]);
    bench.engine.receive(pairs[1].1).expect("an open socket");
    bench.run_for(MOMENT);
    let mut order = Vec::new();
    drop(held);
    while order.len() < 3 {
        let Completion::Received { socket, .. } = bench.next() else { panic!("no data") };
        order.push(socket);
    }
    assert_eq!(order, [pairs[3].1, pairs[4].1, pairs[1].1]);
    assert_eq!(bench.engine.counters().starving, 0);
}

#[test]
fn no_socket_gets_more_than_its_budget_before_another_one() {
    let mut config = with_buffers(64);
    config.receive_budget_bytes = 20_000;
    let mut bench = Bench::new(Faults::none(), config);
    let mut pairs = pairs(&mut bench, 2);
    for (peer, _) in &mut pairs {
        assert_eq!(peer.write(&[1; 200_000]).expect("room"), 200_000);
    }
    bench.world.run_for(MOMENT);
    for (_, socket) in &pairs {
        bench.engine.receive(*socket).expect("an open socket");
    }
    let mut total = [0, 0];
    while total != [200_000, 200_000] {
        bench.poll_once();
        let mut turn = [0, 0];
        for report in bench.reports.drain(..) {
            let Completion::Received { socket, buffer } = report else { panic!("{report:?}") };
            turn[usize::from(socket == pairs[1].1)] += buffer.len();
        }
        assert!(turn[0] == turn[1] && turn[0] < 20_000 + 4096, "{turn:?}");
        total = [total[0] + turn[0], total[1] + turn[1]];
    }
}

#[test]
fn discard_counts_without_buffers_and_then_reports_the_end() {
    let mut bench = Bench::new(Faults::none(), with_buffers(1));
    let (mut peer, socket) = bench.pair();
    bench.engine.receive(socket).expect("an open socket");
    peer.write(&[1; 10_000]).expect("room");
    let held = bench.next_data();
    bench.run_for(MOMENT);
    assert_eq!(bench.engine.counters().starving, 1);
    bench.engine.discard(socket).expect("an open socket");
    bench.run_for(MOMENT);
    assert_eq!(bench.engine.totals().discarded_bytes, 10_000 - held.len() as u64);
    bench.engine.pause_receive(socket).expect("an open socket");
    peer.write(b"last").expect("room");
    peer.shutdown_write().expect("a connection");
    assert_eq!(names(&bench.run_for(MOMENT)), ["discarded", "finished"]);
}

#[test]
fn what_was_filled_before_a_discard_is_counted_and_goes_home() {
    let faults = Faults { completion_ns: (2_000_000, 2_000_000), ..Faults::none() };
    let mut bench = Bench::new(faults, config());
    let (mut peer, socket) = bench.pair();
    bench.engine.receive(socket).expect("an open socket");
    bench.run_for(Duration::from_micros(100));
    peer.write(&[1; 5_000]).expect("room");
    bench.run_for(Duration::from_micros(100));
    assert_eq!(bench.engine.arena().free(), 14);
    bench.engine.discard(socket).expect("an open socket");
    assert_eq!(names(&bench.run_for(MOMENT)), ["discarded", "discarded"]);
    assert_eq!((bench.engine.totals().discarded_bytes, bench.engine.arena().free()), (5_000, 16));
}

#[test]
fn a_closed_socket_delivers_nothing_and_its_buffers_go_home() {
    let faults = Faults { completion_ns: (2_000_000, 2_000_000), ..Faults::none() };
    let mut bench = Bench::new(faults, config());
    let (mut peer, socket) = bench.pair();
    bench.engine.receive(socket).expect("an open socket");
    bench.run_for(Duration::from_micros(100));
    peer.write(&[1; 5_000]).expect("room");
    bench.run_for(Duration::from_micros(100));
    bench.engine.close(socket, CloseMode::Orderly).expect("an open socket");
    assert_eq!(names(&bench.run_for(MOMENT * 2)), ["closed"]);
    assert_eq!((bench.engine.totals().undelivered_bytes, bench.engine.arena().free()), (5_000, 16));
    assert_eq!(peer.read(&mut [0]).expect("nothing was unread: the end, and no reset"), 0);
}

#[test]
fn a_full_completion_queue_interrupts_receives_and_loses_nothing() {
    let mut bench = Bench::new(Faults::none(), EngineConfig { completion_entries: 2, ..config() });
    let (mut peer, socket) = bench.pair();
    bench.engine.receive(socket).expect("an open socket");
    let sent: Vec<u8> = (0..40_000_u32).map(|number| number as u8).collect();
    peer.write(&sent).expect("room");
    let mut received = Vec::new();
    while received.len() < sent.len() {
        received.extend_from_slice(&bench.next_data());
    }
    assert_eq!(received, sent);
    assert!(bench.engine.counters().rearmed > 0);
}
