//! One numbered stream for everybody: the data-distribution server in its smallest form.
//!
//! A message has `--size` bytes: its length in 4 (big endian, like the rest), its number from 1 in 8, the time of publishing in 8
//! (nanoseconds since the Unix epoch), and then byte i is the number plus i, of which the lowest 8 bits. The publisher is a thread of its
//! own. When it is refused it waits for room and goes on with the same number, so the numbers have no gaps where they begin.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tidegate::{Buffer, CloseReason, Connection, Group, Handler, PublishRefusal};

use crate::Failure;

/// The bytes before the filler: length, number, time.
pub(crate) const HEADER_BYTES: usize = 4 + 8 + 8;

/// The smallest message: the header and some filler that can be checked.
pub(crate) const SIZE_MIN: usize = 24;

/// How long the publisher waits for the first receiver or for room before it looks whether it is to stop.
const PATIENCE: Duration = Duration::from_millis(100);

/// Subscribes one connection. What the peer sends is thrown away, and so is the news that it has finished.
pub(super) struct Subscriber {
    group: Group,
}

impl Subscriber {
    /// For the connection of `peer`.
    pub(super) fn new(peer: SocketAddr, group: Group) -> Self {
        tracing::debug!(%peer, "connected");
        Self { group }
    }
}

impl Handler for Subscriber {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        if let Err(error) = connection.join(&self.group) {
            // Can't be: it is the only group that it joins.
            tracing::error!(%error, "no place in the group");
            connection.abort();
        }
    }

    fn on_read(&mut self, _connection: &mut Connection<'_>, data: Buffer) {
        tracing::trace!(bytes = data.len(), "received");
    }

    fn on_peer_shutdown(&mut self, _connection: &mut Connection<'_>) {}

    fn on_close(self, reason: &CloseReason) {
        tracing::debug!(%reason, "closed");
    }
}

/// Publishes until it is dropped, or the server drains.
pub(super) struct Ticker {
    /// Hanging up ends the thread.
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Publishes a message of `size` bytes to `group` each `interval`; zero: as fast as the group takes them, while it has members.
    pub(super) fn start(group: Group, interval: Duration, size: usize) -> Result<Self, Failure> {
        let (stop, stopped) = mpsc::sync_channel::<()>(0);
        let thread = std::thread::Builder::new()
            .name("tidegate-ticker".into())
            .spawn(move || publish_all(&group, interval, size, &stopped))
            .map_err(|error| Failure::Refused(format!("can't start the thread that publishes: {error}")))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // If it panicked, that is in the log already.
            let _ = thread.join();
        }
    }
}

fn publish_all(group: &Group, interval: Duration, size: usize, stopped: &Receiver<()>) {
    let mut next = Instant::now() + interval;
    for number in 1_u64.. {
        // Without an interval the numbers wait for somebody who gets them.
        while interval.is_zero() && group.members() == 0 {
            if stopped.recv_timeout(PATIENCE) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
        if !interval.is_zero() {
            if stopped.recv_timeout(next.saturating_duration_since(Instant::now())) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            // After having waited for room, the pace begins anew: nothing is made up for.
            next = Instant::now().max(next + interval);
        }
        while let Err(refused) = group.publish(message(number, nanos_now(), size)) {
            match refused.why {
                PublishRefusal::QueueFull { .. } | PublishRefusal::NoMemory { .. } => {
                    group.wait_for_room(PATIENCE);
                    if stopped.try_recv() != Err(TryRecvError::Empty) {
                        return;
                    }
                }
                PublishRefusal::ServerOver => return,
                why => {
                    tracing::error!(%why, "nothing can be published");
                    return;
                }
            }
        }
    }
}

fn nanos_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

/// Message `number`, published at `nanos`.
pub(crate) fn message(number: u64, nanos: u64, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size);
    bytes.extend_from_slice(&(size as u32).to_be_bytes());
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&nanos.to_be_bytes());
    bytes.extend((HEADER_BYTES..size).map(|place| (number as u8).wrapping_add(place as u8)));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_length_its_number_its_time_and_filler_that_can_be_checked() {
        let bytes = message(0x0102_0304_0506_07ff, 77, 24);
        assert_eq!(bytes.len(), 24);
        assert_eq!(bytes[..4], [0, 0, 0, 24]);
        assert_eq!(bytes[4..12], [1, 2, 3, 4, 5, 6, 7, 0xff]);
        assert_eq!(bytes[12..20], [0, 0, 0, 0, 0, 0, 0, 77]);
        assert_eq!(bytes[20..], [0xff_u8.wrapping_add(20), 20, 21, 22]);
        assert_eq!(message(1, 1, 128).capacity(), 128, "no byte is charged that is not sent");
    }
}
