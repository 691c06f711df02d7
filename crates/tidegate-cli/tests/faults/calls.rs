//! System calls that fail, on the engine that makes one for each receive, send and accept.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::common::{self, DEADLINE, assert_echoed, pattern};
use crate::needs;
use crate::server::Server;
use crate::talker::Talker;
use crate::tracer::Tracer;

/// Connections that talk while calls fail.
const TALKERS: u64 = 8;

/// What each of them says at a time, at least, in bytes.
const TALK_BYTES: usize = 200_000;

/// How often a call fails in each thread.
const TIMES: u32 = 20;

/// Errors that pass.
const PASSING: [&str; 4] = ["EINTR", "EAGAIN", "ENOMEM", "ENOBUFS"];

/// A test on the engine that this is about.
fn on_readiness(what: &str, test: fn()) {
    if Tracer::is_here(what) {
        needs::engine("readiness", move |_| test());
    }
}

/// One of `every` calls fails, in each thread of the server [`TIMES`] times, while [`TALKERS`] talk; nothing may be lost or doubled.
fn nothing_is_lost_when(calls: &str, errors: &[&str], every: u32) {
    let server = Server::start("readiness", &["echo"], &[], None);
    let mut said = 0;
    for (error, round) in errors.iter().zip(1..) {
        let mut talkers: Vec<Talker> =
            (0..TALKERS).map(|number| Talker::new(common::connect(server.address()), round * 100 + number)).collect();
        let Some(tracer) = Tracer::inject(&server, calls, error, every, TIMES) else { return };
        // Until no more fail.
        let mut injected = 0;
        loop {
            std::thread::scope(|scope| {
                for talker in &mut talkers {
                    scope.spawn(|| assert!(talker.talk(Some(TALK_BYTES)), "{calls} fails with {error}: an end"));
                }
            });
            let before = std::mem::replace(&mut injected, tracer.injected());
            if injected >= TIMES as usize && injected == before {
                break;
            }
        }
        tracer.stop();
        said += talkers.into_iter().map(Talker::finish).sum::<u64>();
    }
    let summary = server.drained();
    assert_eq!((summary.bytes_received, summary.bytes_sent), (said, said), "{summary:?}");
    assert_eq!(summary.closed_for("finished"), summary.connections, "{summary:?}");
}

#[test]
fn a_receive_that_is_interrupted_or_finds_nothing_or_no_memory_is_made_again() {
    on_readiness("receives that fail", || nothing_is_lost_when("recvfrom", &PASSING, 5));
}

#[test]
fn a_send_that_is_interrupted_or_finds_no_room_or_no_memory_is_made_again() {
    on_readiness("sends that fail", || nothing_is_lost_when("sendto,sendmsg", &PASSING, 5));
}

#[test]
fn a_wait_that_is_interrupted_is_made_again() {
    on_readiness("waits that fail", || nothing_is_lost_when("epoll_pwait2", &["EINTR"], 2));
}

/// While one accept in `every` fails with `error`, all who come are served in the end; `pauses`: not before accepting has
/// paused, which the server says.
fn all_are_accepted_when(error: &str, every: u32, pauses: bool) {
    let server = Server::start("readiness", &["echo"], &[], None);
    let Some(tracer) = Tracer::inject(&server, "accept4", error, every, 10) else { return };
    let mut streams: Vec<TcpStream> = Vec::new();
    while tracer.injected() < 10 {
        let stream = common::connect(server.address());
        assert_echoed(&stream, &pattern(streams.len() as u64, 1_000));
        streams.push(stream);
        assert!(streams.len() < 1_000, "{} accepts failed with {error}", tracer.injected());
    }
    tracer.stop();
    streams.push(common::connect(server.address()));
    for stream in &streams {
        assert_echoed(stream, b"still here");
    }
    let served = streams.len() as u64;
    drop(streams);
    assert_eq!(server.logged().contains("accepting fails"), pauses, "{error}: {}", server.logged());
    let summary = server.drained();
    assert_eq!((summary.connections, summary.bytes_sent), (served, (served - 1) * 1_000 + served * 10), "{summary:?}");
}

#[test]
fn accepts_that_fail_for_a_connection_that_is_gone_or_a_signal_go_on_at_once() {
    on_readiness("accepts that fail", || {
        all_are_accepted_when("ECONNABORTED", 2, false);
        all_are_accepted_when("EINTR", 2, false);
        all_are_accepted_when("EPROTO", 2, false);
    });
}

#[test]
fn accepts_that_fail_for_want_of_memory_or_descriptors_go_on_when_there_are_some() {
    on_readiness("accepts that find no memory", || {
        all_are_accepted_when("ENOBUFS", 5, true);
        all_are_accepted_when("ENOMEM", 5, true);
        all_are_accepted_when("EMFILE", 5, true);
    });
}

/// Fails one in `every` of `calls` with `error`; the connections that meet it end for `reason`, each other one is served.
fn connections_end_when(calls: &str, error: &str, every: u32, reason: &str) {
    let server = Server::start("readiness", &["echo"], &[], None);
    let mut stays = Talker::new(common::connect(server.address()), 1);
    assert!(stays.talk(Some(10_000)));
    let Some(tracer) = Tracer::inject(&server, calls, error, every, 5) else { return };
    let mut ended = 0;
    // Five times in each of two threads.
    for number in 0..1_000 {
        let injected = tracer.injected();
        if injected >= 10 {
            break;
        }
        // It may be ended before its connect has looked whether it is made: then that fails.
        let Ok(stream) = TcpStream::connect_timeout(&server.address(), DEADLINE) else {
            ended += 1;
            continue;
        };
        let mut stream = common::with_deadlines(stream);
        let sent = pattern(number, 1_000);
        let mut received = vec![0; 1_000];
        let answered = stream.write_all(&sent).and_then(|()| stream.read_exact(&mut received));
        match answered {
            Ok(()) => assert!(sent == received, "different bytes"),
            Err(_) => ended += 1,
        }
    }
    let injected = tracer.stop();
    assert!(injected >= 10, "{calls} failed {injected} times with {error}");
    // It may have been hit itself.
    if stays.talk(Some(10_000)) {
        stays.finish();
    }
    let summary = server.drained();
    assert_eq!(summary.closed_for(reason), injected as u64, "{ended} clients saw an end: {summary:?}");
}

#[test]
fn a_connection_whose_receive_or_send_fails_for_good_ends_for_that_reason_and_no_other_does() {
    on_readiness("connections that fail", || {
        connections_end_when("recvfrom", "ECONNRESET", 5, "reset");
        connections_end_when("recvfrom", "ETIMEDOUT", 5, "failed");
        connections_end_when("sendto,sendmsg", "EPIPE", 5, "reset");
        connections_end_when("sendto,sendmsg", "EHOSTUNREACH", 5, "failed");
    });
}

#[test]
fn a_connection_that_can_not_be_watched_ends_and_those_before_and_after_it_do_not() {
    on_readiness("watching that fails", || connections_end_when("epoll_ctl", "ENOSPC", 3, "failed"));
}
