//! What TLS takes, in bytes.
//!
//! rustls can't be charged as it allocates, so what it takes at most is declared ahead, for every connection. The figures are measured:
//! the test `tls_memory` counts what each connection allocates, for all kinds of handshakes and whatever a peer does, and fails if it is
//! more than declared here.

use super::{Resumption, SEAL_OVERHEAD_BYTES, TlsError, WIRE_RECORD_BYTES};
use crate::filter::{Reserve, SharedReserve};

/// A record, and what is usual of a peer's chain.
pub(super) const DEFAULT_PEER_HANDSHAKE_BYTES: usize = WIRE_RECORD_BYTES;

/// Less is not enough for a ClientHello with keys that withstand quantum computers.
const PEER_HANDSHAKE_BYTES_MIN: usize = 4 << 10;

/// rustls takes no longer message.
const PEER_HANDSHAKE_BYTES_MAX: usize = 65_535;

/// A chain of three certificates with RSA keys of 2048 bits takes about 4 KiB.
pub(super) const DEFAULT_CHAIN_BYTES: usize = 8 << 10;

/// The most that a session in the cache of a server may take, in bytes: its keys, and the client's certificates if it has shown some.
pub const SESSION_BYTES: usize = 4 << 10;

/// What an entry of the cache takes besides: its key twice, its places in the table and in the order of age.
const SESSION_OVERHEAD_BYTES: usize = 512;

/// The tickets that a client keeps of a server: rustls keeps up to eight of TLS 1.3, and one of TLS 1.2.
pub(super) const CLIENT_SESSIONS: usize = 8;

/// What a session takes whatever its certificates are: keys, names, hashes, and our own state.
const SESSION_STATE_BYTES: usize = 7 << 10;

/// rustls notes where each of the handshake messages in a record begins and ends, in 40 bytes, and gives the memory back with the
/// session. Only a server may send many that are in order: tickets of at least 18 bytes, 910 in a record, so 1,024 places.
const TICKET_PLACES_BYTES: usize = 1024 * 40;

/// The same for empty messages of 4 bytes, which end the session with the first of them: 4,096 places, while the 2,048 before are copied.
const MESSAGE_PLACES_BYTES: usize = (4096 + 2048) * 40;

/// A configuration with its keys and, for a server, those of tickets.
const FACTORY_BYTES: usize = 16 << 10;

/// The least that must go out at once: a record of 4 KiB.
const WRITE_BYTES: usize = (4 << 10) + SEAL_OVERHEAD_BYTES;

/// What the connections of a factory take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub each: Reserve,
    pub shared: SharedReserve,
}

/// Of a server's connections.
pub(super) fn server(chain_bytes: usize, peer_bytes: usize, asks_clients: bool, resumption: Resumption) -> Memory {
    // Until the handshake is over: our chain, which waits to be sent, and what has come of a message. With client certificates also the
    // client's chain, all messages until now, which are signed in the end, and a ticket with the client's chain.
    let handshake_bytes = match asks_clients {
        false => chain_bytes + peer_bytes,
        true => 2 * chain_bytes + 4 * peer_bytes,
    };
    // After it: what has come of a record, and the client's chain.
    let peer_chain_bytes = if asks_clients { peer_bytes } else { 0 };
    let open_bytes = peer_bytes.max(WIRE_RECORD_BYTES) + peer_chain_bytes;
    let sessions = match resumption {
        Resumption::None | Resumption::Tickets => 0,
        Resumption::Cache { sessions } => sessions,
    };
    Memory {
        each: Reserve { state_bytes: SESSION_STATE_BYTES + handshake_bytes.max(open_bytes), write_bytes: WRITE_BYTES },
        shared: SharedReserve {
            call_bytes: call_bytes(chain_bytes, peer_bytes),
            shared_bytes: FACTORY_BYTES + chain_bytes + sessions * (SESSION_BYTES + SESSION_OVERHEAD_BYTES),
        },
    }
}

/// Of a client's connections. With a chain of our own, all messages of a handshake are kept until its end, as at a server.
pub(super) fn client(chain_bytes: usize, peer_bytes: usize, resumes: bool) -> Memory {
    let handshake_bytes = match chain_bytes {
        0 => 3 * peer_bytes,
        _ => 2 * chain_bytes + 4 * peer_bytes,
    };
    // What has come of a record, the server's chain, and a session that is taken up.
    let open_bytes = peer_bytes.max(WIRE_RECORD_BYTES) + 2 * peer_bytes;
    let sessions = if resumes { CLIENT_SESSIONS + 1 } else { 0 };
    Memory {
        each: Reserve {
            state_bytes: SESSION_STATE_BYTES + TICKET_PLACES_BYTES + handshake_bytes.max(open_bytes),
            write_bytes: WRITE_BYTES,
        },
        // Each with a ticket and with the server's chain.
        shared: SharedReserve {
            call_bytes: call_bytes(chain_bytes, peer_bytes),
            shared_bytes: FACTORY_BYTES + chain_bytes + sessions * (2 * peer_bytes + SESSION_OVERHEAD_BYTES),
        },
    }
}

/// While a call runs: the data of a record, or the chains in all the forms in which they are put together, compared and encrypted.
fn call_bytes(chain_bytes: usize, peer_bytes: usize) -> usize {
    (WIRE_RECORD_BYTES + 6 * (chain_bytes + peer_bytes)).max(WIRE_RECORD_BYTES + MESSAGE_PLACES_BYTES)
}

pub(super) fn check_peer_handshake(bytes: usize) -> Result<(), TlsError> {
    if (PEER_HANDSHAKE_BYTES_MIN..=PEER_HANDSHAKE_BYTES_MAX).contains(&bytes) {
        return Ok(());
    }
    let text = format!(
        "peer_handshake_bytes is {bytes}, it must be from {PEER_HANDSHAKE_BYTES_MIN} to {PEER_HANDSHAKE_BYTES_MAX}"
    );
    Err(TlsError::Options { text })
}
