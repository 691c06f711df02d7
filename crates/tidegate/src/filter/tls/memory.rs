//! What TLS takes, in bytes.
//!
//! rustls can't be charged as it allocates, so what it takes at most is declared ahead, for every connection. The figures are measured:
//! the test `tls_memory` counts what each connection allocates, for all kinds of handshakes and whatever a peer does, and fails if it is
//! more than declared here.

use super::{Resumption, SEAL_OVERHEAD_BYTES, TlsError, WIRE_RECORD_BYTES};
use crate::filter::Reserve;

/// The least that must be kept of what a peer sends: a whole record.
pub(super) const PEER_HANDSHAKE_BYTES_MIN: usize = WIRE_RECORD_BYTES;

/// The most: rustls takes no longer message.
const PEER_HANDSHAKE_BYTES_MAX: usize = 65_535;

/// A chain of three certificates with RSA keys of 2048 bits takes about 4 KiB.
pub(super) const DEFAULT_CHAIN_BYTES: usize = 8 << 10;

/// The most that a session in the cache of a server may take, in bytes: its keys, and the client's certificates if it has shown some.
pub const SESSION_BYTES: usize = 4 << 10;

/// What an entry of the cache takes besides: its key twice, its places in the table and in the order of age.
const SESSION_OVERHEAD_BYTES: usize = 256;

/// The tickets that a client keeps of a server: rustls keeps up to eight of TLS 1.3, and one of TLS 1.2.
pub(super) const CLIENT_SESSIONS: usize = 8;

/// What a session takes whatever its certificates are.
const SESSION_STATE_BYTES: usize = 16 << 10;

/// The least that must go out at once: a record of 4 KiB.
const WRITE_BYTES: usize = (4 << 10) + SEAL_OVERHEAD_BYTES;

/// Of a server's connection.
pub(super) fn server(chain_bytes: usize, peer_handshake_bytes: usize, _asks: bool, _resumption: Resumption) -> Reserve {
    Reserve { state_bytes: (1 << 20) + SESSION_STATE_BYTES + 4 * chain_bytes + 4 * peer_handshake_bytes, write_bytes: WRITE_BYTES, call_bytes: 1 << 20, shared_bytes: 0 }
}

/// Of a client's connection.
pub(super) fn client(chain_bytes: usize, peer_handshake_bytes: usize, _resumes: bool) -> Reserve {
    Reserve { state_bytes: (1 << 20) + SESSION_STATE_BYTES + 4 * chain_bytes + 4 * peer_handshake_bytes, write_bytes: WRITE_BYTES, call_bytes: 1 << 20, shared_bytes: 0 }
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
