//! A client that behaves: a new connection, one request, the whole answer; again and again.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// The name in the certificate.
pub const NAME: &str = "localhost";
/// How often it asks.
pub const EVERY: Duration = Duration::from_millis(100);
/// When it gives an answer up: far later than is good.
const PATIENCE: Duration = Duration::from_secs(5);

/// What it has seen.
#[derive(Debug, Default)]
pub struct Asked {
    /// How long each answer took, from connecting to its last byte; ascending.
    pub times: Vec<Duration>,
    /// What went wrong with each of the others.
    pub failures: Vec<String>,
}

impl Asked {
    /// How many times it asked.
    pub fn count(&self) -> usize {
        self.times.len() + self.failures.len()
    }

    /// The time in which this part of the answers came.
    pub fn at(&self, part: f64) -> Duration {
        let place = (self.times.len() as f64 * part).ceil() as usize;
        self.times.get(place.max(1) - 1).copied().unwrap_or_default()
    }
}

/// It asks in a thread of its own.
pub struct Healthy {
    thread: JoinHandle<Asked>,
    stop: Sender<()>,
}

impl Healthy {
    /// Asks from now on; by TLS if it has the server's certificate.
    pub fn start(server: SocketAddr, certificate: Option<Vec<u8>>) -> io::Result<Healthy> {
        let tls = certificate.map(configuration).transpose()?;
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut asked = Asked::default();
            let mut next = Instant::now();
            while stopped.recv_timeout(next.saturating_duration_since(Instant::now())) == Err(RecvTimeoutError::Timeout)
            {
                let begin = Instant::now();
                match ask(server, tls.as_ref()) {
                    Ok(()) => asked.times.push(begin.elapsed()),
                    Err(error) => asked.failures.push(error.to_string()),
                }
                // Turns that a slow answer has cost are not made up for.
                next = (next + EVERY).max(Instant::now());
            }
            asked.times.sort();
            asked
        });
        Ok(Healthy { thread, stop })
    }

    /// Asks no more.
    pub fn stop(self) -> io::Result<Asked> {
        drop(self.stop);
        self.thread.join().map_err(|_| io::Error::other("the healthy client has panicked"))
    }
}

fn configuration(certificate: Vec<u8>) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(certificate)).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut configuration = builder.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth();
    // Every connection is as dear as the first.
    configuration.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(configuration))
}

fn ask(server: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> io::Result<()> {
    let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let answer = match tls {
        None => exchange(stream)?,
        Some(configuration) => {
            let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
            let connection = ClientConnection::new(Arc::clone(configuration), name).map_err(io::Error::other)?;
            exchange(StreamOwned::new(connection, stream))?
        }
    };
    if answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("Hello, World!") {
        Ok(())
    } else {
        Err(io::Error::other(format!("answered {answer:?}")))
    }
}

fn exchange(mut stream: impl Read + Write) -> io::Result<String> {
    write!(stream, "GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n")?;
    stream.flush()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_by_their_part() {
        let times = (1..=100).map(Duration::from_millis).collect();
        let asked = Asked { times, failures: vec!["refused".to_owned()] };
        assert_eq!([0.5, 0.99, 1.0].map(|part| asked.at(part).as_millis()), [50, 99, 100]);
        assert_eq!(asked.count(), 101);
        assert_eq!(Asked::default().at(1.0), Duration::ZERO);
    }
}
