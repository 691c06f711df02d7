//! Bugs of other frameworks' filters, each as a test.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::filter::{Above, Below, Down, Filter, FilterContext, FilterError, FilterFailure, Read, Reserve};
use tidegate::sim::Simulation;
use tidegate::{Buffer, Client, Connected, Connection, Handler, Limits, Listener, Server, Target};

use crate::cipher::{Ciphers, DATA, GOODBYE};
use crate::common::{Echo, HELLO_0, Making, Mapping, Raw, SMALL, address, read_plain, reasons, record, run};

/// Answers each byte that it reads with many of its own, and hands it up.
#[derive(Default)]
struct Chatty {
    owed: usize,
}

impl Filter for Chatty {
    fn name(&self) -> &'static str {
        "chatty"
    }

    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
        let read = read_plain(below, context)?;
        if let Read::Data(data) = &read {
            self.owed += data.len() * 50_000;
        }
        Ok(read)
    }

    fn write(
        &mut self,
        above: &mut Above<'_>,
        down: &mut Down<'_>,
        context: &mut FilterContext<'_>,
    ) -> Result<(), FilterError> {
        while self.owed > 0 && down.room_bytes() > 0 {
            let count = self.owed.min(down.room_bytes());
            down.push(vec![b'.'; count]);
            self.owed -= count;
        }
        while down.room_bytes() > 0 && above.fill(down, context)? {
            above.pass(down, context);
        }
        Ok(())
    }

    fn wants_write(&self) -> bool {
        self.owed > 0
    }
}

/// ntex-net 3.13.0: a large write from within the reading of a filter panicked.
#[test]
fn a_large_write_that_follows_from_a_filters_reading_goes_out_whole() {
    for (window_bytes, send_memory_bytes) in [(4096, 200_000), (64 << 10, 200_000), (64 << 10, 66_000)] {
        let mut simulation = Simulation::new(1);
        let listener = Listener::tcp(address()).filter(Making(SMALL, || Box::<Chatty>::default() as Box<dyn Filter>));
        let limits = Limits { window_bytes, send_memory_bytes, ..Limits::default() };
        let server = Server::builder().limits(limits).listen(listener, |_| Echo);
        let address = simulation.serve(server).expect("sound limits")[0];
        let (raw, seen) = Raw::new(b"abcde");
        simulation.client(address, Duration::from_millis(1), raw.in_pieces(1, Duration::from_millis(1)).finishing());
        let report = run(&mut simulation, Duration::from_secs(60));
        assert_eq!(reasons(&report), [("finished", 1)]);
        let seen = seen.borrow();
        let letters: Vec<u8> = seen.bytes.iter().copied().filter(|&byte| byte != b'.').collect();
        assert_eq!((seen.bytes.len(), &letters[..]), (5 * 50_001, &b"abcde"[..]));
    }
}

/// Sends more than a window, and closes.
struct Parting;

impl Handler for Parting {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        while connection.send(vec![b'x'; 1000]).is_ok() {}
        connection.close();
    }

    fn on_read(&mut self, _: &mut Connection<'_>, _: Buffer) {}
}

/// The records of a peer's stream: their kinds, and their data together.
fn records(mut bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut kinds, mut data) = (Vec::new(), Vec::new());
    while let [kind, high, low, rest @ ..] = bytes {
        let (record, after) = rest.split_at(usize::from(*high) << 8 | usize::from(*low));
        kinds.push(*kind);
        if *kind == DATA {
            data.extend_from_slice(record);
        }
        bytes = after;
    }
    assert!(bytes.is_empty(), "a record that is not whole");
    (kinds, data)
}

/// ntex-io 3.12.3: the tail of what was buffered was dropped on a graceful shutdown. 3.11.3: something was written while filters shut down.
#[test]
fn the_buffered_tail_goes_out_before_the_goodbye_and_nothing_after_it() {
    let mut simulation = Simulation::new(1);
    let listener = Listener::tcp(address()).filter(Ciphers { key: 0 });
    let limits = Limits { window_bytes: 4096, ..Limits::default() };
    let server = Server::builder().limits(limits).listen(listener, |_| Parting);
    let address = simulation.serve(server).expect("sound limits")[0];
    let (raw, seen) = Raw::new(&HELLO_0);
    simulation.client(address, Duration::from_millis(1), raw.reading(Duration::from_secs(2), 1500));
    run(&mut simulation, Duration::from_secs(20));
    let (kinds, data) = records(&seen.borrow().bytes);
    assert!(data.len() >= 64_000 && data.len() % 1000 == 0, "{}", data.len());
    assert_eq!(kinds.iter().position(|&kind| kind == GOODBYE), Some(kinds.len() - 1), "the goodbye comes last, once");
}

/// ntex-io 3.9.2: both sides shut down, and waited for each other.
#[test]
fn two_sides_that_finish_at_the_same_time_both_end() {
    struct Finishing;
    impl Handler for Finishing {
        type Message = Infallible;
        fn on_connect(&mut self, connection: &mut Connection<'_>) {
            connection.send("bye").expect("room");
            connection.shutdown();
        }
        fn on_read(&mut self, _: &mut Connection<'_>, _: Buffer) {}
    }
    for depth in 1..4 {
        let mut simulation = Simulation::new(9);
        let (mut listener, mut client) = (Listener::tcp(address()), Client::tcp());
        for key in 0..depth {
            listener = listener.filter(Ciphers { key });
            client = client.filter(Ciphers { key: key + 7 });
        }
        let server = Server::builder().listen(listener, |_| Finishing);
        let (server, connector) = server.client(client, |_: &Connected| Finishing);
        let address = simulation.serve(server).expect("sound limits")[0];
        connector.connect(Target::new(address)).expect("room");
        simulation.run_for(Duration::from_secs(1)).unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!(simulation.connections(), 0, "both have ended, with {depth} filters");
        let report = run(&mut simulation, Duration::from_secs(1));
        assert_eq!(reasons(&report), [("finished", 2)]);
    }
}

/// hyper #4081, and a proxy whose pipeline went round its cap: what a filter makes of little was in no account.
#[test]
fn what_filters_make_of_little_is_bounded_as_everything_else() {
    let mut simulation = Simulation::new(1);
    let reserve = Reserve { state_bytes: 64, write_bytes: 1024 };
    let expanding = Making(reserve, || Box::new(Mapping(|byte| vec![byte; 16])) as Box<dyn Filter>);
    let listener = Listener::tcp(address()).filter(expanding);
    let limits = Limits { max_connections: 50, send_memory_bytes: 300_000, ..Limits::default() };
    let server = Server::builder().limits(limits).listen(listener, |_| Parting);
    let address = simulation.serve(server).expect("sound limits")[0];
    for _ in 0..20 {
        // None of them reads for a while.
        let (raw, _) = Raw::new(b"");
        simulation.client(address, Duration::from_millis(1), raw.reading(Duration::from_secs(2), 4000).finishing());
    }
    let handle = simulation.handle();
    let most = Arc::new(AtomicU64::new(0));
    for _ in 0..200 {
        simulation.run_for(Duration::from_millis(10)).unwrap_or_else(|violation| panic!("{violation}"));
        most.fetch_max(handle.stats().send_memory_bytes(), Ordering::Relaxed);
    }
    let most = most.load(Ordering::Relaxed);
    assert!(most > 100_000 && most <= 300_000, "{most} bytes of common send memory in use");
    let report = run(&mut simulation, Duration::from_secs(60));
    assert_eq!(report.connections(), 20);
}

/// With a large message and hardly any memory, a filter gets on in the steps that its own allotment allows.
#[test]
fn a_filter_gets_on_with_what_is_its_own_when_send_memory_is_used_up() {
    /// Takes all the memory that there is, and keeps it for a peer that doesn't read.
    struct Hoarding;
    impl Handler for Hoarding {
        type Message = Infallible;
        fn on_connect(&mut self, connection: &mut Connection<'_>) {
            while connection.send(vec![0; 20_000]).is_ok() {}
            while connection.send(vec![0; 100]).is_ok() {}
        }
        fn on_read(&mut self, _: &mut Connection<'_>, _: Buffer) {}
    }
    let mut simulation = Simulation::new(1);
    let own = Listener::tcp(address()).filter(Ciphers { key: 0 });
    let limits = Limits {
        max_connections: 50,
        send_memory_bytes: 70_000,
        min_send_progress: None,
        socket_send_buffer_bytes: Some(4096),
        ..Limits::default()
    };
    let server = Server::builder()
        .limits(limits)
        .threads(std::num::NonZeroUsize::MIN)
        .listen(own, |_| Echo)
        .listen(Listener::tcp(([10, 0, 0, 1], 7008).into()), |_| Hoarding);
    let addresses = simulation.serve(server).expect("sound limits");
    for _ in 0..4 {
        let (deaf, _) = Raw::new(b"");
        simulation.client(addresses[1], Duration::from_millis(1), deaf.reading(Duration::from_secs(40), 4000));
    }
    let (raw, seen) = Raw::new(&[&HELLO_0[..], &record(&[b'z'; 60]), &[GOODBYE, 0, 0]].concat());
    simulation.client(addresses[0], Duration::from_secs(1), raw.in_pieces(100, Duration::from_millis(50)).finishing());
    simulation.run_for(Duration::from_secs(20)).unwrap_or_else(|violation| panic!("{violation}"));
    let (_, data) = records(&seen.borrow().bytes);
    assert_eq!(data, [b'z'; 60]);
    simulation.handle().abort();
    simulation.run().unwrap_or_else(|violation| panic!("{violation}"));
}

/// A filter with a clock of its own: it pings when nothing has come for a second, and gives up when three pings have had no answer.
struct Pinging {
    next: Option<tidegate::Time>,
    unanswered: u32,
    due: bool,
}

impl Filter for Pinging {
    fn name(&self) -> &'static str {
        "pinging"
    }

    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
        if self.next.is_none() {
            self.next = Some(context.now() + Duration::from_secs(1));
        }
        let read = read_plain(below, context)?;
        if matches!(read, Read::Data(_)) {
            self.unanswered = 0;
        }
        Ok(read)
    }

    fn write(
        &mut self,
        above: &mut Above<'_>,
        down: &mut Down<'_>,
        context: &mut FilterContext<'_>,
    ) -> Result<(), FilterError> {
        if self.due && down.room_bytes() > 0 {
            self.due = false;
            down.push("?");
        }
        while down.room_bytes() > 0 && above.fill(down, context)? {
            above.pass(down, context);
        }
        Ok(())
    }

    fn wants_write(&self) -> bool {
        self.due
    }

    fn deadline(&self) -> Option<tidegate::Time> {
        self.next
    }

    fn time_passed(&mut self, context: &mut FilterContext<'_>) -> Result<(), FilterError> {
        if self.unanswered == 3 {
            return Err(FilterError::new(FilterFailure::NoAnswer, "three pings without an answer"));
        }
        self.unanswered += 1;
        self.due = true;
        self.next = Some(context.now() + Duration::from_secs(1));
        Ok(())
    }
}

/// Frameworks that ask filters only when the handler does something never ping an idle connection.
#[test]
fn a_filter_speaks_by_its_clock_while_the_handler_is_idle() {
    let outcome = Arc::new(Mutex::new(Vec::new()));
    let mut simulation = Simulation::new(1);
    let make = || Box::new(Pinging { next: None, unanswered: 0, due: false }) as Box<dyn Filter>;
    let noted = Arc::clone(&outcome);
    let listener = Listener::tcp(address()).filter(Making(SMALL, make));
    let server = Server::builder().listen(listener, move |_| crate::common::Noting(Arc::clone(&noted)));
    let address = simulation.serve(server).expect("sound limits")[0];
    let (raw, seen) = Raw::new(b"ab");
    simulation.client(address, Duration::from_millis(1), raw.in_pieces(1, Duration::from_millis(2500)));
    let report = run(&mut simulation, Duration::from_secs(30));
    assert_eq!(reasons(&report), [("no_answer", 1)]);
    assert_eq!(seen.borrow().bytes, b"a??b???");
    assert_eq!(*outcome.lock().expect("no panic"), ["connect", "read a", "read b", "close no_answer"]);
}

/// A filter that waits for more memory than there is would wait, and keep its connection, for ever.
#[test]
fn a_filter_that_waits_for_more_memory_than_there_is_does_not_wait_for_ever() {
    let mut simulation = Simulation::new(1);
    let own = Listener::tcp(address()).filter(Ciphers { key: 0 });
    let limits = Limits { max_connections: 10, send_memory_bytes: 1000, ..Limits::default() };
    let server = Server::builder().limits(limits).listen(own, |_| Echo);
    let address = simulation.serve(server).expect("sound limits")[0];
    let (raw, seen) = Raw::new(&[&HELLO_0[..], &record(&[b'z'; 2000])].concat());
    simulation.client(address, Duration::from_millis(1), raw);
    simulation.run_for(Duration::from_secs(2)).unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!((simulation.connections(), seen.borrow().ended), (0, Some("reset")));
    let report = run(&mut simulation, Duration::from_secs(1));
    assert_eq!(reasons(&report), [("memory_pressure", 1)]);
}
