//! The churning load: connect, one echo, close, a fixed number of them at a time.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::time::Duration;

use io_uring::squeue::Flags;
use io_uring::{opcode, types};
use socket2::SockAddr;

use crate::protocol::{Turn, WorkerOrder};
use crate::ring::Ring;

use super::clock::{Clock, Latencies};
use super::connect::Sources;

const SUBMISSION_ENTRIES: u32 = 512;
const COMPLETION_ENTRIES: u32 = 4_096;
const QUIET: u64 = 1 << 32;

/// One of the places in which connections follow each other.
#[derive(Clone, Copy)]
struct Place {
    descriptor: RawFd,
    started_at_ns: u64,
}

/// The churning client.
pub struct Churn {
    ring: Ring,
    server: Box<SockAddr>,
    sources: Sources,
    places: Vec<Place>,
    payload: Vec<u8>,
    /// Never written: the kernel drops what it receives.
    sink: Vec<u8>,
    clock: Clock,
    latencies: Latencies,
}

impl Churn {
    /// Opens the ring; connections are opened in the turns.
    ///
    /// # Errors
    ///
    /// When the ring cannot be set up.
    pub fn new(order: &WorkerOrder) -> io::Result<Churn> {
        let load = order.load;
        let server: SocketAddr = order.server;
        let place = Place { descriptor: -1, started_at_ns: 0 };
        Ok(Churn {
            ring: Ring::open(SUBMISSION_ENTRIES, COMPLETION_ENTRIES)?,
            server: Box::new(server.into()),
            sources: Sources::for_churn(server),
            places: vec![place; load.connections],
            payload: vec![b'.'; load.message_bytes],
            sink: vec![0; load.message_bytes],
            clock: Clock::new(),
            latencies: Latencies::new()?,
        })
    }

    /// Opens, uses and closes connections for `length`, then waits for the last.
    ///
    /// # Errors
    ///
    /// When a connection is refused, ends early, or the ring fails.
    pub fn turn(&mut self, length: Duration) -> io::Result<Turn> {
        let start_ns = self.clock.now_ns();
        let deadline_ns = start_ns + length.as_nanos() as u64;
        for place in 0..self.places.len() {
            self.open(place, start_ns)?;
        }
        let mut due = self.places.len();
        let mut requests = 0;
        let mut now_ns = start_ns;
        while due > 0 {
            self.ring.submit_and_wait()?;
            now_ns = self.clock.now_ns();
            while let Some(completion) = self.ring.completions.next() {
                let data = completion.user_data();
                let place = data as u32 as usize;
                let result = completion.result();
                if data & QUIET != 0 || result != self.payload.len() as i32 {
                    return Err(failure(data & QUIET != 0, result));
                }
                let Place { descriptor, started_at_ns } = self.places[place];
                self.latencies.record(now_ns - started_at_ns);
                requests += 1;
                self.close(descriptor)?;
                if now_ns < deadline_ns {
                    self.open(place, now_ns)?;
                } else {
                    due -= 1;
                }
            }
        }
        // The last closes are still queued.
        self.ring.submit()?;
        Ok(Turn { requests, elapsed_ns: now_ns - start_ns, latencies: self.latencies.drain() })
    }

    /// Starts connect, send and receive as one chain with one completion.
    fn open(&mut self, place: usize, now_ns: u64) -> io::Result<()> {
        let socket = self.sources.socket()?;
        socket.set_tcp_nodelay(true)?;
        let descriptor = types::Fd(socket.as_raw_fd());
        self.places[place] = Place { descriptor: socket.into_raw_fd(), started_at_ns: now_ns };
        let silent_link = Flags::IO_LINK | Flags::SKIP_SUCCESS;
        let bytes = self.payload.len() as u32;
        let connect = opcode::Connect::new(descriptor, self.server.as_ptr().cast(), self.server.len())
            .build()
            .flags(silent_link)
            .user_data(QUIET | place as u64);
        let send = opcode::Send::new(descriptor, self.payload.as_ptr(), bytes)
            .flags(libc::MSG_WAITALL)
            .build()
            .flags(silent_link)
            .user_data(QUIET | place as u64);
        let receive = opcode::Recv::new(descriptor, self.sink.as_mut_ptr(), bytes)
            .flags(libc::MSG_WAITALL | libc::MSG_TRUNC)
            .build()
            .user_data(place as u64);
        // A chain must not be torn by a full queue.
        if self.ring.submissions.capacity() - self.ring.submissions.len() < 3 {
            self.ring.submit()?;
        }
        for entry in [connect, send, receive] {
            // SAFETY: the address is boxed, payload and sink are never resized, and all of them
            // live as long as the ring is used; the sink is not written, its bytes are dropped.
            unsafe { self.ring.push(&entry)? };
        }
        Ok(())
    }

    fn close(&mut self, descriptor: RawFd) -> io::Result<()> {
        let entry = opcode::Close::new(types::Fd(descriptor)).build().flags(Flags::SKIP_SUCCESS).user_data(QUIET);
        // SAFETY: the request names no memory.
        unsafe { self.ring.push(&entry) }
    }
}

fn failure(before_receiving: bool, result: i32) -> io::Error {
    let step = if before_receiving { "connecting or sending" } else { "receiving" };
    let reason = if result < 0 {
        io::Error::from_raw_os_error(-result).to_string()
    } else {
        format!("{result} bytes, then the end")
    };
    io::Error::other(format!("a connection failed {step}: {reason}"))
}
