//! A simulated server with clients that say given bytes.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use tidegate::sim::{Client, Next, Peer, Simulation};
use tidegate::{Limits, Listener, Server, ServerBuilder, Time};
use tidegate_hyper::Http;

pub type Answer = Response<Full<Bytes>>;

/// What tests go by: no date, because the time is virtual.
pub fn http() -> Http {
    Http::new().date(false)
}

pub fn listener() -> Listener {
    Listener::tcp(SocketAddr::from(([10, 0, 0, 1], 80)))
}

pub fn builder() -> ServerBuilder {
    Server::builder().limits(Limits { max_connections: 100, tasks_per_connection: 64, ..Limits::default() })
}

/// Says which request it was and what its body was.
pub async fn echo(request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    let (path, method) = (request.uri().path().to_owned(), request.method().clone());
    let body = request.into_body().collect().await?.to_bytes();
    Ok(text(format!("{method} {path} {} bytes: {}", body.len(), String::from_utf8_lossy(&body))))
}

pub async fn hello(_: Request<Incoming>) -> Result<Answer, Infallible> {
    Ok(text("hello".to_owned()))
}

pub fn text(text: String) -> Answer {
    Response::new(Full::new(Bytes::from(text)))
}

/// What a client has seen.
#[derive(Default)]
pub struct Seen {
    pub bytes: Vec<u8>,
    pub end: Option<(Time, Result<(), io::ErrorKind>)>,
    /// What it could write so far, in bytes.
    pub written_bytes: usize,
}

impl Seen {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// How many responses there are, by their first lines.
    pub fn responses(&self) -> usize {
        self.text().matches("HTTP/1.1 ").count()
    }

    pub fn ended_at(&self) -> Time {
        self.end.as_ref().expect("the server ends the connection").0
    }
}

/// Says given pieces, one after the other with a pause between them, and reads what comes until the server ends the connection or `until` is
/// content.
pub struct Talker {
    pieces: Vec<Vec<u8>>,
    pause: Duration,
    said: usize,
    next_at: Time,
    pub reads: bool,
    /// Its side is finished when it has said everything.
    pub finishes: bool,
    /// Before this, it reads nothing.
    pub reads_from: Time,
    until: Box<dyn Fn(&Seen) -> bool>,
    seen: Rc<RefCell<Seen>>,
}

impl Talker {
    pub fn new(pieces: Vec<Vec<u8>>, until: impl Fn(&Seen) -> bool + 'static) -> (Self, Rc<RefCell<Seen>>) {
        Self::slow(pieces, Duration::from_millis(5), until)
    }

    pub fn slow(
        pieces: Vec<Vec<u8>>,
        pause: Duration,
        until: impl Fn(&Seen) -> bool + 'static,
    ) -> (Self, Rc<RefCell<Seen>>) {
        let seen = Rc::new(RefCell::new(Seen::default()));
        let until = Box::new(until);
        let own = Rc::clone(&seen);
        (
            Self {
                pieces,
                pause,
                said: 0,
                next_at: Time::ZERO,
                reads: true,
                finishes: false,
                reads_from: Time::ZERO,
                until,
                seen: own,
            },
            seen,
        )
    }
}

/// No test takes that long.
pub const PATIENCE: Duration = Duration::from_secs(3600);

impl Client for Talker {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        let mut seen = self.seen.borrow_mut();
        while self.said < self.pieces.len() && peer.now() >= self.next_at {
            let piece = &mut self.pieces[self.said];
            match peer.write(piece) {
                Ok(count) => {
                    seen.written_bytes += count;
                    piece.drain(..count);
                    if piece.is_empty() {
                        self.said += 1;
                        self.next_at = peer.now() + self.pause;
                    } else {
                        break;
                    }
                }
                Err(_) => break,
            }
        }
        if self.said == self.pieces.len() && std::mem::take(&mut self.finishes) {
            let _ = peer.shutdown_write();
        }
        if self.said < self.pieces.len() && peer.now() < self.next_at {
            peer.wake_after(self.next_at.saturating_since(peer.now()));
        }
        let mut buffer = [0; 4096];
        if peer.now() < self.reads_from {
            peer.wake_after(self.reads_from.saturating_since(peer.now()));
        }
        let mut is_read = !self.reads || peer.now() < self.reads_from;
        while !is_read {
            match peer.read(&mut buffer) {
                Ok(0) => {
                    seen.end = Some((peer.now(), Ok(())));
                    return Next::Close;
                }
                Ok(count) => seen.bytes.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => is_read = true,
                Err(error) => {
                    seen.end = Some((peer.now(), Err(error.kind())));
                    return Next::Close;
                }
            }
        }
        if !self.reads && self.said == self.pieces.len() && !peer.is_connected() {
            return Next::Close;
        }
        if (self.until)(&seen) {
            return Next::Close;
        }
        if peer.now() > Time::ZERO + PATIENCE {
            return Next::Failed(format!("seen so far: {:?}", seen.text()));
        }
        peer.wake_after(Duration::from_secs(60));
        Next::Wait
    }
}

/// One client in a world with `server`; what it has seen.
pub fn talk(seed: u64, server: ServerBuilder, talker: (Talker, Rc<RefCell<Seen>>)) -> Seen {
    let mut simulation = Simulation::new(seed);
    let address = simulation.serve(server).expect("sound limits")[0];
    simulation.client(address, Duration::ZERO, talker.0);
    simulation.run().expect("no violation");
    talker.1.take()
}

/// Keeps a world going until something is done: a simulation ends with its last client.
pub struct Stays<F>(pub F);

impl<F: Fn() -> bool> Client for Stays<F> {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        if self.0() {
            return Next::Close;
        }
        if peer.now() > Time::ZERO + PATIENCE {
            return Next::Failed("it is not done".to_owned());
        }
        peer.wake_after(Duration::from_millis(100));
        Next::Wait
    }
}
