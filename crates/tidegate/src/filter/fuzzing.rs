//! What fuzz targets call: a filter is fed with arbitrary bytes in arbitrary pieces, and what it makes of them must not depend on the pieces.
//!
//! Only in builds with `--cfg fuzzing`, and in tests, which feed the same functions with random bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::framing::{Empty, Framing, Prefix};
use super::proxy::ProxyProtocol;
use super::{FilterBench, FilterFactory, FilterFailure, FilterPeer, Read, Side};
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
        fn proxy_headers_stand_what_the_fuzzer_would_feed_them(
            data in prop::collection::vec(prop_oneof![any::<u8>(), 0_u8..4, Just(b'\r'), Just(b'\n'), Just(b' '), b'0'..=b':'], 0..200),
        ) {
            super::proxy(&data);
        }
    }
}
