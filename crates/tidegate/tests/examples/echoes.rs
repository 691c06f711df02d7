//! `echo`, `echo_async` and `tls_echo`.

use crate::running::Example;

/// More than the buffers and the queue of a connection hold.
const MUCH: usize = 3 << 20;

fn echoes(name: &str) {
    let echo = Example::start(name, &["127.0.0.1:0"]);
    let mut talk = echo.connect();
    talk.write(b"tide\n");
    assert_eq!(talk.line().as_deref(), Some("tide"));

    let sent: Vec<u8> = (0..MUCH).map(|number| (number ^ number >> 8) as u8).collect();
    let writer = talk.stream().try_clone().expect("a second handle");
    let to_send = sent.clone();
    let writing = std::thread::spawn(move || crate::running::Talk::on(writer).write(&to_send));
    assert!(talk.read(MUCH) == sent, "what comes back is not what was sent");
    writing.join().expect("it was all taken");
    talk.finish();
    assert!(talk.rest().is_empty(), "more came back than was sent");
}

#[test]
fn echo_sends_everything_back_and_finishes_when_its_client_has() {
    echoes("echo");
}

#[test]
fn echo_async_sends_everything_back_and_finishes_when_its_client_has() {
    echoes("echo_async");
}

#[cfg(feature = "tls")]
mod tls {
    use std::io::{Read as _, Write as _};
    use std::path::PathBuf;
    use std::sync::Arc;

    use rustls::crypto::ring::default_provider;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

    use crate::running::Example;

    /// A file that goes with its test.
    struct Removed(PathBuf);

    impl Drop for Removed {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn tls_echo_shows_the_certificate_that_it_has_made_and_echoes() {
        let echo = Example::start("tls_echo", &["127.0.0.1:0"]);
        let file = echo.said.iter().find_map(|line| line.strip_prefix("certificate for localhost in "));
        let file = Removed(file.expect("it says where").into());
        let certificate = CertificateDer::from_pem_file(&file.0).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(certificate).expect("a root");
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        let session = ClientConnection::new(Arc::new(config), name).expect("it fits together");
        let tcp = echo.connect().stream().try_clone().expect("a second handle");
        let mut tls = StreamOwned::new(session, tcp);
        tls.write_all(b"tide\n").expect("a handshake, and it reads");
        let mut answer = [0; 5];
        tls.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"tide\n");
        tls.conn.send_close_notify();
        tls.flush().expect("it reads");
        assert_eq!(tls.read(&mut answer).expect("an end in order"), 0);
    }
}
