//! Streams of messages through two TLS filters, cut everywhere, and how they end.

use std::time::Duration;

use proptest::prelude::*;

use super::{End, Ends, VERSIONS, client, filter, server};
use crate::filter::framing::{Framing, Prefix};
use crate::filter::tests::{Pair, cycle};
use crate::filter::tls::{TlsClient, TlsServer, TlsVersion};
use crate::filter::{FilterFactory, FilterFailure, Side, Stack};
use crate::random::split_mix;

fn pair(client: &TlsClient, server: &TlsServer) -> Pair {
    Pair::new(Stack::new(filter(client, Side::Connected)), Stack::new(filter(server, Side::Accepted)))
}

/// Message number so: bytes that tell it from others, and that no delimiter here is among.
fn message(number: u32, length: usize) -> Vec<u8> {
    (0..length).map(|at| (number as usize * 31 + at) as u8).collect()
}

/// A stack of TLS, and framing on it.
fn framed(factory: &dyn FilterFactory, side: Side, framing: &Framing) -> Stack {
    let mut stack = Stack::new(filter(factory, side));
    stack.add(filter(framing, side));
    stack
}

/// Sends so many messages each way through TLS and framing, with these cuts, and checks each of them.
fn stream(
    version: TlsVersion,
    framing: &Framing,
    count: u32,
    lengths: impl Fn(u32) -> usize,
    mut cut: impl FnMut() -> usize,
) {
    let (client, server) = (client().versions([version]).build().unwrap(), server().build().unwrap());
    let mut pair = Pair::new(framed(&client, Side::Connected, framing), framed(&server, Side::Accepted, framing));
    let (mut number, mut checked) = (0, 0);
    while number < count {
        // Some at a time, so that reading and writing take turns.
        for _ in 0..500.min(count - number) {
            pair.client.send(&message(number, lengths(number)));
            pair.server.send(&message(number, lengths(number)));
            number += 1;
        }
        if number == count {
            pair.client.shutdown();
            pair.server.shutdown();
        }
        pair.run(&mut cut);
        for end in [&mut pair.client, &mut pair.server] {
            assert!(end.error.is_none(), "{:?}", end.error);
            let received = std::mem::take(&mut end.received);
            assert_eq!(received.len() as u32, number - checked, "{framing:?}");
            for (got, number) in received.into_iter().zip(checked..) {
                assert_eq!(got, message(number, lengths(number)), "message {number}");
            }
        }
        checked = number;
    }
    assert!(pair.client.finished && pair.server.finished);
}

#[test]
fn of_100_000_messages_through_tls_and_framing_by_single_bytes_none_is_lost_reordered_or_torn() {
    let framing = Framing::prefix(Prefix::U8, 20);
    for version in VERSIONS {
        stream(version, &framing, 50_000, |number| 1 + number as usize % 10, || 1);
    }
}

#[test]
fn of_100_000_messages_through_tls_and_each_framing_in_pieces_of_any_size_none_is_lost_reordered_or_torn() {
    let framings = [
        Framing::prefix(Prefix::U16LittleEndian, 200),
        Framing::prefix(Prefix::U32BigEndian, 200).prefix_counts_itself(),
        Framing::prefix(Prefix::U64LittleEndian, 200),
        Framing::delimiter("\r\n", 200),
        Framing::fixed(100),
    ];
    for (version, framing) in
        VERSIONS.into_iter().flat_map(|version| framings.iter().map(move |framing| (version, framing)))
    {
        let is_fixed = framing.reserve().write_bytes == 0;
        let mut random = 7;
        stream(
            version,
            framing,
            10_000,
            |number| if is_fixed { 100 } else { 1 + number as usize * 7 % 200 },
            move || {
                // Small ones and large ones.
                let bits = split_mix(&mut random);
                1 + (bits >> 32) as usize % (1 << (1 + bits % 15))
            },
        );
    }
}

#[test]
fn of_10_000_large_messages_cut_beside_the_ends_of_records_none_is_lost_reordered_or_torn() {
    let framing = Framing::prefix(Prefix::U32BigEndian, 4_200);
    for (version, overhead) in [(TlsVersion::V1_3, 22), (TlsVersion::V1_2, 29)] {
        // Messages of 4,200 bytes go out alone, as long as there is room: their records have one size.
        let record = 4_204 + overhead;
        let cuts = [record - 1, 2, record - 1, record, 5, record - 5, 4, record - 4];
        stream(version, &framing, 2_500, |_| 4_200, cycle(&cuts));
    }
}

#[test]
fn large_messages_with_little_room_come_whole() {
    for version in VERSIONS {
        let mut pair = pair(&client().versions([version]).build().unwrap(), &server().build().unwrap());
        pair.client.room_bytes = 5_000;
        pair.server.room_bytes = 20_000;
        let data = message(1, 300_000);
        pair.client.send(&data);
        pair.server.send(&data);
        pair.run(cycle(&[1, 4096, 17]));
        assert!(pair.server.all_received() == data && pair.client.all_received() == data);
    }
}

proptest! {
    #[test]
    fn any_messages_in_any_pieces_come_as_they_were_sent(
        is_new in any::<bool>(),
        lengths in prop::collection::vec(prop_oneof![0_usize..100, 0_usize..40_000], 1..20),
        cuts in prop::collection::vec(prop_oneof![1_usize..30, 1_usize..20_000], 1..20),
        room_bytes in 5_000_usize..70_000,
    ) {
        let version = if is_new { TlsVersion::V1_3 } else { TlsVersion::V1_2 };
        let mut pair = pair(&client().versions([version]).build().unwrap(), &server().build().unwrap());
        pair.client.room_bytes = room_bytes;
        let sent: Vec<_> = lengths.iter().zip(0..).map(|(&length, number)| message(number, length)).collect();
        for message in &sent {
            pair.client.send(message);
        }
        pair.server.send(b"something");
        pair.client.shutdown();
        pair.server.shutdown();
        pair.run(cycle(&cuts));
        prop_assert!(pair.client.error.is_none() && pair.server.error.is_none());
        prop_assert!(pair.client.finished && pair.server.finished);
        prop_assert_eq!(pair.server.all_received(), sent.concat());
    }

    /// Whatever a peer says, at whatever moment: an error or nothing, never a panic.
    #[test]
    fn arbitrary_bytes_never_break_more_than_their_connection(
        is_new in any::<bool>(),
        is_established in any::<bool>(),
        is_finished in any::<bool>(),
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
        kind in 20_u8..25,
        length in 0_u16..30,
    ) {
        let version = if is_new { TlsVersion::V1_3 } else { TlsVersion::V1_2 };
        let (client, server) = (client().versions([version]).build().unwrap(), server().build().unwrap());
        let mut ends = if is_established { Ends::established(&client, &server) } else { Ends::new(&client, &server) };
        if is_finished {
            ends.server.bench.finish();
            ends.client.bench.finish();
        }
        for end in [&mut ends.client, &mut ends.server] {
            end.written();
            end.arrive(&[&[kind, 3, 3][..], &length.to_be_bytes()].concat());
            for piece in &pieces {
                end.arrive(piece);
            }
            end.written();
            end.end();
            prop_assert!(end.finished || end.error.is_some());
            end.written();
        }
    }
}

#[test]
fn close_notify_goes_out_before_the_end_and_reading_ends_with_the_peers() {
    for version in VERSIONS {
        let mut ends = Ends::established(&client().versions([version]).build().unwrap(), &server().build().unwrap());
        ends.client.bench.send("the last words");
        let words = ends.client.written();
        assert!(!ends.client.bench.finish(), "there is something left to be said");
        let notice = ends.client.written();
        assert!(!notice.is_empty() && ends.client.bench.finish());
        // No FIN: the notice alone ends it.
        ends.server.arrive(&[words, notice].concat());
        assert_eq!(ends.server.received, b"the last words");
        assert!(ends.server.finished && ends.server.error.is_none());
        // The other half goes on.
        ends.server.bench.send("an answer");
        let answer = ends.server.written();
        ends.client.arrive(&answer);
        assert_eq!(ends.client.received, b"an answer");
        ends.server.bench.finish();
        let notice = ends.server.written();
        ends.client.arrive(&notice);
        assert!(ends.client.finished && ends.client.error.is_none());
    }
}

#[test]
fn an_end_without_notice_is_truncated_unless_it_is_allowed() {
    for version in VERSIONS {
        let client = client().versions([version]).build().unwrap();
        for (server, is_allowed) in [(server(), false), (server().allow_end_without_notice(), true)] {
            let mut ends = Ends::established(&client, &server.build().unwrap());
            ends.client.bench.send("something");
            let record = ends.client.written();
            ends.server.arrive(&record);
            ends.server.end();
            assert_eq!(ends.server.received, b"something");
            assert_eq!(ends.server.finished, is_allowed);
            let failure = ends.server.error.as_ref().map(|error| error.failure);
            assert_eq!(failure, (!is_allowed).then_some(FilterFailure::Truncated));
        }
    }
}

#[test]
fn an_end_within_a_record_is_always_truncated() {
    let server = server().allow_end_without_notice().build().unwrap();
    let client = client().build().unwrap();
    let length = {
        let mut ends = Ends::established(&client, &server);
        ends.client.bench.send("something");
        ends.client.written().len()
    };
    for cut in 1..length {
        let mut ends = Ends::established(&client, &server);
        ends.client.bench.send("something");
        let record = ends.client.written();
        ends.server.arrive(&record[..cut]);
        ends.server.end();
        assert_eq!(ends.server.failed().failure, FilterFailure::Truncated);
        assert!(ends.server.received.is_empty());
    }
}

#[test]
fn a_record_that_was_changed_ends_the_session_with_an_alert() {
    for version in VERSIONS {
        let mut ends = Ends::established(&client().versions([version]).build().unwrap(), &server().build().unwrap());
        ends.client.bench.send("something");
        let mut record = ends.client.written();
        *record.last_mut().unwrap() ^= 1;
        ends.server.arrive(&record);
        let error = ends.server.failed();
        assert_eq!((error.failure, error.farewell), (FilterFailure::Protocol, true));
        assert!(ends.server.received.is_empty());
        let alert = ends.server.written();
        ends.client.arrive(&alert);
        assert_eq!(ends.client.failed().text, "the peer has given up with the TLS alert BadRecordMac");
    }
}

#[test]
fn small_messages_share_a_record() {
    let mut ends = Ends::established(&client().build().unwrap(), &server().build().unwrap());
    for _ in 0..100 {
        ends.client.bench.send(vec![1; 30]);
    }
    let written = ends.client.written();
    assert_eq!(written.len(), 100 * 30 + 22);
    let mut end = End::new(&server().build().unwrap(), Side::Accepted);
    std::mem::swap(&mut end, &mut ends.server);
    end.arrive(&written);
    assert_eq!(end.received.len(), 3_000);
}

#[test]
fn a_session_lives_as_long_as_its_connection() {
    let mut pair = pair(&client().build().unwrap(), &server().build().unwrap());
    pair.run_whole();
    pair.pass(Duration::from_secs(3600));
    pair.client.send(b"still here");
    pair.run_whole();
    assert_eq!(pair.server.all_received(), b"still here");
    assert!(pair.client.error.is_none() && pair.server.error.is_none());
}
