//! Connections that are upgraded, to WebSocket or anything else.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;

use futures_util::{SinkExt, StreamExt};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, UPGRADE};
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tidegate::EngineChoice;
use tidegate_hyper::{Http, ListenHttp, context};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::harness::{DEADLINE, Running, any_port, builder};

/// Sends back what comes.
pub async fn websocket_echo(upgraded: Upgraded) {
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            break;
        }
    }
}

async fn accept(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let Ok(response) = create_response_with_body(&request, Empty::new) else {
        let mut response = Response::new(Empty::new());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let task = async move {
        if let Ok(upgraded) = upgrade.await {
            websocket_echo(upgraded).await;
        }
    };
    context().expect("a request is served").spawn_local(task).expect("there is room for a task");
    Ok(response)
}

/// A client that doesn't mind being interrupted.
struct Patient(TcpStream);

impl Read for Patient {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A WebSocket client says three things and gets them back.
pub fn converse(running: &Running, path: &str) {
    let url = format!("ws://{}{path}", running.address);
    let (mut socket, _) = tungstenite::client(url, Patient(running.connect())).expect("an upgrade");
    let long = "x".repeat(300_000);
    for text in ["hello", "tides", &long] {
        socket.send(Message::text(text)).expect("it reads");
        let answer = socket.read().expect("an answer");
        assert_eq!(answer, Message::text(text));
    }
    socket.close(None).expect("it reads");
    while socket.read().is_ok() {}
}

#[test]
fn a_websocket_echoes_on_every_engine() {
    for engine in [EngineChoice::Auto, EngineChoice::Readiness] {
        let running = Running::start(builder().listen_http(any_port(), Http::new(), |_| service_fn(accept)), engine);
        for _ in 0..3 {
            converse(&running, "/");
        }
        let mut others = running.connect();
        others.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        others.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        drop(others);
        assert_eq!(running.drained().connections(), 4);
    }
}

const SWITCH: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: tides\r\n\r\n";

/// A server that hands each upgraded connection to another thread.
fn giving_away(to: mpsc::Sender<Upgraded>) -> Running {
    let server = builder().listen_http(any_port(), Http::new(), move |_| {
        let to = to.clone();
        service_fn(move |mut request: Request<Incoming>| {
            let (upgrade, to) = (hyper::upgrade::on(&mut request), to.clone());
            let context = context().expect("a request is served");
            async move {
                let task = async move { to.send(upgrade.await.expect("an upgrade")).expect("the test goes on") };
                context.spawn_local(task).expect("there is room for a task");
                let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
                response.header(CONNECTION, "upgrade").header(UPGRADE, "tides").body(Empty::<Bytes>::new())
            }
        })
    });
    Running::start(server, EngineChoice::Auto)
}

#[test]
fn an_upgraded_connection_that_left_its_thread_gives_errors_and_ends_in_order_when_it_is_dropped() {
    let (to, given) = mpsc::channel();
    let running = giving_away(to);
    let mut stream = running.connect();
    stream.write_all(SWITCH).expect("it reads");
    let mut upgraded = given.recv_timeout(DEADLINE).expect("an upgrade");
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let written = hyper::rt::Write::poll_write(std::pin::Pin::new(&mut upgraded), &mut context, b"hello");
    let std::task::Poll::Ready(Err(error)) = written else { panic!("written from another thread: {written:?}") };
    assert!(error.to_string().contains("I/O thread"), "{error}");
    drop(upgraded);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an orderly end");
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    drop(stream);
    assert_eq!(running.drained().connections(), 1);
}

#[test]
fn an_upgraded_connection_may_outlive_its_server() {
    let (to, given) = mpsc::channel();
    let running = giving_away(to);
    let mut stream = running.connect();
    stream.write_all(SWITCH).expect("it reads");
    let upgraded = given.recv_timeout(DEADLINE).expect("an upgrade");
    running.handle.abort();
    let mut rest = Vec::new();
    // A reset, or the end if the answer was still to be read.
    let _ = stream.read_to_end(&mut rest);
    drop(running);
    drop(upgraded);
}
