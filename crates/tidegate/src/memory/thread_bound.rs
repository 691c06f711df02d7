//! Values of one thread in the hands of code that asks for `Send`.

use std::fmt;
use std::mem::ManuallyDrop;
use std::thread::{self, ThreadId};

/// A value that belongs to the thread on which it was put in here, for code that asks for `Send` or `Sync` though it stays on that thread: on every
/// other thread the value can't be reached.
///
/// Connections of tasks are such values, and some libraries ask for `Send` of whatever they read from, for example to hand it over after an
/// upgrade. Where it really leaves its thread, nothing unsound happens: it looks as if the value were gone. Dropped there, the
/// value is leaked, because not even its destructor may run; for a connection that means that it lives until its peer or a limit of
/// time ends it.
pub struct ThreadBound<T> {
    value: ManuallyDrop<T>,
    thread: ThreadId,
}

// SAFETY: The value is only reached, and only dropped, after a comparison of the present thread with the one that made this; thread
// identifiers are never used again. So it is used on that thread alone, wherever this is moved to.
unsafe impl<T> Send for ThreadBound<T> {}

// SAFETY: As above: a reference to this gives a reference to the value on its own thread only.
unsafe impl<T> Sync for ThreadBound<T> {}

impl<T> ThreadBound<T> {
    /// Binds `value` to the present thread.
    pub fn new(value: T) -> Self {
        Self { value: ManuallyDrop::new(value), thread: thread::current().id() }
    }

    /// Whether this is the thread of the value.
    pub fn is_here(&self) -> bool {
        thread::current().id() == self.thread
    }

    /// The value, on its thread.
    pub fn get(&self) -> Option<&T> {
        self.is_here().then(|| &*self.value)
    }

    /// The value, on its thread.
    pub fn get_mut(&mut self) -> Option<&mut T> {
        self.is_here().then(|| &mut *self.value)
    }

    /// The value itself.
    ///
    /// # Errors
    /// What it was asked of, on another thread.
    pub fn into_inner(self) -> Result<T, Self> {
        if !self.is_here() {
            return Err(self);
        }
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is neither used nor dropped after this, so the value is taken once.
        Ok(unsafe { ManuallyDrop::take(&mut this.value) })
    }
}

impl<T> Drop for ThreadBound<T> {
    fn drop(&mut self) {
        if self.is_here() {
            // SAFETY: this is dropped once, and `into_inner` doesn't drop what it has taken the value from.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        } else {
            tracing::error!("a value was dropped on another thread than its own, and is leaked");
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for ThreadBound<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            Some(value) => value.fmt(formatter),
            None => formatter.write_str("(of another thread)"),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    #[test]
    fn on_its_thread_the_value_is_there() {
        let count = Rc::new(Cell::new(0));
        let mut bound = ThreadBound::new(Rc::clone(&count));
        bound.get().expect("here").set(1);
        bound.get_mut().expect("here").set(2);
        assert_eq!(count.get(), 2);
        drop(bound.into_inner().expect("here"));
        assert_eq!(Rc::strong_count(&count), 1);
        drop(ThreadBound::new(Rc::clone(&count)));
        assert_eq!(Rc::strong_count(&count), 1, "dropped once");
    }

    #[test]
    fn on_another_thread_it_is_out_of_reach_and_comes_back_whole() {
        let count = Rc::new(Cell::new(0));
        let bound = ThreadBound::new(Rc::clone(&count));
        let other = thread::spawn(move || {
            let mut bound = bound;
            assert!(bound.get().is_none() && bound.get_mut().is_none() && !bound.is_here());
            assert_eq!(format!("{bound:?}"), "(of another thread)");
            bound.into_inner().expect_err("not here")
        });
        let bound = other.join().expect("no panic");
        assert!(bound.get().is_some());
        drop(bound);
        assert_eq!(Rc::strong_count(&count), 1);
    }

    #[test]
    fn dropped_on_another_thread_it_is_leaked_and_not_touched() {
        let count = Rc::new(Cell::new(0));
        let bound = ThreadBound::new(Rc::clone(&count));
        thread::spawn(move || drop(bound)).join().expect("no panic");
        assert_eq!(Rc::strong_count(&count), 2);
        // SAFETY: it is the count of the clone that was leaked, and nobody else gives it back.
        unsafe { Rc::decrement_strong_count(Rc::as_ptr(&count)) };
    }
}
