//! A far end that sends without end: a pattern by which every byte tells its place.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

use crate::listen;
use crate::machine;

use super::streams::Poll;

/// The period of the pattern: a prime, so that no buffer is as long as a multiple of it.
const PERIOD: usize = 251;
/// What one call hands to the system at most.
const WRITE_BYTES: usize = 256 << 10;
/// The listener, among the connections.
const LISTENER: u64 = u64::MAX;

/// The byte at a place of the stream.
#[must_use]
pub fn byte_at(place: usize) -> u8 {
    (place % PERIOD) as u8
}

/// Sends to everybody who connects to `address`, as fast as it is taken.
///
/// # Errors
///
/// When it can't listen or wait.
pub fn serve(address: SocketAddr) -> io::Result<Infallible> {
    machine::raise_descriptor_limit()?;
    let listener = listen::open(address)?;
    listener.set_nonblocking(true)?;
    listen::announce_service(&listener, "source")?;
    let pattern: Vec<u8> = (0..WRITE_BYTES + PERIOD).map(byte_at).collect();
    let poll = Poll::new()?;
    poll.add(listener.as_raw_fd(), LISTENER, libc::EPOLLIN as u32)?;
    let mut receivers: HashMap<u64, (TcpStream, usize)> = HashMap::new();
    let mut next = 0;
    loop {
        for key in poll.wait(-1)? {
            if key == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    poll.add(stream.as_raw_fd(), next, libc::EPOLLOUT as u32)?;
                    receivers.insert(next, (stream, 0));
                    next += 1;
                }
                continue;
            }
            let Some((stream, place)) = receivers.get_mut(&key) else { continue };
            match stream.write(&pattern[*place..*place + WRITE_BYTES]) {
                Ok(bytes) => *place = (*place + bytes) % PERIOD,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // It has gone.
                Err(_) => drop(receivers.remove(&key)),
            }
        }
    }
}
