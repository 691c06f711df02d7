//! What the kernel reports, turned into completions.

use std::io;
use std::mem;
use std::sync::atomic::Ordering;

use io_uring::cqueue;

use super::kind::{GENERATION_MASK, Kind};
use super::socket::{Ending, Operation, Socket, Watch};
use super::{UringEngine, UringStream, raw};
use crate::engine::{Completion, SocketId};
use crate::memory::Chunked;

impl UringEngine {
    pub(super) fn reap(&mut self, completions: &mut Vec<Completion<UringStream>>) {
        // The iterator borrows the ring, and handling a completion pushes submissions: so all are taken first. There are at most as
        // many as the completion queue has entries.
        let mut reported = mem::take(&mut self.reported);
        reported.extend(self.ring.completion().map(|entry| (entry.user_data(), entry.result(), entry.flags())));
        self.counters.completions += reported.len() as u64;
        self.spin.saw_batch(reported.len() as u64);
        for &(user_data, ..) in &reported {
            self.sockets.prefetch(user_data as u32);
        }
        for (user_data, result, flags) in reported.drain(..) {
            self.completed(user_data, result, flags, completions);
        }
        self.reported = reported;
    }

    pub(super) fn completed(
        &mut self,
        user_data: u64,
        result: i32,
        flags: u32,
        out: &mut Vec<Completion<UringStream>>,
    ) {
        let index = user_data as u32;
        let generation = (user_data >> 32) as u32 & GENERATION_MASK;
        let kind = Kind::of(user_data);
        if !matches!(kind, Some(Kind::Cancel)) && !cqueue::more(flags) {
            self.in_flight -= 1;
        }
        let place = (index, generation);
        match kind {
            Some(Kind::Receive) => self.received(place, result, flags, out),
            Some(Kind::Discard) => self.discarded(place, result, out),
            Some(Kind::Send) => self.sent(place, result, out),
            Some(Kind::Writable) => self.writable(place, flags),
            Some(Kind::Connect) => self.connected(place, result, out),
            Some(Kind::Close) => {
                let id = current(&mut self.sockets, place).id(index);
                self.release(id);
                out.push(Completion::Closed { socket: id });
            }
            Some(Kind::Accept) => {
                let listener = self.listeners.accepted(index, result, out);
                self.post_accepts(listener);
            }
            Some(Kind::Wake) => {
                // Cleared before the caller looks at what others left for it: who comes later writes again.
                self.wake.announced.swap(false, Ordering::AcqRel);
                self.post_wake();
                out.push(Completion::Woken);
            }
            Some(Kind::Cancel) => {}
            None => unreachable!("a completion with user data {user_data:#x}, which nobody gave"),
        }
    }

    fn received(&mut self, place: Place, result: i32, flags: u32, out: &mut Vec<Completion<UringStream>>) {
        let index = place.0;
        let socket = current(&mut self.sockets, place);
        let id = socket.id(index);
        let open = socket.ending == Ending::Open;
        let discards = socket.receive.discard;
        if let Some(buffer) = cqueue::buffer_select(flags) {
            self.buffers.taken();
            if result > 0 {
                let (buffer, length) = (u32::from(buffer), result as usize);
                if open && !discards {
                    put(out, || Completion::Received { socket: id, buffer: self.arena.filled(buffer, length, index) });
                } else {
                    drop(self.arena.filled(buffer, length, index));
                    if open {
                        out.push(Completion::Discarded { socket: id, bytes: length });
                    }
                }
            } else {
                self.arena.give_back(u32::from(buffer));
            }
        }
        if cqueue::more(flags) {
            return;
        }
        let receive = &mut socket.receive;
        let ended_by_itself = result > 0 && !receive.one_shot && !receive.canceling;
        let had_its_turn = receive.had_turn;
        receive.armed = false;
        receive.canceling = false;
        if !open {
            self.close_if_quiet(index);
            return;
        }
        if ended_by_itself {
            self.counters.rearmed += 1;
        }
        match -result {
            0 => self.receive_ended(id, None, out),
            libc::ENOBUFS if discards || !self.sockets[index].receive.wanted => self.receive_goes_on(id, out),
            libc::ENOBUFS => {
                self.sockets[index].receive.starving = true;
                self.counters.starved += 1;
                self.counters.starving += 1;
                if had_its_turn { self.back_in_line.push(id) } else { self.line.join(id) }
            }
            error if error > 0 && !matches!(error, libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {
                self.receive_ended(id, Some(error), out);
            }
            _ => self.receive_goes_on(id, out),
        }
    }

    fn discarded(&mut self, place: Place, result: i32, out: &mut Vec<Completion<UringStream>>) {
        let index = place.0;
        let socket = current(&mut self.sockets, place);
        let id = socket.id(index);
        socket.receive.armed = false;
        socket.receive.canceling = false;
        if socket.ending != Ending::Open {
            self.close_if_quiet(index);
            return;
        }
        match -result {
            0 => self.receive_ended(id, None, out),
            error if error > 0 && !matches!(error, libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {
                self.receive_ended(id, Some(error), out);
            }
            _ => {
                if result > 0 {
                    out.push(Completion::Discarded { socket: id, bytes: result as usize });
                }
                self.arm(id, false);
            }
        }
    }

    /// A receive is over, but the stream is not: go on, or say that it is paused.
    pub(super) fn receive_goes_on(&mut self, id: SocketId, out: &mut Vec<Completion<UringStream>>) {
        let receive = self.sockets[id.index].receive;
        if receive.discard {
            self.arm(id, false);
        } else if receive.wanted {
            self.arm_or_wait(id);
        } else {
            out.push(Completion::ReceivePaused { socket: id });
        }
    }

    /// The stream has ended, or failed with `error`: reported now, or, when paused, kept until somebody asks.
    pub(super) fn receive_ended(&mut self, id: SocketId, error: Option<i32>, out: &mut Vec<Completion<UringStream>>) {
        let socket = &mut self.sockets[id.index];
        if error.is_some_and(is_out_of_memory) {
            // Nothing is wrong with the stream: the caller may ask again.
            let wanted = mem::take(&mut socket.receive.wanted);
            socket.receive.discard = false;
            out.push(match error {
                Some(error) if wanted => Completion::ReceiveFailed { socket: id, error: system_error(error) },
                _ => Completion::ReceivePaused { socket: id },
            });
            return;
        }
        if !socket.receive.wanted {
            // The end can be read again; an error is reported by the kernel once only.
            socket.kept_error = error.unwrap_or(0);
            out.push(Completion::ReceivePaused { socket: id });
            return;
        }
        socket.receive.ended = true;
        socket.receive.wanted = false;
        out.push(match error {
            None => Completion::PeerFinished { socket: id },
            Some(error) => Completion::ReceiveFailed { socket: id, error: io::Error::from_raw_os_error(error) },
        });
    }

    fn sent(&mut self, place: Place, result: i32, out: &mut Vec<Completion<UringStream>>) {
        let index = place.0;
        let socket = current(&mut self.sockets, place);
        let id = socket.id(index);
        if result == -libc::EAGAIN && socket.ending == Ending::Open {
            // No room in the socket buffer: the kernel has let go of the memory, which stays where it is.
            socket.send_waits = true;
            socket.receive.send_had_to_wait();
            self.watch_writable(id);
            if self.sockets[index].receive.is_multishot() {
                // It ends, and goes on with one buffer at a time, if it is still wanted then.
                self.cancel_receive(id);
            }
            return;
        }
        socket.receive.send_went_through();
        let closing = socket.ending != Ending::Open;
        let Some(gather) = self.sends.end(mem::take(&mut socket.operation)) else {
            panic!("a send of socket {index} has completed after its memory was freed");
        };
        let result = if result == -libc::EAGAIN { -libc::ECANCELED } else { result };
        put(out, || Completion::Sent { socket: id, gather, result: os_result(result).map(|bytes| bytes as usize) });
        if closing {
            self.close_if_quiet(index);
        }
    }

    /// Something has changed about sending on a socket: there is room, or the watch has ended.
    fn writable(&mut self, place: Place, flags: u32) {
        let index = place.0;
        let socket = current(&mut self.sockets, place);
        let id = socket.id(index);
        if !cqueue::more(flags) {
            socket.watch = Watch::default();
        }
        if socket.ending != Ending::Open {
            self.close_if_quiet(index);
        } else if socket.send_waits {
            self.submit_send(id);
        }
    }

    fn connected(&mut self, place: Place, result: i32, out: &mut Vec<Completion<UringStream>>) {
        let index = place.0;
        let socket = current(&mut self.sockets, place);
        socket.operation = Operation::None;
        let id = socket.id(index);
        let result = os_result(result).and_then(|_| raw::local_address(socket.raw()));
        out.push(Completion::Connected { socket: id, result });
        self.close_if_quiet(index);
    }
}

/// The index of a socket, and the generation that a completion is of.
type Place = (u32, u32);

/// The socket that a completion is of. Each operation has one last completion, and the place is used again only after all of them.
#[inline]
fn current(sockets: &mut Chunked<Socket>, (index, generation): Place) -> &mut Socket {
    let socket = &mut sockets[index];
    assert!(
        socket.in_use && socket.generation & GENERATION_MASK == generation,
        "a completion of socket {index}, generation {generation}, after its last one"
    );
    socket
}

/// Appends what `make` returns, made where it will lie. `push` makes it on the stack first, since growing may fail in
/// between; for completions that cost 1 % of a request.
#[inline(always)]
fn put<T>(out: &mut Vec<T>, make: impl FnOnce() -> T) {
    let length = out.len();
    if length == out.capacity() {
        grow(out);
    }
    // SAFETY: there is room behind the last element, as just seen to, and it counts only after it has been written.
    unsafe {
        out.as_mut_ptr().add(length).write(make());
        out.set_len(length + 1);
    }
}

#[cold]
#[inline(never)]
fn grow<T>(out: &mut Vec<T>) {
    out.reserve(1);
}

fn os_result(result: i32) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| system_error(-result))
}

/// Whether the system says that it has no memory for a socket: a failure that passes.
fn is_out_of_memory(error: i32) -> bool {
    matches!(error, libc::ENOMEM | libc::ENOBUFS)
}

/// An error of the system, with one name for each way to say that it is out of memory.
pub(super) fn system_error(error: i32) -> io::Error {
    if is_out_of_memory(error) { io::ErrorKind::OutOfMemory.into() } else { io::Error::from_raw_os_error(error) }
}
