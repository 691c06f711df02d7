//! What was recorded, done by the next poll; and what the selector tells.

use std::io;
use std::mem;
use std::os::fd::AsFd;

use super::selector::{Event, Key, Source};
use super::socket::Socket;
use super::{ReadinessEngine, ReadinessStream, calls};
use crate::engine::{CloseMode, Completion, SocketId, Stale};

type Completions = Vec<Completion<ReadinessStream>>;

impl Socket {
    /// A socket can't be connected, or nobody would tell when it has something to read.
    fn fail_to_begin(&mut self, id: SocketId, error: io::Error, out: &mut Completions) {
        self.broken = error.raw_os_error().unwrap_or(libc::EIO);
        self.ready.readable = true;
        if self.target.take().is_some() {
            out.push(Completion::Connected { socket: id, result: Err(error) });
        } else if let Some(descriptor) = &self.descriptor {
            // The next receive finds the end, and reports what broke it.
            let _ = calls::shutdown_both(descriptor);
        }
    }

    /// Offers the send to the system, if there is one.
    fn send_now(&mut self, index: u32, out: &mut Completions) {
        let Some(gather) = &self.send else { return };
        let result = match &self.descriptor {
            _ if !self.ready.writable => Err(io::ErrorKind::WouldBlock.into()),
            None => Err(io::Error::from_raw_os_error(libc::ENOTCONN)),
            Some(descriptor) => loop {
                match calls::send(descriptor, gather) {
                    // A send that falls short has filled the socket buffer, and the system will tell when there is room.
                    (Ok(sent), offered) if sent > 0 => {
                        self.ready.writable = sent == offered;
                        break Ok(sent);
                    }
                    (Ok(_), _) => break Err(io::ErrorKind::WriteZero.into()),
                    (Err(error), _) if error.kind() == io::ErrorKind::Interrupted => {}
                    (Err(error), _) => break Err(error),
                }
            },
        };
        let result = match result {
            Err(error) => match self.judge_failed_send(error) {
                Some(error) => Err(error),
                None => return,
            },
            sent => sent,
        };
        self.send_waits = false;
        let id = self.id(index);
        if let Some(gather) = self.send.take() {
            out.push(Completion::Sent { socket: id, gather, result });
        }
    }

    /// A send has brought an error: what to report, or `None` when it waits for room.
    #[cold]
    #[inline(never)]
    fn judge_failed_send(&mut self, error: io::Error) -> Option<io::Error> {
        if error.kind() == io::ErrorKind::WouldBlock {
            self.ready.writable = false;
            self.send_waits = true;
            return None;
        }
        // Nothing is wrong with the stream when the system has no memory for it: the caller may try again.
        if self.broken == 0 && error.kind() != io::ErrorKind::OutOfMemory {
            self.broken = error.raw_os_error().unwrap_or(0);
        } else if !self.registered && self.broken != 0 {
            // What made it unfit for use is why it fails, and not that it was shut down for that.
            return Some(io::Error::from_raw_os_error(self.broken));
        }
        Some(error)
    }
}

impl ReadinessEngine {
    pub(super) fn socket(&mut self, id: SocketId) -> Result<&mut Socket, Stale> {
        Socket::of(&mut self.sockets, id).ok_or(Stale)
    }

    pub(super) fn take_place(&mut self) -> Option<SocketId> {
        let index = self.places.take()?;
        self.open += 1;
        let socket = self.sockets.ensure(index);
        let generation = socket.generation.wrapping_add(1);
        *socket = Socket { generation, in_use: true, ..Socket::default() };
        Some(SocketId { index, generation })
    }

    /// The next poll has something to do for this socket.
    pub(super) fn touch(&mut self, id: SocketId) {
        self.sockets[id.index].touch(id, &mut self.touched);
    }

    /// Does what was recorded. What belongs to one socket is done in this order, which is that in which it can be asked for: connect,
    /// send, half-close, receive, close.
    pub(super) fn do_recorded(&mut self, out: &mut Completions) {
        let mut touched = mem::take(&mut self.touched);
        for id in touched.drain(..) {
            let index = id.index;
            let socket = &mut self.sockets[index];
            debug_assert!(socket.in_use && socket.generation == id.generation, "a place is free before the next poll");
            socket.touched = false;
            if !socket.registered && socket.broken == 0 && socket.closing.is_none() {
                self.begin(id, out);
            }
            // Most have a send and nothing else: one look into the table does for those.
            let socket = &mut self.sockets[index];
            if socket.send.is_some() && !socket.send_waits {
                socket.send_now(index, out);
            }
            match socket.closing {
                None if socket.is_settled() => {}
                None => self.settle(id, out),
                Some(mode) => self.close_now(id, mode, out),
            }
        }
        self.touched = touched;
    }

    /// A socket is new: it is connected if that was asked for, and registered.
    #[cold]
    fn begin(&mut self, id: SocketId, out: &mut Completions) {
        let socket = &mut self.sockets[id.index];
        // Connected first: a socket that does nothing yet would be told to be broken.
        if let (Some(target), None) = (&socket.target, &socket.descriptor) {
            let options = &self.config.socket_options;
            let begun = calls::tcp_socket(&target.address, target.source, options).and_then(|descriptor| {
                let done = calls::connect(&descriptor, &target.address);
                socket.descriptor = Some(descriptor);
                done
            });
            match begun {
                // Also where it is done already: the selector tells it like any other.
                Ok(()) => {}
                Err(error) => return socket.fail_to_begin(id, error, out),
            }
        }
        let Some(descriptor) = &socket.descriptor else { return };
        let nonblocking = calls::set_nonblocking_where_calls_may_wait(descriptor);
        match nonblocking.and_then(|()| self.selector.add_socket(descriptor, Key::of_socket(id))) {
            Ok(()) => socket.registered = true,
            Err(error) => socket.fail_to_begin(id, error, out),
        }
    }

    /// Turns away what was refused since the last poll.
    pub(super) fn refuse_now(&mut self) {
        for (stream, answer) in self.refusals.drain(..) {
            stream.turn_away(&answer, &mut self.scratch);
        }
    }

    /// What needs to be done for a socket that stays open.
    fn settle(&mut self, id: SocketId, out: &mut Completions) {
        let socket = &mut self.sockets[id.index];
        if mem::take(&mut socket.half_close) {
            let result = match &socket.descriptor {
                Some(descriptor) => calls::shutdown_write(descriptor),
                None => Err(io::Error::from_raw_os_error(libc::ENOTCONN)),
            };
            out.push(Completion::WriteShut { socket: id, result });
        }
        if mem::take(&mut socket.receive.pause_due) {
            out.push(Completion::ReceivePaused { socket: id });
        }
        // Data may have been told of before it was asked for.
        if socket.is_due() {
            self.serve(id.index, out);
        }
    }

    /// Cancels what is in flight and closes.
    fn close_now(&mut self, id: SocketId, mode: CloseMode, out: &mut Completions) {
        let socket = &mut self.sockets[id.index];
        let cancelled = || io::Error::from_raw_os_error(libc::ECANCELED);
        if socket.target.take().is_some() {
            out.push(Completion::Connected { socket: id, result: Err(cancelled()) });
        }
        if let Some(gather) = socket.send.take() {
            out.push(Completion::Sent { socket: id, gather, result: Err(cancelled()) });
        }
        if let Some(descriptor) = socket.descriptor.take() {
            if mode == CloseMode::Abort {
                calls::reset_on_close(&descriptor);
            }
            if socket.registered {
                self.selector.remove(descriptor.as_fd());
            }
        }
        *socket = Socket { generation: socket.generation, ..Socket::default() };
        self.open -= 1;
        self.vacated.push(id.index);
        out.push(Completion::Closed { socket: id });
    }

    /// Handles what the selector has told.
    pub(super) fn handle_events(&mut self, out: &mut Completions) {
        let mut events = mem::take(&mut self.events);
        for event in &events {
            if let Source::Socket { index, .. } = event.key.source() {
                self.sockets.prefetch(index);
            }
        }
        for event in events.drain(..) {
            match event.key.source() {
                Source::Socket { index, generation } => self.changed(index, generation, event, out),
                Source::Listener(number) => self.listeners.arrived(number),
                Source::Waker => {}
            }
        }
        self.events = events;
    }

    /// The state of a socket has changed; or of the one that had its place before, which is nobody's matter any more.
    fn changed(&mut self, index: u32, generation: u32, event: Event, out: &mut Completions) {
        let Some(socket) = self.sockets.get_mut(index) else { return };
        if !socket.in_use || !Key::is_generation(generation, socket.generation) {
            return;
        }
        socket.ready.readable |= event.readable;
        socket.ready.writable |= event.writable;
        socket.ready.to_the_end |= event.to_the_end;
        if socket.target.is_some() {
            if event.writable {
                self.finish_connect(index, out);
            }
            return;
        }
        let sends = socket.send_waits && socket.ready.writable;
        // Received first: a send that fails would take the error with it.
        if event.readable && socket.is_due() {
            self.serve(index, out);
        }
        if sends {
            self.sockets[index].send_now(index, out);
        }
    }

    #[cold]
    fn finish_connect(&mut self, index: u32, out: &mut Completions) {
        let socket = &mut self.sockets[index];
        let id = socket.id(index);
        let Some(descriptor) = &socket.descriptor else { return };
        if let Some(result) = calls::connected(descriptor) {
            socket.target = None;
            out.push(Completion::Connected { socket: id, result });
            if socket.may_receive() {
                self.serve(index, out);
            }
        }
    }
}
