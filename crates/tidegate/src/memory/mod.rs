//! Memory as pools, each with an exit.
//!
//! - [`ReceiveArena`]: the page-aligned buffers that the engine fills. Few and hot; when all are out,
//!   receives wait in line.
//! - [`SendLease`] on a [`SendReserve`]: what may wait to be sent, counted by capacity.
//! - [`PublishPool`]: what was published to groups, charged once however many have it.
//! - [`Buffer`]: received bytes, exclusively owned; [`Payload`]: bytes to send; [`Gather`]: the payloads
//!   of one send in flight.
//!
//! `unsafe` of the upper half of the library lives here, so that nothing above needs any.

mod allocator;
mod arena;
mod buffer;
mod chunked;
mod gather;
mod index_stack;
mod lend;
mod line;
mod payload;
mod pieces;
mod poison;
mod publish;
mod send_memory;
mod spares;
mod thread_bound;
mod zeroed;

pub use allocator::share_one_heap;
pub(crate) use arena::{ArenaConfig, ArenaMemory, ReceiveArena};
pub use buffer::Buffer;
pub(crate) use chunked::{Chunked, FreeList, prefetch, prefetch_bytes};
pub(crate) use gather::{Gather, MESSAGE_OVERHEAD_BYTES, Piece, made_charge_bytes};
pub(crate) use index_stack::IndexStack;
pub(crate) use lend::{Lendable, Lent};
pub(crate) use line::Line;
pub use payload::Payload;
pub(crate) use pieces::Pieces;
#[cfg(target_os = "linux")]
pub(crate) use poison::POISON;
pub(crate) use poison::{assert_poisoned, poison};
pub(crate) use publish::{Publication, PublishPool, Share};
pub(crate) use send_memory::{NoMemory, SendLease, SendReserve};
pub(crate) use spares::Spares;
pub use thread_bound::ThreadBound;
pub(crate) use zeroed::zeroed;

/// The size of a page, in bytes: buffers are multiples of it and start on one. 4 KiB on x86-64 and on
/// most aarch64 kernels; on systems with larger pages buffers are still aligned to 4 KiB, which costs
/// nothing but the sharing of a page.
pub(crate) const PAGE_BYTES: usize = 4096;
