//! Handshakes: whole, cut anywhere, cut off, and with the wrong peer.

use std::time::Duration;

use super::certificates::Authority;
use super::{AUTHORITY, End, Ends, LOCALHOST, VERSIONS, client, identity, roots, server};
use crate::filter::tls::{ClientCertificates, Roots, TlsClient, TlsServer, TlsVersion};
use crate::filter::{FilterFailure, Side};

#[test]
fn both_sides_learn_the_protocol_and_the_server_the_name_and_the_certificate() {
    for version in VERSIONS {
        let person = AUTHORITY.issue("a person");
        let server =
            server().protocols(["http/1.1", "spoken"]).client_certificates(ClientCertificates::Required(roots()));
        let client = client().protocols(["unknown", "spoken"]).versions([version]).identity(identity(&person));
        let ends = Ends::established(&client.build().unwrap(), &server.build().unwrap());
        let described = ends.server.bench.describe();
        assert_eq!(described.protocol.as_deref(), Some(&b"spoken"[..]));
        assert_eq!(described.server_name.as_deref(), Some("localhost"));
        assert_eq!(described.certificates, person.chain);
        let described = ends.client.bench.describe();
        assert_eq!(described.protocol.as_deref(), Some(&b"spoken"[..]));
        assert_eq!(described.certificates, LOCALHOST.chain);
    }
}

#[test]
fn without_alpn_and_certificates_nothing_is_described_but_the_name() {
    let ends = Ends::established(&client().build().unwrap(), &server().build().unwrap());
    let described = ends.server.bench.describe();
    assert_eq!((described.protocol, described.certificates), (None, Vec::new()));
    assert_eq!(described.server_name.as_deref(), Some("localhost"));
}

/// What each side has sent when the handshake is over, in turns: client, server, client…
fn flights(client: &TlsClient, server: &TlsServer) -> Vec<Vec<u8>> {
    let mut ends = Ends::new(client, server);
    let mut flights = Vec::new();
    loop {
        let (from, to) = match flights.len() % 2 {
            0 => (&mut ends.client, &mut ends.server),
            _ => (&mut ends.server, &mut ends.client),
        };
        let flight = from.written();
        if flight.is_empty() {
            return flights;
        }
        to.arrive(&flight);
        flights.push(flight);
    }
}

#[test]
fn a_handshake_may_be_split_at_any_byte() {
    for version in VERSIONS {
        let server = server().build().unwrap();
        let client = client().versions([version]).without_resumption().build().unwrap();
        let lengths: Vec<usize> = flights(&client, &server).iter().map(Vec::len).collect();
        for (cut_flight, &length) in lengths.iter().enumerate() {
            // Signatures vary by some bytes, and a flight that is shorter is cut at its end.
            for cut in 1..length {
                let mut ends = Ends::new(&client, &server);
                for number in 0..lengths.len() {
                    let (from, to) = match number % 2 {
                        0 => (&mut ends.client, &mut ends.server),
                        _ => (&mut ends.server, &mut ends.client),
                    };
                    let flight = from.written();
                    let cut = if number == cut_flight { cut.min(flight.len()) } else { flight.len() };
                    to.arrive(&flight[..cut]);
                    to.arrive(&flight[cut..]);
                }
                let both = ends.client.bench.is_established() && ends.server.bench.is_established();
                assert!(both, "{version:?}: flight {cut_flight} is cut at {cut} of {length}");
            }
        }
    }
}

#[test]
fn a_handshake_that_is_cut_off_at_any_byte_is_truncated() {
    for version in VERSIONS {
        let server = server().build().unwrap();
        let client = client().versions([version]).without_resumption().build().unwrap();
        let flights = flights(&client, &server);
        // The first flights can be heard by anybody; later ones need the keys of their connection, so they are heard in it.
        for cut in 0..flights[0].len() {
            let mut heard = End::new(&server, Side::Accepted);
            heard.arrive(&flights[0][..cut]);
            heard.end();
            assert_eq!(heard.failed().failure, FilterFailure::Truncated, "{version:?}: {cut} bytes");
        }
        for cut in 0..flights[1].len() - 8 {
            let mut ends = Ends::new(&client, &server);
            let hello = ends.client.written();
            ends.server.arrive(&hello);
            let flight = ends.server.written();
            ends.client.arrive(&flight[..cut]);
            ends.client.end();
            assert_eq!(ends.client.failed().failure, FilterFailure::Truncated, "{version:?}: {cut} bytes");
        }
    }
}

/// How it ends for both: after the failure of one, its alert reaches the other.
#[track_caller]
fn failures(client: &TlsClient, server: &TlsServer) -> (FilterFailure, FilterFailure, String, String) {
    let mut ends = Ends::new(client, server);
    ends.carry();
    let (client, server) = (ends.client.failed(), ends.server.failed());
    assert!(client.farewell || server.farewell);
    (client.failure, server.failure, client.text.to_string(), server.text.to_string())
}

#[test]
fn a_certificate_of_a_stranger_is_refused_and_the_server_is_told() {
    for version in VERSIONS {
        let stranger = Authority::new("a stranger");
        let trusting = Roots::from_der(vec![stranger.der]).unwrap();
        let client = TlsClient::builder("localhost", trusting).versions([version]).build().unwrap();
        let (client, server, client_text, server_text) = failures(&client, &server().build().unwrap());
        assert_eq!((client, server), (FilterFailure::NotAllowed, FilterFailure::Protocol));
        assert!(client_text.contains("nobody whom we trust has issued it"), "{client_text}");
        assert_eq!(server_text, "the peer has given up with the TLS alert UnknownCA");
    }
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let client = TlsClient::builder("example.org", roots()).build().unwrap();
    let (client, server, client_text, _) = failures(&client, &server().build().unwrap());
    assert_eq!((client, server), (FilterFailure::NotAllowed, FilterFailure::Protocol));
    assert!(client_text.contains("it is for another name"), "{client_text}");
}

#[test]
fn a_certificate_whose_time_is_over_is_refused() {
    let expired = TlsServer::builder(identity(&AUTHORITY.issue_expired("localhost"))).build().unwrap();
    let (client, _, client_text, server_text) = failures(&client().build().unwrap(), &expired);
    assert_eq!(client, FilterFailure::NotAllowed);
    assert!(client_text.contains("it has expired"), "{client_text}");
    assert!(server_text.contains("CertificateExpired"), "{server_text}");
}

#[test]
fn whoever_shows_no_certificate_is_refused_where_one_is_required_and_served_where_it_is_not() {
    for version in VERSIONS {
        let client = client().versions([version]).build().unwrap();
        let required = server().client_certificates(ClientCertificates::Required(roots())).build().unwrap();
        let mut ends = Ends::new(&client, &required);
        ends.carry();
        assert_eq!(ends.server.failed().failure, FilterFailure::NotAllowed);
        assert!(ends.server.failed().text.contains("no certificate"), "{}", ends.server.failed().text);
        assert!(ends.client.error.is_some());
        let optional = server().client_certificates(ClientCertificates::Optional(roots())).build().unwrap();
        let ends = Ends::established(&client, &optional);
        assert!(ends.server.bench.describe().certificates.is_empty());
    }
}

#[test]
fn a_client_certificate_of_a_stranger_is_refused() {
    for version in VERSIONS {
        let stranger = Authority::new("a stranger").issue("a person");
        let client = client().versions([version]).identity(identity(&stranger)).build().unwrap();
        let server = server().client_certificates(ClientCertificates::Optional(roots())).build().unwrap();
        let mut ends = Ends::new(&client, &server);
        ends.carry();
        assert_eq!(ends.server.failed().failure, FilterFailure::NotAllowed);
    }
}

#[test]
fn without_a_common_application_protocol_there_is_no_connection() {
    let client = client().protocols(["one"]).build().unwrap();
    let (client, server, client_text, server_text) = failures(&client, &server().protocols(["two"]).build().unwrap());
    assert_eq!((client, server), (FilterFailure::Protocol, FilterFailure::Protocol));
    assert_eq!(server_text, "the peer offers none of our application protocols (ALPN)");
    assert!(client_text.contains("NoApplicationProtocol"), "{client_text}");
}

#[test]
fn without_a_common_version_there_is_no_connection() {
    let client = client().versions([TlsVersion::V1_2]).build().unwrap();
    let (.., server_text) = failures(&client, &server().versions([TlsVersion::V1_3]).build().unwrap());
    assert!(server_text.starts_with("TLS: "), "{server_text}");
}

#[test]
fn what_is_no_tls_gets_an_alert_and_a_clear_text() {
    let server = server().build().unwrap();
    for (request, text) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "the peer began with an HTTP request that is not encrypted: GET /"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the peer began with something else than TLS: SSH-2"),
        (b"\x00\x00\x00\x00\x00\x00", "the peer began with something else than TLS: \\x00\\x00\\x00\\x00\\x00"),
    ] {
        for cut in 1..request.len() {
            let mut end = End::new(&server, Side::Accepted);
            end.arrive(&request[..cut]);
            end.arrive(&request[cut..]);
            let error = end.failed();
            assert_eq!((error.failure, error.farewell, &*error.text), (FilterFailure::Protocol, true, text));
            // Alert, TLS, 2 bytes: fatal, decode_error.
            assert_eq!(end.written(), [21, 3, 3, 0, 2, 2, 50]);
        }
    }
}

#[test]
fn a_record_that_is_too_long_is_refused_by_its_header() {
    let mut end = End::new(&server().build().unwrap(), Side::Accepted);
    end.arrive(&[22, 3, 1, 0xFF, 0xFF]);
    assert_eq!(end.failed().failure, FilterFailure::Protocol);
    assert_eq!(end.written()[..5], [21, 3, 3, 0, 2]);
}

#[test]
fn a_handshake_that_is_not_over_in_time_is_ended_on_both_sides() {
    let timeout = Duration::from_secs(3);
    let server = server().handshake_timeout(timeout).build().unwrap();
    let client = client().handshake_timeout(timeout).build().unwrap();
    let mut ends = Ends::new(&client, &server);
    let hello = ends.client.written();
    // The clock starts with the first call, whether something has come or not.
    assert!(ends.server.bench.wants_write() && ends.server.written().is_empty());
    ends.server.arrive(&hello[..hello.len() - 1]);
    for end in [&mut ends.client, &mut ends.server] {
        assert!(end.bench.deadline().is_some());
        end.bench.pass(timeout - Duration::from_nanos(1)).unwrap();
        let error = end.bench.pass(Duration::from_nanos(1)).unwrap_err();
        assert_eq!(error.failure, FilterFailure::EstablishTimeout);
        assert_eq!(error.text, "the TLS handshake was not over after 3s");
        assert_eq!(end.bench.deadline(), None);
    }
    assert_eq!(server.handshakes() + client.handshakes(), 0);
}

#[test]
fn after_the_handshake_there_is_no_deadline() {
    let mut ends = Ends::established(&client().build().unwrap(), &server().build().unwrap());
    assert_eq!((ends.client.bench.deadline(), ends.server.bench.deadline()), (None, None));
    ends.server.bench.pass(Duration::from_secs(1000)).unwrap();
}
