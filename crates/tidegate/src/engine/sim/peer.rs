//! A client of the simulated world, driven by the harness.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::endpoint::{EndpointId, Failure, Phase, StreamBytes};
use super::fate::Event;
use super::network::{Network, Readable};
use super::world::World;
use crate::engine::CloseMode;
use crate::time::Time;

/// One end of a connection, in the hands of the harness. Nothing blocks; dropping it closes it in an orderly way.
///
/// [`Step::Peer`](super::Step::Peer) with its [`number`](Self::number) says when to try again.
#[derive(Debug)]
pub(crate) struct SimPeer {
    world: World,
    endpoint: EndpointId,
    number: u32,
    local: SocketAddr,
    is_open: bool,
}

/// A clogged way between a peer and the server. Outlives the peer: what it had sent waits, too.
#[derive(Debug)]
pub(crate) struct SimClog {
    world: World,
    ends: [Option<EndpointId>; 2],
}

impl SimClog {
    /// Frees the way: what has waited arrives.
    pub(crate) fn remove(self) {
        let mut state = self.world.state().borrow_mut();
        state.network.unclog(self.ends);
        state.settle();
    }
}

impl SimPeer {
    pub(super) fn new(world: World, endpoint: EndpointId, number: u32, local: SocketAddr) -> Self {
        Self { world, endpoint, number, local, is_open: true }
    }

    /// Writes as much of `bytes` as the send buffer has room for.
    ///
    /// # Errors `WouldBlock` while there is no room or no connection yet; `ConnectionReset`, `BrokenPipe`,
    /// `ConnectionRefused`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|network, endpoint| match network.room(endpoint) {
            Ok(_) if bytes.is_empty() => Ok(0),
            Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
            Ok(room) => {
                let length = room.min(bytes.len());
                network.write(endpoint, std::iter::once(bytes), length);
                Ok(length)
            }
            Err(failure) => {
                network.failure_was_told(endpoint);
                Err(failure.error())
            }
        })
    }

    /// Reads what has arrived, as much as fits; 0 at the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` while nothing is there; `ConnectionReset`, `ConnectionRefused`.
    pub(crate) fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.with(|network, endpoint| match network.readable(endpoint) {
            Readable::Bytes(available) => {
                let length = available.min(bytes.len());
                network.read(endpoint, &mut bytes[..length]);
                Ok(length)
            }
            Readable::End => Ok(0),
            Readable::Nothing => Err(io::ErrorKind::WouldBlock.into()),
            Readable::Failed(failure) => {
                network.failure_was_told(endpoint);
                Err(failure.error())
            }
        })
    }

    /// Lets the end of the stream follow what was written.
    ///
    /// # Errors
    /// `NotConnected`.
    pub(crate) fn shutdown_write(&mut self) -> io::Result<()> {
        self.with(|network, endpoint| network.shut_write(endpoint).map_err(Failure::error))
    }

    /// Resets the connection.
    pub(crate) fn reset(mut self) {
        self.is_open = false;
        self.with(|network, endpoint| network.close(endpoint, CloseMode::Abort));
    }

    /// Breaks the connection: both ends see a reset.
    pub(crate) fn cut(&self) {
        self.with(|network, endpoint| network.happen(Event::Cut { endpoint }));
    }

    /// Clogs the way to the server: nothing arrives in either direction before the clog is [removed](SimClog::remove).
    pub(crate) fn clog(&self) -> SimClog {
        SimClog { world: self.world.clone(), ends: self.with(Network::clog) }
    }

    /// Makes [`World::step`] name this peer once `after` from now.
    pub(crate) fn wake_after(&self, after: Duration) {
        let peer = self.number;
        self.with(|network, _| {
            let time = network.fate.now() + after;
            network.fate.schedule_at(time, Event::PeerTimer { peer });
        });
    }

    /// Makes [`World::step`] name this peer once at `time`.
    pub(crate) fn wake_at(&self, time: Time) {
        let peer = self.number;
        self.with(|network, _| network.fate.schedule_at(time, Event::PeerTimer { peer }));
    }

    /// Its number in the world. Never used again.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Its own address.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Whether the connection is there: true once it was established, until it fails.
    pub(crate) fn is_connected(&self) -> bool {
        self.with(|network, endpoint| {
            network.get(endpoint).is_some_and(|endpoint| endpoint.phase == Phase::Established)
        })
    }

    /// How many bytes have arrived and were not read.
    pub(crate) fn unread_bytes(&self) -> usize {
        self.with(|network, endpoint| network.unread_bytes(endpoint))
    }

    /// What this end and the other one have written and read so far.
    pub(crate) fn bytes(&self) -> (StreamBytes, StreamBytes) {
        self.with(|network, endpoint| network.stream_bytes(endpoint))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Network, EndpointId) -> T) -> T {
        let mut state = self.world.state().borrow_mut();
        let result = act(&mut state.network, self.endpoint);
        state.settle();
        result
    }
}

impl Drop for SimPeer {
    fn drop(&mut self) {
        if self.is_open && self.world.state().try_borrow_mut().is_ok() {
            self.with(|network, endpoint| network.close(endpoint, CloseMode::Orderly));
        }
    }
}
