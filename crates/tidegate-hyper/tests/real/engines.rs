//! The engines.

use std::convert::Infallible;
use std::io::{Read, Write};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use tidegate::{EngineChoice, Limits, ServerBuilder};
use tidegate_hyper::{Http, ListenHttp, Versions};

use crate::harness::{Running, any_port, ask, builder};

pub async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    Ok(Response::new(Full::new(body)))
}

pub fn server() -> ServerBuilder {
    builder().listen_http(any_port(), Http::new(), |_| service_fn(echo))
}

#[test]
fn requests_are_answered_on_every_engine_with_a_date_and_draining_ends_it() {
    for engine in [EngineChoice::Auto, EngineChoice::Readiness] {
        let running = Running::start(server(), engine);
        let mut streams: Vec<_> = (0..20).map(|_| running.connect()).collect();
        for round in 0..5 {
            for (number, stream) in streams.iter_mut().enumerate() {
                let body = format!("round {round} of {number}");
                let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                let (head, answer) = ask(stream, &request);
                assert!(head.starts_with("http/1.1 200 ok\r\n") && head.contains("\r\ndate: "), "{head}");
                assert_eq!(answer, body);
            }
        }
        running.handle.drain();
        for mut stream in streams {
            assert_eq!(stream.read(&mut [0]).expect("an orderly end"), 0);
        }
        assert_eq!(running.drained().connections(), 20, "{engine:?}");
    }
}

#[test]
fn requests_in_the_backlog_are_answered_when_the_server_drains_on_every_engine() {
    for engine in [EngineChoice::Auto, EngineChoice::Readiness] {
        let limits = Limits { max_connections: 200, accept_rate: Some(1), ..Limits::default() };
        let running = Running::start(server().limits(limits), engine);
        let mut streams: Vec<_> = (0..20).map(|_| running.connect()).collect();
        for stream in &mut streams {
            stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\ntides").expect("it is taken");
        }
        running.handle.drain();
        let mut told = 0;
        for mut stream in streams {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer and an orderly end");
            assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("tides"), "{engine:?}: {answer}");
            told += usize::from(answer.contains("connection: close"));
        }
        // Those that were accepted before, one each second, may have been answered before.
        assert!(told >= 10, "{engine:?}: {told} of 20 were told that the connection ends");
        assert_eq!(running.drained().connections(), 20, "{engine:?}");
    }
}

#[test]
fn what_http_takes_is_in_the_ceiling() {
    let http = Http::new();
    let limits = Limits { max_connections: 1_000, ..Limits::default() };
    let bound = builder()
        .limits(limits)
        .listen_http(any_port(), http.clone(), |_| {
            service_fn(|_| async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::new()))) })
        })
        .bind()
        .expect("a free port and sound limits");
    // On two I/O threads.
    assert_eq!(bound.ceiling().reserved_bytes, 1_000 * http.connection_bytes() + 2 * http.call_bytes());
}

#[test]
fn what_a_connection_takes_is_a_sum_with_the_largest_limits_too_and_larger_ones_are_refused() {
    const MOST: usize = i32::MAX as usize;
    let largest = Http::new()
        .head_bytes(16 << 20)
        .streams(MOST as u32)
        .window_bytes(MOST as u32)
        .stream_send_bytes(MOST)
        .heads_bytes(MOST);
    assert!(largest.connection_bytes() > MOST * MOST, "what waits in all streams is in it");
    assert!(largest.call_bytes() > 16 << 20);
    let refused: [fn(Http) -> Http; 9] = [
        |http| http.head_bytes(Http::HEAD_BYTES_MIN - 1),
        |http| http.head_bytes((16 << 20) + 1),
        |http| http.streams(0),
        |http| http.streams(u32::MAX),
        |http| http.window_bytes(0),
        |http| http.window_bytes(u32::MAX),
        |http| http.stream_send_bytes(0),
        |http| http.stream_send_bytes(usize::MAX),
        |http| http.heads_bytes(usize::MAX),
    ];
    for (number, set) in refused.into_iter().enumerate() {
        assert!(std::panic::catch_unwind(|| set(Http::new()).connection_bytes()).is_err(), "number {number}");
    }
    // One head is always served.
    assert!(Http::new().heads_bytes(0).connection_bytes() > 0);
}

/// It had drifted.
#[test]
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn what_a_connection_takes_by_default_is_what_the_document_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/http.md");
    let document = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    for versions in [Versions::Http1, Versions::Both, Versions::Http2] {
        let bytes = Http::new().versions(versions).connection_bytes();
        let said = format!("{},{:03} bytes | {} MiB", bytes / 1000, bytes % 1000, (bytes * 1000 + (1 << 19)) >> 20);
        let row =
            document.lines().find(|line| line.starts_with('|') && line.contains(&format!("`Versions::{versions:?}`")));
        assert!(
            row.is_some_and(|row| row.contains(&said)),
            "docs/http.md: {versions:?} takes {said}, and it says {row:?}"
        );
    }
}
