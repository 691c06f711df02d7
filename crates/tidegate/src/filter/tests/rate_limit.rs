use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::filter::tests::{Pair, Plain, cycle};
use crate::filter::{Side, Stack};

fn limited(limit: &RateLimit) -> Box<dyn Filter> {
    let peer = FilterPeer { address: ([10, 0, 0, 1], 1).into(), side: Side::Accepted };
    limit.make(&peer).expect("it is always made")
}

fn plain() -> Stack {
    Stack::new(Box::new(Plain))
}

fn milliseconds(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Lets just so much time pass as deadlines ask for, until `done`; returns how much that was.
fn pass_until(pair: &mut Pair, done: impl Fn(&Pair) -> bool) -> Duration {
    let began = pair.now;
    pair.run_whole();
    while !done(pair) {
        let next = [&pair.client, &pair.server].iter().filter_map(|end| end.bench.deadline()).min();
        let next = next.expect("something is held back, so something has a deadline");
        pair.pass(next.saturating_since(pair.now));
        pair.run_whole();
    }
    pair.now.saturating_since(began)
}

#[test]
fn a_burst_passes_at_once_and_the_rest_at_the_rate_both_ways() {
    let limit = RateLimit::per_connection(1000).burst(500);
    for server_is_limited in [true, false] {
        // What the limited server receives, or the limited client sends.
        let (client, server) = match server_is_limited {
            true => (plain(), Stack::new(limited(&limit.clone().receiving_only()))),
            false => (Stack::new(limited(&limit.clone().sending_only())), plain()),
        };
        let mut pair = Pair::new(client, server);
        let data: Vec<u8> = (0..4500_u32).map(|place| place as u8).collect();
        data.chunks(900).for_each(|message| pair.client.send(message));
        pair.run_whole();
        assert!((250..=500).contains(&pair.server.all_received().len()), "{}", pair.server.all_received().len());
        let took = pass_until(&mut pair, |pair| pair.server.all_received().len() == data.len());
        assert_eq!(pair.server.all_received(), data);
        assert!((milliseconds(4000)..milliseconds(4300)).contains(&took), "{took:?}");
    }
}

#[test]
fn a_message_within_the_burst_passes_in_one_piece_and_without_a_copy() {
    let mut pair = Pair::new(Stack::new(limited(&RateLimit::per_connection(100).burst(4000))), plain());
    pair.client.send(&[7; 4000]);
    pair.run_whole();
    assert_eq!(pair.server.received, [vec![7; 4000]]);
}

#[test]
fn the_end_comes_after_what_was_held_back() {
    let limit = RateLimit::per_connection(1000).burst(10);
    let mut pair = Pair::new(Stack::new(limited(&limit)), Stack::new(limited(&limit)));
    pair.client.send(&[7; 100]);
    pair.client.shutdown();
    pair.run_whole();
    assert!(!pair.server.finished);
    pass_until(&mut pair, |pair| pair.server.finished);
    assert_eq!(pair.server.all_received(), [7; 100]);
}

/// Counts the calls of the filter that it stands for.
struct Counted(Box<dyn Filter>, Rc<Cell<usize>>);

impl Filter for Counted {
    fn name(&self) -> &'static str {
        "counted"
    }

    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
        self.1.set(self.1.get() + 1);
        self.0.read(below, context)
    }

    fn write(
        &mut self,
        above: &mut Above<'_>,
        down: &mut Down<'_>,
        context: &mut FilterContext<'_>,
    ) -> Result<(), FilterError> {
        self.1.set(self.1.get() + 1);
        self.0.write(above, down, context)
    }

    fn wants_write(&self) -> bool {
        self.0.wants_write()
    }

    fn deadline(&self) -> Option<Time> {
        self.0.deadline()
    }

    fn time_passed(&mut self, context: &mut FilterContext<'_>) -> Result<(), FilterError> {
        self.1.set(self.1.get() + 1);
        self.0.time_passed(context)
    }
}

#[test]
fn what_is_held_back_is_looked_at_when_its_turn_comes_and_not_before() {
    let calls = Rc::new(Cell::new(0));
    let limit = RateLimit::per_connection(1000).burst(1000);
    let filter = Counted(limited(&limit), Rc::clone(&calls));
    let mut pair = Pair::new(plain(), Stack::new(Box::new(filter)));
    (0..100).for_each(|_| pair.client.send(&[7; 200]));
    pair.run_whole();
    calls.set(0);
    let took = pass_until(&mut pair, |pair| pair.server.all_received().len() == 20_000);
    assert!(took >= milliseconds(18_990), "{took:?}");
    // Each message: a look at the time, its read, the next one's in vain, and the fixture's to write, twice.
    assert!(calls.get() <= 95 * 6, "{} calls for 95 messages", calls.get());
    assert!(pair.server.bench.deadline().is_none(), "nothing is held back any more");
}

#[test]
fn a_deadline_that_was_told_is_not_told_again() {
    let mut pair = Pair::new(plain(), Stack::new(limited(&RateLimit::per_connection(1).burst(1))));
    pair.client.send(b"ab");
    pair.run_whole();
    let deadline = pair.server.bench.deadline().expect("one byte is held back");
    pair.server.bench.pass(deadline.saturating_since(pair.now)).expect("it doesn't fail");
    assert_eq!(pair.server.bench.deadline(), None, "even if nobody reads now");
}

/// Four that take as much as they get for 10 s, with clocks that began so far apart; how many bytes each got.
fn share(apart: Duration) -> Vec<usize> {
    let limit = RateLimit::shared(1000).burst(100).receiving_only();
    let mut pairs: Vec<Pair> = (0..4).map(|_| Pair::new(plain(), Stack::new(limited(&limit)))).collect();
    for (number, pair) in (0..).zip(&mut pairs) {
        pair.now = pair.now + apart * number;
        (0..1000).for_each(|_| pair.client.send(&[7; 50]));
        pair.run_whole();
    }
    for _ in 0..10_000 {
        for pair in &mut pairs {
            pair.pass(milliseconds(1));
        }
    }
    pairs.iter().map(|pair| pair.server.all_received().len()).collect()
}

#[test]
fn a_shared_limit_is_that_of_all_together_and_everybody_gets_a_part_whenever_their_clocks_began() {
    for apart in [0, 1, 90, 1_000, 3_600_000] {
        let received = share(milliseconds(apart));
        let sum: usize = received.iter().sum();
        // Whoever comes later with a clock that is ahead, of which the others had no word, finds a burst, and all have the turns that they had.
        assert!((9_800..=10_700).contains(&sum), "{received:?}");
        assert!(received.iter().all(|&bytes| bytes >= 2_300), "{received:?}");
    }
}

#[test]
fn the_turns_of_those_who_leave_while_they_wait_are_those_of_whoever_comes_next() {
    let limit = RateLimit::shared(1000).burst(100);
    let mut crowd: Vec<Gate> = (0..500).map(|_| limit.gate(true, |shared| &shared.sending).expect("limited")).collect();
    let open = |gate: &mut Gate| {
        let count = gate.open(100, Time::ZERO);
        gate.passed(count);
        (count, gate.deadline.unwrap_or(Time::ZERO).as_nanos() / 1_000_000)
    };
    for (place, gate) in (0..).zip(&mut crowd) {
        assert_eq!(open(gate), (if place == 0 { 100 } else { 0 }, 100 * place));
    }
    let mut next = limit.gate(true, |shared| &shared.sending).expect("limited");
    let mut after = limit.gate(true, |shared| &shared.sending).expect("limited");
    // From the middle of the line, then all others.
    drop(crowd.remove(250));
    assert_eq!(open(&mut next), (0, 25_000), "the turn of the one who has left");
    drop(crowd);
    assert_eq!(open(&mut after), (0, 100), "the first of their turns");
}

#[test]
fn no_more_passes_than_the_rate_allows_however_many_leave_while_they_wait() {
    let limit = RateLimit::shared(1000).burst(100);
    let (mut now, mut passed, mut waiting) = (Time::ZERO, 0, Vec::new());
    for round in 0..4_000_u64 {
        now = now + milliseconds(10);
        waiting.push(limit.gate(true, |shared| &shared.sending).expect("limited"));
        for gate in &mut waiting {
            let count = gate.open(50, now);
            gate.passed(count);
            passed += count;
        }
        if round % 3 > 0 && waiting.len() > 5 {
            waiting.remove((round * 7) as usize % waiting.len());
        }
    }
    let allowed = 100 + now.as_nanos() as usize / 1_000_000;
    assert!((allowed * 9 / 10..=allowed + 1).contains(&passed), "{passed} bytes, and {allowed} are allowed");
}

#[test]
fn what_goes_ahead_of_its_turn_is_paid_for_by_what_comes_after_it() {
    for limit in [RateLimit::per_connection(1000).burst(100), RateLimit::shared(1000).burst(100)] {
        let mut gate = limit.gate(true, |shared| &shared.receiving).expect("limited");
        let now = Time::from_nanos(1_000_000_000);
        assert_eq!(gate.open(600, now), 100);
        gate.passed(100);
        assert_eq!((gate.open(500, now), gate.is_overdrawn(now)), (0, false));
        gate.overdraw(500, now);
        // 500 bytes take half a second.
        let paid = now + milliseconds(500);
        assert_eq!(gate.deadline, Some(paid));
        assert!(gate.is_overdrawn(now) && !gate.is_overdrawn(paid));
        assert_eq!(gate.open(100, now), 0);
        assert_eq!(gate.deadline, Some(now + milliseconds(600)));
        assert_eq!(gate.open(100, now + milliseconds(600)), 100);
    }
}

#[test]
fn a_limit_for_each_connection_has_an_account_for_each() {
    // A clone of a limit for each connection has an account for each.
    let limit = RateLimit::per_connection(1000).burst(100);
    for _ in 0..3 {
        let mut pair = Pair::new(plain(), Stack::new(limited(&limit.clone())));
        pair.client.send(&[7; 100]);
        pair.run_whole();
        assert_eq!(pair.server.all_received().len(), 100);
    }
}

#[test]
fn the_directions_have_an_account_each() {
    let limit = RateLimit::shared(1000).burst(100);
    let mut pair = Pair::new(plain(), Stack::new(limited(&limit)));
    pair.client.send(&[7; 100]);
    pair.server.send(&[8; 100]);
    pair.run_whole();
    assert_eq!((pair.server.all_received().len(), pair.client.all_received().len()), (100, 100));
}

#[test]
fn any_rate_gives_turns_that_are_in_reach() {
    for (rate, burst) in [(1, 1), (1, u64::MAX), (u64::MAX, 1), (u64::MAX, u64::MAX), (3, 7)] {
        let limit = RateLimit::per_connection(rate).burst(burst);
        let mut gate = limit.gate(true, |shared| &shared.sending).expect("it is limited");
        let mut now = Time::from_nanos(1);
        for _ in 0..20 {
            let count = gate.open(10, now);
            assert!(count > 0 || gate.deadline.is_some_and(|deadline| deadline > now));
            gate.passed(count);
            now = gate.deadline.unwrap_or(now);
            assert!(now.as_nanos() < 100_000_000_000, "{rate} {burst}: {now}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn in_any_stretch_of_time_at_most_a_burst_and_the_rate_pass_and_every_byte_comes_once_in_order(
        bytes_per_second in 1_u64..100_000,
        burst in 1_u64..3_000,
        messages in prop::collection::vec(1_usize..2_000, 1..30),
        cuts in prop::collection::vec(1_usize..1_500, 1..5),
        sends in any::<bool>(),
    ) {
        let limit = RateLimit::per_connection(bytes_per_second).burst(burst);
        let (client, server) = match sends {
            true => (Stack::new(limited(&limit.sending_only())), plain()),
            false => (plain(), Stack::new(limited(&limit.receiving_only()))),
        };
        let mut pair = Pair::new(client, server);
        let mut data = Vec::new();
        for (number, &length) in messages.iter().enumerate() {
            let message: Vec<u8> = (0..length).map(|place| (number * 31 + place) as u8).collect();
            pair.client.send(&message);
            data.extend(message);
        }
        pair.run(cycle(&cuts));
        let mut passed = vec![(pair.now.as_nanos(), pair.server.all_received().len())];
        for _ in 0..300 {
            let next = [&pair.client, &pair.server].iter().filter_map(|end| end.bench.deadline()).min();
            let Some(next) = next else { break };
            pair.pass(next.saturating_since(pair.now));
            pair.run_whole();
            passed.push((pair.now.as_nanos(), pair.server.all_received().len()));
        }
        let all = pair.server.all_received();
        prop_assert_eq!(&all[..], &data[..all.len()]);
        prop_assert!(all.len() == data.len() || passed.len() > 300);
        for (place, &(from, before)) in std::iter::once(&(0, 0)).chain(&passed).enumerate() {
            for &(until, after) in &passed[place..] {
                // Times are whole nanoseconds, bytes of a rate are not.
                let may = u128::from(burst) + 1 + u128::from(until - from) * u128::from(bytes_per_second) / 1_000_000_000;
                prop_assert!((after - before) as u128 <= may, "{} bytes from {from} to {until}", after - before);
            }
        }
    }
}

#[test]
#[should_panic(expected = "a rate of 0")]
fn a_rate_of_0_is_refused() {
    let _ = RateLimit::shared(0);
}
