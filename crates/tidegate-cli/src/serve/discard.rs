//! What comes in is thrown away (RFC 863).

use std::convert::Infallible;
use std::net::SocketAddr;

use tidegate::{Buffer, CloseReason, Connection, Handler};

/// Discards what one connection sends. When the peer has finished, so has the server.
///
/// Without a field: what it has costs every connection memory, the idle ones too.
pub(super) struct Discard;

impl Discard {
    /// For the connection of `peer`.
    pub(super) fn new(peer: SocketAddr) -> Self {
        tracing::debug!(%peer, "connected");
        Self
    }
}

impl Handler for Discard {
    type Message = Infallible;

    fn on_read(&mut self, _connection: &mut Connection<'_>, data: Buffer) {
        tracing::trace!(bytes = data.len(), "received");
    }

    fn on_close(self, reason: &CloseReason) {
        tracing::debug!(%reason, "closed");
    }
}
