//! TLS with the server that is loaded.

use tidegate::filter::tls::{Roots, TlsClient, TlsError};

use super::arguments::LoadOptions;
use crate::Failure;
use crate::logging::say_on_stderr;

/// As the options say, for so many connections; `None` without TLS.
pub(super) fn client(options: &LoadOptions, connections: u32) -> Result<Option<TlsClient>, Failure> {
    if !options.tls {
        return Ok(None);
    }
    let refused = |error: TlsError| Failure::Refused(error.to_string());
    let name = options.tls_name.clone().unwrap_or_else(|| options.address.ip().to_string());
    let builder = match &options.tls_ca {
        Some(path) => TlsClient::builder(name, Roots::from_pem_file(path).map_err(refused)?),
        None if options.tls_insecure => {
            say_on_stderr("tidegate: --tls-insecure: whoever answers is taken for the server\n".to_owned());
            TlsClient::insecure(name)
        }
        None => {
            return Err(Failure::Usage(
                "--tls: who vouches for the server? --tls-ca FILE names the certificates, --tls-insecure takes any"
                    .into(),
            ));
        }
    };
    // All may be beginning at once: that is what the server is loaded with.
    builder.max_handshakes(connections as usize).build().map(Some).map_err(|error| match error {
        TlsError::Name { .. } => Failure::Usage(format!("--tls-name: {error}")),
        error => refused(error),
    })
}
