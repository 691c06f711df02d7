//! HTTP/2, with hyper's own client in the same world.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::service::service_fn;
use hyper::{Request, StatusCode, Version};
use tidegate::sim::Simulation;
use tidegate::{Client, ServerBuilder, Target, task};
use tidegate_hyper::{Executor, Io, ListenHttp, context};

use crate::world::{Answer, Stays, Talker, builder, echo, http, listener, text};

/// Lets `act` have a client of HTTP/2 in a world with `server`.
fn with_client<A, F>(seed: u64, server: ServerBuilder, drain_after: Option<Duration>, act: A)
where
    A: Fn(SendRequest<Full<Bytes>>, task::Context) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + 'static,
{
    let act = Arc::new(act);
    let done = Arc::new(AtomicBool::new(false));
    let is_done = Arc::clone(&done);
    let (server, connector) = server.client_async(Client::tcp(), move |connection| {
        let (act, done) = (Arc::clone(&act), Arc::clone(&done));
        async move {
            let context = connection.context();
            let (requests, connection) =
                handshake(Executor::new(&context), Io::new(connection)).await.map_err(task::Error::other)?;
            let driver = context.spawn_local(connection)?;
            act(requests, context).await;
            done.store(true, Ordering::Relaxed);
            let _ = driver.await;
            Ok(())
        }
    });
    let mut simulation = Simulation::new(seed);
    let address = simulation.serve(server).expect("sound limits")[0];
    connector.connect(Target::new(address)).expect("there is room");
    // Its own head never comes.
    simulation.client(address, Duration::ZERO, Stays(move || is_done.load(Ordering::Relaxed)));
    if let Some(after) = drain_after {
        let handle = simulation.handle();
        simulation.after(after, move |_| handle.drain());
    }
    simulation.run().expect("no violation");
}

fn post(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let uri = format!("http://a{path}");
    Request::post(uri).version(Version::HTTP_2).body(Full::new(body.into())).expect("a request")
}

async fn body(answer: hyper::Response<Incoming>) -> String {
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

#[test]
fn requests_are_served_on_one_connection_and_large_bodies_go_through_small_windows() {
    let server = builder().listen_http(listener(), http(), |_| service_fn(echo));
    with_client(1, server, None, |mut requests, _| async move {
        for number in 0..3 {
            let answer = requests.send_request(post(&format!("/{number}"), "tides")).await.expect("an answer");
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(body(answer).await, format!("POST /{number} 5 bytes: tides"));
        }
        let large = "x".repeat(1 << 20);
        let answer = requests.send_request(post("/", large.clone())).await.expect("an answer");
        assert_eq!(body(answer).await, format!("POST / 1048576 bytes: {large}"));
    });
}

/// Answers after a second.
async fn slow(_: Request<Incoming>) -> Result<Answer, std::convert::Infallible> {
    let context = context().expect("a request is served");
    context.sleep(Duration::from_secs(1)).await;
    Ok(text("done".to_owned()))
}

#[test]
fn requests_are_served_at_the_same_time_up_to_the_limit_of_streams() {
    let server = builder().listen_http(listener(), http().streams(4), |_| service_fn(slow));
    with_client(2, server, None, |mut requests, context| async move {
        // The first answer has the settings of the server in front of it.
        requests.send_request(post("/", "")).await.expect("an answer");
        let before = context.now();
        let answers: Vec<_> = (0..8).map(|_| requests.send_request(post("/", ""))).collect();
        for answer in answers {
            assert_eq!(body(answer.await.expect("an answer")).await, "done");
        }
        let seconds = context.now().saturating_since(before).as_secs_f64();
        assert!((2.0..2.9).contains(&seconds), "eight requests, four at a time: {seconds} s");
    });
}

#[test]
fn what_is_too_much_for_the_heads_is_refused_and_the_rest_is_served() {
    let server = builder().listen_http(listener(), http().heads_bytes(8_000), |_| service_fn(slow));
    with_client(3, server, None, |mut requests, _| async move {
        let mut answers = Vec::new();
        for _ in 0..3 {
            let mut request = post("/", "");
            for number in 0..20 {
                let name = hyper::header::HeaderName::from_bytes(format!("x-{number}").as_bytes()).expect("a name");
                request.headers_mut().insert(name, hyper::header::HeaderValue::from_static("y"));
            }
            answers.push(requests.send_request(request));
        }
        let mut outcomes = Vec::new();
        for answer in answers {
            outcomes.push(answer.await.map(|answer| answer.status()).map_err(|error| error.to_string()));
        }
        assert_eq!(outcomes[0], Ok(StatusCode::OK));
        assert!(outcomes.iter().any(Result::is_err), "{outcomes:?}");
        // There is room again.
        assert!(requests.send_request(post("/", "")).await.is_ok());
    });
}

#[test]
fn a_service_that_panics_ends_its_connection() {
    let server = builder().listen_http(listener(), http(), |_| {
        service_fn(|_: Request<Incoming>| async {
            if context().is_some() {
                panic!("the service was asked for it");
            }
            Ok::<Answer, std::convert::Infallible>(text(String::new()))
        })
    });
    with_client(4, server, None, |mut requests, _| async move {
        assert!(requests.send_request(post("/", "")).await.is_err());
    });
}

#[test]
fn draining_lets_a_request_be_finished_that_is_under_way() {
    let server = builder().listen_http(listener(), http(), |_| service_fn(slow));
    with_client(5, server, Some(Duration::from_millis(500)), |mut requests, context| async move {
        let answer = requests.send_request(post("/", "")).await.expect("an answer");
        assert_eq!(body(answer).await, "done");
        assert!(context.is_draining());
        assert!(requests.send_request(post("/", "")).await.is_err(), "nothing new is begun");
    });
}

#[test]
fn a_preface_is_recognized_wherever_it_is_cut() {
    // With empty settings, and a ping.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x08\x06\0\0\0\0\0tidegate";
    for cut in 0..preface.len() {
        let pieces = vec![preface[..cut].to_vec(), preface[cut..].to_vec()];
        let server = builder().listen_http(listener(), http(), |_| service_fn(echo));
        // The ping comes back.
        let talker = Talker::new(pieces, |seen| seen.bytes.ends_with(b"tidegate"));
        let seen = crate::world::talk(cut as u64, server, talker);
        assert_eq!(seen.bytes[3], 4, "settings come first; cut at {cut}");
    }
}

#[test]
fn in_a_hostile_world_every_request_has_an_outcome_and_one_seed_is_one_history() {
    let run = |seed| {
        let server = builder().listen_http(listener(), http().streams(4), |_| service_fn(echo));
        let (server, connector) = server.client_async(Client::tcp(), |connection| async move {
            let context = connection.context();
            let (mut requests, connection) =
                handshake(Executor::new(&context), Io::new(connection)).await.map_err(task::Error::other)?;
            context.spawn_local(connection)?;
            let answers: Vec<_> = (0..8).map(|_| requests.send_request(post("/", "tide".repeat(20_000)))).collect();
            for answer in answers {
                if let Ok(answer) = answer.await {
                    // Whole, or not at all.
                    let whole = answer.into_body().collect().await.map(|body| body.to_bytes().len());
                    assert!(
                        whole.is_err() || whole.is_ok_and(|length| length == "POST / 80000 bytes: ".len() + 80_000)
                    );
                }
            }
            Ok(())
        });
        let mut simulation = Simulation::hostile(seed);
        let address = simulation.serve(server).expect("sound limits")[0];
        for _ in 0..3 {
            connector.connect(Target::new(address)).expect("there is room");
        }
        let (watch, _) = Talker::slow(vec![], Duration::ZERO, |_| false);
        simulation.client(address, Duration::ZERO, watch);
        simulation.run().expect("no violation");
        simulation.trace_hash()
    };
    for seed in 0..4 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
