//! Clients of a simulated server.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::engine::sim::{SimPeer, World};
use crate::time::Time;

/// A client, driven by the simulation.
pub trait Client {
    /// Called when the client's connection can do something: it is established or has failed, data or the end has arrived, there
    /// is room to write, or a wake-up that it asked for is due. Spurious calls happen. Never blocks.
    fn turn(&mut self, peer: &mut Peer) -> Next;
}

/// What becomes of a client after its turn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// It goes on when something happens.
    Wait,
    /// It closes its connection in order and is done.
    Close,
    /// It resets its connection and is done.
    Reset,
    /// It has seen what must not be: the run ends as a [`Violation`](crate::sim::Violation) with this text.
    Failed(String),
}

/// Names a client of one [`Simulation`](crate::sim::Simulation). They are numbered from 0, in the order in which they were added.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ClientId(pub(super) u64);

/// A client's end of a connection in a [`Simulation`](crate::sim::Simulation). Nothing blocks.
pub struct Peer {
    pub(super) id: ClientId,
    pub(super) peer: SimPeer,
    pub(super) world: World,
}

impl Peer {
    /// Writes as much of `bytes` as there is room for; returns how much.
    ///
    /// # Errors
    /// `WouldBlock` while there is no room or no connection yet; `ConnectionReset`, `BrokenPipe`, `ConnectionRefused`.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.peer.write(bytes)
    }

    /// Reads what has arrived, as much as fits; 0 at the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` while nothing is there; `ConnectionReset`, `ConnectionRefused`.
    pub fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.peer.read(bytes)
    }

    /// Finishes writing: the server sees the end of the stream after what was written.
    ///
    /// # Errors
    /// When there is no connection any more.
    pub fn shutdown_write(&mut self) -> io::Result<()> {
        self.peer.shutdown_write()
    }

    /// Whether the connection is established and has not failed.
    pub fn is_connected(&self) -> bool {
        self.peer.is_connected()
    }

    /// Calls for a turn `after` from now.
    pub fn wake_after(&self, after: Duration) {
        self.peer.wake_after(after);
    }

    /// The virtual time.
    pub fn now(&self) -> Time {
        self.world.now()
    }

    /// A number below `bound`, from the seed.
    pub fn random_below(&self, bound: u64) -> u64 {
        self.world.random_below(bound)
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.peer.fmt(formatter)
    }
}
