//! One end of a simulated connection: its buffers, what it has on the wire, and what has become of it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use super::fate::Event;
use crate::time::Time;

/// Names an endpoint of the world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct EndpointId {
    /// Its place, used again.
    pub index: u32,
    /// Tells the users of one place apart.
    pub generation: u32,
}

/// Why something did not work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// The connection was reset.
    Reset,
    /// Sending after the end.
    BrokenPipe,
    /// Nobody listens there, or too many wait.
    Refused,
    /// Not connected.
    NotConnected,
    /// The operation was canceled.
    Canceled,
    /// The process has too many open files (`EMFILE`).
    TooManyFiles,
    /// The connection was reset while it waited to be accepted.
    Aborted,
    /// The source address is not one that can reach the target.
    AddressNotAvailable,
    /// The system is out of memory for sockets. Passes.
    OutOfMemory,
    /// The peer has not acknowledged for too long (`ETIMEDOUT`).
    TimedOut,
}

impl Failure {
    /// What the system would say.
    pub(super) fn error(self) -> io::Error {
        const EMFILE: i32 = 24;
        match self {
            Self::Reset => io::ErrorKind::ConnectionReset.into(),
            Self::BrokenPipe => io::ErrorKind::BrokenPipe.into(),
            Self::Refused => io::ErrorKind::ConnectionRefused.into(),
            Self::NotConnected => io::ErrorKind::NotConnected.into(),
            Self::Canceled => io::Error::other("operation canceled"),
            Self::TooManyFiles => io::Error::from_raw_os_error(EMFILE),
            Self::Aborted => io::ErrorKind::ConnectionAborted.into(),
            Self::AddressNotAvailable => io::ErrorKind::AddrNotAvailable.into(),
            Self::OutOfMemory => io::ErrorKind::OutOfMemory.into(),
            Self::TimedOut => io::ErrorKind::TimedOut.into(),
        }
    }
}

/// Who has an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// Nobody: it was closed, and only sends what it still has.
    Nobody,
    /// The listener whose backlog it waits in, or will.
    Listener(u32),
    /// It was accepted and not adopted yet.
    Stream,
    /// A socket of an engine.
    Socket {
        /// The number of the engine.
        engine: u32,
        /// The index of the socket.
        index: u32,
    },
    /// A client of the harness.
    Peer(u32),
}

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// The request is on its way.
    Connecting,
    /// Data may flow.
    Established,
    /// Nothing flows any more, and why.
    Failed(Failure),
}

/// What is on the wire.
#[derive(Debug)]
pub(super) enum Segment {
    /// The listener has agreed to the connection.
    Agreed,
    /// Data.
    Data(Vec<u8>),
    /// The end of the data.
    End,
}

/// The bytes that one end has written and read so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct StreamBytes {
    /// Bytes that went into its send buffer.
    pub written: u64,
    /// Bytes that were read from its receive buffer.
    pub read: u64,
}

/// What the path between two endpoints is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    /// One way, in nanoseconds.
    pub latency_ns: u64,
    /// Bytes per second and direction.
    pub bandwidth_bytes: u64,
    /// The most that travels in one piece.
    pub segment_bytes: usize,
}

/// What an endpoint sends.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Written and not on the wire yet.
    pub buffer: VecDeque<u8>,
    /// How much of it may wait.
    pub capacity: usize,
    /// How many bytes of `buffer` are going onto the wire now.
    pub transmitting: usize,
    /// Sent and not arrived yet, in order.
    pub wire: VecDeque<Segment>,
    /// Bytes that are being transmitted or on the wire.
    pub in_flight: usize,
    /// The end follows what is in `buffer`.
    pub end_wanted: bool,
    /// The end is on the wire, or has arrived.
    pub end_sent: bool,
    /// When the last thing on the wire arrives: nothing overtakes it.
    pub last_arrival: Time,
}

/// What an endpoint receives.
#[derive(Debug)]
pub(super) struct Incoming {
    /// Arrived and not read yet.
    pub buffer: VecDeque<u8>,
    /// How much of it there may be: the rest is the window.
    pub capacity: usize,
    /// The end has arrived.
    pub ended: bool,
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// Its own address.
    pub local: SocketAddr,
    /// The address of the other end.
    pub remote: SocketAddr,
    /// The other end, which may be gone.
    pub far: Option<EndpointId>,
    /// Who is told of changes.
    pub owner: Owner,
    /// How far it has come.
    pub phase: Phase,
    /// The failure was reported once; later sends find a broken pipe.
    pub failure_told: bool,
    /// The way to the other end.
    pub path: Path,
    /// What it sends.
    pub outgoing: Outgoing,
    /// What it receives.
    pub incoming: Incoming,
    /// What it has written and read.
    pub bytes: StreamBytes,
    /// What the other end had written and read when it went.
    pub far_bytes: StreamBytes,
    /// Whether its owner will be told of a change anyway.
    pub touched: bool,
    /// While the way to the other end is clogged: what would have arrived meanwhile.
    pub clogged: Option<Vec<Event>>,
}

impl Endpoint {
    /// Makes an endpoint that is connecting, with buffers of these capacities.
    pub(super) fn new(
        local: SocketAddr,
        remote: SocketAddr,
        owner: Owner,
        path: Path,
        send_capacity: usize,
        receive_capacity: usize,
    ) -> Self {
        Self {
            local,
            remote,
            far: None,
            owner,
            phase: Phase::Connecting,
            failure_told: false,
            path,
            outgoing: Outgoing {
                buffer: VecDeque::new(),
                capacity: send_capacity,
                transmitting: 0,
                wire: VecDeque::new(),
                in_flight: 0,
                end_wanted: false,
                end_sent: false,
                last_arrival: Time::ZERO,
            },
            incoming: Incoming { buffer: VecDeque::new(), capacity: receive_capacity, ended: false },
            bytes: StreamBytes::default(),
            far_bytes: StreamBytes::default(),
            touched: false,
            clogged: None,
        }
    }

    /// Nothing flows any more: whatever was unread or unsent is gone.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.phase = Phase::Failed(failure);
        self.incoming.buffer = VecDeque::new();
        self.outgoing.buffer = VecDeque::new();
        self.outgoing.wire = VecDeque::new();
        self.outgoing.transmitting = 0;
        self.outgoing.in_flight = 0;
    }

    /// Whether it was closed by its owner.
    pub(super) fn is_orphan(&self) -> bool {
        self.owner == Owner::Nobody
    }

    /// Whether everything that it had to send has arrived, the end included.
    pub(super) fn has_sent_all(&self) -> bool {
        self.outgoing.end_sent && self.outgoing.buffer.is_empty() && self.outgoing.wire.is_empty()
    }
}
