//! TLS of connections that we have made.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use super::filter::{Settings, Tls};
use super::handshakes::Handshakes;
use super::identity::provider;
use super::memory::Memory;
use super::server::options;
use super::session::Session;
use super::{DEFAULT_HANDSHAKE_TIMEOUT, DEFAULT_MAX_HANDSHAKES, Identity, Roots, TlsError, TlsVersion, memory};
use crate::filter::{Filter, FilterError, FilterFactory, FilterFailure, FilterPeer, Reserve, SharedReserve};

/// Makes TLS filters for connections to one server, by its name.
#[derive(Clone, Debug)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    settings: Settings,
    memory: Memory,
}

/// Options of a [`TlsClient`].
#[derive(Clone, Debug)]
pub struct TlsClientBuilder {
    name: String,
    roots: Option<Roots>,
    identity: Option<Identity>,
    protocols: Vec<Vec<u8>>,
    versions: Vec<TlsVersion>,
    resumes: bool,
    handshake_timeout: Duration,
    max_handshakes: usize,
    peer_handshake_bytes: usize,
    end_without_notice: bool,
}

impl TlsClient {
    /// The options, with their defaults: TLS 1.3 and 1.2, no ALPN, no certificate of our own, sessions are resumed, 10 s and 1,024
    /// handshakes at once. `name` is what the server's certificate must be for: a DNS name, or an address.
    pub fn builder(name: impl Into<String>, roots: Roots) -> TlsClientBuilder {
        TlsClientBuilder {
            name: name.into(),
            roots: Some(roots),
            identity: None,
            protocols: Vec::new(),
            versions: TlsVersion::ALL.to_vec(),
            resumes: true,
            handshake_timeout: DEFAULT_HANDSHAKE_TIMEOUT,
            max_handshakes: DEFAULT_MAX_HANDSHAKES,
            peer_handshake_bytes: memory::DEFAULT_PEER_HANDSHAKE_BYTES,
            end_without_notice: false,
        }
    }

    /// Options of a client that takes **any certificate for good**, and so can't know whom it talks to. For tests and measurements.
    pub fn insecure(name: impl Into<String>) -> TlsClientBuilder {
        let roots = Roots { store: Arc::new(rustls::RootCertStore::empty()) };
        TlsClientBuilder { roots: None, ..Self::builder(name, roots) }
    }

    /// How many handshakes go on now, over all connections.
    pub fn handshakes(&self) -> usize {
        self.settings.handshakes.count()
    }
}

impl TlsClientBuilder {
    /// The certificate that the server gets if it asks for one. Default: none.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// The application protocols that are offered, the one that we like best first (ALPN). Default: none.
    #[must_use]
    pub fn protocols<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.protocols = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// The versions that are offered. Default: 1.3 and 1.2.
    #[must_use]
    pub fn versions(mut self, versions: impl IntoIterator<Item = TlsVersion>) -> Self {
        self.versions = versions.into_iter().collect();
        self
    }

    /// Begins each session anew. Default: the last tickets of the server, at most eight, are kept and used.
    #[must_use]
    pub fn without_resumption(mut self) -> Self {
        self.resumes = false;
        self
    }

    /// How long a handshake may take, from the connection on. Default: 10 s.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// How many handshakes may go on at once, over all connections. A connection beyond that is ended, with the failure
    /// [`Busy`](FilterFailure::Busy). Default: 1,024.
    #[must_use]
    pub fn max_handshakes(mut self, count: usize) -> Self {
        self.max_handshakes = count;
        self
    }

    /// The most that is kept of a peer's handshake message that comes in several records, their overhead included: the server's certificate
    /// chain must fit. In bytes, from 4,096 to 65,535. Default: 18,437, the most that one record may have.
    #[must_use]
    pub fn peer_handshake_bytes(mut self, bytes: usize) -> Self {
        self.peer_handshake_bytes = bytes;
        self
    }

    /// Takes the end of a stream without `close_notify` for its end. See
    /// [`TlsServerBuilder::allow_end_without_notice`](super::TlsServerBuilder::allow_end_without_notice).
    #[must_use]
    pub fn allow_end_without_notice(mut self) -> Self {
        self.end_without_notice = true;
        self
    }

    /// The factory.
    ///
    /// # Errors
    /// [`TlsError`] names the option that can't be.
    pub fn build(self) -> Result<TlsClient, TlsError> {
        memory::check_peer_handshake(self.peer_handshake_bytes)?;
        let name = ServerName::try_from(self.name.clone()).map_err(|_| TlsError::Name { name: self.name })?;
        let versions: Vec<_> = self.versions.iter().map(|version| version.supported()).collect();
        let builder =
            ClientConfig::builder_with_provider(provider()).with_protocol_versions(&versions).map_err(options)?;
        let builder = match self.roots {
            Some(roots) => builder.with_root_certificates(roots.store),
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider()))),
        };
        let chain_bytes = self.identity.as_ref().map_or(0, Identity::chain_bytes);
        let mut config = match self.identity {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.key))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.protocols;
        config.resumption = match self.resumes {
            true => Resumption::in_memory_sessions(memory::CLIENT_SESSIONS),
            false => Resumption::disabled(),
        };
        let memory = memory::client(chain_bytes, self.peer_handshake_bytes, self.resumes);
        let settings = Settings {
            handshake_timeout: self.handshake_timeout,
            peer_handshake_bytes: self.peer_handshake_bytes,
            end_without_notice: self.end_without_notice,
            handshakes: Handshakes::new(self.max_handshakes),
        };
        Ok(TlsClient { config: Arc::new(config), name, settings, memory })
    }
}

impl FilterFactory for TlsClient {
    fn reserve(&self) -> Reserve {
        self.memory.each
    }

    fn shared_reserve(&self) -> SharedReserve {
        self.memory.shared
    }

    fn make(&self, _peer: &FilterPeer) -> Result<Box<dyn Filter>, FilterError> {
        let connection = UnbufferedClientConnection::new(Arc::clone(&self.config), self.name.clone())
            .map_err(|error| FilterError::new(FilterFailure::Protocol, format!("TLS: {error}")))?;
        Ok(Box::new(Tls::new(Session::Client(Box::new(connection)), self.settings.clone())))
    }
}

/// Takes any certificate; that the peer has its key is checked all the same.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
