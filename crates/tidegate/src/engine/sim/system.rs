//! What the simulated system does with the operations that were handed to it.

use std::net::SocketAddr;
use std::time::Duration;

use super::endpoint::{EndpointId, Failure, Owner, Phase};
use super::faults::Fault;
use super::network::{Network, Readable};
use super::ring::{Entry, Ring, Submission};
use super::socket::{Close, End, Operation, Receive, Send, Want};
use crate::engine::{CloseMode, ListenerId, SocketId};
use crate::memory::{Gather, ReceiveArena};

/// The most buffers that one receive fills before its completions were reported: what Linux delivers in one batch.
const BATCH_BUFFERS: u32 = 32;

impl Ring {
    /// Hands everything recorded to the system, or some of it if that is deferred.
    pub(super) fn submit(&mut self, network: &mut Network) {
        let recorded = self.recorded.len();
        self.counters.submissions_deferred +=
            recorded.saturating_sub(self.config.submission_entries.max(1) as usize) as u64;
        for done in 0..recorded {
            if network.fate.strikes(Fault::SubmissionDeferred) {
                self.counters.submissions_deferred += (recorded - done) as u64;
                return;
            }
            if let Some(submission) = self.recorded.pop_front() {
                self.hand_over(submission, network);
            }
        }
    }

    /// Something has changed for this socket: does what can be done now.
    pub(super) fn endpoint_changed(&mut self, index: u32, network: &mut Network) {
        let id = SocketId { index, generation: self.slots[index as usize].generation };
        self.attempt_connect(id, network);
        self.attempt_receive(id, network);
        self.attempt_send(id, network);
    }

    /// The backlog has grown: accepts what there is credit for.
    pub(super) fn backlog_grew(&mut self, number: u32, network: &mut Network) {
        if let Some(place) = self.listeners.iter().position(|listener| listener.number == number) {
            self.attempt_accept(ListenerId(place as u32), false, network);
        }
    }

    /// Lets receives out of the line, as many as there are buffers, first come first served (E13).
    pub(super) fn feed(&mut self, network: &mut Network) {
        self.arena.collect_returned();
        if network.fate.now() < self.exhausted_until {
            return;
        }
        for _ in 0..self.starving.len().min(self.arena.free()) {
            let Some(id) = self.starving.pop_front() else { return };
            self.arm(id, network);
            self.take_in(id, true, network);
        }
    }

    /// Goes on with the sockets that had more data than fits into one poll, in turn (E14).
    pub(super) fn go_on(&mut self, network: &mut Network) {
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { return };
            if let Some(socket) = self.socket_mut(id) {
                socket.in_ready_line = false;
                self.attempt_receive(id, network);
            }
        }
    }

    /// Closes the socket if nothing of it is left in the system.
    pub(super) fn try_close(&mut self, id: SocketId, network: &mut Network) {
        let Some(socket) = self.socket_mut(id) else { return };
        let Close::Waiting(mode) = socket.close else { return };
        if socket.is_busy() {
            return;
        }
        socket.close = Close::Ending;
        if let Some(endpoint) = socket.endpoint.take() {
            network.close(endpoint, mode);
        }
        self.report(Entry::Closed { socket: id }, 0, network);
    }

    /// Ends the receive of a socket: its last completion is on its way.
    pub(super) fn end_receive(&mut self, id: SocketId, end: End, network: &mut Network) {
        let Some(socket) = self.socket_mut(id) else { return };
        let was = std::mem::replace(&mut socket.receive, Receive::Ending);
        // One that was not in the system is reported as if it had been.
        if !matches!(was, Receive::Armed { .. }) {
            self.totals.receives.begun += 1;
        }
        self.report_receive(id, Entry::ReceiveEnded { socket: id, end }, network);
    }

    /// A receive that could not go on before does now.
    pub(super) fn attempt_receive(&mut self, id: SocketId, network: &mut Network) {
        self.take_in(id, false, network);
    }

    /// Sends if the socket has room.
    pub(super) fn attempt_send(&mut self, id: SocketId, network: &mut Network) {
        let Some(socket) = self.socket_mut(id) else { return };
        let Some(endpoint) = socket.endpoint.filter(|_| socket.connect == Operation::None) else { return };
        let gather = match std::mem::replace(&mut socket.send, Send::None) {
            Send::Waiting(gather) => gather,
            other => {
                socket.send = other;
                return;
            }
        };
        match network.room(endpoint) {
            Ok(0) => socket.send = Send::Waiting(gather),
            Ok(_) if network.fate.strikes(Fault::SendOutOfMemory) => {
                self.end_send(id, gather, Err(Failure::OutOfMemory), network);
            }
            Ok(_) if network.fate.strikes(Fault::TimedOut) => {
                network.time_out(endpoint);
                network.failure_was_told(endpoint);
                self.end_send(id, gather, Err(Failure::TimedOut), network);
            }
            Ok(room) => {
                let offered: usize = gather.slices().map(<[u8]>::len).sum();
                let length = network.fate.shorten(Fault::ShortSend, offered.min(room));
                network.write(endpoint, gather.slices(), length);
                self.end_send(id, gather, Ok(length), network);
            }
            Err(failure) => {
                network.failure_was_told(endpoint);
                self.end_send(id, gather, Err(failure), network);
            }
        }
    }

    fn hand_over(&mut self, submission: Submission, network: &mut Network) {
        match submission {
            Submission::Connect(id) => self.begin_connect(id, network),
            Submission::Arm(id) => {
                if self.socket(id).is_some_and(|socket| socket.receive == Receive::Recorded) {
                    self.arm(id, network);
                    self.attempt_receive(id, network);
                }
            }
            Submission::CancelReceive(id) => self.cancel_receive(id, network),
            Submission::Send(id) => {
                let Some(socket) = self.socket_mut(id) else { return };
                if let Send::Recorded(gather) = std::mem::replace(&mut socket.send, Send::None) {
                    let (remaining, place) = (gather.remaining() as u64, (id.index, id.generation));
                    socket.send = Send::Waiting(gather);
                    self.totals.sends.begun += 1;
                    self.note(network, "send", place, remaining, 0);
                    self.attempt_send(id, network);
                }
            }
            Submission::Shutdown(id) => self.shut_write(id, network),
            Submission::Close(id) => self.begin_close(id, network),
            Submission::Accept { listener, count } => {
                self.note(network, "accept", (listener.0, 0), u64::from(count), 0);
                if let Some(state) = self.listeners.get_mut(listener.0 as usize)
                    && !state.closing
                {
                    state.credit += u64::from(count);
                    self.attempt_accept(listener, true, network);
                }
            }
            Submission::CloseListener { listener, sweep } => self.sweep(listener, sweep, network),
            Submission::Refuse { endpoint, answer } => self.turn_away(endpoint, &answer, network),
        }
    }

    fn arm(&mut self, id: SocketId, network: &mut Network) {
        if let Some(socket) = self.socket_mut(id) {
            let discards = socket.want == Want::Discard;
            socket.receive = Receive::Armed { discards };
            self.totals.receives.begun += 1;
            self.note(network, "receive", (id.index, id.generation), u64::from(discards), 0);
        }
    }

    /// Takes in what has arrived. With `is_fed`, the first buffer goes past the line.
    fn take_in(&mut self, id: SocketId, mut is_fed: bool, network: &mut Network) {
        loop {
            let Some(socket) = self.socket_mut(id) else { return };
            let Receive::Armed { discards } = socket.receive else { return };
            let Some(endpoint) = socket.endpoint.filter(|_| socket.connect == Operation::None) else { return };
            let available = match network.readable(endpoint) {
                Readable::Nothing => return,
                Readable::End => return self.end_receive(id, End::Finished, network),
                Readable::Failed(failure) => return self.end_receive(id, End::Failed(failure), network),
                Readable::Bytes(_) if network.fate.strikes(Fault::ReceiveOutOfMemory) => {
                    return self.end_receive(id, End::Failed(Failure::OutOfMemory), network);
                }
                Readable::Bytes(available) => available,
            };
            if discards {
                let bytes = network.fate.shorten(Fault::ShortReceive, available);
                network.skip(endpoint, bytes);
                socket.filled += 1;
                self.report_receive(id, Entry::Discarded { socket: id, bytes }, network);
            } else if !self.take_in_buffer(id, endpoint, available, is_fed, network) {
                return;
            }
            is_fed = false;
        }
    }

    /// Takes in one buffer; returns whether that was possible.
    fn take_in_buffer(
        &mut self,
        id: SocketId,
        endpoint: EndpointId,
        available: usize,
        is_fed: bool,
        network: &mut Network,
    ) -> bool {
        let budget = self.config.receive_budget_bytes;
        let in_line = !self.starving.is_empty() && !is_fed;
        let overflow = self.queued >= self.config.completion_entries.max(1);
        let Some(socket) = self.socket_mut(id) else { return false };
        if socket.filled > 0 && (socket.filled >= BATCH_BUFFERS || socket.filled_bytes >= budget) {
            if !socket.in_ready_line {
                socket.in_ready_line = true;
                self.ready.push_back(id);
            }
            return false;
        }
        if overflow || network.fate.strikes(Fault::ReceiveInterrupted) {
            self.counters.rearmed += 1;
            self.end_receive(id, End::Interrupted, network);
            return false;
        }
        let now = network.fate.now();
        if now >= self.exhausted_until && network.fate.strikes(Fault::ArenaExhausted) {
            let longest = network.fate.faults.exhausted_ns.max(1);
            let length_ns = network.fate.random.between(1, longest);
            self.exhausted_until = now + Duration::from_nanos(length_ns);
        }
        let buffer = if in_line || now < self.exhausted_until { None } else { self.arena.take_free() };
        let Some(buffer) = buffer else {
            self.starve(id, network);
            return false;
        };
        let length = network.fate.shorten(Fault::ShortReceive, available.min(self.arena.buffer_bytes()));
        fill(&self.arena, buffer, length, |bytes| network.read(endpoint, bytes));
        if let Some(socket) = self.socket_mut(id) {
            socket.filled += 1;
            socket.filled_bytes += length;
        }
        self.report_receive(id, Entry::Filled { socket: id, buffer, length }, network);
        true
    }

    fn starve(&mut self, id: SocketId, network: &mut Network) {
        if let Some(socket) = self.socket_mut(id) {
            socket.receive = Receive::Starving;
            self.totals.receives.completed += 1;
            self.counters.starved += 1;
            self.counters.completions += 1;
            self.starving.push_back(id);
            self.note(network, "starving", (id.index, id.generation), self.starving.len() as u64, 0);
        }
    }

    fn cancel_receive(&mut self, id: SocketId, network: &mut Network) {
        let Some(socket) = self.socket_mut(id) else { return };
        socket.cancel_recorded = false;
        let is_wanted = match (socket.receive, socket.want) {
            // The pause was called off in the meantime, or it discards already.
            (Receive::Armed { discards }, Want::Data) => !discards,
            (Receive::Armed { discards }, Want::Discard) => discards,
            (Receive::Starving, Want::Data) => true,
            (Receive::None | Receive::Recorded | Receive::Ending, _) => true,
            (Receive::Armed { .. } | Receive::Starving, _) => false,
        };
        if is_wanted && !socket.is_closing() {
            return;
        }
        self.end_by_cancel(id, network);
    }

    fn end_by_cancel(&mut self, id: SocketId, network: &mut Network) {
        if network.fate.strikes(Fault::CancelLosesRace) {
            self.attempt_receive(id, network);
        }
        match self.socket(id).map(|socket| socket.receive) {
            Some(Receive::Armed { .. }) => self.end_receive(id, End::Canceled, network),
            Some(Receive::Starving) => {
                self.leave_line(id);
                self.end_receive(id, End::Canceled, network);
            }
            _ => {}
        }
    }

    fn begin_connect(&mut self, id: SocketId, network: &mut Network) {
        let owner = Owner::Socket { engine: self.number, index: id.index };
        let Some(socket) = self.socket_mut(id) else { return };
        let Some(address) = socket.address else { return };
        socket.connect = Operation::Waiting;
        let reachable = socket.source.is_none_or(|source| source.is_ipv4() == address.is_ipv4());
        if reachable {
            let local = match socket.source {
                Some(source) => network.invent_port(source),
                None => network.invent_address(address),
            };
            socket.endpoint = Some(network.connect(local, address, owner));
        }
        self.totals.connects.begun += 1;
        if !reachable {
            self.end_connect(id, Err(Failure::AddressNotAvailable), network);
        }
    }

    fn attempt_connect(&mut self, id: SocketId, network: &mut Network) {
        let Some(socket) = self.socket_mut(id) else { return };
        if socket.connect != Operation::Waiting {
            return;
        }
        let Some(endpoint) = socket.endpoint else { return };
        let result = match network.get(endpoint).map(|endpoint| (endpoint.phase, endpoint.local)) {
            Some((Phase::Connecting, _)) => return,
            Some((Phase::Established, local)) => Ok(local),
            Some((Phase::Failed(failure), _)) => Err(failure),
            None => Err(Failure::NotConnected),
        };
        self.end_connect(id, result, network);
    }

    fn end_connect(&mut self, id: SocketId, result: Result<SocketAddr, Failure>, network: &mut Network) {
        if let Some(socket) = self.socket_mut(id) {
            socket.connect = Operation::Ending;
            self.report(Entry::Connected { socket: id, result }, 0, network);
        }
    }

    fn end_send(&mut self, id: SocketId, gather: Box<Gather>, result: Result<usize, Failure>, network: &mut Network) {
        if let Some(socket) = self.socket_mut(id) {
            socket.send = Send::Ending(gather);
            self.report(Entry::Sent { socket: id, result }, 0, network);
        }
    }

    fn cancel_send(&mut self, id: SocketId, network: &mut Network) {
        let Some(socket) = self.socket_mut(id) else { return };
        let endpoint = socket.endpoint;
        let gather = match std::mem::replace(&mut socket.send, Send::None) {
            Send::Waiting(gather) => gather,
            other => {
                socket.send = other;
                return;
            }
        };
        let wins = !network.fate.strikes(Fault::CancelLosesRace);
        match endpoint.filter(|&endpoint| !wins && network.room(endpoint).is_ok()) {
            Some(endpoint) => {
                let offered: usize = gather.slices().map(<[u8]>::len).sum();
                let length = network.fate.random.between(1, offered as u64) as usize;
                network.write(endpoint, gather.slices(), length);
                self.end_send(id, gather, Ok(length), network);
            }
            None => self.end_send(id, gather, Err(Failure::Canceled), network),
        }
    }

    fn shut_write(&mut self, id: SocketId, network: &mut Network) {
        let Some(socket) = self.socket_mut(id) else { return };
        socket.shutdown = Operation::Ending;
        let result = match socket.endpoint {
            Some(endpoint) => network.shut_write(endpoint),
            None => Err(Failure::NotConnected),
        };
        self.totals.shutdowns.begun += 1;
        self.report(Entry::WriteShut { socket: id, result }, 0, network);
    }

    fn begin_close(&mut self, id: SocketId, network: &mut Network) {
        let Some(socket) = self.socket_mut(id) else { return };
        let Close::Recorded(mode) = socket.close else { return };
        socket.close = Close::Waiting(mode);
        self.totals.closes.begun += 1;
        self.note(network, "close", (id.index, id.generation), mode as u64, 0);
        self.end_by_cancel(id, network);
        if self.socket(id).is_some_and(|socket| socket.connect == Operation::Waiting)
            && !network.fate.strikes(Fault::CancelLosesRace)
        {
            self.end_connect(id, Err(Failure::Canceled), network);
        }
        self.cancel_send(id, network);
        self.try_close(id, network);
    }

    /// Accepts what the backlog holds, as far as there is credit. An accept that fails leaves the rest where it is, unless it was asked
    /// for just now (E7).
    fn attempt_accept(&mut self, listener: ListenerId, is_asked: bool, network: &mut Network) {
        let mut has_failed = false;
        while is_asked || !has_failed {
            let Some(state) = self.listeners.get_mut(listener.0 as usize) else { return };
            if state.credit == 0 || network.backlog(state.number) == 0 {
                return;
            }
            state.credit -= 1;
            let number = state.number;
            if network.fate.strikes(Fault::AcceptFailed) {
                let entry = Entry::AcceptFailed { listener, failure: Failure::TooManyFiles };
                self.report_accept(listener, entry, network);
                has_failed = true;
            } else if network.fate.strikes(Fault::AcceptAborted) {
                if let Some(endpoint) = network.take_connection(number) {
                    network.close(endpoint, CloseMode::Abort);
                }
                let entry = Entry::AcceptFailed { listener, failure: Failure::Aborted };
                self.report_accept(listener, entry, network);
                has_failed = true;
            } else {
                self.take_connection(listener, network);
            }
        }
    }

    fn take_connection(&mut self, listener: ListenerId, network: &mut Network) {
        let number = self.listeners[listener.0 as usize].number;
        if let Some(endpoint) = network.take_connection(number)
            && let Some(peer) = network.get(endpoint).map(|endpoint| endpoint.remote)
        {
            self.report_accept(listener, Entry::Accepted { listener, endpoint, peer }, network);
        }
    }

    fn sweep(&mut self, listener: ListenerId, sweep: u32, network: &mut Network) {
        self.note(network, "close listener", (listener.0, 0), u64::from(sweep), 0);
        let Some(state) = self.listeners.get_mut(listener.0 as usize) else { return };
        if std::mem::replace(&mut state.closing, true) {
            return;
        }
        state.credit = 0;
        let number = state.number;
        // What was accepted before and is still on its way is reported after the call as well.
        let is_pending = |entry: &&Entry| matches!(entry, Entry::Accepted { listener: of, .. } if *of == listener);
        let pending = self.entries.values().filter(is_pending).count();
        for _ in 0..network.backlog(number).min((sweep as usize).saturating_sub(pending)) {
            self.take_connection(listener, network);
        }
        network.unbind(number);
        self.report_listener(listener, Entry::ListenerClosed { listener }, network);
    }

    /// The answer as far as there is room, then the end; what has arrived is thrown away (E26).
    pub(super) fn turn_away(&mut self, endpoint: EndpointId, answer: &[u8], network: &mut Network) {
        self.note(network, "refuse", (endpoint.index, endpoint.generation), answer.len() as u64, 0);
        if let Ok(room) = network.room(endpoint)
            && room.min(answer.len()) > 0
        {
            network.write(endpoint, std::iter::once(answer), room.min(answer.len()));
        }
        network.skip(endpoint, network.unread_bytes(endpoint));
        network.close(endpoint, CloseMode::Orderly);
    }

    fn report_accept(&mut self, listener: ListenerId, entry: Entry, network: &mut Network) {
        self.totals.accepts.begun += 1;
        self.report_listener(listener, entry, network);
    }

    fn report_listener(&mut self, listener: ListenerId, entry: Entry, network: &mut Network) {
        let last_due_ns = self.listeners[listener.0 as usize].last_due_ns;
        let due_ns = self.report(entry, last_due_ns, network);
        self.listeners[listener.0 as usize].last_due_ns = due_ns;
    }

    fn report_receive(&mut self, id: SocketId, entry: Entry, network: &mut Network) {
        let last_due_ns = self.socket(id).map_or(0, |socket| socket.last_receive_due_ns);
        let due_ns = self.report(entry, last_due_ns, network);
        if let Some(socket) = self.socket_mut(id) {
            socket.last_receive_due_ns = due_ns;
        }
    }
}

/// Lets `write` fill the first `length` bytes of a buffer that was taken from the arena and not filled yet.
fn fill(arena: &ReceiveArena, buffer: u32, length: usize, write: impl FnOnce(&mut [u8])) {
    assert!(length <= arena.buffer_bytes(), "{length} bytes into a buffer of {}", arena.buffer_bytes());
    // SAFETY: the caller has taken the buffer from the free list and neither given it back nor turned it into a
    // `Buffer` yet, so nobody else has it. Its bytes lie inside the arena's block and were initialized with it.
    write(unsafe { std::slice::from_raw_parts_mut(arena.address(buffer).as_ptr(), length) });
}
