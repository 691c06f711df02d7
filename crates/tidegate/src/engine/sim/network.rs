//! The simulated network: listeners, connections, and how bytes get from one end to the other.
//!
//! Written bytes wait in the sender's send buffer, leave it at the bandwidth of the path, arrive after its latency,
//! and wait in the receiver's receive buffer until they are read. Nothing leaves for which there is no room at the
//! other end (the window; a sender knows it without delay, the one thing that is better than life). The end of a
//! stream follows its data; a reset overtakes it and destroys what is unsent and unread at both ends. Data that
//! arrives where nobody reads any more is answered by a reset.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::endpoint::{Endpoint, EndpointId, Failure, Owner, Path, Phase, StreamBytes};
use super::fate::{Event, Fate};
use super::trace::Record;
use crate::engine::CloseMode;

/// The ports of connections from an address that was asked for.
const EPHEMERAL_PORTS: std::ops::Range<u16> = 32_768..61_000;

/// All endpoints and listeners of a world.
#[derive(Debug)]
pub(super) struct Network {
    /// What is going to happen.
    pub fate: Fate,
    endpoints: Vec<Place>,
    free: Vec<u32>,
    pub(super) listeners: Vec<NetworkListener>,
    next_port: u16,
    next_client: u32,
    /// The next port of each source address that somebody has connected from.
    source_ports: BTreeMap<IpAddr, u16>,
    /// Endpoints whose owners have to be told of a change.
    touched: VecDeque<EndpointId>,
    /// Listeners whose backlogs have grown.
    pub(super) touched_listeners: VecDeque<u32>,
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    endpoint: Option<Box<Endpoint>>,
}

/// A bound address.
#[derive(Debug)]
pub(super) struct NetworkListener {
    /// Where.
    pub address: SocketAddr,
    /// Connections that can be accepted.
    pub backlog: VecDeque<EndpointId>,
    /// How many of them there may be.
    pub backlog_limit: u32,
    /// Connections on their way into the backlog; they count.
    pub expected: u32,
    /// Whether anybody still listens.
    pub open: bool,
}

/// What a receive would find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Readable {
    /// Nothing yet.
    Nothing,
    /// So many bytes.
    Bytes(usize),
    /// The end of the stream.
    End,
    /// An error.
    Failed(Failure),
}

impl Network {
    /// A network with nobody in it.
    pub(super) fn new(fate: Fate) -> Self {
        Self {
            fate,
            endpoints: Vec::new(),
            free: Vec::new(),
            listeners: Vec::new(),
            next_port: 20_000,
            next_client: 0,
            source_ports: BTreeMap::new(),
            touched: VecDeque::new(),
            touched_listeners: VecDeque::new(),
        }
    }

    /// Listens at `address`; port 0 is replaced by a free one. Returns the number of the listener.
    pub(super) fn bind(&mut self, mut address: SocketAddr, backlog: u32) -> io::Result<u32> {
        if address.port() == 0 {
            while self.listener_at(SocketAddr::new(address.ip(), self.next_port)).is_some() {
                self.next_port += 1;
            }
            address.set_port(self.next_port);
            self.next_port += 1;
        }
        if self.listeners.iter().any(|listener| listener.open && listener.address == address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        self.listeners.push(NetworkListener {
            address,
            backlog: VecDeque::new(),
            backlog_limit: backlog,
            expected: 0,
            open: true,
        });
        Ok(self.listeners.len() as u32 - 1)
    }

    /// Stops listening. What waits in the backlog is reset.
    pub(super) fn unbind(&mut self, listener: u32) {
        let state = &mut self.listeners[listener as usize];
        state.open = false;
        for waiting in std::mem::take(&mut state.backlog) {
            self.close(waiting, CloseMode::Abort);
        }
    }

    /// Takes the connection that has waited longest.
    pub(super) fn take_connection(&mut self, listener: u32) -> Option<EndpointId> {
        let taken = self.listeners[listener as usize].backlog.pop_front()?;
        if let Some(endpoint) = self.get_mut(taken) {
            endpoint.owner = Owner::Stream;
        }
        Some(taken)
    }

    /// Begins to connect to `remote`, from `local`.
    pub(super) fn connect(&mut self, local: SocketAddr, remote: SocketAddr, owner: Owner) -> EndpointId {
        let faults = &self.fate.faults;
        let (latency, bandwidth, segment) = (faults.latency_ns, faults.bandwidth_bytes, faults.segment_bytes);
        let path = Path {
            latency_ns: self.fate.draw(latency),
            bandwidth_bytes: self.fate.draw(bandwidth).max(1),
            segment_bytes: self.fate.draw(segment).max(1) as usize,
        };
        let client = self.insert(local, remote, owner, path);
        self.note("Connecting", client, u64::from(remote.port()), 0);
        self.fate.schedule(path.latency_ns, Event::Syn { client });
        client
    }

    /// Takes bytes from the receive buffer into all of `bytes`.
    ///
    /// # Panics
    /// If there are fewer.
    pub(super) fn read(&mut self, id: EndpointId, bytes: &mut [u8]) {
        if let Some(endpoint) = self.get_mut(id) {
            let buffer = &mut endpoint.incoming.buffer;
            let length = bytes.len();
            assert!(length <= buffer.len(), "{length} bytes read of {}", buffer.len());
            let (front, back) = buffer.as_slices();
            let from_front = length.min(front.len());
            bytes[..from_front].copy_from_slice(&front[..from_front]);
            bytes[from_front..].copy_from_slice(&back[..length - from_front]);
            self.skip(id, length);
        }
    }

    /// Throws `length` bytes of the receive buffer away.
    pub(super) fn skip(&mut self, id: EndpointId, length: usize) {
        if let Some(endpoint) = self.get_mut(id) {
            endpoint.incoming.buffer.drain(..length);
            endpoint.bytes.read += length as u64;
            if endpoint.incoming.buffer.is_empty() && endpoint.incoming.buffer.capacity() > 4096 {
                endpoint.incoming.buffer = VecDeque::new();
            }
            if let Some(far) = endpoint.far {
                self.transmit(far);
            }
        }
    }

    /// Puts the first `length` bytes of `slices` into the send buffer, also beyond its capacity.
    pub(super) fn write<'a>(&mut self, id: EndpointId, slices: impl Iterator<Item = &'a [u8]>, length: usize) {
        if let Some(endpoint) = self.get_mut(id) {
            let mut rest = length;
            for slice in slices {
                let part = &slice[..slice.len().min(rest)];
                endpoint.outgoing.buffer.extend(part);
                rest -= part.len();
                if rest == 0 {
                    break;
                }
            }
            assert!(rest == 0, "{length} bytes written, {rest} more than there are");
            endpoint.bytes.written += length as u64;
            self.transmit(id);
        }
    }

    /// Lets the end of the stream follow what was written.
    pub(super) fn shut_write(&mut self, id: EndpointId) -> Result<(), Failure> {
        let endpoint = self.get_mut(id).ok_or(Failure::NotConnected)?;
        if endpoint.phase != Phase::Established {
            return Err(Failure::NotConnected);
        }
        endpoint.outgoing.end_wanted = true;
        self.transmit(id);
        Ok(())
    }

    /// The owner has finished with the endpoint.
    pub(super) fn close(&mut self, id: EndpointId, mode: CloseMode) {
        let Some(endpoint) = self.get_mut(id) else { return };
        let (far, latency) = (endpoint.far, endpoint.path.latency_ns);
        match endpoint.phase {
            Phase::Failed(_) => self.remove(id),
            Phase::Established if mode == CloseMode::Orderly && endpoint.incoming.buffer.is_empty() => {
                endpoint.owner = Owner::Nobody;
                endpoint.outgoing.end_wanted = true;
                self.transmit(id);
                self.remove_if_finished(id);
            }
            Phase::Established | Phase::Connecting => {
                self.note("Reset sent", id, 0, 0);
                self.remove(id);
                if let Some(far) = far {
                    self.fate.schedule(latency, Event::Reset { endpoint: far });
                }
            }
        }
    }

    /// Gives the endpoint to another owner.
    pub(super) fn give_to(&mut self, id: EndpointId, owner: Owner) {
        if let Some(endpoint) = self.get_mut(id) {
            endpoint.owner = owner;
            self.touch(id);
        }
    }

    /// Remembers that its owner has been told of the failure. Later sends find a broken pipe.
    pub(super) fn failure_was_told(&mut self, id: EndpointId) {
        if let Some(endpoint) = self.get_mut(id) {
            endpoint.failure_told = true;
        }
    }

    /// The next endpoint whose owner has to be told of a change.
    pub(super) fn take_touched(&mut self) -> Option<(EndpointId, Owner)> {
        while let Some(id) = self.touched.pop_front() {
            if let Some(endpoint) = self.get_mut(id) {
                endpoint.touched = false;
                return Some((id, endpoint.owner));
            }
        }
        None
    }

    /// The next listener whose backlog has grown.
    pub(super) fn take_touched_listener(&mut self) -> Option<u32> {
        self.touched_listeners.pop_front()
    }

    /// The endpoint, unless it is gone.
    pub(super) fn get(&self, id: EndpointId) -> Option<&Endpoint> {
        let place = &self.endpoints[id.index as usize];
        if place.generation == id.generation { place.endpoint.as_deref() } else { None }
    }

    /// What a receive would find.
    pub(super) fn readable(&self, id: EndpointId) -> Readable {
        let Some(endpoint) = self.get(id) else { return Readable::Failed(Failure::NotConnected) };
        match endpoint.phase {
            Phase::Connecting => Readable::Nothing,
            Phase::Failed(failure) => Readable::Failed(failure),
            Phase::Established => match endpoint.incoming.buffer.len() {
                0 if endpoint.incoming.ended => Readable::End,
                0 => Readable::Nothing,
                length => Readable::Bytes(length),
            },
        }
    }

    /// How many bytes a send would take.
    pub(super) fn room(&self, id: EndpointId) -> Result<usize, Failure> {
        let endpoint = self.get(id).ok_or(Failure::NotConnected)?;
        match endpoint.phase {
            Phase::Connecting => Ok(0),
            Phase::Failed(Failure::Reset | Failure::TimedOut) if endpoint.failure_told => Err(Failure::BrokenPipe),
            Phase::Failed(failure) => Err(failure),
            Phase::Established if endpoint.outgoing.end_wanted => Err(Failure::BrokenPipe),
            Phase::Established => Ok(endpoint.outgoing.capacity.saturating_sub(endpoint.outgoing.buffer.len())),
        }
    }

    /// How many bytes have arrived and were not read.
    pub(super) fn unread_bytes(&self, id: EndpointId) -> usize {
        self.get(id).map_or(0, |endpoint| endpoint.incoming.buffer.len())
    }

    /// What the endpoint and the one at the other end have written and read.
    pub(super) fn stream_bytes(&self, id: EndpointId) -> (StreamBytes, StreamBytes) {
        let Some(endpoint) = self.get(id) else { return Default::default() };
        let far = endpoint.far.and_then(|far| self.get(far)).map_or(endpoint.far_bytes, |far| far.bytes);
        (endpoint.bytes, far)
    }

    /// The bound address of a listener.
    pub(super) fn listener_address(&self, listener: u32) -> SocketAddr {
        self.listeners[listener as usize].address
    }

    /// How many connections can be accepted.
    pub(super) fn backlog(&self, listener: u32) -> usize {
        self.listeners[listener as usize].backlog.len()
    }

    /// How many endpoints there are, those included that were closed and still send.
    pub(super) fn endpoints(&self) -> usize {
        self.endpoints.len() - self.free.len()
    }

    pub(super) fn get_mut(&mut self, id: EndpointId) -> Option<&mut Endpoint> {
        let place = &mut self.endpoints[id.index as usize];
        if place.generation == id.generation { place.endpoint.as_deref_mut() } else { None }
    }

    pub(super) fn insert(&mut self, local: SocketAddr, remote: SocketAddr, owner: Owner, path: Path) -> EndpointId {
        let (send, receive) = (self.fate.faults.send_buffer_bytes, self.fate.faults.receive_buffer_bytes);
        let send = self.fate.draw(send).max(1) as usize;
        let receive = self.fate.draw(receive).max(1) as usize;
        let index = self.free.pop().unwrap_or_else(|| {
            self.endpoints.push(Place::default());
            self.endpoints.len() as u32 - 1
        });
        let place = &mut self.endpoints[index as usize];
        place.endpoint = Some(Box::new(Endpoint::new(local, remote, owner, path, send, receive)));
        EndpointId { index, generation: place.generation }
    }

    pub(super) fn remove(&mut self, id: EndpointId) {
        let place = &mut self.endpoints[id.index as usize];
        if place.generation != id.generation {
            return;
        }
        let Some(endpoint) = place.endpoint.take() else { return };
        place.generation = place.generation.wrapping_add(1);
        self.free.push(id.index);
        if let Some(far) = endpoint.far.and_then(|far| self.get_mut(far)) {
            far.far_bytes = endpoint.bytes;
        }
    }

    pub(super) fn remove_if_finished(&mut self, id: EndpointId) {
        if self.get(id).is_some_and(|endpoint| endpoint.is_orphan() && endpoint.has_sent_all()) {
            self.remove(id);
        }
    }

    pub(super) fn touch(&mut self, id: EndpointId) {
        if let Some(endpoint) = self.get_mut(id)
            && !endpoint.touched
        {
            endpoint.touched = true;
            self.touched.push_back(id);
        }
    }

    pub(super) fn note(&mut self, kind: &'static str, id: EndpointId, count: u64, content: u64) {
        self.fate.note(Record { engine: None, kind, place: (id.index, id.generation), count, content });
    }

    /// A client address for connecting to `remote`. All are different, up to 16 million of them.
    pub(super) fn invent_address(&mut self, remote: SocketAddr) -> SocketAddr {
        self.next_client += 1;
        let [_, high, middle, low] = self.next_client.to_be_bytes();
        let ip = match remote.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(10, high, middle, low)),
            IpAddr::V6(_) => {
                IpAddr::V6(Ipv6Addr::new(0x2001, 0xDB8, u16::from(high), u16::from_be_bytes([middle, low]), 0, 0, 0, 1))
            }
        };
        SocketAddr::new(ip, 40_000)
    }

    /// A client address at `source`. All ports of one source are different until they have all been used.
    pub(super) fn invent_port(&mut self, source: IpAddr) -> SocketAddr {
        let port = self.source_ports.entry(source).or_insert(EPHEMERAL_PORTS.start);
        let local = SocketAddr::new(source, *port);
        *port = if *port + 1 < EPHEMERAL_PORTS.end { *port + 1 } else { EPHEMERAL_PORTS.start };
        local
    }

    pub(super) fn listener_at(&self, address: SocketAddr) -> Option<u32> {
        let matches = |listener: &NetworkListener, exactly: bool| {
            let ip = listener.address.ip();
            let host = if exactly {
                ip == address.ip()
            } else {
                ip.is_unspecified() && ip.is_ipv4() == address.ip().is_ipv4()
            };
            listener.open && listener.address.port() == address.port() && host
        };
        [true, false]
            .into_iter()
            .find_map(|exactly| self.listeners.iter().position(|listener| matches(listener, exactly)))
            .map(|number| number as u32)
    }
}
