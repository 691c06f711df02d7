//! What other threads may do: post, close, abort.

use std::io::Write as _;
use std::sync::{Mutex, mpsc};

use tidegate::{Buffer, CloseReason, Connection, Handler, Limits, Server};

use crate::harness::{DEADLINE, Event, Note, Running, any_port, assert_reset, read_to_end};

#[test]
fn posted_messages_arrive_in_order_from_each_thread() {
    let (server, events) = Running::scripted(Limits::default(), |_, _| {});
    let stream = server.connect();
    let handle = events.connected();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let handle = handle.clone();
            scope.spawn(move || {
                for number in 0..100 {
                    handle.post(Note::new(thread * 1000 + number)).expect("there is room for 400");
                }
            });
        }
    });
    let mut next = [0; 4];
    for _ in 0..400 {
        let number = events.message();
        let thread = (number / 1000) as usize;
        assert_eq!(number % 1000, next[thread]);
        next[thread] += 1;
    }
    drop(stream);
    server.drained();
}

#[test]
fn a_full_mailbox_refuses_and_gives_the_message_back() {
    // The handler holds up its I/O thread until the test lets go, which real handlers must not do.
    let (let_go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let (entered, inside) = mpsc::channel();
    let limits = Limits { mailbox_messages: 4, ..Limits::default() };
    let (server, events) = Running::scripted(limits, move |_, event| {
        if let Event::Read(_) = event {
            let _ = entered.send(());
            let _ = wait.lock().expect("nobody panics with it").recv_timeout(DEADLINE);
        }
    });
    let mut stream = server.connect();
    let handle = events.connected();
    stream.write_all(b"hold on").expect("it is taken");
    inside.recv_timeout(DEADLINE).expect("the handler is called");
    for number in 0..4 {
        handle.post(Note::new(number)).expect("there is room for 4");
    }
    let refused = handle.post(Note::new(4)).expect_err("and no more");
    assert_eq!((refused.message.number, refused.limit), (4, 4));
    assert!(refused.to_string().contains("4 messages"), "{refused}");
    let_go.send(()).expect("the handler waits");
    for number in 0..4 {
        assert_eq!(events.message(), number);
    }
    handle.post(refused.message).expect("there is room again");
    assert_eq!(events.message(), 4);
    drop(stream);
    server.drained();
}

#[test]
fn a_stale_handle_reaches_nobody_and_its_messages_are_dropped() {
    let (server, events) = Running::scripted(Limits::default(), |_, _| {});
    let first = server.connect();
    let stale = events.connected();
    first.shutdown(std::net::Shutdown::Write).expect("it is connected");
    assert_eq!(events.closed(), CloseReason::Finished);

    // The only other connection: it has the slot of the first.
    let second = server.connect();
    let current = events.connected();
    let (dropped, drops) = mpsc::channel();
    stale.post(Note { number: 1, dropped: Some(dropped) }).expect("the mailbox has room");
    stale.close();
    stale.abort();
    current.post(Note::new(2)).expect("there is room");
    assert_eq!(events.message(), 2, "what was posted to the first is not for the second");
    assert_eq!(drops.recv_timeout(DEADLINE), Ok(1));
    second.shutdown(std::net::Shutdown::Write).expect("it is connected");
    assert_eq!(events.closed(), CloseReason::Finished);
    server.drained();
    // The server is gone; handles still do no harm.
    stale.abort();
    let _ = current.post(Note::new(3));
}

#[test]
fn close_from_another_thread_sends_what_is_queued_and_ends_in_order() {
    let (server, events) = Running::scripted(Limits::default(), |connection, event| {
        if let Event::Connected(_) = event {
            connection.send(vec![5; 60_000]).expect("it is the first");
        }
    });
    let stream = server.connect();
    let handle = events.connected();
    std::thread::scope(|scope| scope.spawn(move || handle.close()).join().expect("it can't fail"));
    assert_eq!(read_to_end(&stream).len(), 60_000);
    drop(stream);
    assert_eq!(events.closed(), CloseReason::ClosedByHandle);
    server.drained();
}

#[test]
fn abort_from_another_thread_resets() {
    let (server, events) = Running::scripted(Limits::default(), |_, _| {});
    let stream = server.connect();
    let handle = events.connected();
    std::thread::scope(|scope| scope.spawn(move || handle.abort()).join().expect("it can't fail"));
    assert_reset(&stream);
    assert_eq!(events.closed(), CloseReason::AbortedByHandle);
    server.drained();
}

#[test]
fn a_buffer_lent_to_another_thread_may_be_dropped_there() {
    struct Lending(mpsc::Sender<bytes::Bytes>);
    impl Handler for Lending {
        type Message = std::convert::Infallible;
        fn on_read(&mut self, _connection: &mut Connection<'_>, data: Buffer) {
            let _ = self.0.send(data.into_bytes());
        }
    }
    // Far fewer buffers than are lent in all, and fewer than are lent at once: beyond its cap, lending copies.
    let limits = Limits { receive_buffers: 16, lent_buffers: 4, ..Limits::default() };
    let (say, lent) = mpsc::channel();
    let server = Running::start(Server::builder().limits(limits).listen(any_port(), move |_| Lending(say.clone())));
    let keeper = std::thread::spawn(move || {
        let mut kept = Vec::new();
        let mut received = 0;
        // At times a heap of them is kept, at times all go at once.
        while received < 4 << 20 {
            let bytes = lent.recv_timeout(DEADLINE).expect("more comes");
            assert!(bytes.iter().enumerate().all(|(at, &byte)| byte == ((received + at) % 251) as u8));
            received += bytes.len();
            kept.push(bytes);
            if kept.len() == 40 {
                kept.clear();
            }
        }
    });
    let mut stream = server.connect();
    let bytes: Vec<u8> = (0..4 << 20).map(|at: usize| (at % 251) as u8).collect();
    stream.write_all(&bytes).expect("everything is taken");
    keeper.join().expect("everything comes, in order");
    drop(stream);
    assert_eq!(server.drained().bytes_received(), 4 << 20);
}
