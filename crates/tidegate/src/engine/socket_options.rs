//! Options that bound what the kernel keeps for a connection: one place for listeners and outgoing sockets.

use std::io;
use std::os::fd::AsFd;

use socket2::SockRef;

/// What is set on a socket; `None` leaves the system's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct SocketOptions {
    /// `SO_SNDBUF`, which the kernel doubles.
    pub send_buffer_bytes: Option<u32>,
    /// `SO_RCVBUF`, which the kernel doubles.
    pub receive_buffer_bytes: Option<u32>,
    /// `TCP_NOTSENT_LOWAT`.
    pub not_sent_low_water_bytes: Option<u32>,
}

/// Sets `options` on `socket`. On a listening socket: before `listen`, because the window that a connection is offered is
/// derived from the receive buffer; accepted sockets inherit all of them. On an outgoing one: before `connect`.
///
/// # Errors
/// What the system says. A buffer above `net.core.wmem_max` or `net.core.rmem_max` is no error: the system takes the maximum.
pub(crate) fn apply_socket_options(socket: &impl AsFd, options: &SocketOptions) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if let Some(bytes) = options.send_buffer_bytes {
        socket.set_send_buffer_size(bytes as usize)?;
    }
    if let Some(bytes) = options.receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes as usize)?;
    }
    #[cfg(target_os = "linux")]
    if let Some(bytes) = options.not_sent_low_water_bytes {
        socket.set_tcp_notsent_lowat(bytes)?;
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn accepted_sockets_inherit_what_is_set_on_the_listener() {
        let options = SocketOptions {
            send_buffer_bytes: Some(50_000),
            receive_buffer_bytes: Some(60_000),
            not_sent_low_water_bytes: Some(7_000),
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        apply_socket_options(&listener, &options).expect("a TCP socket takes them");
        let _client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (accepted, _) = listener.accept().expect("one is waiting");
        let accepted = SockRef::from(&accepted);
        assert_eq!(accepted.send_buffer_size().expect("a socket"), 2 * 50_000, "the kernel doubles it");
        assert_eq!(accepted.recv_buffer_size().expect("a socket"), 2 * 60_000, "the kernel doubles it");
        assert_eq!(accepted.tcp_notsent_lowat().expect("a TCP socket"), 7_000);
    }

    #[test]
    fn what_is_not_set_stays_as_the_system_has_it() {
        let [plain, treated] = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"));
        apply_socket_options(&treated, &SocketOptions::default()).expect("nothing to refuse");
        let (plain, treated) = (SockRef::from(&plain), SockRef::from(&treated));
        assert_eq!(plain.send_buffer_size().expect("a socket"), treated.send_buffer_size().expect("a socket"));
        assert_eq!(plain.recv_buffer_size().expect("a socket"), treated.recv_buffer_size().expect("a socket"));
        assert_eq!(plain.tcp_notsent_lowat().expect("TCP"), treated.tcp_notsent_lowat().expect("TCP"));
    }
}
