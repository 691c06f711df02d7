//! Listening sockets and the accepts posted on them.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use io_uring::squeue::Entry;
use io_uring::{opcode, types};

use super::ACCEPTS_POSTED;
use super::raw::{self, KernelAddress};
use crate::engine::accept_error::accept_error;
use crate::engine::{Completion, ListenerId};

/// A bound and listening socket.
#[derive(Debug)]
pub(crate) struct UringListener(OwnedFd);

impl From<TcpListener> for UringListener {
    fn from(listener: TcpListener) -> Self {
        Self(OwnedFd::from(listener))
    }
}

/// An accepted connection that no engine has adopted. Closed when dropped.
pub(crate) struct UringStream(OwnedFd);

impl UringStream {
    pub(super) fn into_descriptor(self) -> OwnedFd {
        self.0
    }
}

/// The most input of a refused connection that is thrown away: more than a socket takes in before anybody reads (128 KiB by default).
const REFUSED_INPUT_BYTES: usize = 1 << 20;

impl UringStream {
    /// Sends what fits of `answer`, shuts our side, throws away what has arrived, and closes (E26). Without that throwing
    /// away, the close would reset the connection and might destroy the answer.
    pub(super) fn turn_away(self, answer: &[u8]) {
        let socket = self.0.as_raw_fd();
        // Best effort: a peer that is gone needs no answer.
        if !answer.is_empty() {
            let _ = raw::send_now(socket, answer);
        }
        if raw::shutdown_write(socket).is_ok() {
            let _ = raw::throw_away(socket, REFUSED_INPUT_BYTES);
        }
    }
}

impl From<std::net::TcpStream> for UringStream {
    fn from(stream: std::net::TcpStream) -> Self {
        Self(OwnedFd::from(stream))
    }
}

impl fmt::Debug for UringStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "UringStream({})", self.0.as_raw_fd())
    }
}

/// All listeners of an engine and all accepts posted on them.
#[derive(Default)]
pub(super) struct Listeners {
    listeners: Vec<Listener>,
    accepts: Vec<Accept>,
    free: Vec<u32>,
}

struct Listener {
    /// `None` once it is closed.
    socket: Option<OwnedFd>,
    /// How many more connections may be taken, those with an accept posted included.
    credit: u32,
    posted: u32,
    /// Set by a close: how many connections may still be taken.
    closing: Option<u32>,
}

/// One posted accept: where the kernel writes the peer's address. Boxed, because it must stay where it is.
struct Accept {
    listener: ListenerId,
    address: Option<Box<KernelAddress>>,
}

impl Listeners {
    pub(super) fn add(&mut self, listener: UringListener) -> ListenerId {
        let id = ListenerId(self.listeners.len() as u32);
        // A non-blocking listener would make every posted accept come back at once.
        if let Err(error) = raw::set_nonblocking(listener.0.as_raw_fd(), false) {
            tracing::warn!(%error, "can't make a listener wait");
        }
        self.listeners.push(Listener { socket: Some(listener.0), credit: 0, posted: 0, closing: None });
        id
    }

    pub(super) fn add_credit(&mut self, listener: ListenerId, count: u32) {
        let listener = &mut self.listeners[listener.0 as usize];
        if listener.closing.is_none() {
            listener.credit = listener.credit.saturating_add(count);
        }
    }

    /// The next accept to post, with its number: as many as there is credit for, at most [`ACCEPTS_POSTED`] at once.
    pub(super) fn next_accept(&mut self, id: ListenerId) -> Option<(Entry, u32)> {
        let listener = &mut self.listeners[id.0 as usize];
        if listener.closing.is_some() || listener.posted >= listener.credit.min(ACCEPTS_POSTED) {
            return None;
        }
        let socket = listener.socket.as_ref()?;
        listener.posted += 1;
        let mut address = Box::new(KernelAddress::empty());
        let entry = opcode::Accept::new(
            types::Fd(socket.as_raw_fd()),
            (&raw mut address.storage).cast(),
            &raw mut address.length,
        )
        .flags(libc::SOCK_CLOEXEC)
        .build();
        let accept = Accept { listener: id, address: Some(address) };
        let number = match self.free.pop() {
            Some(number) => {
                self.accepts[number as usize] = accept;
                number
            }
            None => {
                self.accepts.push(accept);
                self.accepts.len() as u32 - 1
            }
        };
        Some((entry, number))
    }

    /// One of the accepts that are posted on a listener, if any is.
    pub(super) fn any_posted(&self, id: ListenerId) -> Option<u32> {
        let posted = |accept: &Accept| accept.listener == id && accept.address.is_some();
        self.accepts.iter().position(posted).map(|number| number as u32)
    }

    /// Begins to close; returns the numbers of the accepts to cancel.
    pub(super) fn begin_close(&mut self, id: ListenerId, sweep: u32) -> Vec<u32> {
        let listener = &mut self.listeners[id.0 as usize];
        if listener.closing.is_some() {
            return Vec::new();
        }
        listener.closing = Some(sweep);
        let posted = self.accepts.iter().enumerate();
        posted
            .filter(|(_, accept)| accept.listener == id && accept.address.is_some())
            .map(|(number, _)| number as u32)
            .collect()
    }

    /// Listeners whose close can be finished without waiting for an accept.
    pub(super) fn finish_closes(&mut self, out: &mut VecDeque<Completion<UringStream>>) {
        for number in 0..self.listeners.len() {
            let listener = &mut self.listeners[number];
            if listener.posted == 0
                && let Some(sweep) = listener.closing
                && let Some(socket) = listener.socket.take()
            {
                let id = ListenerId(number as u32);
                sweep_backlog(&socket, id, sweep, out);
                out.push_back(Completion::ListenerClosed { listener: id });
            }
        }
    }

    /// A posted accept has completed; returns its listener.
    pub(super) fn accepted(&mut self, number: u32, result: i32, out: &mut Vec<Completion<UringStream>>) -> ListenerId {
        let (listener, address) = self.end(number);
        let entry = &mut self.listeners[listener.0 as usize];
        // Cancelled to be posted anew, or because the listener is being closed.
        if result == -libc::ECANCELED {
            return listener;
        }
        entry.credit = entry.credit.saturating_sub(1);
        if result >= 0 {
            if let Some(left) = &mut entry.closing {
                *left = left.saturating_sub(1);
            }
            // SAFETY: a descriptor that accept has just made belongs to nobody else.
            let stream = UringStream(unsafe { OwnedFd::from_raw_fd(result) });
            out.push(Completion::Accepted { listener, stream, peer: address.to_std() });
        } else {
            let error = accept_error(io::Error::from_raw_os_error(-result));
            out.push(Completion::AcceptFailed { listener, error });
        }
        listener
    }

    /// A posted accept has completed during tear-down: the connection, if there is one, is closed.
    pub(super) fn reap(&mut self, number: u32, result: i32, out: &mut Vec<Completion<UringStream>>) {
        self.accepted(number, result, out);
    }

    fn end(&mut self, number: u32) -> (ListenerId, Box<KernelAddress>) {
        let accept = &mut self.accepts[number as usize];
        let listener = accept.listener;
        let Some(address) = accept.address.take() else { panic!("accept {number} has completed twice") };
        self.free.push(number);
        self.listeners[listener.0 as usize].posted -= 1;
        (listener, address)
    }
}

/// Accepts what the backlog holds, up to `sweep` connections.
fn sweep_backlog(socket: &OwnedFd, listener: ListenerId, sweep: u32, out: &mut VecDeque<Completion<UringStream>>) {
    if raw::set_nonblocking(socket.as_raw_fd(), true).is_err() {
        return;
    }
    let mut taken = 0;
    while taken < sweep {
        match raw::accept_now(socket.as_raw_fd()).map_err(accept_error) {
            Ok((descriptor, peer)) => {
                taken += 1;
                out.push_back(Completion::Accepted { listener, stream: UringStream(descriptor), peer });
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => {
                out.push_back(Completion::AcceptFailed { listener, error });
                break;
            }
        }
    }
}
