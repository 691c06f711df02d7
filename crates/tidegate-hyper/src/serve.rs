//! One connection, from its first byte to its end.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::HttpService;
use tidegate::task;

use crate::handle::{Handle, Kept};
use crate::{BoxedError, Bounded, Executor, Http, Io, Timer, Versions, current};

/// The first bytes of HTTP/2 (RFC 9113, 3.4). No request of HTTP/1 begins like that.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves `connection` with `service` until one of the two is done with it.
///
/// # Errors
/// What ends the connection with a reset: it is gone, or a response could not be completed.
pub(crate) async fn serve<S>(connection: task::Connection, http: Arc<Http>, service: S) -> Result<(), task::Error>
where
    S: HttpService<Incoming> + 'static,
    S::Error: Into<BoxedError>,
    S::ResBody: 'static,
    <S::ResBody as Body>::Error: Into<BoxedError>,
    S::Future: 'static,
{
    let agreed = match connection.description().protocol.as_deref() {
        Some(b"h2") => Some(Versions::Http2),
        Some(_) => Some(Versions::Http1),
        None => None,
    };
    let context = connection.context();
    let mut io = Io::new(connection);
    // hyper has its buffers from the first byte on: a connection that says nothing takes none.
    let begins = poll_fn(|waker| io.poll_begins_with(PREFACE, waker));
    let Ok(says_http2) = context.timeout(http.head_timeout, begins).await else {
        tracing::debug!("no head in time");
        return Ok(());
    };
    let says_http2 = says_http2?;
    let is_http2 = match (http.versions, agreed) {
        (Versions::Http1, _) => false,
        (Versions::Http2, _) => true,
        (Versions::Both, Some(agreed)) => agreed == Versions::Http2,
        (Versions::Both, None) => says_http2,
    };
    // hyper knows when nothing is under way, and closes then.
    let _busy = context.busy();
    if is_http2 { serve_http2(io, &context, &http, service).await } else { serve_http1(io, &context, &http, service).await }
}

async fn serve_http1<S>(mut io: Io, context: &task::Context, http: &Http, service: S) -> Result<(), task::Error>
where
    S: HttpService<Incoming>,
    S::Error: Into<BoxedError>,
    S::ResBody: 'static,
    <S::ResBody as Body>::Error: Into<BoxedError>,
{
    io.flush_late(true);
    let (kept, handle) = Kept::new(io);
    let connection = http.http1(Timer::new(context)).serve_connection(handle, service).with_upgrades();
    let mut connection = Box::pin(connection);
    drive(&kept, context, connection.as_mut()).await?;
    drop(connection);
    if !kept.is_given_up() {
        // It was upgraded: somebody else has it now.
        kept.with(|io| io.flush_late(false));
        poll_fn(|waker| kept.poll_given_up(waker)).await;
    }
    poll_fn(|waker| kept.with(|io| io.poll_send(waker))).await
}

async fn serve_http2<S>(mut io: Io, context: &task::Context, http: &Http, service: S) -> Result<(), task::Error>
where
    S: HttpService<Incoming>,
    S::Error: Into<BoxedError>,
    S::ResBody: 'static,
    <S::ResBody as Body>::Error: Into<BoxedError>,
    S::Future: 'static,
{
    io.flush_late(true);
    let (kept, handle) = Kept::new(io);
    let service = Bounded::new(service, http.heads_bytes);
    let connection = http.http2(Timer::new(context), Executor::new(context)).serve_connection(handle, service);
    let mut connection = Box::pin(connection);
    drive(&kept, context, connection.as_mut()).await?;
    drop(connection);
    poll_fn(|waker| kept.with(|io| io.poll_send(waker))).await
}

/// Polls hyper's side of a connection until it is done with it.
async fn drive<C: Served>(kept: &Kept, context: &task::Context, mut connection: Pin<&mut C>) -> Result<(), task::Error> {
    let mut is_ending = false;
    let mut draining = pin!(context.draining());
    let ended = poll_fn(|waker| {
        if !is_ending && draining.as_mut().poll(waker).is_ready() {
            is_ending = true;
            connection.as_mut().end();
        }
        let served = current::enter(context, || connection.as_mut().poll(waker));
        // All that it has written goes out as one message.
        match kept.with(|io| io.poll_send(waker)) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => served.map(Ok),
        }
    })
    .await?;
    match ended {
        Ok(()) => Ok(()),
        // A response is not whole: an orderly end would make it look as if it were.
        Err(error) if error.is_user() => Err(task::Error::other(error)),
        // What the client has done wrong, it was told.
        Err(error) => {
            tracing::debug!(%error, "the connection ends");
            Ok(())
        }
    }
}

/// hyper's side of a connection.
trait Served: Future<Output = hyper::Result<()>> {
    /// What is under way is finished, and then the connection is over.
    fn end(self: Pin<&mut Self>);
}

impl<S> Served for http1::UpgradeableConnection<Handle, S>
where
    S: HttpService<Incoming>,
    S::Error: Into<BoxedError>,
    S::ResBody: 'static,
    <S::ResBody as Body>::Error: Into<BoxedError>,
{
    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S> Served for http2::Connection<Handle, Bounded<S>, Executor>
where
    S: HttpService<Incoming>,
    S::Error: Into<BoxedError>,
    S::ResBody: 'static,
    <S::ResBody as Body>::Error: Into<BoxedError>,
    S::Future: 'static,
{
    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}
