//! Numbered lines for as long as the peer reads (after RFC 864, with lines of its own).
//!
//! Line k, from 0, has 64 bytes: k in 20 digits, a space, filler, and a newline. What the peer sends is thrown away, and so is
//! the news that it has finished: as in RFC 864 the lines go on until the connection is closed, so a peer that half-closes and
//! reads on is served, and one that has gone answers the next line with a reset.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidegate::{Buffer, CloseReason, Connection, Handler, Refusal, Sent};

/// The length of a line, its newline included.
pub(crate) const LINE_BYTES: usize = 64;

/// The digits of a line's number: as many as the largest `u64` has.
pub(crate) const DIGITS: usize = 20;

/// What follows the number.
const FILLER: &[u8; LINE_BYTES - DIGITS] = b" abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOP\n";

/// Lines that are sent as one message: 16 KiB, so that two fill the send queue to its default high mark.
const MESSAGE_LINES: u64 = 256;

/// Lines of a message when send memory is used up: 4 KiB, what each connection has for itself whatever others hold
/// ([`Limits::send_floor_bytes`](tidegate::Limits)).
const SMALL_MESSAGE_LINES: u64 = 64;

/// Sends lines to one connection.
pub(super) struct Chargen {
    peer: SocketAddr,
    /// The number of the first line that was not taken yet.
    next_line: u64,
    /// The server drains: no more lines, so that the connection becomes idle and is closed in order.
    draining: Arc<AtomicBool>,
}

impl Chargen {
    pub(super) fn new(peer: SocketAddr, draining: Arc<AtomicBool>) -> Self {
        Self { peer, next_line: 0, draining }
    }

    /// Sends until the connection has had enough; `on_writable` goes on from there.
    fn fill(&mut self, connection: &mut Connection<'_>) {
        let mut count = MESSAGE_LINES;
        while !self.draining.load(Ordering::Acquire) {
            let sent = connection.send(lines(self.next_line, count));
            if sent.is_ok() {
                self.next_line = self.next_line.wrapping_add(count);
            }
            match sent.map_err(|refused| refused.why) {
                Ok(Sent::Queued) => {}
                Err(Refusal::NoMemory { .. }) if count > SMALL_MESSAGE_LINES => count = SMALL_MESSAGE_LINES,
                Ok(_) => return,
                Err(Refusal::Full { .. } | Refusal::NoMemory { .. }) => return,
                Err(Refusal::SlowConsumer { .. } | Refusal::Closing) => return,
                Err(why) => {
                    // The limits leave no room for one message, ever: nothing would come after this.
                    tracing::error!(peer = %self.peer, %why, "lines were refused");
                    connection.abort();
                    return;
                }
            }
        }
    }
}

impl Handler for Chargen {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        tracing::debug!(peer = %self.peer, "connected");
        self.fill(connection);
    }

    fn on_read(&mut self, _connection: &mut Connection<'_>, data: Buffer) {
        tracing::trace!(peer = %self.peer, bytes = data.len(), "received");
    }

    fn on_writable(&mut self, connection: &mut Connection<'_>) {
        self.fill(connection);
    }

    fn on_peer_shutdown(&mut self, _connection: &mut Connection<'_>) {
        tracing::debug!(peer = %self.peer, "finished sending");
    }

    fn on_close(self, reason: &CloseReason) {
        tracing::debug!(peer = %self.peer, lines = self.next_line, %reason, "closed");
    }
}

/// `count` lines from line `first` on.
pub(crate) fn lines(first: u64, count: u64) -> Vec<u8> {
    // Exactly as large as it is filled: capacity is what is charged.
    let mut text = Vec::with_capacity(count as usize * LINE_BYTES);
    for offset in 0..count {
        let mut number = first.wrapping_add(offset);
        let mut digits = [b'0'; DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        text.extend_from_slice(&digits);
        text.extend_from_slice(FILLER);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_64_bytes_its_number_in_front_and_a_newline_at_the_end() {
        let text = lines(12_345, 2);
        assert_eq!(text.len(), 128);
        assert_eq!(text.capacity(), 128, "no byte is charged that is not sent");
        assert_eq!(&text[..64], b"00000000000000012345 abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOP\n");
        assert_eq!(&text[64..85], b"00000000000000012346 ");
    }

    #[test]
    fn the_largest_number_has_room_and_is_followed_by_0() {
        let text = lines(u64::MAX, 2);
        assert!(text.starts_with(b"18446744073709551615 "));
        assert_eq!(&text[64..84], b"00000000000000000000");
    }
}
