//! A handler that panics ends its connection and nothing else.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use tidegate::{Buffer, CloseReason, Connection, Handler, Limits, Server};

use crate::harness::{Event, Note, Running, any_port, assert_reset, connect, read_to_end};

/// Panics with a text that is not printed.
fn panic_on_purpose() -> ! {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload_as_str() != Some("on purpose") {
                loud(panic);
            }
        }));
    });
    panic!("on purpose")
}

/// When a handler panics. The first connection does, the others are served.
#[derive(Clone, Copy, PartialEq)]
enum When {
    Made,
    Read,
    ReadAndDropped,
    Closed,
}

struct Panicking {
    when: When,
    first: bool,
}

impl Handler for Panicking {
    type Message = std::convert::Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        if self.first && matches!(self.when, When::Read | When::ReadAndDropped) {
            panic_on_purpose();
        }
        connection.send(data).expect("a reply always fits");
    }

    fn on_close(self, _reason: &CloseReason) {
        if self.first && self.when == When::Closed {
            panic_on_purpose();
        }
    }
}

impl Drop for Panicking {
    fn drop(&mut self) {
        if self.first && self.when == When::ReadAndDropped && !std::thread::panicking() {
            panic_on_purpose();
        }
    }
}

fn start(when: When) -> Running {
    let made = AtomicU32::new(0);
    Running::start(Server::builder().listen(any_port(), move |_| {
        let first = made.fetch_add(1, Ordering::Relaxed) == 0;
        if first && when == When::Made {
            panic_on_purpose();
        }
        Panicking { when, first }
    }))
}

fn assert_echoes(mut stream: &TcpStream) {
    stream.write_all(b"hello").expect("it is taken");
    let mut reply = [0; 5];
    stream.read_exact(&mut reply).expect("the server goes on");
    assert_eq!(&reply, b"hello");
}

/// The first connection panics while a second one is open, and is reset; the second and a third are served.
fn assert_only_the_first_ends(when: When) {
    let server = start(when);
    let mut first = server.connect();
    let second = server.connect();
    if when != When::Made {
        first.write_all(b"now").expect("it is taken");
    }
    assert_reset(&first);
    assert_echoes(&second);
    assert_echoes(&server.connect());
    drop(second);
    let report = server.drained();
    assert_eq!(report.closed(&CloseReason::HandlerPanicked), 1);
    assert_eq!(report.connections(), 3);
    let all: u64 = report.closed_by_reason().map(|(_, count)| count).sum();
    assert_eq!(all, 3, "every connection has one reason");
}

#[test]
fn a_panic_in_on_read_ends_that_connection_and_no_other() {
    assert_only_the_first_ends(When::Read);
}

#[test]
fn a_panic_in_the_factory_ends_that_connection_and_no_other() {
    assert_only_the_first_ends(When::Made);
}

#[test]
fn a_second_panic_when_the_handler_is_dropped_changes_nothing() {
    assert_only_the_first_ends(When::ReadAndDropped);
}

#[test]
fn a_panic_in_on_close_is_swallowed_and_the_reason_stays() {
    let server = start(When::Closed);
    let first = server.connect();
    assert_echoes(&first);
    first.shutdown(std::net::Shutdown::Write).expect("it is connected");
    assert_eq!(read_to_end(&first), b"");
    let second = server.connect();
    assert_echoes(&second);
    drop(second);
    let report = server.drained();
    assert_eq!(report.closed(&CloseReason::HandlerPanicked), 0);
    assert!(report.closed(&CloseReason::Finished) >= 1);
}

/// Whether to panic at an event.
type At = fn(&Event) -> bool;

#[test]
fn a_panic_in_any_other_callback_is_caught_as_well() {
    let panics_at = |at: At| {
        move |connection: &mut Connection<'_, Note>, event: &Event| {
            if at(event) {
                panic_on_purpose();
            }
            match event {
                Event::Connected(_) => connection.set_timer(0, std::time::Duration::from_millis(1)),
                Event::Read(_) => drop(connection.send("reply")),
                _ => {}
            }
        }
    };
    let cases: [(&str, At); 5] = [
        ("on_connect", |event| matches!(event, Event::Connected(_))),
        ("on_timer", |event| matches!(event, Event::Timer(_))),
        ("on_sent", |event| matches!(event, Event::Sent(_))),
        ("on_message", |event| matches!(event, Event::Message(_))),
        ("on_peer_shutdown", |event| matches!(event, Event::PeerShutdown)),
    ];
    for (name, at) in cases {
        let (server, events) = Running::scripted(Limits::default(), panics_at(at));
        let mut stream = server.connect();
        if name != "on_connect" {
            let handle = events.connected();
            match name {
                "on_message" => handle.post(Note::new(1)).expect("there is room"),
                "on_peer_shutdown" => stream.shutdown(std::net::Shutdown::Write).expect("it is connected"),
                "on_sent" => stream.write_all(b"say something").expect("it is taken"),
                // A timer runs already. A write might be what the reset is reported to.
                _ => {}
            }
        }
        assert_reset(&stream);
        let report = server.drained();
        assert_eq!(report.closed(&CloseReason::HandlerPanicked), 1, "{name}");
    }
}

#[test]
fn listeners_with_handlers_of_different_types_serve_side_by_side() {
    struct Greeting(&'static str);
    impl Handler for Greeting {
        type Message = u64;
        fn on_connect(&mut self, connection: &mut Connection<'_, u64>) {
            connection.send(self.0).expect("it is the first");
            connection.close();
        }
        fn on_read(&mut self, _connection: &mut Connection<'_, u64>, _data: Buffer) {}
    }
    let builder = Server::builder()
        .listen(any_port(), |_| Greeting("one"))
        .listen(any_port(), |_| Panicking { when: When::Read, first: false })
        .listen(any_port(), |accepted| Greeting(if accepted.local.port() == 0 { "no port" } else { "three" }));
    let server = Running::start(builder);
    let addresses = server.addresses.clone();
    for _ in 0..3 {
        assert_eq!(read_to_end(&connect(addresses[0])), b"one");
        assert_echoes(&connect(addresses[1]));
        assert_eq!(read_to_end(&connect(addresses[2])), b"three");
    }
    let report = server.drained();
    assert_eq!(report.connections(), 9);
    assert_eq!(report.closed(&CloseReason::ClosedByHandler), 6);
}
