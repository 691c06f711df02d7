//! Whole servers in worlds with one thing wrong: a peer that is silent or slow, a system without memory, few turns to send.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use super::simulation::{Client, Next, Peer, Simulation};
use super::{Handler, Limits, Listener, Report, Server};
use crate::connection::{CloseReason, MinProgress};
use crate::engine::sim::{Fault, Faults, World};
use crate::memory::{Buffer, Payload};
use crate::surface::Connection;
use crate::time::Time;

struct Echo;

impl Handler for Echo {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        connection.send(data).expect("an echo is never refused");
    }
}

/// What a client does.
#[derive(Clone, Copy)]
struct Manner {
    /// How many bytes it sends, and wants back.
    total: usize,
    /// In pieces of this many bytes...
    piece: usize,
    /// ... so far apart.
    every: Duration,
    /// Reads nothing before this.
    reads_from: Time,
    /// Finishes when all has come back.
    finishes: bool,
}

impl Manner {
    const PROMPT: Self =
        Self { total: 200_000, piece: 200_000, every: Duration::ZERO, reads_from: Time::ZERO, finishes: true };
}

/// Sends, reads, and counts what comes back until the end.
struct Talker {
    manner: Manner,
    sent: usize,
    received: usize,
    next: Time,
    finished: bool,
    echoed: Rc<Cell<usize>>,
}

impl Client for Talker {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        let manner = self.manner;
        while self.sent < manner.total && peer.now() >= self.next {
            let length = manner.piece.min(manner.total - self.sent);
            match peer.write(&vec![7; length]) {
                Ok(written) => self.sent += written,
                Err(_) => break,
            }
            self.next = peer.now() + manner.every;
            peer.wake_after(manner.every);
        }
        if peer.now() < manner.reads_from {
            peer.wake_after(manner.reads_from.saturating_since(peer.now()));
            return Next::Wait;
        }
        let mut bytes = [0; 4096];
        loop {
            match peer.read(&mut bytes) {
                Ok(0) => return Next::Close,
                Ok(length) => self.received += length,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => return Next::Close,
            }
            self.echoed.set(self.received);
        }
        if self.received == manner.total && manner.finishes && !self.finished {
            self.finished = true;
            let _ = peer.shutdown_write();
        }
        Next::Wait
    }
}

/// Runs one echo server with `clients` of a manner each; returns its report and how many bytes came back to each.
fn run(faults: Faults, limits: Limits, clients: &[Manner]) -> (Report, Vec<usize>) {
    run_in(World::new(11, faults), limits, clients)
}

/// The same in a world of one's own.
fn run_in(world: World, limits: Limits, clients: &[Manner]) -> (Report, Vec<usize>) {
    let mut simulation = Simulation::with(world);
    let listener = Listener::tcp(([10, 0, 0, 1], 7007).into());
    let server = Server::builder().limits(limits).listen(listener, |_| Echo);
    let address = simulation.serve(server).expect("sound limits")[0];
    let mut echoed = Vec::new();
    for &manner in clients {
        let count = Rc::new(Cell::new(0));
        echoed.push(Rc::clone(&count));
        let talker = Talker { manner, sent: 0, received: 0, next: Time::ZERO, finished: false, echoed: count };
        simulation.client(address, Duration::from_millis(1), talker);
    }
    match simulation.run() {
        Ok(report) => (report, echoed.iter().map(|count| count.get()).collect()),
        Err(violation) => panic!("{violation}"),
    }
}

/// The reasons that were counted.
fn reasons(report: &Report) -> Vec<(&'static str, u64)> {
    report.closed_by_reason().filter(|&(_, count)| count > 0).collect()
}

/// Every limit of time, short.
fn impatient() -> Limits {
    let second = Duration::from_secs(1);
    Limits {
        first_byte_timeout: Some(second),
        idle_timeout: Some(2 * second),
        min_send_progress: Some(MinProgress::new(10_000, second)),
        ..Limits::default()
    }
}

#[test]
fn peers_that_are_prompt_are_served_to_the_end_by_an_impatient_server() {
    let steady = Manner { total: 60, piece: 1, every: Duration::from_millis(900), ..Manner::PROMPT };
    let (report, echoed) = run(Faults::none(), impatient(), &[Manner::PROMPT, steady, Manner::PROMPT]);
    assert_eq!(reasons(&report), [("finished", 3)]);
    assert_eq!(echoed, [200_000, 60, 200_000]);
}

#[test]
fn a_silent_peer_an_idle_one_and_a_deaf_one_end_with_their_own_reasons() {
    let silent = Manner { total: 0, finishes: false, ..Manner::PROMPT };
    let idle = Manner { total: 10, finishes: false, ..Manner::PROMPT };
    let deaf = Manner { total: 2_000_000, reads_from: Time::ZERO + Duration::from_secs(20), ..Manner::PROMPT };
    let (report, echoed) = run(Faults::none(), impatient(), &[silent, idle, deaf]);
    assert_eq!(reasons(&report), [("first_byte_timeout", 1), ("idle_timeout", 1), ("send_too_slow", 1)]);
    assert_eq!(echoed[..2], [0, 10]);
}

#[test]
fn a_peer_that_sends_in_drops_is_closed_where_a_rate_is_asked_for() {
    let rate = Some(MinProgress::new(1_000, Duration::from_secs(1)));
    let limits = Limits { min_receive_rate: rate, ..Limits::default() };
    let drops = Manner { total: 1_000, piece: 10, every: Duration::from_millis(100), ..Manner::PROMPT };
    let stream = Manner { total: 30_000, piece: 300, every: Duration::from_millis(100), ..Manner::PROMPT };
    let (report, echoed) = run(Faults::none(), limits, &[drops, stream]);
    assert_eq!(reasons(&report), [("finished", 1), ("receive_too_slow", 1)]);
    assert!(echoed[0] < 1_000 && echoed[1] == 30_000, "{echoed:?}");
}

#[test]
fn with_one_turn_to_send_everything_is_delivered_all_the_same() {
    let limits = Limits { sends_outstanding: 1, ..Limits::default() };
    // The network takes 64 KiB at a time or less, so that sends have to wait for it.
    let faults = Faults { send_buffer_bytes: (8_192, 8_192), ..Faults::none() };
    let (report, echoed) = run(faults, limits, &[Manner::PROMPT; 12]);
    assert_eq!(reasons(&report), [("finished", 12)]);
    assert_eq!(echoed, [200_000; 12]);
}

#[test]
fn a_deaf_peer_keeps_the_only_turn_only_until_it_is_too_slow() {
    let limits = Limits { sends_outstanding: 1, ..impatient() };
    let deaf = Manner { total: 2_000_000, reads_from: Time::ZERO + Duration::from_secs(60), ..Manner::PROMPT };
    let late = Manner { every: Duration::from_millis(500), piece: 40_000, ..Manner::PROMPT };
    let (report, echoed) = run(Faults::none(), limits, &[deaf, deaf, late, late]);
    assert_eq!(reasons(&report), [("finished", 2), ("send_too_slow", 2)]);
    assert_eq!(echoed[2..], [200_000; 2], "who waited for the turn is not slow");
}

#[test]
fn a_system_that_runs_out_of_memory_now_and_then_costs_time_and_no_byte() {
    for fault in [Fault::SendOutOfMemory, Fault::ReceiveOutOfMemory] {
        let (report, echoed) = run(Faults::none().with(fault, 300_000), Limits::default(), &[Manner::PROMPT; 6]);
        assert_eq!(reasons(&report), [("finished", 6)], "{fault:?}");
        assert_eq!(echoed, [200_000; 6], "{fault:?}");
    }
}

#[test]
fn a_system_that_gives_a_connection_up_ends_it_as_failed_with_what_the_system_says_and_no_other() {
    let world = World::new(11, Faults::none());
    // The third send of all.
    world.script(Fault::TimedOut, 3);
    let (report, echoed) = run_in(world, Limits::default(), &[Manner::PROMPT; 6]);
    assert_eq!(reasons(&report), [("finished", 5), ("failed", 1)]);
    assert_eq!(report.closed(&CloseReason::Failed(std::io::ErrorKind::TimedOut)), 1);
    assert_eq!(echoed.iter().filter(|&&bytes| bytes == 200_000).count(), 5);
}

#[test]
fn a_system_that_stays_out_of_memory_costs_the_connections_and_says_so() {
    for fault in [Fault::SendOutOfMemory, Fault::ReceiveOutOfMemory] {
        let (report, echoed) = run(Faults::none().with(fault, 1_000_000), Limits::default(), &[Manner::PROMPT; 6]);
        assert_eq!(reasons(&report), [("system_memory", 6)], "{fault:?}");
        assert_eq!(report.closed(&CloseReason::SystemMemory), 6);
        assert_eq!(echoed, [0; 6], "{fault:?}");
    }
}

/// Sends as much as is taken, for ever.
struct Flood;

impl Flood {
    fn pour(connection: &mut Connection<'_>) {
        while connection.send(Payload::copy_from(&[7; 2_000])).is_ok() {}
    }
}

impl Handler for Flood {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        Self::pour(connection);
    }

    fn on_read(&mut self, _connection: &mut Connection<'_>, _data: Buffer) {}

    fn on_writable(&mut self, connection: &mut Connection<'_>) {
        Self::pour(connection);
    }
}

#[test]
fn memory_is_short_while_any_thread_says_so_and_not_when_all_have_ended() {
    // Slow ways with small buffers: everybody makes progress, so that nobody is closed for memory, and there is never enough.
    let faults = Faults {
        bandwidth_bytes: (20_000, 20_000),
        send_buffer_bytes: (2_048, 2_048),
        receive_buffer_bytes: (2_048, 2_048),
        segment_bytes: (512, 512),
        ..Faults::none()
    };
    let limits = Limits { send_memory_bytes: 100_000, ..Limits::default() };
    let mut simulation = Simulation::with(World::new(11, faults));
    let server = Server::builder().limits(limits).listen(Listener::tcp(([10, 0, 0, 1], 7007).into()), |_| Flood);
    let address = simulation.serve(server).expect("sound limits")[0];
    for _ in 0..40 {
        let (manner, echoed) = (Manner { total: 0, finishes: false, ..Manner::PROMPT }, Rc::default());
        let talker = Talker { manner, sent: 0, received: 0, next: Time::ZERO, finished: false, echoed };
        simulation.client(address, Duration::from_millis(1), talker);
    }
    let deadline = Time::ZERO + Duration::from_secs(20);
    let is_short = |simulation: &Simulation| simulation.threads_short_of_memory() == 2 || simulation.now() > deadline;
    simulation.run_until(is_short).unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!(simulation.threads_short_of_memory(), 2, "both threads are to end in the middle of it");
    simulation.handle().abort();
    // All along, the simulation has counted the threads that say so.
    simulation.run().unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!(simulation.threads_short_of_memory(), 0);
}
