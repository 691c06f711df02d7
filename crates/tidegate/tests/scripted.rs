//! Simulations whose user decides what goes wrong, and when.

use std::cell::Cell;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tidegate::sim::{Client, Fault, Next, Peer, Simulation};
use tidegate::{Buffer, CloseReason, Connection, Handler, Listener, Server, Time};

struct Echo;

impl Handler for Echo {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        let _ = connection.send(data);
    }
}

/// Sends `total` bytes, and notes when the last of them is back.
struct Echoing {
    total: usize,
    sent: usize,
    received: usize,
    back_at: Rc<Cell<Option<Time>>>,
}

impl Echoing {
    fn new(total: usize) -> Self {
        Self { total, sent: 0, received: 0, back_at: Rc::default() }
    }
}

impl Client for Echoing {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        while self.sent < self.total {
            match peer.write(&vec![7; self.total - self.sent]) {
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Next::Close,
            }
        }
        let mut bytes = [0; 1024];
        loop {
            match peer.read(&mut bytes) {
                Ok(0) => return Next::Close,
                Ok(length) => self.received += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Next::Close,
            }
        }
        if self.received < self.total {
            return Next::Wait;
        }
        self.back_at.set(Some(peer.now()));
        Next::Close
    }
}

/// Says nothing until the server ends the connection.
struct Silent;

impl Client for Silent {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        match peer.read(&mut [0; 16]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Next::Wait,
            _ => Next::Close,
        }
    }
}

fn serving(mut simulation: Simulation) -> (Simulation, SocketAddr) {
    let server = Server::builder().listen(Listener::tcp(([10, 0, 0, 1], 7007).into()), |_| Echo);
    let address = simulation.serve(server).expect("the server starts")[0];
    (simulation, address)
}

fn count(simulation: &Simulation, fault: Fault) -> u64 {
    simulation.faults_struck().find(|(other, _)| *other == fault).map_or(0, |(_, count)| count)
}

#[test]
fn the_send_that_the_script_names_is_short_and_no_other() {
    let (mut simulation, address) = serving(Simulation::new(1));
    simulation.strike_on(Fault::ShortSend, 1);
    let client = Echoing::new(20_000);
    let back_at = Rc::clone(&client.back_at);
    simulation.client(address, Duration::ZERO, client);
    let report = simulation.run().expect("nothing is violated");
    assert_eq!(count(&simulation, Fault::ShortSend), 1);
    assert_eq!(report.bytes_sent(), 20_000);
    assert!(back_at.get().is_some());
}

#[test]
fn a_connection_is_reset_at_the_time_that_the_script_names() {
    let (mut simulation, address) = serving(Simulation::new(1));
    let victim = simulation.client(address, Duration::ZERO, Silent);
    let other = Echoing::new(10);
    let back_at = Rc::clone(&other.back_at);
    // After the reset, so that the server has noticed it before it is drained.
    simulation.client(address, Duration::from_millis(100), other);
    simulation.after(Duration::from_millis(20), move |simulation| simulation.reset(victim));
    let report = simulation.run().expect("nothing is violated");
    assert_eq!(report.closed(&CloseReason::Reset), 1);
    assert_eq!(report.connections(), 2);
    assert!(back_at.get().is_some(), "the other connection is not reset");
}

#[test]
fn nothing_passes_a_clogged_way_and_everything_arrives_when_it_is_free() {
    for clogged_from_ms in [0, 1, 2] {
        let (mut simulation, address) = serving(Simulation::hostile(1));
        for fault in Fault::ALL {
            simulation.set_fault(fault, 0.0);
        }
        let client = Echoing::new(50_000);
        let back_at = Rc::clone(&client.back_at);
        let client = simulation.client(address, Duration::ZERO, client);
        simulation.after(Duration::from_millis(clogged_from_ms), move |simulation| simulation.clog(client));
        let freed = Duration::from_secs(90);
        simulation.after(freed, move |simulation| simulation.unclog(client));
        let report = simulation.run().expect("nothing is violated");
        assert_eq!((report.connections(), report.bytes_sent()), (1, 50_000));
        assert!(back_at.get().is_some_and(|time| time >= Time::ZERO + freed), "clogged from {clogged_from_ms} ms");
    }
}

#[test]
fn a_client_that_is_clogged_for_ever_is_a_violation_that_says_so() {
    let (mut simulation, address) = serving(Simulation::new(1));
    let client = simulation.client(address, Duration::ZERO, Echoing::new(10));
    simulation.clog(client);
    let violation = simulation.run().expect_err("the client never gets its bytes");
    assert!(violation.what().contains("1 clients are not done (1 are clogged)"), "{violation}");
}

#[test]
fn a_late_fault_strikes_from_when_it_is_set() {
    let (mut simulation, address) = serving(Simulation::new(1));
    for _ in 0..20 {
        simulation.client(address, Duration::ZERO, Echoing::new(1_000));
    }
    assert!(simulation.run_until(|simulation| simulation.clients_left() == 0).expect("nothing is violated"));
    assert_eq!(count(&simulation, Fault::ShortReceive), 0);
    simulation.set_fault(Fault::ShortReceive, 1.0);
    simulation.client(address, Duration::ZERO, Echoing::new(1_000));
    let report = simulation.run().expect("nothing is violated");
    assert!(count(&simulation, Fault::ShortReceive) > 0);
    assert_eq!(report.bytes_sent(), 21_000);
}

#[test]
fn an_invariant_is_checked_after_every_step_and_ends_the_run_by_its_name() {
    let (mut simulation, address) = serving(Simulation::new(42));
    let checks = Rc::new(Cell::new(0));
    let counted = Rc::clone(&checks);
    simulation.check("always true", move |_| {
        counted.set(counted.get() + 1);
        Ok(())
    });
    simulation.check("nobody connects", |simulation| match simulation.connections() {
        0 => Ok(()),
        connections => Err(format!("{connections} did")),
    });
    simulation.client(address, Duration::from_millis(1), Silent);
    let violation = simulation.run().expect_err("somebody connects");
    assert_eq!((violation.seed(), violation.what()), (42, "nobody connects: 1 did"));
    assert!(violation.to_string().contains("Accepted"), "the last events are in {violation}");
    assert!(checks.get() > 1);
}

#[test]
fn a_panic_of_a_client_is_a_violation_with_the_seed() {
    struct Panicking;
    impl Client for Panicking {
        fn turn(&mut self, _: &mut Peer) -> Next {
            panic!("this is what it says");
        }
    }
    let (mut simulation, address) = serving(Simulation::new(42));
    simulation.client(address, Duration::from_millis(1), Panicking);
    let violation = simulation.run().expect_err("the client panics");
    assert_eq!((violation.seed(), violation.what()), (42, "a panic: this is what it says"));
}

#[test]
fn time_goes_by_until_it_is_what_was_asked_for_and_plans_keep_their_order() {
    let (mut simulation, _) = serving(Simulation::hostile(3));
    simulation.set_fault(Fault::ClockJump, 1.0);
    let order = Rc::new(Cell::new(0_u32));
    for number in 0..100 {
        let order = Rc::clone(&order);
        simulation.after(Duration::from_millis(10 * u64::from(number)), move |_| {
            assert_eq!(order.replace(number + 1), number);
        });
    }
    simulation.run_for(Duration::from_secs(10)).expect("nothing is violated");
    assert!(simulation.now() >= Time::ZERO + Duration::from_secs(10));
    assert_eq!(order.get(), 100);
}

#[test]
fn one_script_is_one_history() {
    let run = || {
        let (mut simulation, address) = serving(Simulation::hostile(5));
        simulation.strike_on(Fault::Stall, 4);
        simulation.set_fault(Fault::ShortSend, 0.75);
        let mut clients = Vec::new();
        for _ in 0..5 {
            clients.push(simulation.client(address, Duration::from_micros(500), Echoing::new(30_000)));
        }
        let (clogged, reset) = (clients[1], clients[3]);
        simulation.after(Duration::from_millis(3), move |simulation| simulation.clog(clogged));
        simulation.after(Duration::from_millis(40), move |simulation| simulation.unclog(clogged));
        simulation.after(Duration::from_millis(5), move |simulation| simulation.reset(reset));
        simulation.run().expect("nothing is violated");
        (simulation.trace_hash(), simulation.trace_count())
    };
    assert_eq!(run(), run());
}

/// The accept that failed has left it in the backlog, where the engine doesn't look again by itself, whatever credit it has.
#[test]
fn a_connection_that_an_accept_has_failed_for_is_served_though_nobody_else_comes() {
    let (mut simulation, address) = serving(Simulation::new(7));
    simulation.strike_on(Fault::AcceptFailed, 1);
    let client = Echoing::new(100);
    let back_at = Rc::clone(&client.back_at);
    simulation.client(address, Duration::ZERO, client);
    let report = simulation.run().unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!((report.connections(), report.bytes_sent()), (1, 100));
    assert!(back_at.get().is_some_and(|at| at >= Time::ZERO + Duration::from_millis(10)), "{back_at:?}");
}
