//! A socket of a simulated engine: what was asked for, and what the simulated system is doing about it.

use std::net::{IpAddr, SocketAddr};

use super::endpoint::{EndpointId, Failure};
use crate::engine::CloseMode;
use crate::memory::Gather;

/// What the caller wants of the receiving side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Want {
    /// Nothing: never asked, paused, or over.
    Nothing,
    /// Data in buffers.
    Data,
    /// Nothing more, and to be told when that is so.
    Pause,
    /// Data to throw away.
    Discard,
}

/// A receive in the system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Receive {
    /// There is none.
    None,
    /// Recorded, not handed over yet.
    Recorded,
    /// Waiting for data, or taking it.
    Armed {
        /// It throws the data away.
        discards: bool,
    },
    /// In line for a buffer. Not in the system.
    Starving,
    /// Its last completion is on its way.
    Ending,
}

/// How a receive ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// The end of the stream.
    Finished,
    /// An error.
    Failed(Failure),
    /// It was canceled.
    Canceled,
    /// The system has ended it without an error: it is to be armed again.
    Interrupted,
}

/// A send in the system.
#[derive(Debug)]
pub(super) enum Send {
    /// There is none.
    None,
    /// Recorded, not handed over yet.
    Recorded(Box<Gather>),
    /// Waiting for room.
    Waiting(Box<Gather>),
    /// Its completion is on its way.
    Ending(Box<Gather>),
}

/// A connect, or a half-close, in the system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    /// There is none, or it is over.
    None,
    /// Recorded, not handed over yet.
    Recorded,
    /// Waiting for its outcome.
    Waiting,
    /// Its completion is on its way.
    Ending,
}

/// How far a close has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Close {
    /// Nobody has asked for it.
    None,
    /// Recorded, not handed over yet.
    Recorded(CloseMode),
    /// Waiting for the last completions of what was in flight.
    Waiting(CloseMode),
    /// Its completion is on its way.
    Ending,
}

/// A socket that is not closed yet.
#[derive(Debug)]
pub(super) struct Socket {
    /// Its end of the connection; none before a connect was handed over.
    pub endpoint: Option<EndpointId>,
    /// Where a connect goes.
    pub address: Option<SocketAddr>,
    /// Where it comes from, if the caller has said.
    pub source: Option<IpAddr>,
    /// What the caller wants of the receiving side.
    pub want: Want,
    /// The receiving side has ended and the caller knows.
    pub ended: bool,
    /// The receive.
    pub receive: Receive,
    /// A cancel of the receive is recorded.
    pub cancel_recorded: bool,
    /// Filled buffers (or counts of discarded bytes) whose completions are on their way.
    pub filled: u32,
    /// The bytes in these.
    pub filled_bytes: usize,
    /// It has more data and waits for its next turn (E14).
    pub in_ready_line: bool,
    /// When the last completion of the receiving side is due: none may overtake it.
    pub last_receive_due_ns: u64,
    /// The send.
    pub send: Send,
    /// The connect.
    pub connect: Operation,
    /// The half-close.
    pub shutdown: Operation,
    /// The close.
    pub close: Close,
}

impl Socket {
    /// A socket that has nothing to do yet.
    pub(super) fn new(endpoint: Option<EndpointId>, address: Option<SocketAddr>) -> Self {
        Self {
            endpoint,
            address,
            source: None,
            want: Want::Nothing,
            ended: false,
            receive: Receive::None,
            cancel_recorded: false,
            filled: 0,
            filled_bytes: 0,
            in_ready_line: false,
            last_receive_due_ns: 0,
            send: Send::None,
            connect: Operation::None,
            shutdown: Operation::None,
            close: Close::None,
        }
    }

    /// Whether `close` was called.
    pub(super) fn is_closing(&self) -> bool {
        self.close != Close::None
    }

    /// Whether anything of it is still in the system, its close aside.
    pub(super) fn is_busy(&self) -> bool {
        self.receive != Receive::None
            || self.filled > 0
            || !matches!(self.send, Send::None)
            || self.connect != Operation::None
            || self.shutdown != Operation::None
    }
}
