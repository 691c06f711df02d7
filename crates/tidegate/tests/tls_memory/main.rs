//! What TLS takes for a connection is never more than it declares: counted by the allocator, whatever the certificates are, the versions, and what a
//! peer does.
//!
//! `cargo test -p tidegate --features tls --test tls_memory -- --nocapture` prints the figures.

mod allocator;
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
    for _ in 0..2 {
        send(&mut client, &mut server, &[1, 100, 5_000, 100_000, 3], cut_bytes, room_bytes);
        send(&mut server, &mut client, &[1, 100, 5_000, 100_000, 3], cut_bytes, room_bytes);
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
    let longest = authority.issue_long("localhost", 15_000);
    let both_long = Kind { identity: longest.clone(), client_identity: Some(longest), ..base.clone() };
    kinds.push(("15 KiB", both_long));
    let huge = authority.issue_long("localhost", 40_000);
    let huge = Kind { identity: huge.clone(), client_identity: Some(huge), peer_handshake_bytes: 65_535, ..base };
    kinds.push(("40 KiB", huge));
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
