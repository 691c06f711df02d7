//! Listening sockets, and accepting by credit.

use std::fmt;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::calls;
use super::selector::{Key, Selector};
use crate::engine::{Completion, ListenerId};

/// A bound and listening socket.
#[derive(Debug)]
pub(crate) struct ReadinessListener(OwnedFd);

impl From<TcpListener> for ReadinessListener {
    fn from(listener: TcpListener) -> Self {
        Self(OwnedFd::from(listener))
    }
}

/// An accepted connection that no engine has adopted. Closed when dropped.
pub(crate) struct ReadinessStream(OwnedFd);

impl ReadinessStream {
    pub(super) fn into_descriptor(self) -> OwnedFd {
        self.0
    }

    /// Answers, half-closes, throws away what has arrived, so that the close is none with unread input, which would reset; and closes.
    pub(super) fn turn_away(self, answer: &[u8], scratch: &mut Vec<u8>) {
        // Best effort: a peer that is gone needs no answer.
        if calls::set_nonblocking_where_calls_may_wait(&self.0).is_err() {
            return;
        }
        if !answer.is_empty() {
            let _ = calls::send_slice(&self.0, answer);
        }
        if calls::shutdown_write(&self.0).is_ok() {
            let mut left = REFUSED_INPUT_BYTES;
            while left > 0
                && let Ok(thrown @ 1..) = calls::discard(&self.0, scratch)
            {
                left = left.saturating_sub(thrown);
            }
        }
    }
}

impl From<TcpStream> for ReadinessStream {
    fn from(stream: TcpStream) -> Self {
        Self(OwnedFd::from(stream))
    }
}

impl fmt::Debug for ReadinessStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ReadinessStream({})", self.0.as_raw_fd())
    }
}

/// The most input of a refused connection that is thrown away: more than a socket takes in before anybody reads (128 KiB by default).
const REFUSED_INPUT_BYTES: usize = 1 << 20;

/// The most connections that one listener gives in one poll, so that a flood of them leaves room for the others' data.
const ACCEPTS_PER_POLL: u32 = 64;

/// All listeners of an engine.
#[derive(Default)]
pub(super) struct Listeners {
    listeners: Vec<Listener>,
    /// One has credit and connections that the last poll left.
    more: bool,
    /// Something was asked for since the last poll.
    touched: bool,
}

struct Listener {
    /// `None` once it is closed.
    socket: Option<OwnedFd>,
    registered: bool,
    /// How many more connections may be taken.
    credit: u32,
    /// The backlog may hold something.
    readable: bool,
    /// Set by a close: how many connections may still be taken.
    closing: Option<u32>,
}

impl Listeners {
    pub(super) fn add(&mut self, listener: ReadinessListener) -> ListenerId {
        let id = ListenerId(self.listeners.len() as u32);
        self.listeners.push(Listener {
            socket: Some(listener.0),
            registered: false,
            credit: 0,
            readable: false,
            closing: None,
        });
        self.touched = true;
        id
    }

    pub(super) fn add_credit(&mut self, listener: ListenerId, count: u32) {
        let listener = &mut self.listeners[listener.0 as usize];
        if listener.closing.is_none() {
            listener.credit = listener.credit.saturating_add(count);
            self.touched = true;
        }
    }

    pub(super) fn begin_close(&mut self, listener: ListenerId, sweep: u32) {
        let listener = &mut self.listeners[listener.0 as usize];
        if listener.closing.is_none() {
            listener.closing = Some(sweep);
            self.touched = true;
        }
    }

    /// The selector has told of connections.
    pub(super) fn arrived(&mut self, number: u32) {
        if let Some(listener) = self.listeners.get_mut(number as usize) {
            listener.readable = true;
            self.more = true;
        }
    }

    /// Whether connections can be taken without waiting.
    pub(super) fn has_more(&self) -> bool {
        self.more
    }

    /// Does what was asked for: registers new listeners, closes those that are to be closed.
    pub(super) fn do_recorded(&mut self, selector: &Selector, out: &mut Vec<Completion<ReadinessStream>>) {
        if !std::mem::take(&mut self.touched) {
            return;
        }
        for (listener, number) in self.listeners.iter_mut().zip(0..) {
            let id = ListenerId(number);
            if let Some(sweep) = listener.closing
                && let Some(socket) = listener.socket.take()
            {
                if listener.registered {
                    selector.remove(socket.as_fd());
                }
                sweep_backlog(&socket, id, sweep, out);
                drop(socket);
                out.push(Completion::ListenerClosed { listener: id });
            } else if let Some(socket) = &listener.socket
                && !listener.registered
            {
                let registered = calls::set_nonblocking(socket)
                    .and_then(|()| selector.add_listener(socket, Key::of_listener(number)));
                match registered {
                    Ok(()) => listener.registered = true,
                    // Whoever wants connections has to be told, or would wait for them for ever. It is tried again when more are asked for.
                    Err(error) if listener.credit > 0 => {
                        listener.credit -= 1;
                        out.push(Completion::AcceptFailed { listener: id, error });
                    }
                    Err(_) => {}
                }
            }
            self.more |= listener.readable && listener.credit > 0;
        }
    }

    /// Takes connections, as far as there is credit and something in the backlog.
    pub(super) fn take(&mut self, out: &mut Vec<Completion<ReadinessStream>>) {
        if !std::mem::take(&mut self.more) {
            return;
        }
        for (listener, number) in self.listeners.iter_mut().zip(0..) {
            let id = ListenerId(number);
            let Some(socket) = listener.socket.as_ref().filter(|_| listener.readable) else { continue };
            let mut turns = ACCEPTS_PER_POLL.min(listener.credit);
            while turns > 0 {
                match calls::accept(socket) {
                    Ok((descriptor, peer)) => {
                        out.push(Completion::Accepted { listener: id, stream: ReadinessStream(descriptor), peer });
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        listener.readable = false;
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => out.push(Completion::AcceptFailed { listener: id, error }),
                }
                listener.credit -= 1;
                turns -= 1;
            }
            self.more |= listener.readable && listener.credit > 0;
        }
    }

    /// Before the engine is gone.
    pub(super) fn remove_all(&mut self, selector: &Selector) {
        for listener in &mut self.listeners {
            if let Some(socket) = listener.socket.take()
                && listener.registered
            {
                selector.remove(socket.as_fd());
            }
        }
    }
}

/// Accepts what the backlog holds, up to `sweep` connections.
fn sweep_backlog(socket: &OwnedFd, listener: ListenerId, sweep: u32, out: &mut Vec<Completion<ReadinessStream>>) {
    if calls::set_nonblocking(socket).is_err() {
        return;
    }
    let mut taken = 0;
    while taken < sweep {
        match calls::accept(socket) {
            Ok((descriptor, peer)) => {
                taken += 1;
                out.push(Completion::Accepted { listener, stream: ReadinessStream(descriptor), peer });
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => {
                out.push(Completion::AcceptFailed { listener, error });
                break;
            }
        }
    }
}
