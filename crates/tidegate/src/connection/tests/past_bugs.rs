//! What once went wrong, each under the name of what must hold instead.

use super::*;
use crate::engine::CloseMode;

/// A handler that sends again in `on_writable` what was refused kept the loop busy for ever: there was room for a reply,
/// so it was called, and refused, and called again, before anything was sent.
#[test]
fn on_writable_waits_until_the_refused_message_fits() {
    let mut bench = Bench::roomy();
    let gather = bench.occupy();
    bench.send(vec![1; 3_000]).expect("taken");
    let big = || vec![2; 14_000];
    assert!(matches!(bench.send(big()), Err(Refused { why: Refusal::Full { .. }, .. })));
    assert_eq!(bench.steps(), ["Receive"], "below the high mark, but no room for what was refused");
    bench.sent_all(gather);
    let gather = bench.gather();
    assert!(matches!(bench.step(), Some(Step::Writable)));
    assert!(matches!(bench.send(big()), Ok(Sent::OverMark)));
    assert!(matches!(bench.send(big()), Err(Refused { why: Refusal::Full { .. }, .. })));
    assert_eq!(bench.steps(), ["PauseReceive"], "nothing to say before something is sent");
    bench.sent_all(gather);
    let gather = bench.gather();
    assert_eq!(bench.steps(), ["Writable", "Receive"]);
    bench.sent_all(gather);
}

/// The connection had ended when the step said so, and `on_peer_shutdown` was never called.
#[test]
fn the_peers_end_is_told_also_when_we_finished_first() {
    let mut bench = Bench::roomy();
    bench.machine.shutdown();
    assert_eq!(bench.steps(), ["ShutdownWrite", "Receive"]);
    bench.write_shut();
    bench.peer_finished();
    assert!(matches!(bench.step(), Some(Step::PeerShutdown)));
    assert!(bench.machine.is_open(), "the handler is served while it is called");
    assert!(matches!(bench.step(), Some(Step::Close(CloseMode::Orderly))));
    assert_eq!(bench.released(), CloseReason::Finished);
}

/// It waited for the half-close that had long been done, and was then reset, with the reason `CloseTimeout`.
#[test]
fn a_close_after_a_half_close_lingers() {
    let mut bench = Bench::roomy();
    bench.machine.shutdown();
    assert_eq!(bench.steps(), ["ShutdownWrite", "Receive"]);
    bench.write_shut();
    bench.close();
    assert_eq!(bench.machine.deadline(), Time::ZERO + Duration::from_secs(5));
    assert_eq!(bench.steps(), ["Discard"]);
    bench.wait(Duration::from_secs(5));
    assert!(matches!(bench.step(), Some(Step::Close(CloseMode::Orderly))));
    assert_eq!(bench.released(), CloseReason::ClosedByHandler);
}

/// The same, when the peer had finished as well and only the handler didn't know yet, because it had paused.
#[test]
fn a_close_after_both_have_finished_ends_at_once() {
    let mut bench = Bench::roomy();
    bench.machine.shutdown();
    assert_eq!(bench.steps(), ["ShutdownWrite", "Receive"]);
    bench.machine.pause_read();
    bench.write_shut();
    bench.peer_finished();
    assert_eq!(bench.steps(), [""; 0]);
    bench.close();
    assert!(matches!(bench.step(), Some(Step::Close(CloseMode::Orderly))));
    assert_eq!(bench.released(), CloseReason::ClosedByHandler);
}

/// It stood in line for common memory, although what it had sent had freed its own floor.
#[test]
fn a_connection_lives_on_its_floor_when_common_memory_is_used_up() {
    let mut bench = Bench::roomy();
    assert_eq!(bench.steps(), ["Receive"]);
    let used = use_up(&bench.pools.lease);
    bench.send("a reply").expect("paid by the floor");
    let gather = bench.gather();
    assert!(bench.received(b"a question").is_none());
    assert_eq!(bench.steps(), ["PauseReceive"]);
    assert!(bench.machine.waits_for_memory());
    bench.sent_all(gather);
    assert!(!bench.machine.waits_for_memory());
    assert_eq!(bench.steps(), ["Deliver", "Receive"]);
    bench.pools.lease.refund(used);
}

/// The floor is one reply; the nodes of what had been received and waited were charged to it, too, so that no reply fitted.
#[test]
fn what_waits_for_the_handler_leaves_its_floor_alone() {
    let mut bench = Bench::roomy();
    assert_eq!(bench.steps(), ["Receive"]);
    let used = use_up(&bench.pools.lease);
    bench.machine.pause_read();
    for question in [b"1", b"2", b"3"] {
        assert!(bench.received(question).is_none());
    }
    assert_eq!(bench.steps(), ["PauseReceive"]);
    assert!(!bench.pools.pressed, "the arena has a reserve");
    bench.machine.resume_read();
    assert_eq!(bench.steps(), ["Deliver", "Deliver", "Deliver", "Receive"]);
    bench.pools.lease.refund(used);
}

/// "A message of 5,192 bytes never fits into a send queue of 16,384 bytes."
#[test]
fn a_message_too_large_for_send_memory_is_refused_with_that_limit() {
    let mut bench = Bench::new(8, 500, small_flow());
    let why = bench.send(vec![1; 5_000]).expect_err("larger than all memory").why;
    assert_eq!(why, Refusal::TooLarge { bytes: 5_192, limit_bytes: 4_788 });
}

/// A reserve smaller than a reply, which is allowed with a floor that holds one, never had enough, and whoever stood in
/// line stood there for ever.
#[test]
fn a_reserve_smaller_than_a_reply_is_back_when_all_of_it_is() {
    let bench = Bench::new(8, 1_000, small_flow());
    assert!(bench.pools.can_charge_reply());
    let used = use_up(&bench.pools.lease);
    assert!(!bench.pools.can_charge_reply());
    bench.pools.lease.refund(used);
    assert!(bench.pools.can_charge_reply());
}

/// With a floor below a reply, what waited used up the memory that the reply to it needed, and waited for ever.
#[test]
fn what_waits_for_the_handler_leaves_memory_for_a_reply() {
    let mut bench = Bench::new(8, CREDIT_BYTES, Flow { floor_bytes: 0, held_buffers: 0, ..small_flow() });
    assert_eq!(bench.steps(), ["Receive"]);
    bench.machine.pause_read();
    assert!(bench.received(b"a question").is_none());
    assert_eq!(bench.pools.lease.charged(), 0);
    bench.machine.resume_read();
    assert_eq!(bench.steps(), ["Deliver"]);
}

/// Rules that read on let a connection off the line for send memory, although a message of it had been refused for that: the handler was told
/// of room, tried again, was refused again, set its rules again, and the I/O thread did nothing else from then on.
#[test]
fn new_rules_make_no_room_for_what_was_refused_for_lack_of_memory() {
    for overflow in [Overflow::default(), Overflow::DropOldest] {
        let mut bench = Bench::roomy();
        assert_eq!(bench.steps(), ["Receive"]);
        let used = use_up(&bench.pools.lease);
        let refused = bench.send(vec![1; 2 * CREDIT_BYTES]).expect_err("all memory is others'");
        assert!(matches!(refused.why, Refusal::NoMemory { .. }), "{:?}", refused.why);
        let rules = FlowControl { overflow, reads_above_mark: true, ..bench.pools.flows.control(0).clone() };
        bench.machine.set_flow(rules, bench.now, &mut bench.pools).expect("sound");
        assert_eq!(bench.steps(), ["PauseReceive"]);
        bench.pools.lease.refund(used);
        bench.machine.memory_is_back();
        assert_eq!(bench.steps(), ["Writable", "Receive"]);
    }
}

/// The timer stayed where the old rules had set it, or there was none, when the queue was short at the change and grew only afterwards: a
/// consumer that was too slow by the new rules was ended late, or never.
#[test]
fn a_limit_of_time_that_comes_with_other_rules_is_kept_also_when_the_queue_was_short_at_the_change() {
    let rules = |limit: Option<u64>| FlowControl { over_mark_limit: limit.map(Duration::from_secs), ..small_queue() };
    for old in [Some(60), None] {
        let mut bench = Bench::with_queue(8, 1 << 20, small_flow(), &rules(old));
        let mut armed = Time::MAX;
        // As an I/O thread does it: it sets the timer when it is asked to, and at no other time.
        let mut arm = |bench: &mut Bench| {
            if bench.machine.wants_rearming() {
                armed = bench.machine.next_look(bench.now, &bench.pools);
            }
            armed
        };
        let begun = bench.occupy();
        bench.send(vec![1; 15_000]).expect("taken");
        bench.machine.set_flow(rules(old), bench.now, &mut bench.pools).expect("rules that fit");
        arm(&mut bench);
        bench.sent_all(begun);
        let begun = bench.gather();
        arm(&mut bench);
        bench.machine.set_flow(rules(Some(1)), bench.now, &mut bench.pools).expect("rules that fit");
        arm(&mut bench);
        assert!(matches!(bench.send(vec![2; 15_000]), Ok(Sent::OverMark)));
        let (armed, due) = (arm(&mut bench), bench.now + Duration::from_secs(1));
        assert!(armed <= due, "it is due at {due}, and the timer is set to {armed} (the old limit: {old:?} s)");
        bench.wait(Duration::from_secs(1));
        assert_eq!(bench.machine.reason, Some(CloseReason::SlowConsumer));
        drop(begun);
    }
}
