//! TLS handshakes that are under way when the server drains.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use hyper::service::service_fn;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tidegate::filter::tls::{Identity, TlsServer};
use tidegate::{CloseReason, EngineChoice, Limits};
use tidegate_hyper::{Http, ListenHttp, Versions};

use crate::harness::{Running, any_port, builder};

/// A greeting over TLS, by one I/O thread; and what clients need.
fn encrypted(engine: EngineChoice, limits: Limits) -> (Running, Arc<ClientConfig>) {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = issued.signing_key.serialize_pem();
    let identity = Identity::from_pem(issued.cert.pem().as_bytes(), key.as_bytes()).expect("an identity");
    let listener = any_port().filter(TlsServer::builder(identity).build().expect("sound options"));
    let server = builder().limits(limits).threads(NonZeroUsize::MIN);
    let server = server.listen_http(listener, Http::new().versions(Versions::Http1), |_| {
        service_fn(|_| async { Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from("hello")))) })
    });
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(issued.cert.der().to_vec())).expect("a root");
    let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Running::start(server, engine), Arc::new(client))
}

/// Says hello, and has the first of the answer: the server has begun.
fn half_way(running: &Running, client: &Arc<ClientConfig>) -> (ClientConnection, TcpStream) {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut session = ClientConnection::new(Arc::clone(client), name).expect("it fits together");
    let mut stream = running.connect();
    session.write_tls(&mut stream).expect("it reads");
    assert!(session.read_tls(&mut stream).expect("it answers") > 0);
    (session, stream)
}

/// They were closed between two flights, with the client about to ask.
#[test]
fn who_has_begun_a_handshake_when_the_server_drains_is_answered_and_who_has_not_is_closed() {
    for engine in [EngineChoice::Auto, EngineChoice::Readiness] {
        let (running, client) = encrypted(engine, Limits::default());
        let mut silent = running.connect();
        let (mut session, mut stream) = half_way(&running, &client);
        running.handle.drain();
        // Both are looked at in one turn.
        assert_eq!(silent.read(&mut [0]).expect("an end in order"), 0);
        drop(silent);
        session.process_new_packets().expect("what a server says");
        while session.is_handshaking() || session.tls13_tickets_received() == 0 {
            let (read, written) = session.complete_io(&mut stream).expect("the handshake goes on");
            assert!(read + written > 0, "{engine:?}: closed in its handshake");
        }
        // It has its tickets, so the server is done with the handshake, and knows of no request.
        let mut talk = StreamOwned::new(session, stream);
        talk.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is expected");
        let mut answer = String::new();
        talk.read_to_string(&mut answer).expect("an end in order");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello"), "{engine:?}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{engine:?}: {answer}");
        drop(talk);
        assert_eq!(running.drained().connections(), 2);
    }
}

#[test]
fn who_never_ends_its_handshake_keeps_nobody_waiting_beyond_its_time() {
    let limits = Limits { handshake_timeout: Duration::from_millis(300), ..Limits::default() };
    let (running, client) = encrypted(EngineChoice::Auto, limits);
    let (_session, mut stream) = half_way(&running, &client);
    running.handle.drain();
    stream.read_to_end(&mut Vec::new()).expect("an end in order");
    drop(stream);
    let report = running.drained();
    assert_eq!(report.closed(&CloseReason::HandshakeTimeout), 1, "{report:?}");
}
