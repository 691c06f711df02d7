//! A line of those who wait for a pool, first come first served.

use std::collections::VecDeque;

/// A line: receives that found the arena empty, connections that found no send memory.
///
/// Who leaves (paused, closed) is only marked: its place is skipped when its turn comes, and the line is cleaned when more than
/// half of it is marked. So its length stays below twice the number of those who wait, however many come and go.
pub(crate) struct Line<K> {
    waiting: VecDeque<K>,
    left: usize,
}

impl<K> Default for Line<K> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), left: 0 }
    }
}

impl<K: Copy> Line<K> {
    /// Joins at the end.
    pub(crate) fn join(&mut self, one: K) {
        self.waiting.push_back(one);
    }

    /// Goes back to the front, in this order: these had their turn, and another took the buffer.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "for turns that end later, as on io_uring"))]
    pub(crate) fn rejoin(&mut self, many: &mut Vec<K>) {
        for one in many.drain(..).rev() {
            self.waiting.push_front(one);
        }
    }

    /// One in the line no longer waits; `waits` tells for each whether it does.
    pub(crate) fn leave(&mut self, waits: impl Fn(K) -> bool) {
        self.left += 1;
        if self.left * 2 > self.waiting.len() {
            self.waiting.retain(|&one| waits(one));
            self.left = 0;
        }
    }

    /// The first that still waits.
    pub(crate) fn next(&mut self, waits: impl Fn(K) -> bool) -> Option<K> {
        while let Some(one) = self.waiting.pop_front() {
            if waits(one) {
                return Some(one);
            }
            self.left = self.left.saturating_sub(1);
        }
        None
    }

    /// How many wait, as far as it was told who left.
    pub(crate) fn count(&self) -> usize {
        self.waiting.len() - self.left
    }

    /// Whether nobody waits. Places of those who have left count until they are cleaned: `next` tells for sure.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A line that was not served kept the place of everybody who had ever waited in it.
    #[test]
    fn a_line_that_is_not_served_does_not_grow_with_those_who_come_and_go() {
        let mut line = Line::default();
        let mut waits = BTreeSet::from([0]);
        line.join(0);
        for one in 1..10_000 {
            waits.insert(one);
            line.join(one);
            waits.remove(&one);
            line.leave(|one| waits.contains(&one));
            assert!(line.waiting.len() <= 3, "{} places for one who waits", line.waiting.len());
        }
        assert_eq!(line.next(|one| waits.contains(&one)), Some(0));
        assert_eq!(line.next(|one| waits.contains(&one)), None);
        assert!(line.is_empty());
    }

    #[test]
    fn who_had_a_turn_in_vain_goes_back_to_the_front_in_order() {
        let mut line = Line::default();
        (0..4).for_each(|one| line.join(one));
        let mut again = vec![line.next(|_| true).expect("0"), line.next(|_| true).expect("1")];
        line.rejoin(&mut again);
        let served: Vec<i32> = std::iter::from_fn(|| line.next(|_| true)).collect();
        assert_eq!(served, [0, 1, 2, 3]);
    }
}
