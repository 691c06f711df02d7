//! Who waits for something on a connection.

use std::cell::{Cell, RefCell};
use std::task::Waker;

/// The one who waits for something, if anybody does. Kept when it is woken: most wait again.
#[derive(Default)]
pub(super) struct Waiter(Cell<Option<Waker>>);

impl Waiter {
    /// `waker` waits now, and nobody else.
    pub(super) fn register(&self, waker: &Waker) {
        let kept = self.0.take().filter(|kept| kept.will_wake(waker));
        self.0.set(Some(kept.unwrap_or_else(|| waker.clone())));
    }

    /// Wakes whoever waits; `own` instead, if that is who waits.
    pub(super) fn wake(&self, own: &Waker, wake_own: impl FnOnce()) {
        if let Some(waker) = self.0.take() {
            if waker.will_wake(own) {
                wake_own();
            } else {
                waker.wake_by_ref();
            }
            // Unless somebody has come meanwhile.
            let newer = self.0.take();
            self.0.set(newer.or(Some(waker)));
        }
    }

    pub(super) fn forget(&self) {
        drop(self.0.take());
    }
}

/// All who wait for something that happens seldom. As many as there are futures that wait.
#[derive(Default)]
pub(super) struct Waiters(RefCell<Vec<Place>>);

enum Place {
    Free,
    Taken(Option<Waker>),
}

impl Waiters {
    /// A place to wait in.
    pub(super) fn waiting(&self) -> Waiting<'_> {
        Waiting { waiters: self, place: None }
    }

    pub(super) fn wake_all(&self) {
        let mut number = 0;
        loop {
            // Borrowed for one at a time: wakers may do anything.
            let waker = match self.0.borrow_mut().get_mut(number) {
                Some(Place::Taken(waker)) => waker.take(),
                Some(Place::Free) => None,
                None => return,
            };
            if let Some(waker) = waker {
                waker.wake();
            }
            number += 1;
        }
    }
}

/// A place of a future among those who wait.
pub(super) struct Waiting<'a> {
    waiters: &'a Waiters,
    place: Option<usize>,
}

impl Waiting<'_> {
    pub(super) fn register(&mut self, waker: &Waker) {
        let mut places = self.waiters.0.borrow_mut();
        let number = self.place.unwrap_or_else(|| {
            let free = places.iter().position(|place| matches!(place, Place::Free));
            free.unwrap_or_else(|| {
                places.push(Place::Free);
                places.len() - 1
            })
        });
        self.place = Some(number);
        if matches!(&places[number], Place::Taken(Some(kept)) if kept.will_wake(waker)) {
            return;
        }
        let before = std::mem::replace(&mut places[number], Place::Taken(Some(waker.clone())));
        drop(places);
        drop(before);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.place {
            let before = std::mem::replace(&mut self.waiters.0.borrow_mut()[number], Place::Free);
            drop(before);
        }
    }
}
