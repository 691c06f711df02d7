//! The traps of edge-triggered readiness; what the engine promises is the conformance suite's.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use super::*;
use crate::engine::SocketOptions;
use crate::memory::{ArenaConfig, Buffer, Piece};

type Event = Completion<ReadinessStream>;

const PATIENCE: Duration = Duration::from_secs(10);
const BUFFER_BYTES: usize = 4096;

/// An engine with a listener on its side and one for the peers.
struct Bench {
    engine: ReadinessEngine,
    home: TcpListener,
    events: Vec<Event>,
}

impl Bench {
    /// An engine of `sockets` sockets that may get `budget_bytes` a poll each, with the smallest batches.
    fn new(sockets: u32, budget_bytes: usize) -> Self {
        let config = EngineConfig {
            sockets,
            arena: ArenaConfig { buffers: 64, buffer_bytes: BUFFER_BYTES as u32, owners: sockets, lent_max: 0 },
            receive_budget_bytes: budget_bytes,
            submission_entries: 16,
            completion_entries: 16,
            spin: Duration::ZERO,
            teardown_limit: Duration::ZERO,
            socket_options: SocketOptions::default(),
        };
        let engine = prepare(config).expect("a selector").start().expect("an engine");
        Self { engine, home: TcpListener::bind("127.0.0.1:0").expect("a free port"), events: Vec::new() }
    }

    /// A connection: the engine's socket and its peer, which doesn't block.
    fn pair(&mut self) -> (SocketId, TcpStream) {
        let address = self.home.local_addr().expect("its address");
        let peer = TcpStream::connect(address).expect("the backlog has room");
        peer.set_nonblocking(true).expect("a socket");
        peer.set_nodelay(true).expect("a socket");
        let (stream, _) = self.home.accept().expect("a connection");
        (self.engine.adopt(stream.into()).expect("a place"), peer)
    }

    /// One poll that waits hardly at all. Returns how much has come.
    fn turn(&mut self) -> usize {
        let before = self.events.len();
        let deadline = self.engine.now() + Duration::from_millis(1);
        self.engine.poll(Some(deadline), &mut self.events).expect("the engine works");
        self.events.len() - before
    }

    /// Polls until `done`.
    #[track_caller]
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let begin = Instant::now();
        while !done(self) {
            assert!(begin.elapsed() < PATIENCE, "{what} doesn't come: {:?}", self.events);
            self.turn();
        }
    }

    /// Takes the bytes that have come for `socket`; the buffers go home.
    fn received(&mut self, socket: SocketId) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.events.retain(|event| match event {
            Event::Received { socket: of, buffer } if *of == socket => {
                bytes.extend_from_slice(buffer);
                false
            }
            _ => true,
        });
        bytes
    }

    #[track_caller]
    fn expect(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        let mut found = None;
        self.until(what, |bench| {
            found = bench.events.iter().position(&wanted).map(|position| bench.events.remove(position));
            found.is_some()
        });
        found.expect("just found")
    }

    #[track_caller]
    fn expect_bytes(&mut self, socket: SocketId, wanted: &[u8]) {
        let mut got = Vec::new();
        self.until("all bytes", |bench| {
            got.extend(bench.received(socket));
            got.len() >= wanted.len()
        });
        assert!(got == wanted, "{} bytes, and not those that were sent", got.len());
    }

    /// Nothing comes in some polls.
    #[track_caller]
    fn expect_quiet(&mut self) {
        for _ in 0..10 {
            self.turn();
        }
        assert!(self.events.is_empty(), "{:?}", self.events);
    }

    fn socket(&mut self, id: SocketId) -> &mut Socket {
        self.engine.socket(id).expect("a live socket")
    }
}

fn gather_of(bytes: &[u8]) -> Box<Gather> {
    let mut gather = Box::<Gather>::default();
    gather.push(Piece { payload: bytes.to_vec().into(), charge_bytes: 0, held_bytes: 0 });
    gather
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|number| (number * 31 / 7) as u8).collect()
}

fn is_end(event: &Event) -> bool {
    matches!(event, Event::PeerFinished { .. } | Event::ReceiveFailed { .. })
}

/// The change was told once, before the budget ended, and is not told again.
#[test]
fn what_a_budget_has_left_is_fetched_without_being_told_again() {
    let mut bench = Bench::new(4, BUFFER_BYTES);
    let (socket, mut peer) = bench.pair();
    let bytes = pattern(15 * BUFFER_BYTES + 17);
    assert_eq!(peer.write(&bytes).expect("there is room"), bytes.len());
    bench.engine.receive(socket).expect("a live socket");
    bench.expect_bytes(socket, &bytes);
    bench.expect_quiet();
}

/// A pause keeps what was told, for the receive that follows it.
#[test]
fn what_was_told_during_a_pause_is_fetched_after_it() {
    let mut bench = Bench::new(4, BUFFER_BYTES);
    let (socket, mut peer) = bench.pair();
    bench.expect_quiet();
    peer.write_all(b"early").expect("there is room");
    bench.expect_quiet();
    bench.engine.receive(socket).expect("a live socket");
    bench.expect_bytes(socket, b"early");
}

/// After a receive that fills its buffer there may be more or not; after one that falls short there is not.
#[test]
fn messages_around_the_size_of_a_buffer_arrive_each_by_itself() {
    let mut bench = Bench::new(4, 16 * BUFFER_BYTES);
    let (socket, mut peer) = bench.pair();
    bench.engine.receive(socket).expect("a live socket");
    for length in [BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1, 2 * BUFFER_BYTES, 1].repeat(20) {
        let bytes = pattern(length);
        peer.write_all(&bytes).expect("there is room");
        bench.expect_bytes(socket, &bytes);
    }
    bench.expect_quiet();
    assert_eq!(bench.engine.arena().free(), 64, "a receive that brought nothing has kept its buffer");
}

/// Data and what follows it are told at once: the end must not wait for another change, which never comes.
#[test]
fn an_end_that_was_told_together_with_data_is_seen() {
    for reset in [false, true] {
        let mut bench = Bench::new(4, 16 * BUFFER_BYTES);
        let (socket, mut peer) = bench.pair();
        peer.write_all(b"last words").expect("there is room");
        if reset {
            socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("a socket");
            drop(peer);
        } else {
            peer.shutdown(Shutdown::Write).expect("connected");
        }
        bench.engine.receive(socket).expect("a live socket");
        let end = bench.expect("the end", is_end);
        if reset {
            assert!(matches!(end, Event::ReceiveFailed { .. }), "{end:?}");
        } else {
            assert!(matches!(end, Event::PeerFinished { .. }), "{end:?}");
            assert_eq!(bench.received(socket), b"last words");
        }
        bench.events.clear();
        bench.expect_quiet();
    }
}

/// The same when the end comes while the receive is paused, and when it comes alone.
#[test]
fn an_end_is_seen_whenever_it_comes() {
    let mut bench = Bench::new(8, 16 * BUFFER_BYTES);
    for paused in [false, true] {
        for length in [0, 10, BUFFER_BYTES, 3 * BUFFER_BYTES] {
            let (socket, mut peer) = bench.pair();
            if !paused {
                bench.engine.receive(socket).expect("a live socket");
            }
            bench.turn();
            let bytes = pattern(length);
            peer.write_all(&bytes).expect("there is room");
            bench.turn();
            peer.shutdown(Shutdown::Write).expect("connected");
            bench.turn();
            bench.engine.receive(socket).expect("a live socket");
            bench.expect("the end", is_end);
            assert!(bench.received(socket) == bytes);
            bench.engine.close(socket, CloseMode::Orderly).expect("a live socket");
            bench.expect("the close", |event| matches!(event, Event::Closed { .. }));
        }
    }
}

/// A receive stops short at urgent data although more is there.
#[test]
fn what_lies_behind_urgent_data_is_fetched() {
    let mut bench = Bench::new(4, 16 * BUFFER_BYTES);
    let (socket, mut peer) = bench.pair();
    for early in [false, true] {
        if !early {
            bench.engine.receive(socket).expect("a live socket");
        }
        peer.write_all(b"before").expect("there is room");
        socket2::SockRef::from(&peer).send_out_of_band(b"!").expect("there is room");
        peer.write_all(b"behind").expect("there is room");
        bench.engine.receive(socket).expect("a live socket");
        bench.expect_bytes(socket, b"beforebehind");
        bench.engine.pause_receive(socket).expect("a live socket");
        bench.expect("the pause", |event| matches!(event, Event::ReceivePaused { .. }));
        assert!(bench.events.is_empty(), "{:?}", bench.events);
    }
}

/// Told of data and room where there is neither.
#[test]
fn a_false_alarm_changes_nothing() {
    let mut bench = Bench::new(4, 16 * BUFFER_BYTES);
    let (socket, mut peer) = bench.pair();
    bench.engine.receive(socket).expect("a live socket");
    bench.expect_quiet();
    for to_the_end in [false, true] {
        let key = Key::of_socket(socket);
        bench.engine.events.push(selector::Event { key, readable: true, writable: true, to_the_end });
        bench.engine.handle_events(&mut bench.events);
        assert!(bench.events.is_empty() && bench.engine.has_more.is_empty(), "{:?}", bench.events);
        assert!(!bench.socket(socket).ready.readable, "believed after a call has found nothing");
        assert_eq!(bench.engine.arena().free(), 64, "a buffer is held for nothing");
    }
    bench.expect_quiet();
    // A send that waits for room, told of room where there is none. There may be some, less than the system finds worth telling.
    let key = Key::of_socket(socket);
    let block = vec![7; 32 << 20];
    bench.engine.send(socket, gather_of(&block)).expect("a live socket");
    let mut idle = 0;
    bench.until("a full socket buffer", |bench| {
        idle = if bench.socket(socket).send_waits { idle + 1 } else { 0 };
        bench.engine.events.push(selector::Event { key, readable: false, writable: true, to_the_end: false });
        bench.engine.handle_events(&mut bench.events);
        while let Some(Event::Sent { mut gather, result, .. }) = bench.events.pop() {
            idle = 0;
            gather.advance(result.expect("the peer is there"), drop);
            bench.engine.send(socket, gather).expect("a live socket");
        }
        idle == 20
    });
    assert!(bench.socket(socket).send_waits && !bench.socket(socket).ready.writable);
    // And room that is there is told.
    let mut sink = vec![0; 1 << 20];
    bench.until("room", |bench| {
        while peer.read(&mut sink).is_ok_and(|count| count > 0) {}
        bench.events.iter().any(|event| matches!(event, Event::Sent { .. }))
    });
}

/// Room is told once, when there is some; a send that falls short relies on it.
#[test]
fn sends_never_get_stuck_whether_they_fall_short_or_not() {
    let mut bench = Bench::new(4, 16 * BUFFER_BYTES);
    let (socket, mut peer) = bench.pair();
    // Smaller than one send.
    let descriptor = bench.socket(socket).descriptor.as_ref().expect("a descriptor");
    socket2::SockRef::from(descriptor).set_send_buffer_size(16 * 1024).expect("a socket");
    let bytes = pattern(4 << 20);
    let (mut short, mut waited) = (0, 0);
    let (mut got, mut sink) = (Vec::new(), vec![0; 100_000]);
    let mut reading = 1;
    bench.engine.send(socket, gather_of(&bytes)).expect("a live socket");
    bench.until("everything to be sent", |bench| {
        // Now a little, now all that is there.
        reading = reading * 3 % 100_003;
        while let Ok(count @ 1..) = peer.read(&mut sink[..reading.clamp(1, 100_000)]) {
            got.extend_from_slice(&sink[..count]);
            if reading % 2 == 0 {
                break;
            }
        }
        waited += u32::from(bench.socket(socket).send_waits);
        if let Some(Event::Sent { mut gather, result, .. }) = bench.events.pop() {
            let sent = result.expect("the peer is there");
            short += u32::from(sent < Gather::SLICE_BYTES.min(gather.remaining()));
            gather.advance(sent, drop);
            if !gather.is_empty() {
                bench.engine.send(socket, gather).expect("a live socket");
            }
        }
        got.len() == bytes.len()
    });
    assert!(got == bytes);
    assert!(short > 0 && waited > 0, "{short} sends fell short, {waited} waited: this would prove nothing");
}

/// Many more sockets than one wait can tell of, one of them never empty.
#[test]
fn hundreds_of_sockets_get_their_turn_through_batches_of_sixteen() {
    const SOCKETS: usize = 300;
    let mut bench = Bench::new(SOCKETS as u32 + 1, 4 * BUFFER_BYTES);
    let (flooded, mut flooding) = bench.pair();
    let mut pairs: Vec<_> = (0..SOCKETS).map(|_| bench.pair()).collect();
    bench.engine.receive(flooded).expect("a live socket");
    for (socket, _) in &pairs {
        bench.engine.receive(*socket).expect("a live socket");
    }
    bench.expect_quiet();
    let block = vec![1; 1 << 20];
    for round in 0..3_u8 {
        for (_, peer) in &mut pairs {
            peer.write_all(&[round; 100]).expect("there is room");
        }
        let mut missing: HashMap<SocketId, usize> = pairs.iter().map(|(socket, _)| (*socket, 100)).collect();
        let mut turns = 0;
        bench.until("a turn for each", |bench| {
            turns += 1;
            while flooding.write(&block).is_ok() {}
            for event in bench.events.drain(..) {
                let Event::Received { socket, buffer } = event else { panic!("{event:?}") };
                if socket != flooded {
                    let left = missing.get_mut(&socket).expect("each gets its own, once");
                    *left -= buffer.len();
                    if *left == 0 {
                        missing.remove(&socket);
                    }
                }
            }
            missing.is_empty()
        });
        // Sixteen a poll, and one poll in so many for the flood.
        assert!(turns < 2 * SOCKETS / 16 + 10, "{turns} polls for {SOCKETS} sockets");
    }
}

#[test]
fn a_socket_that_is_closed_with_data_left_is_forgotten_and_so_is_its_successor_not_served_in_its_place() {
    let mut bench = Bench::new(1, BUFFER_BYTES);
    for mode in [CloseMode::Orderly, CloseMode::Abort] {
        let (socket, mut peer) = bench.pair();
        peer.write_all(&pattern(10 * BUFFER_BYTES)).expect("there is room");
        bench.engine.receive(socket).expect("a live socket");
        bench.until("the first buffer", |bench| !bench.received(socket).is_empty());
        assert!(bench.engine.has_more.contains(&socket), "it has a share left");
        bench.engine.close(socket, mode).expect("a live socket");
        let turns: usize = (0..3).map(|_| bench.turn()).sum();
        assert!(turns == 1 && matches!(bench.events.pop(), Some(Event::Closed { .. })));
        assert!(bench.engine.has_more.is_empty(), "the list keeps who is gone");
        let (next, mut peer) = bench.pair();
        assert_eq!(next.index, socket.index);
        bench.engine.receive(next).expect("a live socket");
        bench.expect_quiet();
        peer.write_all(b"mine").expect("there is room");
        bench.expect_bytes(next, b"mine");
        bench.engine.close(next, mode).expect("a live socket");
        bench.expect("the close", |event| matches!(event, Event::Closed { .. }));
        bench.turn();
    }
}

/// The place has another user when the event comes; and, since a copy of the descriptor is still open, events keep coming.
#[test]
fn an_event_of_the_last_user_of_a_place_is_nobodys() {
    let mut bench = Bench::new(1, BUFFER_BYTES);
    let (old, mut old_peer) = bench.pair();
    bench.engine.receive(old).expect("a live socket");
    bench.expect_quiet();
    let copy = bench.socket(old).descriptor.as_ref().expect("a descriptor").try_clone().expect("a copy");
    bench.engine.close(old, CloseMode::Orderly).expect("a live socket");
    bench.expect("the close", |event| matches!(event, Event::Closed { .. }));
    bench.turn();
    let (new, mut peer) = bench.pair();
    assert_eq!((new.index, new.generation), (old.index, old.generation + 1));
    bench.engine.receive(new).expect("a live socket");
    bench.expect_quiet();
    old_peer.write_all(b"for somebody else").expect("there is room");
    bench.expect_quiet();
    let key = Key::of_socket(old);
    bench.engine.events.push(selector::Event { key, readable: true, writable: true, to_the_end: true });
    bench.engine.handle_events(&mut bench.events);
    let ready = bench.socket(new).ready;
    assert!(!ready.readable && !ready.to_the_end && bench.events.is_empty(), "{ready:?}");
    peer.write_all(b"mine").expect("there is room");
    bench.expect_bytes(new, b"mine");
    drop(copy);
}

/// The system tells of a reset once. If a send was told, the receive must not take what is left for the end of the stream.
#[test]
fn a_reset_that_a_send_was_told_of_is_no_end_of_the_stream() {
    let mut bench = Bench::new(4, BUFFER_BYTES);
    let (socket, peer) = bench.pair();
    bench.expect_quiet();
    socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(peer);
    bench.expect_quiet();
    bench.engine.send(socket, gather_of(b"in vain")).expect("a live socket");
    let sent = bench.expect("the send", |event| matches!(event, Event::Sent { .. }));
    assert!(matches!(&sent, Event::Sent { result: Err(_), .. }), "{sent:?}");
    bench.engine.receive(socket).expect("a live socket");
    let end = bench.expect("the end", is_end);
    assert!(matches!(&end, Event::ReceiveFailed { .. }), "{end:?}");
}

/// A backlog is told of once, whatever the credit at that time, and however many connections there are.
#[test]
fn a_backlog_is_emptied_without_being_told_again() {
    let mut bench = Bench::new(1, BUFFER_BYTES);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address");
    let listener = bench.engine.listen(listener.into());
    let peers: Vec<_> = (0..100).map(|_| TcpStream::connect(address).expect("the backlog has room")).collect();
    bench.expect_quiet();
    for credit in [1, 70, 29] {
        bench.engine.accept(listener, credit);
        bench.until("as many as there is credit for", |bench| bench.events.len() == credit as usize);
        for _ in 0..5 {
            bench.turn();
        }
        assert_eq!(bench.events.len(), credit as usize);
        assert!(bench.events.drain(..).all(|event| matches!(event, Event::Accepted { .. })));
    }
    // Empty, with credit left: the next one is a change again.
    bench.engine.accept(listener, 5);
    bench.expect_quiet();
    let _late = TcpStream::connect(address).expect("it listens");
    bench.expect("the late one", |event| matches!(event, Event::Accepted { .. }));
    drop(peers);
}

/// A descriptor that no selector takes.
fn unwatchable() -> OwnedFd {
    let file = std::fs::File::open("/etc/passwd").or_else(|_| std::fs::File::open("/dev/null")).expect("a file");
    OwnedFd::from(file)
}

/// What can't be watched is no connection that hangs for ever.
#[test]
fn a_descriptor_that_can_not_be_watched_fails_its_receive() {
    let mut bench = Bench::new(2, BUFFER_BYTES);
    let stream = ReadinessStream::from(TcpStream::from(unwatchable()));
    let socket = bench.engine.adopt(stream).expect("a place");
    bench.engine.receive(socket).expect("a live socket");
    bench.expect("the failure", |event| matches!(event, Event::ReceiveFailed { .. }));
    bench.engine.close(socket, CloseMode::Orderly).expect("a live socket");
    bench.expect("the close", |event| matches!(event, Event::Closed { .. }));
}

/// It was shut down because it can't be watched. A send that then found it shut was taken for a reset by the peer.
#[test]
fn a_send_on_a_descriptor_that_can_not_be_watched_fails_for_that_reason() {
    let mut bench = Bench::new(2, BUFFER_BYTES);
    let stream = ReadinessStream::from(TcpStream::from(unwatchable()));
    let socket = bench.engine.adopt(stream).expect("a place");
    bench.engine.send(socket, gather_of(b"never")).expect("a live socket");
    let event = bench.expect("the failure", |event| matches!(event, Event::Sent { .. }));
    let Event::Sent { result: Err(error), .. } = event else { panic!("{event:?}") };
    assert_eq!(error.raw_os_error(), Some(libc::EPERM), "what the selector said");
}

/// A listener that couldn't be watched at first was not tried again: nobody was ever accepted.
#[test]
fn a_listener_that_can_not_be_watched_fails_an_accept_and_is_tried_again_when_more_are_asked_for() {
    let mut bench = Bench::new(2, BUFFER_BYTES);
    let descriptor = unwatchable();
    let number = descriptor.as_raw_fd();
    let listener = bench.engine.listen(TcpListener::from(descriptor).into());
    for credit in [3, 0] {
        bench.engine.accept(listener, credit);
        bench.expect("the failure", |event| matches!(event, Event::AcceptFailed { .. }));
        bench.expect_quiet();
    }
    // What was in the way is gone: behind the number there is a listener now.
    let address = bench.home.local_addr().expect("its address");
    // SAFETY: takes no pointers; the descriptor that is replaced is the engine's, which goes by its number only.
    let replaced = unsafe { libc::dup2(bench.home.as_raw_fd(), number) };
    assert_eq!(replaced, number);
    bench.engine.accept(listener, 0);
    let _peer = TcpStream::connect(address).expect("it listens");
    bench.expect("the one credit that is left", |event| matches!(event, Event::Accepted { .. }));
}

/// A connect that fails is told once, and the socket that it leaves is not watched.
#[test]
fn a_connect_that_fails_at_once_leaves_nothing_to_watch() {
    let mut bench = Bench::new(2, BUFFER_BYTES);
    // An address that no connection can go to.
    let nowhere = SocketAddr::from(([255, 255, 255, 255], 9));
    let socket = bench.engine.connect(nowhere, None).expect("a place");
    let event = bench.expect("the failure", |event| matches!(event, Event::Connected { .. }));
    assert!(matches!(&event, Event::Connected { result: Err(_), .. }), "{event:?}");
    assert!(!bench.socket(socket).registered);
    bench.expect_quiet();
    bench.engine.close(socket, CloseMode::Abort).expect("a live socket");
    bench.expect("the close", |event| matches!(event, Event::Closed { .. }));
}

/// A poll that has sends to report asks the selector all the same.
#[test]
fn a_stream_of_sends_that_never_wait_leaves_room_for_what_others_receive() {
    let mut bench = Bench::new(2, BUFFER_BYTES);
    let (sending, mut sink) = bench.pair();
    let (receiving, mut peer) = bench.pair();
    bench.engine.receive(receiving).expect("a live socket");
    bench.expect_quiet();
    peer.write_all(b"now").expect("there is room");
    let mut bytes = [0; 64];
    for _ in 0..4 {
        bench.engine.send(sending, gather_of(b"tick")).expect("a live socket");
        bench.turn();
        bench.events.retain(|event| !matches!(event, Event::Sent { .. }));
        let _ = sink.read(&mut bytes);
    }
    assert_eq!(bench.received(receiving), b"now", "four polls, and none has asked");
}

/// Holding on to buffers leaves others waiting, each with its place.
#[test]
fn one_that_has_more_goes_back_to_the_end_of_the_line() {
    let mut bench = Bench::new(8, 16 * BUFFER_BYTES);
    let (greedy, mut flood) = bench.pair();
    flood.write_all(&pattern(63 * BUFFER_BYTES)).expect("there is room");
    bench.engine.receive(greedy).expect("a live socket");
    let mut held: Vec<Buffer> = Vec::new();
    let hold = |bench: &mut Bench, held: &mut Vec<Buffer>| {
        for event in bench.events.drain(..) {
            if let Event::Received { buffer, .. } = event {
                held.push(buffer);
            }
        }
    };
    bench.until("most buffers to be held", |bench| {
        hold(bench, &mut held);
        held.len() >= 63
    });
    let _ = flood.write(&pattern(8 * BUFFER_BYTES)).expect("there is room");
    bench.until("all buffers to be held", |bench| {
        hold(bench, &mut held);
        held.len() == 64
    });
    let (modest, mut peer) = bench.pair();
    peer.write_all(b"one").expect("there is room");
    bench.engine.receive(modest).expect("a live socket");
    bench.until("both in line", |bench| bench.engine.counters().starving == 2);
    // Two buffers come back: one for each, though the first could use both.
    held.truncate(62);
    bench.until("two to be served", |bench| bench.events.len() >= 2);
    assert_eq!(bench.received(modest), b"one");
    assert_eq!(bench.received(greedy).len(), BUFFER_BYTES);
}

/// The kernel can't be made to run out of memory here, so what it would say is put in its place.
#[test]
fn a_receive_that_finds_the_system_without_memory_may_be_asked_for_again() {
    let mut bench = Bench::new(2, BUFFER_BYTES);
    let (socket, mut peer) = bench.pair();
    for discard in [false, true] {
        let receive = &mut bench.socket(socket).receive;
        (receive.wanted, receive.discard) = (true, discard);
        let none = Err(io::ErrorKind::OutOfMemory.into());
        let place = bench.engine.socket(socket).expect("a live socket");
        assert!(place.receive_brought_nothing(socket.index, none, &mut bench.events));
        let event = bench.events.pop();
        assert!(
            matches!(&event, Some(Event::ReceiveFailed { error, .. }) if error.kind() == io::ErrorKind::OutOfMemory),
            "{event:?}"
        );
        bench.engine.receive(socket).expect("a live socket");
        peer.write_all(b"still here").expect("there is room");
        bench.expect_bytes(socket, b"still here");
        bench.engine.pause_receive(socket).expect("a live socket");
        bench.expect("the pause", |event| matches!(event, Event::ReceivePaused { .. }));
    }
}

/// Others come first while there is more to hear of than one wait tells, but not for ever.
#[test]
fn one_that_has_more_is_served_although_every_wait_brings_all_that_it_can() {
    const SOCKETS: usize = 40;
    let mut bench = Bench::new(SOCKETS as u32 + 1, BUFFER_BYTES);
    let (large, mut its_peer) = bench.pair();
    let mut pairs: Vec<_> = (0..SOCKETS).map(|_| bench.pair()).collect();
    bench.engine.receive(large).expect("a live socket");
    for (socket, _) in &pairs {
        bench.engine.receive(*socket).expect("a live socket");
    }
    bench.expect_quiet();
    its_peer.write_all(&pattern(10 * BUFFER_BYTES)).expect("there is room");
    let (mut got, mut full) = (0, 0);
    bench.until("all of the large one", |bench| {
        for (_, peer) in &mut pairs {
            peer.write_all(b".").expect("there is room");
        }
        full += u32::from(bench.engine.selector.is_full());
        got += bench.received(large).len();
        bench.events.clear();
        got == 10 * BUFFER_BYTES
    });
    assert!(full >= 10, "{full} waits brought all that they could: this would prove nothing");
}

/// A flood of connections leaves room for the data of those that are there.
#[test]
fn one_poll_takes_so_many_connections_and_no_more() {
    let mut bench = Bench::new(1, BUFFER_BYTES);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address");
    let listener = bench.engine.listen(listener.into());
    let peers: Vec<_> = (0..100).map(|_| TcpStream::connect(address).expect("the backlog has room")).collect();
    bench.engine.accept(listener, 100);
    assert_eq!((bench.turn(), bench.turn(), bench.turn()), (64, 36, 0));
    drop(peers);
}

/// The peer has said something before it was told that we are connected: both are one change.
#[test]
fn what_comes_with_the_end_of_a_connect_is_received_without_being_told_again() {
    let mut bench = Bench::new(1, BUFFER_BYTES);
    let socket = bench.engine.connect(bench.home.local_addr().expect("its address"), None).expect("a place");
    bench.engine.receive(socket).expect("a live socket");
    bench.engine.do_recorded(&mut bench.events);
    let (mut peer, _) = bench.home.accept().expect("a connection");
    peer.write_all(b"welcome").expect("there is room");
    bench.expect("the connect", |event| matches!(event, Event::Connected { result: Ok(_), .. }));
    bench.expect_bytes(socket, b"welcome");
}

/// Who floods a connection that is being thrown away gets no more of the thread than others.
#[test]
fn one_poll_throws_away_a_share_of_a_flood_and_comes_back_for_the_rest() {
    let mut bench = Bench::new(1, BUFFER_BYTES);
    let (socket, mut peer) = bench.pair();
    let block = pattern(100_000);
    let mut written = 0;
    while let Ok(count) = peer.write(&block) {
        written += count;
    }
    assert!(written > 500_000, "{written} bytes: this would prove nothing");
    bench.engine.discard(socket).expect("a live socket");
    let mut thrown = 0;
    bench.until("all to be thrown away", |bench| {
        for event in bench.events.drain(..) {
            let Event::Discarded { bytes, .. } = event else { panic!("{event:?}") };
            assert!(bytes < BUFFER_BYTES + (64 << 10), "{bytes} bytes in one poll");
            thrown += bytes;
        }
        thrown == written
    });
}
