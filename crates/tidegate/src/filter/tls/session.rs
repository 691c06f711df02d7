//! One TLS session: the state machine of rustls behind three calls, which take input and give output.
//!
//! It is driven by rustls's unbuffered interface, so that all buffers are the filter's own: between two calls rustls keeps neither
//! input nor output.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{CommonState, Error};

use super::SEAL_OVERHEAD_BYTES;

/// Either end of a connection.
pub(super) enum Session {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
    /// It has failed, and what it took is given back.
    Failed,
}

/// What the input has come to.
#[derive(Debug)]
pub(super) enum Event<T> {
    /// Data, and what was made of it.
    Data(T),
    /// More input is needed; the handshake may go on.
    Starved,
    /// The peer has sent `close_notify`.
    PeerClosed,
}

impl Session {
    /// What is known of the session, unless it has failed.
    pub(super) fn state(&self) -> Option<&CommonState> {
        match self {
            Self::Server(connection) => Some(connection),
            Self::Client(connection) => Some(connection),
            Self::Failed => None,
        }
    }

    /// Takes in `input`: what an earlier call has not discarded, and what has come since then. The bytes to be sent in answer, an alert
    /// too, are appended to `outgoing`. Returns how many bytes are to be discarded from the front of the input, and what it came to; an error is
    /// the end of the session.
    pub(super) fn receive<T>(
        &mut self,
        input: &mut [u8],
        outgoing: &mut Vec<u8>,
        take: impl FnMut(&[u8]) -> T,
    ) -> (usize, Result<Event<T>, Error>) {
        let outcome = match self {
            Self::Server(connection) => receive(&mut **connection, input, outgoing, take),
            Self::Client(connection) => receive(&mut **connection, input, outgoing, take),
            Self::Failed => (0, Err(failed())),
        };
        if outcome.1.is_err() {
            *self = Self::Failed;
        }
        outcome
    }

    /// Makes a record of `plaintext` (records, of more than one holds). `input` is what has come of an unfinished record.
    pub(super) fn seal(&mut self, input: &mut [u8], plaintext: &[u8]) -> Result<Vec<u8>, Error> {
        match self {
            Self::Server(connection) => seal(&mut **connection, input, plaintext),
            Self::Client(connection) => seal(&mut **connection, input, plaintext),
            Self::Failed => Err(failed()),
        }
    }

    /// Appends `close_notify` to `outgoing`. `input` is what has come of an unfinished record.
    pub(super) fn close(&mut self, input: &mut [u8], outgoing: &mut Vec<u8>) {
        match self {
            Self::Server(connection) => close(&mut **connection, input, outgoing),
            Self::Client(connection) => close(&mut **connection, input, outgoing),
            Self::Failed => {}
        }
    }
}

fn failed() -> Error {
    Error::General("the session has failed".to_owned())
}

/// What both kinds of connection of rustls do.
trait Connection {
    type Data;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn has_output(&self) -> bool;
}

impl Connection for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn has_output(&self) -> bool {
        self.wants_write()
    }
}

impl Connection for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn has_output(&self) -> bool {
        self.wants_write()
    }
}

fn receive<C: Connection, T>(
    connection: &mut C,
    input: &mut [u8],
    outgoing: &mut Vec<u8>,
    mut take: impl FnMut(&[u8]) -> T,
) -> (usize, Result<Event<T>, Error>) {
    let mut discarded = 0;
    let result = loop {
        let UnbufferedStatus { mut discard, state } = connection.process(&mut input[discarded..]);
        let event = match state {
            Err(error) => Some(Err(error)),
            Ok(ConnectionState::ReadTraffic(mut traffic)) => match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    Some(Ok(Event::Data(take(record.payload))))
                }
                Some(Err(error)) => Some(Err(error)),
                None => None,
            },
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                append(outgoing, |room| data.encode(room));
                None
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                None
            }
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Some(Ok(Event::PeerClosed)),
            Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Some(Ok(Event::Starved)),
            // Early data is never enabled.
            Ok(_) => Some(Err(Error::General("a state of the session that was not asked for".into()))),
        };
        discarded += discard;
        if let Some(event) = event {
            break event;
        }
    };
    // The alert that says why it failed.
    while result.is_err() && connection.has_output() {
        let UnbufferedStatus { discard, state } = connection.process(&mut input[discarded..]);
        let Ok(ConnectionState::EncodeTlsData(mut data)) = state else { break };
        append(outgoing, |room| data.encode(room));
        discarded += discard;
    }
    (discarded, result)
}

/// Makes as much room at the end of `outgoing` as what is encoded takes.
fn append(outgoing: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let Err(EncodeError::InsufficientSize(size)) = encode(&mut []) else { return };
    let before = outgoing.len();
    outgoing.reserve_exact(size.required_size);
    outgoing.resize(before + size.required_size, 0);
    let written = encode(&mut outgoing[before..]).unwrap_or(0);
    outgoing.truncate(before + written);
}

fn seal<C: Connection>(connection: &mut C, input: &mut [u8], plaintext: &[u8]) -> Result<Vec<u8>, Error> {
    let mut traffic = match connection.process(input).state? {
        ConnectionState::WriteTraffic(traffic) => traffic,
        state => return Err(Error::General(format!("data to be sent in the state {state:?}"))),
    };
    let mut sealed = vec![0; plaintext.len() + SEAL_OVERHEAD_BYTES];
    match traffic.encrypt(plaintext, &mut sealed) {
        Ok(length) => {
            sealed.truncate(length);
            Ok(sealed)
        }
        Err(EncryptError::EncryptExhausted) => Err(Error::EncryptError),
        Err(EncryptError::InsufficientSize(size)) => {
            let (length, required) = (plaintext.len(), size.required_size);
            Err(Error::General(format!("a record of {length} bytes of data takes {required} bytes")))
        }
    }
}

fn close<C: Connection>(connection: &mut C, input: &mut [u8], outgoing: &mut Vec<u8>) {
    if let Ok(ConnectionState::WriteTraffic(mut traffic)) = connection.process(input).state {
        let mut alert = [0; 2 * SEAL_OVERHEAD_BYTES];
        if let Ok(length) = traffic.queue_close_notify(&mut alert) {
            outgoing.extend_from_slice(&alert[..length]);
        }
    }
}
