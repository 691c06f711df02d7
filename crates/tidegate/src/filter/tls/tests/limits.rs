//! What is bounded, and what can be changed while it runs.

use super::certificates::{Authority, pem};
use super::{AUTHORITY, End, Ends, LOCALHOST, VERSIONS, client, filter, identity, roots, server};
use crate::filter::tls::{ClientCertificates, Identity, Resumption, Roots, TlsClient, TlsError, TlsServer};
use crate::filter::{FilterBench, FilterFailure, Read, Side};

#[test]
fn no_more_handshakes_go_on_than_allowed_and_the_next_is_told_why() {
    let server = server().max_handshakes(2).build().unwrap();
    let client = client().build().unwrap();
    let mut first = Ends::new(&client, &server);
    let mut second = Ends::new(&client, &server);
    let mut third = Ends::new(&client, &server);
    // Whoever is connected and says nothing takes no place.
    third.server.arrive(&[]);
    assert_eq!(server.handshakes(), 0);
    for ends in [&mut first, &mut second] {
        let hello = ends.client.written();
        ends.server.arrive(&hello[..1]);
        ends.server.arrive(&hello[1..]);
    }
    assert_eq!(server.handshakes(), 2);
    let hello = third.client.written();
    third.server.arrive(&hello);
    assert_eq!(third.server.failed().failure, FilterFailure::Busy);
    assert_eq!(third.server.failed().text, "2 of 2 TLS handshakes go on already (max_handshakes)");
    // One that is over, and one that has gone, make room.
    first.carry();
    assert!(first.server.bench.is_established());
    assert_eq!(server.handshakes(), 1);
    drop(second);
    assert_eq!(server.handshakes(), 0);
    Ends::established(&client, &server);
}

#[test]
fn a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    let server = server().build().unwrap();
    let client = client().without_resumption().build().unwrap();
    let mut old = Ends::established(&client, &server);
    let renewed = AUTHORITY.issue("localhost");
    server.clone().reload(identity(&renewed)).unwrap();
    let new = Ends::established(&client, &server);
    assert_eq!(old.client.bench.describe().certificates, LOCALHOST.chain);
    assert_eq!(new.client.bench.describe().certificates, renewed.chain);
    old.client.bench.send("still here");
    old.carry();
    assert_eq!(old.server.received, b"still here");
}

#[test]
fn a_chain_longer_than_declared_is_not_loaded_and_the_old_one_stays() {
    let server = server().chain_bytes(2_000).build().unwrap();
    let error = server.reload(identity(&AUTHORITY.issue_long("localhost", 2_000))).unwrap_err();
    assert!(matches!(error, TlsError::ChainTooLong { limit_bytes: 2_000, .. }), "{error}");
    let ends = Ends::established(&client().build().unwrap(), &server);
    assert_eq!(ends.client.bench.describe().certificates, LOCALHOST.chain);
    let error = TlsServer::builder(identity(&LOCALHOST)).chain_bytes(100).build().unwrap_err();
    assert!(error.to_string().ends_with("at most 100 are allowed (chain_bytes)"), "{error}");
}

#[test]
fn a_second_session_is_resumed_unless_that_is_switched_off() {
    for version in VERSIONS {
        for (resumption, is_resumed) in
            [(Resumption::None, false), (Resumption::Tickets, true), (Resumption::Cache { sessions: 2 }, true)]
        {
            let server = server().resumption(resumption).build().unwrap();
            let client = client().versions([version]).build().unwrap();
            let sent = |ends: &mut Ends| {
                let hello = ends.client.written();
                ends.server.arrive(&hello);
                let flight = ends.server.written();
                ends.client.arrive(&flight);
                ends.carry();
                assert!(ends.client.bench.is_established() && ends.server.bench.is_established());
                flight.len()
            };
            let whole = sent(&mut Ends::new(&client, &server));
            let mut again = Ends::new(&client, &server);
            let second = sent(&mut again);
            // A session that is resumed needs no certificate.
            assert_eq!(second + 200 < whole, is_resumed, "{version:?} {resumption:?}: {whole} and {second} bytes");
            // Who the peer is, both still know.
            assert_eq!(again.client.bench.describe().certificates, LOCALHOST.chain);
        }
    }
}

#[test]
fn a_client_that_resumes_is_still_known_by_its_certificate() {
    for version in VERSIONS {
        let person = AUTHORITY.issue("a person");
        let server = server().client_certificates(ClientCertificates::Required(roots())).build().unwrap();
        let client = client().versions([version]).identity(identity(&person)).build().unwrap();
        for _ in 0..3 {
            let ends = Ends::established(&client, &server);
            assert_eq!(ends.server.bench.describe().certificates, person.chain);
        }
    }
}

#[test]
fn a_clients_chain_longer_than_allowed_is_refused() {
    for version in VERSIONS {
        let long = AUTHORITY.issue_long("a person", 10_000);
        let client = client().versions([version]).identity(identity(&long)).build().unwrap();
        let required = || server().client_certificates(ClientCertificates::Required(roots()));
        let mut ends = Ends::new(&client, &required().peer_handshake_bytes(8_000).build().unwrap());
        ends.carry();
        assert_eq!(ends.server.failed().failure, FilterFailure::TooLarge);
        Ends::established(&client, &required().build().unwrap());
    }
}

#[test]
fn the_memory_for_a_peers_messages_has_its_bounds() {
    for bytes in [4_095, 65_536] {
        let error = server().peer_handshake_bytes(bytes).build().unwrap_err();
        assert_eq!(error.to_string(), format!("TLS: peer_handshake_bytes is {bytes}, it must be from 4096 to 65535"));
    }
}

#[test]
fn data_for_which_there_is_no_memory_waits_and_is_not_lost() {
    for version in VERSIONS {
        let server = server().build().unwrap();
        let client = client().versions([version]).build().unwrap();
        let mut sender = End::new(&client, Side::Connected);
        // Enough for the data of one record.
        let mut receiver = FilterBench::new(filter(&server, Side::Accepted), 20_000);
        let mut established = false;
        while !established {
            receiver.arrive(&sender.written());
            assert!(matches!(receiver.read(), Ok(Read::Starved)));
            let mut back = Vec::new();
            receiver.write(1 << 16, &mut back).unwrap();
            sender.arrive(&back);
            established = receiver.is_established() && sender.bench.is_established();
        }
        let message: Vec<u8> = (0..30_000_u32).map(|number| number as u8).collect();
        sender.bench.send(message.clone());
        receiver.arrive(&sender.written());
        let mut received = Vec::new();
        let (mut held, mut waited) = (Vec::new(), 0);
        while received.len() < message.len() {
            match receiver.read().unwrap() {
                Read::Data(data) => {
                    received.extend_from_slice(&data);
                    held.push(data);
                }
                Read::NoMemory => {
                    // It may be asked again in vain, and write meanwhile.
                    assert!(matches!(receiver.read(), Ok(Read::NoMemory)));
                    let mut back = Vec::new();
                    receiver.send("an answer");
                    receiver.write(1 << 16, &mut back).unwrap();
                    sender.arrive(&back);
                    assert!(!held.is_empty(), "there is memory for one record");
                    held.clear();
                    waited += 1;
                }
                read => panic!("{read:?} after {} bytes", received.len()),
            }
        }
        assert!(received == message && waited == 1);
        assert_eq!(sender.received, b"an answer".repeat(waited));
    }
}

#[test]
fn files_that_are_none_are_named() {
    let directory = std::env::temp_dir().join(format!("tidegate-tls-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = |name: &str, contents: &str| {
        let path = directory.join(name);
        std::fs::write(&path, contents).unwrap();
        path
    };
    let chain = file("chain.pem", &pem("CERTIFICATE", &LOCALHOST.chain[0]));
    let key = file("key.pem", &pem("PRIVATE KEY", &LOCALHOST.key));
    let other = file("other.pem", &pem("PRIVATE KEY", &Authority::new("x").issue("x").key));
    let empty = file("empty.pem", "nothing\n");
    let missing = directory.join("missing.pem");
    assert!(Identity::from_pem_files(&chain, &key).is_ok());
    assert!(Roots::from_pem_file(&chain).is_ok());
    for (chain, key, text) in [
        (&missing, &key, "missing.pem: No such file or directory"),
        (&chain, &missing, "missing.pem: No such file or directory"),
        (&empty, &key, "empty.pem has no certificate (no section CERTIFICATE)"),
        (&chain, &empty, "empty.pem has no private key"),
        (&chain, &other, "certificate and key can't be used: the key is not that of the certificate"),
    ] {
        let error = Identity::from_pem_files(chain, key).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    std::fs::remove_dir_all(&directory).unwrap();
    assert!(matches!(TlsClient::builder("no name!", roots()).build(), Err(TlsError::Name { .. })));
}
