use super::*;
use crate::filter::tests::{Pair, Plain};
use crate::filter::{Side, Stack};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// A pair whose server has these limits, and waits.
fn waiting(limits: ReadTimeout) -> Pair {
    let peer = FilterPeer { address: ([10, 0, 0, 1], 1).into(), side: Side::Accepted };
    let server = Stack::new(limits.make(&peer).expect("it is always made"));
    let mut pair = Pair::new(Stack::new(Box::new(Plain)), server);
    pair.server.read();
    pair
}

fn say(pair: &mut Pair, bytes: usize) {
    pair.client.send(&vec![7; bytes]);
    pair.run_whole();
}

#[track_caller]
fn assert_ends(pair: &Pair, failure: FilterFailure) {
    let error = pair.server.error.as_ref().expect("its time is over");
    assert!(error.failure == failure && error.farewell, "{error:?}");
}

#[test]
fn the_first_byte_must_come_in_its_time_and_each_other_one_after_the_one_before() {
    let limits = ReadTimeout::new().first_byte(2 * SECOND).idle(5 * SECOND);
    let mut pair = waiting(limits);
    pair.pass(2 * SECOND - MILLISECOND);
    assert!(pair.server.error.is_none());
    pair.pass(MILLISECOND);
    assert_ends(&pair, FilterFailure::FirstByte);

    let mut pair = waiting(limits);
    pair.pass(SECOND);
    for _ in 0..4 {
        say(&mut pair, 1);
        pair.pass(5 * SECOND - MILLISECOND);
        assert!(pair.server.error.is_none());
    }
    pair.pass(MILLISECOND);
    assert_ends(&pair, FilterFailure::Idle);
    assert_eq!(pair.server.all_received(), [7; 4]);
}

#[test]
fn without_limits_nothing_is_waited_for() {
    let pair = waiting(ReadTimeout::new());
    assert!(pair.server.bench.deadline().is_none());
    let mut pair = waiting(ReadTimeout::new().first_byte(SECOND));
    say(&mut pair, 1);
    assert!(pair.server.bench.deadline().is_none(), "the first byte was there");
}

#[test]
fn the_rate_asks_for_so_many_bytes_in_every_period_and_the_first_has_a_grace() {
    let mut pair = waiting(ReadTimeout::new().min_rate(10, 2 * SECOND, 3 * SECOND));
    say(&mut pair, 9);
    pair.pass(5 * SECOND - MILLISECOND);
    assert!(pair.server.error.is_none());
    // The period ends with the tenth byte, and what is above ten is not saved up.
    say(&mut pair, 101);
    pair.pass(2 * SECOND - MILLISECOND);
    say(&mut pair, 9);
    assert!(pair.server.error.is_none());
    pair.pass(MILLISECOND);
    assert_ends(&pair, FilterFailure::TooSlow);
    let text = pair.server.error.as_ref().map(ToString::to_string).unwrap_or_default();
    assert!(text.contains("9 of 10 bytes in 2s"), "{text}");
}

#[test]
fn a_byte_now_and_then_does_not_keep_up_a_rate() {
    let mut pair = waiting(ReadTimeout::new().min_rate(10, 2 * SECOND, Duration::ZERO).idle(SECOND));
    for _ in 0..4 {
        say(&mut pair, 2);
        pair.pass(SECOND / 2);
    }
    assert_ends(&pair, FilterFailure::TooSlow);
}

#[test]
fn only_the_time_counts_in_which_we_wait() {
    let limits = ReadTimeout::new().first_byte(2 * SECOND).idle(2 * SECOND).min_rate(10, 3 * SECOND, Duration::ZERO);
    let mut pair = waiting(limits);
    pair.server.bench.reading_since = None;
    pair.pass(100 * SECOND);
    assert!(pair.server.error.is_none(), "the handler has paused reading");
    pair.server.bench.reading_since = Some(pair.now);
    pair.pass(2 * SECOND - MILLISECOND);
    assert!(pair.server.error.is_none(), "and time began anew when it went on");
    pair.pass(MILLISECOND);
    assert_ends(&pair, FilterFailure::FirstByte);

    // Paused and resumed between two looks.
    let mut pair = waiting(limits);
    pair.pass(SECOND);
    pair.server.bench.reading_since = Some(pair.now);
    pair.pass(2 * SECOND - MILLISECOND);
    assert!(pair.server.error.is_none());
    pair.pass(MILLISECOND);
    assert_ends(&pair, FilterFailure::FirstByte);
}

#[test]
fn looks_are_few_while_nothing_counts() {
    let mut pair = waiting(ReadTimeout::new().idle(2 * SECOND).first_byte(2 * SECOND));
    pair.server.bench.reading_since = None;
    for _ in 0..10 {
        let deadline = pair.server.bench.deadline().expect("it looks again");
        assert!(deadline >= pair.now + SECOND);
        pair.pass(deadline.saturating_since(pair.now));
    }
    assert!(pair.server.error.is_none());
}

#[test]
fn after_the_end_of_the_peer_nobody_waits_for_it() {
    let mut pair = waiting(ReadTimeout::new().idle(SECOND).first_byte(SECOND).min_rate(10, SECOND, SECOND));
    say(&mut pair, 1);
    pair.client.shutdown();
    pair.run_whole();
    assert!(pair.server.finished && pair.server.bench.deadline().is_none());
}

#[test]
#[should_panic(expected = "a rate of 0 bytes within 1s")]
fn a_rate_of_nothing_is_refused() {
    let _ = ReadTimeout::new().min_rate(0, SECOND, SECOND);
}
