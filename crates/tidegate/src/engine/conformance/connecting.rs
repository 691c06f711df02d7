//! Connecting: E5, and what E20 says of a connect in flight.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::fixture::Fixture;
use super::material::{assert_same_bytes, pattern};
use super::rig::Rig;
use crate::engine::{CloseMode, Completion};

pub(super) fn a_connect_to_a_listener_succeeds_and_carries_bytes_both_ways<F: Fixture>() {
    for six in [false, true] {
        if !six || F::available_six() {
            talk::<F>(six);
        }
    }
}

fn talk<F: Fixture>(six: bool) {
    let mut rig = Rig::<F>::new();
    let (listener, address) = rig.listen_on(six);
    rig.accept(listener, 1);
    let client = rig.connect(address);
    let local = rig.expect_connected(client).expect("somebody listens");
    let (stream, from) = rig.expect_accepted(listener);
    assert_eq!(local, from, "the connecting socket's own address");
    let server = rig.adopt(stream);
    let (question, answer) = (pattern(1, 10_000), pattern(2, 20_000));
    rig.receive(server);
    rig.receive(client);
    rig.send_now(client, question.clone());
    assert_same_bytes(&rig.receive_exactly(server, question.len()), &question, "the question");
    rig.send_now(server, answer.clone());
    assert_same_bytes(&rig.receive_exactly(client, answer.len()), &answer, "the answer");
    rig.close_now(server, CloseMode::Orderly);
    rig.expect_finished(client);
    rig.finish();
}

pub(super) fn a_connect_comes_from_the_source_that_was_asked_for<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (listener, address) = rig.listen();
    let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));
    rig.accept(listener, 3);
    let mut ports = Vec::new();
    for _ in 0..3 {
        let client = rig.connect_from(address, Some(source));
        let local = rig.expect_connected(client).expect("somebody listens");
        let (stream, from) = rig.expect_accepted(listener);
        assert_eq!((local.ip(), from), (source, local));
        rig.adopt(stream);
        ports.push(local.port());
    }
    ports.dedup();
    assert!(ports.len() == 3 && !ports.contains(&0), "each has a port of its own: {ports:?}");
    rig.finish();
}

pub(super) fn a_connect_from_a_source_that_cannot_reach_the_target_fails_and_leaves_a_socket_to_close<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let (_, address) = rig.listen();
    let sockets: Vec<_> = (0..3).map(|_| rig.connect_from(address, Some(IpAddr::V6(Ipv6Addr::LOCALHOST)))).collect();
    for &socket in &sockets {
        rig.expect_connected(socket).expect_err("IPv6 does not reach IPv4");
    }
    for socket in sockets {
        rig.close_now(socket, CloseMode::Abort);
    }
    rig.finish();
}

pub(super) fn a_connect_that_nobody_answers_waits_until_it_is_closed_and_fails_once<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let silent = rig.fixture.silent_address();
    let source = Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9)));
    let sockets: Vec<_> = (0..8).map(|number| rig.connect_from(silent, source.filter(|_| number % 2 == 0))).collect();
    // With no time to wait: in the simulated world everybody answers sooner or later.
    for _ in 0..5 {
        rig.poll(std::time::Duration::ZERO);
    }
    assert_eq!(rig.count(|event| matches!(event, Completion::Connected { .. })), 0);
    for (number, &socket) in sockets.iter().enumerate() {
        rig.close(socket, if number < 4 { CloseMode::Abort } else { CloseMode::Orderly });
    }
    for socket in sockets {
        rig.expect_connected(socket).expect_err("nobody has answered");
        rig.expect_closed(socket);
    }
    rig.expect_quiet();
    rig.finish();
}

pub(super) fn a_connect_to_nobody_is_refused_and_leaves_a_socket_to_close<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let address = rig.fixture.refusing_address();
    let sockets: Vec<_> = (0..5).map(|_| rig.connect(address)).collect();
    for &socket in &sockets {
        let error = rig.expect_connected(socket).expect_err("nobody listens");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
    }
    rig.expect_quiet();
    for (number, &socket) in sockets.iter().enumerate() {
        rig.close_now(socket, if number % 2 == 0 { CloseMode::Orderly } else { CloseMode::Abort });
    }
    rig.finish();
}

pub(super) fn a_close_during_a_connect_delivers_connected_before_closed<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    let silent = rig.fixture.silent_address();
    let (_, listening) = rig.listen();
    for mode in [CloseMode::Orderly, CloseMode::Abort] {
        // In flight for certain, just submitted, not even submitted, and about to succeed.
        for (address, turns) in [(silent, 3), (silent, 1), (silent, 0), (listening, 0), (listening, 1)] {
            let socket = rig.connect(address);
            for _ in 0..turns {
                rig.poll(std::time::Duration::ZERO);
            }
            rig.close(socket, mode);
            rig.expect_closed(socket);
            // Before `Closed`, as the monitor has checked; exactly one, as it has checked as well.
            let event = rig.take(|event| matches!(event, Completion::Connected { .. })).expect("Connected");
            if let (Completion::Connected { result, .. }, true) = (event, address == silent) {
                assert!(result.is_err(), "nobody has answered");
            }
        }
    }
    rig.finish();
}

/// Only where a connect takes a descriptor.
pub(super) fn a_connect_without_a_descriptor_fails_and_leaves_a_socket_to_close<F: Fixture>() {
    if !F::alone("a_connect_without_a_descriptor_fails_and_leaves_a_socket_to_close") {
        return;
    }
    let mut rig = Rig::<F>::short_of_descriptors();
    let (_, address) = rig.listen();
    rig.fixture.refuse_descriptors(true);
    let reported = rig.connect(address);
    let error = rig.expect_connected(reported).expect_err("no descriptor");
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
    // Closed before the failure was reported, and another in its place before the close was.
    let unreported = rig.connect(address);
    rig.close(unreported, CloseMode::Orderly);
    rig.close(reported, CloseMode::Orderly);
    let next = rig.connect(address);
    assert!(next != reported && next != unreported);
    assert!(rig.expect_connected(unreported).is_err());
    rig.expect_closed(unreported);
    rig.expect_closed(reported);
    rig.fixture.refuse_descriptors(false);
    assert!(rig.expect_connected(next).is_err());
    rig.finish();
}
