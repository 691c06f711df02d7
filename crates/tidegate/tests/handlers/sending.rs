//! Back-pressure: refusals with their numbers, room again, and reading that waits.

use std::io::{self, Write as _};
use std::sync::mpsc;
use std::time::Duration;

use tidegate::{Connection, Limits, Refusal, Sent};

use crate::harness::{Event, Note, Running, read_to_end};

/// Takes up the window, so that what is sent next waits in the queue.
fn fill_window(connection: &mut Connection<'_, Note>) {
    let sent = connection.send(vec![0; Limits::default().window_bytes]).expect("nothing is before it");
    assert_eq!(sent, Sent::Queued);
    assert_eq!(connection.queued_bytes(), 0);
}

#[test]
fn a_full_queue_refuses_with_its_numbers_and_says_when_there_is_room() {
    let (say, outcome) = mpsc::channel();
    let (server, events) = Running::scripted(Limits::default(), move |connection, event| match event {
        Event::Connected(_) => {
            fill_window(connection);
            let message = || vec![1; 16 << 10];
            let taken: Vec<Sent> = (0..4).map(|_| connection.send(message()).expect("64 KiB fit")).collect();
            assert_eq!(taken, [Sent::Queued, Sent::Queued, Sent::OverMark, Sent::OverMark]);
            assert_eq!(connection.queued_bytes(), 64 << 10);
            let refused = connection.send(message()).expect_err("and no more");
            assert_eq!(refused.payload.len(), 16 << 10, "the message comes back");
            let _ = say.send(refused.why);
        }
        Event::Writable => {
            assert_eq!(connection.send("the rest").expect("there is room"), Sent::Queued);
            connection.shutdown();
            let _ = say.send(connection.send("too late").expect_err("it has finished").why);
        }
        _ => {}
    });
    let stream = server.connect();
    events.connected();
    let bytes = read_to_end(&stream);
    assert_eq!(bytes.len(), (128 << 10) + "the rest".len());
    assert!(bytes.ends_with(b"\x01the rest"));
    let full =
        Refusal::Full { queued_bytes: 64 << 10, limit_bytes: 64 << 10, queued_messages: 4, limit_messages: 1024 };
    assert_eq!(outcome.try_iter().collect::<Vec<_>>(), [full, Refusal::Closing]);
    drop(stream);
    server.drained();
}

#[test]
fn messages_are_limited_by_number_too() {
    let (say, outcome) = mpsc::channel();
    let limits = Limits { send_queue_messages: 8, ..Limits::default() };
    let (server, events) = Running::scripted(limits, move |connection, event| match event {
        Event::Connected(_) => {
            fill_window(connection);
            for _ in 0..8 {
                connection.send("x").expect("8 fit");
            }
            let _ = say.send(connection.send("x").expect_err("and no more").why);
        }
        Event::Writable => connection.shutdown(),
        _ => {}
    });
    let stream = server.connect();
    events.connected();
    assert!(read_to_end(&stream).ends_with(b"\0xxxxxxxx"));
    let full = Refusal::Full { queued_bytes: 8, limit_bytes: 64 << 10, queued_messages: 8, limit_messages: 8 };
    assert_eq!(outcome.try_recv(), Ok(full));
    drop(stream);
    server.drained();
}

#[test]
fn what_can_never_fit_is_too_large_and_never_full() {
    let (say, outcome) = mpsc::channel();
    let (server, events) = Running::scripted(Limits::default(), move |connection, event| {
        if let Event::Connected(_) = event {
            let _ = say.send(connection.send(vec![0; (64 << 10) + 1]).expect_err("one byte too many").why);
            connection.send(vec![2; 64 << 10]).expect("exactly as much as fits");
            // Also when the queue is full: waiting would be in vain.
            let _ = say.send(connection.send(vec![0; (64 << 10) + 1]).expect_err("one byte too many").why);
            connection.close();
            let _ = say.send(connection.send("x").expect_err("it is closing").why);
        }
    });
    let stream = server.connect();
    events.connected();
    assert_eq!(read_to_end(&stream).len(), 64 << 10);
    let refusals: Vec<Refusal> = outcome.try_iter().collect();
    for refusal in &refusals[..2] {
        match refusal {
            Refusal::TooLarge { bytes, limit_bytes } => assert!(*bytes > 64 << 10 && *limit_bytes == 64 << 10),
            other => panic!("{other:?}"),
        }
        assert!(refusal.to_string().contains("65536"), "{refusal}");
    }
    assert_eq!(refusals[2..], [Refusal::Closing]);
    drop(stream);
    server.drained();
}

#[test]
fn what_passes_the_high_mark_is_told_when_there_is_room() {
    let (server, events) = Running::scripted(Limits::default(), |connection, event| match event {
        Event::Connected(_) => {
            fill_window(connection);
            assert_eq!(connection.send(vec![3; 40_000]).expect("it fits"), Sent::OverMark);
        }
        Event::Writable => connection.close(),
        _ => {}
    });
    let stream = server.connect();
    assert!(read_to_end(&stream).ends_with(&[3; 40_000]));
    drop(stream);
    events.closed();
    server.drained();
}

#[test]
fn nothing_is_read_while_reading_is_paused_and_everything_afterwards() {
    const ALL: usize = 16 << 20;
    let (server, events) = Running::scripted(Limits::default(), |connection, event| match event {
        Event::Connected(_) => connection.pause_read(),
        Event::Message(1) => connection.resume_read(),
        _ => {}
    });
    let mut stream = server.connect();
    let handle = events.connected();
    stream.set_write_timeout(Some(Duration::from_millis(300))).expect("not zero");
    let chunk = vec![9; 64 << 10];
    let mut sent = 0;
    let blocked = loop {
        match stream.write(&chunk[..chunk.len().min(ALL - sent)]) {
            Ok(count) => sent += count,
            Err(error) => break error,
        }
        assert!(sent < ALL, "everything is taken although nothing is read");
    };
    assert!(matches!(blocked.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{blocked}");
    handle.post(Note::new(1)).expect("there is room");
    // Whatever came before the message would be a read.
    events.wait_for("the message", |event| match event {
        Event::Message(1) => Some(()),
        Event::Read(bytes) => panic!("{} bytes were read during a pause", bytes.len()),
        _ => None,
    });
    stream.set_write_timeout(Some(Duration::from_secs(20))).expect("not zero");
    while sent < ALL {
        let count = chunk.len().min(ALL - sent);
        stream.write_all(&chunk[..count]).expect("reading has resumed");
        sent += count;
    }
    stream.shutdown(std::net::Shutdown::Write).expect("it is connected");
    assert_eq!(read_to_end(&stream), b"");
    assert_eq!(server.drained().bytes_received(), ALL as u64);
}

#[test]
fn the_end_of_the_stream_is_not_told_during_a_pause() {
    let (server, events) = Running::scripted(Limits::default(), |connection, event| match event {
        Event::Connected(_) => {
            connection.pause_read();
            connection.set_timer(0, Duration::from_millis(100));
        }
        Event::Timer(0) => connection.resume_read(),
        _ => {}
    });
    let mut stream = server.connect();
    stream.write_all(b"last words").expect("it is taken");
    stream.shutdown(std::net::Shutdown::Write).expect("it is connected");
    let mut order = Vec::new();
    while order.len() < 3 {
        order.push(events.wait_for("an event", |event| match event {
            Event::Timer(0) => Some("timer".to_owned()),
            Event::Read(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            Event::PeerShutdown => Some("end".to_owned()),
            _ => None,
        }));
    }
    assert_eq!(order, ["timer", "last words", "end"]);
    drop(stream);
    server.drained();
}

#[test]
fn sent_bytes_are_told_and_add_up() {
    let (server, events) = Running::scripted(Limits::default(), |connection, event| {
        if let Event::Connected(_) = event {
            for _ in 0..3 {
                connection.send(vec![4; 10_000]).expect("it fits");
            }
            connection.shutdown();
        }
    });
    let stream = server.connect();
    assert_eq!(read_to_end(&stream).len(), 30_000);
    let mut told = 0;
    while told < 30_000 {
        told += events.wait_for("a send", |event| match event {
            Event::Sent(bytes) => Some(bytes),
            _ => None,
        });
    }
    assert_eq!(told, 30_000);
    drop(stream);
    assert_eq!(server.drained().bytes_sent(), 30_000);
}

/// Common send memory held by peers that had stopped reading was not given to others before those peers' time was over: only
/// a low receive arena had ended them.
#[test]
fn who_has_stopped_reading_makes_room_for_who_reads_when_send_memory_is_used_up() {
    const MESSAGE_BYTES: usize = 48 << 10;
    let limits = Limits { send_memory_bytes: 1 << 20, ..Limits::default() };
    let (server, events) = Running::scripted(limits, |connection, event| {
        if let Event::Connected(_) | Event::Writable = event {
            // For as long as it reads.
            while let Ok(Sent::Queued) = connection.send(vec![7; MESSAGE_BYTES]) {}
        }
    });
    // Each of them may hold up to a window and a queue: more than there is.
    let stopped: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for _ in &stopped {
        events.connected();
    }
    let mut reader = server.connect();
    let mut bytes = vec![0; 64 * MESSAGE_BYTES];
    io::Read::read_exact(&mut reader, &mut bytes).expect("it is served");
    assert!(bytes.iter().all(|&byte| byte == 7));
    drop((reader, stopped));
    server.drained();
}
