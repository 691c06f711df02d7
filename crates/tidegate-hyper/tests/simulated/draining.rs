//! A server that drains finishes the requests that are under way.

use std::convert::Infallible;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use tidegate::Time;
use tidegate::sim::Simulation;
use tidegate_hyper::{ListenHttp, context};

use crate::world::{Answer, Talker, builder, http, listener, text};

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
