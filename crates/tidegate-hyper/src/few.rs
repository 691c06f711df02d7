//! Bodies of which only a few pieces wait to be sent.

use std::cell::Cell;
use std::fmt;
use std::io::IoSlice;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use hyper::body::{Body, Buf, Bytes, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// A response body over HTTP/2 that is asked for its next piece only while fewer than [`PIECES_MAX`](Few::<()>::PIECES_MAX) of it wait to be
    /// sent. The library below bounds what waits by its bytes alone, and keeps half a kilobyte for each piece, however short.
    #[derive(Debug)]
    pub struct Few<B> {
        #[pin]
        body: B,
        waiting: Rc<Waiting>,
    }
}

/// How many pieces wait, and who waits for there being fewer.
#[derive(Default)]
struct Waiting {
    pieces: Cell<usize>,
    waker: Cell<Option<Waker>>,
}

impl<B> Few<B> {
    /// The most pieces that wait: enough for pieces of a kilobyte to fill the default
    /// [`stream_send_bytes`](crate::Http::stream_send_bytes).
    pub const PIECES_MAX: usize = 8;

    /// Asks `body`.
    pub fn new(body: B) -> Self {
        Self { body, waiting: Rc::default() }
    }
}

impl<B: Body> Body for Few<B> {
    type Data = Piece<B::Data>;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        if this.waiting.pieces.get() >= Self::PIECES_MAX {
            this.waiting.waker.set(Some(context.waker().clone()));
            return Poll::Pending;
        }
        this.body
            .poll_frame(context)
            .map(|frame| Some(frame?.map(|frame| frame.map_data(|data| Piece::new(data, this.waiting)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A piece of a body that waits until it is dropped.
pub struct Piece<D> {
    data: D,
    waiting: Rc<Waiting>,
}

impl<D> Piece<D> {
    fn new(data: D, waiting: &Rc<Waiting>) -> Self {
        waiting.pieces.set(waiting.pieces.get() + 1);
        Self { data, waiting: Rc::clone(waiting) }
    }
}

impl<D> Drop for Piece<D> {
    fn drop(&mut self) {
        self.waiting.pieces.set(self.waiting.pieces.get() - 1);
        if let Some(waker) = self.waiting.waker.take() {
            waker.wake();
        }
    }
}

impl<D: Buf> Buf for Piece<D> {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(slices)
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        self.data.copy_to_bytes(length)
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Waiting").field("pieces", &self.pieces.get()).finish_non_exhaustive()
    }
}

impl<D: Buf> fmt::Debug for Piece<D> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Piece").field("bytes", &self.data.remaining()).finish_non_exhaustive()
    }
}
