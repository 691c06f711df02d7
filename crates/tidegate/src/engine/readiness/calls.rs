//! The system calls on sockets. None of them waits.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

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
    receive_into(socket, buffer)
}

/// Not by way of the C library, which in a program with threads makes each call a point where its thread may be cancelled, at 4 % of
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
fn send_slice(socket: &OwnedFd, slice: &[u8]) -> io::Result<usize> {
    let nobody = std::ptr::null::<libc::c_void>();
    // SAFETY: the pointer and the length are those of a slice that lives until the call returns; no address is given.
    let count = unsafe {
        libc::syscall(libc::SYS_sendto, socket.as_raw_fd(), slice.as_ptr(), slice.len(), SEND_FLAGS, nobody, 0)
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

#[cfg(not(target_os = "linux"))]
fn send_slice(socket: &OwnedFd, slice: &[u8]) -> io::Result<usize> {
    SockRef::from(socket).send_with_flags(slice, SEND_FLAGS)
}

/// Receives and throws away.
#[cfg(target_os = "linux")]
pub(super) fn discard(socket: &OwnedFd, _scratch: &mut Vec<u8>) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    // SAFETY: with MSG_TRUNC TCP throws the bytes away and never touches the (missing) memory.
    let count = unsafe { libc::recv(socket.as_raw_fd(), std::ptr::null_mut(), DISCARD_BYTES, flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Receives and throws away, by way of `scratch`, which is made when it is first needed.
#[cfg(not(target_os = "linux"))]
pub(super) fn discard(socket: &OwnedFd, scratch: &mut Vec<u8>) -> io::Result<usize> {
    scratch.reserve(DISCARD_BYTES);
    SockRef::from(socket).recv_with_flags(&mut scratch.spare_capacity_mut()[..DISCARD_BYTES], libc::MSG_DONTWAIT)
}

/// Offers the next slice of `gather`; how much was taken, and of how much.
#[inline]
pub(super) fn send(socket: &OwnedFd, gather: &Gather) -> (io::Result<usize>, usize) {
    match gather.only_slice() {
        Some(slice) => (send_slice(socket, slice), slice.len()),
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
    (SockRef::from(socket).send_vectored_with_flags(&slices[..count], SEND_FLAGS), offered)
}

/// A non-blocking TCP socket for a connect to `address`, with `TCP_NODELAY`.
pub(super) fn tcp_socket(address: &SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    Ok(OwnedFd::from(socket))
}

/// Begins to connect; whether it is done already.
pub(super) fn connect(socket: &OwnedFd, address: &SocketAddr) -> io::Result<bool> {
    match SockRef::from(socket).connect(&(*address).into()) {
        Ok(()) => Ok(true),
        // One that a signal interrupts goes on all the same.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINPROGRESS | libc::EINTR)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// How a connect has ended; `None`: it has not.
pub(super) fn connected(socket: &OwnedFd) -> Option<io::Result<()>> {
    let socket = SockRef::from(socket);
    match socket.take_error() {
        Ok(None) => {}
        Ok(Some(error)) | Err(error) => return Some(Err(error)),
    }
    match socket.peer_addr() {
        Ok(_) => Some(Ok(())),
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

/// Takes a connection from the backlog of a non-blocking listener; `WouldBlock` when there is none.
pub(super) fn accept(listener: &OwnedFd) -> io::Result<(OwnedFd, SocketAddr)> {
    let (socket, address) = SockRef::from(listener).accept()?;
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    Ok((OwnedFd::from(socket), address.as_socket().unwrap_or(unknown)))
}

/// Makes calls on the descriptor return at once.
pub(super) fn set_nonblocking(descriptor: &OwnedFd) -> io::Result<()> {
    SockRef::from(descriptor).set_nonblocking(true)
}
