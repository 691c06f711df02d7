//! How connections get their filters.

use std::net::SocketAddr;

use super::{Filter, FilterError};

/// What a filter takes for each connection, counted in the ceiling for all that there may be.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Reserve {
    /// What the filter keeps on the heap for as long as it lives, at most, in bytes: its own state, and that of a library that can't be
    /// charged as it goes.
    pub state_bytes: usize,
    /// What it must be able to put on the wire at once to get on, in bytes: one record with its overhead, a ping. Each connection has so
    /// much for itself, beside its floor of send memory.
    pub write_bytes: usize,
}

/// What a factory and its filters take besides, however many connections there are.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SharedReserve {
    /// What one call of a filter may take while it runs, in bytes, on top of what it keeps. An I/O thread runs one call at a time, so this
    /// is counted once a thread.
    pub call_bytes: usize,
    /// What all filters of the factory have together, in bytes: a cache of sessions. Counted once.
    pub shared_bytes: usize,
}

/// Which side of a connection we are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// It was accepted.
    Accepted,
    /// We have connected.
    Connected,
}

/// The connection that a filter is made for.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FilterPeer {
    /// The address of the other end.
    pub address: SocketAddr,
    /// Which side we are.
    pub side: Side,
}

impl FilterPeer {
    /// A peer, for tests of filters.
    pub fn new(address: SocketAddr, side: Side) -> Self {
        Self { address, side }
    }
}

/// What filters have learned about a connection.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct Description {
    /// Where the connection really comes from, as a trusted proxy says.
    pub source: Option<SocketAddr>,
    /// Where it was really made to, as a trusted proxy says.
    pub destination: Option<SocketAddr>,
    /// What goes over the wire is encrypted.
    pub is_encrypted: bool,
    /// The application protocol that was agreed upon (ALPN).
    pub protocol: Option<Vec<u8>>,
    /// The name that the client asked for (SNI).
    pub server_name: Option<String>,
    /// The peer's certificates, in DER, its own first, verified.
    pub certificates: Vec<Vec<u8>>,
}

impl Description {
    /// Nothing.
    pub(crate) const NONE: Self = Self {
        source: None,
        destination: None,
        is_encrypted: false,
        protocol: None,
        server_name: None,
        certificates: Vec::new(),
    };
}

/// Makes one filter for each connection of a listener or client.
pub trait FilterFactory: Send + Sync + 'static {
    /// What each of the filters takes.
    fn reserve(&self) -> Reserve;

    /// What they take besides, together. By default nothing.
    fn shared_reserve(&self) -> SharedReserve {
        SharedReserve::default()
    }

    /// Makes the filter of a new connection, on its I/O thread.
    ///
    /// # Errors
    /// [`FilterError`] ends the connection, with the reason that it names.
    fn make(&self, peer: &FilterPeer) -> Result<Box<dyn Filter>, FilterError>;
}
