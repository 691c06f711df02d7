//! What fuzz targets call: a filter is fed with arbitrary bytes in arbitrary pieces, and what it makes of them must not depend on the pieces.
//!
//! Only in builds with `--cfg fuzzing`, and in tests, which feed the same functions with random bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::framing::{Empty, Framing, Prefix};
use super::proxy::ProxyProtocol;
use super::{
    FilterBench, FilterError, FilterFactory, FilterFailure, FilterPeer, Heard, KeepAlive, KeepAliveCodec, RateLimit,
    Read, Side, Stack,
};
use crate::memory::Buffer;
use crate::network::Network;

/// The bytes of a case, and what is left of them.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(first) % end
    }
}

/// What came out of a filter.
#[derive(PartialEq, Eq, Debug)]
struct Outcome {
    pieces: Vec<Vec<u8>>,
    failure: Option<FilterFailure>,
    finished: bool,
}

/// Feeds `stream` in pieces of so many bytes, over and over, and then the end.
fn feed(factory: &dyn FilterFactory, stream: &[u8], sizes: &[usize]) -> Outcome {
    let peer = FilterPeer { address: ([192, 0, 2, 1], 1).into(), side: Side::Accepted };
    let mut outcome = Outcome { pieces: Vec::new(), failure: None, finished: false };
    let mut bench = match factory.make(&peer) {
        Ok(filter) => FilterBench::new(filter, 1 << 30),
        Err(error) => {
            outcome.failure = Some(error.failure);
            return outcome;
        }
    };
    let mut left = stream;
    for size in sizes.iter().cycle() {
        if left.is_empty() {
            bench.end();
        } else {
            let (piece, rest) = left.split_at((*size).clamp(1, left.len()));
            left = rest;
            bench.arrive(piece);
        }
        loop {
            match bench.read() {
                Ok(Read::Data(data)) => outcome.pieces.push(data.to_vec()),
                Ok(Read::Starved) => break,
                Ok(Read::NoMemory) => unreachable!("there is memory for everything"),
                Ok(Read::Finished) => {
                    outcome.finished = true;
                    break;
                }
                Err(error) => {
                    outcome.failure = Some(error.failure);
                    break;
                }
            }
        }
        // What has been handed up is dropped: what is charged now is kept by the filter.
        let kept_bytes = bench.charged_bytes();
        assert!(kept_bytes <= 2 * stream.len(), "{kept_bytes} bytes are kept of {}", stream.len());
        if outcome.finished || outcome.failure.is_some() {
            break;
        }
        assert!(!bench.has_ended(), "starved after the end");
    }
    assert_eq!(bench.into_charged_bytes(), 0, "something is charged after the end");
    outcome
}

/// Feeds a filter whole and in pieces, and compares.
fn compare(factory: &dyn FilterFactory, choices: &mut Choices<'_>) -> Outcome {
    let sizes: Vec<usize> = (0..4).map(|_| choices.below(32)).collect();
    let whole = feed(factory, choices.0, &[usize::MAX]);
    assert_eq!(whole, feed(factory, choices.0, &sizes), "pieces of {sizes:?} make a difference");
    whole
}

/// Framing: the first bytes say how, the others are the stream.
pub fn framing(data: &[u8]) {
    let mut choices = Choices(data);
    let max_bytes = 1 + choices.below(64);
    const PREFIXES: [Prefix; 7] = [
        Prefix::U8,
        Prefix::U16BigEndian,
        Prefix::U16LittleEndian,
        Prefix::U32BigEndian,
        Prefix::U32LittleEndian,
        Prefix::U64BigEndian,
        Prefix::U64LittleEndian,
    ];
    const DELIMITERS: [&str; 4] = ["\n", "\r\n", "aab", "abab"];
    let mut framing = match choices.below(PREFIXES.len() + DELIMITERS.len() + 1) {
        kind if kind < PREFIXES.len() => Framing::prefix(PREFIXES[kind], max_bytes),
        kind if kind < PREFIXES.len() + DELIMITERS.len() => {
            Framing::delimiter(DELIMITERS[kind - PREFIXES.len()], max_bytes)
        }
        _ => Framing::fixed(max_bytes),
    };
    let options = choices.below(16);
    if options & 1 != 0 {
        framing = framing.prefix_counts_itself();
    }
    let keeps = options & 2 != 0;
    if keeps {
        framing = framing.keep_delimiter();
    }
    if options & 4 != 0 {
        framing = framing.last_may_lack_delimiter();
    }
    if options & 8 != 0 {
        framing = framing.empty_messages(Empty::Skipped);
    }
    let outcome = compare(&framing, &mut choices);
    let most = max_bytes + if keeps { 4 } else { 0 };
    assert!(outcome.pieces.iter().all(|message| (1..=most).contains(&message.len())), "{framing:?}: {outcome:?}");
}

/// A PROXY header, and what comes after it: the first byte says how the cuts are made and what is allowed.
pub fn proxy(data: &[u8]) {
    let mut choices = Choices(data);
    let all: [Network; 2] =
        [Network::of(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), Network::of(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0)]
            .map(|network| network.unwrap_or_else(|| unreachable!("a prefix of no bits")));
    // Most cases would not get beyond the signature.
    let mut stream = match choices.below(4) {
        0 => b"PROXY TCP4 ".to_vec(),
        1 => b"PROXY TCP6 ".to_vec(),
        2 => b"\r\n\r\n\0\r\nQUIT\n".to_vec(),
        _ => Vec::new(),
    };
    stream.extend_from_slice(choices.0);
    let cuts = stream.len();
    let sizes = [1 + cuts % 7, 1 + cuts % 13, 1 + cuts % 3];
    let protocol = ProxyProtocol::from(all);
    let whole = feed(&protocol, &stream, &[usize::MAX]);
    let in_pieces = feed(&protocol, &stream, &sizes);
    // After the header, pieces are handed up as they come.
    let read = |outcome: &Outcome| (outcome.pieces.concat(), outcome.failure, outcome.finished);
    assert_eq!(read(&whole), read(&in_pieces), "pieces of {sizes:?} make a difference");
}

/// Pings and answers of so many bytes: all ones, and all twos.
struct Knock(usize);

impl KeepAliveCodec for Knock {
    fn bytes_max(&self) -> usize {
        self.0
    }

    fn ping(&self, _number: u64) -> Vec<u8> {
        vec![1; self.0]
    }

    fn hear(&self, message: &[u8]) -> Result<Heard, FilterError> {
        Ok(match message[0] {
            1 => Heard::Ping(vec![2; self.0]),
            2 => Heard::Answer,
            _ => Heard::Message,
        })
    }
}

/// One end of two: a stack of filters, and what has gone through it.
struct End {
    bench: FilterBench,
    sent: Vec<Vec<u8>>,
    received: Vec<Vec<u8>>,
    /// Handed up and not dropped: no memory for more.
    held: Vec<Buffer>,
    written: Vec<u8>,
}

impl End {
    fn send(&mut self, length: usize) {
        let message = vec![b'a' + (self.sent.len() % 26) as u8; length];
        self.bench.send(message.clone());
        self.sent.push(message);
    }

    fn write(&mut self, room_bytes: usize) {
        let Self { bench, written, .. } = self;
        bench.write(room_bytes, written).unwrap_or_else(|error| unreachable!("{error:?}"));
    }

    /// Whether there was data.
    fn read(&mut self) -> bool {
        match self.bench.read() {
            Ok(Read::Data(data)) => {
                self.received.push(data.to_vec());
                self.held.push(data);
                true
            }
            Ok(Read::Finished) => unreachable!("nobody has finished"),
            Ok(Read::Starved | Read::NoMemory) => false,
            Err(error) => unreachable!("{error:?}"),
        }
    }

    /// So many bytes of what the other one has written arrive.
    fn take(&mut self, other: &mut Self, count: usize) {
        let count = count.min(other.written.len());
        self.bench.arrive(&other.written[..count]);
        other.written.drain(..count);
    }
}

/// Two stacks of a limit of the rate, framing and pings face each other: the first bytes say which, and each one after these what happens
/// next. Whatever that is, every message comes once, whole and in order.
pub fn stack(data: &[u8]) {
    const FIXED_BYTES: usize = 8;
    let mut choices = Choices(data);
    let (framing, is_fixed) = match choices.below(4) {
        0 => (Framing::prefix(Prefix::U16BigEndian, 300), false),
        1 => (Framing::prefix(Prefix::U8, 255), false),
        2 => (Framing::delimiter("\r\n", 300), false),
        _ => (Framing::fixed(FIXED_BYTES), true),
    };
    let ping_bytes = if is_fixed { FIXED_BYTES } else { 1 };
    let keep_alive = KeepAlive::new(Knock(ping_bytes)).after(Duration::from_secs(86_400));
    let limit = RateLimit::per_connection(10_000).burst(100 + choices.below(200) as u64);
    let kinds = choices.below(4);
    let memory_bytes = 1_000 + 16 * choices.below(256);
    let factories: [(&dyn FilterFactory, bool); 3] =
        [(&limit, kinds & 1 != 0), (&framing, true), (&keep_alive, kinds & 2 != 0)];
    let mut ends = [Side::Connected, Side::Accepted].map(|side| {
        let peer = FilterPeer { address: ([192, 0, 2, 1], 1).into(), side };
        let mut stack = Stack::empty();
        for (factory, _) in factories.iter().filter(|(_, is_there)| *is_there) {
            let filter = factory.make(&peer).unwrap_or_else(|error| unreachable!("{error:?}"));
            stack.join(filter, factory.reserve().write_bytes, None, std::iter::empty());
        }
        let bench = FilterBench::of(stack, memory_bytes);
        End { bench, sent: Vec::new(), received: Vec::new(), held: Vec::new(), written: Vec::new() }
    });
    let pass = |ends: &mut [End; 2], time| {
        for end in ends {
            end.bench.pass(time).unwrap_or_else(|error| unreachable!("{error:?}"));
        }
    };
    while !choices.0.is_empty() {
        let number = choices.below(2);
        let [this, other] = &mut ends;
        let (this, other) = if number == 0 { (this, other) } else { (other, this) };
        match choices.below(8) {
            0 | 1 => this.send(if is_fixed { FIXED_BYTES } else { 1 + choices.below(255) }),
            // A ping in the stream, which the other one is to answer.
            2 if kinds & 2 != 0 => this.bench.send(vec![1; ping_bytes]),
            2 | 3 => this.write(1 + 8 * choices.below(256)),
            4 => this.take(other, 1 + choices.below(256)),
            5 => drop(this.read()),
            6 => this.held.clear(),
            _ => pass(&mut ends, Duration::from_millis(choices.below(256) as u64)),
        }
    }
    // All that is left goes its way.
    for _ in 0..4_000 {
        for number in 0..2 {
            let [this, other] = &mut ends;
            let (this, other) = if number == 0 { (this, other) } else { (other, this) };
            this.write(64 << 10);
            other.take(this, usize::MAX);
            other.held.clear();
            while other.read() {
                other.held.clear();
            }
        }
        if ends[0].sent == ends[1].received && ends[1].sent == ends[0].received {
            break;
        }
        pass(&mut ends, Duration::from_secs(1));
    }
    let [this, other] = ends;
    assert!(this.sent == other.received && other.sent == this.received, "something was lost, torn or reordered");
    for end in [this, other] {
        assert_eq!(end.bench.into_charged_bytes(), 0, "something is charged after the end");
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn framing_stands_what_the_fuzzer_would_feed_it(
            data in prop::collection::vec(prop_oneof![any::<u8>(), 0_u8..4, Just(b'\r'), Just(b'\n'), b'a'..=b'b'], 0..200),
        ) {
            super::framing(&data);
        }

        #[test]
        fn stacks_stand_what_the_fuzzer_would_do_to_them(data in prop::collection::vec(any::<u8>(), 0..600)) {
            super::stack(&data);
        }

        #[test]
        fn proxy_headers_stand_what_the_fuzzer_would_feed_them(
            data in prop::collection::vec(prop_oneof![any::<u8>(), 0_u8..4, Just(b'\r'), Just(b'\n'), Just(b' '), b'0'..=b':'], 0..200),
        ) {
            super::proxy(&data);
        }
    }
}
