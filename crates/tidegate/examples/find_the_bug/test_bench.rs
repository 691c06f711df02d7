//! The clients that find the bug, and one run.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate::sim::{Client, Next, Peer, Simulation, Violation};
use tidegate::{Limits, Listener, Report, Server, ServerBuilder};

use super::server::{ANSWER_MAX, Careful, Forgetful, REQUEST_MAX, Watch, answer};

/// Which server to test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    Forgetful,
    Careful,
}

/// Runs the server in the hostile world of `seed`, with a few clients.
///
/// # Errors
/// What the simulation has found.
pub fn run(which: Which, seed: u64) -> Result<Report, Violation> {
    let mut simulation = Simulation::hostile(seed);
    let limits = Limits { receive_buffer_bytes: 4096, max_connections: 8, receive_buffers: 16, ..Limits::default() };
    let listener = Listener::tcp(([10, 0, 0, 1], 7000).into());
    let server: ServerBuilder = match which {
        Which::Forgetful => Server::builder().limits(limits).listen(listener, |_| Forgetful::default()),
        Which::Careful => {
            let watch = Arc::new(Watch::default());
            let watched = Arc::clone(&watch);
            // Something that clients can't see: a connection must not pile up what it has not answered.
            simulation.check("unanswered input", move |_| {
                let bytes = watched.input_bytes_most.load(Ordering::Relaxed);
                if bytes > 4096 + REQUEST_MAX { Err(format!("{bytes} bytes on one connection")) } else { Ok(()) }
            });
            Server::builder().limits(limits).listen(listener, move |_| Careful::new(&watch))
        }
    };
    let address = match simulation.serve(server) {
        Ok(addresses) => addresses[0],
        Err(error) => panic!("seed {seed}: {error}"),
    };
    for _ in 0..4 {
        let requests = 1 + simulation.random_below(60) as usize;
        let lengths = (0..requests).map(|_| simulation.random_below(ANSWER_MAX as u64 + 1) as usize).collect();
        let after = Duration::from_micros(simulation.random_below(10_000));
        simulation.client(address, after, Asking { lengths, sent: 0, received: Vec::new(), answered: 0, said: false });
    }
    simulation.run()
}

/// Sends all its requests without waiting, and wants all answers, in order.
struct Asking {
    lengths: Vec<usize>,
    /// Bytes of the requests that were sent.
    sent: usize,
    received: Vec<u8>,
    /// Answers that were read.
    answered: usize,
    /// It has finished sending.
    said: bool,
}

impl Asking {
    fn ask(&mut self, peer: &mut Peer) -> Result<(), ErrorKind> {
        let requests: String = self.lengths.iter().map(|length| format!("{length}\n")).collect();
        while self.sent < requests.len() {
            self.sent += peer.write(&requests.as_bytes()[self.sent..]).map_err(|error| error.kind())?;
        }
        if !self.said {
            peer.shutdown_write().map_err(|error| error.kind())?;
            self.said = true;
        }
        Ok(())
    }

    /// Compares what has come with the next answers.
    fn compare(&mut self) -> Result<(), String> {
        while let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.received.drain(..=end).collect();
            let expected = self.lengths.get(self.answered).map(|&length| answer(length));
            if Some(&line) != expected.as_ref() {
                let (number, expected) = (self.answered + 1, expected.map_or(0, |answer| answer.len()));
                return Err(format!(
                    "answer {number} has {} bytes and not the {expected} that were asked for",
                    line.len()
                ));
            }
            self.answered += 1;
        }
        Ok(())
    }
}

impl Client for Asking {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        let was_connected = peer.is_connected();
        // The world resets connections now and then. That is nobody's fault, and an end without all answers is right then.
        if let Err(kind) = self.ask(peer)
            && kind != ErrorKind::WouldBlock
        {
            return Next::Close;
        }
        let mut bytes = [0; 2048];
        loop {
            match peer.read(&mut bytes) {
                Ok(0) if was_connected && peer.is_connected() && self.answered < self.lengths.len() => {
                    let (answered, asked) = (self.answered, self.lengths.len());
                    return Next::Failed(format!("the end came after {answered} of {asked} answers"));
                }
                Ok(0) => return Next::Close,
                Ok(length) => {
                    self.received.extend_from_slice(&bytes[..length]);
                    if let Err(what) = self.compare() {
                        return Next::Failed(what);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Next::Wait,
                Err(_) => return Next::Close,
            }
        }
    }
}
