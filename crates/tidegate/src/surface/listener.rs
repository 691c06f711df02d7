//! Where connections come from.

use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::engine::{SocketOptions, apply_socket_options};

/// A place to accept connections at.
#[derive(Clone, Debug)]
pub struct Listener {
    address: SocketAddr,
    backlog: u32,
}

impl Listener {
    /// Connections that the system keeps while the server has not taken them; the system caps it at `net.core.somaxconn`
    /// (4,096 by default since Linux 5.4).
    pub const BACKLOG: u32 = 4096;

    /// TCP at `address`; port 0 lets the system choose one ([`Bound::local_addrs`](crate::Bound::local_addrs) tells which).
    pub fn tcp(address: SocketAddr) -> Self {
        Self { address, backlog: Self::BACKLOG }
    }

    /// How many connections may wait to be accepted, [`BACKLOG`](Self::BACKLOG) by default.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = connections;
        self
    }

    /// The address that was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn backlog_connections(&self) -> u32 {
        self.backlog
    }

    pub(crate) fn bind(&self, options: &SocketOptions) -> io::Result<TcpListener> {
        let domain = socket2::Domain::for_address(self.address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        // A restart must not wait for the connections of the last run to leave TIME_WAIT. On Unix this doesn't let two
        // servers share a port; on Windows it would.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        // Accepted sockets inherit it: messages go out when they are sent.
        socket.set_tcp_nodelay(true)?;
        // They inherit these too, at no cost per connection.
        apply_socket_options(&socket, options)?;
        if self.address.is_ipv6() {
            // [::]:port and 0.0.0.0:port are two listeners, on every system.
            socket.set_only_v6(true)?;
        }
        socket.bind(&self.address.into())?;
        socket.listen(i32::try_from(self.backlog).unwrap_or(i32::MAX))?;
        Ok(socket.into())
    }
}
