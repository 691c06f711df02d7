//! A service of messages behind every filter that knows them: the header of a proxy, framing, keep-alive. It knows from the header what each
//! of its clients is up to, so that no connection ends for a reason that doesn't fit.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidegate::filter::framing::{Framing, Prefix};
use tidegate::filter::proxy::ProxyProtocol;
use tidegate::filter::{FilterError, FilterFailure, Heard, KeepAlive, KeepAliveCodec};
use tidegate::sim::{Fault, Simulation};
use tidegate::{Accepted, AccessList, Buffer, CloseReason, Connection, Handler, Listener, Network};

use super::client::byte_at;
use super::framed_client::Manner;
use super::services::Witness;

/// Messages of one byte: a ping, its answer, and what is said to those for whom there is no room.
pub const PING: u8 = 1;
pub const ANSWER: u8 = 2;
pub const BUSY: u8 = 3;

/// Each message begins with its number, whose bytes these are; no message is shorter, so none is taken for one of those above.
pub const NUMBER_BYTES: usize = 4;

/// The second byte of addresses from where headers are taken, from where they are not, and that may not connect at all.
pub const TRUSTED: u8 = 77;
pub const STRANGE: u8 = 78;
pub const DENIED: u8 = 79;

/// What the service and its clients have agreed upon in one world.
#[derive(Clone)]
pub struct Terms {
    prefix: Prefix,
    pub max_bytes: usize,
    after: Duration,
    answer_within: Duration,
    pub pings: u32,
    message_timeout: Duration,
    /// The times above are longer than anything here keeps a client that does its part.
    is_patient: bool,
    /// How many times the clock has jumped: that makes anybody silent.
    jumps: Arc<AtomicU64>,
    /// One more than how many times it had when somebody was heard of last who was then taken for silent. 0: nobody was.
    wronged: Arc<AtomicU64>,
}

impl Terms {
    pub fn new(simulation: &Simulation, is_impatient: bool) -> Self {
        let between =
            |least_ms: u64, most_ms: u64| Duration::from_millis(least_ms + simulation.random_below(most_ms - least_ms));
        // A way is clogged for two seconds at most.
        let (after, answer_within, message_timeout) = if is_impatient {
            (between(20, 1_000), between(20, 500), between(20, 1_000))
        } else {
            (between(4_000, 6_000), between(4_000, 6_000), between(5_000, 8_000))
        };
        Self {
            prefix: if simulation.random_below(2) == 0 { Prefix::U16BigEndian } else { Prefix::U32LittleEndian },
            max_bytes: 32 << simulation.random_below(7),
            after,
            answer_within,
            pings: 1 + simulation.random_below(2) as u32,
            message_timeout,
            is_patient: !is_impatient,
            jumps: Arc::default(),
            wronged: Arc::default(),
        }
    }

    /// The listener, with its filters.
    pub fn listener(&self) -> Listener {
        let framing = Framing::prefix(self.prefix, self.max_bytes).message_timeout(self.message_timeout);
        let keep_alive = KeepAlive::new(Knocks).after(self.after).answer_within(self.answer_within).pings(self.pings);
        Listener::tcp(([10, 0, 0, 1], 7017).into())
            .access(AccessList::new().deny(network(DENIED)))
            .busy_answer(self.frame(&[BUSY]))
            .filter(ProxyProtocol::from([network(TRUSTED)]))
            .filter(framing)
            .filter(keep_alive)
    }

    pub fn prefix_bytes(&self) -> usize {
        if self.prefix == Prefix::U16BigEndian { 2 } else { 4 }
    }

    /// The prefix that announces `length` bytes.
    pub fn prefix(&self, length: usize) -> Vec<u8> {
        match self.prefix {
            Prefix::U16BigEndian => (length as u16).to_be_bytes().to_vec(),
            _ => (length as u32).to_le_bytes().to_vec(),
        }
    }

    /// The length that `prefix` announces.
    pub fn length(&self, prefix: &[u8]) -> usize {
        let add = |length: usize, &byte: &u8| length << 8 | usize::from(byte);
        match self.prefix {
            Prefix::U16BigEndian => prefix.iter().fold(0, add),
            _ => prefix.iter().rev().fold(0, add),
        }
    }

    pub fn frame(&self, message: &[u8]) -> Vec<u8> {
        [&self.prefix(message.len()), message].concat()
    }

    /// Nobody is ended for being silent who does their part; to be called after each step.
    pub fn check(&self, simulation: &Simulation) -> Result<(), String> {
        let jumps = simulation.faults_struck().find(|(fault, _)| matches!(fault, Fault::ClockJump));
        let jumps = jumps.map_or(0, |(_, times)| times);
        self.jumps.store(jumps, Ordering::Relaxed);
        match self.wronged.load(Ordering::Relaxed) > jumps {
            true => Err("a client that does its part was given up".into()),
            false => Ok(()),
        }
    }
}

fn network(second: u8) -> Network {
    let network = Network::of(IpAddr::V4(Ipv4Addr::new(10, second, 0, 0)), 16);
    network.unwrap_or_else(|| unreachable!("16 bits of 32"))
}

/// Message `number`, with `length` bytes.
pub fn message(number: u32, length: usize) -> Vec<u8> {
    let mut message = vec![byte_at(number.into()); length.max(NUMBER_BYTES)];
    message[..NUMBER_BYTES].copy_from_slice(&number.to_be_bytes());
    message
}

/// Pings and answers of one byte.
struct Knocks;

impl KeepAliveCodec for Knocks {
    fn bytes_max(&self) -> usize {
        1
    }

    fn ping(&self, _number: u64) -> Vec<u8> {
        vec![PING]
    }

    fn hear(&self, message: &[u8]) -> Result<Heard, FilterError> {
        match message {
            [PING] => Ok(Heard::Ping(vec![ANSWER])),
            [ANSWER] => Ok(Heard::Answer),
            [_] => Err(FilterError::new(FilterFailure::Protocol, "a message of one byte that means nothing")),
            _ => Ok(Heard::Message),
        }
    }
}

/// Sends back each message, and looks now and then away for a while.
pub struct Framed {
    manner: Option<Manner>,
    /// How many messages the client has, and how many have come.
    count: u32,
    next: u32,
    /// How many times the clock had jumped when the client was heard of last.
    jumps_heard: u64,
    terms: Terms,
    witness: Witness,
}

impl Framed {
    /// The header says in the port of the source what the client is up to, and in that of the destination how many messages it has.
    pub fn new(accepted: &Accepted, terms: Terms, mut witness: Witness) -> Self {
        let description = accepted.description();
        let said = description.source.zip(description.destination).map(|(from, to)| (from.port(), to.port()));
        let manner = said.and_then(|(manner, _)| Manner::of(manner)).filter(|manner| manner.is_served());
        if manner.is_none() || !network(TRUSTED).contains(accepted.peer.ip()) {
            witness.complaints.add(format!("a handler for {accepted:?}, who says {said:?}"));
        }
        // The header has come, at least.
        witness.hears(1);
        let (count, jumps_heard) = (said.map_or(0, |(_, count)| count.into()), terms.jumps.load(Ordering::Relaxed));
        Self { manner, count, next: 0, jumps_heard, terms, witness }
    }

    /// Whether this connection, whose messages came in order, may end so.
    fn fits(&self, reason: &CloseReason) -> bool {
        let Some(manner) = self.manner else { return true };
        let is_whole = self.next == self.count;
        match reason {
            CloseReason::Finished => manner.finishes() && is_whole,
            CloseReason::ProtocolError => manner == Manner::Broken && is_whole,
            CloseReason::MessageTooLarge => manner == Manner::Oversized && is_whole,
            CloseReason::Truncated => manner == Manner::Cut && is_whole,
            CloseReason::MessageTimeout | CloseReason::NoAnswer if !self.terms.is_patient => true,
            CloseReason::MessageTimeout if manner == Manner::Stalling => is_whole,
            CloseReason::NoAnswer if matches!(manner, Manner::Stalling | Manner::Deaf) => is_whole,
            CloseReason::MessageTimeout | CloseReason::NoAnswer => {
                self.terms.wronged.fetch_max(self.jumps_heard + 1, Ordering::Relaxed);
                true
            }
            // For those there is no handler.
            CloseReason::HandshakeTimeout | CloseReason::NotAllowed | CloseReason::Busy => false,
            _ => true,
        }
    }
}

impl Handler for Framed {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        self.witness.hears(data.len());
        if data.len() > self.terms.max_bytes || data[..] != message(self.next, data.len())[..] {
            let (next, length) = (self.next, data.len());
            self.witness.complaints.add(format!("{length} bytes came that are not message {next}"));
        }
        self.next += 1;
        self.jumps_heard = self.terms.jumps.load(Ordering::Relaxed);
        if let Err(refused) = connection.send(data) {
            self.witness.complaints.add(format!("an echo was refused: {refused}"));
        }
        if connection.random().is_multiple_of(32) {
            connection.pause_read();
            let after = Duration::from_micros(connection.random() % 50_000);
            connection.set_timer(0, after);
        }
    }

    fn on_timer(&mut self, connection: &mut Connection<'_>, _timer: u8) {
        connection.resume_read();
    }

    fn on_sent(&mut self, _connection: &mut Connection<'_>, bytes: usize) {
        self.witness.sends(bytes);
    }

    fn on_close(self, reason: &CloseReason) {
        self.witness.ends(reason);
        if !self.fits(reason) {
            let Self { manner, count, next, .. } = &self;
            self.witness.complaints.add(format!("{manner:?} ended as {reason} after {next} of {count} messages"));
        }
    }
}
