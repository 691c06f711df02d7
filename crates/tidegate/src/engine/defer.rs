//! A connection is accepted when it has said something: an option of listening sockets.

use std::io;
use std::net::TcpListener;
use std::time::Duration;

/// Lets `listener` keep a connection back until data has arrived on it, for about `time` (`TCP_DEFER_ACCEPT`).
///
/// The system counts in retransmissions of its handshake, so the time is rounded up to whole seconds here and to the next
/// retransmission there. Elsewhere than on Linux this has no effect.
#[cfg(target_os = "linux")]
pub(crate) fn defer_accept(listener: &TcpListener, time: Duration) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    let seconds = libc::c_int::try_from(seconds).unwrap_or(libc::c_int::MAX);
    // SAFETY: the pointer and size describe `seconds`, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has no effect on this system.
#[cfg(not(target_os = "linux"))]
pub(crate) fn defer_accept(_listener: &TcpListener, _time: Duration) -> io::Result<()> {
    Ok(())
}
