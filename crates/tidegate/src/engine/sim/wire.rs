//! What happens in the network as time goes by: handshakes, departures, arrivals, resets.

use std::collections::VecDeque;

use super::endpoint::{Endpoint, EndpointId, Failure, Owner, Phase, Segment};
use super::fate::Event;
use super::faults::Fault;
use super::network::Network;
use super::trace::content_hash;
use crate::engine::CloseMode;
use crate::time::Time;

impl Network {
    /// Lets `event` happen. Timers are not the network's.
    pub(super) fn happen(&mut self, event: Event) {
        if let Some(held) = self.travels_to(event).and_then(|endpoint| endpoint.clogged.as_mut()) {
            held.push(event);
            return;
        }
        match event {
            Event::Syn { client } => self.syn(client),
            Event::Refused { client } => self.fail(client, Failure::Refused),
            Event::Handshaken { server } => self.handshaken(server),
            Event::Departed { endpoint } => self.departed(endpoint),
            Event::Arrived { sender } => self.arrived(sender),
            Event::Reset { endpoint } => self.fail(endpoint, Failure::Reset),
            Event::Cut { endpoint } => {
                let far = self.get(endpoint).and_then(|endpoint| endpoint.far);
                self.fail(endpoint, Failure::Reset);
                if let Some(far) = far {
                    self.fail(far, Failure::Reset);
                }
            }
            Event::PeerTimer { .. } | Event::Timer { .. } => {}
        }
    }

    /// Clogs the way between `id` and its other end: what is on it waits, in both directions. Returns both ends, for
    /// [`unclog`](Self::unclog).
    pub(super) fn clog(&mut self, id: EndpointId) -> [Option<EndpointId>; 2] {
        let far = self.get(id).and_then(|endpoint| endpoint.far);
        let ends = [Some(id), far];
        for id in ends.into_iter().flatten() {
            if let Some(endpoint) = self.get_mut(id) {
                endpoint.clogged.get_or_insert_default();
            }
        }
        self.note("Clogged", id, 0, 0);
        ends
    }

    /// Frees the way between two ends: what has waited arrives at once, in the same order.
    pub(super) fn unclog(&mut self, ends: [Option<EndpointId>; 2]) {
        for id in ends.into_iter().flatten() {
            let held = self.get_mut(id).and_then(|endpoint| endpoint.clogged.take());
            for event in held.into_iter().flatten() {
                self.fate.schedule(0, event);
            }
            self.note("Unclogged", id, 0, 0);
        }
    }

    /// The endpoint by whose way `event` comes, if it comes by one.
    fn travels_to(&mut self, event: Event) -> Option<&mut Endpoint> {
        match event {
            Event::Syn { client: id }
            | Event::Refused { client: id }
            | Event::Handshaken { server: id }
            | Event::Arrived { sender: id }
            | Event::Reset { endpoint: id } => self.get_mut(id),
            Event::Departed { .. } | Event::Cut { .. } | Event::PeerTimer { .. } | Event::Timer { .. } => None,
        }
    }

    fn syn(&mut self, client: EndpointId) {
        let Some(endpoint) = self.get(client) else { return };
        let (local, remote, path) = (endpoint.local, endpoint.remote, endpoint.path);
        let agreed = self.listener_at(remote).filter(|&number| {
            let listener = &self.listeners[number as usize];
            listener.backlog.len() + (listener.expected as usize) < listener.backlog_limit as usize
        });
        let failed = self.fate.strikes(Fault::ConnectFailed);
        let Some(listener) = agreed.filter(|_| !failed) else {
            self.fate.schedule(path.latency_ns, Event::Refused { client });
            return;
        };
        self.listeners[listener as usize].expected += 1;
        let server = self.insert(remote, local, Owner::Listener(listener), path);
        if let Some(endpoint) = self.get_mut(server) {
            endpoint.phase = Phase::Established;
            endpoint.far = Some(client);
        }
        if let Some(endpoint) = self.get_mut(client) {
            endpoint.far = Some(server);
        }
        self.put_on_wire(server, Segment::Agreed);
    }

    fn handshaken(&mut self, server: EndpointId) {
        let Some(Owner::Listener(listener)) = self.get(server).map(|endpoint| endpoint.owner) else { return };
        let state = &mut self.listeners[listener as usize];
        state.expected -= 1;
        if state.open {
            state.backlog.push_back(server);
            self.touched_listeners.push_back(listener);
        } else {
            self.close(server, CloseMode::Abort);
        }
    }

    /// Begins to put the next piece of the send buffer onto the wire, if there is one and room for it.
    pub(super) fn transmit(&mut self, id: EndpointId) {
        let Some(endpoint) = self.get(id) else { return };
        let outgoing = &endpoint.outgoing;
        if endpoint.phase != Phase::Established || outgoing.transmitting > 0 {
            return;
        }
        let waiting = outgoing.buffer.len();
        if waiting == 0 {
            if outgoing.end_wanted && !outgoing.end_sent {
                if let Some(endpoint) = self.get_mut(id) {
                    endpoint.outgoing.end_sent = true;
                }
                self.put_on_wire(id, Segment::End);
            }
            return;
        }
        let wanted = waiting.min(endpoint.path.segment_bytes);
        let length = match endpoint.far.and_then(|far| self.get(far)) {
            // Nobody reads there: a reset will be the answer.
            None => wanted,
            Some(far) if far.is_orphan() => wanted,
            Some(far) => {
                let incoming = &far.incoming;
                let window = incoming.capacity.saturating_sub(incoming.buffer.len() + outgoing.in_flight);
                // Against a reader that reads little at a time: don't send it crumbs.
                if window < wanted.min(incoming.capacity / 2) { 0 } else { window.min(wanted) }
            }
        };
        if length > 0 {
            let takes_ns = u128::from(length as u64) * 1_000_000_000 / u128::from(endpoint.path.bandwidth_bytes);
            if let Some(endpoint) = self.get_mut(id) {
                endpoint.outgoing.transmitting = length;
                endpoint.outgoing.in_flight += length;
            }
            self.fate.schedule(takes_ns as u64, Event::Departed { endpoint: id });
        }
    }

    fn departed(&mut self, id: EndpointId) {
        let Some(endpoint) = self.get_mut(id) else { return };
        let length = std::mem::take(&mut endpoint.outgoing.transmitting);
        if length == 0 {
            return;
        }
        let buffer = &mut endpoint.outgoing.buffer;
        let bytes: Vec<u8> = buffer.drain(..length).collect();
        if buffer.is_empty() && buffer.capacity() > 4096 {
            *buffer = VecDeque::new();
        }
        self.put_on_wire(id, Segment::Data(bytes));
        self.cut_some_time(id, 1_000_000);
        self.touch(id);
        self.transmit(id);
    }

    /// If it has to be, the connection breaks within the next `within_ns` nanoseconds.
    fn cut_some_time(&mut self, endpoint: EndpointId, within_ns: u64) {
        if self.fate.strikes(Fault::Reset) {
            let after_ns = self.fate.random.between(0, within_ns);
            self.fate.schedule(after_ns, Event::Cut { endpoint });
        }
    }

    /// The system of `id` gives the connection up. The other end hears of it later.
    pub(super) fn time_out(&mut self, id: EndpointId) {
        let Some(endpoint) = self.get(id) else { return };
        let (far, latency_ns) = (endpoint.far, endpoint.path.latency_ns);
        self.fail(id, Failure::TimedOut);
        if let Some(far) = far {
            self.fate.schedule(latency_ns, Event::Reset { endpoint: far });
        }
    }

    fn put_on_wire(&mut self, id: EndpointId, segment: Segment) {
        let (jitter, stall) = (self.fate.faults.jitter_ns, self.fate.faults.stall_ns);
        let extra_ns = self.fate.draw(jitter) + self.fate.delay_by(Fault::Stall, stall);
        let now_ns = self.fate.now().as_nanos();
        if let Some(endpoint) = self.get_mut(id) {
            let arrival_ns = now_ns.saturating_add(endpoint.path.latency_ns + extra_ns);
            let outgoing = &mut endpoint.outgoing;
            let arrival = Time::from_nanos(arrival_ns).max(outgoing.last_arrival);
            outgoing.last_arrival = arrival;
            outgoing.wire.push_back(segment);
            self.fate.schedule_at(arrival, Event::Arrived { sender: id });
        }
    }

    fn arrived(&mut self, sender: EndpointId) {
        let Some(endpoint) = self.get_mut(sender) else { return };
        let Some(segment) = endpoint.outgoing.wire.pop_front() else { return };
        let (far, latency_ns) = (endpoint.far, endpoint.path.latency_ns);
        if let Segment::Data(bytes) = &segment {
            endpoint.outgoing.in_flight -= bytes.len();
        }
        match (segment, far.filter(|&far| self.get(far).is_some())) {
            (Segment::Data(bytes), Some(far)) => self.data_arrived(sender, far, &bytes),
            (Segment::Data(_), None) => self.fate.schedule(latency_ns, Event::Reset { endpoint: sender }),
            (Segment::End, Some(far)) => {
                self.note("End arrived", far, 0, 0);
                if let Some(endpoint) = self.get_mut(far) {
                    endpoint.incoming.ended = true;
                }
                self.touch(far);
            }
            (Segment::Agreed, Some(far)) => self.agreed(sender, far),
            (Segment::End | Segment::Agreed, None) => {}
        }
        self.remove_if_finished(sender);
        self.transmit(sender);
    }

    fn data_arrived(&mut self, sender: EndpointId, far: EndpointId, bytes: &[u8]) {
        self.note("Data arrived", far, bytes.len() as u64, content_hash(bytes));
        let Some(endpoint) = self.get_mut(far) else { return };
        let latency_ns = endpoint.path.latency_ns;
        if endpoint.is_orphan() {
            self.remove(far);
            self.fate.schedule(latency_ns, Event::Reset { endpoint: sender });
        } else if endpoint.phase == Phase::Established {
            let incoming = &mut endpoint.incoming;
            incoming.buffer.extend(bytes);
            assert!(incoming.buffer.len() <= incoming.capacity, "more has arrived than the window allows");
            self.touch(far);
        }
    }

    fn agreed(&mut self, server: EndpointId, client: EndpointId) {
        self.note("Connected", client, 0, 0);
        let now_ns = self.fate.now().as_nanos();
        if let Some(endpoint) = self.get_mut(client)
            && endpoint.phase == Phase::Connecting
        {
            endpoint.phase = Phase::Established;
            let arrival = Time::from_nanos(now_ns.saturating_add(endpoint.path.latency_ns));
            // The first data can't overtake the handshake.
            endpoint.outgoing.last_arrival = arrival;
            self.fate.schedule_at(arrival, Event::Handshaken { server });
            self.touch(client);
            // Idle connections break, too.
            self.cut_some_time(client, 2_000_000_000);
        }
    }

    fn fail(&mut self, id: EndpointId, failure: Failure) {
        let Some(endpoint) = self.get_mut(id) else { return };
        if matches!(endpoint.phase, Phase::Failed(_)) {
            return;
        }
        endpoint.fail(failure);
        let owner = endpoint.owner;
        self.note(if failure == Failure::Refused { "Refused" } else { "Reset" }, id, 0, 0);
        match owner {
            Owner::Nobody => self.remove(id),
            Owner::Listener(listener) if !self.listeners[listener as usize].backlog.contains(&id) => {
                self.listeners[listener as usize].expected -= 1;
                self.remove(id);
            }
            _ => self.touch(id),
        }
    }
}
