//! The client of every service of the campaign: what it sends must come back.

use std::io::ErrorKind;
use std::time::Duration;

use tidegate::Time;
use tidegate::sim::{Client, Next, Peer, Simulation};

/// A client that sends numbered bytes and wants exactly those back.
pub struct EchoClient {
    manner: Manner,
    /// The server may end the connection when it likes.
    lenient: bool,
    total: u64,
    sent: u64,
    received: u64,
    finished: bool,
    /// Doesn't read before this.
    reads_from: Time,
    /// Ends, one way or another, at this.
    ends_at: Time,
}

/// How a client behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    /// Sends all, finishes, reads all.
    Whole,
    /// Sends all, reads all, closes without finishing first.
    Hasty,
    /// Sends without reading for a while.
    Late,
    /// Sends and never reads; resets in the end.
    Stuck,
    /// Resets somewhere in the middle.
    Rude,
    /// Says nothing and closes in the end.
    Silent,
}

impl EchoClient {
    pub fn new(simulation: &Simulation, lenient: bool) -> Self {
        let manner = match simulation.random_below(10) {
            0..=3 => Manner::Whole,
            4..=5 => Manner::Hasty,
            6 => Manner::Late,
            7 => Manner::Stuck,
            8 => Manner::Rude,
            _ => Manner::Silent,
        };
        // Every order of magnitude from one byte to a quarter of a megabyte; always a lot from those who never take anything back, so
        // that the server has to hold what it can't send.
        let magnitude = if manner == Manner::Stuck { 18 } else { simulation.random_below(19) };
        let total = 1 + simulation.random_below(1 << magnitude);
        let (reads_from, ends_at) = (Time::ZERO, Time::MAX);
        Self { manner, lenient, total, sent: 0, received: 0, finished: false, reads_from, ends_at }
    }

    fn begin(&mut self, peer: &Peer) {
        let later = |peer: &Peer, most_ms: u64| {
            let after = Duration::from_millis(1 + peer.random_below(most_ms));
            peer.wake_after(after);
            peer.now() + after
        };
        match self.manner {
            Manner::Whole | Manner::Hasty => {}
            Manner::Late => self.reads_from = later(peer, 3_000),
            Manner::Stuck => {
                self.reads_from = Time::MAX;
                self.ends_at = later(peer, 10_000);
            }
            Manner::Rude | Manner::Silent => self.ends_at = later(peer, 3_000),
        }
    }

    fn write(&mut self, peer: &mut Peer) -> Result<(), ErrorKind> {
        let mut chunk = [0; 3000];
        while self.manner != Manner::Silent && self.sent < self.total {
            let length = (self.total - self.sent).min(1 + peer.random_below(chunk.len() as u64));
            for (offset, byte) in (0..length).zip(&mut chunk) {
                *byte = byte_at(self.sent + offset);
            }
            match peer.write(&chunk[..length as usize]) {
                Ok(written) => self.sent += written as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.kind()),
            }
        }
        if self.sent == self.total && matches!(self.manner, Manner::Whole | Manner::Late) && !self.finished {
            self.finished = true;
            peer.shutdown_write().map_err(|error| error.kind())?;
        }
        Ok(())
    }

    /// Returns whether the end of the stream was read.
    fn read(&mut self, peer: &mut Peer) -> Result<bool, String> {
        let mut bytes = [0; 2048];
        loop {
            let length = match peer.read(&mut bytes) {
                Ok(0) => return Ok(true),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                // The world resets connections; the server says why in its report.
                Err(_) => return Ok(true),
            };
            for (offset, &byte) in bytes[..length].iter().enumerate() {
                let position = self.received + offset as u64;
                if position >= self.sent {
                    return Err(format!("byte {position} came back, but only {} were sent", self.sent));
                }
                if byte != byte_at(position) {
                    return Err(format!("byte {position} came back as {byte:#04x}"));
                }
            }
            self.received += length as u64;
        }
    }
}

impl Client for EchoClient {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        if self.ends_at == Time::MAX && self.reads_from == Time::ZERO {
            self.begin(peer);
        }
        let connected = peer.is_connected();
        let broken = match self.write(peer) {
            Ok(()) => false,
            Err(_) => true,
        };
        if peer.now() >= self.ends_at {
            return if self.manner == Manner::Silent { Next::Close } else { Next::Reset };
        }
        if peer.now() >= self.reads_from {
            match self.read(peer) {
                Err(what) => return Next::Failed(what),
                Ok(false) if self.manner == Manner::Hasty && self.received == self.total => return Next::Close,
                Ok(false) => {}
                // An orderly end, on a connection that is still there, must come after everything, unless the server may end it.
                Ok(true) if !self.lenient && connected && peer.is_connected() && self.received < self.sent => {
                    return Next::Failed(format!("the end came after {} of {} bytes", self.received, self.sent));
                }
                Ok(true) => return Next::Close,
            }
        }
        if broken { Next::Close } else { Next::Wait }
    }
}

/// The byte at a position of the stream: neighbours differ, and so do positions a buffer apart.
pub fn byte_at(position: u64) -> u8 {
    (position ^ position >> 8 ^ position >> 16).wrapping_mul(167) as u8
}
