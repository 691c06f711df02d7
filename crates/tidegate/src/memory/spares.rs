//! The memory of messages that were sent, for those that come.

use super::Payload;

/// Vectors of small messages that were sent, to be filled again.
///
/// A thread that answers many connections at once has as many answers under way, more than the allocator's caches for threads are made
/// for: with a spare vector, an HTTP response costs 250 of 10,400 instructions less.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    vectors: Vec<Vec<u8>>,
}

impl Spares {
    /// The most that are kept: about as many as are under way after one batch of completions. 64 KiB in all, part of what a thread needs.
    const KEPT: usize = 64;
    /// The least capacity of one that is kept, in bytes: below that, most messages wouldn't fit.
    const CAPACITY_MIN: usize = 64;
    /// The most, in bytes: filling a larger one costs more than allocating it.
    const CAPACITY_MAX: usize = 1024;
    /// Messages are charged for their capacity, so a vector isn't filled with less than this part of it.
    const FILLED_PART: usize = 4;

    /// An empty vector with room for `bytes`.
    #[inline]
    pub(crate) fn take(&mut self, bytes: usize) -> Vec<u8> {
        let most = bytes.saturating_mul(Self::FILLED_PART).max(Self::CAPACITY_MIN);
        match self.vectors.pop_if(|vector| (bytes..=most).contains(&vector.capacity())) {
            Some(vector) => vector,
            None => Vec::with_capacity(bytes),
        }
    }

    /// Keeps the memory of a message that was sent, if it is worth it.
    #[inline]
    pub(crate) fn keep(&mut self, payload: Payload) {
        if let Some(mut vector) = payload.into_vector()
            && self.vectors.len() < Self::KEPT
            && (Self::CAPACITY_MIN..=Self::CAPACITY_MAX).contains(&vector.capacity())
        {
            vector.clear();
            self.vectors.push(vector);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn sent(capacity: usize) -> Payload {
        let mut vector = Vec::with_capacity(capacity);
        vector.push(7);
        vector.into()
    }

    #[test]
    fn the_memory_of_a_message_that_was_sent_is_that_of_the_next() {
        let mut spares = Spares::default();
        let payload = sent(200);
        let address = payload.as_slice().as_ptr();
        spares.keep(payload);
        let next = spares.take(150);
        assert!(next.is_empty());
        assert_eq!((next.as_ptr(), next.capacity()), (address, 200));
        let other = spares.take(150);
        assert_ne!(other.as_ptr(), address, "given away once");
    }

    #[test]
    fn a_vector_is_given_only_to_what_fits_and_fills_a_part_of_it() {
        for (bytes, fits) in [(1, false), (49, false), (50, true), (200, true), (201, false), (4096, false)] {
            let mut spares = Spares::default();
            spares.keep(sent(200));
            let vector = spares.take(bytes);
            assert!(vector.capacity() >= bytes);
            assert_eq!(vector.capacity() == 200, fits, "{bytes} bytes");
            assert_eq!(spares.vectors.is_empty(), fits, "{bytes} bytes");
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut spares = Spares::default();
        for capacity in [0, 1, Spares::CAPACITY_MIN - 1, Spares::CAPACITY_MAX + 1] {
            spares.keep(Vec::with_capacity(capacity).into());
        }
        spares.keep(Payload::from(&b"static"[..]));
        assert!(spares.vectors.is_empty());
        for _ in 0..2 * Spares::KEPT {
            spares.keep(sent(Spares::CAPACITY_MAX));
        }
        assert_eq!(spares.vectors.len(), Spares::KEPT);
    }
}
