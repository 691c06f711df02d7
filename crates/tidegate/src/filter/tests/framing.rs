//! Framing: whole messages come out, whatever the pieces were, and nothing that is too large, too short or too slow does.

use std::time::Duration;

use proptest::prelude::*;

use super::{Pair, Plain, cycle};
use crate::filter::framing::{Empty, Framing, Prefix};
use crate::filter::{FilterFactory as _, FilterFailure, FilterPeer, Read, Side, Stack};
use crate::memory::{Buffer, SendLease, SendReserve};

const PREFIXES: [Prefix; 7] = [
    Prefix::U8,
    Prefix::U16BigEndian,
    Prefix::U16LittleEndian,
    Prefix::U32BigEndian,
    Prefix::U32LittleEndian,
    Prefix::U64BigEndian,
    Prefix::U64LittleEndian,
];

fn stack(framing: &Framing) -> Stack {
    let peer = FilterPeer { address: ([127, 0, 0, 1], 1).into(), side: Side::Accepted };
    Stack::new(framing.make(&peer).expect("framing is made for everybody"))
}

/// Two ends with the same framing.
fn pair(framing: &Framing) -> Pair {
    Pair::new(stack(framing), stack(framing))
}

/// Two ends of which the client says bytes as they are.
fn raw_client(framing: &Framing) -> Pair {
    Pair::new(Stack::new(Box::new(Plain)), stack(framing))
}

/// All kinds, each with room for messages of `max_bytes`.
fn kinds(max_bytes: usize) -> Vec<Framing> {
    let prefixes = PREFIXES.into_iter().filter(|prefix| max_bytes < 200 || *prefix != Prefix::U8);
    let mut kinds: Vec<Framing> = prefixes
        .flat_map(|prefix| {
            [Framing::prefix(prefix, max_bytes), Framing::prefix(prefix, max_bytes).prefix_counts_itself()]
        })
        .collect();
    kinds.extend(["\n", "\r\n", "--end--", "aab"].map(|delimiter| Framing::delimiter(delimiter, max_bytes)));
    kinds
}

/// What the server has received of `bytes`, in pieces of these sizes, and how it ended.
fn received(framing: &Framing, bytes: &[u8], sizes: &[usize]) -> (Vec<Vec<u8>>, Option<FilterFailure>) {
    let mut pair = raw_client(framing);
    pair.client.send(bytes);
    pair.client.shutdown();
    pair.run(cycle(sizes));
    assert!(pair.server.finished != pair.server.error.is_some(), "it ends one way");
    (pair.server.received, pair.server.error.map(|error| error.failure))
}

proptest! {
    #[test]
    fn messages_come_out_as_they_went_in_whatever_the_pieces(
        messages in prop::collection::vec(prop::collection::vec(b'0'..=b'9', 1..150), 1..30),
        cuts in prop::collection::vec(1_usize..400, 1..20),
        room_bytes in 300_usize..70_000,
    ) {
        for framing in kinds(150) {
            let mut pair = pair(&framing);
            pair.client.room_bytes = room_bytes;
            for message in &messages {
                pair.client.send(message);
            }
            pair.client.shutdown();
            pair.run(cycle(&cuts));
            prop_assert!(pair.server.finished && pair.server.error.is_none(), "{framing:?}: {:?}", pair.server.error);
            prop_assert_eq!(&pair.server.received, &messages, "{:?}", framing);
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_hand_up_what_is_too_large(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(b'\r'), Just(b'\n'), Just(b'a'), Just(b'b')], 0..300),
        cuts in prop::collection::vec(1_usize..50, 1..10),
    ) {
        let mut all = kinds(40);
        all.push(Framing::fixed(7));
        for framing in all.iter().flat_map(|framing| [framing.clone(), framing.clone().empty_messages(Empty::Skipped).last_may_lack_delimiter()]) {
            let (in_pieces, ended) = received(&framing, &bytes, &cuts);
            prop_assert!(in_pieces.iter().all(|message| (1..=40).contains(&message.len())));
            // Pieces change nothing.
            let (whole, ended_whole) = received(&framing, &bytes, &[usize::MAX]);
            prop_assert_eq!((in_pieces, ended), (whole, ended_whole), "{:?}", framing);
        }
    }

    #[test]
    fn a_delimiter_is_found_as_a_plain_search_finds_it(
        text in prop::collection::vec(b'a'..=b'b', 0..60),
        delimiter in prop::collection::vec(b'a'..=b'b', 1..5),
        cuts in prop::collection::vec(1_usize..9, 1..6),
    ) {
        let mut expected = Vec::new();
        let (mut begin, mut at) = (0, 0);
        while at + delimiter.len() <= text.len() {
            if text[at..].starts_with(&delimiter) {
                expected.push(text[begin..at].to_vec());
                at += delimiter.len();
                begin = at;
            } else {
                at += 1;
            }
        }
        expected.push(text[begin..].to_vec());
        expected.retain(|message| !message.is_empty());
        let framing = Framing::delimiter(delimiter, 100).last_may_lack_delimiter();
        prop_assert_eq!(received(&framing, &text, &cuts), (expected, None));
    }
}

#[test]
fn a_message_may_be_cut_at_every_place() {
    for framing in kinds(150) {
        let mut pair = pair(&framing);
        for message in ["first", "2", "the third of them"] {
            pair.client.send(message.as_bytes());
        }
        // Nothing is cut yet: how long is it on the wire?
        let mut sizes = Vec::new();
        pair.run(|| {
            sizes.push(());
            1
        });
        let wire_bytes = sizes.len();
        assert!(wire_bytes > 23, "{framing:?}: {wire_bytes}");
        for first in 1..wire_bytes {
            let mut pair = self::pair(&framing);
            for message in ["first", "2", "the third of them"] {
                pair.client.send(message.as_bytes());
            }
            pair.run(cycle(&[first, usize::MAX]));
            assert_eq!(
                pair.server.received,
                [&b"first"[..], b"2", b"the third of them"],
                "{framing:?}, cut at {first}"
            );
        }
    }
}

#[test]
fn the_bytes_on_the_wire_are_those_of_the_protocol() {
    let wire = |framing: &Framing| {
        let mut pair = Pair::new(stack(framing), Stack::new(Box::new(Plain)));
        pair.client.send(b"hello");
        pair.run_whole();
        pair.server.all_received()
    };
    assert_eq!(wire(&Framing::prefix(Prefix::U8, 10)), b"\x05hello");
    assert_eq!(wire(&Framing::prefix(Prefix::U16BigEndian, 10)), b"\0\x05hello");
    assert_eq!(wire(&Framing::prefix(Prefix::U16LittleEndian, 10).prefix_counts_itself()), b"\x07\0hello");
    assert_eq!(wire(&Framing::prefix(Prefix::U32BigEndian, 10)), b"\0\0\0\x05hello");
    assert_eq!(wire(&Framing::prefix(Prefix::U64LittleEndian, 10)), b"\x05\0\0\0\0\0\0\0hello");
    assert_eq!(wire(&Framing::delimiter("\r\n", 10)), b"hello\r\n");
    assert_eq!(wire(&Framing::fixed(5)), b"hello");
}

#[test]
fn a_length_that_is_too_large_is_refused_by_its_last_byte_and_takes_no_memory() {
    for (prefix, bytes) in [
        (Prefix::U16BigEndian, &b"\x01\x01"[..]),
        (Prefix::U32LittleEndian, b"\x01\x01\0\0"),
        (Prefix::U64BigEndian, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
        (Prefix::U64LittleEndian, b"\0\0\0\0\0\0\0\x80"),
    ] {
        for framing in [Framing::prefix(prefix, 256), Framing::prefix(prefix, 248).prefix_counts_itself()] {
            let (messages, ended) = received(&framing, bytes, &[1]);
            assert_eq!((messages.len(), ended), (0, Some(FilterFailure::TooLarge)), "{framing:?}");
            let (_, ended) = received(&framing, &bytes[..bytes.len() - 1], &[1]);
            assert_eq!(ended, Some(FilterFailure::Truncated), "{framing:?}: not before");
        }
    }
    // One that is announced and doesn't come takes as much memory as has come.
    let mut pair = raw_client(&Framing::prefix(Prefix::U32BigEndian, 60 << 20));
    pair.client.send(b"\x03\0\0\0ten bytes.");
    pair.run_whole();
    assert!(pair.server.error.is_none());
    assert!(pair.server.bench.charged_bytes() <= 28, "{} bytes are charged for 14", pair.server.bench.charged_bytes());
}

#[test]
fn a_line_that_is_too_long_is_refused_at_its_first_byte_too_many() {
    let framing = Framing::delimiter("\r\n", 5);
    assert_eq!(received(&framing, b"12345\r\n", &[1]), (vec![b"12345".to_vec()], None));
    // The delimiter may still be coming.
    assert_eq!(received(&framing, b"12345\r", &[1]).1, Some(FilterFailure::Truncated));
    assert_eq!(received(&framing, b"12345\r\r", &[1]).1, Some(FilterFailure::TooLarge));
    assert_eq!(received(&framing, b"123456", &[1]).1, Some(FilterFailure::TooLarge));
    assert_eq!(received(&framing, b"123456\r\n", &[usize::MAX]).1, Some(FilterFailure::TooLarge));
}

#[test]
fn a_length_that_is_to_count_itself_and_does_not_is_refused() {
    let framing = Framing::prefix(Prefix::U16BigEndian, 100).prefix_counts_itself();
    assert_eq!(received(&framing, b"\0\x01x", &[1]).1, Some(FilterFailure::Protocol));
    assert_eq!(received(&framing, b"\0\x03x", &[1]), (vec![b"x".to_vec()], None));
}

#[test]
fn a_message_without_bytes_is_refused_or_skipped() {
    let records = Framing::prefix(Prefix::U8, 100);
    assert_eq!(
        received(&records, b"\x01a\0\x01b", &[usize::MAX]),
        (vec![b"a".to_vec()], Some(FilterFailure::Protocol))
    );
    let records = records.empty_messages(Empty::Skipped);
    for sizes in [1, 2, usize::MAX] {
        assert_eq!(received(&records, b"\x01a\0\0\x01b\0", &[sizes]), (vec![b"a".to_vec(), b"b".to_vec()], None));
        let lines = Framing::delimiter("\n", 100);
        assert_eq!(received(&lines, b"a\n\n\nb\n", &[sizes]), (vec![b"a".to_vec(), b"b".to_vec()], None));
        let kept = lines.keep_delimiter();
        assert_eq!(received(&kept, b"a\n\nb\n", &[sizes]).0, [&b"a\n"[..], b"\n", b"b\n"]);
    }
}

#[test]
fn the_end_within_a_message_is_a_truncation_at_every_byte() {
    for framing in kinds(150) {
        let mut pair = Pair::new(stack(&framing), Stack::new(Box::new(Plain)));
        pair.client.send(b"123");
        pair.run_whole();
        let wire = pair.server.all_received();
        for count in 1..wire.len() {
            let (messages, ended) = received(&framing, &wire[..count], &[1]);
            assert_eq!((messages.len(), ended), (0, Some(FilterFailure::Truncated)), "{framing:?}: {count} bytes");
        }
        assert_eq!(received(&framing, &[], &[1]), (vec![], None));
    }
    let lenient = Framing::delimiter("\r\n", 100).last_may_lack_delimiter();
    assert_eq!(received(&lenient, b"a\r\nbc", &[1]), (vec![b"a".to_vec(), b"bc".to_vec()], None));
}

#[test]
fn a_length_at_the_end_of_all_numbers_made_an_addition_overflow() {
    let framing = Framing::prefix(Prefix::U64BigEndian, usize::MAX);
    assert_eq!(received(&framing, &[0xFF; 8], &[usize::MAX]), (vec![], Some(FilterFailure::TooLarge)));
}

#[test]
fn a_last_message_that_ends_like_a_delimiter_begins_was_handed_up_too_large() {
    let framing = Framing::delimiter("abab", 2).last_may_lack_delimiter();
    for sizes in [1, usize::MAX] {
        assert_eq!(received(&framing, b"xaba", &[sizes]), (vec![], Some(FilterFailure::TooLarge)));
        assert_eq!(received(&framing, b"xa", &[sizes]), (vec![b"xa".to_vec()], None));
    }
}

#[test]
fn what_can_not_be_framed_is_not_sent() {
    for (framing, length) in [
        (Framing::prefix(Prefix::U8, 1000), 256),
        (Framing::prefix(Prefix::U8, 1000).prefix_counts_itself(), 255),
        (Framing::prefix(Prefix::U32BigEndian, 100), 101),
        (Framing::delimiter("\n", 100), 101),
        (Framing::fixed(5), 4),
        (Framing::fixed(5), 6),
    ] {
        let mut pair = pair(&framing);
        pair.client.send(&vec![b'x'; length]);
        pair.run_whole();
        let failure = pair.client.error.as_ref().map(|error| error.failure);
        assert_eq!(failure, Some(FilterFailure::TooLarge), "{framing:?}: {length} bytes");
        assert!(pair.server.received.is_empty());
    }
}

#[test]
fn a_message_has_its_time_from_its_first_byte_on() {
    let framing = Framing::delimiter("\n", 100).message_timeout(Duration::from_secs(10));
    let mut pair = raw_client(&framing);
    pair.client.send(b"whole\n");
    pair.run_whole();
    pair.pass(Duration::from_secs(100));
    assert!(pair.server.error.is_none(), "between messages there is no hurry");
    pair.client.send(b"ha");
    pair.run_whole();
    pair.pass(Duration::from_secs(9));
    pair.client.send(b"lf");
    pair.run_whole();
    assert!(pair.server.error.is_none());
    pair.pass(Duration::from_secs(2));
    assert_eq!(pair.server.error.as_ref().map(|error| error.failure), Some(FilterFailure::MessageTimeout));
    // One that is whole in time takes the deadline with it.
    let mut pair = raw_client(&framing);
    for part in [&b"ha"[..], b"lf\n"] {
        pair.client.send(part);
        pair.run_whole();
        pair.pass(Duration::from_secs(9));
    }
    pair.pass(Duration::from_secs(9));
    assert!(pair.server.error.is_none());
    assert_eq!(pair.server.received, [b"half"]);
}

#[test]
fn a_message_was_late_at_once_when_reading_went_on_just_before_its_time() {
    let framing = Framing::delimiter("\n", 100).message_timeout(Duration::from_secs(10));
    let mut pair = raw_client(&framing);
    pair.client.send(b"ha");
    pair.run_whole();
    pair.pass(Duration::from_secs(9));
    pair.server.bench.reading_since = Some(pair.now);
    pair.pass(Duration::from_secs(9));
    assert!(pair.server.error.is_none(), "it has its time from when reading goes on");
    pair.server.bench.reading_since = None;
    pair.pass(Duration::from_secs(60));
    assert!(pair.server.error.is_none(), "nobody reads");
    pair.server.bench.reading_since = Some(pair.now);
    pair.pass(Duration::from_secs(21));
    assert_eq!(pair.server.error.as_ref().map(|error| error.failure), Some(FilterFailure::MessageTimeout));
}

#[test]
fn nothing_is_charged_for_a_filter_without_a_part_of_a_message() {
    let mut pair = raw_client(&Framing::prefix(Prefix::U16BigEndian, 1000));
    pair.client.send(b"\0\x02hi\0\x04tal");
    pair.run(cycle(&[3]));
    assert!(pair.server.bench.charged_bytes() > 0);
    pair.client.send(b"l");
    pair.run_whole();
    assert_eq!(pair.server.received, [&b"hi"[..], b"tall"]);
    assert_eq!(pair.server.bench.charged_bytes(), 0);
}

#[test]
fn a_buffer_with_one_message_is_handed_up_without_a_copy() {
    let lease = SendLease::new(SendReserve::new(1 << 20));
    let buffer = Buffer::copied(b"\x05hello", &lease).expect("there is memory");
    let address = buffer.as_ptr();
    let mut pair = raw_client(&Framing::prefix(Prefix::U8, 10));
    pair.server.bench.arrive_as(buffer);
    let Ok(Read::Data(read)) = pair.server.bench.read() else { panic!("a message") };
    assert_eq!(&read[..], b"hello");
    assert_eq!(read.as_ptr(), address.wrapping_add(1));
}
