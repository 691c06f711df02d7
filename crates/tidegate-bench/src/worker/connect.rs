//! Opening connections from enough source addresses that ports are found quickly.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::machine;

/// One source address is good for some 28,000 ports, but the search for a free
/// one slows down long before.
const CONNECTIONS_PER_SOURCE: usize = 1_000;

/// How long connecting, sending or receiving may take outside the measured turns.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes sockets that are bound to one of several loopback addresses in turn.
pub struct Sources {
    server: SocketAddr,
    made: usize,
    per_source: usize,
    /// The default may be paced by timers: ask for cubic on each socket.
    set_cubic: bool,
}

impl Sources {
    /// For many connections open at once.
    pub fn for_steady(server: SocketAddr) -> Sources {
        Sources::new(server, CONNECTIONS_PER_SOURCE)
    }

    /// For connections opened and closed in a row: every one from the next address,
    /// so that ports still in `TIME_WAIT` are few on each.
    pub fn for_churn(server: SocketAddr) -> Sources {
        Sources::new(server, 1)
    }

    fn new(server: SocketAddr, per_source: usize) -> Sources {
        Sources { server, made: 0, per_source, set_cubic: !machine::congestion_control_is_unpaced() }
    }

    /// A socket ready to be connected.
    ///
    /// # Errors
    ///
    /// What the kernel answers to `socket`, `setsockopt` or `bind`.
    pub fn socket(&mut self) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.server), Type::STREAM, Some(Protocol::TCP))?;
        if self.set_cubic {
            // Not every kernel has it; the facts printed at the end say what was used.
            let _ = socket.set_tcp_congestion(b"cubic");
        }
        if let IpAddr::V4(ip) = self.server.ip()
            && ip.is_loopback()
        {
            let host = 2 + (self.made / self.per_source % 250) as u8;
            let source = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, host), 0);
            bind_without_port(&socket)?;
            socket.bind(&source.into())?;
        }
        self.made += 1;
        Ok(socket)
    }

    /// A connected, blocking stream that gives up after a while.
    ///
    /// # Errors
    ///
    /// As [`Sources::socket`], and what the kernel answers to `connect`.
    pub fn connect(&mut self) -> io::Result<TcpStream> {
        let socket = self.socket()?;
        socket.set_tcp_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect(&self.server.into())?;
        Ok(socket.into())
    }
}

/// Opens `count` connections.
///
/// # Errors
///
/// The first one that failed, with its number.
pub fn connect_all(server: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    let mut sources = Sources::for_steady(server);
    (0..count)
        .map(|number| {
            sources
                .connect()
                .map_err(|error| io::Error::new(error.kind(), format!("connection {number} of {count}: {error}")))
        })
        .collect()
}

/// Leaves the choice of port to `connect`, when the destination is known and the
/// same port can serve several destinations.
fn bind_without_port(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and length describe a live integer.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
