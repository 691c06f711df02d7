//! TLS of the listeners: from files, which SIGHUP reads again.

use std::path::PathBuf;

use tidegate::filter::tls::{ClientCertificates, Identity, Roots, TlsError, TlsServer};

use crate::Failure;
use crate::arguments::ServeOptions;
use crate::signals;

/// What is served, and the files that it is from.
pub(super) struct Tls {
    server: TlsServer,
    chain: PathBuf,
    key: PathBuf,
}

impl Tls {
    /// As the options say; `None` without TLS.
    pub(super) fn new(options: &ServeOptions) -> Result<Option<Self>, Failure> {
        let (Some(chain), Some(key)) = (options.tls_cert.clone(), options.tls_key.clone()) else { return Ok(None) };
        let refused = |error: TlsError| Failure::Refused(error.to_string());
        let identity = Identity::from_pem_files(&chain, &key).map_err(refused)?;
        let mut builder = TlsServer::builder(identity).protocols(options.tls_alpn.iter().map(String::as_str));
        if let Some(path) = &options.tls_client_ca {
            let roots = Roots::from_pem_file(path).map_err(refused)?;
            builder = builder.client_certificates(ClientCertificates::Required(roots));
        }
        Ok(Some(Self { server: builder.build().map_err(refused)?, chain, key }))
    }

    /// The filter of a listener.
    pub(super) fn filter(&self) -> TlsServer {
        self.server.clone()
    }

    /// Reads the files again at each SIGHUP, and says in the log what came of it.
    pub(super) fn reload_on_hangup(self) -> Result<(), Failure> {
        signals::on_hangup(move || self.reload())
            .map_err(|error| Failure::Refused(format!("can't wait for SIGHUP: {error}")))
    }

    fn reload(&self) {
        let identity = Identity::from_pem_files(&self.chain, &self.key);
        match identity.and_then(|identity| self.server.reload(identity)) {
            Ok(()) => {
                tracing::info!(certificate = %self.chain.display(), "new connections get the certificate as it is now");
            }
            Err(error) => tracing::error!(%error, "SIGHUP: the certificate stays the one of before"),
        }
    }
}
