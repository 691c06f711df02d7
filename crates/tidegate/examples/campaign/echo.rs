//! One simulated run of an echo server: what serves, who connects, what must hold.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate::sim::{Client, Next, Peer, Simulation, Violation};
use tidegate::{
    Buffer, CloseReason, Connection, ConnectionHandle, Handler, Limits, Listener, MinProgress, Payload, Refusal,
    Report, Server, Time,
};

/// What came of one run.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub report: Report,
    pub hash: u64,
    pub events: u64,
}

/// Runs the echo server of `seed` in a hostile world, with limits and clients that the seed chooses too.
///
/// # Errors
/// The violation, which carries the seed and the last events.
///
/// # Panics
/// When a connection ends for a reason that doesn't fit what happened to it.
pub fn run(seed: u64, trace_events: usize) -> Result<(Outcome, Simulation), Violation> {
    let mut simulation = Simulation::hostile(seed);
    simulation.keep_trace(trace_events);
    let impatient = simulation.random_below(3) == 0;
    let limits = limits(&simulation, impatient);
    let witness = Witness { limits: Arc::new(limits.clone()), ..Witness::default() };
    let (first, second, third) = (witness.clone(), witness.clone(), witness.clone());
    let server = Server::builder()
        .limits(limits)
        .listen(Listener::tcp(([10, 0, 0, 1], 7007).into()), move |_| Echo {
            witness: Witness { prompt: true, ..first.clone() },
        })
        .listen(Listener::tcp(([10, 0, 0, 1], 7008).into()), move |_| Later::new(second.clone()))
        .listen(Listener::tcp(([10, 0, 0, 1], 7009).into()), move |_| Moody { handle: None, witness: third.clone() });
    let addresses = match simulation.serve(server) {
        Ok(addresses) => addresses,
        Err(error) => panic!("seed {seed}: {error}"),
    };
    for _ in 0..8 + simulation.random_below(12) {
        let service = simulation.random_below(3) as usize;
        let address = addresses[service];
        let after = Duration::from_micros(simulation.random_below(2_000_000));
        let client = EchoClient::new(&simulation, service == 2 || impatient);
        simulation.client(address, after, client);
    }
    let report = simulation.run()?;
    let unfit = witness.unfit.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(unfit.is_empty(), "seed {seed}: {}", unfit.join("; "));
    let outcome = Outcome { report, hash: simulation.trace_hash(), events: simulation.trace_count() };
    Ok((outcome, simulation))
}

/// Limits small enough to be reached; those of time only with an impatient server.
fn limits(simulation: &Simulation, impatient: bool) -> Limits {
    let queue = 16_384 << simulation.random_below(3);
    let sometimes = |millis: u64| {
        let after = Duration::from_millis(20 + simulation.random_below(millis));
        (simulation.random_below(4) > 0).then_some(after)
    };
    let progress = |within: Duration| MinProgress::new(1 + simulation.random_below(5_000), within);
    let patient = Limits::default();
    let times = match impatient {
        false => patient,
        true => Limits {
            first_byte_timeout: sometimes(2_000),
            idle_timeout: sometimes(2_000),
            min_send_progress: sometimes(1_000).map(progress),
            min_receive_rate: sometimes(1_000).map(progress),
            sends_outstanding: 1 + simulation.random_below(6) as u32,
            ..patient
        },
    };
    Limits {
        max_connections: 3 + simulation.random_below(20) as u32,
        receive_buffers: 2 + simulation.random_below(30) as u32,
        receive_buffer_bytes: 4096,
        held_buffers: simulation.random_below(4) as u32,
        lent_buffers: 1,
        send_memory_bytes: simulation.random_below(200_000) as usize,
        window_bytes: 4096 << simulation.random_below(5),
        send_queue_bytes: queue,
        send_queue_messages: 2 + simulation.random_below(60) as u32,
        high_mark_bytes: queue / 2,
        low_mark_bytes: queue / 4,
        ..times
    }
}

/// Sees what happens to a connection, and whether the reason of its end fits.
#[derive(Clone, Default)]
struct Witness {
    heard: u64,
    sent: u64,
    /// What is heard is sent back at once.
    prompt: bool,
    limits: Arc<Limits>,
    /// The ends that didn't fit, over all connections.
    unfit: Arc<Mutex<Vec<String>>>,
}

impl Witness {
    fn ends(&self, reason: &CloseReason) {
        let limits = &self.limits;
        let default = Limits::default();
        let fits = match reason {
            CloseReason::FirstByteTimeout => {
                limits.first_byte_timeout != default.first_byte_timeout && (self.heard, self.sent) == (0, 0)
            }
            CloseReason::IdleTimeout => {
                limits.idle_timeout != default.idle_timeout && (!self.prompt || self.sent == self.heard)
            }
            CloseReason::SendTooSlow => limits.min_send_progress != default.min_send_progress && self.sent < self.heard,
            CloseReason::ReceiveTooSlow => limits.min_receive_rate.is_some() && self.heard > 0,
            // The system is never out of memory for 10 s.
            CloseReason::SystemMemory => false,
            _ => true,
        };
        if !fits {
            let what = format!("ended as {reason} with {} bytes heard, {} sent, {limits:?}", self.heard, self.sent);
            self.unfit.lock().unwrap_or_else(PoisonError::into_inner).push(what);
        }
    }
}

/// Sends back what comes.
struct Echo {
    witness: Witness,
}

impl Handler for Echo {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        self.witness.heard += data.len() as u64;
        if let Err(refused) = connection.send(data) {
            panic!("an echo was refused: {refused}");
        }
    }

    fn on_sent(&mut self, _connection: &mut Connection<'_>, bytes: usize) {
        self.witness.sent += bytes as u64;
    }

    fn on_close(self, reason: &CloseReason) {
        self.witness.ends(reason);
    }
}

/// Sends back what comes, a little later: holds buffers meanwhile, and doesn't read while it holds many.
struct Later {
    held: VecDeque<Payload>,
    peer_finished: bool,
    witness: Witness,
}

impl Later {
    const HELD_MAX: usize = 3;

    fn new(witness: Witness) -> Self {
        Self { held: VecDeque::new(), peer_finished: false, witness }
    }

    /// Sends what is held, as far as it is taken; the rest waits for `on_writable`.
    fn send_held(&mut self, connection: &mut Connection<'_>) {
        while let Some(payload) = self.held.pop_front() {
            // A copy half of the time, so that send memory is charged.
            let payload =
                if connection.random().is_multiple_of(2) { Payload::copy_from(payload.as_slice()) } else { payload };
            if let Err(refused) = connection.send(payload) {
                self.held.push_front(refused.payload);
                return;
            }
        }
        connection.resume_read();
        if self.peer_finished {
            connection.shutdown();
        }
    }
}

impl Handler for Later {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        self.witness.heard += data.len() as u64;
        self.held.push_back(data.into());
        if self.held.len() >= Self::HELD_MAX {
            connection.pause_read();
        }
        let after = Duration::from_micros(connection.random() % 20_000);
        connection.set_timer(0, after);
    }

    fn on_timer(&mut self, connection: &mut Connection<'_>, _timer: u8) {
        self.send_held(connection);
    }

    fn on_writable(&mut self, connection: &mut Connection<'_>) {
        self.send_held(connection);
    }

    fn on_peer_shutdown(&mut self, connection: &mut Connection<'_>) {
        self.peer_finished = true;
        self.send_held(connection);
    }

    fn on_sent(&mut self, _connection: &mut Connection<'_>, bytes: usize) {
        self.witness.sent += bytes as u64;
    }

    fn on_close(self, reason: &CloseReason) {
        self.witness.ends(reason);
    }
}

/// Sends back what comes until it loses patience: then it ends the connection in one of the ways there are.
struct Moody {
    handle: Option<ConnectionHandle<Mood>>,
    witness: Witness,
}

/// What a moody handler tells itself by its mailbox, as another thread would.
enum Mood {
    /// Finish sending.
    Finish,
    /// Panic.
    Panic,
}

impl Handler for Moody {
    type Message = Mood;

    fn on_connect(&mut self, connection: &mut Connection<'_, Mood>) {
        self.handle = Some(connection.handle());
        if connection.random().is_multiple_of(8) {
            connection.close();
        }
    }

    fn on_read(&mut self, connection: &mut Connection<'_, Mood>, data: Buffer) {
        self.witness.heard += data.len() as u64;
        if let Err(refused) = connection.send(data) {
            // After a half-close of our own nothing more is taken.
            assert_eq!(refused.why, Refusal::Closing, "an echo was refused");
        }
        let Some(handle) = &self.handle else { return };
        match connection.random() % 40 {
            0 => connection.close(),
            1 => connection.abort(),
            2 => connection.shutdown(),
            3 => handle.close(),
            4 => handle.abort(),
            5 => drop(handle.post(Mood::Finish)),
            6 => drop(handle.post(Mood::Panic)),
            7 => {
                connection.pause_read();
                let after = Duration::from_millis(connection.random() % 50);
                connection.set_timer(1, after);
            }
            _ => {}
        }
    }

    fn on_timer(&mut self, connection: &mut Connection<'_, Mood>, _timer: u8) {
        connection.resume_read();
    }

    fn on_message(&mut self, connection: &mut Connection<'_, Mood>, message: Mood) {
        match message {
            Mood::Finish => connection.shutdown(),
            Mood::Panic => panic!("{PLANNED}"),
        }
    }

    fn on_sent(&mut self, _connection: &mut Connection<'_, Mood>, bytes: usize) {
        self.witness.sent += bytes as u64;
    }

    fn on_close(self, reason: &CloseReason) {
        self.witness.ends(reason);
    }
}

/// What a planned panic says.
pub const PLANNED: &str = "a panic that the run plans";

/// A client that sends numbered bytes and wants exactly those back.
struct EchoClient {
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
    fn new(simulation: &Simulation, lenient: bool) -> Self {
        let manner = match simulation.random_below(10) {
            0..=3 => Manner::Whole,
            4..=5 => Manner::Hasty,
            6 => Manner::Late,
            7 => Manner::Stuck,
            8 => Manner::Rude,
            _ => Manner::Silent,
        };
        // Every order of magnitude from one byte to a quarter of a megabyte.
        let total = 1 + simulation.random_below(1 << simulation.random_below(19));
        let (reads_from, ends_at) = (Time::ZERO, Time::MAX);
        Self { manner, lenient, total, sent: 0, received: 0, finished: false, reads_from, ends_at }
    }

    /// The byte at a position of the stream: neighbours differ, and so do positions a buffer apart.
    fn byte_at(position: u64) -> u8 {
        (position ^ position >> 8 ^ position >> 16).wrapping_mul(167) as u8
    }

    fn begin(&mut self, peer: &Peer) {
        let later = |peer: &Peer| {
            let after = Duration::from_millis(1 + peer.random_below(3_000));
            peer.wake_after(after);
            peer.now() + after
        };
        match self.manner {
            Manner::Whole | Manner::Hasty => {}
            Manner::Late => self.reads_from = later(peer),
            Manner::Stuck => {
                self.reads_from = Time::MAX;
                self.ends_at = later(peer);
            }
            Manner::Rude | Manner::Silent => self.ends_at = later(peer),
        }
    }

    fn write(&mut self, peer: &mut Peer) -> Result<(), ErrorKind> {
        let mut chunk = [0; 3000];
        while self.manner != Manner::Silent && self.sent < self.total {
            let length = (self.total - self.sent).min(1 + peer.random_below(chunk.len() as u64));
            for (offset, byte) in (0..length).zip(&mut chunk) {
                *byte = Self::byte_at(self.sent + offset);
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
                if byte != Self::byte_at(position) {
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
                // An orderly end, on a connection that is still there, must come after everything; the drain begins only when
                // all clients are done.
                Ok(true) if !self.lenient && connected && peer.is_connected() && self.received < self.sent => {
                    return Next::Failed(format!("the end came after {} of {} bytes", self.received, self.sent));
                }
                Ok(true) => return Next::Close,
            }
        }
        if broken { Next::Close } else { Next::Wait }
    }
}
