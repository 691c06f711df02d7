//! An allocator that counts what each thread has.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Counts blocks as large as usual allocators make them: a word for the size, in steps of 16 bytes.
struct Counting;

/// What a block of `size` bytes takes.
pub fn block_bytes(size: usize) -> isize {
    (size + 8).next_multiple_of(16).max(32) as isize
}

fn count(bytes: isize) {
    LIVE.set(LIVE.get() + bytes);
    PEAK.set(PEAK.get().max(LIVE.get()));
}

// SAFETY: every call is passed on to the allocator of the system as it is; counting allocates nothing, and thread-local cells without a
// destructor can be used at any time of a thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(block_bytes(layout.size()));
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-block_bytes(layout.size()));
        // SAFETY: the block came from `System`, with this layout.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Both blocks may be there for a moment.
        count(block_bytes(new_size));
        count(-block_bytes(layout.size()));
        // SAFETY: the block came from `System`, with this layout, and the caller vouches for the new size.
        unsafe { System.realloc(block, layout, new_size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What this thread has allocated and not freed, in bytes.
pub fn live_bytes() -> isize {
    LIVE.get()
}

/// Runs something, and says by how much more than before it had allocated at its highest.
pub fn peak_of<T>(run: impl FnOnce() -> T) -> (T, isize) {
    let before = LIVE.get();
    PEAK.set(before);
    let outcome = run();
    (outcome, PEAK.get() - before)
}
