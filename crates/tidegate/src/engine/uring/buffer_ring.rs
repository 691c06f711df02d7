//! The provided-buffer ring: the arena's free buffers, in the hands of the kernel until it fills one.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::memory::{PAGE_BYTES, ReceiveArena};

/// The kernel's limit on entries of one ring.
pub(super) const BUFFERS_MAX: u32 = 32_768;

/// The one buffer group of a ring.
pub(super) const GROUP: u16 = 0;

/// A ring of free buffers shared with the kernel.
///
/// Registered with a ring that must be gone (or the group unregistered) before this value is dropped.
pub(super) struct BufferRing {
    base: NonNull<BufRingEntry>,
    entries: u16,
    /// The next position to write, as the kernel counts.
    tail: u16,
    /// How many buffers lie in the ring that the kernel has not filled yet.
    provided: u32,
}

// SAFETY: the block is plain memory owned by this value; the kernel reads it through its own mapping.
unsafe impl Send for BufferRing {}

impl BufferRing {
    /// Allocates a ring for `buffers` buffers and registers it.
    ///
    /// # Errors
    /// What the kernel says, for instance too little locked memory.
    pub(super) fn register(submitter: &Submitter<'_>, buffers: u32) -> io::Result<Self> {
        assert!(buffers <= BUFFERS_MAX, "{buffers} buffers, but the kernel takes {BUFFERS_MAX}");
        let entries = buffers.next_power_of_two() as u16;
        let layout = Self::layout(entries);
        // SAFETY: the layout has a size above zero.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base.cast::<BufRingEntry>()) else { handle_alloc_error(layout) };
        let ring = Self { base, entries, tail: 0, provided: 0 };
        // SAFETY: the block holds `entries` entries, is page-aligned, and lives as long as this value, which its
        // owner keeps until the group is unregistered.
        unsafe { submitter.register_buf_ring_with_flags(base.as_ptr() as u64, entries, GROUP, 0)? };
        Ok(ring)
    }

    /// Puts every free buffer of `arena` into the ring.
    pub(super) fn provide(&mut self, arena: &ReceiveArena) {
        let before = self.tail;
        while let Some(index) = arena.take_free() {
            debug_assert!(self.provided < u32::from(self.entries), "more buffers than the ring has places");
            let place = usize::from(self.tail & (self.entries - 1));
            // SAFETY: the place is inside the ring, and the kernel doesn't read it before the tail passes it. The
            // setters write address, length and identifier only: in entry 0 the rest of the entry is the tail.
            let entry = unsafe { &mut *self.base.as_ptr().add(place) };
            entry.set_addr(arena.address(index).as_ptr() as u64);
            entry.set_len(arena.buffer_bytes() as u32);
            entry.set_bid(index as u16);
            self.tail = self.tail.wrapping_add(1);
            self.provided += 1;
        }
        if self.tail != before {
            // SAFETY: `tail` points into entry 0 of the ring, is aligned, and is written by us alone; the kernel reads
            // it, and the release order makes the entries visible before it.
            unsafe {
                let tail = BufRingEntry::tail(self.base.as_ptr()).cast::<AtomicU16>();
                (*tail).store(self.tail, Ordering::Release);
            }
        }
    }

    /// The kernel has taken one buffer out of the ring.
    pub(super) fn taken(&mut self) {
        debug_assert!(self.provided > 0, "the kernel took a buffer that it was not given");
        self.provided -= 1;
    }

    /// How many buffers wait in the ring.
    pub(super) fn provided(&self) -> u32 {
        self.provided
    }

    fn layout(entries: u16) -> Layout {
        match Layout::from_size_align(usize::from(entries) * size_of::<BufRingEntry>(), PAGE_BYTES) {
            Ok(layout) => layout,
            Err(_) => panic!("a buffer ring of {entries} entries"),
        }
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        // SAFETY: allocated in `register` with the same layout; the owner unregistered the group before.
        unsafe { dealloc(self.base.as_ptr().cast(), Self::layout(self.entries)) };
    }
}
