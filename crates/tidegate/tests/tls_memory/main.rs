//! What TLS takes for a connection is never more than it declares: counted by the allocator, whatever the certificates are, the versions, and what a
//! peer does.
//!
//! `cargo test -p tidegate --features tls --test tls_memory -- --nocapture` prints the figures.

mod allocator;
#[allow(dead_code, reason = "the tests of the filter use the rest")]
#[path = "../../src/filter/tls/tests/certificates.rs"]
mod certificates;
mod connection;

use certificates::{Authority, Issued, rsa_key};
use connection::{End, Most};
use tidegate::filter::tls::{ClientCertificates, Identity, Resumption, Roots, TlsClient, TlsServer, TlsVersion};
use tidegate::filter::{FilterFactory, Side};

/// A server and a client that trust each other.
struct Both {
    name: String,
    server: TlsServer,
    client: TlsClient,
}

#[derive(Clone)]
struct Kind {
    version: TlsVersion,
    identity: Issued,
    client_identity: Option<Issued>,
    resumption: Resumption,
    peer_handshake_bytes: usize,
}

fn identity(issued: &Issued) -> Identity {
    Identity::from_der(issued.chain.clone(), issued.key.clone()).expect("an identity")
}

fn both(authority: &Authority, kind: &Kind, name: &str) -> Both {
    let roots = || Roots::from_der(vec![authority.der.clone()]).expect("roots");
    let mut server = TlsServer::builder(identity(&kind.identity))
        .protocols(["one", "two"])
        .versions([kind.version])
        .resumption(kind.resumption)
        .peer_handshake_bytes(kind.peer_handshake_bytes);
    let mut client = TlsClient::builder("localhost", roots())
        .protocols(["two"])
        .versions([kind.version])
        .peer_handshake_bytes(kind.peer_handshake_bytes);
    if let Some(issued) = &kind.client_identity {
        server = server.client_certificates(ClientCertificates::Required(roots()));
        client = client.identity(identity(issued));
    }
    Both {
        name: format!("{:?} {:?} {name}", kind.version, kind.resumption),
        server: server.build().expect("a server"),
        client: client.build().expect("a client"),
    }
}

/// Carries bytes between two ends, cut into pieces of at most `cut_bytes`, until nothing moves.
fn carry(client: &mut End, server: &mut End, cut_bytes: usize, room_bytes: usize) {
    let mut bytes = Vec::with_capacity(2 << 20);
    loop {
        let mut moved = false;
        for turn in 0..2 {
            let (from, to) = if turn == 0 { (&mut *client, &mut *server) } else { (&mut *server, &mut *client) };
            bytes.clear();
            from.write(&[], room_bytes, &mut bytes);
            for piece in bytes.chunks(cut_bytes) {
                to.arrive(piece);
                moved = true;
            }
        }
        if !moved {
            return;
        }
    }
}

/// Sends messages one way, and carries everything.
fn send(from: &mut End, to: &mut End, messages: &[usize], cut_bytes: usize, room_bytes: usize) {
    let mut bytes = Vec::with_capacity(2 << 20);
    from.write(messages, room_bytes, &mut bytes);
    let before = to.received_bytes;
    for piece in bytes.chunks(cut_bytes) {
        to.arrive(piece);
    }
    assert_eq!(to.received_bytes - before, messages.iter().sum::<usize>());
}

/// One connection from its handshake over bulk both ways to its end.
fn converse(both: &Both, cut_bytes: usize, room_bytes: usize) -> (Most, Most) {
    let mut client = End::new(&both.client, Side::Connected);
    let mut server = End::new(&both.server, Side::Accepted);
    carry(&mut client, &mut server, cut_bytes, room_bytes);
    assert!(client.is_established() && server.is_established(), "{}", both.name);
    // Less than that is not promised for data.
    let room_bytes = room_bytes.max(both.server.reserve().write_bytes + 200);
    // By single bytes the whole would take minutes.
    let messages: &[usize] = if cut_bytes == 1 { &[1, 100, 5_000] } else { &[1, 100, 5_000, 100_000, 3] };
    for _ in 0..2 {
        send(&mut client, &mut server, messages, cut_bytes, room_bytes);
        send(&mut server, &mut client, messages, cut_bytes, room_bytes);
    }
    client.finish();
    carry(&mut client, &mut server, cut_bytes, room_bytes);
    assert!(server.finished && server.error.is_none(), "{}: {:?}", both.name, server.error);
    server.finish();
    carry(&mut client, &mut server, cut_bytes, room_bytes);
    assert!(client.finished && client.error.is_none(), "{}: {:?}", both.name, client.error);
    (client.most, server.most)
}

/// All kinds of certificates, for both sides.
fn kinds(authority: &Authority) -> Vec<(&'static str, Kind)> {
    let small = authority.issue("localhost");
    let base = Kind {
        version: TlsVersion::V1_3,
        identity: small.clone(),
        client_identity: None,
        resumption: Resumption::Tickets,
        peer_handshake_bytes: 18_437,
    };
    let mut kinds = vec![("ECDSA", base.clone())];
    kinds.push(("ECDSA, client certificate", Kind { client_identity: Some(small), ..base.clone() }));
    if let Some(key) = rsa_key() {
        let rsa = authority.issue_with("localhost", key, |_| {});
        kinds.push(("RSA", Kind { identity: rsa.clone(), client_identity: Some(rsa), ..base.clone() }));
    }
    let long = authority.issue_long("localhost", 7_000);
    kinds.push(("8 KiB", Kind { identity: long, ..base.clone() }));
    let limited = Kind { client_identity: Some(authority.issue_long("localhost", 6_000)), ..base.clone() };
    kinds.push(("limited", Kind { peer_handshake_bytes: 8_000, ..limited }));
    let longest = authority.issue_long("localhost", 15_000);
    let both_long = Kind { identity: longest.clone(), client_identity: Some(longest), ..base.clone() };
    kinds.push(("15 KiB, client certificate", both_long));
    kinds.push(("15 KiB", Kind { identity: authority.issue_long("localhost", 15_000), ..base.clone() }));
    let huge = authority.issue_long("localhost", 40_000);
    let huge = Kind { identity: huge.clone(), client_identity: Some(huge), peer_handshake_bytes: 65_535, ..base };
    kinds.push(("40 KiB, client certificate", huge));
    kinds
}

#[test]
fn no_connection_takes_more_than_it_declares() {
    let authority = Authority::new("the authority");
    for (name, kind) in kinds(&authority) {
        for version in [TlsVersion::V1_3, TlsVersion::V1_2] {
            for resumption in [Resumption::None, Resumption::Tickets, Resumption::Cache { sessions: 10 }] {
                let both = both(&authority, &Kind { version, resumption, ..kind.clone() }, name);
                let mut most = (Most::default(), Most::default());
                // The first is a whole handshake; with resumption, the others aren't.
                for (cut_bytes, room_bytes) in [(usize::MAX, 1 << 16), (1, 5_000), (4_096, 1 << 16), (16_384, 400)] {
                    let (client, server) = converse(&both, cut_bytes, room_bytes);
                    most = (most.0.max(client), most.1.max(server));
                }
                println!(
                    "{}: client {:?} of {:?}; server {:?} of {:?}",
                    both.name,
                    most.0,
                    both.client.reserve(),
                    most.1,
                    both.server.reserve()
                );
            }
        }
    }
}

/// What the client says first, in one record.
fn client_hello(both: &Both) -> Vec<u8> {
    let mut hello = Vec::with_capacity(2 << 20);
    End::new(&both.client, Side::Connected).write(&[], 1 << 16, &mut hello);
    hello
}

/// With client certificates and a long chain of our own: what takes most.
fn demanding(authority: &Authority, version: TlsVersion) -> Both {
    let long = authority.issue_long("localhost", 7_000);
    let kind = Kind {
        version,
        identity: long.clone(),
        client_identity: Some(long),
        resumption: Resumption::Tickets,
        peer_handshake_bytes: 18_437,
    };
    both(authority, &kind, "demanding")
}

#[test]
fn a_handshake_that_stops_at_any_byte_takes_no_more() {
    let authority = Authority::new("the authority");
    for version in [TlsVersion::V1_3, TlsVersion::V1_2] {
        let both = demanding(&authority, version);
        // Each of the floods stops one byte later than the one before, and each connection stays.
        let mut most = Most::default();
        let hello = client_hello(&both);
        let servers: Vec<End> = (0..hello.len())
            .map(|stop| {
                let mut server = End::new(&both.server, Side::Accepted);
                server.arrive(&hello[..stop]);
                most = most.max(server.most);
                server
            })
            .collect();
        assert!(servers.iter().all(|server| server.error.is_none() && !server.is_established()));
        drop(servers);
        // The same with the client's second flight, which ends the handshake with its last byte.
        let mut stop = 0;
        loop {
            let mut client = End::new(&both.client, Side::Connected);
            let mut server = End::new(&both.server, Side::Accepted);
            let mut bytes = Vec::with_capacity(2 << 20);
            client.write(&[], 1 << 16, &mut bytes);
            server.arrive(&bytes);
            bytes.clear();
            server.write(&[], 1 << 16, &mut bytes);
            client.arrive(&bytes);
            bytes.clear();
            client.write(&[], 1 << 16, &mut bytes);
            let length = bytes.len();
            server.arrive(&bytes[..stop.min(length)]);
            most = most.max(server.most);
            assert_eq!(server.is_established(), stop >= length, "{version:?}: {stop} of {length} bytes");
            if stop >= length {
                break;
            }
            stop += 97.min(length - stop);
        }
        println!("{version:?}: {most:?} of {:?}", both.server.reserve());
    }
}

#[test]
fn a_client_that_sends_and_reads_nothing_takes_no_more() {
    let authority = Authority::new("the authority");
    for version in [TlsVersion::V1_3, TlsVersion::V1_2] {
        let both = demanding(&authority, version);
        let mut server = End::new(&both.server, Side::Accepted);
        // TLS 1.2 goes on unencrypted, while our own flight waits to be sent. TLS 1.3 would encrypt, so there it is the first message.
        let kind = match version {
            TlsVersion::V1_2 => {
                server.arrive(&client_hello(&both));
                11
            }
            TlsVersion::V1_3 => 1,
        };
        // The beginning of a handshake message of 64 KiB, in records of one byte.
        for byte in [kind, 0, 255, 255].into_iter().chain(std::iter::repeat_n(0, 70_000)) {
            server.arrive(&[22, 3, 3, 0, 1, byte]);
        }
        let error = server.error.as_ref().expect("it is too much");
        println!("{version:?}: {error}: {:?} of {:?}", server.most, both.server.reserve());
    }
}

#[test]
fn a_record_full_of_empty_messages_takes_no_more() {
    let authority = Authority::new("the authority");
    for version in [TlsVersion::V1_3, TlsVersion::V1_2] {
        for from_client in [true, false] {
            let both = demanding(&authority, version);
            let mut record = vec![22, 3, 3, 64, 0];
            record.extend([0; 1 << 14]);
            let (factory, side): (&dyn FilterFactory, _) = match from_client {
                true => (&both.server, Side::Accepted),
                false => (&both.client, Side::Connected),
            };
            let mut end = End::new(factory, side);
            end.write(&[], 1 << 16, &mut Vec::new());
            end.arrive(&record);
            assert!(end.error.is_some());
            println!("{version:?}: {:?} of {:?}", end.most, factory.reserve());
        }
    }
}

#[test]
fn what_is_shared_is_bounded() {
    let authority = Authority::new("the authority");
    for version in [TlsVersion::V1_3, TlsVersion::V1_2] {
        for resumption in [Resumption::Tickets, Resumption::Cache { sessions: 10 }] {
            let small = authority.issue("localhost");
            let kind = Kind {
                version,
                identity: small.clone(),
                client_identity: Some(small),
                resumption,
                peer_handshake_bytes: 18_437,
            };
            let before = allocator::live_bytes();
            let both = both(&authority, &kind, "shared");
            for _ in 0..40 {
                converse(&both, usize::MAX, 1 << 16);
            }
            let taken = allocator::live_bytes() - before;
            let declared = both.server.shared_reserve().shared_bytes + both.client.shared_reserve().shared_bytes;
            println!("{version:?} {resumption:?}: {taken} of {declared}");
            assert!(taken <= declared as isize, "{taken} bytes are taken, {declared} declared");
        }
    }
}
