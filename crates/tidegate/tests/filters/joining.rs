//! Filters that join connections that are open.

use std::convert::Infallible;
use std::time::Duration;

use tidegate::filter::{Filter, Reserve, Side};
use tidegate::sim::Simulation;
use tidegate::{Buffer, Connection, Handler, Limits, Listener, Server, TooManyFilters};

use crate::cipher::{Cipher, GOODBYE};
use crate::common::{HELLO_0, Making, Mapping, Raw, SMALL, address, reasons, record, run};

/// Answers in the clear until it is told to begin, then in the cipher.
struct Starting {
    begun: bool,
}

impl Handler for Starting {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        if self.begun || !data.ends_with(b"START\n") {
            connection.send(data).expect("room");
            return;
        }
        self.begun = true;
        connection.send("go on\n").expect("room");
        connection.add_filter(Box::new(Cipher::new(0, Side::Accepted))).expect("the first one");
        connection.send("welcome").expect("room");
    }
}

fn start(limits: Limits, later: Option<Reserve>, piece: usize) -> Vec<u8> {
    let mut simulation = Simulation::new(2);
    let mut listener = Listener::tcp(address());
    if let Some(reserve) = later {
        listener = listener.filter_later(reserve);
    }
    let server = Server::builder().limits(limits).listen(listener, |_| Starting { begun: false });
    let address = simulation.serve(server).expect("sound limits")[0];
    let says = [b"START\n", &HELLO_0[..], &record(b"secret"), &[GOODBYE, 0, 0]].concat();
    let (raw, seen) = Raw::new(&says);
    simulation.client(address, Duration::from_millis(1), raw.in_pieces(piece, Duration::from_millis(5)).finishing());
    let report = run(&mut simulation, Duration::from_secs(30));
    assert_eq!(reasons(&report), [("finished", 1)]);
    let seen = seen.borrow();
    seen.bytes.clone()
}

#[test]
fn what_was_sent_before_a_filter_joins_goes_out_as_it_is_and_what_comes_after_through_it() {
    let expected = [b"go on\n", &HELLO_0[..], &record(b"welcome"), &record(b"secret"), &[GOODBYE, 0, 0]].concat();
    assert_eq!(start(Limits::default(), None, 6), expected);
    let later = Some(Reserve { state_bytes: 4096, write_bytes: 256 });
    assert_eq!(start(Limits::default(), later, 6), expected);
    // One byte at a time, the handler never sees the whole word, and everything comes back.
    assert_eq!(start(Limits::default(), None, 1).len(), 6 + 4 + 9 + 3);
}

/// Adds filters that turn letters round, each after a message.
struct Piling;

impl Handler for Piling {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        let next: fn(u8) -> Vec<u8> = |byte| vec![byte + 1];
        for number in 0..8 {
            connection.send(vec![b'a']).expect("room");
            let filter: Box<dyn Filter> = Box::new(Mapping(next));
            assert!(connection.add_filter(filter).is_ok(), "filter {number}");
        }
        connection.send(vec![b'a']).expect("room");
        assert_eq!(connection.add_filter(Box::new(Mapping(next))), Err(TooManyFilters { limit: 8 }));
        connection.shutdown();
    }

    fn on_read(&mut self, _: &mut Connection<'_>, _: Buffer) {}
}

#[test]
fn each_message_goes_through_the_filters_that_were_there_when_it_was_sent_and_there_are_so_many_at_most() {
    let mut simulation = Simulation::new(4);
    let server = Server::builder().listen(Listener::tcp(address()), |_| Piling);
    let address = simulation.serve(server).expect("sound limits")[0];
    let (raw, seen) = Raw::new(b"");
    simulation.client(address, Duration::from_millis(1), raw.finishing());
    run(&mut simulation, Duration::from_secs(5));
    assert_eq!(seen.borrow().bytes, b"abcdefghi");
}

/// Sends as much as it may, adds a filter, and sends as much again.
struct Filling;

impl Handler for Filling {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        for letter in [b'a', b'b'] {
            while connection.send(vec![letter; 1000]).is_ok() {}
            if letter == b'a' {
                connection.add_filter(Box::new(Mapping(|byte| vec![byte - 32]))).expect("room for a filter");
            }
        }
        connection.close();
    }

    fn on_read(&mut self, _: &mut Connection<'_>, _: Buffer) {}
}

#[test]
fn a_full_queue_keeps_its_order_when_a_filter_joins_below_and_above_others() {
    for below in [false, true] {
        let mut simulation = Simulation::new(6);
        let mut listener = Listener::tcp(address());
        if below {
            listener = listener.filter(Making(SMALL, || Box::new(Mapping(|byte| vec![byte])) as Box<dyn Filter>));
        }
        let limits = Limits { window_bytes: 4096, ..Limits::default() };
        let server = Server::builder().limits(limits).listen(listener, |_| Filling);
        let address = simulation.serve(server).expect("sound limits")[0];
        let (raw, seen) = Raw::new(b"");
        simulation.client(address, Duration::from_millis(1), raw.reading(Duration::from_secs(1), 700).finishing());
        run(&mut simulation, Duration::from_secs(60));
        let bytes = seen.borrow().bytes.clone();
        let first = bytes.iter().take_while(|&&byte| byte == b'a').count();
        assert!(first >= 64_000 && first % 1000 == 0, "{first}");
        assert!(bytes.len() >= first + 64_000 && bytes[first..].iter().all(|&byte| byte == b'B'));
    }
}
