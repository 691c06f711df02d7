//! The engine contract: operations in, completions out.
//!
//! An engine belongs to one I/O thread. It owns that thread's sockets and everything that the system may
//! still touch, it knows the time, and it knows nothing of connections or handlers. Three engines keep this contract:
//! `uring` (io_uring, Linux), `readiness` (epoll, kqueue) and `sim` (a simulated world). One suite, `conformance`, runs against all;
//! `docs/engine.md` says which test holds which sentence.
//!
//! # When things happen
//!
//! - **E1.** Every method but [`poll`](Engine::poll) only records what is wanted: it never blocks and delivers nothing. Completions
//!   come from `poll` alone, so there is no re-entrancy.
//! - **E2.** `poll` hands everything recorded to the system, waits until there is a completion, a wake-up or the
//!   deadline, and appends completions in the order in which the system reported them. It may return with none.
//! - **E3.** [`now`](Engine::now) changes only in `poll`.
//! - **E4.** [`Waker::wake`], from any thread, makes the current or the next `poll` return soon, with [`Completion::Woken`].
//!   Wakes coalesce: many before one `poll` may be one completion; none is lost.
//!
//! # Identifiers
//!
//! - **E5.** A [`SocketId`] is made by [`adopt`](Engine::adopt) or [`connect`](Engine::connect) and is valid until its
//!   [`Completion::Closed`]. Its generation changes each time the index is used again. An operation on a stale id
//!   has no effect on anybody: it returns [`Stale`] (a send gives its gather back). Indices stay below [`EngineConfig::sockets`].
//!
//! # Accepting
//!
//! - **E6.** [`accept`](Engine::accept) adds credit: the engine takes at most that many further connections from the
//!   listener. Each one taken is one [`Completion::Accepted`] and uses one credit. Without credit nothing is taken: what arrives waits in
//!   the backlog.
//! - **E7.** [`Completion::AcceptFailed`] also uses one credit, whatever the error (`EMFILE`, `ENFILE`, `ENOBUFS`, a connection that was
//!   reset while it waited). An error of the connection itself, which says nothing about the next, is `ConnectionAborted`. The engine doesn't try again by itself: what waits in the backlog then may stay there, whatever credit is
//!   left, until another connection arrives or `accept` is called. With a count of 0, it adds nothing and has the engine look again.
//! - **E8.** [`close_listener`](Engine::close_listener) takes back unused credit, then accepts what the backlog holds, each
//!   an `Accepted`, at most `sweep` from this call on (accepts that had completed already included); then closes
//!   the listening socket, then completes with [`Completion::ListenerClosed`], the last one of this listener.
//! - **E9.** An accepted [`Stream`](Engine::Stream) that is dropped without being adopted is closed at once.
//! - **E26.** [`refuse`](Engine::refuse) turns an accepted stream away, with the next `poll` (or the end of the engine) and without a completion, a place, a buffer
//!   or a wait: of the answer (at most [`ANSWER_BYTES_MAX`]) what fits goes out, our side is shut, what has arrived
//!   is thrown away, and the socket is closed. So a peer that had sent nothing more by then reads the answer and then the end; one that
//!   sends afterwards may see a reset. Nothing that the peer does or doesn't do is reported.
//!
//! # Receiving: by demand
//!
//! - **E10.** After [`receive`](Engine::receive) the socket waits for data **without holding a buffer**. Data arrives as
//!   [`Completion::Received`], each with one arena buffer of at least one byte, in order, without another call, until
//!   it is paused, ends or fails. Asking twice is asking once.
//! - **E11.** [`pause_receive`](Engine::pause_receive) stops that. Buffers that had been filled before are still delivered, in order;
//!   then [`Completion::ReceivePaused`] says that nothing more comes. If `receive` is called before that, the pause is
//!   called off and may leave no trace. Pausing a socket that doesn't receive does nothing.
//! - **E12.** The end of the stream is [`Completion::PeerFinished`], an error is [`Completion::ReceiveFailed`]; either
//!   comes once and ends the receive: there is nothing more to ask for. **A paused socket reports neither.** One error is
//!   different: [`OutOfMemory`](std::io::ErrorKind::OutOfMemory) says that the system had no memory for the socket (`ENOMEM`,
//!   `ENOBUFS`; never that the arena is empty, which is E13). It ends the receive or the discard, and either may be asked for again.
//! - **E13.** With no free buffer in the arena a receive waits in line, without a completion: it is neither an end nor an error. As buffers
//!   come home, as many receives go on as there are buffers, first come first served. An engine doesn't spin meanwhile.
//! - **E14.** No socket gets more than [`EngineConfig::receive_budget_bytes`] plus what the system delivers in one batch
//!   (32 buffers for a multishot receive) in one `poll` before another socket that has data gets some.
//! - **E15.** [`discard`](Engine::discard) receives and throws away, without buffers: [`Completion::Discarded`] counts, and E12 holds.
//!   It takes the place of `receive` for the rest of the socket's life. Buffers that were filled before it are
//!   counted as discarded and go home.
//!
//! # Sending
//!
//! - **E16.** [`send`](Engine::send) hands over a [`Gather`], of which the engine offers at most [`Gather::SLICE_BYTES`] to the
//!   system. It completes with exactly one [`Completion::Sent`], which brings the gather back with the number of bytes that the system has taken:
//!   at least one, possibly fewer than offered; or with an error. `OutOfMemory` (E12) says that nothing was taken and that the same
//!   gather may be handed over again. The engine never repeats a short send: the caller does, with the rest.
//! - **E17.** One send per socket at a time. A second one is the caller's error (it panics in debug builds and comes back as stale
//!   otherwise).
//! - **E18.** Until that completion the engine owns the gather and the bytes in it, whatever happens to the socket.
//!
//! # Ending
//!
//! - **E19.** [`shutdown_write`](Engine::shutdown_write) half-closes: the peer sees the end of the stream after everything sent. Only without a send
//!   in flight. Completes with [`Completion::WriteShut`]. Receiving goes on.
//! - **E20.** [`close`](Engine::close) cancels what is in flight (the receive first: a close with a receive in flight
//!   sends no FIN), waits for the last completion of each, closes the socket, and completes with
//!   [`Completion::Closed`], **the last one of this socket**. Of what was in flight, only `Sent` and `Connected` are still
//!   delivered (the memory comes back by them); received data goes home undelivered. With [`CloseMode::Abort`] the peer is reset; with
//!   [`CloseMode::Orderly`] it sees the end of the stream, unless there are unread bytes (TCP resets then).
//! - **E21.** The caller closes every socket it adopted or connected, exactly once, also after an error.
//! - **E22.** A cancel is never lost, also when the submission queue is full, and never frees anything itself: memory is freed by the last
//!   completion of its operation.
//! - **E23.** Correct under completion-queue overflow: a receive that the system ended without an error goes on. (Readiness hands
//!   nothing over that could be ended; its batches of events are as small as the queue would be, at least 16.)
//! - **E24.** Dropping an engine is tear-down: it stops accepting, cancels all, reaps to zero (bounded by
//!   [`EngineConfig::teardown_limit`]), then frees. What can't be reaped is leaked, and said so in the log.
//!
//! # Connecting
//!
//! - **E25.** [`connect`](Engine::connect) completes with exactly one [`Completion::Connected`]: with the socket's own address, whose
//!   IP is the source that was asked for, if one was, and whose port the system has chosen with regard to where the
//!   connection goes, so that one port serves many targets; or with an error (nobody listens, no answer, no such source, no
//!   descriptor). An engine has no time limit of its own beyond the system's: who has waited long enough
//!   [closes](Engine::close) the socket, and then it is one error or, if the answer was faster, one success, before the
//!   `Closed`. A connected socket sends what it is given at once (`TCP_NODELAY`).

#[cfg(unix)]
mod accept_error;
#[cfg(unix)]
pub(crate) mod readiness;
#[cfg(unix)]
mod spin;
#[cfg(target_os = "linux")]
pub(crate) mod uring;

#[allow(dead_code, unused_imports, reason = "for the simulation harness and the conformance suite")]
pub(crate) mod sim;

mod defer;
mod probe;
mod socket_options;

#[cfg(test)]
mod conformance;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::memory::{ArenaConfig, Buffer, Gather, ReceiveArena};
use crate::time::Time;

pub(crate) use self::defer::defer_accept;
pub use self::probe::{EngineProbe, Feature, FeatureKind, Probe, probe};
pub(crate) use self::socket_options::{SocketOptions, apply_socket_options};

/// What an engine is built from.
#[derive(Clone, Debug)]
pub(crate) struct EngineConfig {
    /// The most sockets at once. Identifiers stay below it.
    pub sockets: u32,
    /// The receive arena.
    pub arena: ArenaConfig,
    /// What one socket may get in one poll before others, in bytes (E14).
    pub receive_budget_bytes: usize,
    /// Submission queue entries. Small: rings count against the locked-memory limit of the user.
    pub submission_entries: u32,
    /// Completion queue entries.
    pub completion_entries: u32,
    /// The longest time to look for completions before sleeping; adapted to what it has brought so far. Zero: never.
    pub spin: Duration,
    /// How long tear-down waits for the last completions.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "readiness leaves nothing with the system"))]
    pub teardown_limit: Duration,
    /// What is set on outgoing sockets; accepted ones inherit theirs from the listener.
    pub socket_options: SocketOptions,
}

impl EngineConfig {
    /// 256 submissions: several times what a turn of the loop makes with 1,000 busy connections (about 40 requests, measured), and
    /// no more, because the queue's memory is walked through round and round. What doesn't fit waits for the next poll, which hands it over
    /// in several calls. 16 KiB of locked memory.
    pub(crate) const SUBMISSION_ENTRIES: u32 = 256;
    /// 4,096 completions: 64 KiB of locked memory. Overflow is correct (E23), so this is a matter of speed only.
    pub(crate) const COMPLETION_ENTRIES: u32 = 4096;
    /// Measured with 4 busy connections: spinning 20 us before sleeping gives 3.3 times the throughput and 1.6 times the
    /// requests per CPU second of an engine that sleeps at once; 50 and 200 us give no more.
    pub(crate) const SPIN: Duration = Duration::from_micros(20);
    /// Ending 20,000 armed receives took 3 to 24 ms where it was measured.
    pub(crate) const TEARDOWN_LIMIT: Duration = Duration::from_secs(5);
}

/// The longest answer of a refusal: fits into any socket buffer that nothing was written to, so it goes out whole without a wait.
pub(crate) const ANSWER_BYTES_MAX: usize = 1024;

/// A socket of one engine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct SocketId {
    /// The place of the socket: below [`EngineConfig::sockets`], used again after the close.
    pub index: u32,
    /// Tells the users of one place apart.
    pub generation: u32,
}

/// A listening socket of one engine. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct ListenerId(pub u32);

/// The identifier was of a socket that is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stale;

/// How a socket is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CloseMode {
    /// The peer sees the end of the stream.
    Orderly,
    /// The peer sees a reset; what the system had not sent is thrown away.
    Abort,
}

/// What an engine reports.
#[derive(Debug)]
pub(crate) enum Completion<S> {
    /// A connection was taken from the backlog.
    Accepted { listener: ListenerId, stream: S, peer: SocketAddr },
    /// One accept failed; its credit is used.
    AcceptFailed { listener: ListenerId, error: io::Error },
    /// The listening socket is closed.
    ListenerClosed { listener: ListenerId },
    /// A connect ended: with the socket's own address, or with an error, after which it can only be closed.
    Connected { socket: SocketId, result: io::Result<SocketAddr> },
    /// Data.
    Received { socket: SocketId, buffer: Buffer },
    /// Nothing more comes until the next `receive`.
    ReceivePaused { socket: SocketId },
    /// The peer has finished sending.
    PeerFinished { socket: SocketId },
    /// Receiving failed: for instance `ConnectionReset`.
    ReceiveFailed { socket: SocketId, error: io::Error },
    /// `bytes` bytes were received and thrown away.
    Discarded { socket: SocketId, bytes: usize },
    /// The send ended; the gather is back, not advanced yet.
    Sent { socket: SocketId, gather: Box<Gather>, result: io::Result<usize> },
    /// The half-close was done, or failed (the peer was gone).
    WriteShut { socket: SocketId, result: io::Result<()> },
    /// The socket is closed and its identifier stale.
    Closed { socket: SocketId },
    /// Somebody called the waker.
    Woken,
}

/// What an engine has counted since it began. For tests ("no busy loop") and metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct EngineCounters {
    /// Times that the system was entered (or the simulated world looked at).
    pub polls: u64,
    /// Completions that the system reported, internal ones included.
    pub completions: u64,
    /// Receives that the system ended because the arena was empty.
    pub starved: u64,
    /// Receives waiting in line for a buffer, now.
    pub starving: u32,
    /// Receives ended by the system without an error and armed again (completion queue full).
    pub rearmed: u64,
    /// Submissions that found the queue full and were put aside.
    pub submissions_deferred: u64,
}

/// Makes an engine's `poll` return, from any thread. Clones wake the same engine.
#[derive(Clone)]
pub(crate) struct Waker(Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// A waker that calls `wake`.
    pub(crate) fn new(wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self(wake)
    }

    /// Makes the current or the next `poll` return soon.
    pub(crate) fn wake(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Waker")
    }
}

/// An engine with everything that can fail done, ready to be started by the thread that will own it.
pub(crate) trait PreparedEngine: Send + 'static {
    /// What it becomes.
    type Engine: Engine;

    /// A way to end the engine's `poll`, valid before it has started.
    fn waker(&self) -> Waker;
    /// Makes the calling thread the owner.
    ///
    /// # Errors
    /// What the system says when that takes a call.
    fn start(self) -> io::Result<Self::Engine>;
}

/// See the [module](self) for what each method promises.
pub(crate) trait Engine {
    /// A connected socket that no engine has adopted: what travels from the acceptor to an I/O thread. Closed when dropped.
    type Stream: Send + fmt::Debug + 'static;
    /// A bound and listening socket.
    type Listener: Send + 'static;
    /// Whether somebody checks, between two turns, what the threads on this engine know: so in a simulation.
    const IS_CHECKED: bool = false;

    /// The time, as of the last `poll`.
    fn now(&self) -> Time;
    /// Randomness: the system's in a real engine, from the seed in a simulation.
    fn random(&mut self) -> u64;
    /// The receive arena that the buffers come from.
    fn arena(&self) -> &ReceiveArena;
    /// A way to end `poll` from any thread.
    fn waker(&self) -> Waker;
    /// What was counted so far.
    fn counters(&self) -> EngineCounters;

    /// Takes over a listening socket. Nothing is accepted before [`accept`](Self::accept).
    fn listen(&mut self, listener: Self::Listener) -> ListenerId;
    /// Adds credit for `count` connections (E6), and has the backlog looked at again (E7).
    fn accept(&mut self, listener: ListenerId, count: u32);
    /// Sweeps the backlog, up to `sweep` connections, and closes the listener (E8).
    fn close_listener(&mut self, listener: ListenerId, sweep: u32);

    /// Turns a connection away with an answer, which may be empty (E26).
    fn refuse(&mut self, stream: Self::Stream, answer: &Bytes);
    /// Takes over a connected socket. `Err` gives it back: all [`EngineConfig::sockets`] places are in use.
    fn adopt(&mut self, stream: Self::Stream) -> Result<SocketId, Self::Stream>;
    /// Begins to connect, from `source` if that is given (E25); completes with [`Completion::Connected`], whatever goes wrong.
    /// `None`: all places are in use.
    fn connect(&mut self, address: SocketAddr, source: Option<IpAddr>) -> Option<SocketId>;
    /// Asks for data (E10).
    fn receive(&mut self, socket: SocketId) -> Result<(), Stale>;
    /// Stops asking (E11).
    fn pause_receive(&mut self, socket: SocketId) -> Result<(), Stale>;
    /// Receives and throws away (E15).
    fn discard(&mut self, socket: SocketId) -> Result<(), Stale>;
    /// Sends (E16).
    fn send(&mut self, socket: SocketId, gather: Box<Gather>) -> Result<(), Box<Gather>>;
    /// Half-closes (E19).
    fn shutdown_write(&mut self, socket: SocketId) -> Result<(), Stale>;
    /// Cancels and closes (E20).
    fn close(&mut self, socket: SocketId, mode: CloseMode) -> Result<(), Stale>;
    /// How many bytes the system holds for this socket that nobody has read; 0 if that can't be known.
    fn unread_bytes(&self, socket: SocketId) -> usize;
    /// Whom this socket is connected to, for the log; `None` if that can't be known, or the identifier is stale.
    fn peer_address(&self, socket: SocketId) -> Option<SocketAddr>;

    /// When this thread took the oldest published payload of the send in flight; `None` if there is none.
    fn oldest_published(&self, socket: SocketId) -> Option<Time>;

    /// Submits, waits until `deadline` (`None`: for ever; not after `now`: not at all), reports (E2).
    ///
    /// # Errors
    /// Only what no caller can mend (the ring itself failed); the I/O thread ends then.
    fn poll(&mut self, deadline: Option<Time>, completions: &mut Vec<Completion<Self::Stream>>) -> io::Result<()>;
}
