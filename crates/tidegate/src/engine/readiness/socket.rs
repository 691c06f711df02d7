//! What the engine knows of one socket.

use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use crate::engine::{CloseMode, SocketId};
use crate::memory::{Chunked, Gather};

/// One place in the socket table. It has a cache line to itself.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Socket {
    /// The descriptor; `None` while the place is free, or when there never was one.
    pub descriptor: Option<OwnedFd>,
    /// Who uses the place: counts up with each use.
    pub generation: u32,
    /// The send, until it completes.
    pub send: Option<Box<Gather>>,
    /// Where to connect to, until that is over.
    pub target: Option<Box<Target>>,
    /// What broke it (0: nothing), a send for instance: the system tells an error once, and a receive after it would see a mere end.
    pub broken: i32,
    pub receive: Receive,
    pub ready: Ready,
    pub in_use: bool,
    /// The selector knows the descriptor.
    pub registered: bool,
    /// The next poll has something to do for it.
    pub touched: bool,
    /// A half-close was asked for.
    pub half_close: bool,
    /// The send has found no room and waits for the selector to tell of some.
    pub send_waits: bool,
    /// Set by a close.
    pub closing: Option<CloseMode>,
}

const _: () = assert!(size_of::<Socket>() == 64, "a socket is one cache line");

/// A connect that was asked for.
pub(super) struct Target {
    pub address: SocketAddr,
    /// Where it is to come from.
    pub source: Option<IpAddr>,
}

/// What the selector has told, and no call has used up since.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ready {
    pub readable: bool,
    /// A send may be tried: true until one finds no room.
    pub writable: bool,
    /// A receive that falls short says nothing: see [`Event::to_the_end`](super::selector::Event).
    pub to_the_end: bool,
}

impl Default for Ready {
    fn default() -> Self {
        Self { readable: false, writable: true, to_the_end: false }
    }
}

/// The receiving side.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Receive {
    /// The caller wants data (or, with `discard`, wants it thrown away).
    pub wanted: bool,
    /// Throw away instead of delivering.
    pub discard: bool,
    /// In the list of those with something to read.
    pub listed: bool,
    /// Waits in line for a buffer.
    pub starving: bool,
    /// Paused: to be told, unless it is called off before.
    pub pause_due: bool,
    /// The end or an error was reported: there is nothing more to ask for.
    pub ended: bool,
}

impl Socket {
    /// The next poll has something to do for it: enters it as `id` in the list `all` of those, once.
    pub(super) fn touch(&mut self, id: SocketId, all: &mut Vec<SocketId>) {
        if !mem::replace(&mut self.touched, true) {
            all.push(id);
        }
    }

    /// The socket of `id`, if that is not over.
    pub(super) fn of(sockets: &mut Chunked<Self>, id: SocketId) -> Option<&mut Self> {
        sockets.get_mut(id.index).filter(|socket| socket.in_use && socket.generation == id.generation)
    }

    /// The identifier of the present user of place `index`.
    pub(super) fn id(&self, index: u32) -> SocketId {
        SocketId { index, generation: self.generation }
    }

    /// Whether a receive would be for somebody and may bring something.
    pub(super) fn may_receive(&self) -> bool {
        self.receive.wanted && self.ready.readable && self.target.is_none() && self.closing.is_none()
    }

    /// Whether a receive may bring something that nobody is coming back for.
    pub(super) fn is_due(&self) -> bool {
        self.may_receive() && !self.receive.listed && !self.receive.starving
    }

    /// Whether nothing but a send needs to be done.
    pub(super) fn is_settled(&self) -> bool {
        !self.half_close && !self.receive.pause_due && !self.is_due()
    }
}
