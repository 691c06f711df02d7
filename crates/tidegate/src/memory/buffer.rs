//! Received bytes.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::arena::{ArenaInner, ArenaMemory};
use super::{NoMemory, SendLease};

/// Bytes that a connection has received, exclusively owned, on the I/O thread of that connection.
///
/// Normally a whole buffer of the receive arena, exactly as the system has filled it: dropping it gives the
/// buffer back, sending it costs no copy. When a connection holds more than its share, or the arena runs low, the
/// server hands out a right-sized copy instead, charged to send memory; nothing but the address differs.
///
/// A `Buffer` stays on its thread. [`into_bytes`](Self::into_bytes) lends it to others.
pub struct Buffer {
    data: NonNull<u8>,
    length: u32,
    /// In the arena: which buffer. A copy: its capacity in bytes.
    index_or_capacity: u32,
    home: Home,
}

enum Home {
    Arena(Rc<ArenaInner>),
    /// A block of `index_or_capacity` bytes. Boxed, so that the common case stays small.
    Copy(Box<CopyHome>),
}

/// The block of a copy.
struct CopyHome {
    /// The base of a leaked boxed slice.
    base: NonNull<u8>,
    /// What it is charged to.
    lease: Rc<SendLease>,
}

impl Buffer {
    #[inline]
    pub(super) fn from_arena(home: Rc<ArenaInner>, data: NonNull<u8>, index: u32, length: usize) -> Self {
        Self { data, length: length as u32, index_or_capacity: index, home: Home::Arena(home) }
    }

    /// A copy of `bytes`, charged to `lease` until it is dropped.
    ///
    /// # Errors
    /// When the reserve has no room for it.
    pub(crate) fn copied(bytes: &[u8], lease: &Rc<SendLease>) -> Result<Self, NoMemory> {
        assert!(u32::try_from(bytes.len()).is_ok(), "a received buffer of {} bytes", bytes.len());
        lease.charge(bytes.len())?;
        Ok(Self::of_charged(Box::from(bytes), Rc::clone(lease)))
    }

    /// Takes over `block`, which is charged to `lease` by its length already.
    pub(crate) fn of_charged(block: Box<[u8]>, lease: Rc<SendLease>) -> Self {
        assert!(u32::try_from(block.len()).is_ok(), "a received buffer of {} bytes", block.len());
        let block = Box::leak(block);
        let capacity = block.len() as u32;
        let base = NonNull::from(block).cast::<u8>();
        let home = Home::Copy(Box::new(CopyHome { base, lease }));
        Self { data: base, length: capacity, index_or_capacity: capacity, home }
    }

    /// Drops the first `count` bytes; the rest stays where it is.
    ///
    /// # Panics
    /// If the buffer has fewer.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "advance by {count} in a buffer of {} bytes", self.len());
        // SAFETY: at most one past the end of the same allocation, as just asserted.
        self.data = unsafe { self.data.add(count) };
        self.length -= count as u32;
    }

    /// Keeps only the first `length` bytes; does nothing if there are fewer.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(u32::try_from(length).unwrap_or(u32::MAX));
    }

    /// Lends the bytes to other threads, without a copy while the server has fewer than
    /// its limit of buffers lent, with a copy beyond that. The buffer comes home when the last clone is dropped,
    /// on whatever thread.
    pub fn into_bytes(self) -> Bytes {
        match &self.home {
            Home::Arena(inner) if inner.memory().begin_lending() => {
                let lent = LentBuffer {
                    data: self.data,
                    length: self.length as usize,
                    index: self.index_or_capacity,
                    home: Arc::clone(inner.memory()),
                };
                // The buffer is still out; `lent` brings it home in place of this value. The count of the
                // arena is given back by hand, because `forget` skips the whole drop.
                let mut this = std::mem::ManuallyDrop::new(self);
                // SAFETY: `this` is never used or dropped again, so the home is dropped exactly once.
                unsafe { std::ptr::drop_in_place(&raw mut this.home) };
                Bytes::from_owner(lent)
            }
            _ => Bytes::copy_from_slice(&self),
        }
    }

    /// Whether this is a buffer of the receive arena itself (and not a charged copy).
    pub(crate) fn is_arena(&self) -> bool {
        matches!(self.home, Home::Arena(_))
    }

    /// Whether it is a buffer of a receive arena of which less than a quarter is left, so that whoever keeps it keeps others waiting.
    pub(crate) fn is_of_low_arena(&self) -> bool {
        matches!(&self.home, Home::Arena(inner) if !inner.has_reserve())
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `data` and `length` lie inside memory that `home` keeps alive and that was written by the
        // engine (or copied); this value is its only holder.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.length as usize) }
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.length as usize) }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Buffer").field("len", &self.len()).field("arena", &self.is_arena()).finish()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match &self.home {
            Home::Arena(inner) => inner.release(self.index_or_capacity),
            Home::Copy(home) => {
                let capacity = self.index_or_capacity as usize;
                home.lease.refund(capacity);
                let block = std::ptr::slice_from_raw_parts_mut(home.base.as_ptr(), capacity);
                // SAFETY: made by `Box::leak` of a slice of exactly this length in `of_charged`, freed once.
                drop(unsafe { Box::from_raw(block) });
            }
        }
    }
}

/// An arena buffer in the hands of other threads.
struct LentBuffer {
    data: NonNull<u8>,
    length: usize,
    index: u32,
    home: Arc<ArenaMemory>,
}

// SAFETY: the bytes are read only while this value exists, and `home` keeps them alive.
unsafe impl Send for LentBuffer {}

impl AsRef<[u8]> for LentBuffer {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: inside the block of `home`, filled by the engine; nobody writes before `come_home`.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.length) }
    }
}

impl Drop for LentBuffer {
    fn drop(&mut self) {
        self.home.come_home(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::SendReserve;

    #[test]
    fn a_copy_is_charged_by_its_capacity_and_refunded_when_dropped() {
        let lease = SendLease::new(SendReserve::new(1 << 20));
        let mut copy = Buffer::copied(b"hello world", &lease).expect("there is room");
        assert_eq!(lease.charged(), 11);
        copy.advance(6);
        copy.truncate(3);
        assert_eq!(&copy[..], b"wor");
        assert_eq!(lease.charged(), 11, "capacity is charged, not length");
        assert_eq!(&copy.into_bytes()[..], b"wor");
        assert_eq!(lease.charged(), 0);
    }

    #[test]
    fn an_empty_copy_is_fine() {
        let lease = SendLease::new(SendReserve::new(1 << 20));
        assert!(Buffer::copied(b"", &lease).expect("nothing to charge").is_empty());
    }

    #[test]
    #[should_panic(expected = "advance by 4 in a buffer of 3 bytes")]
    fn advance_beyond_the_end_is_refused() {
        let lease = SendLease::new(SendReserve::new(1 << 20));
        Buffer::copied(b"abc", &lease).expect("there is room").advance(4);
    }
}
