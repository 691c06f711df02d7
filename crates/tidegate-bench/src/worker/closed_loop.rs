//! The steady load: every connection keeps a fixed number of messages outstanding.
//!
//! The client shares the machine with the server it measures, so it does as little
//! as it can: io_uring, received data dropped by the kernel, silent sends.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::squeue::Flags;
use io_uring::{cqueue, opcode, types};

use crate::buffer_ring::{BufferRing, MAX_BUFFERS};
use crate::protocol::{Turn, WorkerOrder};
use crate::ring::Ring;

use super::clock::{Clock, Latencies};

const SUBMISSION_ENTRIES: u32 = 512;
const COMPLETION_ENTRIES: u32 = 16_384;
const BUFFER_GROUP: u16 = 0;
const SEND: u64 = 1 << 32;
/// The least a receive can take at once.
const MIN_RECEIVE_BYTES: usize = 16 * 1024;

/// What one connection is waiting for.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// Bytes of the next message already here.
    partial_bytes: usize,
    /// Which of the connection's send times belongs to the next answer.
    oldest: usize,
}

/// All connections of a steady load.
pub struct ClosedLoop {
    ring: Ring,
    buffers: BufferRing,
    /// Kept open; the ring uses them by their registered place.
    streams: Vec<TcpStream>,
    progress: Vec<Progress>,
    /// When each outstanding message was sent, `outstanding` per connection.
    sent_at_ns: Vec<u64>,
    payload: Vec<u8>,
    message_bytes: usize,
    outstanding: usize,
    spin: Duration,
    clock: Clock,
    latencies: Latencies,
    receiving: bool,
}

impl ClosedLoop {
    /// Takes over connected streams on which nothing is in flight.
    ///
    /// # Errors
    ///
    /// When the ring cannot be set up.
    pub fn new(streams: Vec<TcpStream>, order: &WorkerOrder) -> io::Result<ClosedLoop> {
        let load = order.load;
        let ring = Ring::open(SUBMISSION_ENTRIES, COMPLETION_ENTRIES)?;
        let descriptors: Vec<RawFd> = streams.iter().map(AsRawFd::as_raw_fd).collect();
        ring.submitter.register_files(&descriptors)?;
        let payload = vec![b'.'; load.message_bytes * load.outstanding];
        let buffers = load.connections.next_power_of_two().max(256);
        let buffers = BufferRing::register_discarding(
            &ring.submitter,
            BUFFER_GROUP,
            u16::try_from(buffers).unwrap_or(MAX_BUFFERS).min(MAX_BUFFERS),
            payload.len().max(MIN_RECEIVE_BYTES) as u32,
        )?;
        Ok(ClosedLoop {
            ring,
            buffers,
            progress: vec![Progress::default(); streams.len()],
            sent_at_ns: vec![0; streams.len() * load.outstanding],
            streams,
            payload,
            message_bytes: load.message_bytes,
            outstanding: load.outstanding,
            spin: Duration::from_micros(order.spin_us),
            clock: Clock::new(),
            latencies: Latencies::new()?,
            receiving: false,
        })
    }

    /// Loads the server for `length`, then waits for the answers still due.
    ///
    /// # Errors
    ///
    /// When the server closes a connection, sends too much, or the ring fails.
    pub fn turn(&mut self, length: Duration) -> io::Result<Turn> {
        if !self.receiving {
            for connection in 0..self.streams.len() {
                self.receive(connection)?;
            }
            self.receiving = true;
        }
        let start_ns = self.clock.now_ns();
        let deadline_ns = start_ns + length.as_nanos() as u64;
        self.sent_at_ns.fill(start_ns);
        for connection in 0..self.streams.len() {
            self.send(connection, self.outstanding)?;
        }
        let mut due = self.streams.len() * self.outstanding;
        let mut requests = 0;
        let mut now_ns = start_ns;
        while due > 0 {
            self.wait()?;
            now_ns = self.clock.now_ns();
            while let Some(completion) = self.ring.completions.next() {
                let Some((connection, messages)) = self.complete(&completion, now_ns)? else {
                    continue;
                };
                requests += messages as u64;
                if now_ns < deadline_ns {
                    self.send(connection, messages)?;
                } else {
                    due = due
                        .checked_sub(messages)
                        .ok_or_else(|| io::Error::other("the server sent more than it had received"))?;
                }
            }
            self.buffers.publish();
        }
        Ok(Turn { requests, elapsed_ns: now_ns - start_ns, latencies: self.latencies.drain() })
    }

    fn wait(&mut self) -> io::Result<()> {
        if !self.spin.is_zero() {
            let end_ns = self.clock.now_ns() + self.spin.as_nanos() as u64;
            loop {
                self.ring.submit()?;
                if self.ring.has_completions() {
                    return Ok(());
                }
                while !self.ring.has_deferred_work() && self.clock.now_ns() < end_ns {
                    std::hint::spin_loop();
                }
                if !self.ring.has_deferred_work() {
                    break;
                }
            }
        }
        self.ring.submit_and_wait()
    }

    /// Returns which connection got how many whole messages.
    #[inline]
    fn complete(&mut self, completion: &cqueue::Entry, now_ns: u64) -> io::Result<Option<(usize, usize)>> {
        let data = completion.user_data();
        let connection = data as u32 as usize;
        let result = completion.result();
        if data & SEND != 0 {
            // Sends are silent unless they fail.
            return Err(failure(connection, "sending", result));
        }
        if let Some(buffer) = cqueue::buffer_select(completion.flags()) {
            self.buffers.give_back(buffer);
        }
        if result <= 0 && result != -libc::ENOBUFS {
            return Err(failure(connection, "receiving", result));
        }
        if !cqueue::more(completion.flags()) {
            self.buffers.publish();
            self.receive(connection)?;
        }
        if result <= 0 {
            return Ok(None);
        }
        let progress = &mut self.progress[connection];
        let bytes = progress.partial_bytes + result as usize;
        // A division for every answer would be felt; one message at a time is the common case.
        let messages = if bytes == self.message_bytes {
            progress.partial_bytes = 0;
            1
        } else {
            progress.partial_bytes = bytes % self.message_bytes;
            bytes / self.message_bytes
        };
        if messages > self.outstanding {
            return Err(io::Error::other(format!(
                "connection {connection}: {messages} messages answered, {} were outstanding",
                self.outstanding
            )));
        }
        let first = connection * self.outstanding;
        for _ in 0..messages {
            let sent_at_ns = &mut self.sent_at_ns[first + progress.oldest];
            self.latencies.record(now_ns - *sent_at_ns);
            *sent_at_ns = now_ns;
            progress.oldest += 1;
            if progress.oldest == self.outstanding {
                progress.oldest = 0;
            }
        }
        Ok((messages > 0).then_some((connection, messages)))
    }

    #[inline]
    fn send(&mut self, connection: usize, messages: usize) -> io::Result<()> {
        let bytes = messages * self.message_bytes;
        let entry = opcode::Send::new(types::Fixed(connection as u32), self.payload.as_ptr(), bytes as u32)
            .flags(libc::MSG_WAITALL)
            .build()
            .flags(Flags::SKIP_SUCCESS)
            .user_data(SEND | connection as u64);
        // SAFETY: the payload is never written or freed while a turn is on, and a turn ends
        // only when all that was sent has come back.
        unsafe { self.ring.push(&entry) }
    }

    fn receive(&mut self, connection: usize) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(types::Fixed(connection as u32), self.buffers.group())
            .flags(libc::MSG_TRUNC)
            .build()
            .user_data(connection as u64);
        // SAFETY: the kernel drops the data, and the registered buffer is never unmapped.
        unsafe { self.ring.push(&entry) }
    }
}

fn failure(connection: usize, doing: &str, result: i32) -> io::Error {
    let reason = if result == 0 {
        "the server closed it".to_owned()
    } else if result > 0 {
        format!("only {result} bytes went out")
    } else {
        io::Error::from_raw_os_error(-result).to_string()
    };
    io::Error::other(format!("connection {connection}, {doing}: {reason}"))
}
