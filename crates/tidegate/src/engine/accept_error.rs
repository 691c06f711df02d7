//! What it means that an accept has failed.

use std::io;

/// An error of the connection that was to be accepted, which the system tells by the accept, has one name: that connection is gone, and nothing
/// is wrong with accepting. Others are left as they are.
pub(crate) fn accept_error(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EPROTO | libc::ENETDOWN | libc::ENETUNREACH | libc::EHOSTDOWN | libc::EHOSTUNREACH) => {
            io::ErrorKind::ConnectionAborted.into()
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_connection_is_none_of_accepting_and_a_lack_is() {
        let kind = |error| accept_error(io::Error::from_raw_os_error(error)).kind();
        assert_eq!(kind(libc::EPROTO), io::ErrorKind::ConnectionAborted);
        assert_eq!(kind(libc::EHOSTUNREACH), io::ErrorKind::ConnectionAborted);
        assert_eq!(kind(libc::ECONNABORTED), io::ErrorKind::ConnectionAborted);
        assert_eq!(kind(libc::EAGAIN), io::ErrorKind::WouldBlock);
        for lack in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EINVAL] {
            assert_eq!(accept_error(io::Error::from_raw_os_error(lack)).raw_os_error(), Some(lack));
        }
    }
}
