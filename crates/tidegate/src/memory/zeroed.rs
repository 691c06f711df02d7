//! Tables whose memory nobody touches before it is used: an idle place costs address space and nothing else.

use std::cell::Cell;

use crate::sync::atomic::{AtomicU32, AtomicU64};

/// What is its default when all its bits are zero.
///
/// # Safety
///
/// All bits zero must be a valid value, and the same as `Default::default()`. (With `--cfg loom` the types of the model checker have
/// more in them, and nothing relies on this.)
pub(crate) unsafe trait Zeroable: Default {}

// SAFETY: an atomic integer has the representation of the integer, whose default is zero.
unsafe impl Zeroable for AtomicU32 {}
// SAFETY: as above.
unsafe impl Zeroable for AtomicU64 {}
// SAFETY: a cell has the representation of what is in it, and the default of that.
unsafe impl Zeroable for Cell<u32> {}

/// `count` defaults, in memory that the allocator hands out zeroed: from a size on, which is some hundred KiB, that is memory which
/// the system provides at the first touch. Collected from an iterator, all of it would be resident at once.
#[cfg(not(loom))]
pub(crate) fn zeroed<T: Zeroable>(count: u32) -> Box<[T]> {
    let table = Box::<[T]>::new_zeroed_slice(count as usize);
    // SAFETY: the memory is zeroed, and all bits zero is a valid value of a `Zeroable` type.
    unsafe { table.assume_init() }
}

/// `count` defaults, one by one: the model checker must know each of its atomics.
#[cfg(loom)]
pub(crate) fn zeroed<T: Zeroable>(count: u32) -> Box<[T]> {
    (0..count).map(|_| T::default()).collect()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::atomic::Ordering;

    #[test]
    fn a_table_of_zeroes_is_all_defaults() {
        let table = zeroed::<AtomicU64>(1_000);
        assert_eq!((table.len(), table.iter().map(|word| word.load(Ordering::Relaxed)).sum::<u64>()), (1_000, 0));
        assert_eq!(zeroed::<Cell<u32>>(3).to_vec(), [Cell::new(0), Cell::new(0), Cell::new(0)]);
        assert!(zeroed::<AtomicU32>(0).is_empty());
    }

    /// Resident memory of this process in bytes.
    #[cfg(all(target_os = "linux", not(miri)))]
    fn resident_bytes() -> usize {
        let numbers = std::fs::read_to_string("/proc/self/statm").expect("the numbers of this process");
        let pages = numbers.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number of pages");
        pages * crate::memory::PAGE_BYTES
    }

    /// The words of a server's connections were once written one by one: 15,000 places on two threads were resident before the first
    /// connection came.
    #[test]
    #[cfg(all(target_os = "linux", not(miri)))]
    fn places_that_were_never_used_are_not_resident() {
        let before = resident_bytes();
        let table = zeroed::<AtomicU64>(128 << 20); // 1 GiB, beside which what other tests do meanwhile is little
        table[77 << 20].store(1, Ordering::Relaxed);
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown < 512 << 20, "{grown} bytes became resident");
        assert_eq!(table[77 << 20].load(Ordering::Relaxed), 1);
    }
}
