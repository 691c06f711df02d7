//! What a connection does when its peer is silent or slow, or when it has to wait itself.

use super::*;
use crate::engine::CloseMode;

const SECOND: Duration = Duration::from_secs(1);
const NANOSECOND: Duration = Duration::from_nanos(1);

/// First byte within 3 s, idle for 10 s, 1,000 bytes sent within 5 s.
fn timed() -> Flow {
    Flow {
        first_byte_timeout: Some(3 * SECOND),
        idle_timeout: Some(10 * SECOND),
        min_send_progress: Some(MinProgress::new(1_000, 5 * SECOND)),
        ..small_flow()
    }
}

fn bench() -> Bench {
    Bench::new(8, 1 << 20, timed())
}

/// A connection from which 1,000 bytes are wanted every 2 s.
fn rated() -> Bench {
    let rate = Some(MinProgress::new(1_000, 2 * SECOND));
    let mut bench = Bench::new(8, 1 << 20, Flow { min_receive_rate: rate, ..small_flow() });
    assert_eq!(bench.steps(), ["Receive"]);
    bench
}

/// The peer sends, and the handler has it.
fn hear(bench: &mut Bench, bytes: usize) {
    drop(bench.kept(&vec![1; bytes]));
}

/// Closed in order: half-closed, then gone when the peer finishes.
fn assert_closed_in_order(mut bench: Bench, reason: CloseReason) {
    assert!(!bench.machine.is_open(), "still open");
    assert!(bench.steps().contains(&"ShutdownWrite".to_owned()));
    bench.write_shut();
    bench.peer_finished();
    assert!(matches!(bench.step(), Some(Step::Close(CloseMode::Orderly))));
    assert_eq!(bench.released(), reason);
}

/// Reset, with `gather` still in flight.
fn assert_reset(mut bench: Bench, gather: Box<Gather>, reason: CloseReason) {
    assert!(matches!(bench.step(), Some(Step::Close(CloseMode::Abort))));
    bench.machine.sent(gather, Err(io::ErrorKind::Other.into()), bench.now, &mut bench.pools);
    assert_eq!(bench.released(), reason);
}

#[test]
fn messages_ask_for_no_timer() {
    let mut bench = bench();
    assert!(bench.machine.wants_rearming(), "a new connection does");
    assert_eq!(bench.steps(), ["Receive"]);
    for _ in 0..100 {
        hear(&mut bench, 50);
        bench.send("answer").expect("taken");
        let gather = bench.gather();
        bench.sent_all(gather);
        bench.now = bench.now + Duration::from_millis(10);
        assert!(bench.machine.is_quiet() && !bench.machine.wants_attention());
    }
    bench.close();
    assert!(bench.machine.wants_rearming(), "and one that has less time left");
}

#[test]
fn a_connection_that_never_says_anything_is_closed_in_order_as_first_byte_timeout() {
    let mut bench = bench();
    assert_eq!(bench.steps(), ["Receive"]);
    bench.pass(3 * SECOND - NANOSECOND);
    assert!(bench.machine.is_open());
    bench.pass(NANOSECOND);
    assert_closed_in_order(bench, CloseReason::FirstByteTimeout);
}

#[test]
fn a_byte_in_either_direction_ends_the_wait_for_the_first() {
    let mut heard = bench();
    hear(&mut heard, 1);
    let mut said = bench();
    said.send("welcome").expect("taken");
    let gather = said.gather();
    said.sent(gather, 1);
    for mut bench in [heard, said] {
        bench.pass(4 * SECOND);
        assert!(bench.machine.is_open());
    }
}

#[test]
fn a_greeting_that_the_peer_does_not_take_is_no_first_byte() {
    let mut bench = bench();
    bench.send("welcome").expect("taken");
    let gather = bench.gather();
    bench.pass(3 * SECOND);
    assert!(!bench.machine.is_open());
    bench.sent_all(gather);
    assert_closed_in_order(bench, CloseReason::FirstByteTimeout);
}

#[test]
fn an_idle_connection_is_closed_in_order_after_its_last_byte() {
    let mut bench = bench();
    assert_eq!(bench.steps(), ["Receive"]);
    hear(&mut bench, 5);
    for _ in 0..5 {
        bench.pass(9 * SECOND);
        hear(&mut bench, 5);
    }
    bench.pass(10 * SECOND - NANOSECOND);
    assert!(bench.machine.is_open());
    bench.pass(NANOSECOND);
    assert_closed_in_order(bench, CloseReason::IdleTimeout);
}

#[test]
fn a_sent_byte_is_no_idleness_either() {
    let mut bench = bench();
    assert_eq!(bench.steps(), ["Receive"]);
    for _ in 0..5 {
        bench.send("news").expect("taken");
        let gather = bench.gather();
        bench.sent_all(gather);
        bench.pass(9 * SECOND);
        assert!(bench.machine.is_open());
    }
    bench.pass(SECOND);
    assert_closed_in_order(bench, CloseReason::IdleTimeout);
}

#[test]
fn a_connection_with_something_undelivered_is_not_idle_and_later_is_so_for_the_whole_time() {
    let mut bench = bench();
    assert_eq!(bench.steps(), ["Receive"]);
    bench.machine.pause_read();
    assert!(bench.received(b"read me later").is_none());
    assert_eq!(bench.steps(), ["PauseReceive"]);
    bench.pass(60 * SECOND);
    assert!(bench.machine.is_open());
    bench.machine.resume_read();
    assert_eq!(bench.steps(), ["Deliver", "Receive"]);
    bench.pass(9 * SECOND / 10);
    assert!(bench.machine.is_open());
    bench.pass(20 * SECOND);
    assert_closed_in_order(bench, CloseReason::IdleTimeout);
}

#[test]
fn a_paused_connection_with_nothing_to_do_is_idle() {
    let mut bench = bench();
    assert_eq!(bench.steps(), ["Receive"]);
    hear(&mut bench, 5);
    bench.machine.pause_read();
    assert_eq!(bench.steps(), ["PauseReceive"]);
    bench.pass(10 * SECOND);
    assert_closed_in_order(bench, CloseReason::IdleTimeout);
}

/// Who wanted to speak and found no send memory is silent because of the server.
#[test]
fn waiting_for_send_memory_is_no_silence_and_the_whole_time_runs_afterwards() {
    let mut bench = bench();
    assert_eq!(bench.steps(), ["Receive"]);
    let used = use_up(&bench.pools.lease);
    bench.send(vec![1; 10_000]).expect_err("beyond its floor");
    assert!(bench.machine.waits_for_memory());
    bench.pass(60 * SECOND);
    assert!(bench.machine.is_open(), "it has waited for memory all the time");
    bench.pools.lease.refund(used);
    bench.machine.memory_is_back();
    bench.pass(2 * SECOND);
    assert!(bench.machine.is_open(), "its silence begins when the wait is over, give or take a look");
    bench.pass(10 * SECOND);
    assert!(!bench.machine.is_open());
}

#[test]
fn without_timeouts_nothing_is_looked_at_and_nothing_ends() {
    let mut bench = Bench::roomy();
    assert_eq!(bench.machine.next_look(bench.now, &bench.pools), Time::MAX);
    bench.send("nobody takes it").expect("taken");
    let gather = bench.gather();
    bench.wait(1_000_000 * SECOND);
    assert!(bench.machine.is_open());
    bench.sent_all(gather);
}

#[test]
fn a_peer_that_takes_nothing_is_reset_as_too_slow() {
    let mut bench = bench();
    hear(&mut bench, 1);
    bench.pass(4 * SECOND);
    bench.send(vec![1; 3_000]).expect("taken");
    let gather = bench.gather();
    bench.pass(5 * SECOND - NANOSECOND);
    assert!(bench.machine.is_open());
    bench.pass(NANOSECOND);
    assert_reset(bench, gather, CloseReason::SendTooSlow);
}

#[test]
fn a_trickle_below_the_rate_is_reset_and_one_above_it_is_not() {
    let trickle = |bytes: usize| {
        let mut bench = bench();
        bench.send(vec![1; 14_000]).expect("taken");
        let mut gather = bench.gather();
        for _ in 0..10 {
            bench.pass(SECOND);
            if !bench.machine.is_open() {
                return (bench, gather);
            }
            bench.sent(gather, bytes);
            gather = bench.gather();
        }
        (bench, gather)
    };
    let (bench, gather) = trickle(199);
    assert_reset(bench, gather, CloseReason::SendTooSlow);
    let (bench, _) = trickle(300);
    assert!(bench.machine.is_open());
}

#[test]
fn a_peer_that_takes_all_there_is_at_once_keeps_up_however_little_that_is() {
    let mut bench = bench();
    bench.send("x").expect("taken");
    // There is always something in flight, and always something new before it has been taken.
    for _ in 0..100 {
        let gather = bench.gather();
        bench.pass(SECOND / 2);
        bench.send("x").expect("taken");
        bench.sent_all(gather);
        assert!(bench.machine.is_open());
    }
    let gather = bench.gather();
    bench.sent_all(gather);
}

#[test]
fn a_peer_that_takes_whole_slices_slowly_while_more_waits_does_not_keep_up() {
    let mut bench = Bench::with_queue(8, 1 << 20, timed(), &FlowControl { queue_messages: 1_000, ..small_queue() });
    let first = bench.occupy();
    for _ in 0..500 {
        bench.send("x").expect("taken");
    }
    bench.sent_all(first);
    let mut gather = bench.gather();
    // A slice is 64 messages at most: 64 bytes in 2 s.
    for _ in 0..2 {
        bench.pass(2 * SECOND);
        bench.sent_all(gather);
        gather = bench.gather();
    }
    bench.pass(SECOND);
    assert_reset(bench, gather, CloseReason::SendTooSlow);
}

#[test]
fn a_close_does_not_save_a_peer_that_is_too_slow_and_its_reason_gives_way() {
    let mut bench = bench();
    bench.send(vec![1; 3_000]).expect("taken");
    let gather = bench.gather();
    bench.close();
    bench.pass(5 * SECOND);
    assert_reset(bench, gather, CloseReason::SendTooSlow);
}

#[test]
fn waiting_for_a_turn_to_send_is_not_the_peers_fault_but_the_time_before_is() {
    let mut bench = bench();
    bench.pools.sends.set_most(1);
    bench.send(vec![1; 3_000]).expect("taken");
    let gather = bench.gather();
    // Two of five seconds are used up; then another connection has the only turn.
    bench.pass(2 * SECOND);
    bench.sent(gather, 10);
    assert!(bench.pools.sends.begin(), "the other");
    assert_eq!(bench.steps(), ["Receive"]);
    assert!(bench.machine.waits_to_send());
    bench.pass(60 * SECOND);
    assert!(bench.machine.is_open());
    bench.pools.sends.end();
    bench.machine.turn_to_send(&mut bench.pools);
    let gather = bench.gather();
    assert!(!bench.machine.waits_to_send());
    bench.pass(3 * SECOND - NANOSECOND);
    assert!(bench.machine.is_open());
    bench.pass(NANOSECOND);
    assert_reset(bench, gather, CloseReason::SendTooSlow);
}

#[test]
fn who_ends_while_it_waits_for_its_turn_or_has_it_keeps_nobody_from_sending() {
    for has_turn in [false, true] {
        let mut bench = bench();
        bench.pools.sends.set_most(1);
        assert!(bench.pools.sends.begin(), "another");
        bench.send("never sent").expect("taken");
        assert_eq!(bench.steps(), ["Receive"]);
        if has_turn {
            bench.pools.sends.end();
            bench.machine.turn_to_send(&mut bench.pools);
            assert!(!bench.pools.sends.has_room());
        }
        bench.machine.abort(CloseReason::AbortedByHandler, &mut bench.pools);
        if !has_turn {
            bench.pools.sends.end();
        }
        assert!(bench.pools.sends.begin(), "another may send");
        assert_eq!(bench.steps(), ["Close(Abort)"]);
        assert_eq!(bench.released(), CloseReason::AbortedByHandler);
    }
}

#[test]
fn a_peer_that_sends_more_slowly_than_the_rate_is_closed_in_order() {
    let mut bench = rated();
    bench.pass(60 * SECOND);
    assert!(bench.machine.is_open(), "it begins with the first byte");
    hear(&mut bench, 1);
    for _ in 0..20 {
        bench.pass(SECOND * 9 / 10);
        hear(&mut bench, 600);
    }
    bench.pass(SECOND);
    hear(&mut bench, 1);
    bench.pass(SECOND - NANOSECOND);
    assert!(bench.machine.is_open());
    bench.pass(NANOSECOND);
    assert_closed_in_order(bench, CloseReason::ReceiveTooSlow);
}

#[test]
fn a_pause_of_reading_stops_the_clock_of_the_receive_rate() {
    let mut bench = rated();
    hear(&mut bench, 1);
    bench.pass(SECOND);
    bench.machine.pause_read();
    assert_eq!(bench.steps(), ["PauseReceive"]);
    bench.pass(60 * SECOND);
    assert!(bench.machine.is_open());
    bench.machine.resume_read();
    assert_eq!(bench.steps(), ["Receive"]);
    bench.pass(SECOND - NANOSECOND);
    assert!(bench.machine.is_open(), "one of two seconds was left");
    bench.pass(NANOSECOND);
    assert_closed_in_order(bench, CloseReason::ReceiveTooSlow);
}

#[test]
fn what_the_system_holds_unread_was_sent_in_time() {
    let mut bench = rated();
    hear(&mut bench, 1);
    bench.unread_bytes = 1;
    bench.pass(60 * SECOND);
    assert!(bench.machine.is_open());
    bench.unread_bytes = 0;
    bench.pass(2 * SECOND);
    assert_closed_in_order(bench, CloseReason::ReceiveTooSlow);
}

#[test]
fn a_peer_that_has_finished_need_not_send_any_more() {
    let mut bench = rated();
    hear(&mut bench, 1);
    bench.peer_finished();
    assert_eq!(bench.steps(), ["PeerShutdown"]);
    bench.pass(60 * SECOND);
    assert!(bench.machine.is_open());
}

#[test]
fn a_send_without_system_memory_is_tried_again_and_reading_pauses_meanwhile() {
    let mut bench = bench();
    assert_eq!(bench.steps(), ["Receive"]);
    bench.send("try me again").expect("taken");
    let gather = bench.gather();
    bench.pass(SECOND);
    bench.machine.sent(gather, Err(io::ErrorKind::OutOfMemory.into()), bench.now, &mut bench.pools);
    assert!(!bench.machine.is_quiet());
    assert_eq!(bench.steps(), ["PauseReceive"]);
    assert_eq!(bench.machine.shortage(), Some(true), "it has just begun");
    bench.machine.try_system_again();
    let gather = bench.gather();
    assert_eq!(gather.slices().collect::<Vec<_>>(), [b"try me again"]);
    bench.machine.sent(gather, Err(io::ErrorKind::OutOfMemory.into()), bench.now, &mut bench.pools);
    assert_eq!(bench.machine.shortage(), Some(false), "it goes on");
    bench.machine.try_system_again();
    let gather = bench.gather();
    bench.sent_all(gather);
    assert_eq!(bench.machine.shortage(), None);
    assert_eq!(bench.steps(), ["Receive"]);
}

#[test]
fn a_shortage_of_the_system_is_not_the_peers_slowness() {
    let mut bench = bench();
    bench.send(vec![1; 3_000]).expect("taken");
    let gather = bench.gather();
    bench.sent(gather, 1);
    let gather = bench.gather();
    bench.machine.sent(gather, Err(io::ErrorKind::OutOfMemory.into()), bench.now, &mut bench.pools);
    assert_eq!(bench.steps(), [""; 0], "not read from, and nothing is sent");
    bench.pass(9 * SECOND);
    assert!(bench.machine.is_open());
    bench.machine.try_system_again();
    let gather = bench.gather();
    bench.pass(5 * SECOND);
    assert_reset(bench, gather, CloseReason::SendTooSlow);
}

#[test]
fn a_receive_without_system_memory_is_asked_for_again() {
    let mut bench = bench();
    assert_eq!(bench.steps(), ["Receive"]);
    bench.machine.receive_failed(&io::ErrorKind::OutOfMemory.into(), bench.now, &mut bench.pools);
    assert_eq!(bench.steps(), [""; 0]);
    assert_eq!(bench.machine.shortage(), Some(true));
    bench.machine.try_system_again();
    assert_eq!(bench.steps(), ["Receive"]);
    hear(&mut bench, 3);
    // The same while input is thrown away.
    bench.close();
    assert_eq!(bench.steps(), ["ShutdownWrite", "Discard"]);
    bench.machine.receive_failed(&io::ErrorKind::OutOfMemory.into(), bench.now, &mut bench.pools);
    assert_eq!(bench.steps(), [""; 0]);
    assert_eq!(bench.machine.shortage(), Some(true), "the last receive went well");
    bench.machine.try_system_again();
    assert_eq!(bench.steps(), ["Discard"]);
    assert_closed_in_order_after_shutdown(bench);
}

fn assert_closed_in_order_after_shutdown(mut bench: Bench) {
    bench.write_shut();
    bench.peer_finished();
    assert!(matches!(bench.step(), Some(Step::Close(CloseMode::Orderly))));
    assert_eq!(bench.released(), CloseReason::ClosedByHandler);
}
