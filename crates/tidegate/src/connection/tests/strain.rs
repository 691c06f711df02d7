//! What becomes of messages for which there is no room, told step by step.

use std::sync::{Arc, Mutex};

use super::*;

/// A queue of 16 KiB and 8 messages with this policy.
fn queue(overflow: Overflow) -> FlowControl {
    FlowControl { overflow, ..small_queue() }
}

fn bench(overflow: Overflow) -> Bench {
    Bench::with_queue(8, 1 << 20, small_flow(), &queue(overflow))
}

impl Bench {
    fn state(&self) -> QueueState {
        self.machine.queue_state(self.now, &self.pools)
    }

    /// Sends one-byte messages with these bytes; what became of each.
    fn send_each(&mut self, bytes: &[u8]) -> Vec<Sent> {
        bytes.iter().map(|&byte| self.send(vec![byte]).expect("taken, or dropped")).collect()
    }

    /// What goes out next, until nothing waits.
    fn wire(&mut self, first: Box<Gather>) -> Vec<u8> {
        let mut wire = Vec::new();
        let mut gather = Some(first);
        while let Some(sent) = gather.take() {
            wire.extend(sent.slices().flatten());
            self.sent_all(sent);
            gather = loop {
                match self.step() {
                    Some(Step::Send(next)) => break Some(next),
                    Some(_) => {}
                    None => break None,
                }
            };
        }
        wire
    }

    fn set_flow(&mut self, control: FlowControl) -> Result<(), FlowError> {
        self.machine.set_flow(control, self.now, &mut self.pools)
    }
}

#[test]
fn the_oldest_that_has_not_begun_makes_way_and_the_order_is_kept() {
    let mut bench = bench(Overflow::DropOldest);
    let begun = bench.occupy();
    assert_eq!(bench.send_each(b"abcdef"), [Sent::Queued; 6]);
    assert_eq!(bench.send_each(b"gh"), [Sent::OverMark; 2]);
    assert_eq!(bench.send_each(b"ij"), [Sent::EvictedOldest(1); 2]);
    let state = bench.state();
    assert_eq!((state.queued_messages, state.dropped_messages, state.dropped_bytes), (8, 2, 2));
    assert_eq!(state.outstanding_bytes, 1);
    assert_eq!(bench.wire(begun), b"xcdefghij", "x had begun");
    bench.machine.abort(CloseReason::AbortedByHandler, &mut bench.pools);
    bench.steps();
    bench.released();
}

#[test]
fn a_large_message_takes_the_place_of_as_many_old_ones_as_it_needs() {
    let mut bench = bench(Overflow::DropOldest);
    let begun = bench.occupy();
    for byte in 0..4 {
        bench.send(vec![byte; 4_000]).expect("it fits");
    }
    assert!(matches!(bench.send(vec![4; 8_000]), Ok(Sent::EvictedOldest(2))));
    assert!(matches!(bench.send(vec![5; 16 << 10]), Ok(Sent::EvictedOldest(3))), "all of the queue");
    let why = bench.send(vec![6; (16 << 10) + 1]).expect_err("larger than the queue").why;
    assert!(matches!(why, Refusal::TooLarge { .. }), "{why}");
    let state = bench.state();
    assert_eq!((state.queued_messages, state.dropped_messages, state.dropped_bytes), (1, 5, 4 * 4_000 + 8_000));
    let wire = bench.wire(begun);
    assert_eq!((wire.len(), wire[1]), (1 + (16 << 10), 5));
}

#[test]
fn the_newest_is_dropped_and_the_handler_is_told_when_there_is_room() {
    let mut bench = bench(Overflow::DropNewest);
    let begun = bench.occupy();
    bench.send_each(b"abcdefgh");
    assert_eq!(bench.send_each(b"ij"), [Sent::DroppedNew; 2]);
    assert_eq!((bench.state().dropped_messages, bench.state().dropped_bytes), (2, 2));
    assert_eq!(bench.steps(), ["Receive"], "reading goes on");
    bench.sent_all(begun);
    let gather = bench.gather();
    assert_eq!(bench.steps(), ["Writable"]);
    assert_eq!(bench.wire(gather), b"abcdefgh");
}

#[test]
fn a_full_queue_that_closes_resets_at_once_and_gives_everything_back() {
    let mut bench = bench(Overflow::Close);
    let begun = bench.occupy();
    bench.send_each(b"abcdefgh");
    let refused = bench.send("i").expect_err("closed for it");
    assert_eq!(refused.payload.as_slice(), b"i");
    let why = Refusal::SlowConsumer { queued_bytes: 8, limit_bytes: 16 << 10, queued_messages: 8, limit_messages: 8 };
    assert_eq!(refused.why, why);
    assert!(why.to_string().contains("8 of 16384 bytes in 8 of 8 messages"), "{why}");
    assert_eq!(bench.send("j").expect_err("it is over").why, Refusal::Closing);
    assert_eq!(bench.steps(), ["Close(Abort)"]);
    bench.machine.sent(begun, Err(io::ErrorKind::Other.into()), bench.now, &mut bench.pools);
    assert_eq!(bench.released(), CloseReason::SlowConsumer);
}

#[test]
fn a_queue_without_room_for_the_limit_ends_as_a_slow_consumer_and_not_before() {
    let mut bench = bench(Overflow::Wait { limit: Some(Duration::from_secs(5)) });
    let _begun = bench.occupy();
    bench.send_each(b"abcdefgh");
    bench.pass(Duration::from_secs(60));
    assert!(bench.machine.is_open(), "nobody was refused");
    bench.send("i").expect_err("full");
    bench.pass(Duration::from_millis(4_900));
    bench.send("j").expect_err("still");
    assert_eq!(bench.state().refusing_for, Some(Duration::from_millis(4_900)), "counted from the first");
    assert!(bench.machine.is_open());
    bench.pass(Duration::from_millis(100));
    assert_eq!(bench.steps(), ["Close(Abort)"]);
    assert_eq!(bench.machine.reason, Some(CloseReason::SlowConsumer));
}

#[test]
fn a_peer_that_makes_room_now_and_then_has_the_whole_time_again() {
    // Messages so large that each send is one of them, and the queue stays over its mark.
    let limit = Some(Duration::from_secs(5));
    let mut bench = bench(Overflow::Wait { limit });
    let mut begun = bench.occupy();
    for _ in 0..10 {
        while bench.send(vec![0; 2_000]).is_ok() {}
        bench.pass(Duration::from_millis(4_900));
        bench.sent_all(begun);
        begun = loop {
            match bench.step() {
                Some(Step::Send(gather)) => break gather,
                step => assert!(step.is_some(), "nothing goes out"),
            }
        };
    }
    assert!(bench.machine.is_open());
    while bench.send(vec![0; 2_000]).is_ok() {}
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.machine.reason, Some(CloseReason::SlowConsumer));
}

#[test]
fn who_is_told_that_there_is_room_does_not_refuse_any_more() {
    let mut bench = bench(Overflow::Wait { limit: Some(Duration::from_secs(5)) });
    let begun = bench.occupy();
    bench.send_each(b"abcdefgh");
    bench.send("i").expect_err("full");
    assert_eq!(bench.pools.flows.refusing(), 1);
    bench.sent_all(begun);
    let gather = bench.gather();
    assert_eq!(bench.steps(), ["Writable", "Receive"]);
    assert_eq!((bench.pools.flows.refusing(), bench.state().refusing_for), (0, None));
    bench.pass(Duration::from_secs(60));
    assert!(bench.machine.is_open());
    assert_eq!(bench.wire(gather), b"abcdefgh");
}

#[test]
fn waiting_for_a_turn_to_send_is_not_the_slowness_of_a_consumer() {
    let mut bench = bench(Overflow::Wait { limit: Some(Duration::from_secs(5)) });
    bench.pools.sends.set_most(1);
    assert!(bench.pools.sends.begin(), "somebody else has the only turn");
    while bench.send(vec![0; 2_000]).is_ok() {}
    bench.steps();
    assert!(bench.machine.waits_to_send());
    bench.pass(Duration::from_secs(60));
    assert!(bench.machine.is_open());
    bench.pools.sends.end();
    bench.machine.turn_to_send(&mut bench.pools);
    let _begun = bench.gather();
    while bench.send(vec![0; 2_000]).is_ok() {}
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.machine.reason, Some(CloseReason::SlowConsumer));
}

#[test]
fn over_the_mark_for_too_long_ends_under_every_policy_and_a_dip_below_it_begins_anew() {
    for overflow in [Overflow::Wait { limit: None }, Overflow::DropOldest, Overflow::DropNewest, Overflow::Close] {
        let limit = Some(Duration::from_secs(5));
        let control = FlowControl { over_mark_limit: limit, ..queue(overflow.clone()) };
        let mut bench = Bench::with_queue(8, 1 << 20, small_flow(), &control);
        let begun = bench.occupy();
        bench.send_each(b"abcdefgh");
        bench.pass(Duration::from_secs(4));
        assert_eq!(bench.state().over_mark_for, Some(Duration::from_secs(4)));
        bench.wire(begun);
        let begun = bench.occupy();
        bench.send_each(b"abcdefgh");
        bench.pass(Duration::from_secs(4));
        assert_eq!(bench.state().over_mark, Duration::from_secs(8));
        assert!(bench.machine.is_open(), "{overflow:?}");
        if overflow == Overflow::DropOldest {
            assert_eq!(bench.send_each(b"ij"), [Sent::EvictedOldest(1); 2], "dropping is no dip");
        }
        bench.pass(Duration::from_secs(1));
        assert_eq!(bench.machine.reason, Some(CloseReason::SlowConsumer), "{overflow:?}");
        drop(begun);
    }
}

#[test]
fn without_send_memory_who_drops_the_oldest_pays_with_its_own_old_messages_and_takes_no_place_in_line() {
    let control = FlowControl { queue_messages: 100, ..queue(Overflow::DropOldest) };
    let mut bench = Bench::with_queue(8, 20_000, Flow { floor_bytes: 0, ..small_flow() }, &control);
    let begun = bench.occupy();
    for byte in 0..4 {
        bench.send(vec![byte; 2_000]).expect("there is memory");
    }
    let others = use_up(&bench.pools.lease);
    assert!(matches!(bench.send(vec![4; 2_000]), Ok(Sent::EvictedOldest(1))), "one for one");
    assert!(matches!(bench.send(vec![5; 4_000]), Ok(Sent::EvictedOldest(2))), "two for a larger one");
    let charged_bytes = bench.machine.charged_bytes();
    assert!(matches!(bench.send(vec![6; 10_000]), Ok(Sent::DroppedNew)), "not even all would pay for it");
    assert_eq!(bench.state().queued_messages, 3, "so none of them went");
    assert_eq!(bench.machine.charged_bytes(), charged_bytes);
    assert!(!bench.machine.waits_for_memory());
    let wire = bench.wire(begun);
    assert_eq!((wire.len(), wire[1], wire[wire.len() - 1]), (1 + 2 * 2_000 + 4_000, 3, 5));
    bench.pools.lease.refund(others);
}

#[test]
fn without_send_memory_who_drops_the_newest_drops_and_the_others_are_refused() {
    let short = |overflow| {
        let mut bench = Bench::with_queue(8, 20_000, Flow { floor_bytes: 0, ..small_flow() }, &queue(overflow));
        use_up(&bench.pools.lease);
        let outcome = bench.send("x").map_err(|refused| refused.why);
        (outcome, bench.machine.waits_for_memory())
    };
    assert_eq!(short(Overflow::DropNewest), (Ok(Sent::DroppedNew), false));
    assert_eq!(short(Overflow::DropOldest), (Ok(Sent::DroppedNew), false), "there is no older one");
    let never: Ask = Arc::new(|_, _| panic!("asked, and the queue is not full"));
    for overflow in [Overflow::default(), Overflow::Close, Overflow::Ask(never)] {
        let (outcome, waits) = short(overflow.clone());
        assert!(matches!(outcome, Err(Refusal::NoMemory { .. })) && waits, "{overflow:?}: {outcome:?}");
    }
}

#[test]
fn who_drops_is_read_from_above_its_mark_and_without_memory_and_the_others_are_not() {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest] {
        let control = queue(overflow.clone());
        let mut bench = Bench::with_queue(8, 20_000, Flow { floor_bytes: 0, ..small_flow() }, &control);
        assert_eq!(bench.steps(), ["Receive"]);
        let begun = bench.occupy();
        bench.send_each(b"abcdefgh");
        use_up(&bench.pools.lease);
        assert_eq!(bench.steps(), [""; 0], "{overflow:?}: reading goes on");
        let delivery = bench.received(b"a request").expect("delivered at once");
        let mut credit_bytes = delivery.credit_bytes;
        let sent = bench.machine.send(delivery.buffer.into(), &mut credit_bytes, bench.now, &mut bench.pools);
        assert!(matches!(sent, Ok(Sent::EvictedOldest(1) | Sent::DroppedNew)), "{overflow:?}: {sent:?}");
        bench.machine.end_delivery(credit_bytes, &mut bench.pools);
        drop(begun);
    }
    for overflow in [Overflow::default(), Overflow::Close] {
        let mut bench = bench(overflow.clone());
        assert_eq!(bench.steps(), ["Receive"]);
        let _begun = bench.occupy();
        bench.send_each(b"abcdefgh");
        assert_eq!(bench.steps(), ["PauseReceive"], "{overflow:?}");
    }
}

#[test]
fn who_reads_above_its_mark_is_given_data_without_a_promise_and_drops_nothing() {
    let control = FlowControl { reads_above_mark: true, ..queue(Overflow::Wait { limit: None }) };
    let mut bench = Bench::with_queue(8, 20_000, Flow { floor_bytes: 0, ..small_flow() }, &control);
    assert_eq!(bench.steps(), ["Receive"]);
    let begun = bench.occupy();
    assert_eq!(bench.send_each(b"abcdefgh").last(), Some(&Sent::OverMark));
    assert_eq!(bench.steps(), [""; 0], "reading goes on");
    let delivery = bench.received(b"for another").expect("delivered at once");
    let mut credit_bytes = delivery.credit_bytes;
    let refused = bench.machine.send(delivery.buffer.into(), &mut credit_bytes, bench.now, &mut bench.pools);
    assert!(matches!(refused.expect_err("the queue is full").why, Refusal::Full { .. }));
    bench.machine.end_delivery(credit_bytes, &mut bench.pools);
    assert_eq!(bench.wire(begun).len(), 1 + 8, "nothing was dropped");
}

#[test]
fn who_is_asked_sees_the_queue_and_the_message_and_decides() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let ask: Ask = Arc::new(move |state, payload| {
        seen.lock().expect("no panic").push((*state, payload.len()));
        match payload.as_slice() {
            b"oldest" => Decision::DropOldest,
            b"newest" => Decision::DropNewest,
            b"wait" => Decision::Wait,
            _ => Decision::Close,
        }
    });
    let mut bench = bench(Overflow::Ask(ask));
    let _begun = bench.occupy();
    bench.send_each(b"abcdefgh");
    assert!(asked.lock().expect("no panic").is_empty(), "asked while there was room");
    assert!(matches!(bench.send("oldest"), Ok(Sent::EvictedOldest(1))));
    assert!(matches!(bench.send("newest"), Ok(Sent::DroppedNew)));
    assert!(matches!(bench.send("wait").expect_err("refused").why, Refusal::Full { .. }));
    assert!(matches!(bench.send("close").expect_err("closed").why, Refusal::SlowConsumer { .. }));
    let asked = asked.lock().expect("no panic");
    let states: Vec<_> =
        asked.iter().map(|(state, bytes)| (state.queued_bytes, state.dropped_messages, *bytes)).collect();
    assert_eq!(states, [(8, 0, 6), (13, 1, 6), (13, 2, 4), (13, 2, 5)]);
    assert!(asked.iter().all(|(state, _)| (state.queued_messages, state.limit_messages) == (8, 8)));
    assert_eq!((asked[0].0.outstanding_bytes, asked[0].0.refusing_for), (1, None));
    assert_eq!(asked[3].0.refusing_for, Some(Duration::ZERO));
}

#[test]
fn a_smaller_queue_drops_nothing_that_was_taken_until_the_policy_does() {
    for (overflow, expected) in [
        (Overflow::DropOldest, Ok(Sent::EvictedOldest(6))),
        (Overflow::DropNewest, Ok(Sent::DroppedNew)),
        (Overflow::Wait { limit: None }, Err("16000 of 8192 bytes in 8 of 3 messages")),
        (Overflow::Close, Err("16000 of 8192 bytes in 8 of 3 messages")),
    ] {
        let mut bench = bench(Overflow::Wait { limit: None });
        let _begun = bench.occupy();
        for byte in 0..8 {
            bench.send(vec![byte; 2_000]).expect("it fits");
        }
        let control = FlowControl {
            queue_bytes: 8 << 10,
            queue_messages: 3,
            high_mark_bytes: 4 << 10,
            low_mark_bytes: 0,
            ..queue(overflow.clone())
        };
        bench.set_flow(control.clone()).expect("sound");
        let state = bench.state();
        assert_eq!((state.queued_messages, state.limit_messages, state.dropped_messages), (8, 3, 0));
        assert_eq!(bench.machine.flow_control(&bench.pools), &control);
        let sent = bench.send(vec![9; 2_000]).map_err(|refused| refused.to_string());
        match (&sent, expected) {
            (Ok(sent), Ok(expected)) => assert_eq!(*sent, expected, "{overflow:?}"),
            (Err(text), Err(expected)) => assert!(text.contains(expected), "{overflow:?}: {text}"),
            _ => panic!("{overflow:?}: {sent:?}"),
        }
    }
}

#[test]
fn a_connection_goes_by_other_rules_at_once_also_while_it_is_paused_or_refuses() {
    let mut bench = bench(Overflow::Wait { limit: Some(Duration::from_secs(5)) });
    assert_eq!(bench.steps(), ["Receive"]);
    let begun = bench.occupy();
    bench.send_each(b"abcdefgh");
    bench.send("i").expect_err("full");
    assert_eq!(bench.steps(), ["PauseReceive"]);
    bench.set_flow(queue(Overflow::DropOldest)).expect("sound");
    assert_eq!(bench.steps(), ["Receive"], "who drops is read from");
    assert_eq!(bench.pools.flows.refusing(), 0);
    bench.set_flow(queue(Overflow::default())).expect("sound");
    assert_eq!(bench.steps(), ["PauseReceive"]);
    bench.set_flow(FlowControl { queue_messages: 100, ..queue(Overflow::default()) }).expect("sound");
    assert_eq!(bench.steps(), ["Receive"], "there is room, and it is not over any mark");
    bench.pass(Duration::from_secs(100));
    assert!(bench.machine.is_open());
    bench.sent_all(begun);
    let gather = bench.gather();
    assert_eq!(bench.steps(), ["Writable"], "told of the room that it has made itself when a send has begun");
    assert_eq!(bench.wire(gather), b"abcdefgh");
}

/// A handler that sent a large message and then one for which that had to go was told at once that there was room again, and so on
/// for ever.
#[test]
fn who_makes_room_by_dropping_in_on_writable_is_not_told_again_before_something_is_sent() {
    let mut bench = bench(Overflow::DropOldest);
    let begun = bench.occupy();
    let displace = |bench: &mut Bench| {
        bench.send(vec![1; 16 << 10]).expect("taken");
        assert!(matches!(bench.send("small"), Ok(Sent::EvictedOldest(_))));
    };
    displace(&mut bench);
    assert_eq!(bench.steps(), ["Receive"]);
    bench.sent_all(begun);
    let begun = bench.gather();
    assert_eq!(bench.steps(), ["Writable"]);
    displace(&mut bench);
    assert_eq!(bench.steps(), [""; 0]);
    assert_eq!(bench.wire(begun), b"smallsmall");
}

#[test]
fn rules_of_connections_are_shared_bounded_and_given_back() {
    let own = |messages: u32| FlowControl { queue_messages: messages, ..queue(Overflow::DropOldest) };
    let mut bench = bench(Overflow::default());
    let mut flows = Flows::new(&[small_queue()], 1);
    let chosen: Vec<u16> =
        (0..Flows::OWN_MAX as u32).map(|own_messages| flows.change(0, own(own_messages + 1)).expect("room")).collect();
    assert_eq!(flows.change(0, own(7)), Ok(chosen[6]), "equal rules are shared");
    assert_eq!(flows.change(0, small_queue()), Ok(0), "those of the table are there already");
    let text = flows.change(0, own(1_000)).expect_err("one too many").to_string();
    assert!(text.contains("256"), "{text}");
    flows.leave(chosen[6]);
    assert_eq!(flows.change(0, own(7)), Ok(chosen[6]), "one of two has left");
    flows.leave(chosen[9]);
    assert_eq!(flows.change(0, own(1_000)), Ok(chosen[9]), "an unused place");
    let text = bench.set_flow(FlowControl { high_mark_bytes: 14 << 10, ..small_queue() }).expect_err("a contradiction");
    assert!(text.to_string().contains("14336") && text.to_string().contains("16384"), "{text}");
    assert_eq!(bench.machine.flow_control(&bench.pools), &queue(Overflow::default()), "nothing has changed");
}

#[test]
fn what_contradicts_itself_is_named_with_its_numbers() {
    let text = |control: FlowControl| control.check(BUFFER_BYTES, 100, "").expect_err("a contradiction").to_string();
    let sound = small_queue();
    assert_eq!(sound.check(BUFFER_BYTES, 100, ""), Ok(()));
    assert!(text(FlowControl { window_bytes: 0, ..sound.clone() }).contains("window_bytes is 0"));
    assert!(text(FlowControl { window_bytes: 4095, ..sound.clone() }).contains("below 4096"));
    assert!(text(FlowControl { queue_messages: 0, ..sound.clone() }).contains("queue_messages is 0"));
    assert!(text(FlowControl { high_mark_bytes: 14_000, ..sound.clone() }).contains("14000"));
    assert!(text(FlowControl { low_mark_bytes: 9_000, ..sound.clone() }).contains("9000"));
    let zero = Some(Duration::ZERO);
    assert!(text(FlowControl { over_mark_limit: zero, ..sound.clone() }).contains("over_mark_limit is 0"));
    assert!(
        text(FlowControl { overflow: Overflow::Wait { limit: zero }, ..sound.clone() }).contains("Overflow::Wait is 0")
    );
    let dropping = FlowControl { overflow: Overflow::DropOldest, high_mark_bytes: 16 << 10, ..sound };
    assert_eq!(dropping.check(BUFFER_BYTES, 100, ""), Ok(()), "who drops promises no reply");
    assert!(text(FlowControl { queue_bytes: 16_000, ..dropping }).contains("16000"));
}
