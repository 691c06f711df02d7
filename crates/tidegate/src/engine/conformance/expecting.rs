//! The ways in which cases wait: for a completion, for a peer, for silence. All with a deadline.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use super::fixture::{Event, Fixture, Peer, StreamOf};
use super::rig::{Ending, PATIENCE, QUIET_TURNS, Rig, read_available};
use crate::engine::{Completion, ListenerId, SocketId};
use crate::memory::{Buffer, Gather};

impl<F: Fixture> Rig<F> {
    /// Turns until `done` says so.
    #[track_caller]
    pub(super) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let patience = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < patience, "waited in vain for {what}; waiting: {}", self.summary());
            self.turn();
        }
    }

    /// Waits for the first completion that is `wanted` and takes it.
    #[track_caller]
    pub(super) fn expect(&mut self, what: &str, mut wanted: impl FnMut(&Event<F>) -> bool) -> Event<F> {
        let patience = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.take(&mut wanted) {
                return event;
            }
            assert!(Instant::now() < patience, "waited in vain for {what}; waiting: {}", self.summary());
            self.turn();
        }
    }

    /// Waits for `Accepted`.
    #[track_caller]
    pub(super) fn expect_accepted(&mut self, listener: ListenerId) -> (StreamOf<F>, SocketAddr) {
        let wanted = |event: &Event<F>| matches!(event, Completion::Accepted { listener: of, .. } if *of == listener);
        match self.expect("Accepted", wanted) {
            Completion::Accepted { stream, peer, .. } => (stream, peer),
            other => panic!("not Accepted: {other:?}"),
        }
    }

    /// Waits for `ListenerClosed`.
    #[track_caller]
    pub(super) fn expect_listener_closed(&mut self, listener: ListenerId) {
        self.expect(
            "ListenerClosed",
            |event| matches!(event, Completion::ListenerClosed { listener: of } if *of == listener),
        );
    }

    /// Waits for `Connected`.
    #[track_caller]
    pub(super) fn expect_connected(&mut self, socket: SocketId) -> io::Result<SocketAddr> {
        let wanted = |event: &Event<F>| matches!(event, Completion::Connected { socket: of, .. } if *of == socket);
        match self.expect("Connected", wanted) {
            Completion::Connected { result, .. } => result,
            other => panic!("not Connected: {other:?}"),
        }
    }

    /// Waits for the next `Received`.
    #[track_caller]
    pub(super) fn expect_received(&mut self, socket: SocketId) -> Buffer {
        let wanted = |event: &Event<F>| matches!(event, Completion::Received { socket: of, .. } if *of == socket);
        match self.expect("Received", wanted) {
            Completion::Received { buffer, .. } => buffer,
            other => panic!("not Received: {other:?}"),
        }
    }

    /// Waits for `ReceivePaused`.
    #[track_caller]
    pub(super) fn expect_paused(&mut self, socket: SocketId) {
        self.expect(
            "ReceivePaused",
            |event| matches!(event, Completion::ReceivePaused { socket: of } if *of == socket),
        );
    }

    /// Waits for `PeerFinished`.
    #[track_caller]
    pub(super) fn expect_finished(&mut self, socket: SocketId) {
        self.expect("PeerFinished", |event| matches!(event, Completion::PeerFinished { socket: of } if *of == socket));
    }

    /// Waits for `ReceiveFailed`.
    #[track_caller]
    pub(super) fn expect_failed(&mut self, socket: SocketId) -> io::Error {
        let wanted = |event: &Event<F>| matches!(event, Completion::ReceiveFailed { socket: of, .. } if *of == socket);
        match self.expect("ReceiveFailed", wanted) {
            Completion::ReceiveFailed { error, .. } => error,
            other => panic!("not ReceiveFailed: {other:?}"),
        }
    }

    /// Waits for `Sent`.
    #[track_caller]
    pub(super) fn expect_sent(&mut self, socket: SocketId) -> (Box<Gather>, io::Result<usize>) {
        let wanted = |event: &Event<F>| matches!(event, Completion::Sent { socket: of, .. } if *of == socket);
        match self.expect("Sent", wanted) {
            Completion::Sent { gather, result, .. } => (gather, result),
            other => panic!("not Sent: {other:?}"),
        }
    }

    /// Waits for `WriteShut`.
    #[track_caller]
    pub(super) fn expect_write_shut(&mut self, socket: SocketId) -> io::Result<()> {
        let wanted = |event: &Event<F>| matches!(event, Completion::WriteShut { socket: of, .. } if *of == socket);
        match self.expect("WriteShut", wanted) {
            Completion::WriteShut { result, .. } => result,
            other => panic!("not WriteShut: {other:?}"),
        }
    }

    /// Waits for `Closed`.
    #[track_caller]
    pub(super) fn expect_closed(&mut self, socket: SocketId) {
        self.expect("Closed", |event| matches!(event, Completion::Closed { socket: of } if *of == socket));
    }

    /// Turns a while and checks that nothing is reported.
    #[track_caller]
    pub(super) fn expect_quiet(&mut self) {
        assert!(self.events.is_empty(), "not taken before the silence: {}", self.summary());
        for _ in 0..QUIET_TURNS {
            self.turn();
        }
        assert!(self.events.is_empty(), "in the silence: {}", self.summary());
    }

    /// Waits for `count` bytes on a socket that is receiving; the buffers go home at once.
    #[track_caller]
    pub(super) fn receive_exactly(&mut self, socket: SocketId, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count);
        self.until("all bytes", |rig| {
            bytes.extend(rig.received(socket));
            bytes.len() >= count
        });
        assert_eq!(bytes.len(), count, "received more than was written");
        bytes
    }

    /// The peer writes all of `bytes` while the engine runs.
    #[track_caller]
    pub(super) fn write_all(&mut self, peer: &mut F::Peer, mut bytes: &[u8]) {
        self.until("the peer to write", |_| {
            while !bytes.is_empty() {
                match peer.try_write(bytes) {
                    Ok(count) => bytes = &bytes[count..],
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                    Err(error) => panic!("the peer can't write: {error}"),
                }
            }
            true
        });
    }

    /// The peer reads exactly `count` bytes while the engine runs.
    #[track_caller]
    pub(super) fn read_exactly(&mut self, peer: &mut F::Peer, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.until("the peer to read", |_| {
            let ending = read_available(peer, &mut bytes);
            assert!(ending.is_none() || bytes.len() >= count, "{ending:?} after {} of {count} bytes", bytes.len());
            bytes.len() >= count
        });
        assert_eq!(bytes.len(), count, "the peer got more than was sent");
        bytes
    }

    /// The peer reads to its end while the engine runs.
    #[track_caller]
    pub(super) fn read_to_end(&mut self, peer: &mut F::Peer) -> (Vec<u8>, Ending) {
        let mut bytes = Vec::new();
        let mut ending = None;
        self.until("the peer to see the end", |_| {
            ending = read_available(peer, &mut bytes);
            ending.is_some()
        });
        (bytes, ending.expect("just seen"))
    }
}
