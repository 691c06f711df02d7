//! What comes in is thrown away (RFC 863).

use std::convert::Infallible;
use std::net::SocketAddr;

use tidegate::{Buffer, CloseReason, Connection, Handler};

/// Discards what one connection sends. When the peer has finished, so has the server.
pub(super) struct Discard {
    peer: SocketAddr,
}

impl Discard {
    pub(super) fn new(peer: SocketAddr) -> Self {
        Self { peer }
    }
}

impl Handler for Discard {
    type Message = Infallible;

    fn on_connect(&mut self, _connection: &mut Connection<'_>) {
        tracing::debug!(peer = %self.peer, "connected");
    }

    fn on_read(&mut self, _connection: &mut Connection<'_>, data: Buffer) {
        tracing::trace!(peer = %self.peer, bytes = data.len(), "received");
    }

    fn on_close(self, reason: &CloseReason) {
        tracing::debug!(peer = %self.peer, %reason, "closed");
    }
}
