//! Certificates and keys, as they come from files or from memory.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use thiserror::Error;

/// A certificate chain with the private key of its first certificate.
#[derive(Clone)]
pub struct Identity {
    pub(super) key: Arc<CertifiedKey>,
}

/// Certificates that are trusted to issue those of peers.
#[derive(Clone, Debug)]
pub struct Roots {
    pub(super) store: Arc<RootCertStore>,
}

/// Why a certificate, a key or a set of options can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file can't be read.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// What should be PEM is not.
    #[error("{what} is not PEM: {text}")]
    Pem {
        /// The file, or what was given.
        what: String,
        /// What is wrong.
        text: String,
    },
    /// There is no certificate where one should be.
    #[error("{what} has no certificate (no section CERTIFICATE)")]
    NoCertificate {
        /// The file, or what was given.
        what: String,
    },
    /// There is no private key where one should be.
    #[error("{what} has no private key (no section PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY)")]
    NoKey {
        /// The file, or what was given.
        what: String,
    },
    /// Certificate and key can't be used, or not together.
    #[error("certificate and key can't be used: {text}")]
    Identity {
        /// What is wrong.
        text: String,
    },
    /// The chain is longer than what was declared for each connection.
    #[error("a certificate chain of {bytes} bytes, at most {limit_bytes} are allowed (chain_bytes)")]
    ChainTooLong {
        /// The certificates together, in bytes.
        bytes: usize,
        /// The limit, in bytes.
        limit_bytes: usize,
    },
    /// A name of a server is no name.
    #[error("'{name}' is no name of a server")]
    Name {
        /// What was given.
        name: String,
    },
    /// The options can't be used together.
    #[error("TLS: {text}")]
    Options {
        /// What is wrong.
        text: String,
    },
}

impl Identity {
    /// From two PEM files: the certificates, the one of the server first and each followed by that of its issuer, and the private key
    /// (PKCS #8, PKCS #1 or SEC 1). One file may hold both.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it; a key that doesn't belong to the certificate is one.
    pub fn from_pem_files(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, TlsError> {
        let (chain, key) = (chain.as_ref(), key.as_ref());
        let (chain_pem, key_pem) = (read(chain)?, read(key)?);
        Self::named(&chain_pem, &key_pem, &chain.display().to_string(), &key.display().to_string())
    }

    /// From PEM in memory.
    ///
    /// # Errors
    /// [`TlsError`] says what is wrong; a key that doesn't belong to the certificate is.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        Self::named(chain, key, "the certificate chain", "the key")
    }

    /// From DER: certificates in the same order, and a private key (PKCS #8, PKCS #1 or SEC 1).
    ///
    /// # Errors
    /// [`TlsError`] says what is wrong; a key that doesn't belong to the certificate is.
    pub fn from_der(chain: Vec<Vec<u8>>, key: Vec<u8>) -> Result<Self, TlsError> {
        if chain.is_empty() {
            return Err(TlsError::NoCertificate { what: "the certificate chain".to_owned() });
        }
        let key = PrivateKeyDer::try_from(key).map_err(|text| TlsError::Identity { text: text.to_owned() })?;
        Self::certified(chain.into_iter().map(CertificateDer::from).collect(), key)
    }

    /// The certificates together, in bytes.
    pub fn chain_bytes(&self) -> usize {
        self.key.cert.iter().map(|certificate| certificate.len()).sum()
    }

    fn named(chain: &[u8], key: &[u8], chain_name: &str, key_name: &str) -> Result<Self, TlsError> {
        let chain = certificates(chain, chain_name)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            pem::Error::NoItemsFound => TlsError::NoKey { what: key_name.to_owned() },
            error => TlsError::Pem { what: key_name.to_owned(), text: error.to_string() },
        })?;
        Self::certified(chain, key)
    }

    fn certified(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, TlsError> {
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| TlsError::Identity {
            text: match error {
                rustls::Error::InconsistentKeys(_) => "the key is not that of the certificate".to_owned(),
                error => error.to_string(),
            },
        })?;
        Ok(Self { key: Arc::new(key) })
    }
}

impl fmt::Debug for Identity {
    /// Without the key.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Identity")
            .field("certificates", &self.key.cert.len())
            .field("chain_bytes", &self.chain_bytes())
            .finish_non_exhaustive()
    }
}

impl Roots {
    /// From a PEM file with one or more certificates.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it.
    pub fn from_pem_file(path: impl AsRef<Path>) -> Result<Self, TlsError> {
        let path = path.as_ref();
        Self::of(certificates(&read(path)?, &path.display().to_string())?)
    }

    /// From PEM in memory.
    ///
    /// # Errors
    /// [`TlsError`] says what is wrong.
    pub fn from_pem(pem: &[u8]) -> Result<Self, TlsError> {
        Self::of(certificates(pem, "the roots")?)
    }

    /// From DER.
    ///
    /// # Errors
    /// [`TlsError`] says what is wrong.
    pub fn from_der(certificates: Vec<Vec<u8>>) -> Result<Self, TlsError> {
        Self::of(certificates.into_iter().map(CertificateDer::from).collect())
    }

    fn of(certificates: Vec<CertificateDer<'static>>) -> Result<Self, TlsError> {
        let mut store = RootCertStore::empty();
        for certificate in certificates {
            store.add(certificate).map_err(|error| TlsError::Identity { text: error.to_string() })?;
        }
        if store.is_empty() {
            return Err(TlsError::NoCertificate { what: "the roots".to_owned() });
        }
        Ok(Self { store: Arc::new(store) })
    }
}

/// The cryptography that everything here uses.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::File { path: path.to_owned(), error })
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Pem { what: what.to_owned(), text: error.to_string() })?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { what: what.to_owned() });
    }
    Ok(certificates)
}
