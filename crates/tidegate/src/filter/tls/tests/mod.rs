//! The TLS filter against itself, byte by byte.

#[allow(dead_code, reason = "the test of memory uses the rest")]
mod certificates;
mod handshake;
mod limits;
mod peers;
mod stream;

use std::sync::LazyLock;

use super::{Identity, Roots, TlsClient, TlsClientBuilder, TlsServer, TlsServerBuilder, TlsVersion};
use crate::filter::{Filter, FilterBench, FilterError, FilterFactory, FilterPeer, Read, Side};
use certificates::{Authority, Issued};

const VERSIONS: [TlsVersion; 2] = TlsVersion::ALL;

/// The one that the clients of these tests trust.
static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::new("the authority"));
static LOCALHOST: LazyLock<Issued> = LazyLock::new(|| AUTHORITY.issue("localhost"));

fn identity(issued: &Issued) -> Identity {
    Identity::from_der(issued.chain.clone(), issued.key.clone()).expect("an identity")
}

fn roots() -> Roots {
    Roots::from_der(vec![AUTHORITY.der.clone()]).expect("roots")
}

fn server() -> TlsServerBuilder {
    TlsServer::builder(identity(&LOCALHOST))
}

fn client() -> TlsClientBuilder {
    TlsClient::builder("localhost", roots())
}

fn filter(factory: &dyn FilterFactory, side: Side) -> Box<dyn Filter> {
    let address = "127.0.0.1:443".parse().expect("an address");
    factory.make(&FilterPeer::new(address, side)).expect("a filter")
}

/// A client and a server on benches, and what went wrong with them.
struct Ends {
    client: End,
    server: End,
}

struct End {
    bench: FilterBench,
    received: Vec<u8>,
    finished: bool,
    error: Option<FilterError>,
}

impl Ends {
    fn new(client: &TlsClient, server: &TlsServer) -> Self {
        Self { client: End::new(client, Side::Connected), server: End::new(server, Side::Accepted) }
    }

    /// Carries everything to and fro until nothing moves.
    fn carry(&mut self) {
        loop {
            let there = self.client.written();
            self.server.arrive(&there);
            let back = self.server.written();
            self.client.arrive(&back);
            if there.is_empty() && back.is_empty() {
                return;
            }
        }
    }

    /// With the handshake over.
    fn established(client: &TlsClient, server: &TlsServer) -> Self {
        let mut ends = Self::new(client, server);
        ends.carry();
        assert!(ends.client.error.is_none() && ends.server.error.is_none());
        assert!(ends.client.bench.is_established() && ends.server.bench.is_established());
        ends
    }
}

impl End {
    fn new(factory: &dyn FilterFactory, side: Side) -> Self {
        Self {
            bench: FilterBench::new(filter(factory, side), 1 << 26),
            received: Vec::new(),
            finished: false,
            error: None,
        }
    }

    /// All that it writes now.
    fn written(&mut self) -> Vec<u8> {
        let mut written = Vec::new();
        loop {
            let before = written.len();
            if let Err(error) = self.bench.write(1 << 16, &mut written) {
                self.error.get_or_insert(error);
            }
            if written.len() == before {
                return written;
            }
        }
    }

    fn arrive(&mut self, bytes: &[u8]) {
        self.bench.arrive(bytes);
        self.read();
    }

    /// The peer's stream ends.
    fn end(&mut self) {
        self.bench.end();
        self.read();
    }

    fn read(&mut self) {
        while self.error.is_none() && !self.finished {
            match self.bench.read() {
                Ok(Read::Data(data)) => self.received.extend_from_slice(&data),
                Ok(Read::Finished) => self.finished = true,
                Ok(Read::Starved | Read::NoMemory) => return,
                Err(error) => self.error = Some(error),
            }
        }
    }

    #[track_caller]
    fn failed(&self) -> &FilterError {
        self.error.as_ref().expect("it has failed")
    }
}
