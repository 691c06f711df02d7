//! HTTP/1.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, UPGRADE};
use hyper::rt::{Read, ReadBuf};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use tidegate::sim::Simulation;
use tidegate::{CloseReason, Limits, Time};
use tidegate_hyper::{ListenHttp, Versions, context};

use crate::world::{Answer, Seen, Talker, builder, echo, hello, http, listener, talk, text};

const POST: &[u8] = b"POST /tides?high HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello tides";

fn server() -> tidegate::ServerBuilder {
    builder().listen_http(listener(), http(), |_| service_fn(echo))
}

async fn long(_: Request<Incoming>) -> Result<Answer, Infallible> {
    Ok(text(format!("{:60000}end", "begin")))
}

#[test]
fn a_request_is_understood_wherever_it_is_cut() {
    for cut in 0..=POST.len() {
        let pieces = vec![POST[..cut].to_vec(), POST[cut..].to_vec()];
        let seen = talk(cut as u64, server(), Talker::new(pieces, |seen| seen.text().ends_with("tides")));
        let expected = "HTTP/1.1 200 OK\r\ncontent-length: 33\r\n\r\nPOST /tides 11 bytes: hello tides";
        assert_eq!(seen.text(), expected, "cut at {cut}");
    }
    let bytes = POST.iter().map(|&byte| vec![byte]).collect();
    let seen = talk(7, server(), Talker::new(bytes, |seen| seen.text().ends_with("tides")));
    assert_eq!(seen.responses(), 1);
}

#[test]
fn requests_follow_each_other_on_one_connection_and_in_one_packet() {
    let requests: Vec<u8> =
        (0..20).flat_map(|number| format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()).collect();
    let numbered = |text: &str| {
        let places: Vec<_> =
            (0..20).map(|number| text.find(&format!("GET /{number} 0 bytes")).expect("it is there")).collect();
        assert!(places.is_sorted(), "{text}");
    };
    let together = talk(1, server(), Talker::new(vec![requests.clone()], |seen| seen.responses() == 20));
    numbered(&together.text());
    let one_by_one = requests.split_inclusive(|&byte| byte == b'G').map(<[u8]>::to_vec).collect();
    let seen = talk(2, server(), Talker::new(one_by_one, |seen| seen.responses() == 20));
    numbered(&seen.text());
}

#[test]
fn without_keep_alive_and_when_the_client_wants_it_the_connection_ends_after_the_response() {
    let single = builder().listen_http(listener(), http().keep_alive(false), |_| service_fn(hello));
    let seen = talk(1, single, Talker::new(vec![b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()], |_| false));
    assert!(seen.text().contains("connection: close") && seen.text().ends_with("hello"), "{}", seen.text());
    assert_eq!(seen.end.map(|(_, how)| how), Some(Ok(())));
    let close = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_vec();
    let seen = talk(1, server(), Talker::new(vec![close], |_| false));
    assert_eq!((seen.responses(), seen.end.map(|(_, how)| how)), (1, Some(Ok(()))));
}

/// Takes a second, and has then more to say than a send queue holds.
async fn late_and_long(request: Request<Incoming>) -> Result<Answer, Infallible> {
    context().expect("a request is served").sleep(Duration::from_secs(1)).await;
    Ok(text(format!("{} {}end", request.uri().path(), "tide ".repeat(40_000))))
}

#[test]
fn a_client_that_finishes_its_side_is_answered_if_it_is_to_be() {
    for answered in [true, false] {
        let server = builder().listen_http(listener(), http().half_close(answered), |_| service_fn(late_and_long));
        let mut requests = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
        if answered {
            requests.extend_from_slice(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        let (mut talker, seen) = Talker::new(vec![requests], |_| false);
        talker.finishes = true;
        let seen = talk(1, server, (talker, seen));
        let seconds = seen.ended_at().saturating_since(Time::ZERO).as_secs_f64();
        assert_eq!(seen.end.map(|(_, how)| how), Some(Ok(())));
        if answered {
            assert!((2.0..2.5).contains(&seconds), "ended after {seconds} s");
            assert_eq!((seen.responses(), seen.text().matches("end").count()), (2, 2));
            assert!(seen.text().contains("/1 ") && seen.text().contains("/2 "));
        } else {
            assert!(seconds < 0.5, "ended after {seconds} s");
            assert_eq!(seen.responses(), 0);
        }
    }
}

#[test]
fn a_head_must_be_whole_in_time_and_the_time_is_that_of_the_simulation() {
    let server =
        || builder().listen_http(listener(), http().head_timeout(Duration::from_secs(7)), |_| service_fn(hello));
    // One byte a second.
    let slow: Vec<_> = b"GET / HTTP/1.1\r\nHost: slow\r\n\r\n".iter().map(|&byte| vec![byte]).collect();
    let seen = talk(1, server(), Talker::slow(slow, Duration::from_secs(1), |_| false));
    let seconds = seen.ended_at().saturating_since(Time::ZERO).as_secs_f64();
    assert!((7.0..7.5).contains(&seconds), "after {seconds} s");
    assert_eq!(seen.responses(), 0);
    // Each request has the whole time again.
    let requests = (0..5).map(|_| b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()).collect();
    let seen = talk(2, server(), Talker::slow(requests, Duration::from_secs(5), |_| false));
    assert_eq!(seen.responses(), 5);
    let seconds = seen.ended_at().saturating_since(Time::ZERO).as_secs_f64();
    assert!((27.0..27.5).contains(&seconds), "5 s between requests, and 7 s after the last: {seconds} s");
    // What may be a preface is no excuse.
    let seen = talk(3, server(), Talker::new(vec![b"PRI * HT".to_vec()], |_| false));
    let seconds = seen.ended_at().saturating_since(Time::ZERO).as_secs_f64();
    assert!((7.0..7.5).contains(&seconds), "after {seconds} s");
}

/// hyper counts from when it has the connection, which is when the first byte has come: the first head once had twice the time.
#[test]
fn the_first_head_has_its_time_from_the_beginning_and_not_from_its_first_byte() {
    let server = builder().listen_http(listener(), http().head_timeout(Duration::from_secs(7)), |_| service_fn(hello));
    let late = vec![Vec::new(), b"GET / HTTP/1.1\r\n".to_vec()];
    let seen = talk(1, server, Talker::slow(late, Duration::from_secs(5), |_| false));
    let seconds = seen.ended_at().saturating_since(Time::ZERO).as_secs_f64();
    assert!((7.0..7.5).contains(&seconds), "after {seconds} s");
    assert_eq!(seen.written_bytes, 16);
}

#[test]
fn a_head_timeout_of_any_length_serves() {
    for timeout in
        [Duration::MAX, Duration::from_secs(u64::MAX), Duration::from_secs(3600 * 24 * 366), Duration::from_secs(1)]
    {
        let server = builder().listen_http(listener(), http().head_timeout(timeout), |_| service_fn(hello));
        let requests = vec![b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(); 2];
        let seen = talk(1, server, Talker::new(requests, |seen| seen.responses() == 2));
        assert_eq!(seen.responses(), 2, "{timeout:?}: {:?}", seen.end);
    }
}

#[test]
fn a_head_that_is_too_large_is_answered_with_431_and_what_is_no_http_with_400() {
    let mut request = b"GET / HTTP/1.1\r\nHost: a\r\nCookie: ".to_vec();
    request.resize(9 << 10, b'c');
    request.extend_from_slice(b"\r\n\r\n");
    let answer = |head_bytes: usize, request: Vec<u8>| {
        let server = builder().listen_http(listener(), http().head_bytes(head_bytes), |_| service_fn(hello));
        let seen = talk(1, server, Talker::new(vec![request], |seen| seen.text().contains("hello")));
        seen.text().lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(answer(8 << 10, request.clone()), "HTTP/1.1 431 Request Header Fields Too Large");
    assert_eq!(answer(16 << 10, request), "HTTP/1.1 200 OK");
    assert_eq!(answer(8 << 10, b"hello there\r\n\r\n".to_vec()), "HTTP/1.1 400 Bad Request");
    // The preface of HTTP/2 is no request of HTTP/1.
    let server = builder().listen_http(listener(), http().versions(Versions::Http1), |_| service_fn(hello));
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let seen = talk(1, server, Talker::new(vec![preface], |_| false));
    assert_eq!(seen.end.as_ref().map(|(_, how)| *how), Some(Ok(())), "{}", seen.text());
}

#[test]
fn a_service_that_panics_ends_its_connection_and_no_other() {
    async fn fragile(request: Request<Incoming>) -> Result<Answer, Infallible> {
        assert_ne!(request.uri().path(), "/panic", "the service was asked for it");
        Ok(text("well".to_owned()))
    }
    let mut simulation = Simulation::new(5);
    let server = builder().listen_http(listener(), http(), |_| service_fn(fragile));
    let address = simulation.serve(server).expect("sound limits")[0];
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
    let (healthy, seen) = Talker::slow(vec![get("/"), get("/")], Duration::from_secs(1), |seen| seen.responses() == 2);
    let (ill, end) = Talker::new(vec![get("/panic")], |_| false);
    simulation.client(address, Duration::ZERO, healthy);
    simulation.client(address, Duration::from_millis(100), ill);
    let report = simulation.run().expect("no violation");
    assert_eq!(seen.borrow().responses(), 2);
    assert_eq!((end.borrow().bytes.len(), end.borrow().end.is_some()), (0, true));
    let reasons: Vec<_> = report.closed_by_reason().filter(|(_, count)| *count > 0).collect();
    assert_eq!(report.closed(&CloseReason::HandlerPanicked), 1, "{reasons:?}");
}

/// Answers with a body of as many bytes as the path says, or switches to a protocol in which the client speaks first.
async fn large_or_switch(mut request: Request<Incoming>) -> Result<Answer, hyper::http::Error> {
    if let Ok(bytes) = request.uri().path()[1..].parse::<usize>() {
        return Ok(text("l".repeat(bytes)));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let listen = async move {
        let mut upgraded = upgrade.await.expect("an upgrade");
        let mut bytes = [0; 16];
        let read = poll_fn(|context| {
            let mut buffer = ReadBuf::new(&mut bytes);
            Pin::new(&mut upgraded).poll_read(context, buffer.unfilled())
        });
        let _ = read.await;
    };
    context().expect("a request is served").spawn_local(listen).expect("there is room for a task");
    let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    response.header(CONNECTION, "upgrade").header(UPGRADE, "tides").body(Full::default())
}

/// What a full send queue had no room for at the moment of the upgrade once stayed behind until the new protocol wrote.
#[test]
fn an_upgrade_behind_a_large_pipelined_response_is_answered() {
    for kilobytes in (1..400).step_by(3) {
        let requests = format!(
            "GET /{} HTTP/1.1\r\nHost: a\r\n\r\nGET /switch HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: tides\r\n\r\n",
            kilobytes << 10
        );
        let server = builder().listen_http(listener(), http(), |_| service_fn(large_or_switch));
        let has_all = |seen: &Seen| seen.responses() == 2 && seen.bytes.ends_with(b"\r\n\r\n");
        let seen = talk(kilobytes, server, Talker::new(vec![requests.into_bytes()], has_all));
        assert!(seen.text().contains("HTTP/1.1 101"), "{kilobytes} KiB: {:?}", seen.end);
    }
}

#[test]
fn a_response_is_sent_whole_through_a_send_queue_smaller_than_a_message_of_it() {
    let small = Limits {
        max_connections: 10,
        send_queue_bytes: 6 << 10,
        high_mark_bytes: 1 << 10,
        low_mark_bytes: 512,
        receive_buffer_bytes: 4096,
        reply_bytes: 1024,
        ..Limits::default()
    };
    let server = builder().limits(small).listen_http(listener(), http(), |_| service_fn(long));
    let get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    let seen = talk(1, server, Talker::new(vec![get], |seen| seen.text().ends_with("end")));
    assert!(seen.text().ends_with("end"), "{} bytes, and {:?}", seen.bytes.len(), seen.end);
}

#[test]
fn one_seed_is_one_history() {
    let run = |seed| {
        let mut simulation = Simulation::hostile(seed);
        let address = simulation.serve(server()).expect("sound limits")[0];
        for number in 0..10 {
            let request = format!("POST /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\n\r\n{number:3000}");
            let (talker, _) = Talker::new(vec![request.clone().into(), request.into()], |seen| seen.responses() == 2);
            simulation.client(address, Duration::from_millis(number), talker);
        }
        simulation.run().expect("no violation");
        simulation.trace_hash()
    };
    for seed in 0..10 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
