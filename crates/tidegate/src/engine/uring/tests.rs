//! The thin path from end to end; the rest is the conformance suite's.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::*;
use crate::engine::SocketOptions;
use crate::memory::{ArenaConfig, Piece};

/// An engine that is started, if io_uring is available.
fn engine(socket_options: SocketOptions) -> Option<UringEngine> {
    let config = EngineConfig {
        sockets: 8,
        arena: ArenaConfig { buffers: 8, buffer_bytes: 4096, owners: 8, lent_max: 2 },
        receive_budget_bytes: 64 * 1024,
        submission_entries: 64,
        completion_entries: 128,
        spin: EngineConfig::SPIN,
        teardown_limit: EngineConfig::TEARDOWN_LIMIT,
        socket_options,
    };
    match prepare(config) {
        Err(SetupError::Unavailable(error)) => {
            eprintln!("skipped: io_uring is not available: {error}");
            None
        }
        prepared => Some(prepared.expect("a ring").start().expect("a started ring")),
    }
}

#[test]
fn outgoing_sockets_have_the_options_that_accepted_ones_inherit() {
    let options = SocketOptions {
        send_buffer_bytes: Some(50_000),
        receive_buffer_bytes: Some(60_000),
        not_sent_low_water_bytes: Some(7_000),
    };
    let Some(mut engine) = engine(options) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let id = engine.connect(listener.local_addr().expect("its address"), None).expect("a place");
    let descriptor = engine.sockets[id.index].descriptor.as_ref().expect("it connects");
    let socket = socket2::SockRef::from(descriptor);
    assert_eq!(socket.send_buffer_size().expect("a socket"), 2 * 50_000, "the kernel doubles it");
    assert_eq!(socket.recv_buffer_size().expect("a socket"), 2 * 60_000, "the kernel doubles it");
    assert_eq!(socket.tcp_notsent_lowat().expect("a TCP socket"), 7_000);
}

/// The thin path from end to end; the rest is the conformance suite's.
#[test]
fn a_message_is_accepted_received_sent_back_and_the_socket_closed() {
    let Some(mut engine) = engine(SocketOptions::default()) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("its address");
    let listener = engine.listen(listener.into());
    engine.accept(listener, 1);
    let peer = std::thread::spawn(move || {
        let mut peer = TcpStream::connect(address).expect("a connection");
        peer.write_all(b"hello").expect("written");
        peer.shutdown(std::net::Shutdown::Write).expect("half-closed");
        let mut echoed = Vec::new();
        peer.read_to_end(&mut echoed).expect("the echo");
        echoed
    });
    let (mut out, mut closed) = (Vec::new(), false);
    while !closed {
        let deadline = engine.now() + Duration::from_secs(10);
        engine.poll(Some(deadline), &mut out).expect("a poll");
        assert!(engine.now() < deadline, "nothing happened for 10 s");
        for completion in out.drain(..) {
            match completion {
                Completion::Accepted { stream, .. } => {
                    let socket = engine.adopt(stream).expect("a place");
                    engine.receive(socket).expect("receiving");
                }
                Completion::Received { socket, buffer } => {
                    let mut gather = Box::<Gather>::default();
                    gather.push(Piece { payload: buffer.into(), charge_bytes: 0, held_bytes: 0 });
                    engine.send(socket, gather).expect("sending");
                }
                Completion::PeerFinished { socket } => engine.close(socket, CloseMode::Orderly).expect("closing"),
                Completion::Closed { .. } => closed = true,
                _ => {}
            }
        }
    }
    assert_eq!(peer.join().expect("the peer ends"), b"hello");
    assert_eq!(engine.arena().outstanding(), 0);
}

#[test]
fn a_source_address_takes_no_port_before_the_connect() {
    let cases = [("127.0.0.1:9", "127.0.0.9"), ("[::1]:9", "::1")];
    for (target, source) in cases {
        let (target, source): (SocketAddr, IpAddr) = (target.parse().expect("valid"), source.parse().expect("valid"));
        if TcpListener::bind((source, 0)).is_err() {
            eprintln!("skipped: {source} can't be used here");
            continue;
        }
        let socket = raw::tcp_socket(&target, Some(source)).expect("a socket");
        let local = raw::local_address(socket.as_raw_fd()).expect("an address");
        assert_eq!(local, SocketAddr::new(source, 0));
    }
}

/// The kernel can't be made to run out of memory here, so what it would report is put in its place.
#[test]
fn a_receive_that_finds_the_system_without_memory_may_be_asked_for_again() {
    let Some(mut engine) = engine(SocketOptions::default()) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let mut peer = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
    let listener = engine.listen(listener.into());
    engine.accept(listener, 1);
    let mut out = Vec::new();
    let mut next = |engine: &mut UringEngine| {
        let deadline = engine.now() + Duration::from_secs(10);
        while out.is_empty() {
            engine.poll(Some(deadline), &mut out).expect("a poll");
            assert!(engine.now() < deadline, "nothing happened for 10 s");
        }
        out.remove(0)
    };
    let Completion::Accepted { stream, .. } = next(&mut engine) else { panic!("not an accept") };
    let socket = engine.adopt(stream).expect("a place");
    for error in [libc::ENOMEM, libc::ENOBUFS] {
        let mut reported = Vec::new();
        let receive = &mut engine.sockets[socket.index].receive;
        (receive.wanted, receive.discard) = (true, error == libc::ENOBUFS);
        engine.receive_ended(socket, Some(error), &mut reported);
        match &reported[..] {
            [Completion::ReceiveFailed { socket: of, error }] => {
                assert_eq!((*of, error.kind()), (socket, io::ErrorKind::OutOfMemory));
            }
            other => panic!("{other:?}"),
        }
        engine.receive(socket).expect("an open socket");
        peer.write_all(b"still here").expect("written");
        match next(&mut engine) {
            Completion::Received { buffer, .. } => assert_eq!(&buffer[..], b"still here"),
            other => panic!("{other:?}"),
        }
        engine.pause_receive(socket).expect("an open socket");
        assert!(matches!(next(&mut engine), Completion::ReceivePaused { .. }));
    }
    engine.discard(socket).expect("an open socket");
    peer.write_all(b"not read").expect("written");
    assert!(matches!(next(&mut engine), Completion::Discarded { bytes: 8, .. }));
    engine.close(socket, CloseMode::Abort).expect("closing");
    assert!(matches!(next(&mut engine), Completion::Closed { .. }));
}

#[test]
fn every_way_to_be_out_of_memory_has_one_name() {
    let kind = |error| reporting::system_error(error).kind();
    assert_eq!((kind(libc::ENOMEM), kind(libc::ENOBUFS)), (io::ErrorKind::OutOfMemory, io::ErrorKind::OutOfMemory));
    assert_eq!(kind(libc::ECONNRESET), io::ErrorKind::ConnectionReset);
}
