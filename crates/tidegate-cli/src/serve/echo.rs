//! What comes in goes out (RFC 862).

use std::convert::Infallible;
use std::net::SocketAddr;

use tidegate::{Buffer, CloseReason, Connection, Handler};

/// Echoes one connection.
pub(super) struct Echo {
    peer: SocketAddr,
}

impl Echo {
    pub(super) fn new(peer: SocketAddr) -> Self {
        Self { peer }
    }
}

impl Handler for Echo {
    type Message = Infallible;

    fn on_connect(&mut self, _connection: &mut Connection<'_>) {
        tracing::debug!(peer = %self.peer, "connected");
    }

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        tracing::trace!(peer = %self.peer, bytes = data.len(), "received");
        if let Err(refused) = connection.send(data) {
            // Can't be: `on_read` comes only when there is room for a reply. Better no echo than one with a gap.
            tracing::error!(peer = %self.peer, %refused, "a reply was refused");
            connection.abort();
        }
    }

    fn on_close(self, reason: &CloseReason) {
        tracing::debug!(peer = %self.peer, %reason, "closed");
    }
}
