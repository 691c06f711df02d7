//! The engine of the simulated world, with peers of the same world.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::fixture::{Event, Fixture, Peer};
use crate::engine::EngineConfig;
use crate::engine::sim::{Fault, Faults, SimEngine, SimListener, SimPeer, World};
use crate::time::Time;

/// An engine in a world of its own, in which nothing goes wrong by itself.
pub(super) struct SimFixture {
    engine: SimEngine,
    world: World,
    /// Listeners that nobody accepts from.
    silent: Vec<SimListener>,
}

impl SimFixture {
    fn with_faults(config: EngineConfig, faults: Faults) -> Self {
        let world = World::new(1, faults);
        Self { engine: SimEngine::new(&world, config), world, silent: Vec::new() }
    }
}

impl Fixture for SimFixture {
    type Engine = SimEngine;
    type Peer = WorldPeer;

    fn new(config: EngineConfig) -> Self {
        Self::with_faults(config, Faults::none())
    }

    fn new_short_of_descriptors(config: EngineConfig) -> Self {
        Self::with_faults(config, Faults::none().with(Fault::AcceptFailed, 1_000_000))
    }

    fn new_interrupted(config: EngineConfig) -> Self {
        Self::with_faults(config, Faults::none().with(Fault::ReceiveInterrupted, 200_000))
    }

    fn engine(&self) -> &SimEngine {
        &self.engine
    }

    fn engine_mut(&mut self) -> &mut SimEngine {
        &mut self.engine
    }

    fn poll(&mut self, deadline: Option<Time>, completions: &mut Vec<Event<Self>>) -> io::Result<()> {
        let result = self.engine.wait(deadline, completions);
        // What a turn takes: also with polls that don't wait, the world goes on.
        self.world.run_for(Duration::from_micros(1));
        result
    }

    fn listener(&mut self, six: bool) -> (SimListener, SocketAddr) {
        let ip = if six { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
        let listener = self.world.listen(SocketAddr::new(ip, 0), 1024).expect("a free port");
        let address = listener.local_addr();
        (listener, address)
    }

    fn connect_peer(&mut self, address: SocketAddr, _receive_buffer_bytes: Option<usize>) -> WorldPeer {
        // All buffers of this world are small.
        let peer = self.world.connect(address);
        let patience = self.world.now() + Duration::from_secs(1);
        while !peer.is_connected() {
            assert!(self.world.now() < patience, "nobody answers at {address}");
            self.world.run_for(Duration::from_micros(10));
        }
        WorldPeer { peer, world: self.world.clone() }
    }

    fn refusing_address(&mut self) -> SocketAddr {
        self.listener(false).1
    }

    fn silent_address(&mut self) -> SocketAddr {
        // Everybody answers in this world, but not before its time has gone on: polls that don't wait see nothing.
        let (listener, address) = self.listener(false);
        self.silent.push(listener);
        address
    }

    fn alone(_name: &str) -> bool {
        // A world is nobody else's.
        true
    }

    fn refuse_descriptors(&mut self, refuse: bool) {
        if !refuse {
            self.world.calm_down();
        }
    }
}

/// The other end, in the same world.
pub(super) struct WorldPeer {
    peer: SimPeer,
    world: World,
}

impl Peer for WorldPeer {
    fn address(&self) -> SocketAddr {
        self.peer.local_addr()
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.peer.write(bytes)
    }

    fn try_read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.peer.read(bytes)
    }

    fn finish(&mut self) {
        self.peer.shutdown_write().expect("connected");
    }

    fn reset(self) {
        self.peer.reset();
    }

    fn pass_time(&self) {
        self.world.run_for(Duration::from_micros(10));
    }
}
