//! The receive arena of an I/O thread: page-aligned buffers of one size, allocated once.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Buffer, IndexStack, PAGE_BYTES, assert_poisoned, poison, zeroed};

/// What an arena is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ArenaConfig {
    /// How many buffers.
    pub buffers: u32,
    /// The size of each, in bytes: a multiple of [`PAGE_BYTES`].
    pub buffer_bytes: u32,
    /// How many owners (connection slots) can hold buffers.
    pub owners: u32,
    /// How many buffers may be lent to other threads at once.
    pub lent_max: u32,
}

impl ArenaConfig {
    /// The bytes that the buffers take.
    pub(crate) fn bytes(&self) -> usize {
        self.buffers as usize * self.buffer_bytes as usize
    }
}

/// The part of an arena that other threads may touch: the block of memory and the way home.
///
/// Lives until the last buffer that was lent out has come home, whatever has become of the I/O thread.
pub(crate) struct ArenaMemory {
    base: NonNull<u8>,
    config: ArenaConfig,
    /// Buffers that other threads have finished with.
    returned: IndexStack,
    /// How many buffers are lent to other threads now.
    lent: AtomicU32,
    /// Called by another thread when it returns a buffer and none waited to be collected.
    wake: Box<dyn Fn() + Send + Sync>,
}

// SAFETY: the block is plain memory that moves freely between threads; which thread may touch which
// buffer is decided by who holds its `Buffer` or `LentBuffer`, and there is one at a time. `returned` and
// `lent` are made for several threads, `wake` is `Send + Sync` by its type.
unsafe impl Send for ArenaMemory {}
// SAFETY: as above; `&ArenaMemory` gives no access to the bytes of a buffer without its unique holder.
unsafe impl Sync for ArenaMemory {}

impl ArenaMemory {
    /// Allocates the block. `wake` must make the owning I/O thread collect returned buffers soon.
    ///
    /// # Panics
    /// If the configuration is empty or not a multiple of the page size; aborts if the system has no memory.
    pub(crate) fn new(config: ArenaConfig, wake: Box<dyn Fn() + Send + Sync>) -> Arc<Self> {
        assert!(config.buffers > 0, "an arena has at least one buffer");
        assert!(
            config.buffer_bytes > 0 && (config.buffer_bytes as usize).is_multiple_of(PAGE_BYTES),
            "a buffer of {} bytes is not a multiple of the page size {PAGE_BYTES}",
            config.buffer_bytes
        );
        let layout = Self::layout(&config);
        // SAFETY: the layout has a size above zero, as asserted.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
        if cfg!(debug_assertions) {
            // SAFETY: the block was allocated with exactly this size and nobody else knows it yet.
            poison(unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), layout.size()) });
        }
        Arc::new(Self { base, config, returned: IndexStack::new(config.buffers), lent: AtomicU32::new(0), wake })
    }

    fn layout(config: &ArenaConfig) -> Layout {
        match Layout::from_size_align(config.bytes(), PAGE_BYTES) {
            Ok(layout) => layout,
            Err(_) => panic!("an arena of {} bytes is larger than an address space", config.bytes()),
        }
    }

    fn address(&self, index: u32) -> NonNull<u8> {
        assert!(index < self.config.buffers, "buffer {index} of {}", self.config.buffers);
        // SAFETY: the offset lies inside the block, as just asserted.
        unsafe { self.base.add(index as usize * self.config.buffer_bytes as usize) }
    }

    /// Takes one of the places for lent buffers, if one is left.
    pub(super) fn begin_lending(&self) -> bool {
        let mut lent = self.lent.load(Ordering::Relaxed);
        while lent < self.config.lent_max {
            match self.lent.compare_exchange_weak(lent, lent + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => lent = now,
            }
        }
        false
    }

    /// Brings a lent buffer home, from any thread.
    pub(super) fn come_home(&self, index: u32) {
        self.lent.fetch_sub(1, Ordering::Relaxed);
        if self.returned.push(index) {
            (self.wake)();
        }
    }
}

impl Drop for ArenaMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout; every holder of a buffer keeps this value
        // alive, so nobody can touch the block any more.
        unsafe { dealloc(self.base.as_ptr(), Self::layout(&self.config)) };
    }
}

/// The receive arena, as its I/O thread sees it. Clones are the same arena.
#[derive(Clone)]
pub(crate) struct ReceiveArena {
    inner: Rc<ArenaInner>,
}

pub(super) struct ArenaInner {
    memory: Arc<ArenaMemory>,
    /// Buffers that nobody has: neither the engine nor a handler nor a send. Last in, first out: hot.
    free: RefCell<Vec<u32>>,
    /// Buffers that were given out as [`Buffer`]s (or lent on) and are not home yet.
    outstanding: Cell<u32>,
    /// For each buffer that is out, the connection slot that is charged for it.
    owners: Box<[Cell<u32>]>,
    /// For each connection slot, how many buffers it holds.
    held: Box<[Cell<u32>]>,
    /// The most buffers that may be out while a quarter of the arena is in reserve.
    outstanding_easy: u32,
}

impl ReceiveArena {
    /// Makes the calling thread the owner of `memory`.
    pub(crate) fn new(memory: Arc<ArenaMemory>) -> Self {
        let config = memory.config;
        Self {
            inner: Rc::new(ArenaInner {
                free: RefCell::new((0..config.buffers).rev().collect()),
                outstanding: Cell::new(0),
                owners: vec![Cell::new(0); config.buffers as usize].into_boxed_slice(),
                // A slot that was never used costs no resident memory.
                held: zeroed(config.owners),
                outstanding_easy: config.buffers - config.buffers.div_ceil(4),
                memory,
            }),
        }
    }

    /// Takes a free buffer for the engine to fill. `None`: all are with the engine or out.
    pub(crate) fn take_free(&self) -> Option<u32> {
        let index = self.inner.free.borrow_mut().pop()?;
        if cfg!(debug_assertions) {
            let length = self.buffer_bytes();
            // SAFETY: a free buffer has no other holder, and it lies inside the block.
            let bytes = unsafe { std::slice::from_raw_parts(self.address(index).as_ptr(), length) };
            assert_poisoned(bytes, "a receive buffer");
        }
        Some(index)
    }

    /// Gives back a buffer that was taken and not filled.
    pub(crate) fn give_back(&self, index: u32) {
        self.inner.free.borrow_mut().push(index);
    }

    /// Where the engine writes the bytes of buffer `index`.
    ///
    /// The bytes may be written only between [`take_free`](Self::take_free) and
    /// [`filled`](Self::filled) or [`give_back`](Self::give_back).
    pub(crate) fn address(&self, index: u32) -> NonNull<u8> {
        self.inner.memory.address(index)
    }

    /// Turns a buffer that the engine has filled with `length` bytes into a [`Buffer`], charged to the
    /// connection slot `owner`.
    #[inline(always)]
    pub(crate) fn filled(&self, index: u32, length: usize, owner: u32) -> Buffer {
        assert!(length <= self.buffer_bytes(), "{length} bytes in a buffer of {}", self.buffer_bytes());
        if cfg!(debug_assertions) {
            let rest = self.buffer_bytes() - length;
            // SAFETY: the engine has finished with the buffer and nobody else has it yet.
            let tail = unsafe { std::slice::from_raw_parts(self.address(index).add(length).as_ptr(), rest) };
            assert_poisoned(tail, "the unused end of a receive buffer");
        }
        let inner = &self.inner;
        inner.outstanding.set(inner.outstanding.get() + 1);
        inner.owners[index as usize].set(owner);
        let held = &inner.held[owner as usize];
        held.set(held.get() + 1);
        Buffer::from_arena(Rc::clone(inner), self.address(index), index, length)
    }

    /// Collects the buffers that other threads have returned. Called once a turn by the engine.
    pub(crate) fn collect_returned(&self) {
        if !self.inner.memory.returned.is_empty() {
            for index in self.inner.memory.returned.take_all() {
                self.inner.release(index);
            }
        }
    }

    /// The number of buffers, wherever they are.
    pub(crate) fn buffers(&self) -> u32 {
        self.inner.memory.config.buffers
    }

    /// The size of each buffer, in bytes.
    pub(crate) fn buffer_bytes(&self) -> usize {
        self.inner.memory.config.buffer_bytes as usize
    }

    /// How many buffers are out: held by handlers, waiting to be sent, in flight or lent.
    pub(crate) fn outstanding(&self) -> u32 {
        self.inner.outstanding.get()
    }

    /// Whether at least a quarter of the buffers is not out.
    #[inline]
    pub(crate) fn has_reserve(&self) -> bool {
        self.inner.has_reserve()
    }

    /// How many buffers are out on behalf of the connection slot `owner`.
    pub(crate) fn held_by(&self, owner: u32) -> u32 {
        self.inner.held[owner as usize].get()
    }

    /// How many buffers lie in the free list.
    pub(crate) fn free(&self) -> usize {
        self.inner.free.borrow().len()
    }
}

impl ArenaInner {
    #[inline]
    pub(super) fn has_reserve(&self) -> bool {
        self.outstanding.get() <= self.outstanding_easy
    }

    /// A buffer that was out is free again.
    pub(super) fn release(&self, index: u32) {
        if cfg!(debug_assertions) {
            let length = self.memory.config.buffer_bytes as usize;
            let base = self.memory.address(index);
            // SAFETY: the last holder has just let go of the buffer.
            poison(unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), length) });
        }
        let owner = self.owners[index as usize].get();
        let held = &self.held[owner as usize];
        debug_assert!(held.get() > 0 && self.outstanding.get() > 0, "buffer {index} came home twice");
        held.set(held.get() - 1);
        self.outstanding.set(self.outstanding.get() - 1);
        self.free.borrow_mut().push(index);
    }

    pub(super) fn memory(&self) -> &Arc<ArenaMemory> {
        &self.memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn arena(buffers: u32, lent_max: u32) -> (ReceiveArena, Arc<AtomicUsize>) {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&wakes);
        let config = ArenaConfig { buffers, buffer_bytes: 4096, owners: 4, lent_max };
        let wake = Box::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        (ReceiveArena::new(ArenaMemory::new(config, wake)), wakes)
    }

    fn fill(arena: &ReceiveArena, bytes: &[u8], owner: u32) -> Buffer {
        let index = arena.take_free().expect("a free buffer");
        // SAFETY: the buffer was just taken and is larger than `bytes`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), arena.address(index).as_ptr(), bytes.len()) };
        arena.filled(index, bytes.len(), owner)
    }

    #[test]
    fn buffers_are_page_aligned_and_come_home_when_dropped() {
        let (arena, _) = arena(3, 1);
        let one = fill(&arena, b"one", 0);
        let two = fill(&arena, b"two", 1);
        assert_eq!((&one[..], &two[..]), (&b"one"[..], &b"two"[..]));
        assert_eq!(one.as_ptr() as usize % PAGE_BYTES, 0);
        assert_eq!((arena.outstanding(), arena.held_by(0), arena.held_by(1)), (2, 1, 1));
        drop(one);
        assert_eq!((arena.outstanding(), arena.held_by(0), arena.free()), (1, 0, 2));
        drop(two);
        assert_eq!((arena.outstanding(), arena.free()), (0, 3));
    }

    #[test]
    fn a_lent_buffer_comes_home_from_another_thread_and_wakes_the_owner_once() {
        let (arena, wakes) = arena(4, 2);
        let lent: Vec<_> = (0..3).map(|_| fill(&arena, b"abc", 2).into_bytes()).collect();
        // The third is above the cap: copied, and its buffer is home already.
        assert_eq!(arena.outstanding(), 2);
        std::thread::spawn(move || {
            assert!(lent.iter().all(|bytes| &bytes[..] == b"abc"));
            drop(lent);
        })
        .join()
        .expect("the borrower ends");
        assert_eq!(wakes.load(Ordering::SeqCst), 1);
        assert_eq!(arena.outstanding(), 2, "not home before they are collected");
        arena.collect_returned();
        assert_eq!((arena.outstanding(), arena.held_by(2), arena.free()), (0, 0, 4));
    }

    #[test]
    fn a_buffer_outlives_the_arena_of_its_thread() {
        let (arena, _) = arena(2, 1);
        let bytes = fill(&arena, b"later", 0).into_bytes();
        let kept = fill(&arena, b"kept", 0);
        drop(arena);
        assert_eq!((&bytes[..], &kept[..]), (&b"later"[..], &b"kept"[..]));
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "written to after it had been freed")]
    fn a_write_into_a_free_buffer_is_seen_when_it_is_used_again() {
        let (arena, _) = arena(1, 0);
        let buffer = fill(&arena, b"x", 0);
        let address = buffer.as_ptr().cast_mut();
        drop(buffer);
        // SAFETY: the block lives as long as the arena; the write is the bug that this test plants.
        unsafe { address.add(100).write(1) };
        arena.take_free();
    }
}
