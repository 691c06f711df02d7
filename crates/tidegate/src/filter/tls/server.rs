//! TLS of accepted connections.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache, StoresServerSessions,
    UnbufferedServerConnection, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;

use super::filter::{Settings, Tls};
use super::handshakes::Handshakes;
use super::identity::provider;
use super::memory::Memory;
use super::session::Session;
use super::{DEFAULT_HANDSHAKE_TIMEOUT, DEFAULT_MAX_HANDSHAKES, Identity, Roots, TlsError, TlsVersion, memory, names};
use crate::filter::{Filter, FilterError, FilterFactory, FilterFailure, FilterPeer, Reserve, SharedReserve};

/// Makes TLS filters for accepted connections.
///
/// It is a handle: clones are the same, so that one can go to a listener and another be kept for [`reload`](Self::reload).
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tidegate::filter::tls::{Identity, TlsServer};
///
/// let identity = || Identity::from_pem_files("chain.pem", "key.pem");
/// let tls = TlsServer::builder(identity()?).protocols(["http/1.1"]).build()?;
/// // later, when the files have changed:
/// tls.reload(identity()?)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TlsServer {
    config: Arc<ServerConfig>,
    certificate: Arc<Certificate>,
    settings: Settings,
    chain_bytes: usize,
    memory: Memory,
}

/// Options of a [`TlsServer`].
#[derive(Clone, Debug)]
pub struct TlsServerBuilder {
    identity: Identity,
    protocols: Vec<Vec<u8>>,
    versions: Vec<TlsVersion>,
    client_certificates: ClientCertificates,
    resumption: Resumption,
    handshake_timeout: Duration,
    max_handshakes: usize,
    chain_bytes: Option<usize>,
    peer_handshake_bytes: usize,
    end_without_notice: bool,
}

/// Whether clients show certificates.
#[derive(Clone, Debug, Default)]
pub enum ClientCertificates {
    /// They aren't asked.
    #[default]
    None,
    /// They are asked; one that is shown must have been issued by one of the roots.
    Optional(Roots),
    /// A client without one, issued by one of the roots, is not served.
    Required(Roots),
}

/// How a client may take up an earlier session, which spares both the greater part of the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Resumption {
    /// Not at all.
    None,
    /// The session is with the client, as a ticket that only we can read. Takes no memory per session. The keys change every six hours,
    /// and a ticket is good for twice as long.
    #[default]
    Tickets,
    /// The last so many sessions are kept here; a session that takes more than
    /// [`SESSION_BYTES`](super::SESSION_BYTES) is not kept.
    Cache {
        /// The most sessions.
        sessions: usize,
    },
}

impl TlsServer {
    /// The options, with their defaults: TLS 1.3 and 1.2, no ALPN, no client certificates, tickets, 10 s and 1,024 handshakes at once.
    pub fn builder(identity: Identity) -> TlsServerBuilder {
        TlsServerBuilder {
            identity,
            protocols: Vec::new(),
            versions: TlsVersion::ALL.to_vec(),
            client_certificates: ClientCertificates::None,
            resumption: Resumption::Tickets,
            handshake_timeout: DEFAULT_HANDSHAKE_TIMEOUT,
            max_handshakes: DEFAULT_MAX_HANDSHAKES,
            chain_bytes: None,
            peer_handshake_bytes: memory::DEFAULT_PEER_HANDSHAKE_BYTES,
            end_without_notice: false,
        }
    }

    /// Shows another certificate from now on. Connections and handshakes that have begun go on with theirs.
    ///
    /// # Errors
    /// [`TlsError::ChainTooLong`]; the present certificate stays in force.
    pub fn reload(&self, identity: Identity) -> Result<(), TlsError> {
        check_chain(&identity, self.chain_bytes)?;
        *self.certificate.current.write().unwrap_or_else(PoisonError::into_inner) = identity.key;
        Ok(())
    }

    /// How many handshakes go on now, over all connections.
    pub fn handshakes(&self) -> usize {
        self.settings.handshakes.count()
    }
}

impl TlsServerBuilder {
    /// The application protocols, the one that we like best first (ALPN). With some, a client that offers others only is not served; one
    /// that offers none is. Default: none.
    #[must_use]
    pub fn protocols<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.protocols = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// The versions that are spoken. Default: 1.3 and 1.2.
    #[must_use]
    pub fn versions(mut self, versions: impl IntoIterator<Item = TlsVersion>) -> Self {
        self.versions = versions.into_iter().collect();
        self
    }

    /// Whether clients show certificates. Default: they aren't asked.
    #[must_use]
    pub fn client_certificates(mut self, client_certificates: ClientCertificates) -> Self {
        self.client_certificates = client_certificates;
        self
    }

    /// How sessions are resumed. Default: by tickets.
    #[must_use]
    pub fn resumption(mut self, resumption: Resumption) -> Self {
        self.resumption = resumption;
        self
    }

    /// How long a handshake may take, from the connection on. Default: 10 s.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// How many handshakes may go on at once, over all connections: from a client's first byte to the end of the handshake. A connection
    /// beyond that is ended, with the failure [`Busy`](FilterFailure::Busy): to wait would take the room of others, and the client that
    /// tries again is served by then. Default: 1,024.
    #[must_use]
    pub fn max_handshakes(mut self, count: usize) -> Self {
        self.max_handshakes = count;
        self
    }

    /// The longest certificate chain that may be [loaded later](TlsServer::reload), in bytes of DER. Each connection's reserve has
    /// room for it. Default: 8 KiB, or that of the first chain if it is longer.
    #[must_use]
    pub fn chain_bytes(mut self, bytes: usize) -> Self {
        self.chain_bytes = Some(bytes);
        self
    }

    /// The most that is kept of a peer's handshake message that comes in several records, their overhead included: a client's certificate
    /// chain must fit. In bytes, from 4,096 to 65,535. Default: 18,437, the most that one record may have.
    #[must_use]
    pub fn peer_handshake_bytes(mut self, bytes: usize) -> Self {
        self.peer_handshake_bytes = bytes;
        self
    }

    /// Takes the end of a stream without `close_notify` for its end, as old HTTP clients do it, as long as it doesn't come within a
    /// record. An attacker can cut such a stream off unnoticed, so only for protocols that know where their messages end. Default: such a
    /// stream is [truncated](FilterFailure::Truncated).
    #[must_use]
    pub fn allow_end_without_notice(mut self) -> Self {
        self.end_without_notice = true;
        self
    }

    /// The factory.
    ///
    /// # Errors
    /// [`TlsError`] names the option that can't be.
    pub fn build(self) -> Result<TlsServer, TlsError> {
        let chain_bytes =
            self.chain_bytes.unwrap_or_else(|| self.identity.chain_bytes().max(memory::DEFAULT_CHAIN_BYTES));
        check_chain(&self.identity, chain_bytes)?;
        memory::check_peer_handshake(self.peer_handshake_bytes)?;
        let asks_clients = !matches!(self.client_certificates, ClientCertificates::None);
        let certificate = Arc::new(Certificate { current: RwLock::new(self.identity.key) });
        let versions: Vec<_> = self.versions.iter().map(|version| version.supported()).collect();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&versions)
            .map_err(options)?
            .with_client_cert_verifier(verifier(self.client_certificates)?)
            .with_cert_resolver(Arc::clone(&certificate) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = self.protocols;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // A ticket holds the client's certificates.
        config.send_tls13_tickets = if asks_clients { 1 } else { 2 };
        match self.resumption {
            Resumption::None => config.send_tls13_tickets = 0,
            Resumption::Tickets => config.ticketer = Ticketer::new().map_err(options)?,
            Resumption::Cache { sessions } => {
                config.session_storage = Arc::new(Sessions(ServerSessionMemoryCache::new(sessions)));
            }
        }
        let memory = memory::server(chain_bytes, self.peer_handshake_bytes, asks_clients, self.resumption);
        let settings = Settings {
            handshake_timeout: self.handshake_timeout,
            peer_handshake_bytes: self.peer_handshake_bytes,
            end_without_notice: self.end_without_notice,
            handshakes: Handshakes::new(self.max_handshakes),
        };
        Ok(TlsServer { config: Arc::new(config), certificate, settings, chain_bytes, memory })
    }
}

impl FilterFactory for TlsServer {
    fn reserve(&self) -> Reserve {
        self.memory.each
    }

    fn shared_reserve(&self) -> SharedReserve {
        self.memory.shared
    }

    fn make(&self, _peer: &FilterPeer) -> Result<Box<dyn Filter>, FilterError> {
        let connection = UnbufferedServerConnection::new(Arc::clone(&self.config))
            .map_err(|error| FilterError::new(FilterFailure::Protocol, format!("TLS: {error}")))?;
        Ok(Box::new(Tls::new(Session::Server(Box::new(connection)), self.settings.clone())))
    }
}

/// The certificate that is shown at present.
#[derive(Debug)]
struct Certificate {
    current: RwLock<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        names::put(client_hello.server_name());
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// A cache of sessions that bounds not only their number but also the size of each.
#[derive(Debug)]
struct Sessions(Arc<ServerSessionMemoryCache>);

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        value.capacity() <= memory::SESSION_BYTES && self.0.put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.take(key)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

fn verifier(client_certificates: ClientCertificates) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let (roots, is_required) = match client_certificates {
        ClientCertificates::None => return Ok(WebPkiClientVerifier::no_client_auth()),
        ClientCertificates::Optional(roots) => (roots, false),
        ClientCertificates::Required(roots) => (roots, true),
    };
    let builder = WebPkiClientVerifier::builder_with_provider(roots.store, provider());
    let builder = if is_required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| TlsError::Options { text: error.to_string() })
}

fn check_chain(identity: &Identity, limit_bytes: usize) -> Result<(), TlsError> {
    let bytes = identity.chain_bytes();
    if bytes > limit_bytes { Err(TlsError::ChainTooLong { bytes, limit_bytes }) } else { Ok(()) }
}

pub(super) fn options(error: rustls::Error) -> TlsError {
    TlsError::Options { text: error.to_string() }
}
