//! One connection, from its first byte to its end.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::Body;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper::{Request, Response};
use tidegate::{Time, task};

use crate::handle::Kept;
use crate::streams::Streams;
use crate::timer::HeadTimer;
use crate::{Bounded, BoxedError, Http, Io, Timer, Versions, current};

/// The first bytes of HTTP/2 (RFC 9113, 3.4). No request of HTTP/1 begins like that.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves `connection` with `service` until one of the two is done with it.
///
/// # Errors
/// What ends the connection with a reset: it is gone, or a response could not be completed.
pub(crate) async fn serve<S, B>(connection: task::Connection, http: Arc<Http>, service: S) -> Result<(), task::Error>
where
    S: Service<Request<Incoming>, Response = Response<B>> + 'static,
    S::Error: Into<BoxedError>,
    B: Body + 'static,
    B::Error: Into<BoxedError>,
    S::Future: 'static,
{
    let agreed = match connection.description().protocol.as_deref() {
        Some(b"h2") => Some(Versions::Http2),
        Some(_) => Some(Versions::Http1),
        None => None,
    };
    let context = connection.context();
    let head_deadline = context.now() + http.head_timeout;
    // Who has just gone through a handshake while the server drains has begun before, and is about to ask.
    let is_expected = context.is_draining() && connection.description().is_encrypted;
    let mut io = Io::new(connection);
    let mut busy = is_expected.then(|| context.busy());
    // hyper has its buffers from the first byte on: a connection that says nothing takes none.
    let begins = poll_fn(|waker| {
        let begins = io.poll_begins_with(PREFACE, waker);
        if busy.is_none() && (begins.is_ready() || io.has_begun()) {
            // A request is under way. From here on hyper knows when none is, and closes then.
            busy = Some(context.busy());
        }
        begins
    });
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
    if is_http2 {
        serve_http2(io, &context, &http, service).await
    } else {
        serve_http1(io, &context, &http, head_deadline, service).await
    }
}

async fn serve_http1<S, B>(
    mut io: Io,
    context: &task::Context,
    http: &Http,
    head_deadline: Time,
    service: S,
) -> Result<(), task::Error>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<BoxedError>,
    B: Body + 'static,
    B::Error: Into<BoxedError>,
{
    io.flush_late(true);
    let (kept, handle) = Kept::new(io);
    let heads = HeadTimer::new(context, head_deadline);
    let mut builder = http.http1(heads.clone());
    // Asked to shut down before it has read anything, hyper takes a connection for idle and closes it, whatever has come. One that begins
    // while the server drains has one request instead.
    let mut is_ending = context.is_draining();
    if is_ending {
        builder.keep_alive(false);
    }
    let connection = builder.serve_connection(handle, service).with_upgrades();
    let mut connection = Box::pin(connection);
    kept.with(|io| context.fetch_ahead(&*connection, io));
    let mut alarm = None::<task::Sleep>;
    let mut draining = pin!(context.draining());
    let served = poll_fn(|waker| {
        if alarm.as_ref().is_some_and(|alarm| alarm.deadline() <= context.now()) {
            alarm = None;
        }
        let mut served = current::enter(context, || connection.as_mut().poll(waker));
        // Told when it has read what there is: on a kept connection, too, a request that has come before is answered.
        if served.is_pending() && !is_ending && draining.as_mut().poll(waker).is_ready() {
            is_ending = true;
            connection.as_mut().graceful_shutdown();
            served = current::enter(context, || connection.as_mut().poll(waker));
        }
        if alarm.is_none()
            && let Some(deadline) = heads.deadline()
        {
            let alarm = alarm.insert(context.sleep_until(deadline));
            // It wakes the task. Whether it is over is seen above.
            let _ = Pin::new(alarm).poll(waker);
        }
        send(&kept, waker, served)
    })
    .await?;
    drop(connection);
    ended(served)?;
    if !kept.is_given_up() {
        // It was upgraded: somebody else has it now.
        kept.with(|io| io.flush_late(false));
        // Beside that, what there was no room for: the new protocol may wait for the client, and the client for this.
        let mut is_sent = false;
        poll_fn(|waker| {
            if !is_sent && let Poll::Ready(sent) = kept.with(|io| io.poll_send_beside(waker)) {
                sent?;
                is_sent = true;
            }
            kept.poll_given_up(waker).map(Ok::<_, task::Error>)
        })
        .await?;
    }
    poll_fn(|waker| kept.with(|io| io.poll_send(waker))).await
}

async fn serve_http2<S, B>(mut io: Io, context: &task::Context, http: &Http, service: S) -> Result<(), task::Error>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<BoxedError>,
    B: Body + 'static,
    B::Error: Into<BoxedError>,
    S::Future: 'static,
{
    io.flush_late(true);
    let (kept, handle) = Kept::new(io);
    let streams = Streams::new(http.stream_places());
    let service = Bounded::new(service, http.heads_bytes);
    let connection = http.http2(Timer::new(context), streams.executor()).serve_connection(handle, service);
    let mut connection = Box::pin(connection);
    kept.with(|io| context.fetch_ahead(&*connection, io));
    let (mut is_ending, mut was_full) = (false, false);
    let mut draining = pin!(context.draining());
    let served = poll_fn(|waker| {
        if !is_ending && draining.as_mut().poll(waker).is_ready() {
            is_ending = true;
            connection.as_mut().graceful_shutdown();
            streams.queue_connection();
        }
        if std::mem::take(&mut was_full) {
            // It may have waited for the room that there is now.
            streams.queue_connection();
        }
        let served = current::enter(context, || streams.poll(waker, |waker| connection.as_mut().poll(waker)));
        let sent = send(&kept, waker, served);
        was_full = kept.with(|io| io.is_full());
        sent
    })
    .await?;
    drop(connection);
    ended(served)?;
    poll_fn(|waker| kept.with(|io| io.poll_send(waker))).await
}

/// Sends as one message all that hyper has written in one poll.
fn send(
    kept: &Kept,
    waker: &mut Context<'_>,
    served: Poll<hyper::Result<()>>,
) -> Poll<Result<hyper::Result<()>, task::Error>> {
    match kept.with(|io| io.poll_send(waker)) {
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        // What there is no room for now goes out when there is.
        _ => served.map(Ok),
    }
}

/// What the end of hyper's side means for the connection.
fn ended(served: hyper::Result<()>) -> Result<(), task::Error> {
    match served {
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
