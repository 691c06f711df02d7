//! The system calls on sockets. None of them waits.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::engine::accept_error::accept_error;
use crate::engine::{SocketOptions, apply_socket_options};
use crate::memory::{Gather, ReceiveArena};

/// Where a peer that is gone would raise a signal, sends ask for an error instead; the others have a socket option for it, which
/// `std` and `socket2` set.
#[cfg(not(target_vendor = "apple"))]
const SEND_FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: libc::c_int = libc::MSG_DONTWAIT;

/// How much one call throws away at most, in bytes.
const DISCARD_BYTES: usize = 64 * 1024;

/// Receives into buffer `index` of the arena, which was taken and not filled.
#[inline]
pub(super) fn receive(socket: &OwnedFd, arena: &ReceiveArena, index: u32) -> io::Result<usize> {
    // SAFETY: a buffer that was taken and not filled is the engine's alone, and as long as that.
    let buffer = unsafe {
        std::slice::from_raw_parts_mut(arena.address(index).as_ptr().cast::<MaybeUninit<u8>>(), arena.buffer_bytes())
    };
    receive_into(socket, buffer).map_err(named)
}

/// Not by way of the C library, which in a program with threads makes each call a point where its thread may be cancelled, at 2 % of
/// the processor time of a small request.
#[cfg(target_os = "linux")]
#[inline]
fn receive_into(socket: &OwnedFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    let nobody = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the pointer and the length are those of a slice that lives until the call returns; the address of the peer isn't asked for.
    let count = unsafe {
        libc::syscall(
            libc::SYS_recvfrom,
            socket.as_raw_fd(),
            buffer.as_mut_ptr(),
            buffer.len(),
            libc::MSG_DONTWAIT,
            nobody,
            nobody,
        )
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

#[cfg(not(target_os = "linux"))]
fn receive_into(socket: &OwnedFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    SockRef::from(socket).recv_with_flags(buffer, libc::MSG_DONTWAIT)
}

/// As for [`receive_into`].
#[cfg(target_os = "linux")]
#[inline]
pub(super) fn send_slice(socket: &OwnedFd, slice: &[u8]) -> io::Result<usize> {
    let nobody = std::ptr::null::<libc::c_void>();
    // SAFETY: the pointer and the length are those of a slice that lives until the call returns; no address is given.
    let count = unsafe {
        libc::syscall(libc::SYS_sendto, socket.as_raw_fd(), slice.as_ptr(), slice.len(), SEND_FLAGS, nobody, 0)
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn send_slice(socket: &OwnedFd, slice: &[u8]) -> io::Result<usize> {
    SockRef::from(socket).send_with_flags(slice, SEND_FLAGS)
}

/// Receives and throws away.
#[cfg(target_os = "linux")]
pub(super) fn discard(socket: &OwnedFd, _scratch: &mut Vec<u8>) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    // SAFETY: with MSG_TRUNC TCP throws the bytes away and never touches the (missing) memory.
    let count = unsafe { libc::recv(socket.as_raw_fd(), std::ptr::null_mut(), DISCARD_BYTES, flags) };
    usize::try_from(count).map_err(|_| named(io::Error::last_os_error()))
}

/// Receives and throws away, by way of `scratch`, which is made when it is first needed.
#[cfg(not(target_os = "linux"))]
pub(super) fn discard(socket: &OwnedFd, scratch: &mut Vec<u8>) -> io::Result<usize> {
    scratch.reserve(DISCARD_BYTES);
    let place = &mut scratch.spare_capacity_mut()[..DISCARD_BYTES];
    SockRef::from(socket).recv_with_flags(place, libc::MSG_DONTWAIT).map_err(named)
}

/// Offers the next slice of `gather`; how much was taken, and of how much.
#[inline]
pub(super) fn send(socket: &OwnedFd, gather: &Gather) -> (io::Result<usize>, usize) {
    match gather.only_slice() {
        Some(slice) => (send_slice(socket, slice).map_err(named), slice.len()),
        None => send_gathered(socket, gather),
    }
}

#[inline(never)]
fn send_gathered(socket: &OwnedFd, gather: &Gather) -> (io::Result<usize>, usize) {
    let mut slices = [IoSlice::new(&[]); Gather::PIECES];
    let (mut count, mut offered) = (0, 0);
    for slice in gather.slices() {
        slices[count] = IoSlice::new(slice);
        offered += slice.len();
        count += 1;
    }
    (SockRef::from(socket).send_vectored_with_flags(&slices[..count], SEND_FLAGS).map_err(named), offered)
}

/// A non-blocking TCP socket for a connect to `address`, with `TCP_NODELAY` and `options`, from `source` if that is given.
pub(super) fn tcp_socket(address: &SocketAddr, source: Option<IpAddr>, options: &SocketOptions) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    apply_socket_options(&socket, options)?;
    if let Some(source) = source {
        // Or the bind would take a whole port, for every target: this way the connect chooses one. Other systems have nothing like it.
        #[cfg(target_os = "linux")]
        choose_port_late(&socket)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(OwnedFd::from(socket))
}

/// Makes a bind to port 0 leave the choice of the port to the connect.
#[cfg(target_os = "linux")]
fn choose_port_late(socket: &Socket) -> io::Result<()> {
    let yes: libc::c_int = 1;
    // SAFETY: the pointer and size describe a variable that lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const yes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Begins to connect, if it is not done at once.
pub(super) fn connect(socket: &OwnedFd, address: &SocketAddr) -> io::Result<()> {
    match SockRef::from(socket).connect(&(*address).into()) {
        // One that a signal interrupts goes on all the same.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINPROGRESS | libc::EINTR)) => Ok(()),
        result => result,
    }
}

/// How a connect has ended, with the socket's own address; `None`: it has not.
pub(super) fn connected(socket: &OwnedFd) -> Option<io::Result<SocketAddr>> {
    let socket = SockRef::from(socket);
    match socket.take_error() {
        Ok(None) => {}
        Ok(Some(error)) | Err(error) => return Some(Err(error)),
    }
    match socket.peer_addr() {
        Ok(_) => {
            let address = |local: socket2::SockAddr| local.as_socket().ok_or(io::ErrorKind::Unsupported.into());
            Some(socket.local_addr().and_then(address))
        }
        Err(error) if error.kind() == io::ErrorKind::NotConnected => None,
        Err(error) => Some(Err(error)),
    }
}

/// Half-closes: our side has finished sending.
pub(super) fn shutdown_write(socket: &OwnedFd) -> io::Result<()> {
    SockRef::from(socket).shutdown(std::net::Shutdown::Write)
}

/// Ends both directions.
pub(super) fn shutdown_both(socket: &OwnedFd) -> io::Result<()> {
    SockRef::from(socket).shutdown(std::net::Shutdown::Both)
}

/// Makes the coming close send a reset.
pub(super) fn reset_on_close(socket: &OwnedFd) {
    // On a socket that is no longer connected this may fail; then there is nobody to reset.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// How many bytes wait in the socket's receive buffer.
pub(super) fn unread_bytes(socket: &OwnedFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, to a variable that lives until the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD as _, &raw mut bytes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(usize::try_from(bytes).unwrap_or(0)) }
}

/// Whom the socket is connected to.
pub(super) fn peer_address(socket: &OwnedFd) -> Option<SocketAddr> {
    SockRef::from(socket).peer_addr().ok()?.as_socket()
}

/// Takes a connection from the backlog of a non-blocking listener; `WouldBlock` when there is none.
pub(super) fn accept(listener: &OwnedFd) -> io::Result<(OwnedFd, SocketAddr)> {
    let (socket, address) = SockRef::from(listener).accept().map_err(accept_error)?;
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    Ok((OwnedFd::from(socket), address.as_socket().unwrap_or(unknown)))
}

/// For a connected socket: Linux has a flag for each call, other systems have it for some.
pub(super) fn set_nonblocking_where_calls_may_wait(socket: &OwnedFd) -> io::Result<()> {
    if cfg!(target_os = "linux") { Ok(()) } else { set_nonblocking(socket) }
}

/// Makes calls on the descriptor return at once.
pub(super) fn set_nonblocking(descriptor: &OwnedFd) -> io::Result<()> {
    SockRef::from(descriptor).set_nonblocking(true)
}

/// An error with one name for each way of the system to say that it has no memory for a socket, which passes.
fn named(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOMEM | libc::ENOBUFS) => io::ErrorKind::OutOfMemory.into(),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_be_out_of_memory_has_one_name() {
        let kind = |error| named(io::Error::from_raw_os_error(error)).kind();
        assert_eq!((kind(libc::ENOMEM), kind(libc::ENOBUFS)), (io::ErrorKind::OutOfMemory, io::ErrorKind::OutOfMemory));
        assert_eq!(kind(libc::ECONNRESET), io::ErrorKind::ConnectionReset);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_source_address_takes_no_port_before_the_connect() {
        let (target, source) = (SocketAddr::from(([127, 0, 0, 1], 9)), IpAddr::from([127, 0, 0, 9]));
        let socket = tcp_socket(&target, Some(source), &SocketOptions::default()).expect("a socket");
        let local = SockRef::from(&socket).local_addr().expect("an address").as_socket();
        assert_eq!(local, Some(SocketAddr::new(source, 0)));
    }
}
