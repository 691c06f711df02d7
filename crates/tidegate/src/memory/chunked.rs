//! Tables that grow as they are used, and the numbers of their entries.
//!
//! A server that may hold a million connections shouldn't pay for a million slots while it has ten, nor
//! should it stop to copy half a million of them when the table is full, as a `Vec` would. [`Chunked`] grows
//! by pieces that never move; [`FreeList`] hands out the low numbers first, so that what is in use lies
//! together.

use std::ops::{Index, IndexMut};

/// Entries that are allocated together.
///
/// Large enough that the directory (8 bytes for each chunk) and the allocations don't count, small enough
/// that the last chunk of a lightly used table wastes little.
pub(crate) const CHUNK_ENTRIES: u32 = 256;

/// A chunk. All have the same size, the last included, so that finding an entry takes one look into the directory.
type Chunk<T> = [T; CHUNK_ENTRIES as usize];

/// A table of at most `limit` entries, addressed by `u32`, in chunks which are allocated when one of their
/// indices is first [ensured](Chunked::ensure). Entries never move, and chunks stay until the table is
/// dropped.
pub(crate) struct Chunked<T> {
    limit: u32,
    chunks: Vec<Option<Box<Chunk<T>>>>,
}

impl<T> Chunked<T> {
    /// An empty table for the indices below `limit`. Reserves the directory only, and doesn't touch it.
    pub(crate) fn new(limit: u32) -> Chunked<T> {
        Chunked { limit, chunks: Vec::with_capacity(limit.div_ceil(CHUNK_ENTRIES) as usize) }
    }

    /// The entry at `index`. The first use of a chunk allocates it and fills it with defaults.
    ///
    /// # Panics
    ///
    /// If `index` isn't below the limit.
    pub(crate) fn ensure(&mut self, index: u32) -> &mut T
    where
        T: Default,
    {
        let limit = self.limit;
        assert!(index < limit, "index {index} of a table of {limit} entries");
        let (chunk, offset) = place(index);
        if chunk >= self.chunks.len() {
            self.chunks.resize_with(chunk + 1, || None);
        }
        &mut self.chunks[chunk].get_or_insert_with(new_chunk)[offset]
    }

    /// The entry at `index`, or `None` if its chunk doesn't exist yet.
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let (chunk, offset) = place(index);
        Some(&mut self.chunks.get_mut(chunk)?.as_mut()?[offset])
    }

    /// All entries of the chunks that exist, with their indices, in order: also those that were never asked
    /// for.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        let numbered = self.chunks.iter_mut().zip(0u32..);
        numbered.flat_map(|(chunk, number)| {
            let entries = chunk.iter_mut().flat_map(|entries| entries.iter_mut());
            let indices = number * CHUNK_ENTRIES..;
            // The entries end first: there is an index after the last only if it isn't the last of all.
            entries.zip(indices).map(|(entry, index)| (index, entry))
        })
    }

    /// Tells the processor that the entry will be used soon. Does nothing for one that is not there.
    ///
    /// With many connections their entries are in no cache near: fetching those of a whole batch at once costs one wait
    /// instead of one for each.
    #[inline]
    pub(crate) fn prefetch(&self, index: u32) {
        if let Some(entry) = self.get(index) {
            prefetch(entry);
        }
    }

    /// The entry at `index`, or `None` if its chunk doesn't exist yet.
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let (chunk, offset) = place(index);
        Some(&self.chunks.get(chunk)?.as_ref()?[offset])
    }

    /// Bytes that are allocated: the chunks and the directory, not what the entries own elsewhere.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn capacity_bytes(&self) -> usize {
        let directory = self.chunks.capacity() * size_of::<Option<Box<Chunk<T>>>>();
        let chunks = self.chunks.iter().flatten();
        directory + chunks.map(|entries| size_of_val(&**entries)).sum::<usize>()
    }
}

impl<T> Index<u32> for Chunked<T> {
    type Output = T;

    /// # Panics
    ///
    /// If the chunk of `index` doesn't exist.
    fn index(&self, index: u32) -> &T {
        match self.get(index) {
            Some(entry) => entry,
            None => missing(index, self.limit),
        }
    }
}

impl<T> IndexMut<u32> for Chunked<T> {
    /// # Panics
    ///
    /// If the chunk of `index` doesn't exist.
    fn index_mut(&mut self, index: u32) -> &mut T {
        let limit = self.limit;
        match self.get_mut(index) {
            Some(entry) => entry,
            None => missing(index, limit),
        }
    }
}

/// A chunk of defaults, made in place: one may be larger than what a stack should hold.
#[cold]
fn new_chunk<T: Default>() -> Box<Chunk<T>> {
    let entries: Box<[T]> = (0..CHUNK_ENTRIES).map(|_| T::default()).collect();
    match entries.try_into() {
        Ok(chunk) => chunk,
        Err(_) => unreachable!("a chunk of another size"),
    }
}

/// The chunk of an index, and its place within it.
#[inline]
fn place(index: u32) -> (usize, usize) {
    let (chunk, offset) = (index / CHUNK_ENTRIES, index % CHUNK_ENTRIES);
    (chunk as usize, offset as usize)
}

/// Reports an index that has no entry.
#[cold]
fn missing(index: u32, limit: u32) -> ! {
    panic!("index {index} of a table of {limit} entries has not been ensured")
}

/// Tells the processor that all of `value` will be used soon, where it can be told; of a large one the first [`PREFETCH_BYTES_MAX`].
#[inline]
pub(crate) fn prefetch<T>(value: &T) {
    prefetch_bytes(std::ptr::from_ref(value).cast(), size_of::<T>());
}

/// The same for `bytes` at `address`, whatever is there.
#[inline]
pub(crate) fn prefetch_bytes(address: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..bytes.min(PREFETCH_BYTES_MAX)).step_by(CACHE_LINE_BYTES) {
        let line = address.wrapping_add(offset).cast::<i8>();
        // SAFETY: a prefetch reads nothing that a program could see, and never faults, whatever the address.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (address, bytes);
}

/// So much of one value is fetched at most, in bytes: the rest of something that large is seldom all used.
#[cfg(target_arch = "x86_64")]
const PREFETCH_BYTES_MAX: usize = 1024;

/// The size of a cache line on the processors that this matters on, in bytes.
#[cfg(target_arch = "x86_64")]
const CACHE_LINE_BYTES: usize = 64;

/// Hands out the indices below a limit, each to one holder at a time.
///
/// A returned index is handed out again before one that was never used, the last returned first: it is the
/// one whose memory is warm, and the table behind it grows no further than the most entries in use at a time.
pub(crate) struct FreeList {
    limit: u32,
    /// Indices from here on have never been handed out.
    first_unused: u32,
    returned: Vec<u32>,
    /// A bit for each index that is in `returned`.
    #[cfg(debug_assertions)]
    is_returned: Vec<u64>,
}

impl FreeList {
    /// A list from which all indices below `limit` can be taken. Allocates nothing yet.
    pub(crate) fn new(limit: u32) -> FreeList {
        FreeList {
            limit,
            first_unused: 0,
            returned: Vec::new(),
            #[cfg(debug_assertions)]
            is_returned: Vec::new(),
        }
    }

    /// Takes a free index, or returns `None` if all of them are in use.
    pub(crate) fn take(&mut self) -> Option<u32> {
        if let Some(index) = self.returned.pop() {
            #[cfg(debug_assertions)]
            {
                self.is_returned[index as usize / 64] &= !(1 << (index % 64));
            }
            return Some(index);
        }
        if self.first_unused == self.limit {
            return None;
        }
        self.first_unused += 1;
        Some(self.first_unused - 1)
    }

    /// Returns an index which was taken. With debug assertions, panics if it is free already; without them,
    /// the same index would then have two holders.
    pub(crate) fn give(&mut self, index: u32) {
        debug_assert!(index < self.first_unused, "index {index} is given back and was never taken");
        #[cfg(debug_assertions)]
        {
            let word = index as usize / 64;
            if word >= self.is_returned.len() {
                self.is_returned.resize(word + 1, 0);
            }
            assert!(self.is_returned[word] & 1 << (index % 64) == 0, "index {index} is given back twice");
            self.is_returned[word] |= 1 << (index % 64);
        }
        self.returned.push(index);
    }

    /// How many indices are taken.
    pub(crate) fn in_use(&self) -> u32 {
        self.first_unused - self.returned.len() as u32
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn a_chunk_is_allocated_when_one_of_its_indices_is_first_used() {
        let mut table = Chunked::<u64>::new(1000);
        let directory = table.capacity_bytes();
        assert_eq!(directory, 4 * 8);
        assert_eq!(table.get(300), None);
        *table.ensure(300) = 7;
        assert_eq!(table.capacity_bytes(), directory + 256 * 8);
        assert_eq!(table.get(256), Some(&0));
        assert_eq!(table[300], 7);
        assert_eq!(table.get(0), None);
        assert_eq!(table.get_mut(600), None);
    }

    #[test]
    fn the_last_chunk_is_as_large_as_the_others() {
        let mut table = Chunked::<u8>::new(300);
        *table.ensure(299) = 7;
        assert_eq!(table.capacity_bytes(), 2 * 8 + 256);
        assert_eq!(table.iter_mut().map(|(index, _)| index).next(), Some(256));
        assert_eq!(table.iter_mut().filter(|(_, entry)| **entry == 7).map(|(index, _)| index).last(), Some(299));
        assert_eq!(table.iter_mut().count(), 256);
    }

    #[test]
    fn growth_does_not_move_entries() {
        let mut table = Chunked::<String>::new(100_000);
        let before: *const String = table.ensure(3);
        for index in 0..100_000 {
            table.ensure(index);
        }
        assert!(std::ptr::eq(before, &table[3]));
    }

    #[test]
    #[should_panic(expected = "index 10 of a table of 10 entries")]
    fn ensuring_an_index_at_the_limit_panics_with_the_numbers() {
        Chunked::<u8>::new(10).ensure(10);
    }

    #[test]
    #[should_panic(expected = "index 9 of a table of 10 entries has not been ensured")]
    fn indexing_an_entry_that_was_not_ensured_panics_with_the_numbers() {
        Chunked::<u8>::new(10)[9] += 1;
    }

    #[test]
    fn a_list_of_nothing_has_nothing_to_take() {
        assert_eq!(FreeList::new(0).take(), None);
    }

    #[test]
    fn low_indices_come_first_and_the_last_returned_again_before_new_ones() {
        let mut list = FreeList::new(4);
        assert_eq!([list.take(), list.take(), list.take()], [0, 1, 2].map(Some));
        list.give(0);
        list.give(2);
        assert_eq!(list.in_use(), 1);
        let rest = [list.take(), list.take(), list.take(), list.take()];
        assert_eq!(rest, [Some(2), Some(0), Some(3), None]);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "index 1 is given back twice")]
    fn giving_an_index_back_twice_panics_with_debug_assertions() {
        let mut list = FreeList::new(4);
        list.take();
        list.take();
        list.give(1);
        list.give(1);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "index 0 is given back and was never taken")]
    fn giving_back_what_was_never_taken_panics_with_debug_assertions() {
        FreeList::new(4).give(0);
    }

    proptest! {
        #[test]
        fn a_table_does_what_a_map_with_defaults_does(
            limit in 1u32..3000,
            writes in prop::collection::vec((any::<u32>(), any::<u16>()), 0..50),
            reads in prop::collection::vec(0u32..3100, 0..50),
        ) {
            let mut table = Chunked::<u16>::new(limit);
            let mut written = BTreeMap::new();
            for (index, value) in writes {
                let index = index % limit;
                *table.ensure(index) = value;
                written.insert(index, value);
            }
            let chunks: BTreeSet<u32> = written.keys().map(|index| index / CHUNK_ENTRIES).collect();
            let expected = |index: u32| {
                let exists = chunks.contains(&(index / CHUNK_ENTRIES));
                exists.then(|| written.get(&index).copied().unwrap_or(0))
            };
            for index in reads {
                prop_assert_eq!(table.get(index).copied(), expected(index));
                prop_assert_eq!(table.get_mut(index).copied(), expected(index));
                if let Some(value) = expected(index) {
                    prop_assert_eq!(table[index], value);
                }
            }
            let all: Vec<(u32, u16)> = table.iter_mut().map(|(index, value)| (index, *value)).collect();
            let all_expected: Vec<(u32, u16)> =
                (0..limit.next_multiple_of(256)).filter_map(|index| Some((index, expected(index)?))).collect();
            prop_assert_eq!(&all, &all_expected);
            prop_assert_eq!(table.capacity_bytes(), limit.div_ceil(256) as usize * 8 + all.len() * 2);
        }

        #[test]
        fn each_index_has_one_holder_and_the_fewest_are_touched(
            limit in 0u32..20,
            steps in prop::collection::vec(any::<Option<usize>>(), 0..200),
        ) {
            let mut list = FreeList::new(limit);
            let mut held: Vec<u32> = Vec::new();
            let mut returned: Vec<u32> = Vec::new();
            let mut most = 0;
            for step in steps {
                match step {
                    Some(any) if !held.is_empty() => {
                        let index = held.swap_remove(any % held.len());
                        list.give(index);
                        returned.push(index);
                    }
                    _ => {
                        let index = list.take();
                        match returned.pop() {
                            Some(last) => prop_assert_eq!(index, Some(last)),
                            None => prop_assert_eq!(index, (held.len() < limit as usize).then_some(most)),
                        }
                        if let Some(index) = index {
                            prop_assert!(!held.contains(&index));
                            held.push(index);
                            most = most.max(held.len() as u32);
                        }
                    }
                }
                prop_assert_eq!(list.in_use(), held.len() as u32);
                prop_assert!(held.iter().all(|index| *index < most));
            }
        }
    }
}
