//! Headers, sound and not, at every split.

use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::version_2::{crc32c, write};
use super::*;
use crate::filter::tests::{Pair, Plain, cycle};
use crate::filter::{Side, Stack};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn peer(address: &str) -> FilterPeer {
    FilterPeer { address: socket(address), side: Side::Accepted }
}

fn trusting() -> ProxyProtocol {
    ProxyProtocol::from(["10.0.0.0/8".parse().expect("a network")])
}

fn accepting(options: &ProxyProtocol) -> Stack {
    Stack::new(options.make(&peer("10.1.2.3:4")).expect("a trusted network"))
}

/// A client that says just this, and then finishes.
fn said(options: &ProxyProtocol, bytes: &[u8], cut: impl FnMut() -> usize) -> Pair {
    let mut pair = Pair::new(Stack::new(Box::new(Plain)), accepting(options));
    pair.client.send(bytes);
    pair.client.shutdown();
    pair.run(cut);
    pair
}

/// What a connection learns from these bytes, and what is left of them for the handler: the same at every split.
#[track_caller]
fn learned(bytes: &[u8]) -> (Option<(SocketAddr, SocketAddr)>, Vec<u8>) {
    let look = |pair: Pair| {
        let server = &pair.server;
        assert!(server.error.is_none() && server.finished && server.bench.is_established(), "{:?}", server.error);
        let description = server.bench.describe();
        (description.source.zip(description.destination), server.all_received())
    };
    let whole = look(said(&trusting(), bytes, || usize::MAX));
    // Each split of what may differ from place to place; some of the long ones.
    for split in (1..bytes.len()).filter(|split| *split < 80 || split % 29 == 0) {
        let pieces = look(said(&trusting(), bytes, cycle(&[split, usize::MAX])));
        assert_eq!(pieces, whole, "split at {split}");
    }
    assert_eq!(look(said(&trusting(), bytes, || 1)), whole);
    whole
}

/// How these bytes fail: in the same way whole and in single bytes, with no byte for the handler.
#[track_caller]
fn failure(bytes: &[u8]) -> FilterFailure {
    let fail = |pair: Pair| {
        assert!(pair.server.received.is_empty() && !pair.server.bench.is_established());
        pair.server.error.expect("a failure").failure
    };
    let whole = fail(said(&trusting(), bytes, || usize::MAX));
    assert_eq!(fail(said(&trusting(), bytes, || 1)), whole);
    whole
}

#[track_caller]
fn assert_refused(bytes: &[u8]) {
    assert_eq!(failure(bytes), FilterFailure::Protocol, "{:?}", String::from_utf8_lossy(bytes));
}

/// A header of version 2.
fn version_2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("short").to_be_bytes();
    [SIGNATURE, &[command, family], &length, body].concat()
}

const V4_BODY: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xC3, 0x50, 0x01, 0xBB];

fn v4_addresses() -> Option<(SocketAddr, SocketAddr)> {
    Some((socket("192.0.2.7:50000"), socket("198.51.100.1:443")))
}

#[test]
fn a_line_of_version_1_tells_the_addresses_and_what_follows_is_data() {
    let (addresses, rest) = learned(b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\nGET /\r\n");
    assert_eq!((addresses, rest), (v4_addresses(), b"GET /\r\n".to_vec()));
    let (addresses, rest) = learned(b"PROXY TCP6 2001:db8::1 2001:DB8:0:0:0:0:0:2 0 65535\r\n");
    assert_eq!(addresses, Some((socket("[2001:db8::1]:0"), socket("[2001:db8::2]:65535"))));
    assert!(rest.is_empty());
}

#[test]
fn an_unknown_connection_of_version_1_tells_nothing_whatever_follows_the_word() {
    for line in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN \r\n", "PROXY UNKNOWN ffff:f...f:ffff 1\t2 \u{fc}\r\n"] {
        assert_eq!(learned(format!("{line}x").as_bytes()), (None, b"x".to_vec()), "{line:?}");
    }
}

#[test]
fn a_line_has_107_bytes_at_most() {
    let line = |bytes: usize| format!("PROXY UNKNOWN {}\r\n", "u".repeat(bytes - 16));
    assert_eq!(learned(line(107).as_bytes()), (None, Vec::new()));
    assert_refused(line(108).as_bytes());
    assert_refused(&[b"PROXY ".as_slice(), &[b'x'; 300]].concat());
}

#[test]
fn a_line_that_is_not_to_the_letter_is_refused() {
    for line in [
        // The beginning.
        "proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXYTCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        "PUT / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\n",
        " PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY\r\n",
        // The family.
        "PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY tcp4 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY \r\n",
        // The number of words, and what parts them.
        "PROXY TCP4\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n",
        "PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4\t1.1.1.1 2.2.2.2 1 2\r\n",
        // Addresses.
        "PROXY TCP4 1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.256 1 2\r\n",
        "PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4 ::1 2.2.2.2 1 2\r\n",
        "PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP6 ::1 ::ffff:2.2.2.2 1 2\r\n",
        "PROXY TCP6 ::1 fe80::1%1 1 2\r\n",
        "PROXY TCP6 [::1] ::2 1 2\r\n",
        // Ports.
        "PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 -1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 x 2\r\n",
        // The end.
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1\n 2\r\n",
        "PROXY UNKNOWN\n",
    ] {
        assert_refused(line.as_bytes());
    }
    assert_refused(b"PROXY TCP4 1.1.1.1 2.2.2.2 1 \xFF\r\n");
}

#[test]
fn a_binary_header_tells_the_addresses_and_what_follows_is_data() {
    for family in [0x11, 0x12] {
        let header = version_2(0x21, family, &V4_BODY);
        assert_eq!(learned(&[&header[..], b"data"].concat()), (v4_addresses(), b"data".to_vec()));
    }
    let mut body = [0_u8; 36];
    (body[0], body[1], body[15], body[16], body[31]) = (0x20, 0x01, 1, 0xFE, 2);
    (body[33], body[35]) = (3, 4);
    for family in [0x21, 0x22] {
        let (addresses, _) = learned(&version_2(0x21, family, &body));
        assert_eq!(addresses, Some((socket("[2001::1]:3"), socket("[fe00::2]:4"))));
    }
}

#[test]
fn a_header_of_the_proxy_itself_or_of_no_ip_addresses_is_taken_and_tells_nothing() {
    for header in [
        version_2(0x20, 0x00, b""),
        version_2(0x20, 0x11, &V4_BODY),
        version_2(0x20, 0xFF, b"whatever it is"),
        version_2(0x21, 0x00, b""),
        version_2(0x21, 0x00, b"it is not known what"),
        version_2(0x21, 0x31, &[7; 216]),
        version_2(0x21, 0x32, &[7; 216]),
    ] {
        assert_eq!(learned(&[&header[..], b"data"].concat()), (None, b"data".to_vec()));
    }
}

#[test]
fn a_binary_header_that_is_not_as_it_must_be_is_refused() {
    let header = version_2(0x21, 0x11, &V4_BODY);
    for at in 0..SIGNATURE.len() {
        let mut other = header.clone();
        other[at] ^= 1;
        assert_refused(&other);
    }
    for command in [0x00, 0x01, 0x11, 0x22, 0x2F, 0x31] {
        assert_refused(&version_2(command, 0x11, &V4_BODY));
    }
    for family in [0x01, 0x02, 0x10, 0x13, 0x20, 0x23, 0x30, 0x33, 0x41] {
        assert_refused(&version_2(0x21, family, &[0; 216]));
    }
    for (family, bytes) in [(0x11, 0), (0x11, 11), (0x21, 35), (0x31, 215)] {
        assert_refused(&version_2(0x21, family, &vec![0; bytes]));
    }
}

fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
    version_2(0x21, 0x11, &[&V4_BODY, tlvs].concat())
}

#[test]
fn additions_must_be_whole_and_are_skipped() {
    for tlvs in [&[0x04, 0, 0][..], &[0x02, 0, 3, b'a', b'b', b'c'], &[0xE0, 0, 1, 9, 0x04, 0, 2, 0, 0]] {
        assert_eq!(learned(&with_tlvs(tlvs)).0, v4_addresses());
    }
    for tlvs in [&[0x04][..], &[0x04, 0], &[0x04, 0, 1], &[0x04, 1, 0, 0], &[0x02, 0, 1, b'a', 0x02, 0]] {
        assert_refused(&with_tlvs(tlvs));
    }
    // Those of a unix socket as well.
    assert_refused(&version_2(0x21, 0x31, &[0; 217]));
}

#[test]
fn a_checksum_is_verified_if_there_is_one() {
    // The check value of CRC-32/ISCSI.
    assert_eq!(crc32c(b"123456789".iter().copied()), 0xE306_9283);
    let header = write(v4_addresses(), true);
    assert_eq!(learned(&header).0, v4_addresses());
    for at in FIXED..header.len() {
        // Not a bit of the addresses or of the checksum may be another; those of its type and length make it another addition, or none.
        if !(header.len() - 7..header.len() - 4).contains(&at) {
            let mut other = header.clone();
            other[at] ^= 0x10;
            assert_refused(&other);
        }
    }
    // Before another addition, which it covers.
    let mut header = with_tlvs(&[0x03, 0, 4, 0, 0, 0, 0, 0x04, 0, 1, 7]);
    let checksum = crc32c(header.iter().copied()).to_be_bytes();
    let at = header.len() - 8;
    header[at..at + 4].copy_from_slice(&checksum);
    assert_eq!(learned(&header).0, v4_addresses());
    *header.last_mut().expect("it has bytes") ^= 1;
    assert_refused(&header);
    assert_refused(&with_tlvs(&[0x03, 0, 3, 0, 0, 0]));
    assert_refused(&with_tlvs(&[0x03, 0, 5, 0, 0, 0, 0, 0]));
    let twice = [0x03, 0, 4, 0, 0, 0, 0];
    assert_refused(&with_tlvs(&[twice, twice].concat()));
}

const FIXED: usize = super::version_2::FIXED_BYTES;

#[test]
fn a_header_larger_than_allowed_is_refused_before_it_has_come() {
    let large = |bytes: usize| version_2(0x20, 0x00, &vec![0; bytes]);
    assert_eq!(learned(&large(536)).0, None);
    assert_eq!(failure(&large(537)), FilterFailure::TooLarge);
    assert_eq!(failure(&large(65_535)[..FIXED]), FilterFailure::TooLarge);
    let options = trusting().body_bytes_max(12);
    assert!(said(&options, &version_2(0x21, 0x11, &V4_BODY), || 1).server.error.is_none());
    let error = said(&options, &with_tlvs(&[0x04, 0, 0]), || 1).server.error.expect("15 bytes of 12");
    assert_eq!(error.failure, FilterFailure::TooLarge);
    assert_eq!(trusting().body_bytes_max(1000).reserve().state_bytes - size_of::<Accepting>(), 1016);
    assert_eq!(trusting().body_bytes_max(0).reserve().state_bytes - size_of::<Accepting>(), 107);
}

#[test]
fn a_stream_that_ends_within_a_header_is_truncated_and_one_that_says_nothing_just_ends() {
    for header in [b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\n".to_vec(), version_2(0x21, 0x11, &V4_BODY)] {
        for length in 1..header.len() {
            assert_eq!(failure(&header[..length]), FilterFailure::Truncated, "{length} bytes");
        }
    }
    let mut pair = Pair::new(Stack::new(Box::new(Plain)), accepting(&trusting()));
    pair.client.shutdown();
    pair.run_whole();
    assert!(pair.server.finished && pair.server.error.is_none() && !pair.server.bench.is_established());
}

#[test]
fn a_header_must_be_whole_in_its_time_and_has_no_deadline_after_it() {
    let options = trusting().within(Duration::from_secs(2));
    let header = b"PROXY UNKNOWN\r\n";
    for length in 0..header.len() {
        let mut pair = Pair::new(Stack::new(Box::new(Plain)), accepting(&options));
        // An I/O thread reads once to let the filters talk.
        pair.server.read();
        pair.pass(Duration::from_millis(1_000));
        pair.client.send(&header[..length]);
        pair.run_whole();
        pair.pass(Duration::from_millis(999));
        assert!(pair.server.error.is_none(), "bytes that come give no more time");
        pair.pass(Duration::from_millis(1));
        let error = pair.server.error.take().expect("2 s have passed");
        assert_eq!(error.failure, FilterFailure::EstablishTimeout, "{length} bytes");
    }
    let mut pair = Pair::new(Stack::new(Box::new(Plain)), accepting(&options));
    pair.client.send(header);
    pair.run_whole();
    pair.pass(Duration::from_secs(1_000));
    assert!(pair.server.error.is_none() && pair.server.bench.deadline().is_none());
}

#[test]
fn nothing_is_sent_before_the_header_is_whole() {
    let mut pair = Pair::new(Stack::new(Box::new(Plain)), accepting(&trusting()));
    pair.server.send(b"220 welcome");
    pair.client.send(b"PROXY UNKNOWN\r");
    pair.run_whole();
    assert!(pair.client.received.is_empty());
    pair.client.send(b"\n");
    pair.run_whole();
    assert_eq!(pair.client.all_received(), b"220 welcome");
}

#[test]
fn from_elsewhere_a_connection_is_refused_or_passed_through_without_a_look() {
    let elsewhere = peer("192.0.2.1:4");
    let error = trusting().make(&elsewhere).err().expect("it is not trusted");
    assert_eq!(error.failure, FilterFailure::NotAllowed);
    assert!(error.to_string().contains("192.0.2.1"));
    assert!(trusting().make(&peer("[::ffff:10.1.2.3]:4")).is_ok(), "a mapped address is the one that it maps");

    let untouched = Stack::new(trusting().pass_others().make(&elsewhere).expect("it may pass"));
    let mut pair = Pair::new(Stack::new(Box::new(Plain)), untouched);
    let header = b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\n";
    pair.client.send(header);
    pair.client.shutdown();
    assert!(pair.server.bench.is_established());
    pair.run(|| 7);
    assert!(pair.server.finished);
    assert_eq!(pair.server.all_received(), header);
    assert_eq!(pair.server.bench.describe(), Description::default());
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from),
        (any::<[u16; 8]>(), any::<u16>()).prop_map(SocketAddr::from),
    ]
}

proptest! {
    #[test]
    fn what_the_sending_side_says_the_accepting_one_learns_and_the_data_comes_after_it(
        source in any_address(),
        destination in any_address(),
        form in 0..3,
        cuts in prop::collection::vec(1_usize..50, 1..8),
        room_bytes in 400_usize..1000,
    ) {
        let header = match form {
            0 => ProxyHeader::version_1(source, destination),
            1 => ProxyHeader::version_2(source, destination),
            _ => ProxyHeader::version_2(source, destination).checksum(),
        };
        prop_assert!(header.bytes().len() <= ProxyHeader::RESERVE.write_bytes);
        let mut pair = Pair::new(Stack::new(header.filter()), accepting(&trusting()));
        pair.client.room_bytes = room_bytes;
        prop_assert!(!pair.client.bench.is_established());
        pair.client.send(b"a question");
        pair.server.send(b"an answer");
        pair.client.shutdown();
        pair.run(cycle(&cuts));
        prop_assert!(pair.server.error.is_none() && pair.server.finished && pair.client.bench.is_established());
        prop_assert_eq!(pair.server.all_received(), b"a question");
        prop_assert_eq!(pair.client.all_received(), b"an answer");
        let mapped = |address: SocketAddr| match (source.is_ipv4(), destination.is_ipv4()) {
            (true, true) | (false, false) => address,
            _ => SocketAddr::new(super::version_2::as_v6(address.ip()).into(), address.port()),
        };
        let description = pair.server.bench.describe();
        prop_assert_eq!(description.source, Some(mapped(source)));
        prop_assert_eq!(description.destination, Some(mapped(destination)));
    }

    #[test]
    fn any_bytes_are_a_header_or_a_failure_and_never_data_before_a_header(
        beginning in prop_oneof![
            Just(b"PROXY ".to_vec()), Just(b"PROXY TCP4 ".to_vec()), Just([SIGNATURE, &[0x21]].concat()), Just(Vec::new()),
        ],
        bytes in prop::collection::vec(prop_oneof![Just(0_u8), Just(0x11), Just(b' '), Just(b'\n'), any::<u8>()], 0..200),
        cut in 1_usize..40,
    ) {
        let all = [beginning, bytes].concat();
        let pair = said(&trusting(), &all, || cut);
        let server = &pair.server;
        prop_assert!(server.bench.is_established() || server.received.is_empty());
        prop_assert!(server.error.is_some() != server.finished);
        prop_assert!(all.ends_with(&server.all_received()));
    }
}

#[test]
fn headers_that_tell_nothing_are_sent_too() {
    for header in [ProxyHeader::local(), ProxyHeader::local().checksum(), ProxyHeader::version_1_unknown()] {
        let mut pair = Pair::new(Stack::new(header.filter()), accepting(&trusting()));
        pair.run(|| 1);
        assert!(pair.server.bench.is_established() && pair.server.error.is_none());
        assert_eq!(pair.server.bench.describe(), Description::default());
    }
}
