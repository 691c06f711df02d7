//! A connection of hyper with the settings of this crate, on a wire of bytes that were made before, with an account of what it takes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error;
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::rt;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use tidegate_hyper::{Bounded, Http};

use crate::allocator::{live_bytes, peak_of};

/// A timer that never rings: the time stands still.
#[derive(Clone)]
struct Still(Instant);

struct Never;

impl Future for Never {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl rt::Sleep for Never {}

impl rt::Timer for Still {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(Never)
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(Never)
    }

    fn now(&self) -> Instant {
        self.0
    }
}

/// What the client has sent, as it was received: one buffer in a poll.
#[derive(Default)]
pub struct Wire {
    unread: Option<(Rc<[u8]>, usize)>,
    has_read: bool,
    /// What the client still takes, in bytes.
    pub room_bytes: usize,
    pub written_bytes: usize,
}

#[derive(Clone)]
struct End(Rc<RefCell<Wire>>);

impl rt::Read for End {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, mut cursor: rt::ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let wire = &mut *self.0.borrow_mut();
        let Some((bytes, at)) = &mut wire.unread else { return Poll::Pending };
        let count = (bytes.len() - *at).min(cursor.remaining());
        cursor.put_slice(&bytes[*at..*at + count]);
        *at += count;
        wire.has_read = true;
        if *at == bytes.len() {
            wire.unread = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl rt::Write for End {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut wire = self.0.borrow_mut();
        let count = bytes.len().min(wire.room_bytes);
        if count == 0 {
            return Poll::Pending;
        }
        wire.room_bytes -= count;
        wire.written_bytes += count;
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What the service does with a request.
#[derive(Clone, Copy, Debug)]
pub enum Serves {
    /// It has the request, and never says anything.
    Keeps,
    /// It answers at once, with a body without an end in pieces of so many bytes.
    Pours(usize),
    /// It answers at once.
    Answers,
}

/// A body of static bytes, which take nothing.
pub struct Pouring {
    piece: &'static [u8],
}

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl Body for Pouring {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.piece {
            [] => Poll::Ready(None),
            piece => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.piece.is_empty() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}

type Answer = Response<Pouring>;

fn service(serves: Serves) -> impl Service<Request<Incoming>, Response = Answer, Error = Infallible, Future: 'static> {
    service_fn(move |request: Request<Incoming>| async move {
        let piece = match serves {
            Serves::Keeps => {
                let _kept = request;
                pending().await
            }
            Serves::Pours(bytes) => &ZEROS[..bytes],
            Serves::Answers => &ZEROS[..0],
        };
        Ok(Response::new(Pouring { piece }))
    })
}

type Running = Pin<Box<dyn Future<Output = Result<(), Box<dyn Error + Send + Sync>>>>>;

type InProgressOne = Pin<Box<dyn Future<Output = ()>>>;

/// The requests of HTTP/2 that are in progress.
#[derive(Clone, Default)]
struct InProgress {
    new: Rc<RefCell<VecDeque<InProgressOne>>>,
}

impl<F: Future<Output = ()> + 'static> rt::Executor<F> for InProgress {
    fn execute(&self, future: F) {
        self.new.borrow_mut().push_back(Box::pin(future));
    }
}

/// A connection, and the most that it has taken.
pub struct Measured {
    connection: Option<Running>,
    in_progress: InProgress,
    pub wire: Rc<RefCell<Wire>>,
    pub kept_bytes: isize,
    pub most_kept_bytes: isize,
    /// While it was polled, on top of what there was before.
    pub most_call_bytes: isize,
    pub outcome: Option<Result<(), String>>,
}

impl Measured {
    pub fn http1(http: &Http, serves: Serves) -> Self {
        Self::new(|end, _| {
            let connection = http.http1(Still(Instant::now())).serve_connection(end, service(serves));
            Box::pin(async { connection.await.map_err(Into::into) })
        })
    }

    pub fn http2(http: &Http, heads_bytes: usize, serves: Serves) -> Self {
        Self::new(|end, in_progress| {
            let service = Bounded::new(service(serves), heads_bytes);
            let connection = http.http2(Still(Instant::now()), in_progress).serve_connection(end, service);
            Box::pin(async { connection.await.map_err(Into::into) })
        })
    }

    fn new(make: impl FnOnce(End, InProgress) -> Running) -> Self {
        let wire = Rc::new(RefCell::new(Wire { room_bytes: usize::MAX, ..Wire::default() }));
        let in_progress = InProgress::default();
        let before = live_bytes();
        let connection = make(End(Rc::clone(&wire)), in_progress.clone());
        let kept_bytes = live_bytes() - before;
        Self {
            connection: Some(connection),
            in_progress,
            wire,
            kept_bytes,
            most_kept_bytes: kept_bytes,
            most_call_bytes: 0,
            outcome: None,
        }
    }

    /// The client sends `bytes`, in buffers of at most `cut_bytes`.
    pub fn receive(&mut self, bytes: &[u8], cut_bytes: usize) {
        for piece in bytes.chunks(cut_bytes) {
            let piece: Rc<[u8]> = piece.into();
            self.wire.borrow_mut().unread = Some((piece, 0));
            // Until it takes no more: then the rest stays with the connection, and reading pauses.
            loop {
                self.wire.borrow_mut().has_read = false;
                self.poll();
                let wire = self.wire.borrow();
                if self.outcome.is_some() || wire.unread.is_none() || !wire.has_read {
                    break;
                }
            }
            if self.outcome.is_some() {
                return;
            }
        }
    }

    /// Polls it, with its requests, until nothing more comes of it.
    pub fn poll(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..4 {
            let before = live_bytes();
            let (polled, peak) = peak_of(|| {
                let polled = connection.as_mut().poll(&mut context);
                let mut requests = std::mem::take(&mut *self.in_progress.new.borrow_mut());
                requests.retain_mut(|request| request.as_mut().poll(&mut context).is_pending());
                let mut new = self.in_progress.new.borrow_mut();
                requests.append(&mut new);
                *new = requests;
                polled
            });
            self.kept_bytes += live_bytes() - before;
            self.most_kept_bytes = self.most_kept_bytes.max(self.kept_bytes);
            self.most_call_bytes = self.most_call_bytes.max(peak);
            if let Poll::Ready(outcome) = polled {
                self.outcome = Some(outcome.map_err(|error| format!("{error}: {:?}", error.source())));
                return;
            }
        }
        self.connection = Some(connection);
    }

    /// Says what it took, and holds it against what is reserved.
    #[track_caller]
    pub fn check(&self, http: &Http, what: &str) {
        let (reserved, call) = (http.connection_bytes() as isize, http.call_bytes() as isize);
        let Self { most_kept_bytes, most_call_bytes, outcome, .. } = self;
        println!(
            "{what}: {most_kept_bytes} kept, {most_call_bytes} more in a call, of {reserved} and {call}; {outcome:?}"
        );
        assert!(*most_kept_bytes <= reserved, "{what}: {most_kept_bytes} bytes, and {reserved} are reserved");
        assert!(*most_call_bytes <= call, "{what}: {most_call_bytes} bytes in a call, and {call} are reserved");
    }
}
