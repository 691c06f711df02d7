//! One poll of a simulated engine, and what becomes of each completion on its way to the caller.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use super::endpoint::{EndpointId, Failure};
use super::faults::Fault;
use super::network::Network;
use super::ring::{Entry, Ring};
use super::socket::{Close, End, Operation, Receive, Send, Socket, Want};
use super::trace::content_hash;
use crate::engine::{Completion, SocketId};
use crate::time::Time;

/// A completion whose streams the engine has yet to make.
pub(super) type Report = Completion<EndpointId>;

impl Ring {
    /// See [`Engine::poll`](crate::engine::Engine::poll). Does not wait: the deadline is remembered for the
    /// scheduler.
    pub(super) fn poll(&mut self, deadline: Option<Time>, network: &mut Network, reports: &mut Vec<Report>) {
        let before = reports.len();
        self.now = network.fate.now();
        self.counters.polls += 1;
        self.free.append(&mut self.freed);
        self.queued = 0;
        self.buffer_returned.store(false, Ordering::Release);
        self.feed(network);
        self.submit(network);
        if self.woken.swap(false, Ordering::AcqRel) {
            self.note(network, "Woken", (0, 0), 0, 0);
            reports.push(Completion::Woken);
        }
        for entry in self.take_due(network) {
            self.counters.completions += 1;
            self.reap(entry, network, reports);
        }
        self.go_on(network);
        self.deadline = deadline;
        self.settled = reports.len() == before && self.recorded.is_empty() && self.ready.is_empty();
    }

    /// The completions that are due, in the order in which they are reported.
    fn take_due(&mut self, network: &mut Network) -> Vec<Entry> {
        let now_ns = self.now.as_nanos();
        let mut due = Vec::new();
        while let Some(first) = self.entries.first_entry()
            && first.key().0 <= now_ns
        {
            due.push(first.remove());
        }
        if due.len() < 2 || !network.fate.strikes(Fault::Reordered) {
            return due;
        }
        let mut order: Vec<_> = due.iter().map(Entry::lane).collect();
        network.fate.random.shuffle(&mut order);
        let mut lanes: BTreeMap<_, VecDeque<Entry>> = BTreeMap::new();
        for entry in due {
            lanes.entry(entry.lane()).or_default().push_back(entry);
        }
        order.into_iter().filter_map(|lane| lanes.get_mut(&lane)?.pop_front()).collect()
    }

    fn reap(&mut self, entry: Entry, network: &mut Network, reports: &mut Vec<Report>) {
        match entry {
            Entry::Connected { socket, result } => self.reap_connected(socket, result, network, reports),
            Entry::Filled { socket, buffer, length } => self.reap_filled(socket, buffer, length, network, reports),
            Entry::Discarded { socket, bytes } => self.reap_discarded(socket, bytes, network, reports),
            Entry::ReceiveEnded { socket, end } => self.reap_receive_ended(socket, end, network, reports),
            Entry::Sent { socket, result } => self.reap_sent(socket, result, network, reports),
            Entry::WriteShut { socket, result } => self.reap_write_shut(socket, result, network, reports),
            Entry::Closed { socket } => self.reap_closed(socket, network, reports),
            Entry::Accepted { listener, endpoint, peer } => {
                self.totals.accepts.completed += 1;
                self.note(network, "Accepted", (listener.0, 0), u64::from(peer.port()), 0);
                reports.push(Completion::Accepted { listener, stream: endpoint, peer });
            }
            Entry::AcceptFailed { listener, failure } => {
                self.totals.accepts.completed += 1;
                self.note(network, "AcceptFailed", (listener.0, 0), failure as u64, 0);
                reports.push(Completion::AcceptFailed { listener, error: failure.error() });
            }
            Entry::ListenerClosed { listener } => {
                self.note(network, "ListenerClosed", (listener.0, 0), 0, 0);
                reports.push(Completion::ListenerClosed { listener });
            }
        }
    }

    fn reap_connected(
        &mut self,
        id: SocketId,
        result: Result<SocketAddr, Failure>,
        network: &mut Network,
        reports: &mut Vec<Report>,
    ) {
        self.totals.connects.completed += 1;
        let socket = self.in_use(id, "Connected");
        assert_eq!(socket.connect, Operation::Ending, "a connect of {id:?} completes once");
        socket.connect = Operation::None;
        self.note(network, "Connected", place(id), failure_number(result.err()), 0);
        reports.push(Completion::Connected { socket: id, result: result.map_err(Failure::error) });
        self.attempt_receive(id, network);
        self.attempt_send(id, network);
        self.try_close(id, network);
    }

    fn reap_filled(
        &mut self,
        id: SocketId,
        buffer: u32,
        length: usize,
        network: &mut Network,
        reports: &mut Vec<Report>,
    ) {
        let buffer = self.arena.filled(buffer, length, id.index);
        let socket = self.in_use(id, "Received");
        socket.filled -= 1;
        socket.filled_bytes -= length;
        let (is_closing, want) = (socket.is_closing(), socket.want);
        if is_closing {
            self.totals.undelivered_bytes += length as u64;
            drop(buffer);
            self.try_close(id, network);
        } else if want == Want::Discard {
            self.totals.discarded_bytes += length as u64;
            self.note(network, "Discarded", place(id), length as u64, 0);
            reports.push(Completion::Discarded { socket: id, bytes: length });
        } else {
            assert!(want != Want::Nothing, "data for {id:?}, which does not receive");
            self.totals.received_bytes += length as u64;
            self.note(network, "Received", place(id), length as u64, content_hash(&buffer));
            reports.push(Completion::Received { socket: id, buffer });
        }
    }

    fn reap_discarded(&mut self, id: SocketId, bytes: usize, network: &mut Network, reports: &mut Vec<Report>) {
        let socket = self.in_use(id, "Discarded");
        socket.filled -= 1;
        if socket.is_closing() {
            self.totals.undelivered_bytes += bytes as u64;
            self.try_close(id, network);
        } else {
            self.totals.discarded_bytes += bytes as u64;
            self.note(network, "Discarded", place(id), bytes as u64, 0);
            reports.push(Completion::Discarded { socket: id, bytes });
        }
    }

    fn reap_receive_ended(&mut self, id: SocketId, end: End, network: &mut Network, reports: &mut Vec<Report>) {
        self.totals.receives.completed += 1;
        let socket = self.in_use(id, "the end of a receive");
        assert_eq!(socket.receive, Receive::Ending, "a receive of {id:?} ends once");
        assert_eq!(socket.filled, 0, "a receive of {id:?} ends after its data");
        socket.receive = Receive::None;
        if socket.is_closing() {
            self.try_close(id, network);
            return;
        }
        match (socket.want, end) {
            // An end that came during the pause will be found again by the next receive (E12).
            (Want::Pause, _) => {
                socket.want = Want::Nothing;
                self.note(network, "ReceivePaused", place(id), 0, 0);
                reports.push(Completion::ReceivePaused { socket: id });
            }
            (Want::Data | Want::Discard, End::Canceled | End::Interrupted) => self.ask(id),
            (Want::Data | Want::Discard, End::Finished) => {
                socket.want = Want::Nothing;
                socket.ended = true;
                self.note(network, "PeerFinished", place(id), 0, 0);
                reports.push(Completion::PeerFinished { socket: id });
            }
            (Want::Data | Want::Discard, End::Failed(Failure::OutOfMemory)) => {
                // Nothing is wrong with the connection: the caller may ask again (E12).
                socket.want = Want::Nothing;
                self.note(network, "ReceiveFailed", place(id), failure_number(Some(Failure::OutOfMemory)), 0);
                reports.push(Completion::ReceiveFailed { socket: id, error: Failure::OutOfMemory.error() });
            }
            (Want::Data | Want::Discard, End::Failed(failure)) => {
                socket.want = Want::Nothing;
                socket.ended = true;
                if let Some(endpoint) = socket.endpoint {
                    network.failure_was_told(endpoint);
                }
                self.note(network, "ReceiveFailed", place(id), failure_number(Some(failure)), 0);
                reports.push(Completion::ReceiveFailed { socket: id, error: failure.error() });
            }
            (Want::Nothing, _) => panic!("the end of a receive of {id:?}, which does not receive"),
        }
    }

    fn reap_sent(
        &mut self,
        id: SocketId,
        result: Result<usize, Failure>,
        network: &mut Network,
        reports: &mut Vec<Report>,
    ) {
        self.totals.sends.completed += 1;
        let socket = self.in_use(id, "Sent");
        let Send::Ending(gather) = mem::replace(&mut socket.send, Send::None) else {
            panic!("a send of {id:?} completes once");
        };
        assert!(result != Ok(0), "a send of {id:?} has taken nothing");
        let bytes = result.unwrap_or(0) as u64;
        self.totals.sent_bytes += bytes;
        self.note(network, "Sent", place(id), bytes, failure_number(result.err()));
        reports.push(Completion::Sent { socket: id, gather, result: result.map_err(Failure::error) });
        self.try_close(id, network);
    }

    fn reap_write_shut(
        &mut self,
        id: SocketId,
        result: Result<(), Failure>,
        network: &mut Network,
        reports: &mut Vec<Report>,
    ) {
        self.totals.shutdowns.completed += 1;
        let socket = self.in_use(id, "WriteShut");
        assert_eq!(socket.shutdown, Operation::Ending, "a half-close of {id:?} completes once");
        socket.shutdown = Operation::None;
        if socket.is_closing() {
            self.try_close(id, network);
            return;
        }
        self.note(network, "WriteShut", place(id), failure_number(result.err()), 0);
        reports.push(Completion::WriteShut { socket: id, result: result.map_err(Failure::error) });
    }

    fn reap_closed(&mut self, id: SocketId, network: &mut Network, reports: &mut Vec<Report>) {
        self.totals.closes.completed += 1;
        let socket = self.in_use(id, "Closed");
        assert_eq!(socket.close, Close::Ending, "a close of {id:?} completes once");
        assert!(!socket.is_busy(), "{id:?} is closed with operations in the system");
        let slot = &mut self.slots[id.index as usize];
        slot.socket = None;
        slot.generation = slot.generation.wrapping_add(1);
        self.freed.push(id.index);
        self.note(network, "Closed", place(id), 0, 0);
        reports.push(Completion::Closed { socket: id });
    }

    /// The socket that a completion is for: it can't be closed yet.
    fn in_use(&mut self, id: SocketId, what: &str) -> &mut Socket {
        match self.socket_mut(id) {
            Some(socket) => socket,
            None => panic!("{what} for {id:?}, which is closed"),
        }
    }
}

fn place(id: SocketId) -> (u32, u32) {
    (id.index, id.generation)
}

fn failure_number(failure: Option<Failure>) -> u64 {
    failure.map_or(0, |failure| failure as u64 + 1)
}
