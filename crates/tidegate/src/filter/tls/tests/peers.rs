//! The filter and a client of rustls that does what ours never does.

use std::io::{Read as _, Write};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection};

use super::{End, roots, server};
use crate::filter::tls::identity::provider;
use crate::filter::{FilterFailure, Side};

/// A client of rustls with the handshake over.
fn established(end: &mut End) -> ClientConnection {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots().store)
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    while client.is_handshaking() || !end.bench.is_established() {
        carry(&mut client, end);
    }
    client
}

/// Everything that both have to say to each other, once.
fn carry(client: &mut ClientConnection, end: &mut End) {
    let mut there = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut there).unwrap();
    }
    end.arrive(&there);
    let mut back = &end.written()[..];
    while !back.is_empty() {
        client.read_tls(&mut back).unwrap();
        client.process_new_packets().unwrap();
    }
}

#[test]
fn new_keys_in_mid_stream_are_taken_and_answered() {
    let mut end = End::new(&server().build().unwrap(), Side::Accepted);
    let mut client = established(&mut end);
    for number in 0..100 {
        client.refresh_traffic_keys().unwrap();
        client.writer().write_all(&[number]).unwrap();
        end.bench.send(vec![number]);
        carry(&mut client, &mut end);
        let mut answer = [0];
        client.reader().read_exact(&mut answer).unwrap();
        assert_eq!(answer, [number]);
    }
    assert_eq!(end.received, (0..100).collect::<Vec<u8>>());
}

#[test]
fn a_flood_of_new_keys_without_data_ends_the_session() {
    let mut end = End::new(&server().build().unwrap(), Side::Accepted);
    let mut client = established(&mut end);
    let mut flood = Vec::new();
    for _ in 0..1000 {
        client.refresh_traffic_keys().unwrap();
        while client.wants_write() {
            client.write_tls(&mut flood).unwrap();
        }
    }
    end.arrive(&flood);
    assert_eq!(end.failed().failure, FilterFailure::Protocol);
    assert!(end.failed().text.contains("TooManyKeyUpdateRequests"), "{}", end.failed().text);
}

#[test]
fn what_comes_between_the_messages_while_reading_is_paused_is_taken_afterwards() {
    let mut end = End::new(&server().build().unwrap(), Side::Accepted);
    let mut client = established(&mut end);
    let mut sent = Vec::new();
    for number in 0..20 {
        client.writer().write_all(&[number]).unwrap();
        client.refresh_traffic_keys().unwrap();
        while client.wants_write() {
            client.write_tls(&mut sent).unwrap();
        }
    }
    // Nothing is read, and writing goes on with the old keys.
    for piece in sent.chunks(7) {
        end.bench.arrive(piece);
        end.bench.send("x");
        let written = end.written();
        let mut back = &written[..];
        while !back.is_empty() {
            client.read_tls(&mut back).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    end.read();
    assert!(end.error.is_none(), "{:?}", end.error);
    assert_eq!(end.received, (0..20).collect::<Vec<u8>>());
    end.bench.send("the rest");
    carry(&mut client, &mut end);
    let mut answer = vec![0; sent.chunks(7).len() + 8];
    client.reader().read_exact(&mut answer).unwrap();
    assert!(answer.ends_with(b"the rest"));
}
