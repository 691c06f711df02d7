//! A list that grows without a copy of what is in it.

use std::ops::{Index, IndexMut};

/// Entries of a piece: as many as of a [chunk](super::chunked::CHUNK_ENTRIES), for the same reasons.
const PIECE_ENTRIES: usize = super::chunked::CHUNK_ENTRIES as usize;

/// A list that is only appended to, in pieces that never move.
///
/// A `Vec` of hundreds of thousands of entries stops everything while it is copied to twice the room, and leaves all the rooms it
/// had before as holes in the heap, together as large as itself. Here growing costs one piece, whose entries become resident when
/// they are pushed. [`Chunked`](super::Chunked) is for entries that are addressed before all others below them are there.
pub(crate) struct Pieces<T> {
    /// All but the last are full.
    pieces: Vec<Vec<T>>,
}

impl<T> Pieces<T> {
    /// An empty list, which takes no memory.
    pub(crate) fn new() -> Pieces<T> {
        Pieces { pieces: Vec::new() }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        match self.pieces.split_last() {
            Some((last, full)) => full.len() * PIECE_ENTRIES + last.len(),
            None => 0,
        }
    }

    /// Appends an entry, whose index is the [length](Self::len) there was.
    pub(crate) fn push(&mut self, entry: T) {
        match self.pieces.last_mut() {
            Some(last) if last.len() < PIECE_ENTRIES => last.push(entry),
            _ => {
                let mut piece = Vec::with_capacity(PIECE_ENTRIES);
                piece.push(entry);
                self.pieces.push(piece);
            }
        }
    }

    /// The entry at `index`, if there is one.
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        self.pieces.get(index / PIECE_ENTRIES)?.get(index % PIECE_ENTRIES)
    }

    /// All entries, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten()
    }
}

impl<T> Index<usize> for Pieces<T> {
    type Output = T;

    /// # Panics
    ///
    /// If there are not that many entries.
    fn index(&self, index: usize) -> &T {
        &self.pieces[index / PIECE_ENTRIES][index % PIECE_ENTRIES]
    }
}

impl<T> IndexMut<usize> for Pieces<T> {
    /// # Panics
    ///
    /// If there are not that many entries.
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.pieces[index / PIECE_ENTRIES][index % PIECE_ENTRIES]
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_where_they_are_while_the_list_grows() {
        let mut list = Pieces::new();
        assert_eq!((list.len(), list.get(0), list.iter().count()), (0, None, 0));
        list.push(0);
        let first = &raw const list[0];
        for entry in 1..3 * PIECE_ENTRIES {
            list.push(entry);
            assert_eq!((list.len(), list[entry]), (entry + 1, entry));
        }
        assert_eq!(&raw const list[0], first);
        assert!(list.iter().copied().eq(0..3 * PIECE_ENTRIES));
        assert_eq!(list.get(3 * PIECE_ENTRIES), None);
        list[PIECE_ENTRIES] = 7;
        assert_eq!(list.get(PIECE_ENTRIES), Some(&7));
    }

    #[test]
    fn a_piece_has_room_for_its_entries_and_no_more() {
        let mut list = Pieces::new();
        for entry in 0..=PIECE_ENTRIES {
            list.push(entry);
        }
        assert!(list.pieces.iter().all(|piece| piece.capacity() == PIECE_ENTRIES));
    }
}
