//! Receiving: what is ready, as far as the budget and the arena go.

use std::io;

use super::socket::Socket;
use super::{ReadinessEngine, ReadinessStream, calls};
use crate::engine::{Completion, SocketId};
use crate::memory::{Chunked, ReceiveArena};

type Completions = Vec<Completion<ReadinessStream>>;

/// How serving a socket has ended.
enum Served {
    /// Nothing is left, or it has ended.
    All,
    /// Its share of this poll is used up.
    Share,
    /// No buffer was left.
    Starved,
}

impl Socket {
    /// Receives at least one buffer of `arena`, and no more after `share` bytes.
    fn receive_up_to(&mut self, index: u32, arena: &mut ReceiveArena, share: usize, out: &mut Completions) -> Served {
        let mut got = 0;
        while got < share {
            let Some(buffer) = arena.take_free() else { return Served::Starved };
            let result = match &self.descriptor {
                Some(descriptor) => calls::receive(descriptor, arena, buffer),
                None => Err(io::Error::from_raw_os_error(libc::ENOTCONN)),
            };
            match result {
                Ok(length) if length > 0 => {
                    if length < arena.buffer_bytes() && !self.ready.to_the_end {
                        self.ready.readable = false;
                    }
                    let buffer = arena.filled(buffer, length, index);
                    out.push(Completion::Received { socket: self.id(index), buffer });
                    if !self.ready.readable {
                        return Served::All;
                    }
                    got += length;
                }
                result => {
                    arena.give_back(buffer);
                    if self.receive_brought_nothing(index, result, out) {
                        return Served::All;
                    }
                }
            }
        }
        Served::Share
    }

    /// A receive has brought the end, an error or nothing yet. Returns whether that is all for now.
    #[inline(never)]
    pub(super) fn receive_brought_nothing(
        &mut self,
        index: u32,
        result: io::Result<usize>,
        out: &mut Completions,
    ) -> bool {
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return false,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready.readable = false,
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                // Nothing is wrong with the stream: the caller may ask again.
                (self.receive.wanted, self.receive.discard) = (false, false);
                out.push(Completion::ReceiveFailed { socket: self.id(index), error });
            }
            result => {
                self.receive.ended = true;
                self.receive.wanted = false;
                let id = self.id(index);
                // A send may have been told of the reset in its place. A broken pipe is what sending is told of the end itself.
                let told_before = Some(self.broken).filter(|&code| code != 0 && code != libc::EPIPE);
                out.push(match (result, told_before) {
                    (Err(error), _) => Completion::ReceiveFailed { socket: id, error },
                    (Ok(_), None) => Completion::PeerFinished { socket: id },
                    (Ok(_), Some(code)) => {
                        Completion::ReceiveFailed { socket: id, error: io::Error::from_raw_os_error(code) }
                    }
                });
            }
        }
        true
    }
}

impl ReadinessEngine {
    /// Receives for a socket that has something, up to its share of a poll. Who comes while others wait for buffers waits
    /// behind them.
    pub(super) fn serve(&mut self, index: u32, out: &mut Completions) {
        let socket = &mut self.sockets[index];
        if socket.receive.discard {
            self.serve_discard(index, out);
        } else if !self.line.is_empty() {
            self.starve(index);
        } else {
            match socket.receive_up_to(index, &mut self.arena, self.config.receive_budget_bytes, out) {
                Served::All => {}
                Served::Share => self.come_back_to(index),
                Served::Starved => self.starve(index),
            }
        }
    }

    /// Throws away what there is, up to the share of a poll.
    fn serve_discard(&mut self, index: u32, out: &mut Completions) {
        let mut discarded = 0;
        let mut last = Ok(0);
        let socket = &mut self.sockets[index];
        let id = socket.id(index);
        while discarded < self.config.receive_budget_bytes {
            last = match &socket.descriptor {
                Some(descriptor) => calls::discard(descriptor, &mut self.scratch),
                None => Err(io::Error::from_raw_os_error(libc::ENOTCONN)),
            };
            match &last {
                Ok(count) if *count > 0 => discarded += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        if discarded > 0 {
            out.push(Completion::Discarded { socket: id, bytes: discarded });
        }
        if discarded >= self.config.receive_budget_bytes || !socket.receive_brought_nothing(index, last, out) {
            self.come_back_to(index);
        }
    }

    fn come_back_to(&mut self, index: u32) {
        let socket = &mut self.sockets[index];
        debug_assert!(!socket.receive.listed);
        socket.receive.listed = true;
        self.has_more.push_back(socket.id(index));
    }

    /// Serves those that the last poll left with something to read, each once.
    pub(super) fn serve_those_with_more(&mut self, out: &mut Completions) {
        // While the selector has more to tell than it can at once, others may have waited for longer: they come first, for
        // as many polls as it takes to hear of every socket.
        let polls = self.open / self.selector.batch() as u32 + 1;
        if self.selector.is_full() && self.left_waiting < polls {
            self.left_waiting += 1;
            return;
        }
        self.left_waiting = 0;
        for _ in 0..self.has_more.len() {
            let Some(id) = self.has_more.pop_front() else { break };
            let Ok(socket) = self.socket(id) else { continue };
            socket.receive.listed = false;
            if socket.may_receive() && !socket.receive.starving {
                self.serve(id.index, out);
            }
        }
    }

    /// Joins the line for buffers.
    #[cold]
    fn starve(&mut self, index: u32) {
        let socket = &mut self.sockets[index];
        debug_assert!(!socket.receive.starving);
        socket.receive.starving = true;
        let id = socket.id(index);
        self.line.join(id);
        self.counters.starved += 1;
        self.counters.starving += 1;
    }

    pub(super) fn leave_line(&mut self, id: SocketId) {
        if std::mem::take(&mut self.sockets[id.index].receive.starving) {
            let sockets = &self.sockets;
            self.line.leave(|waiting| waits_for_buffer(sockets, waiting));
            self.counters.starving -= 1;
        }
    }

    /// Gives the buffers that are free to those in line, one each, first come first served. Who has more to read goes back to its end.
    pub(super) fn feed_the_line(&mut self, out: &mut Completions) {
        while !self.line.is_empty() && self.arena.free() > 0 {
            let sockets = &self.sockets;
            let Some(id) = self.line.next(|waiting| waits_for_buffer(sockets, waiting)) else { break };
            let socket = &mut self.sockets[id.index];
            socket.receive.starving = false;
            self.counters.starving -= 1;
            match socket.receive_up_to(id.index, &mut self.arena, 1, out) {
                Served::All => {}
                Served::Share if self.line.is_empty() => self.come_back_to(id.index),
                Served::Share | Served::Starved => self.starve(id.index),
            }
        }
    }
}

fn waits_for_buffer(sockets: &Chunked<Socket>, id: SocketId) -> bool {
    sockets
        .get(id.index)
        .is_some_and(|socket| socket.in_use && socket.generation == id.generation && socket.receive.starving)
}
