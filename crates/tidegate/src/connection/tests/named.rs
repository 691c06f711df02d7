//! What a connection does in the cases that have a name.

use super::*;
use crate::engine::CloseMode;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_half_close_is_answered_after_everything_queued() {
    let mut bench = Bench::roomy();
    assert_eq!(bench.steps(), ["Receive"]);
    bench.send("first").expect("taken");
    let gather = bench.gather();
    bench.send("second").expect("taken");
    bench.peer_finished();
    assert_eq!(bench.steps(), ["PeerShutdown"]);
    bench.machine.shutdown();
    assert!(matches!(bench.send("too late"), Err(Refused { why: Refusal::Closing, .. })));
    assert!(bench.step().is_none(), "no half-close with a send in flight");
    bench.sent(gather, 2);
    let gather = bench.gather();
    assert_eq!(gather.slices().collect::<Vec<_>>(), [&b"rst"[..], b"second"]);
    bench.sent_all(gather);
    assert_eq!(bench.steps(), ["ShutdownWrite"]);
    bench.write_shut();
    assert!(matches!(bench.step(), Some(Step::Close(CloseMode::Orderly))));
    assert_eq!(bench.released(), CloseReason::Finished);
}

#[test]
fn a_peer_that_finishes_hears_replies_to_all_it_sent_before_its_end_is_told() {
    let mut bench = Bench::roomy();
    bench.machine.pause_read();
    assert!(bench.received(b"late").is_none());
    bench.peer_finished();
    assert!(bench.step().is_none(), "a paused handler hears of nothing");
    bench.machine.resume_read();
    assert_eq!(bench.steps(), ["Deliver", "PeerShutdown"]);
}

#[test]
fn a_close_drains_then_shuts_then_lingers_until_the_peer_finishes() {
    let mut bench = Bench::roomy();
    assert_eq!(bench.steps(), ["Receive"]);
    bench.send("goodbye").expect("taken");
    bench.close();
    assert_eq!(bench.machine.deadline(), Time::ZERO + 30 * SECOND);
    let gather = bench.gather();
    assert_eq!(bench.steps(), ["Discard"]);
    assert!(bench.received(b"nobody wants it").is_none());
    bench.sent_all(gather);
    assert_eq!(bench.steps(), ["ShutdownWrite"]);
    bench.now = Time::ZERO + SECOND;
    bench.write_shut();
    assert_eq!(bench.machine.deadline(), Time::ZERO + 6 * SECOND);
    assert!(bench.step().is_none());
    bench.peer_finished();
    assert!(matches!(bench.step(), Some(Step::Close(CloseMode::Orderly))));
    assert!(bench.step().is_none(), "nothing comes after the close");
    assert_eq!(bench.released(), CloseReason::ClosedByHandler);
}

#[test]
fn a_drain_that_takes_too_long_is_aborted_and_says_so() {
    let mut bench = Bench::roomy();
    bench.send("nobody reads this").expect("taken");
    bench.close();
    let gather = bench.gather();
    bench.wait(30 * SECOND - Duration::from_nanos(1));
    assert_eq!(bench.steps(), ["Discard"]);
    bench.wait(Duration::from_nanos(1));
    assert!(matches!(bench.step(), Some(Step::Close(CloseMode::Abort))));
    assert_eq!(bench.machine.deadline(), Time::MAX);
    bench.sent(gather, 3);
    assert_eq!(bench.released(), CloseReason::CloseTimeout);
}

#[test]
fn a_peer_that_never_finishes_is_lingered_for_and_then_closed_in_order() {
    let mut bench = Bench::roomy();
    bench.close();
    assert_eq!(bench.steps(), ["ShutdownWrite", "Discard"]);
    bench.write_shut();
    bench.wait(5 * SECOND);
    assert!(matches!(bench.step(), Some(Step::Close(CloseMode::Orderly))));
    assert_eq!(bench.released(), CloseReason::ClosedByHandler);
}

#[test]
fn a_peer_that_talks_on_is_lingered_for_up_to_the_byte_cap() {
    let mut bench = Bench::roomy();
    bench.close();
    assert_eq!(bench.steps(), ["ShutdownWrite", "Discard"]);
    bench.machine.discarded(4_000, &mut bench.pools);
    bench.write_shut();
    bench.machine.discarded(6_000, &mut bench.pools);
    assert!(bench.step().is_none(), "10,000 bytes of 10,000");
    bench.machine.discarded(1, &mut bench.pools);
    assert!(matches!(bench.step(), Some(Step::Close(CloseMode::Orderly))));
    assert_eq!(bench.released(), CloseReason::ClosedByHandler);
}

#[test]
fn an_abort_throws_away_what_is_queued_and_frees_what_is_in_flight_when_it_comes_back() {
    let mut bench = Bench::roomy();
    bench.send("in flight").expect("taken");
    let gather = bench.gather();
    bench.send("queued").expect("taken");
    bench.machine.abort(CloseReason::AbortedByHandler, &mut bench.pools);
    assert!(matches!(bench.step(), Some(Step::Close(CloseMode::Abort))));
    assert_eq!(bench.machine.charged_bytes(), MESSAGE_OVERHEAD_BYTES);
    assert_eq!(bench.machine.stalled_since(), None);
    bench.machine.sent(gather, Err(io::ErrorKind::Other.into()), Time::ZERO, &mut bench.pools);
    assert_eq!(bench.released(), CloseReason::AbortedByHandler);
}

#[test]
fn the_first_cause_of_an_end_is_the_reason() {
    let mut bench = Bench::roomy();
    bench.close();
    bench.machine.receive_failed(&io::ErrorKind::ConnectionReset.into(), bench.now, &mut bench.pools);
    assert_eq!(bench.steps(), ["Close(Abort)"]);
    assert_eq!(bench.released(), CloseReason::ClosedByHandler);

    let mut bench = Bench::roomy();
    bench.machine.receive_failed(&io::ErrorKind::ConnectionReset.into(), bench.now, &mut bench.pools);
    bench.close();
    assert_eq!(bench.steps(), ["Close(Abort)"]);
    assert_eq!(bench.released(), CloseReason::Reset);
}

#[test]
fn a_failed_half_close_ends_the_connection() {
    let mut bench = Bench::roomy();
    bench.machine.shutdown();
    assert_eq!(bench.steps(), ["ShutdownWrite", "Receive"]);
    bench.machine.write_shut(Err(io::ErrorKind::NotConnected.into()), Time::ZERO, &mut bench.pools);
    assert_eq!(bench.steps(), ["Close(Abort)"]);
    assert_eq!(bench.released(), CloseReason::Reset);
}

#[test]
fn a_refusal_has_the_numbers_and_gives_the_message_back() {
    // 16 KiB of queue, but only 10,000 + 4,288 bytes of memory.
    let mut bench = Bench::new(8, 10_000, small_flow());
    let refused = bench.send(vec![7; 16 * 1024 + 1]).expect_err("larger than the queue");
    assert_eq!(refused.payload.as_slice(), vec![7; 16 * 1024 + 1]);
    assert_eq!(refused.why, Refusal::TooLarge { bytes: 16 * 1024 + 1, limit_bytes: 16 * 1024 });
    bench.occupy();
    bench.send(vec![1; 6_000]).expect("taken");
    let refused = bench.send(vec![2; 10_385]).expect_err("the queue is full");
    let full = Refusal::Full { queued_bytes: 6_000, limit_bytes: 16 * 1024, queued_messages: 1, limit_messages: 8 };
    assert_eq!(refused.why, full);
    assert_eq!(full.to_string(), "the send queue holds 6000 of 16384 bytes in 1 of 8 messages");
    let refused = bench.send(vec![3; 9_000]).expect_err("memory is used up");
    // 192 and 6,192 are charged, 2,096 of them beyond the floor, so that all of 9,192 would come from the reserve.
    assert_eq!(refused.why, Refusal::NoMemory { wanted_bytes: 9_192, free_bytes: 7_904, total_bytes: 10_000 });
    assert_eq!(refused.to_string(), "9192 bytes of send memory wanted, 7904 of 10000 free");
}

#[test]
fn a_queue_is_full_at_its_number_of_messages_too() {
    let mut bench = Bench::roomy();
    let first = bench.occupy();
    let sent: Vec<_> = (0..8).map(|_| bench.send("x").expect("taken")).collect();
    // The high mark is three quarters.
    assert_eq!(sent, [[Sent::Queued; 4], [Sent::Queued, Sent::Queued, Sent::OverMark, Sent::OverMark]].concat());
    let full = Refusal::Full { queued_bytes: 8, limit_bytes: 16 * 1024, queued_messages: 8, limit_messages: 8 };
    assert_eq!(bench.send("x").expect_err("full").why, full);
    bench.sent_all(first);
    let gather = bench.gather();
    assert_eq!(gather.pieces(), 8);
    assert_eq!(bench.steps(), ["Writable", "Receive"]);
}

#[test]
fn an_empty_message_is_taken_and_sends_nothing() {
    let mut bench = Bench::roomy();
    assert!(matches!(bench.send(""), Ok(Sent::Queued)));
    assert_eq!(bench.steps(), ["Receive"]);
}

#[test]
fn reading_pauses_above_the_high_mark_and_goes_on_below_the_low_one() {
    let mut bench = Bench::roomy();
    assert_eq!(bench.steps(), ["Receive"]);
    assert!(matches!(bench.send(vec![1; 8_000]), Ok(Sent::Queued)));
    assert!(matches!(bench.send(vec![2; 8_000]), Ok(Sent::Queued)));
    // The window is 8 KiB: both go out, because the first alone is below it.
    let gather = bench.gather();
    assert_eq!((gather.pieces(), bench.machine.queued_bytes()), (2, 0));
    assert!(matches!(bench.send(vec![3; 5_000]), Ok(Sent::Queued)), "the queue is what waits, not what is sent");
    assert!(matches!(bench.send(vec![4; 4_000]), Ok(Sent::OverMark)));
    assert_eq!(bench.steps(), ["PauseReceive"]);
    assert!(bench.received(b"a late one").is_none());
    bench.sent(gather, 8_000);
    let gather = bench.gather();
    assert_eq!(gather.pieces(), 2, "the rest of the last send is 8,000: one more fits below the window");
    assert_eq!(bench.machine.queued_bytes(), 4_000);
    assert_eq!(bench.steps(), ["Deliver", "Writable", "Receive"]);
}

#[test]
fn a_third_held_buffer_is_a_copy_charged_to_send_memory() {
    let mut bench = Bench::roomy();
    let held = [bench.kept(b"one"), bench.kept(b"two"), bench.kept(b"three")];
    assert_eq!(held.each_ref().map(Buffer::is_arena), [true, true, false]);
    assert_eq!((bench.pools.arena.outstanding(), bench.pools.lease.charged()), (2, 5));
    assert_eq!(&held[2][..], b"three");
    drop(held);
    assert_eq!((bench.pools.arena.outstanding(), bench.pools.lease.charged()), (0, 0));
}

#[test]
fn when_the_arena_runs_low_everybody_gets_copies() {
    let mut bench = Bench::roomy();
    let others: Vec<_> = (0..6).map(|_| bench.pools.arena.take_free().expect("a free buffer")).collect();
    let others: Vec<_> = others.into_iter().map(|index| bench.pools.arena.filled(index, 1, 0)).collect();
    let held = bench.kept(b"the seventh of eight");
    assert!(!held.is_arena());
    drop(others);
    assert!(bench.kept(b"the first").is_arena());
    assert!(!bench.pools.pressed);
}

#[test]
fn a_copy_without_memory_presses_only_when_the_arena_runs_low() {
    let mut bench = Bench::new(4, 1 << 20, small_flow());
    let used = use_up(&bench.pools.lease);
    let mut held = vec![bench.kept(b"1"), bench.kept(b"2"), bench.kept(b"3")];
    assert!(held.iter().all(Buffer::is_arena), "without memory there are no copies");
    assert!(!bench.pools.pressed, "a quarter of the arena is still there");
    held.push(bench.kept(b"4"));
    assert!(bench.pools.pressed, "nobody could receive");
    bench.pools.lease.refund(used);
}

#[test]
fn a_connection_without_memory_for_a_reply_waits_and_goes_on_when_it_is_back() {
    let mut bench = Bench::new(8, 1 << 20, Flow { floor_bytes: 0, ..small_flow() });
    assert_eq!(bench.steps(), ["Receive"]);
    let used = use_up(&bench.pools.lease);
    assert!(bench.received(b"hello").is_none());
    assert!(bench.machine.waits_for_memory());
    assert_eq!(bench.steps(), ["PauseReceive"]);
    bench.pools.lease.refund(used);
    assert!(bench.step().is_none(), "it stands in line until it is its turn");
    bench.machine.memory_is_back();
    assert_eq!(bench.steps(), ["Deliver", "Receive"]);
}

#[test]
fn a_handler_refused_for_memory_is_told_when_it_is_back() {
    let mut bench = Bench::new(8, 1 << 20, Flow { floor_bytes: 0, ..small_flow() });
    let used = use_up(&bench.pools.lease);
    let refused = bench.send(vec![1; 100]).expect_err("no memory");
    assert_eq!(refused.why, Refusal::NoMemory { wanted_bytes: 292, free_bytes: 0, total_bytes: 1 << 20 });
    assert!(bench.step().is_none());
    bench.pools.lease.refund(used);
    bench.machine.memory_is_back();
    assert_eq!(bench.steps(), ["Writable", "Receive"]);
}

#[test]
fn a_reply_of_one_buffer_is_paid_before_it_is_asked_for() {
    let mut bench = Bench::new(8, 1 << 20, Flow { floor_bytes: 0, ..small_flow() });
    let mut delivery = bench.received(b"ask").expect("delivered");
    use_up(&bench.pools.lease);
    let reply = Payload::copy_from(&[5; BUFFER_BYTES]);
    let Bench { machine, pools, now, .. } = &mut bench;
    machine.send(reply, &mut delivery.credit_bytes, *now, pools).expect("paid");
    assert_eq!(delivery.credit_bytes, 0);
    assert!(machine.send("more".into(), &mut delivery.credit_bytes, *now, pools).is_err());
}

#[test]
fn a_connection_is_stalled_while_something_is_in_flight_since_the_peer_last_took_some() {
    let mut bench = Bench::roomy();
    assert_eq!(bench.machine.stalled_since(), None);
    bench.wait(SECOND);
    bench.send("hello").expect("taken");
    let gather = bench.gather();
    assert_eq!(bench.machine.stalled_since(), Some(Time::ZERO + SECOND));
    bench.wait(SECOND);
    bench.sent(gather, 1);
    let gather = bench.gather();
    assert_eq!(bench.machine.stalled_since(), Some(Time::ZERO + 2 * SECOND));
    bench.sent_all(gather);
    assert_eq!(bench.machine.stalled_since(), None);
}
