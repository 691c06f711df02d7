//! The listening socket both peers use, so that they differ only in how they serve it.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// The backlog asked for; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// Opens a blocking listener on `address` with `TCP_NODELAY`, which accepted
/// sockets inherit.
///
/// # Errors
///
/// Whatever the kernel answers to `socket`, `setsockopt`, `bind` or `listen`.
pub fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Prints the line by which `compare` learns the real port of an echo server.
///
/// # Errors
///
/// When the address cannot be read or standard output is closed.
pub fn announce(listener: &TcpListener) -> io::Result<()> {
    announce_service(listener, "echo")
}

/// The same for another service.
///
/// # Errors
///
/// As [`announce`].
pub fn announce_service(listener: &TcpListener, service: &str) -> io::Result<()> {
    let address = listener.local_addr()?;
    let mut output = io::stdout().lock();
    writeln!(output, "listening {service} tcp {address}")?;
    output.flush()
}
