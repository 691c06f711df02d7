//! Bodies go as fast as the slower side, both ways.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::rt::{Read, ReadBuf, Write};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use tidegate::sim::Simulation;
use tidegate::{Limits, Time};
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

#[test]
fn what_precedes_an_upgrade_goes_out_whoever_waits_for_whom() {
    async fn serve(mut request: Request<Incoming>) -> Result<crate::world::Answer, Infallible> {
        if request.uri().path() == "/large" {
            return Ok(text("x".repeat(LARGE_BYTES)));
        }
        let upgrade = hyper::upgrade::on(&mut request);
        let is_greeting = request.uri().path() == "/greeting";
        let context = context().expect("a request is served");
        let own = context.clone();
        let task = async move {
            // Says nothing before it has heard something, and gives each byte back as a capital.
            let mut upgraded = upgrade.await.expect("an upgrade");
            if is_greeting {
                // Gives up its greeting where there is no room for it within a second.
                let greeting = poll_fn(|waker| Pin::new(&mut upgraded).poll_write(waker, b"welcome"));
                let _ = own.timeout(Duration::from_secs(1), greeting).await;
            }
            loop {
                let mut byte = [0];
                let mut buffer = ReadBuf::new(&mut byte);
                let read = poll_fn(|waker| Pin::new(&mut upgraded).poll_read(waker, buffer.unfilled())).await;
                if read.is_err() || buffer.filled().is_empty() {
                    break;
                }
                let capital = buffer.filled().to_ascii_uppercase();
                let written = poll_fn(|waker| Pin::new(&mut upgraded).poll_write(waker, &capital)).await;
                assert_eq!(written.expect("it reads"), 1);
                poll_fn(|waker| Pin::new(&mut upgraded).poll_flush(waker)).await.expect("it reads");
            }
        };
        context.spawn_local(task).expect("there is room for a task");
        let mut response = text(String::new());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("tides"));
        Ok(response)
    }
    const LARGE_BYTES: usize = 64 << 10;
    for larges in 1..12 {
        // What the client says first is there before it has an answer, or not.
        for (path, first) in [("/echo", "hello"), ("/echo", ""), ("/greeting", "hello")] {
            let mut requests = "GET /large HTTP/1.1\r\nHost: a\r\n\r\n".repeat(larges);
            requests += &format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: tides\r\n\r\n");
            requests += first;
            let pieces = vec![requests.into_bytes(), b"tides".to_vec()];
            let (mut talker, seen) =
                Talker::slow(pieces, Duration::from_secs(30), |seen| seen.text().ends_with("TIDES"));
            talker.reads_from = Time::ZERO + Duration::from_secs(10);
            let mut simulation = Simulation::new(larges as u64);
            let server = builder().listen_http(listener(), http(), |_| service_fn(serve));
            let address = simulation.serve(server).expect("sound limits")[0];
            simulation.client(address, Duration::ZERO, talker);
            let (watched, at_twenty) = (Rc::clone(&seen), Rc::new(Cell::new(0)));
            let answered = Rc::clone(&at_twenty);
            simulation.after(Duration::from_secs(20), move |_| answered.set(watched.borrow().responses()));
            simulation.run().expect("no violation");
            assert_eq!(at_twenty.get(), larges + 1, "ten seconds after it began to read; {larges} before {path}");
            let text = seen.borrow().text();
            let rest = text.rsplit("\r\n\r\n").next().expect("a part").trim_start_matches("welcome");
            assert_eq!(rest, if first.is_empty() { "TIDES" } else { "HELLOTIDES" }, "{larges} before {path}");
        }
    }
}
