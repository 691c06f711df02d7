//! The connection in a form that may be sent to other threads, though it lives on one.
//!
//! hyper asks for that where a connection may be upgraded: whoever gets it then might be anywhere. So hyper gets a [`Handle`], which is a
//! number, and the connection itself lies in a table of its I/O thread for as long as its task has it ([`Kept`]). On that thread the
//! handle finds it there. On another it finds nothing, and says so with an error. Where it is dropped makes no difference: the task hears of
//! it.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use hyper::rt::{Read, ReadBufCursor, Write};

use crate::Io;

/// The connections of one thread that have handles.
struct Table {
    /// Of the thread: no other has it.
    thread: u64,
    places: RefCell<Places>,
}

#[derive(Default)]
struct Places {
    all: Vec<Place>,
    free: Vec<usize>,
}

#[derive(Default)]
struct Place {
    /// How often it was given away.
    generation: u64,
    io: Option<Rc<RefCell<Io>>>,
}

/// What a place takes, in bytes, with the room of a table that has just grown.
pub(crate) const PLACE_BYTES: usize =
    2 * (size_of::<Place>() + size_of::<usize>()) + size_of::<RefCell<Io>>() + size_of::<Given>() + 64;

thread_local! {
    static TABLE: Table = {
        static THREADS: AtomicU64 = AtomicU64::new(0);
        Table { thread: THREADS.fetch_add(1, Ordering::Relaxed), places: RefCell::default() }
    };
}

/// A connection that its task keeps, and has given a handle of.
pub(crate) struct Kept {
    io: Rc<RefCell<Io>>,
    place: usize,
    given: Arc<Given>,
}

/// What a handle and its connection's task share.
#[derive(Default)]
struct Given {
    is_dropped: AtomicBool,
    /// The task, if it waits for that.
    task: Mutex<Option<Waker>>,
}

impl Kept {
    /// Keeps `io`, and gives the handle of it.
    pub(crate) fn new(io: Io) -> (Self, Handle) {
        let io = Rc::new(RefCell::new(io));
        let given = Arc::new(Given::default());
        TABLE.with(|table| {
            let mut places = table.places.borrow_mut();
            let place = places.free.pop().unwrap_or(places.all.len());
            if place == places.all.len() {
                places.all.push(Place::default());
            }
            let taken = &mut places.all[place];
            taken.generation += 1;
            taken.io = Some(Rc::clone(&io));
            let generation = taken.generation;
            let handle = Handle { thread: table.thread, place, generation, given: Arc::clone(&given) };
            (Self { io, place, given }, handle)
        })
    }

    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut Io) -> R) -> R {
        act(&mut self.io.borrow_mut())
    }

    /// Whether the handle was dropped.
    pub(crate) fn is_given_up(&self) -> bool {
        self.given.is_dropped.load(Ordering::Acquire)
    }

    /// Waits until it is.
    pub(crate) fn poll_given_up(&self, context: &mut Context<'_>) -> Poll<()> {
        *self.given.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
        if self.is_given_up() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Not while the table is borrowed: the connection may be dropped with it.
        let io = TABLE.try_with(|table| {
            let mut places = table.places.borrow_mut();
            places.free.push(self.place);
            places.all[self.place].io.take()
        });
        drop(io);
    }
}

/// Stands for the connection of a [`Kept`].
pub(crate) struct Handle {
    thread: u64,
    place: usize,
    generation: u64,
    given: Arc<Given>,
}

impl Handle {
    fn with<T>(&self, act: impl FnOnce(Pin<&mut Io>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match self.find() {
            Ok(io) => act(Pin::new(&mut io.borrow_mut())),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn find(&self) -> io::Result<Rc<RefCell<Io>>> {
        let found = TABLE.try_with(|table| {
            if table.thread != self.thread {
                return Err(io::Error::other("a connection can be used on its own I/O thread only"));
            }
            let places = table.places.borrow();
            let place = &places.all[self.place];
            let own = place.io.as_ref().filter(|_| place.generation == self.generation);
            own.cloned().ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the connection has ended"))
        });
        found.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::NotConnected, "the I/O thread is ending")))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.given.is_dropped.store(true, Ordering::Release);
        let task = self.given.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl Read for Handle {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, cursor: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_read(context, cursor))
    }
}

impl Write for Handle {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|io| io.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|io| io.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_shutdown(context))
    }
}
