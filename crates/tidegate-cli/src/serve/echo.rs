//! What comes in goes out (RFC 862).

use std::convert::Infallible;
use std::net::SocketAddr;

use tidegate::{Buffer, CloseReason, Connection, Handler};

/// Echoes one connection.
///
/// Without a field: what it has costs every connection memory, the idle ones too.
pub(super) struct Echo;

impl Echo {
    /// For the connection of `peer`.
    pub(super) fn new(peer: SocketAddr) -> Self {
        tracing::debug!(%peer, "connected");
        Self
    }
}

impl Handler for Echo {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        tracing::trace!(bytes = data.len(), "received");
        if let Err(refused) = connection.send(data) {
            // Can't be: `on_read` comes only when there is room for a reply. Better no echo than one with a gap.
            tracing::error!(?connection, %refused, "a reply was refused");
            connection.abort();
        }
    }

    fn on_close(self, reason: &CloseReason) {
        tracing::debug!(%reason, "closed");
    }
}
