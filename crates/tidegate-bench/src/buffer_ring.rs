//! A ring of receive buffers the kernel picks from when data has arrived.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// Extra bytes between two buffers.
///
/// Buffers of a round size would put all their first lines into the same few
/// cache sets; one line of distance spreads them.
const COLOUR_BYTES: usize = 64;

/// The most buffers one ring may have.
pub const MAX_BUFFERS: u16 = 32_768;

/// A registered buffer ring. Its memory is kept for the life of the process,
/// because the kernel may write to it as long as the ring exists.
pub struct BufferRing {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    group: u16,
    count: u16,
    size: u32,
    stride: usize,
    tail: u16,
}

impl BufferRing {
    /// Registers `count` buffers of `size` bytes as `group`; all are with the kernel.
    ///
    /// # Errors
    ///
    /// `InvalidInput` unless `count` is a power of two up to [`MAX_BUFFERS`] and
    /// `size` is not zero; otherwise what the kernel answers.
    pub fn register(submitter: &Submitter<'_>, group: u16, count: u16, size: u32) -> io::Result<Self> {
        let stride = size as usize + COLOUR_BYTES;
        Self::register_spaced(submitter, group, count, size, stride)
    }

    /// Registers `count` names for one buffer of `size` bytes.
    ///
    /// For receivers that let the kernel drop the data (`MSG_TRUNC`): nothing is
    /// ever written, so no memory is spent on it.
    ///
    /// # Errors
    ///
    /// As [`BufferRing::register`].
    pub fn register_discarding(submitter: &Submitter<'_>, group: u16, count: u16, size: u32) -> io::Result<Self> {
        Self::register_spaced(submitter, group, count, size, 0)
    }

    /// Puts a buffer back in line. The kernel sees it after [`BufferRing::publish`].
    #[inline]
    pub fn give_back(&mut self, buffer: u16) {
        debug_assert!(buffer < self.count);
        let address = self.address(buffer) as u64;
        let slot = usize::from(self.tail & (self.count - 1));
        // SAFETY: `slot` is below `count`, the number of entries mapped at `entries`, and the
        // kernel reads an entry only after `publish` has moved the tail past it.
        let entry = unsafe { &mut *self.entries.as_ptr().add(slot) };
        entry.set_addr(address);
        entry.set_len(self.size);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel every buffer given back so far.
    #[inline]
    pub fn publish(&mut self) {
        // SAFETY: `entries` points to a mapped ring; the tail is an aligned u16 inside its first
        // entry which the kernel only reads, so an atomic store is the one write to it.
        let tail = unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail)
        };
        tail.store(self.tail, Ordering::Release);
    }

    /// Where the bytes of `buffer` start.
    #[must_use]
    #[inline]
    pub fn address(&self, buffer: u16) -> *const u8 {
        debug_assert!(buffer < self.count);
        self.memory.as_ptr().wrapping_add(usize::from(buffer) * self.stride)
    }

    /// The buffer group to name in receive requests.
    #[must_use]
    #[inline]
    pub fn group(&self) -> u16 {
        self.group
    }

    /// How many buffers there are.
    #[must_use]
    #[inline]
    pub fn count(&self) -> u16 {
        self.count
    }

    fn register_spaced(
        submitter: &Submitter<'_>,
        group: u16,
        count: u16,
        size: u32,
        stride: usize,
    ) -> io::Result<Self> {
        if !count.is_power_of_two() || count > MAX_BUFFERS || size == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{count} buffers of {size} bytes: the count must be a power of two \
                     up to {MAX_BUFFERS}, the size above zero"
                ),
            ));
        }
        let entries = map(usize::from(count) * size_of::<BufRingEntry>(), false)?;
        let memory = map(usize::from(count - 1) * stride + size as usize, true)?;
        // SAFETY: the mapping holds `count` entries and is never unmapped.
        unsafe {
            submitter.register_buf_ring_with_flags(entries.as_ptr() as u64, count, group, 0)?;
        }
        let mut ring = BufferRing { entries: entries.cast(), memory, group, count, size, stride, tail: 0 };
        for buffer in 0..count {
            ring.give_back(buffer);
        }
        ring.publish();
        Ok(ring)
    }
}

/// Maps `bytes` of zeroed memory, in huge pages where that is asked for and possible.
fn map(bytes: usize, huge: bool) -> io::Result<NonNull<u8>> {
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no other memory.
    let address = unsafe {
        libc::mmap(
            ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    if huge {
        // SAFETY: the range was mapped above; the advice changes no contents. A refusal is no loss.
        unsafe { libc::madvise(address, bytes, libc::MADV_HUGEPAGE) };
    }
    NonNull::new(address.cast()).ok_or_else(|| io::Error::other("memory mapped at address zero"))
}
