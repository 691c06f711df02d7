//! How other threads hand indices to the one that owns them.
//!
//! Two things must never fail for want of room, because there is nobody to tell: a lent receive buffer coming
//! home from whichever thread dropped it, and a request from another thread to close a connection. Both are
//! numbers of things that exist once, so a list that is linked through a word for each of them has room by
//! construction, is bounded by the number of things, and needs no allocation and no lock.

use super::zeroed::zeroed;
use crate::sync::atomic::{AtomicU32, Ordering};

/// In a link: the index isn't in the stack. Zero, so that entries which were never pushed are never written
/// and cost no memory. In `head`: the stack is empty.
const NOTHING: u32 = 0;
/// In a link: the oldest entry of the stack, nothing follows.
const END: u32 = u32::MAX;

/// A lock-free stack of the indices below a number, each in it at most once. Any thread pushes; the owner
/// takes everything at once, oldest first.
///
/// **Who prevents that an index is pushed twice: the caller.** Either by ownership (a lent buffer has one
/// holder, who pushes it when done and can't again) or by a flag for each index:
///
/// ```text
/// any thread:  if !requested[index].swap(true, AcqRel) && stack.push(index) { wake the owner }
/// the owner:   for index in stack.take_all() { requested[index].swap(false, AcqRel); act on it }
/// ```
///
/// The flag is cleared *before* acting, so that a request which comes while the owner acts leads to another
/// entry and isn't lost. It needs these orderings: the release, so that the next push of the index happens
/// after the owner has read its link; the acquire (hence a swap and not a store), so that the owner sees what
/// those did who found the flag set. An index which is pushed while it is in spoils the list (entries are
/// lost or come twice, or taking them panics), never memory; debug assertions catch it.
///
/// **Why one atomic word is enough.** Entries leave only all together, so the classic trap of lock-free
/// stacks (the head is the same as before but what is below it has changed) doesn't exist: a push only needs
/// the head to be what its link says at the moment of the exchange, whatever happened in between.
pub(crate) struct IndexStack {
    /// The newest entry: its index plus one, or [`NOTHING`].
    head: AtomicU32,
    /// For each index: the next older entry plus one, [`END`], or [`NOTHING`].
    links: Box<[AtomicU32]>,
}

impl IndexStack {
    /// An empty stack for the indices below `n`. Four bytes each, which become resident when they are first
    /// pushed.
    ///
    /// # Panics
    ///
    /// If `n` is `u32::MAX`.
    pub(crate) fn new(n: u32) -> IndexStack {
        assert!(n < END, "a stack of {n} indices");
        IndexStack { head: AtomicU32::new(NOTHING), links: zeroed(n) }
    }

    /// Pushes an index that isn't in the stack. Returns whether the stack was empty: then the caller should
    /// wake the owner. Of all that push between two calls of [`take_all`](Self::take_all) exactly one is told
    /// so.
    ///
    /// What this thread did before is visible to the owner once it has taken the index.
    ///
    /// # Panics
    ///
    /// If `index` is out of range; with debug assertions, if it is in already.
    pub(crate) fn push(&self, index: u32) -> bool {
        let link = &self.links[index as usize];
        if cfg!(any(debug_assertions, loom)) {
            // Relaxed: if the caller keeps the rule, the owner's write of it happened before (see the type).
            let is_in = link.load(Ordering::Relaxed) != NOTHING;
            assert!(!is_in, "index {index} is pushed twice");
        }
        // Relaxed: only a guess, which the exchange checks. Nothing is read through it.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            let next = if head == NOTHING { END } else { head };
            // Relaxed: published by the exchange.
            link.store(next, Ordering::Relaxed);
            // Release: the owner's acquiring swap then sees this link, and what the caller did before. That
            // holds for all entries and not only for the newest, because each exchange continues the release
            // sequence of those before it. Relaxed on failure, as for the first guess.
            match self.head.compare_exchange_weak(head, index + 1, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return head == NOTHING,
                Err(now) => head = now,
            }
        }
    }

    /// Takes all entries, oldest first. For the owner only, who is woken by the push that found the stack
    /// empty.
    ///
    /// Entries that the iterator hasn't yielded when it is dropped go back on the stack, for the next call:
    /// so the owner may stop when its budget for the turn is spent. Nobody is woken for those; an owner that
    /// stopped early must ask [`is_empty`](Self::is_empty) before it sleeps.
    pub(crate) fn take_all(&self) -> Drain<'_> {
        // Acquire: pairs with the release of every push in the list. The emptying itself publishes nothing,
        // so no release; a later push doesn't follow anything from it.
        let mut entry = self.head.swap(NOTHING, Ordering::Acquire);
        // The list is the owner's alone now, so relaxed is enough for its links. Turn it round in place.
        let mut oldest = END;
        if entry != NOTHING {
            while entry != END {
                let link = &self.links[entry as usize - 1];
                let older = link.load(Ordering::Relaxed);
                link.store(oldest, Ordering::Relaxed);
                oldest = entry;
                entry = older;
            }
        }
        Drain { stack: self, entry: oldest }
    }

    /// Whether nothing is in the stack. Another thread may push at any time, so "yes" is old news for anyone
    /// else than a pusher; the owner must have a way to be woken after it asked.
    pub(crate) fn is_empty(&self) -> bool {
        // Relaxed: a hint. Whoever acts on entries takes them first, and that acquires.
        self.head.load(Ordering::Relaxed) == NOTHING
    }
}

/// The entries of an [`IndexStack`] at the moment of [`take_all`](IndexStack::take_all), oldest first.
///
/// An index may be pushed again as soon as it has been yielded.
pub(crate) struct Drain<'a> {
    stack: &'a IndexStack,
    /// The next to yield: its index plus one, or [`END`].
    entry: u32,
}

impl Iterator for Drain<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        if self.entry == END {
            return None;
        }
        let index = self.entry - 1;
        let link = &self.stack.links[index as usize];
        // Relaxed: the owner wrote it. Both happen before the index is yielded; from then on it is the
        // caller's.
        self.entry = link.load(Ordering::Relaxed);
        link.store(NOTHING, Ordering::Relaxed);
        Some(index)
    }
}

impl Drop for Drain<'_> {
    /// Puts back what wasn't yielded, in the order in which it was.
    fn drop(&mut self) {
        while let Some(index) = self.next() {
            self.stack.push(index);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    fn drain(stack: &IndexStack) -> Vec<u32> {
        stack.take_all().collect()
    }

    #[test]
    fn entries_come_out_in_the_order_of_their_pushes() {
        let stack = IndexStack::new(5);
        assert_eq!(drain(&stack), []);
        assert!(stack.push(3));
        assert!(!stack.push(0));
        assert!(!stack.push(4));
        assert!(!stack.is_empty());
        assert_eq!(drain(&stack), [3, 0, 4]);
        assert!(stack.is_empty());
        assert!(stack.push(0));
        assert_eq!(drain(&stack), [0]);
    }

    #[test]
    fn an_index_may_be_pushed_again_as_soon_as_it_is_yielded() {
        let stack = IndexStack::new(2);
        stack.push(0);
        stack.push(1);
        let mut taken = stack.take_all();
        assert_eq!(taken.next(), Some(0));
        assert!(stack.push(0));
        assert_eq!(taken.next(), Some(1));
        assert!(!stack.push(1));
        assert_eq!(taken.next(), None);
        drop(taken);
        assert_eq!(drain(&stack), [0, 1]);
    }

    #[test]
    fn what_a_dropped_drain_has_not_yielded_is_still_there() {
        let stack = IndexStack::new(4);
        for index in 0..4 {
            stack.push(index);
        }
        let mut taken = stack.take_all();
        assert_eq!(taken.next(), Some(0));
        drop(taken);
        assert!(!stack.is_empty());
        assert!(!stack.push(0));
        assert_eq!(drain(&stack), [1, 2, 3, 0]);
    }

    #[test]
    fn a_stack_for_no_index_is_empty() {
        let stack = IndexStack::new(0);
        assert!(stack.is_empty());
        assert_eq!(drain(&stack), []);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "index 1 is pushed twice")]
    fn pushing_an_index_twice_panics_with_debug_assertions() {
        let stack = IndexStack::new(2);
        stack.push(1);
        stack.push(1);
    }

    #[test]
    fn many_threads_lose_and_repeat_nothing() {
        const THREADS: u32 = 4;
        const EACH: u32 = 1000;
        let stack = IndexStack::new(THREADS * EACH);
        let mut seen = vec![false; (THREADS * EACH) as usize];
        thread::scope(|scope| {
            for pusher in 0..THREADS {
                let stack = &stack;
                scope.spawn(move || {
                    for index in pusher * EACH..(pusher + 1) * EACH {
                        stack.push(index);
                    }
                });
            }
            let mut last = [None; THREADS as usize];
            let mut count = 0;
            while count < THREADS * EACH {
                for index in stack.take_all() {
                    assert!(!std::mem::replace(&mut seen[index as usize], true));
                    let last = &mut last[(index / EACH) as usize];
                    assert!(*last < Some(index), "out of order");
                    *last = Some(index);
                    count += 1;
                }
                thread::yield_now();
            }
        });
        assert!(stack.is_empty());
    }

    #[test]
    fn every_request_made_through_flags_is_acted_on_after_it_was_made() {
        const ROUNDS: u32 = 2000;
        let stack = IndexStack::new(2);
        let requested = [AtomicBool::new(false), AtomicBool::new(false)];
        let made = [AtomicU32::new(0), AtomicU32::new(0)];
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for round in 0..ROUNDS {
                        let index = (round % 2) as usize;
                        made[index].fetch_add(1, Ordering::Relaxed);
                        if !requested[index].swap(true, Ordering::AcqRel) {
                            stack.push(index as u32);
                        }
                    }
                });
            }
            let mut seen = [0, 0];
            while seen != [ROUNDS, ROUNDS] {
                for index in stack.take_all() {
                    // The swap acquires what the requests that found the flag set did before.
                    requested[index as usize].swap(false, Ordering::AcqRel);
                    seen[index as usize] = made[index as usize].load(Ordering::Relaxed);
                }
                thread::yield_now();
            }
        });
    }

    proptest! {
        #[test]
        fn the_stack_does_what_a_queue_does(
            steps in prop::collection::vec(prop_oneof![
                4 => (0u32..12).prop_map(Some),
                1 => Just(None),
            ], 0..200),
            budget in 0usize..12,
        ) {
            let stack = IndexStack::new(12);
            let mut queue: Vec<u32> = Vec::new();
            for step in steps {
                match step {
                    Some(index) if queue.contains(&index) => {}
                    Some(index) => {
                        prop_assert_eq!(stack.push(index), queue.is_empty());
                        queue.push(index);
                    }
                    None => {
                        let taken: Vec<u32> = stack.take_all().take(budget).collect();
                        let expected: Vec<u32> = queue.drain(..budget.min(queue.len())).collect();
                        prop_assert_eq!(taken, expected);
                    }
                }
                prop_assert_eq!(stack.is_empty(), queue.is_empty());
            }
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::sync::Arc;
    use crate::sync::atomic::AtomicBool;
    use loom::thread;

    /// Two threads push while the owner takes: every entry comes out once, what was written before a push is
    /// seen after the take, and of each period in which the stack wasn't empty exactly one pusher is told to
    /// wake the owner.
    #[test]
    fn loom_nothing_is_lost_or_repeated_and_one_pusher_of_each_period_wakes_the_owner() {
        loom::model(|| {
            let stack = Arc::new(IndexStack::new(2));
            let written = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
            let pusher = |index: u32| {
                let (stack, written) = (stack.clone(), written.clone());
                thread::spawn(move || {
                    written[index as usize].store(1, Ordering::Relaxed);
                    stack.push(index)
                })
            };
            let (first, second) = (pusher(0), pusher(1));
            let mut taken = Vec::new();
            let mut periods = 0;
            let mut take = || {
                let before = taken.len();
                for index in stack.take_all() {
                    assert_eq!(written[index as usize].load(Ordering::Relaxed), 1);
                    taken.push(index);
                }
                periods += u32::from(taken.len() > before);
            };
            take();
            take();
            let wakes = u32::from(first.join().unwrap()) + u32::from(second.join().unwrap());
            take();
            assert!(stack.is_empty());
            assert_eq!(wakes, periods);
            taken.sort_unstable();
            assert_eq!(taken, [0, 1]);
        });
    }

    /// The pushes of one thread come out in their order, however the takes fall between them.
    #[test]
    fn loom_entries_of_one_thread_keep_their_order() {
        loom::model(|| {
            let stack = Arc::new(IndexStack::new(3));
            let pusher = {
                let stack = stack.clone();
                thread::spawn(move || {
                    for index in [2, 0, 1] {
                        stack.push(index);
                    }
                })
            };
            let mut taken: Vec<u32> = stack.take_all().collect();
            taken.extend(stack.take_all());
            pusher.join().unwrap();
            taken.extend(stack.take_all());
            assert_eq!(taken, [2, 0, 1]);
        });
    }

    /// A drain that is dropped half-way puts the rest back while another thread pushes: nothing is lost.
    #[test]
    fn loom_what_a_dropped_drain_puts_back_is_not_lost() {
        loom::model(|| {
            let stack = Arc::new(IndexStack::new(3));
            stack.push(0);
            stack.push(1);
            let pusher = {
                let stack = stack.clone();
                thread::spawn(move || stack.push(2))
            };
            let mut taken: Vec<u32> = stack.take_all().take(1).collect();
            pusher.join().unwrap();
            assert!(!stack.is_empty());
            taken.extend(stack.take_all());
            taken.sort_unstable();
            assert_eq!(taken, [0, 1, 2]);
        });
    }

    /// Two threads request the same index by the documented protocol: it is never in twice (`push` asserts
    /// that), and after the last request the owner acts once more.
    #[test]
    fn loom_requests_through_a_flag_are_never_doubled_nor_lost() {
        loom::model(|| {
            let stack = Arc::new(IndexStack::new(1));
            let requested = Arc::new(AtomicBool::new(false));
            let made = Arc::new(AtomicU32::new(0));
            let requesters: Vec<_> = (0..2)
                .map(|_| {
                    let (stack, requested) = (stack.clone(), requested.clone());
                    let made = made.clone();
                    thread::spawn(move || {
                        made.fetch_add(1, Ordering::Relaxed);
                        if !requested.swap(true, Ordering::AcqRel) {
                            stack.push(0);
                        }
                    })
                })
                .collect();
            let mut seen = 0;
            let mut take = || {
                for index in stack.take_all() {
                    assert_eq!(index, 0);
                    requested.swap(false, Ordering::AcqRel);
                    seen = made.load(Ordering::Relaxed);
                }
            };
            take();
            for requester in requesters {
                requester.join().unwrap();
            }
            take();
            assert_eq!(seen, 2);
            assert!(stack.is_empty());
        });
    }
}
