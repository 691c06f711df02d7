//! What is recorded, and handed over by the next poll.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::ptr::null_mut;

use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};

#[cfg(test)]
use super::Plant;
use super::kind::Kind;
use super::socket::{Ending, Operation, Socket, Watch};
use super::{UringEngine, buffer_ring, raw, socket_mut};
use crate::engine::{CloseMode, Completion, ListenerId, SocketId, Stale};
use crate::memory::Chunked;

/// How much one discarding receive throws away at most, in bytes.
const DISCARD_BYTES: u32 = 64 * 1024;

impl Socket {
    /// What hands the send of this socket to the kernel. It never waits there: a send that does is given to a worker thread as soon as
    /// the peer has half-closed (the poll that it waits with reports that at once, each time), one thread per socket.
    #[inline]
    pub(super) fn send_entry(&mut self, id: SocketId) -> Option<Entry> {
        self.send_waits = false;
        let descriptor = types::Fd(self.raw());
        let entry = match &self.operation {
            Operation::Send(gather) => {
                let slice = gather.only_slice().unwrap_or_default();
                opcode::Send::new(descriptor, slice.as_ptr(), slice.len() as u32).flags(libc::MSG_DONTWAIT).build()
            }
            Operation::SendMany(operation) => {
                opcode::SendMsg::new(descriptor, operation.header()).flags(libc::MSG_DONTWAIT as u32).build()
            }
            Operation::None | Operation::Connect(_) => return None,
        };
        Some(entry.user_data(Kind::Send.user_data(id.index, id.generation)))
    }
}

impl UringEngine {
    pub(super) fn socket(&mut self, id: SocketId) -> Result<&mut Socket, Stale> {
        socket_mut(&mut self.sockets, id)
    }

    pub(super) fn take_place(&mut self) -> Option<SocketId> {
        let index = self.places.take()?;
        let socket = self.sockets.ensure(index);
        let generation = socket.generation.wrapping_add(1);
        *socket = Socket { generation, in_use: true, ..Socket::default() };
        Some(SocketId { index, generation })
    }

    /// Queues an operation whose memory the kernel has until its last completion.
    pub(super) fn begin(&mut self, entry: Entry) {
        self.in_flight += 1;
        self.push(entry);
    }

    pub(super) fn push(&mut self, entry: Entry) {
        if self.spilled.is_empty() {
            // SAFETY: everything an entry points to is owned by this engine's tables until the completion of the
            // operation, or, at tear-down, leaked if that doesn't come.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        self.spilled.push_back(entry);
        self.counters.submissions_deferred += 1;
    }

    pub(super) fn cancel(&mut self, user_data: u64) {
        let entry = opcode::AsyncCancel::new(user_data).build();
        self.push(entry.user_data(Kind::Cancel.user_data(0, 0)));
    }

    /// Hands the send of a socket to the kernel, again.
    pub(super) fn submit_send(&mut self, id: SocketId) {
        let entry = self.sockets[id.index].send_entry(id);
        if let Some(entry) = entry {
            self.begin(entry);
        }
    }

    /// Asks to be told when a socket becomes writable. Stays until the socket is closed: it reports changes only, and there are
    /// none while nothing waits to be sent.
    pub(super) fn watch_writable(&mut self, id: SocketId) {
        let socket = &mut self.sockets[id.index];
        if !socket.watch.armed {
            socket.watch = Watch { armed: true, canceling: false };
            let entry = opcode::PollAdd::new(types::Fd(socket.raw()), libc::POLLOUT as u32).multi(true).build();
            self.begin(entry.user_data(Kind::Writable.user_data(id.index, id.generation)));
        }
    }

    pub(super) fn cancel_watch(&mut self, id: SocketId) {
        let watch = &mut self.sockets[id.index].watch;
        if watch.armed && !watch.canceling {
            watch.canceling = true;
            self.cancel(Kind::Writable.user_data(id.index, id.generation));
        }
    }

    pub(super) fn cancel_receive(&mut self, id: SocketId) {
        let receive = &mut self.sockets[id.index].receive;
        if receive.armed && !receive.canceling {
            receive.canceling = true;
            let kind = if receive.armed_discards { Kind::Discard } else { Kind::Receive };
            self.cancel(kind.user_data(id.index, id.generation));
        }
    }

    /// Arms a receive if there is a buffer that nobody waits for, else joins the line.
    pub(super) fn arm_or_wait(&mut self, id: SocketId) {
        if self.line.is_empty() && (self.buffers.provided() > 0 || self.arena.free() > 0) {
            let one_shot = self.sockets[id.index].receive.takes_one_at_a_time();
            self.arm(id, one_shot);
        } else {
            self.sockets[id.index].receive.starving = true;
            self.line.join(id);
            self.counters.starving += 1;
        }
    }

    pub(super) fn arm(&mut self, id: SocketId, one_shot: bool) {
        let socket = &mut self.sockets[id.index];
        debug_assert!(!socket.receive.armed && socket.ending == Ending::Open);
        socket.receive.armed = true;
        socket.receive.canceling = false;
        socket.receive.one_shot = one_shot;
        socket.receive.had_turn = false;
        socket.receive.armed_discards = socket.receive.discard;
        let descriptor = types::Fd(socket.raw());
        let (entry, kind) = if socket.receive.discard {
            // With MSG_TRUNC TCP throws the bytes away and never touches the (missing) memory.
            let entry = opcode::Recv::new(descriptor, null_mut(), DISCARD_BYTES).flags(libc::MSG_TRUNC).build();
            (entry, Kind::Discard)
        } else if one_shot {
            let length = self.arena.buffer_bytes() as u32;
            let entry = opcode::Recv::new(descriptor, null_mut(), length).buf_group(buffer_ring::GROUP).build();
            (entry.flags(Flags::BUFFER_SELECT), Kind::Receive)
        } else {
            (opcode::RecvMulti::new(descriptor, buffer_ring::GROUP).build(), Kind::Receive)
        };
        self.begin(entry.user_data(kind.user_data(id.index, id.generation)));
    }

    pub(super) fn post_accepts(&mut self, listener: ListenerId) {
        while let Some((entry, number)) = self.listeners.next_accept(listener) {
            self.begin(entry.user_data(Kind::Accept.user_data(number, 0)));
        }
    }

    pub(super) fn post_wake(&mut self) {
        let descriptor = types::Fd(self.wake.event.as_raw_fd());
        let entry = opcode::Read::new(descriptor, (&raw mut *self.wake_count).cast(), 8).build();
        self.begin(entry.user_data(Kind::Wake.user_data(0, 0)));
    }

    pub(super) fn leave_line(&mut self, id: SocketId) {
        self.sockets[id.index].receive.starving = false;
        let sockets = &self.sockets;
        self.line.leave(|waiting| waits_for_buffer(sockets, waiting));
        self.counters.starving -= 1;
    }

    /// Hands out turns to the receives in line: as many as there are buffers, each for one buffer. Returns whether turns were
    /// given while others still wait: then this poll must not sleep, because those that got a turn may have no data.
    pub(super) fn feed_the_line(&mut self) -> bool {
        if self.line.is_empty() {
            return false;
        }
        let mut turns = self.buffers.provided();
        let gave = turns > 0;
        while turns > 0 {
            let sockets = &self.sockets;
            let Some(id) = self.line.next(|waiting| waits_for_buffer(sockets, waiting)) else { break };
            self.sockets[id.index].receive.starving = false;
            self.counters.starving -= 1;
            self.arm(id, true);
            self.sockets[id.index].receive.had_turn = true;
            turns -= 1;
        }
        gave && !self.line.is_empty()
    }

    pub(super) fn back_to_the_line(&mut self) {
        if !self.back_in_line.is_empty() {
            let sockets = &self.sockets;
            self.back_in_line.retain(|&id| waits_for_buffer(sockets, id));
            self.line.rejoin(&mut self.back_in_line);
        }
    }

    pub(super) fn half_close_now(&mut self) {
        for id in mem::take(&mut self.half_closes) {
            if let Ok(socket) = socket_mut(&mut self.sockets, id)
                && socket.ending == Ending::Open
            {
                let result = raw::shutdown_write(socket.raw());
                self.ready.push_back(Completion::WriteShut { socket: id, result });
            }
        }
    }

    /// Tells what needs no system call, as far as it still holds: a pause or an error that was asked for before may have been called
    /// off or taken over by a close.
    pub(super) fn give_notice(&mut self) {
        for id in mem::take(&mut self.notices) {
            let Ok(socket) = socket_mut(&mut self.sockets, id) else { continue };
            if socket.ending != Ending::Open {
                if socket.ending == Ending::NothingToClose {
                    self.release(id);
                    self.ready.push_back(Completion::Closed { socket: id });
                }
            } else if socket.receive.wanted && socket.kept_error != 0 {
                socket.receive.ended = true;
                let error = io::Error::from_raw_os_error(mem::take(&mut socket.kept_error));
                self.ready.push_back(Completion::ReceiveFailed { socket: id, error });
            } else if mem::take(&mut socket.receive.pause_due) {
                self.ready.push_back(Completion::ReceivePaused { socket: id });
            }
        }
    }

    /// Closes a socket that is to be closed as soon as nothing of it is in flight.
    pub(super) fn close_if_quiet(&mut self, index: u32) {
        let socket = &mut self.sockets[index];
        let Ending::Cancelling(mode) = socket.ending else { return };
        if socket.has_operations() {
            return;
        }
        socket.ending = Ending::Closing;
        let id = socket.id(index);
        match socket.descriptor.take() {
            Some(descriptor) => {
                if mode == CloseMode::Abort {
                    // On a socket that is no longer connected this may fail; then there is nobody to reset.
                    let _ = raw::reset_on_close(descriptor.as_raw_fd());
                }
                // From here on the descriptor is the kernel's to close.
                let entry = opcode::Close::new(types::Fd(descriptor.into_raw_fd())).build();
                self.begin(entry.user_data(Kind::Close.user_data(index, id.generation)));
            }
            None => {
                socket.ending = Ending::NothingToClose;
                self.notices.push(id);
            }
        }
    }

    /// A send that waits for room is not with the kernel: it ends here. One that is with the kernel ends by itself, at once.
    pub(super) fn end_waiting_send(&mut self, id: SocketId) {
        let socket = &mut self.sockets[id.index];
        if mem::take(&mut socket.send_waits)
            && let Some(gather) = self.sends.end(mem::take(&mut socket.operation))
        {
            let result = Err(io::Error::from_raw_os_error(libc::ECANCELED));
            self.ready.push_back(Completion::Sent { socket: id, gather, result });
        }
    }

    pub(super) fn release(&mut self, id: SocketId) {
        let socket = &mut self.sockets[id.index];
        debug_assert!(!socket.has_operations());
        *socket = Socket { generation: socket.generation, ..Socket::default() };
        self.vacated.push(id.index);
    }

    #[cfg(test)]
    pub(super) fn free_early_if_planted(&mut self, id: SocketId) {
        if self.plant != Some(Plant::FreeOnCancel) {
            return;
        }
        // The memory and nothing else: the bookkeeping stays right, as it would in a build with this bug.
        match &mut self.sockets[id.index].operation {
            Operation::Send(gather) => gather.clear(drop),
            Operation::SendMany(operation) => operation.gather_mut().expect("a gather in flight").clear(drop),
            Operation::None | Operation::Connect(_) => {}
        }
    }
}

fn waits_for_buffer(sockets: &Chunked<Socket>, id: SocketId) -> bool {
    sockets
        .get(id.index)
        .is_some_and(|socket| socket.in_use && socket.generation == id.generation && socket.receive.starving)
}
