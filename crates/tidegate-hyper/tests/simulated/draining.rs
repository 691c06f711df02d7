//! A server that drains finishes the requests that are under way.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use tidegate::sim::Simulation;
use tidegate::{Limits, Time};
use tidegate_hyper::{ListenHttp, context};

use crate::world::{Answer, Seen, Talker, builder, hello, http, listener, text};

/// Answers after two seconds.
async fn slow(_: Request<Incoming>) -> Result<Answer, Infallible> {
    let context = context().expect("a request is served");
    context.sleep(Duration::from_secs(2)).await;
    Ok(text("done".to_owned()))
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn draining_finishes_the_request_that_is_under_way_and_closes_what_is_idle() {
    let mut simulation = Simulation::new(1);
    let server = builder().listen_http(listener(), http(), |_| service_fn(slow));
    let address = simulation.serve(server).expect("sound limits")[0];
    let (busy, answered) = Talker::slow(vec![GET.to_vec()], Duration::ZERO, |_| false);
    let (idle, closed) = Talker::slow(vec![GET.to_vec()], Duration::ZERO, |_| false);
    let (silent, unheard) = Talker::slow(vec![], Duration::ZERO, |_| false);
    simulation.client(address, Duration::from_secs(4), busy);
    simulation.client(address, Duration::ZERO, idle);
    simulation.client(address, Duration::from_secs(1), silent);
    let handle = simulation.handle();
    simulation.after(Duration::from_secs(5), move |_| handle.drain());
    simulation.run().expect("no violation");
    let seconds = |time: Time| time.saturating_since(Time::ZERO).as_secs_f64();
    assert!(answered.borrow().text().ends_with("done"), "{}", answered.borrow().text());
    assert!(answered.borrow().text().contains("connection: close"), "{}", answered.borrow().text());
    assert!((6.0..6.5).contains(&seconds(answered.borrow().ended_at())));
    assert_eq!(closed.borrow().responses(), 1);
    for idle in [closed, unheard] {
        let at = seconds(idle.borrow().ended_at());
        assert!((5.0..5.5).contains(&at), "{at}");
    }
}

/// Draining begins between connecting and hyper's first look at the request: clients that connect at many moments around it, in many worlds.
#[test]
fn a_request_from_the_backlog_is_answered_while_draining() {
    for seed in 0..40 {
        let mut simulation = Simulation::new(seed);
        let server = builder().listen_http(listener(), http(), |_| service_fn(slow));
        let address = simulation.serve(server).expect("sound limits")[0];
        let clients: Vec<_> = (0..40)
            .map(|number| {
                // Half of the requests come in two parts.
                let cut = if number % 2 == 0 { GET.len() } else { 1 + number % GET.len() };
                let parts =
                    [&GET[..cut], &GET[cut..]].into_iter().filter(|part| !part.is_empty()).map(|part| part.to_vec());
                let (client, seen) = Talker::slow(parts.collect(), Duration::from_micros(300), |_| false);
                simulation.client(address, Duration::from_micros(5_000_000 - 25 * number as u64), client);
                seen
            })
            .collect();
        let handle = simulation.handle();
        simulation.after(Duration::from_secs(5), move |_| handle.drain());
        let report = simulation.run().expect("no violation");
        let answers: Vec<_> = clients.iter().map(|seen| seen.borrow().text()).filter(|text| !text.is_empty()).collect();
        // Who came when nobody listened any more was not accepted.
        assert_eq!(
            answers.len() as u64,
            report.connections(),
            "seed {seed}: {:?}",
            report.closed_by_reason().collect::<Vec<_>>()
        );
        for answer in answers {
            assert!(answer.ends_with("done") && answer.contains("connection: close"), "seed {seed}: {answer}");
        }
    }
}

/// What clients have seen whose connections wait in the backlog until the server drains, after half a second: it accepts one in a second, and the
/// first is somebody else's. Each says its pieces a second apart.
fn from_the_backlog(seed: u64, is_slow: bool, clients: &[&[&[u8]]]) -> Vec<Rc<RefCell<Seen>>> {
    let mut simulation = Simulation::new(seed);
    let limits = Limits { max_connections: 100, accept_rate: Some(1), ..Limits::default() };
    let server = builder().limits(limits);
    let server = if is_slow {
        server.listen_http(listener(), http(), |_| service_fn(slow))
    } else {
        server.listen_http(listener(), http(), |_| service_fn(hello))
    };
    let address = simulation.serve(server).expect("sound limits")[0];
    let (first, _) = Talker::new(vec![], |_| false);
    simulation.client(address, Duration::ZERO, first);
    let mut all = Vec::new();
    for pieces in clients {
        let pieces = pieces.iter().map(|piece| piece.to_vec()).collect();
        let (talker, seen) = Talker::slow(pieces, Duration::from_secs(1), |_| false);
        simulation.client(address, Duration::from_millis(100), talker);
        all.push(seen);
    }
    let handle = simulation.handle();
    simulation.after(Duration::from_millis(500), move |simulation| {
        assert_eq!(simulation.connections(), 1, "the others wait");
        handle.drain();
    });
    simulation.run().expect("no violation");
    all
}

fn ended_after(seen: &RefCell<Seen>) -> f64 {
    seen.borrow().ended_at().saturating_since(Time::ZERO).as_secs_f64()
}

#[test]
fn each_connection_from_the_backlog_has_one_answer_that_says_it_closes() {
    let pipelined = GET.repeat(3);
    for (is_slow, body, took) in [(false, "hello", 0.5), (true, "done", 2.5)] {
        let seen = from_the_backlog(3, is_slow, &[&[GET], &[&pipelined], &[]]);
        for asked in &seen[..2] {
            let text = asked.borrow().text();
            assert!(text.ends_with(body) && text.contains("connection: close"), "{text:?}");
            assert_eq!(asked.borrow().responses(), 1, "{text}");
            assert_eq!(asked.borrow().end.map(|(_, how)| how), Some(Ok(())));
            assert!((took..took + 0.5).contains(&ended_after(asked)), "{}", ended_after(asked));
        }
        let silent = ended_after(&seen[2]);
        assert!((0.5..1.0).contains(&silent), "it says nothing, and ends at once: {silent}");
    }
}

#[test]
fn a_head_that_comes_in_two_parts_while_draining_is_answered() {
    // A few of these may be a preface of HTTP/2, as far as their first parts tell.
    let heads: [&[u8]; 2] = [GET, b"PRINT / HTTP/1.1\r\nHost: a\r\n\r\n"];
    for head in heads {
        for cut in 1..head.len() {
            let seen = from_the_backlog(cut as u64, false, &[&[&head[..cut], &head[cut..]]]);
            let text = seen[0].borrow().text();
            assert!(text.ends_with("hello") && text.contains("connection: close"), "cut at {cut}: {text:?}");
            assert!((1.0..1.6).contains(&ended_after(&seen[0])), "cut at {cut}: {}", ended_after(&seen[0]));
        }
    }
}

#[test]
fn a_request_over_http2_from_the_backlog_is_answered_while_draining() {
    // The preface, empty settings, and a request with its headers from the static table (RFC 7541, appendix A) and a host.
    let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    request.extend_from_slice(b"\0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01a");
    // Acknowledges the settings, and the ping with which the server makes sure that nothing more is on its way.
    let acknowledged = b"\0\0\0\x04\x01\0\0\0\0\0\0\x08\x06\x01\0\0\0\0\x0b\x7b\xa2\xf0\x8b\x9b\xfe\x54";
    for (is_slow, body) in [(false, &b"hello"[..]), (true, b"done")] {
        for cut in [3, 24, 33, 40, request.len()] {
            let mut pieces = vec![&request[..cut], &request[cut..], &acknowledged[..]];
            pieces.retain(|piece| !piece.is_empty());
            let seen = from_the_backlog(cut as u64, is_slow, &[&pieces]);
            let bytes = seen[0].borrow().bytes.clone();
            let has = |wanted: &[u8]| bytes.windows(wanted.len()).any(|window| window == wanted);
            assert!(has(body), "cut at {cut}: {bytes:?}");
            assert!(has(b"\x07\0\0\0\0\0"), "it is told to go away: {bytes:?}");
            assert_eq!(seen[0].borrow().end.map(|(_, how)| how), Some(Ok(())), "cut at {cut}");
            assert!(ended_after(&seen[0]) < 5.0, "before half of the grace is over: {}", ended_after(&seen[0]));
        }
    }
}
