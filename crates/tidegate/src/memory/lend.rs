//! Lending a borrow to code that can't name its lifetime.
//!
//! A task keeps what it knows of its connection from one poll to the next, but may touch the connection only while it is polled: then
//! whoever polls it has the connection borrowed. [`Lent`] is the place where the borrow lies for that time. The lifetime is
//! erased on the way in, and no lifetime that could escape is given out: who uses it gets it for one call, whatever lifetime it has.

use std::cell::Cell;
use std::ptr::NonNull;

/// What is lent: a type for each lifetime.
pub(crate) trait Lendable {
    /// The type with this lifetime.
    type Of<'a>;
}

/// Where something of `F` can be found while it is lent. On one thread, used by one at a time.
pub(crate) struct Lent<F: Lendable> {
    /// The lifetime is not `'static`: it is that of the [`lend`](Self::lend) that has put it here.
    place: Cell<Option<NonNull<F::Of<'static>>>>,
}

impl<F: Lendable> Lent<F> {
    /// Nothing is lent.
    pub(crate) const fn new() -> Self {
        Self { place: Cell::new(None) }
    }

    /// Lends `value` for as long as `during` runs, in place of what is lent already, if anything is.
    pub(crate) fn lend<R>(&self, value: &mut F::Of<'_>, during: impl FnOnce() -> R) -> R {
        let erased = NonNull::from(value).cast::<F::Of<'static>>();
        // Whatever happens in there, a panic included, the pointer is gone before the borrow of `value` ends.
        let _before = Restored { place: &self.place, before: self.place.replace(Some(erased)) };
        during()
    }

    /// Hands `act` what is lent; `None` if nothing is, or if somebody is using it already.
    pub(crate) fn with<R>(&self, act: impl for<'a> FnOnce(&mut F::Of<'a>) -> R) -> Option<R> {
        let pointer = self.place.take()?;
        let _back = Restored { place: &self.place, before: Some(pointer) };
        // SAFETY: The pointer is in the place only while a call of `lend` runs that has the value borrowed, exclusively, and made the
        // pointer of that borrow; calls on one thread end in the order of their nesting, so that call ends after this one. Nobody
        // else makes a reference of the pointer meanwhile: it has been taken out. `act` works for every lifetime of the value, so
        // it can neither keep anything of it nor put anything into it that lives shorter.
        Some(act(unsafe { &mut *pointer.as_ptr() }))
    }

    /// Whether something is lent, and nobody is using it.
    pub(crate) fn is_lent(&self) -> bool {
        let pointer = self.place.take();
        self.place.set(pointer);
        pointer.is_some()
    }
}

/// Puts back what was in a place.
struct Restored<'a, T> {
    place: &'a Cell<Option<NonNull<T>>>,
    before: Option<NonNull<T>>,
}

impl<T> Drop for Restored<'_, T> {
    fn drop(&mut self) {
        self.place.set(self.before);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    struct Words;

    impl Lendable for Words {
        type Of<'a> = (&'a mut Vec<String>, &'a str);
    }

    fn push(lent: &Lent<Words>) -> Option<usize> {
        lent.with(|(words, word)| {
            words.push((*word).to_owned());
            words.len()
        })
    }

    #[test]
    fn what_is_lent_can_be_used_while_it_is_lent_and_not_after() {
        let lent = Lent::<Words>::new();
        let mut words = Vec::new();
        assert_eq!(push(&lent), None);
        let word = String::from("one");
        let counted = lent.lend(&mut (&mut words, &word), || (push(&lent), push(&lent), lent.is_lent()));
        assert_eq!(counted, (Some(1), Some(2), true));
        assert!(!lent.is_lent());
        assert_eq!(push(&lent), None);
        assert_eq!(words, ["one", "one"]);
    }

    #[test]
    fn it_is_used_by_one_at_a_time() {
        let lent = Lent::<Words>::new();
        let mut words = Vec::new();
        lent.lend(&mut (&mut words, "one"), || {
            let inner = lent.with(|(words, _)| {
                words.push("outer".to_owned());
                (push(&lent), lent.is_lent())
            });
            assert_eq!(inner, Some((None, false)));
            assert_eq!(push(&lent), Some(2), "and then by the next");
        });
    }

    #[test]
    fn a_loan_within_a_loan_ends_first() {
        let lent = Lent::<Words>::new();
        let (mut outer, mut inner) = (Vec::new(), Vec::new());
        lent.lend(&mut (&mut outer, "outer"), || {
            lent.lend(&mut (&mut inner, "inner"), || push(&lent));
            push(&lent);
        });
        assert_eq!((outer, inner), (vec!["outer".to_owned()], vec!["inner".to_owned()]));
    }

    #[test]
    fn a_panic_ends_the_loan_and_a_use() {
        let lent = Lent::<Words>::new();
        let mut words = Vec::new();
        let ended = catch_unwind(AssertUnwindSafe(|| {
            lent.lend(&mut (&mut words, "one"), || {
                let used = catch_unwind(AssertUnwindSafe(|| lent.with(|_| panic!("in a use"))));
                assert!(used.is_err());
                push(&lent);
                panic!("in a loan");
            });
        }));
        assert!(ended.is_err());
        assert_eq!(push(&lent), None);
        assert_eq!(words, ["one"]);
    }
}
