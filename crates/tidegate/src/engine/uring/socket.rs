//! What the engine knows of one socket, and the memory of its operations.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::raw::KernelAddress;
use crate::engine::{CloseMode, SocketId};
use crate::memory::{Gather, POISON, assert_poisoned};

/// One place in the socket table. It has a cache line to itself.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Socket {
    /// The descriptor; `None` while the place is free, or when a connect failed to make one.
    pub descriptor: Option<OwnedFd>,
    /// Who uses the place: counts up with each use.
    pub generation: u32,
    /// An error that a paused receive ended with, kept for the next `receive` (0: none). The kernel reports it once only.
    pub kept_error: i32,
    pub receive: Receive,
    pub ending: Ending,
    pub in_use: bool,
    /// What else is in flight, with its memory.
    pub operation: Operation,
    /// The send is not with the kernel: it waits for room in the socket buffer.
    pub send_waits: bool,
    /// Whether the kernel tells when there is room.
    pub watch: Watch,
}

/// A standing wish to hear when a socket becomes writable.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Watch {
    /// It is with the kernel.
    pub armed: bool,
    /// A cancel for it is under way.
    pub canceling: bool,
}

/// The receiving side.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Receive {
    /// The caller wants data (or, with `discard`, wants it thrown away).
    pub wanted: bool,
    /// Throw away instead of delivering.
    pub discard: bool,
    /// An operation is with the kernel.
    pub armed: bool,
    /// That operation takes one buffer and ends.
    pub one_shot: bool,
    /// It was its turn in the line for buffers.
    pub had_turn: bool,
    /// How many sends must go through without waiting before multishot receives are used again.
    pub sends_to_prove: u8,
    /// That operation throws away.
    pub armed_discards: bool,
    /// A cancel for it is under way.
    pub canceling: bool,
    /// Waits in line for a buffer.
    pub starving: bool,
    /// Paused without an operation to cancel: to be told, unless it is called off before.
    pub pause_due: bool,
    /// The end or an error was reported: there is nothing more to ask for.
    pub ended: bool,
}

impl Receive {
    /// After a send that had to wait, so many must go through at once to show that the peer reads.
    const SENDS_TO_PROVE: u8 = 32;

    /// A send has found the socket buffer full: the peer does not read as fast as it makes us send.
    ///
    /// From now on it gets one buffer at a time. For a multishot receive the kernel fills up to 32 before anybody can pause it, and
    /// all of them would have to be kept for a peer that may never read. Otherwise multishot is cheaper: one tenth of the processor
    /// time of a request where messages are pipelined.
    pub(super) fn send_had_to_wait(&mut self) {
        self.sends_to_prove = Self::SENDS_TO_PROVE;
    }

    /// A send has gone through at once.
    pub(super) fn send_went_through(&mut self) {
        self.sends_to_prove = self.sends_to_prove.saturating_sub(1);
    }

    /// Whether a multishot receive is with the kernel.
    pub(super) fn is_multishot(&self) -> bool {
        self.armed && !self.one_shot && !self.armed_discards
    }

    /// Whether receives take one buffer each.
    pub(super) fn takes_one_at_a_time(&self) -> bool {
        self.sends_to_prove > 0
    }
}

/// How far the closing has come.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// Not asked for.
    #[default]
    Open,
    /// Asked for; operations are still in flight.
    Cancelling(CloseMode),
    /// The close itself is with the kernel.
    Closing,
    /// There never was a descriptor: only to be told.
    NothingToClose,
}

/// The one operation besides the receive.
#[derive(Default)]
pub(super) enum Operation {
    /// Nothing in flight.
    #[default]
    None,
    /// A send of one slice, which needs no description.
    Send(Box<Gather>),
    /// A send of several.
    SendMany(Box<SendOperation>),
    /// A connect, with the address that the kernel reads.
    Connect(#[expect(dead_code, reason = "held for the kernel, which reads it")] Box<KernelAddress>),
}

impl Operation {
    /// What is being sent, if this is a send.
    pub(super) fn gather(&self) -> Option<&Gather> {
        match self {
            Self::Send(gather) => Some(gather),
            Self::SendMany(operation) => operation.gather.as_deref(),
            Self::None | Self::Connect(_) => None,
        }
    }
}

impl Socket {
    /// The descriptor as the kernel knows it; -1 if there is none, which every call refuses.
    pub(super) fn raw(&self) -> RawFd {
        self.descriptor.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// The identifier of the present user of place `index`.
    pub(super) fn id(&self, index: u32) -> SocketId {
        SocketId { index, generation: self.generation }
    }

    /// Whether anything is with the kernel.
    pub(super) fn has_operations(&self) -> bool {
        self.receive.armed || self.watch.armed || !matches!(self.operation, Operation::None)
    }
}

/// The memory of one send in flight: the gather, and the kernel's description of it.
pub(super) struct SendOperation {
    /// What is sent; `None` while the operation waits to be used again.
    gather: Option<Box<Gather>>,
    slices: Vec<libc::iovec>,
    header: libc::msghdr,
}

impl SendOperation {
    /// Describes the next slice of `gather`. The description stays where it is until the operation is dropped.
    fn describe(&mut self, gather: &Gather) {
        for slice in gather.slices() {
            self.slices.push(libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() });
        }
        self.header.msg_iov = self.slices.as_mut_ptr();
        self.header.msg_iovlen = self.slices.len() as _;
    }

    /// What is sent, for a test that frees it too early.
    #[cfg(test)]
    pub(super) fn gather_mut(&mut self) -> Option<&mut Gather> {
        self.gather.as_deref_mut()
    }

    /// The message header.
    pub(super) fn header(&self) -> *const libc::msghdr {
        &raw const self.header
    }
}

/// Descriptions of sends to use again, so that a send allocates nothing.
///
/// In debug builds the descriptions of finished operations carry the pattern of freed memory, checked on reuse.
#[derive(Default)]
pub(super) struct SendOperations {
    #[expect(clippy::vec_box, reason = "the system knows their addresses while they are in flight")]
    spare: Vec<Box<SendOperation>>,
}

impl SendOperations {
    /// More than the sends of a turn: what is beyond is given back to the allocator.
    const SPARE_MAX: usize = 64;

    /// An operation that owns `gather`.
    pub(super) fn begin(&mut self, gather: Box<Gather>) -> Operation {
        if gather.only_slice().is_some() { Operation::Send(gather) } else { self.begin_many(gather) }
    }

    /// Takes the gather out of a send that has had its last completion; `None` if the operation is something else.
    pub(super) fn end(&mut self, operation: Operation) -> Option<Box<Gather>> {
        match operation {
            Operation::Send(gather) => Some(gather),
            Operation::SendMany(operation) => Some(self.end_many(operation)),
            Operation::None | Operation::Connect(_) => None,
        }
    }

    fn begin_many(&mut self, gather: Box<Gather>) -> Operation {
        let mut operation = match self.spare.pop() {
            Some(mut spare) => {
                spare.assert_spare_poisoned();
                spare
            }
            None => Box::new(SendOperation {
                gather: None,
                slices: Vec::new(),
                // SAFETY: a msghdr is numbers and pointers, for which all zeroes is a value.
                header: unsafe { std::mem::zeroed() },
            }),
        };
        operation.describe(&gather);
        operation.gather = Some(gather);
        Operation::SendMany(operation)
    }

    fn end_many(&mut self, mut operation: Box<SendOperation>) -> Box<Gather> {
        let gather = operation.gather.take();
        operation.slices.clear();
        operation.header.msg_iov = std::ptr::null_mut();
        operation.header.msg_iovlen = 0;
        operation.poison_spare();
        if self.spare.len() < Self::SPARE_MAX {
            self.spare.push(operation);
        }
        // There is always one: `begin_many` put it there, and this consumes the operation.
        gather.unwrap_or_default()
    }
}

impl SendOperation {
    /// Fills the unused memory of the slices with the pattern of freed memory, in debug builds.
    fn poison_spare(&mut self) {
        if cfg!(debug_assertions) {
            let spare = self.slices.spare_capacity_mut();
            let length = size_of_val(spare);
            // SAFETY: the memory belongs to the vector, is at least that long, and nothing is kept in it.
            unsafe { spare.as_mut_ptr().cast::<u8>().write_bytes(POISON, length) };
        }
    }

    /// Checks in debug builds that nobody wrote into the unused memory since it was poisoned.
    fn assert_spare_poisoned(&mut self) {
        if cfg!(debug_assertions) {
            let spare = self.slices.spare_capacity_mut();
            let length = size_of_val(spare);
            // SAFETY: the memory belongs to the vector and every byte of it was written by `poison_spare`, which
            // `SendOperations::end_many` calls before an operation can be begun again.
            let bytes = unsafe { std::slice::from_raw_parts(spare.as_ptr().cast::<u8>(), length) };
            assert_poisoned(bytes, "a send operation");
        }
    }
}
