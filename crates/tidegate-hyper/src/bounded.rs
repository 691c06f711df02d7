//! A service that takes only so many request heads at once.

use std::cell::Cell;
use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::service::Service;
use hyper::{HeaderMap, Request, Response};
use pin_project_lite::pin_project;

use crate::Few;

/// A service for HTTP/2, where many requests of one connection are in progress at once. Their responses have bodies of which a [few](Few) pieces
/// wait at a time. It passes a request on to `service` only while the
/// heads of those in progress take no more than they may. A larger one is refused, with an error that makes hyper reset its stream with
/// `REFUSED_STREAM`: nothing was done of it, and the client may try again.
///
/// The limit of header lists doesn't bound that memory: headers that are repeated cost the client a byte each, and the server what an entry
/// of a header map takes.
#[derive(Clone, Debug)]
pub struct Bounded<S> {
    service: S,
    heads: Rc<Heads>,
}

#[derive(Debug)]
struct Heads {
    taken_bytes: Cell<usize>,
    limit_bytes: usize,
}

impl<S> Bounded<S> {
    /// Heads of at most `limit_bytes` together; a single one is always taken.
    pub fn new(service: S, limit_bytes: usize) -> Self {
        Self { service, heads: Rc::new(Heads { taken_bytes: Cell::new(0), limit_bytes }) }
    }

    fn take(&self, request: &Request<Incoming>) -> Option<Taken> {
        let bytes = head_bytes(request.headers());
        let taken_bytes = self.heads.taken_bytes.get();
        if taken_bytes > 0 && taken_bytes + bytes > self.heads.limit_bytes {
            return None;
        }
        self.heads.taken_bytes.set(taken_bytes + bytes);
        Some(Taken { heads: Rc::clone(&self.heads), bytes })
    }
}

/// What a head takes in memory, in bytes: the request itself, and its map of headers.
fn head_bytes(headers: &HeaderMap) -> usize {
    let repeated = headers.len() - headers.keys_len();
    REQUEST_BYTES + headers.capacity() * HEADER_BYTES + repeated * REPEATED_BYTES
}

/// The parts of a request with an address of a few hundred bytes, and what hyper keeps for it.
const REQUEST_BYTES: usize = 1024;

/// An entry of a header map, as `http` 1 lays it out: its hash, name, value and links, 104 bytes; its index, 4, of which there are a third more
/// than entries; and a short text of its own, since those that are compressed are decoded to the heap.
const HEADER_BYTES: usize = 104 + 6 + 32;

/// Another value of the same name: 72 bytes in a vector that has just grown, and a text of its own.
const REPEATED_BYTES: usize = 2 * 72 + 32;

/// The share of a request that is in progress.
#[derive(Debug)]
struct Taken {
    heads: Rc<Heads>,
    bytes: usize,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.heads.taken_bytes.set(self.heads.taken_bytes.get() - self.bytes);
    }
}

impl<S, B> Service<Request<Incoming>> for Bounded<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Response = Response<Few<B>>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Answer<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        match self.take(&request) {
            Some(taken) => Answer { future: Some(self.service.call(request)), _taken: Some(taken) },
            None => {
                tracing::debug!(limit_bytes = self.heads.limit_bytes, "a request is refused: too many heads at once");
                Answer { future: None, _taken: None }
            }
        }
    }
}

pin_project! {
    /// The answer of a [`Bounded`] service.
    #[derive(Debug)]
    pub struct Answer<F> {
        // None of a request that was refused.
        #[pin]
        future: Option<F>,
        _taken: Option<Taken>,
    }
}

impl<F, B, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    type Output = Result<Response<Few<B>>, Box<dyn Error + Send + Sync>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().future.as_pin_mut() {
            Some(future) => future.poll(context).map(|answer| Ok(answer.map_err(Into::into)?.map(Few::new))),
            None => Poll::Ready(Err(h2::Error::from(h2::Reason::REFUSED_STREAM).into())),
        }
    }
}
