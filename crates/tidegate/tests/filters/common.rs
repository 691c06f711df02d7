//! Servers with filters in the simulation, and peers that speak to them without any.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::filter::{
    Above, Below, Down, Fill, Filter, FilterContext, FilterError, FilterFactory, FilterPeer, Read, Reserve,
};
use tidegate::sim::{Client, Next, Peer, Simulation};
use tidegate::{Buffer, CloseReason, Connection, Handler, Report, Time};

use crate::cipher::{DATA, HELLO};

/// Sends back what comes.
pub(crate) struct Echo;

impl Handler for Echo {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        connection.send(data).expect("an echo is never refused");
    }
}

/// What handlers tell a test.
pub(crate) type Log = Arc<Mutex<Vec<String>>>;

/// An echo that notes what happens to it.
pub(crate) struct Noting(pub(crate) Log);

impl Noting {
    fn note(&self, text: impl Into<String>) {
        self.0.lock().expect("no panic").push(text.into());
    }
}

impl Handler for Noting {
    type Message = Infallible;

    fn on_connect(&mut self, _: &mut Connection<'_>) {
        self.note("connect");
    }

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        self.note(format!("read {}", String::from_utf8_lossy(&data)));
        connection.send(data).expect("an echo is never refused");
    }

    fn on_peer_shutdown(&mut self, connection: &mut Connection<'_>) {
        self.note("peer shutdown");
        connection.shutdown();
    }

    fn on_close(self, reason: &CloseReason) {
        self.note(format!("close {}", reason.name()));
    }
}

/// What a peer without filters has received, and how its connection has ended.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) bytes: Vec<u8>,
    pub(crate) ended: Option<&'static str>,
    pub(crate) ended_at: Option<Time>,
}

/// A peer that says something, and notes what it hears.
pub(crate) struct Raw {
    says: Vec<u8>,
    /// In pieces of so many bytes, so far apart.
    piece: usize,
    every: Duration,
    /// Finishes when all is said.
    finishes: bool,
    /// Reads from then on, at most so much at once, so far apart.
    reads_from: Time,
    reads_bytes: usize,
    said: usize,
    next: Time,
    next_read: Time,
    seen: Rc<RefCell<Seen>>,
}

impl Raw {
    pub(crate) fn new(says: &[u8]) -> (Self, Rc<RefCell<Seen>>) {
        let seen = Rc::new(RefCell::new(Seen::default()));
        let raw = Self {
            says: says.to_vec(),
            piece: usize::MAX,
            every: Duration::ZERO,
            finishes: false,
            reads_from: Time::ZERO,
            reads_bytes: usize::MAX,
            said: 0,
            next: Time::ZERO,
            next_read: Time::ZERO,
            seen: Rc::clone(&seen),
        };
        (raw, seen)
    }

    pub(crate) fn in_pieces(mut self, piece: usize, every: Duration) -> Self {
        (self.piece, self.every) = (piece, every);
        self
    }

    pub(crate) fn finishing(mut self) -> Self {
        self.finishes = true;
        self
    }

    pub(crate) fn reading(mut self, from: Duration, bytes: usize) -> Self {
        (self.reads_from, self.reads_bytes) = (Time::ZERO + from, bytes);
        self
    }

    fn ends(&self, how: &'static str, now: Time) -> Next {
        let mut seen = self.seen.borrow_mut();
        (seen.ended, seen.ended_at) = (Some(how), Some(now));
        Next::Close
    }
}

impl Client for Raw {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        let now = peer.now();
        while self.said < self.says.len() && now >= self.next {
            let end = self.said + self.piece.min(self.says.len() - self.said);
            match peer.write(&self.says[self.said..end]) {
                Ok(written) => self.said += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return self.ends("reset", now),
            }
            if !self.every.is_zero() {
                self.next = now + self.every;
                peer.wake_after(self.every);
            }
        }
        if self.said == self.says.len() && self.finishes {
            self.finishes = false;
            let _ = peer.shutdown_write();
        }
        let reads_from = self.reads_from.max(self.next_read);
        if now < reads_from {
            peer.wake_after(reads_from.saturating_since(now));
            return Next::Wait;
        }
        let mut bytes = [0; 4096];
        loop {
            let most = self.reads_bytes.min(bytes.len());
            match peer.read(&mut bytes[..most]) {
                Ok(0) => return self.ends("end", now),
                Ok(count) => self.seen.borrow_mut().bytes.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Next::Wait,
                Err(_) => return self.ends("reset", now),
            }
            if self.reads_bytes < bytes.len() {
                self.next_read = now + Duration::from_millis(10);
                peer.wake_after(Duration::from_millis(10));
                return Next::Wait;
            }
        }
    }
}

/// A filter that hands everything on, to be made a part of others.
pub(crate) fn read_plain(below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
    Ok(match below.fill(context)? {
        Fill::Data => below.take().map_or(Read::Starved, Read::Data),
        Fill::Starved => Read::Starved,
        Fill::NoMemory => Read::NoMemory,
        Fill::Finished => Read::Finished,
    })
}

/// Hands everything on upwards, and every byte downwards changed by a function that may make more or less of it.
pub(crate) struct Mapping(pub(crate) fn(u8) -> Vec<u8>);

impl Filter for Mapping {
    fn name(&self) -> &'static str {
        "mapping"
    }

    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
        read_plain(below, context)
    }

    fn write(
        &mut self,
        above: &mut Above<'_>,
        down: &mut Down<'_>,
        context: &mut FilterContext<'_>,
    ) -> Result<(), FilterError> {
        // The most that a byte may become.
        const MOST: usize = 16;
        while down.room_bytes() >= MOST && above.fill(down, context)? {
            let mut out = Vec::with_capacity(down.room_bytes().min(MOST * above.bytes().len()));
            let mut taken = 0;
            for &byte in above.bytes() {
                if out.len() + MOST > out.capacity() {
                    break;
                }
                out.extend((self.0)(byte));
                taken += 1;
            }
            above.consume(taken, context);
            down.push(out);
        }
        Ok(())
    }
}

/// Makes filters by a function.
pub(crate) struct Making<F>(pub(crate) Reserve, pub(crate) F);

impl<F: Fn() -> Box<dyn Filter> + Send + Sync + 'static> FilterFactory for Making<F> {
    fn reserve(&self) -> Reserve {
        self.0
    }

    fn make(&self, _: &FilterPeer) -> Result<Box<dyn Filter>, FilterError> {
        Ok((self.1)())
    }
}

/// A small reserve.
pub(crate) const SMALL: Reserve = Reserve { state_bytes: 64, write_bytes: 64 };

pub(crate) fn address() -> SocketAddr {
    ([10, 0, 0, 1], 7007).into()
}

/// Runs until nothing more happens for `time`, then drains.
pub(crate) fn run(simulation: &mut Simulation, time: Duration) -> Report {
    simulation.run_for(time).unwrap_or_else(|violation| panic!("{violation}"));
    simulation.handle().drain();
    simulation.run().unwrap_or_else(|violation| panic!("{violation}"))
}

/// The reasons that were counted.
pub(crate) fn reasons(report: &Report) -> Vec<(&'static str, u64)> {
    report.closed_by_reason().filter(|&(_, count)| count > 0).collect()
}

/// The hello of a peer with key 0, so that data is what it looks like with a server's key of 0.
pub(crate) const HELLO_0: [u8; 4] = [HELLO, 0, 1, 0];

/// Data in a record, for keys of 0.
pub(crate) fn record(data: &[u8]) -> Vec<u8> {
    let mut record = vec![DATA, (data.len() >> 8) as u8, data.len() as u8];
    record.extend_from_slice(data);
    record
}
