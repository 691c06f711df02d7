use super::*;
use crate::filter::tests::{Pair, cycle};
use crate::filter::{Side, Stack, read_through};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// Messages of a length byte and so many bytes: the framing under the pings. Fails the test on anything else than whole messages.
#[derive(Default)]
struct Lengths(Vec<u8>);

impl Filter for Lengths {
    fn name(&self) -> &'static str {
        "lengths"
    }

    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
        loop {
            if let Some((&length, rest)) = self.0.split_first()
                && let Some(message) = rest.get(..length.into())
            {
                let message = context.buffer(message).expect("a test has memory");
                self.0.drain(..=usize::from(length));
                return Ok(Read::Data(message));
            }
            match read_through(below, context)? {
                Read::Data(data) => self.0.extend_from_slice(&data),
                other => return Ok(other),
            }
        }
    }

    fn write(
        &mut self,
        above: &mut Above<'_>,
        down: &mut Down<'_>,
        context: &mut FilterContext<'_>,
    ) -> Result<(), FilterError> {
        while down.room_bytes() > 300 && above.fill(down, context)? {
            assert!(above.is_at_start());
            let message = [&[above.bytes().len() as u8], above.bytes()].concat();
            above.consume(message.len() - 1, context);
            down.push(message);
        }
        Ok(())
    }
}

/// `?1` is answered by `!1`.
struct Questions;

impl KeepAliveCodec for Questions {
    fn bytes_max(&self) -> usize {
        4
    }

    fn ping(&self, number: u64) -> Vec<u8> {
        format!("?{number}").into_bytes()
    }

    fn hear(&self, message: &[u8]) -> Result<Heard, FilterError> {
        Ok(match message.split_first() {
            Some((b'?', number)) => Heard::Ping([b"!", number].concat()),
            Some((b'!', _)) => Heard::Answer,
            _ => Heard::Message,
        })
    }
}

fn options() -> KeepAlive {
    KeepAlive::new(Questions).after(10 * SECOND).answer_within(2 * SECOND).pings(3)
}

fn framed() -> Stack {
    Stack::new(Box::new(Lengths::default()))
}

fn asking() -> Stack {
    let peer = FilterPeer { address: ([10, 0, 0, 1], 1).into(), side: Side::Accepted };
    let mut stack = framed();
    stack.add(options().make(&peer).expect("it is always made"));
    stack
}

/// A server that asks, and a client with this stack.
fn pair(client: Stack) -> Pair {
    let mut pair = Pair::new(client, asking());
    pair.server.read();
    pair.client.read();
    pair
}

#[test]
fn a_silent_peer_is_asked_so_many_times_and_given_up_then() {
    let mut pair = pair(framed());
    pair.pass(10 * SECOND - MILLISECOND);
    assert!(pair.client.received.is_empty());
    pair.pass(6 * SECOND);
    assert_eq!(pair.client.received, [b"?1", b"?2", b"?3"]);
    assert!(pair.server.error.is_none());
    pair.pass(MILLISECOND);
    let error = pair.server.error.as_ref().expect("three pings without an answer");
    assert_eq!(error.failure, FilterFailure::NoAnswer);
    assert_eq!(pair.now, Time::ZERO + 16 * SECOND);
}

#[test]
fn peers_that_answer_stay_and_their_handlers_see_nothing_of_it() {
    let mut pair = pair(asking());
    pair.pass(1_000 * SECOND);
    for end in [&mut pair.client, &mut pair.server] {
        assert!(end.error.is_none() && end.received.is_empty());
    }
    pair.client.send(b"hello");
    pair.run_whole();
    assert_eq!(pair.server.received, [b"hello"]);
}

#[test]
fn anything_that_comes_shows_that_the_peer_is_there() {
    let mut pair = pair(framed());
    for _ in 0..20 {
        pair.pass(10 * SECOND - MILLISECOND);
        pair.client.send(b"hello");
        pair.run_whole();
    }
    assert!(pair.client.received.is_empty(), "nobody asked");
    // Also while an answer is due.
    pair.pass(13 * SECOND);
    assert_eq!(pair.client.received, [b"?1", b"?2"]);
    pair.client.send(b"hello");
    pair.run_whole();
    pair.pass(10 * SECOND - MILLISECOND);
    assert_eq!(pair.client.received.len(), 2);
    pair.pass(MILLISECOND + 5 * SECOND);
    assert_eq!(pair.client.received.len(), 5, "and it has three pings again");
    assert!(pair.server.error.is_none());
}

#[test]
fn pings_and_answers_come_between_messages_at_any_split() {
    for cut in 1..12 {
        let mut pair = pair(asking());
        for round in 0..5_u8 {
            pair.pass(10 * SECOND - MILLISECOND);
            for end in [&mut pair.client, &mut pair.server] {
                (0..3).for_each(|number| end.send(&[b'a' + round, b'0' + number, b'x', b'y']));
            }
            // The messages and pings of both sides cross each other in small pieces.
            pair.now = pair.now + MILLISECOND;
            pair.run(cycle(&[cut, 1, 3]));
            pair.pass(11 * SECOND);
        }
        for end in [&pair.client, &pair.server] {
            assert!(end.error.is_none(), "{:?}", end.error);
            let expected: Vec<Vec<u8>> =
                (0..15_u8).map(|all| vec![b'a' + all / 3, b'0' + all % 3, b'x', b'y']).collect();
            assert_eq!(end.received, expected);
        }
    }
}

#[test]
fn while_we_do_not_read_silence_says_nothing() {
    let mut pair = pair(framed());
    pair.server.bench.reading_since = None;
    pair.pass(1_000 * SECOND);
    assert!(pair.client.received.is_empty() && pair.server.error.is_none());
    pair.server.bench.reading_since = Some(pair.now);
    pair.pass(10 * SECOND - MILLISECOND);
    assert!(pair.client.received.is_empty());
    pair.pass(MILLISECOND);
    assert_eq!(pair.client.received, [b"?1"]);
    // Also with a ping on its way.
    pair.server.bench.reading_since = None;
    pair.pass(1_000 * SECOND);
    assert_eq!(pair.client.received.len(), 1);
    assert!(pair.server.error.is_none());
}

#[test]
fn each_ping_is_answered_once_and_in_turn_with_messages() {
    let mut pair = pair(framed());
    for message in [&b"?7"[..], b"one", b"?8", b"?9", b"two"] {
        pair.client.send(message);
    }
    pair.run(cycle(&[1, 2]));
    // What is behind a ping is read when that is answered: the fixture reads when something comes, or time passes.
    for _ in 0..4 {
        pair.server.read();
        pair.run_whole();
    }
    assert_eq!(pair.client.received, [b"!7", b"!8", b"!9"]);
    assert_eq!(pair.server.received, [b"one", b"two"]);
}

#[test]
fn a_peer_that_pings_and_does_not_read_is_not_read() {
    let mut pair = pair(framed());
    pair.server.room_bytes = 0;
    (0..50).for_each(|_| pair.client.send(b"?1"));
    pair.client.send(b"hello");
    pair.run_whole();
    (0..100).for_each(|_| pair.server.read());
    assert!(pair.server.received.is_empty(), "one answer waits, and nothing behind it is taken");
    assert!(pair.server.bench.deadline().is_none(), "and nobody counts what we don't read as silence");
}

#[test]
fn an_answer_larger_than_declared_is_refused() {
    let mut pair = pair(framed());
    pair.client.send(b"?1234");
    pair.run_whole();
    assert_eq!(pair.server.error.as_ref().map(|error| error.failure), Some(FilterFailure::TooLarge));
    assert_eq!(options().reserve().write_bytes, 4);
}

#[test]
fn who_has_finished_does_not_ask_any_more_and_both_ends_come() {
    let mut pair = pair(asking());
    pair.server.send(b"last");
    pair.server.shutdown();
    pair.run(|| 1);
    assert!(pair.client.finished && pair.server.bench.deadline().is_none());
    assert_eq!(pair.client.received, [b"last"]);
    pair.client.send(b"?5");
    pair.client.send(b"mine");
    pair.client.shutdown();
    pair.run(|| 1);
    assert!(pair.server.finished && pair.server.error.is_none());
    assert_eq!(pair.server.received, [b"mine"]);
    assert_eq!(pair.client.received.len(), 1, "a ping after our end is not answered");
}
