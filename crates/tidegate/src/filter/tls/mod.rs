//! TLS, by rustls: 1.3 and 1.2, for accepted connections ([`TlsServer`]) and for those that we make ([`TlsClient`]).
//!
//! # Ending
//!
//! `close_notify` goes out before our half-close. The peer's ends reading, whether a FIN follows or not; sending goes on. A FIN
//! without it is [`Truncated`](super::FilterFailure::Truncated), unless
//! [asked otherwise](TlsServerBuilder::allow_end_without_notice). When a session fails, the alert that says why goes out before the end.
//!
//! # Memory
//!
//! Whatever rustls and the filter keep for a connection is declared by [`Reserve::state_bytes`](super::Reserve::state_bytes), as a bound
//! that tests hold against an allocator that counts. An idle connection has no buffer: a record that is complete is decrypted where it
//! was received, and only a partial one is kept, in memory of exactly its size. Data is handed up in charged buffers of its size;
//! when there is no memory for it, it waits in the place of its record. What is sent is sealed piece by piece, as much as there is room for on
//! the wire.
//!
//! # Randomness
//!
//! Keys come from the system's randomness and certificates are checked against the system's time, also in a simulation.

mod client;
mod explain;
mod filter;
mod handshakes;
mod identity;
mod memory;
mod names;
mod server;
mod session;
#[cfg(all(test, not(loom)))]
mod tests;

pub use client::{TlsClient, TlsClientBuilder};
pub use identity::{Identity, Roots, TlsError};
pub use memory::SESSION_BYTES;
pub use server::{ClientCertificates, Resumption, TlsServer, TlsServerBuilder};

use std::time::Duration;

/// A version of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsVersion {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

impl TlsVersion {
    pub(self) const ALL: [Self; 2] = [Self::V1_3, Self::V1_2];

    fn supported(self) -> &'static rustls::SupportedProtocolVersion {
        match self {
            Self::V1_2 => &rustls::version::TLS12,
            Self::V1_3 => &rustls::version::TLS13,
        }
    }
}

/// The most data in one record: RFC 8446, 5.1.
const RECORD_BYTES: usize = 1 << 14;

/// The most bytes of one record on the wire: its header, and 2,048 bytes that TLS 1.2 allows for encryption (RFC 5246, 6.2.3).
const WIRE_RECORD_BYTES: usize = 5 + RECORD_BYTES + 2048;

/// Room for what encryption adds to the data of one record (at most 5 + 8 + 16 bytes, of TLS 1.2 with AES-GCM), and for a key update
/// that goes before it (5 + 5 + 1 + 16).
const SEAL_OVERHEAD_BYTES: usize = 64;

/// A client with a slow line takes a second or two.
const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// One core does some thousand handshakes a second, so more than these are seconds of work.
const DEFAULT_MAX_HANDSHAKES: usize = 1024;
