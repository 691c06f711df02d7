//! What the suite needs of an engine and of the world around it.

use std::io;
use std::net::SocketAddr;

use crate::engine::{Completion, Engine, EngineConfig};
use crate::time::Time;

/// The stream type of a fixture's engine.
pub(super) type StreamOf<F> = <<F as Fixture>::Engine as Engine>::Stream;
/// A completion of a fixture's engine.
pub(super) type Event<F> = Completion<StreamOf<F>>;

/// An engine, and the means to make the other ends of its connections.
pub(super) trait Fixture: Sized {
    /// The engine under test.
    type Engine: Engine;
    /// The other end of a connection.
    type Peer: Peer;

    /// Whether this engine can run here; says why not on stderr.
    fn available() -> bool {
        true
    }

    /// Whether IPv6 can be used here; says why not on stderr.
    fn available_six() -> bool {
        true
    }

    /// Makes the engine, on the calling thread.
    fn new(config: EngineConfig) -> Self;
    /// Makes an engine for a case that uses [`refuse_descriptors`](Self::refuse_descriptors) before it accepts anything.
    fn new_short_of_descriptors(config: EngineConfig) -> Self {
        Self::new(config)
    }
    /// Makes an engine whose receives the system ends without an error now and then, where that takes more than a
    /// completion queue that is too small.
    fn new_interrupted(config: EngineConfig) -> Self {
        Self::new(config)
    }
    /// The engine.
    fn engine(&self) -> &Self::Engine;
    /// The engine, to act on.
    fn engine_mut(&mut self) -> &mut Self::Engine;
    /// Polls the engine, and lets the world around it go on meanwhile where it doesn't by itself.
    fn poll(&mut self, deadline: Option<Time>, completions: &mut Vec<Event<Self>>) -> io::Result<()> {
        self.engine_mut().poll(deadline, completions)
    }

    /// A new listening socket, on the loopback address of IPv6 if `six`, with a backlog of several hundred, and its address.
    fn listener(&mut self, six: bool) -> (<Self::Engine as Engine>::Listener, SocketAddr);
    /// Connects a peer to `address`. `receive_buffer_bytes` asks for a small receive buffer.
    fn connect_peer(&mut self, address: SocketAddr, receive_buffer_bytes: Option<usize>) -> Self::Peer;
    /// An address where connects are refused.
    fn refusing_address(&mut self) -> SocketAddr;
    /// An address where connects are neither answered nor refused.
    fn silent_address(&mut self) -> SocketAddr;

    /// Whether the case `name` may change its whole process. When not, this has run it in a process of
    /// its own and checked that it passed.
    fn alone(name: &str) -> bool;
    /// Lets accepts fail for want of descriptors, or ends that.
    fn refuse_descriptors(&mut self, refuse: bool);
}

/// The other end of a connection. Nothing here blocks; dropping it closes it in an orderly way.
pub(super) trait Peer {
    /// Its own address.
    fn address(&self) -> SocketAddr;
    /// Writes what fits now; `WouldBlock` when nothing does.
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Reads what is there; zero at the end of the stream, `WouldBlock` when there is nothing.
    fn try_read(&mut self, bytes: &mut [u8]) -> io::Result<usize>;
    /// Half-closes: no more writes.
    fn finish(&mut self);
    /// Resets the connection.
    fn reset(self);
    /// Lets some time go by, for a case without an engine to poll.
    fn pass_time(&self);
}
