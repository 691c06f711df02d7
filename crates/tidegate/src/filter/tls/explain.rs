//! What went wrong, for the log and for the reason that a connection ends.

use rustls::{CertificateError, Error, InvalidMessage};

use crate::filter::{FilterError, FilterFailure};

/// The failure that an error of rustls is. `first_bytes` is what the peer began with, if the error came with its first record.
pub(super) fn failure(error: &Error, first_bytes: Option<&[u8]>) -> FilterError {
    let (failure, text) = match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion)
            if first_bytes.is_some() =>
        {
            let first_bytes = first_bytes.unwrap_or_default();
            let what = match looks_like_http(first_bytes) {
                true => "an HTTP request that is not encrypted",
                false => "something else than TLS",
            };
            (FilterFailure::Protocol, format!("the peer began with {what}: {}", first_bytes.escape_ascii()))
        }
        Error::InvalidCertificate(why) => {
            (FilterFailure::NotAllowed, format!("the certificate of the peer is not accepted: {}", certificate(why)))
        }
        Error::NoCertificatesPresented => {
            (FilterFailure::NotAllowed, "the peer has presented no certificate, and one is required".to_owned())
        }
        Error::NoApplicationProtocol => {
            (FilterFailure::Protocol, "the peer offers none of our application protocols (ALPN)".to_owned())
        }
        Error::AlertReceived(alert) => {
            (FilterFailure::Protocol, format!("the peer has given up with the TLS alert {alert:?}"))
        }
        Error::EncryptError => {
            (FilterFailure::Protocol, "the keys of the session are used up: so much was sent with them".to_owned())
        }
        error => (FilterFailure::Protocol, format!("TLS: {error}")),
    };
    FilterError::new(failure, text).with_farewell()
}

/// Whether the first bytes are a method of HTTP, or begin one.
fn looks_like_http(first_bytes: &[u8]) -> bool {
    const METHODS: [&[u8]; 7] = [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"CONNECT "];
    let begins =
        |method: &[u8]| first_bytes.len() >= 4 && first_bytes.iter().zip(method).all(|(one, other)| one == other);
    METHODS.iter().any(|method| begins(method))
}

fn certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => format!("it has expired ({why})"),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("it is not valid yet ({why})")
        }
        CertificateError::UnknownIssuer => "nobody whom we trust has issued it".to_owned(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("it is for another name ({why})")
        }
        why => why.to_string(),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_tls_is_named() {
        let error = Error::InvalidMessage(InvalidMessage::InvalidContentType);
        let text = |first_bytes| failure(&error, first_bytes).text.into_owned();
        assert_eq!(text(Some(b"GET /")), "the peer began with an HTTP request that is not encrypted: GET /");
        assert_eq!(text(Some(b"SSH-2")), "the peer began with something else than TLS: SSH-2");
        assert!(text(None).starts_with("TLS: "));
    }
}
