//! An epoll echo loop with nothing around it: the limit that servers on readiness are held against.
//!
//! Edge-triggered, one registration per connection, one thread. What a connection has is received into one buffer
//! that stays in the cache and is sent from it at once; a receive that brings less than there was room for is the last one,
//! unless the peer has finished. Only what the system does not take of a send is copied, and only then is the
//! connection registered for room to write. So a request costs two calls and its part of a wait. It is a reference,
//! not a product: nothing limits what peers that never read make it keep, and urgent data is not looked for.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// What a connection is registered for, and what it is while something waits to be sent.
const READING: u32 = (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
const WRITING: u32 = READING | libc::EPOLLOUT as u32;
/// After these there may be an end to receive, which is not told again.
const TO_THE_END: u32 = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;
/// Buffers that one connection may fill before the others have their turn.
const BUFFERS_PER_TURN: u32 = 16;

/// What the loop can be told.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of the receive buffer.
    pub buffer_bytes: usize,
    /// The most events of one wait.
    pub events: usize,
}

/// What the system did not take of the last send.
struct Unsent {
    bytes: Vec<u8>,
    sent_bytes: usize,
}

/// One connection, found by its descriptor.
#[derive(Default)]
struct Connection {
    /// Nothing is received meanwhile.
    unsent: Option<Box<Unsent>>,
    /// In the list of those whose turn ended before their data.
    again: bool,
}

/// How receiving, or a send, came out.
enum Outcome {
    /// Nothing more to do until the next event.
    Done,
    /// The turn was over before the data.
    Again,
    /// The connection is over.
    Over,
}

/// The server: an epoll instance, one buffer and a table of connections.
pub struct BareEpollServer {
    epoll: OwnedFd,
    listener: TcpListener,
    connections: Vec<Connection>,
    /// Connections whose turn ended before their data.
    again: Vec<RawFd>,
    buffer: Vec<u8>,
    events: Vec<libc::epoll_event>,
    /// Descriptors ran out with somebody in the backlog.
    accept_paused: bool,
}

impl BareEpollServer {
    /// Sets up the loop.
    ///
    /// # Errors
    ///
    /// What the system says to `epoll_create1`, `epoll_ctl` or `fcntl`.
    pub fn new(listener: TcpListener, options: Options) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        // SAFETY: takes no pointers.
        let epoll = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        let server = Self {
            // SAFETY: a descriptor that epoll_create1 has just made belongs to nobody else.
            epoll: unsafe { OwnedFd::from_raw_fd(epoll) },
            listener,
            connections: Vec::new(),
            again: Vec::new(),
            buffer: vec![0; options.buffer_bytes],
            events: vec![libc::epoll_event { events: 0, u64: 0 }; options.events],
            accept_paused: false,
        };
        server.register(libc::EPOLL_CTL_ADD, server.listener.as_raw_fd(), (libc::EPOLLIN | libc::EPOLLET) as u32)?;
        Ok(server)
    }

    /// Serves until the system refuses to tell what happens.
    ///
    /// # Errors
    ///
    /// The failure that ended the loop.
    pub fn run(mut self) -> io::Result<Infallible> {
        let listener = self.listener.as_raw_fd();
        loop {
            let count = self.wait()?;
            for number in 0..count {
                let event = self.events[number];
                let descriptor = event.u64 as RawFd;
                if descriptor == listener {
                    self.accept()?;
                } else {
                    self.serve(descriptor, event.events)?;
                }
            }
            if !self.again.is_empty() {
                self.serve_again()?;
            }
        }
    }

    /// Waits for events, but not when somebody's data is known to wait; returns how many there are.
    fn wait(&mut self) -> io::Result<usize> {
        let timeout = if self.again.is_empty() { -1 } else { 0 };
        loop {
            // SAFETY: the list has room for as many events as are asked for.
            let count = unsafe {
                libc::epoll_wait(
                    self.epoll.as_raw_fd(),
                    self.events.as_mut_ptr(),
                    self.events.len() as libc::c_int,
                    timeout,
                )
            };
            match check(count) {
                Ok(count) => return Ok(count as usize),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Accepts everybody in the backlog.
    #[cold]
    fn accept(&mut self) -> io::Result<()> {
        loop {
            // SAFETY: no address is asked for.
            let accepted = check(unsafe {
                libc::accept4(
                    self.listener.as_raw_fd(),
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                    libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                )
            });
            let descriptor = match accepted {
                Ok(descriptor) => descriptor,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE) => {
                        // The backlog is not told again: it is looked at when a connection has closed.
                        self.accept_paused = true;
                        return Ok(());
                    }
                    Some(libc::EAGAIN) => return Ok(()),
                    // A peer that is gone already.
                    _ => continue,
                },
            };
            let slot = descriptor as usize;
            if slot >= self.connections.len() {
                self.connections.resize_with(slot + 1, Connection::default);
            }
            self.connections[slot] = Connection::default();
            // Whatever has come already is told by the next wait.
            self.register(libc::EPOLL_CTL_ADD, descriptor, READING)?;
        }
    }

    /// What an event of a connection asks for.
    #[inline]
    fn serve(&mut self, descriptor: RawFd, events: u32) -> io::Result<()> {
        let outcome = if self.connections[descriptor as usize].unsent.is_some() {
            self.send_rest(descriptor)?
        } else {
            self.echo(descriptor, events & TO_THE_END != 0)?
        };
        match outcome {
            Outcome::Done => Ok(()),
            Outcome::Again => {
                let connection = &mut self.connections[descriptor as usize];
                if !connection.again {
                    connection.again = true;
                    self.again.push(descriptor);
                }
                Ok(())
            }
            Outcome::Over => self.close(descriptor),
        }
    }

    /// Sends back what there is; `to_the_end`: until there is nothing, or the end.
    #[inline]
    fn echo(&mut self, descriptor: RawFd, to_the_end: bool) -> io::Result<Outcome> {
        for _ in 0..BUFFERS_PER_TURN {
            // SAFETY: the buffer has room for as many bytes as are asked for.
            let received = unsafe { libc::recv(descriptor, self.buffer.as_mut_ptr().cast(), self.buffer.len(), 0) };
            if received <= 0 {
                return Ok(if received < 0 && would_block() { Outcome::Done } else { Outcome::Over });
            }
            let bytes = received as usize;
            let sent = send(descriptor, &self.buffer[..bytes]);
            if sent < received {
                if sent < 0 && !would_block() {
                    return Ok(Outcome::Over);
                }
                return self.keep(descriptor, sent.max(0) as usize, bytes).map(|()| Outcome::Done);
            }
            if bytes < self.buffer.len() && !to_the_end {
                return Ok(Outcome::Done);
            }
        }
        Ok(Outcome::Again)
    }

    /// Keeps what the system did not take, until it has room.
    #[cold]
    fn keep(&mut self, descriptor: RawFd, from: usize, to: usize) -> io::Result<()> {
        let unsent = Unsent { bytes: self.buffer[from..to].to_vec(), sent_bytes: 0 };
        self.connections[descriptor as usize].unsent = Some(Box::new(unsent));
        // Room that has come since is told again by this.
        self.register(libc::EPOLL_CTL_MOD, descriptor, WRITING)
    }

    /// Goes on with what is kept. When all is sent, what can be received by then is told again.
    #[cold]
    fn send_rest(&mut self, descriptor: RawFd) -> io::Result<Outcome> {
        let connection = &mut self.connections[descriptor as usize];
        while let Some(unsent) = &mut connection.unsent {
            let sent = send(descriptor, &unsent.bytes[unsent.sent_bytes..]);
            if sent < 0 {
                return Ok(if would_block() { Outcome::Done } else { Outcome::Over });
            }
            unsent.sent_bytes += sent as usize;
            if unsent.sent_bytes == unsent.bytes.len() {
                connection.unsent = None;
            }
        }
        self.register(libc::EPOLL_CTL_MOD, descriptor, READING).map(|()| Outcome::Done)
    }

    /// Serves those whose turn ended before their data.
    #[cold]
    fn serve_again(&mut self) -> io::Result<()> {
        for descriptor in std::mem::take(&mut self.again) {
            // It may have been closed meanwhile, and even taken by another.
            if std::mem::take(&mut self.connections[descriptor as usize].again) {
                self.serve(descriptor, TO_THE_END)?;
            }
        }
        Ok(())
    }

    #[cold]
    fn close(&mut self, descriptor: RawFd) -> io::Result<()> {
        self.connections[descriptor as usize] = Connection::default();
        // SAFETY: the descriptor belongs to the connection, and nothing names it any more.
        unsafe { libc::close(descriptor) };
        if self.accept_paused {
            self.accept_paused = false;
            return self.accept();
        }
        Ok(())
    }

    fn register(&self, operation: libc::c_int, descriptor: RawFd, events: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: descriptor as u64 };
        // SAFETY: the event lives until the call returns.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, descriptor, &raw mut event) }).map(drop)
    }
}

#[inline]
fn send(descriptor: RawFd, bytes: &[u8]) -> isize {
    // SAFETY: the bytes live until the call returns.
    unsafe { libc::send(descriptor, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Whether the last call failed because it would have to wait.
fn would_block() -> bool {
    io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
}
