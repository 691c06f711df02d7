//! The system calls and layouts that neither `std`, `socket2` nor the `io-uring` crate offer in the form needed here.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A socket address as the kernel writes it.
pub(super) struct KernelAddress {
    /// The bytes of the address.
    pub storage: libc::sockaddr_storage,
    /// How many of them count.
    pub length: libc::socklen_t,
}

impl KernelAddress {
    /// Room for any address.
    pub(super) fn empty() -> Self {
        Self {
            // SAFETY: a sockaddr_storage is plain numbers, for which all zeroes is a value (AF_UNSPEC).
            storage: unsafe { zeroed() },
            length: size_of::<libc::sockaddr_storage>() as libc::socklen_t,
        }
    }

    /// The kernel's form of `address`.
    pub(super) fn from_std(address: SocketAddr) -> Self {
        let address = socket2::SockAddr::from(address);
        let mut kernel = Self::empty();
        kernel.length = address.len();
        // SAFETY: both point to at least `address.len()` bytes, as `sockaddr_storage` holds every address.
        unsafe {
            std::ptr::copy_nonoverlapping(
                address.as_ptr().cast::<u8>(),
                (&raw mut kernel.storage).cast::<u8>(),
                address.len() as usize,
            );
        }
        kernel
    }

    /// The address, or 0.0.0.0:0 if it is of no family that a TCP socket has.
    pub(super) fn to_std(&self) -> SocketAddr {
        match libc::c_int::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that the storage holds a sockaddr_in, and it is aligned for all of them.
                let address = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes());
                SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(address.sin_port)))
            }
            libc::AF_INET6 => {
                // SAFETY: as above, for a sockaddr_in6.
                let address = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
                let port = u16::from_be(address.sin6_port);
                SocketAddr::V6(SocketAddrV6::new(ip, port, address.sin6_flowinfo, address.sin6_scope_id))
            }
            _ => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        }
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Half-closes: our side has finished sending.
pub(super) fn shutdown_write(socket: RawFd) -> io::Result<()> {
    // SAFETY: takes no pointers; a wrong descriptor is an error, not a fault.
    check(unsafe { libc::shutdown(socket, libc::SHUT_WR) }).map(drop)
}

/// Makes the coming close send a reset (`SO_LINGER` with time 0).
pub(super) fn reset_on_close(socket: RawFd) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 })
}

fn set_option<T>(socket: RawFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `value`, which lives until the call returns; it is only read.
    check(unsafe { libc::setsockopt(socket, level, name, std::ptr::from_ref(value).cast(), length) }).map(drop)
}

/// How many bytes wait in the socket's receive buffer.
pub(super) fn unread_bytes(socket: RawFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, to a variable that lives until the call returns.
    check(unsafe { libc::ioctl(socket, libc::FIONREAD, &raw mut bytes) })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Whom the socket is connected to.
pub(super) fn peer_address(socket: RawFd) -> Option<SocketAddr> {
    // SAFETY: the caller's table keeps the descriptor open, and it is not used beyond this call.
    let socket = unsafe { std::os::fd::BorrowedFd::borrow_raw(socket) };
    socket2::SockRef::from(&socket).peer_addr().ok()?.as_socket()
}

/// A TCP socket for a connect to `address`, with `TCP_NODELAY`, from `source` if that is given.
pub(super) fn tcp_socket(address: &SocketAddr, source: Option<IpAddr>) -> io::Result<OwnedFd> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(*address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        // Or the bind would take a whole port, for every target: this way the connect chooses one.
        set_option(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, &1)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(OwnedFd::from(socket))
}

/// The socket's own address.
pub(super) fn local_address(socket: RawFd) -> io::Result<SocketAddr> {
    let mut address = KernelAddress::empty();
    // SAFETY: both pointers are to fields of `address`, which lives until the call returns, and its length is right.
    check(unsafe { libc::getsockname(socket, (&raw mut address.storage).cast(), &raw mut address.length) })?;
    Ok(address.to_std())
}

/// Takes a connection from the backlog of a non-blocking listener; `WouldBlock` when there is none.
pub(super) fn accept_now(listener: RawFd) -> io::Result<(OwnedFd, SocketAddr)> {
    let mut address = KernelAddress::empty();
    // SAFETY: both pointers are to fields of `address`, which lives until the call returns, and its length is right.
    let descriptor = check(unsafe {
        libc::accept4(listener, (&raw mut address.storage).cast(), &raw mut address.length, libc::SOCK_CLOEXEC)
    })?;
    // SAFETY: a descriptor that accept4 has just made belongs to nobody else.
    Ok((unsafe { OwnedFd::from_raw_fd(descriptor) }, address.to_std()))
}

/// Sends what fits into the socket's buffer, without a wait and without a signal.
pub(super) fn send_now(socket: RawFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the pointer and length are those of `bytes`, which live until the call returns.
    let sent = unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Throws away up to `bytes` of what has arrived, without a wait.
pub(super) fn throw_away(socket: RawFd, bytes: usize) -> io::Result<usize> {
    // SAFETY: with MSG_TRUNC a TCP socket copies nothing, so there is no buffer that the length would have to match (tcp(7)).
    let thrown = unsafe { libc::recv(socket, std::ptr::null_mut(), bytes, libc::MSG_TRUNC | libc::MSG_DONTWAIT) };
    usize::try_from(thrown).map_err(|_| io::Error::last_os_error())
}

/// Makes calls on the descriptor return at once, or wait.
pub(super) fn set_nonblocking(descriptor: RawFd, nonblocking: bool) -> io::Result<()> {
    let mut value = libc::c_int::from(nonblocking);
    // SAFETY: FIONBIO reads one int, from a variable that lives until the call returns.
    check(unsafe { libc::ioctl(descriptor, libc::FIONBIO, &raw mut value) }).map(drop)
}

/// An event counter, for waking.
pub(super) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let descriptor = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })?;
    // SAFETY: a descriptor that eventfd has just made belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Adds one to an event counter.
pub(super) fn eventfd_signal(event: &OwnedFd) {
    let one: u64 = 1;
    // SAFETY: eight bytes of a variable that lives until the call returns. The counter can't block: it is read
    // each time it becomes non-zero, and one is added per wake that nobody had announced.
    let written = unsafe { libc::write(event.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    debug_assert_eq!(written, 8, "an event counter takes eight bytes");
}

/// Random bits from the system, to seed the engine's own source.
pub(super) fn random_seed() -> u64 {
    let mut seed = 0u64;
    // SAFETY: eight bytes of a variable that lives until the call returns.
    let got = unsafe { libc::getrandom((&raw mut seed).cast(), size_of::<u64>(), libc::GRND_NONBLOCK) };
    if got == 8 { seed } else { u64::from(std::process::id()).wrapping_mul(0x9E37_79B9_7F4A_7C15) }
}
