//! An io_uring echo loop with nothing around it: the limit others are held against.
//!
//! Multishot accept and receive, data echoed straight from the buffer the kernel
//! received it in, one submission and one wait per batch of completions. It is a
//! reference, not a product: a peer that never reads can hold buffers forever.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::hint;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use io_uring::squeue::Flags;
use io_uring::{cqueue, opcode, types};

use crate::buffer_ring::BufferRing;
use crate::ring::Ring;

const SUBMISSION_ENTRIES: u32 = 256;
const COMPLETION_ENTRIES: u32 = 4_096;
const BUFFER_GROUP: u16 = 0;
/// The end of a connection's list of buffers.
const NO_BUFFER: u16 = u16::MAX;

const ACCEPT: u64 = 0;
const RECEIVE: u64 = 1 << 32;
const SEND: u64 = 2 << 32;
const CLOSE: u64 = 3 << 32;
const KIND_MASK: u64 = !0xffff_ffff;

/// What the loop can be told.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Receive buffers, a power of two.
    pub buffers: u16,
    /// Bytes per buffer.
    pub buffer_bytes: u32,
    /// How long to look for work before sleeping; zero sleeps at once.
    pub spin: Duration,
}

/// One connection, found by its descriptor.
#[derive(Clone, Copy)]
struct Connection {
    /// The buffer being sent, and the first of the list waiting behind it.
    first: u16,
    /// The last buffer of that list.
    last: u16,
    /// Bytes of `first` already sent.
    sent_bytes: u32,
    /// A receive request is with the kernel.
    receiving: bool,
    /// Waiting in line for a free buffer before receiving again.
    starved: bool,
    /// No more data will come or can be sent: close when nothing is in flight.
    ended: bool,
    /// Sending failed: drop what arrives.
    failed: bool,
}

impl Connection {
    const NEW: Connection = Connection {
        first: NO_BUFFER,
        last: NO_BUFFER,
        sent_bytes: 0,
        receiving: false,
        starved: false,
        ended: false,
        failed: false,
    };
}

/// A received piece: its length, and the next piece of the same connection.
#[derive(Clone, Copy)]
struct Piece {
    bytes: u32,
    next: u16,
}

/// The server: a ring, its buffers and a table of connections.
pub struct BareServer {
    ring: Ring,
    buffers: BufferRing,
    listener: TcpListener,
    connections: Vec<Connection>,
    pieces: Vec<Piece>,
    /// Buffers this side holds; the others are with the kernel.
    held: u16,
    /// Connections whose receive found no buffer, in order of asking.
    starved: VecDeque<RawFd>,
    /// The accept request ended for want of descriptors.
    accept_paused: bool,
    spin: Duration,
}

impl BareServer {
    /// Sets up the ring for the calling thread, which must be the one to run it.
    ///
    /// # Errors
    ///
    /// When io_uring is not available or the buffers cannot be registered.
    pub fn new(listener: TcpListener, options: Options) -> io::Result<Self> {
        let ring = Ring::open(SUBMISSION_ENTRIES, COMPLETION_ENTRIES)?;
        let buffers = BufferRing::register(&ring.submitter, BUFFER_GROUP, options.buffers, options.buffer_bytes)?;
        let no_piece = Piece { bytes: 0, next: NO_BUFFER };
        Ok(BareServer {
            ring,
            buffers,
            listener,
            connections: Vec::new(),
            pieces: vec![no_piece; usize::from(options.buffers)],
            held: 0,
            starved: VecDeque::new(),
            accept_paused: false,
            spin: options.spin,
        })
    }

    /// Serves until the ring fails.
    ///
    /// # Errors
    ///
    /// The failure that ended the loop.
    pub fn run(mut self) -> io::Result<Infallible> {
        self.accept()?;
        loop {
            self.wait()?;
            while let Some(completion) = self.ring.completions.next() {
                self.complete(&completion)?;
            }
            self.buffers.publish();
            self.feed_starved()?;
        }
    }

    /// Submits and waits for completions, spinning first where that was asked for.
    #[inline]
    fn wait(&mut self) -> io::Result<()> {
        if self.spin.is_zero() {
            return self.ring.submit_and_wait();
        }
        self.ring.submit()?;
        if self.ring.has_completions() {
            return Ok(());
        }
        let start = Instant::now();
        while start.elapsed() < self.spin {
            for _ in 0..16 {
                if self.ring.has_deferred_work() {
                    self.ring.submit()?;
                    if self.ring.has_completions() {
                        return Ok(());
                    }
                }
                hint::spin_loop();
            }
        }
        self.ring.submit_and_wait()
    }

    #[inline]
    fn complete(&mut self, completion: &cqueue::Entry) -> io::Result<()> {
        let data = completion.user_data();
        let descriptor = data as u32 as RawFd;
        match data & KIND_MASK {
            RECEIVE => self.received(descriptor, completion.result(), completion.flags()),
            SEND => self.sent(descriptor, completion.result()),
            ACCEPT => self.accepted(completion.result(), completion.flags()),
            // A close that succeeds is silent; one that fails has still freed the descriptor.
            _ => Ok(()),
        }
    }

    fn accepted(&mut self, result: i32, flags: u32) -> io::Result<()> {
        if result >= 0 {
            let slot = result as usize;
            if slot >= self.connections.len() {
                self.connections.resize(slot + 1, Connection::NEW);
            }
            self.connections[slot] = Connection::NEW;
            self.receive(result)?;
        }
        if cqueue::more(flags) {
            return Ok(());
        }
        if matches!(-result, libc::EMFILE | libc::ENFILE) {
            // Asking again at once would fail at once: wait until a connection has closed.
            self.accept_paused = true;
            return Ok(());
        }
        self.accept()
    }

    #[inline]
    fn received(&mut self, descriptor: RawFd, result: i32, flags: u32) -> io::Result<()> {
        let connection = &mut self.connections[descriptor as usize];
        let more = cqueue::more(flags);
        if !more {
            connection.receiving = false;
        }
        let buffer = cqueue::buffer_select(flags);
        if buffer.is_some() {
            self.held += 1;
        }
        match (result, buffer) {
            (1.., Some(buffer)) if !connection.failed => {
                self.pieces[usize::from(buffer)] = Piece { bytes: result as u32, next: NO_BUFFER };
                if connection.first == NO_BUFFER {
                    connection.first = buffer;
                    connection.last = buffer;
                    connection.sent_bytes = 0;
                    self.send(descriptor)?;
                } else {
                    self.pieces[usize::from(connection.last)].next = buffer;
                    connection.last = buffer;
                }
            }
            (_, Some(buffer)) => {
                self.give_back(buffer);
                if result <= 0 {
                    self.connections[descriptor as usize].ended = true;
                }
            }
            (result, None) if result == -libc::ENOBUFS => {
                if !connection.ended {
                    connection.starved = true;
                    self.starved.push_back(descriptor);
                }
            }
            (_, None) => connection.ended = true,
        }
        if more {
            return Ok(());
        }
        let connection = &self.connections[descriptor as usize];
        if connection.ended {
            self.close_when_quiet(descriptor)
        } else if connection.starved {
            Ok(())
        } else {
            self.receive(descriptor)
        }
    }

    #[inline]
    fn sent(&mut self, descriptor: RawFd, result: i32) -> io::Result<()> {
        if result <= 0 {
            return self.send_failed(descriptor);
        }
        let connection = &mut self.connections[descriptor as usize];
        let buffer = connection.first;
        let piece = self.pieces[usize::from(buffer)];
        connection.sent_bytes += result as u32;
        if connection.sent_bytes < piece.bytes {
            return self.send(descriptor);
        }
        connection.first = piece.next;
        connection.sent_bytes = 0;
        let more = piece.next != NO_BUFFER;
        let ended = connection.ended;
        self.give_back(buffer);
        if more {
            self.send(descriptor)
        } else if ended {
            self.close_when_quiet(descriptor)
        } else {
            Ok(())
        }
    }

    #[cold]
    fn send_failed(&mut self, descriptor: RawFd) -> io::Result<()> {
        let mut next = self.connections[descriptor as usize].first;
        while next != NO_BUFFER {
            let buffer = next;
            next = self.pieces[usize::from(buffer)].next;
            self.give_back(buffer);
        }
        let connection = &mut self.connections[descriptor as usize];
        connection.first = NO_BUFFER;
        connection.ended = true;
        connection.failed = true;
        connection.starved = false;
        if connection.receiving {
            // Closing would leave the receive request holding the socket. This ends it.
            // SAFETY: a plain call on a descriptor this connection owns.
            unsafe { libc::shutdown(descriptor, libc::SHUT_RDWR) };
        }
        self.close_when_quiet(descriptor)
    }

    fn close_when_quiet(&mut self, descriptor: RawFd) -> io::Result<()> {
        let connection = &self.connections[descriptor as usize];
        if connection.receiving || connection.first != NO_BUFFER {
            return Ok(());
        }
        let entry = opcode::Close::new(types::Fd(descriptor)).build().flags(Flags::SKIP_SUCCESS).user_data(CLOSE);
        // SAFETY: the request names no memory.
        unsafe { self.ring.push(&entry)? };
        if self.accept_paused {
            self.accept_paused = false;
            self.accept()?;
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        let entry = opcode::AcceptMulti::new(types::Fd(self.listener.as_raw_fd()))
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(ACCEPT);
        // SAFETY: the request names no memory, and the listener lives as long as the server.
        unsafe { self.ring.push(&entry) }
    }

    fn receive(&mut self, descriptor: RawFd) -> io::Result<()> {
        self.connections[descriptor as usize].receiving = true;
        let entry = opcode::RecvMulti::new(types::Fd(descriptor), self.buffers.group())
            .build()
            .user_data(RECEIVE | u64::from(descriptor as u32));
        // SAFETY: the kernel writes only to registered buffers, which are never unmapped.
        unsafe { self.ring.push(&entry) }
    }

    #[inline]
    fn send(&mut self, descriptor: RawFd) -> io::Result<()> {
        let connection = &self.connections[descriptor as usize];
        let bytes = self.pieces[usize::from(connection.first)].bytes - connection.sent_bytes;
        let start = self.buffers.address(connection.first).wrapping_add(connection.sent_bytes as usize);
        let entry = opcode::Send::new(types::Fd(descriptor), start, bytes)
            .flags(libc::MSG_WAITALL)
            .build()
            .user_data(SEND | u64::from(descriptor as u32));
        // SAFETY: the bytes lie in a registered buffer that this side holds: it is given back
        // to the kernel only when this request has completed.
        unsafe { self.ring.push(&entry) }
    }

    #[inline]
    fn give_back(&mut self, buffer: u16) {
        self.held -= 1;
        self.buffers.give_back(buffer);
    }

    /// Lets as many waiting connections receive again as there are free buffers.
    ///
    /// Re-arming all of them for a few buffers would make the rest fail again at once.
    #[inline]
    fn feed_starved(&mut self) -> io::Result<()> {
        if self.starved.is_empty() {
            return Ok(());
        }
        let mut free = self.buffers.count() - self.held;
        while free > 0 {
            let Some(descriptor) = self.starved.pop_front() else {
                break;
            };
            // The descriptor may have been closed, and even taken again, while it waited.
            let connection = &mut self.connections[descriptor as usize];
            if connection.starved {
                connection.starved = false;
                self.receive(descriptor)?;
                free -= 1;
            }
        }
        Ok(())
    }
}
