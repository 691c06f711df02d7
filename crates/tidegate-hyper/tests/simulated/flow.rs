//! Bodies go as fast as the slower side, both ways.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use tidegate::Limits;
use tidegate::sim::Simulation;
use tidegate_hyper::{ListenHttp, context};

use crate::world::{Talker, builder, hello, http, listener, text};

/// A body without an end, which counts what it was asked for.
struct Endless {
    asked: Rc<Cell<usize>>,
}

const PIECE: &[u8] = &[b'x'; 4096];

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.asked.set(self.asked.get() + PIECE.len());
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(PIECE)))))
    }
}

std::thread_local! {
    /// What all bodies of a test were asked for: a test has a thread of its own, and its simulation runs on it.
    static ASKED: Rc<Cell<usize>> = Rc::default();
}

#[test]
fn a_response_body_is_asked_for_as_fast_as_the_client_reads() {
    let mut simulation = Simulation::new(3);
    let server = builder().listen_http(listener(), http(), |_| {
        service_fn(|_: Request<Incoming>| async {
            Ok::<_, Infallible>(Response::new(Endless { asked: ASKED.with(Rc::clone) }))
        })
    });
    let address = simulation.serve(server).expect("sound limits")[0];
    let (mut talker, seen) =
        Talker::new(vec![b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()], |seen| seen.bytes.len() > 1 << 20);
    talker.reads = false;
    let client = simulation.client(address, Duration::ZERO, talker);
    let stopped = Rc::new(Cell::new(0));
    let at_stop = Rc::clone(&stopped);
    simulation.after(Duration::from_secs(20), move |simulation| {
        at_stop.set(ASKED.with(|asked| asked.get()));
        simulation.reset(client);
    });
    simulation.run().expect("no violation");
    let asked = stopped.get();
    // hyper's buffer, a message, the send queue, and the buffers of both ends.
    assert!((64 << 10..2 << 20).contains(&asked), "{asked} bytes for a client that reads nothing");
    assert_eq!(seen.borrow().bytes.len(), 0);
}

#[test]
fn a_request_body_is_received_as_fast_as_the_service_reads_it() {
    async fn lazy(request: Request<Incoming>) -> Result<crate::world::Answer, hyper::Error> {
        let context = context().expect("a request is served");
        context.sleep(Duration::from_secs(10)).await;
        let body = request.into_body().collect().await?.to_bytes();
        Ok(text(format!("{} bytes", body.len())))
    }
    let mut simulation = Simulation::new(4);
    let server = builder().listen_http(listener(), http(), |_| service_fn(lazy));
    let address = simulation.serve(server).expect("sound limits")[0];
    let mut request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4194304\r\n\r\n".to_vec();
    request.resize(request.len() + (4 << 20), b'x');
    let (talker, seen) = Talker::new(vec![request], |seen| seen.text().ends_with("4194304 bytes"));
    simulation.client(address, Duration::ZERO, talker);
    let (watched, before) = (Rc::clone(&seen), Rc::new(Cell::new(0)));
    let at_nine = Rc::clone(&before);
    simulation.after(Duration::from_secs(9), move |_| at_nine.set(watched.borrow().written_bytes));
    simulation.run().expect("no violation");
    let before = before.get();
    assert!((1..1 << 20).contains(&before), "{before} bytes were taken before the service read any");
    assert_eq!(seen.borrow().responses(), 1);
}

#[test]
fn responses_that_nobody_reads_keep_no_receive_buffers_from_others() {
    let mut simulation = Simulation::new(5);
    let limits = Limits { max_connections: 100, receive_buffers: 8, ..Limits::default() };
    let server = builder().limits(limits).listen_http(listener(), http(), |_| service_fn(hello));
    let address = simulation.serve(server).expect("sound limits")[0];
    for _ in 0..40 {
        let requests = vec![b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(20); 400];
        let (mut talker, _) = Talker::slow(requests, Duration::from_millis(1), |_| false);
        talker.reads = false;
        let client = simulation.client(address, Duration::ZERO, talker);
        simulation.after(Duration::from_secs(50), move |simulation| simulation.reset(client));
    }
    let (talker, seen) =
        Talker::new(vec![b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()], |seen| seen.text().ends_with("hello"));
    simulation.client(address, Duration::from_secs(20), talker);
    let answered = Rc::new(Cell::new(0));
    let (watched, at_thirty) = (Rc::clone(&seen), Rc::clone(&answered));
    simulation.after(Duration::from_secs(21), move |_| at_thirty.set(watched.borrow().responses()));
    simulation.run().expect("no violation");
    assert_eq!(answered.get(), 1, "a second after it asked: {:?}", seen.borrow().text());
}
