//! Outgoing connections to hosts by their names, in simulated worlds.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::sim::Simulation;
use tidegate::{
    Buffer, Client, ConnectError, ConnectRefusal, Connected, Connection, ConnectionMaintaining, Connector, Handler,
    Limits, Listener, Report, Server, Target,
};

const SERVING: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const ALSO_SERVING: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
/// Nobody listens there.
const EMPTY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 99));
const PORT: u16 = 7007;

/// Closes what has been answered.
struct Echo;

impl Handler for Echo {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        let _ = connection.send(data);
    }
}

/// Says a word and is done when it comes back.
struct Asks;

impl Handler for Asks {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        let _ = connection.send("?");
    }

    fn on_read(&mut self, connection: &mut Connection<'_>, _: Buffer) {
        connection.close();
    }
}

/// What became of a request.
#[derive(Clone, PartialEq, Debug)]
enum Outcome {
    Connected(SocketAddr),
    Failed(ConnectError),
}

/// What became of all, by their tags.
type Outcomes = Arc<Mutex<BTreeMap<u64, Vec<Outcome>>>>;

struct World {
    simulation: Simulation,
    connector: Connector,
    outcomes: Outcomes,
}

impl World {
    fn new(mut simulation: Simulation, limits: Limits, client: Client) -> Self {
        let outcomes = Outcomes::default();
        let (made, failed) = (Arc::clone(&outcomes), Arc::clone(&outcomes));
        let note = |outcomes: &Outcomes, tag, outcome| {
            outcomes.lock().expect("no panic").entry(tag).or_default().push(outcome);
        };
        let client = client.on_failed(move |failure| note(&failed, failure.tag, Outcome::Failed(failure.error)));
        let builder = Server::builder()
            .limits(limits)
            .listen(Listener::tcp(SocketAddr::new(SERVING, PORT)), |_| Echo)
            .listen(Listener::tcp(SocketAddr::new(ALSO_SERVING, PORT)), |_| Echo);
        let (builder, connector) = builder.client(client, move |connected: &Connected| {
            note(&made, connected.tag, Outcome::Connected(connected.peer));
            Asks
        });
        simulation.serve(builder).expect("sound limits");
        simulation.name("one.test", &[SERVING]);
        simulation.name("second.test", &[EMPTY, ALSO_SERVING, SERVING]);
        simulation.name("empty.test", &[EMPTY]);
        Self { simulation, connector, outcomes }
    }

    fn clean(seed: u64) -> Self {
        Self::new(Simulation::new(seed), Limits::default(), Client::tcp())
    }

    fn ask(&self, name: &str, tag: u64) {
        self.connector.connect(Target::host(name, PORT).tag(tag)).expect("room");
    }

    fn run_for(&mut self, millis: u64) {
        let ran = self.simulation.run_for(Duration::from_millis(millis));
        ran.unwrap_or_else(|violation| panic!("{violation}"));
    }

    fn run(&mut self) -> Report {
        self.simulation.run().unwrap_or_else(|violation| panic!("{violation}"))
    }

    /// What became of this one: exactly one thing.
    fn outcome(&self, tag: u64) -> Option<Outcome> {
        let outcomes = self.outcomes.lock().expect("no panic");
        let of_this = outcomes.get(&tag)?;
        assert_eq!(of_this.len(), 1, "{tag}: {of_this:?}");
        of_this.first().cloned()
    }
}

fn connected_to(address: IpAddr) -> Option<Outcome> {
    Some(Outcome::Connected(SocketAddr::new(address, PORT)))
}

fn failed(error: ConnectError) -> Option<Outcome> {
    Some(Outcome::Failed(error))
}

#[test]
fn a_host_is_looked_up_and_connected_to() {
    for seed in 0..10 {
        let mut world = World::clean(seed);
        world.ask("one.test", 1);
        world.run_for(1_000);
        assert_eq!(world.outcome(1), connected_to(SERVING), "seed {seed}");
        assert_eq!(world.run().connected(), 1);
    }
}

#[test]
fn where_one_address_refuses_the_next_is_tried() {
    let mut world = World::clean(1);
    world.ask("second.test", 1);
    world.ask("empty.test", 2);
    world.run_for(1_000);
    assert_eq!(world.outcome(1), connected_to(ALSO_SERVING));
    assert_eq!(world.outcome(2), failed(ConnectError::Refused));
    let report = world.run();
    assert_eq!((report.connected(), report.connects_failed()), (1, 1), "an address is no attempt of its own");
}

#[test]
fn a_name_that_nobody_knows_is_not_found_and_one_that_is_an_address_needs_no_look_up() {
    let mut world = World::clean(1);
    world.simulation.look_ups_take(Duration::from_secs(3600)..=Duration::from_secs(3600));
    world.ask("10.0.0.2", 1);
    world.run_for(1_000);
    assert_eq!(world.outcome(1), connected_to(ALSO_SERVING));
    let mut world = World::clean(1);
    world.ask("nobody.test", 2);
    world.run_for(1_000);
    assert_eq!(world.outcome(2), failed(ConnectError::NameNotFound));
    world.run();
}

#[test]
fn names_of_impossible_lengths_are_refused_at_once() {
    let world = World::clean(1);
    for name in [String::new(), "n".repeat(254)] {
        let refused = world.connector.connect(Target::host(name.as_str(), PORT)).expect_err("no name");
        assert_eq!(refused.reason, ConnectRefusal::NameLength { bytes: name.len(), limit: 253 });
    }
    world.connector.connect(Target::host("n".repeat(253), PORT)).expect("a possible name");
}

#[test]
fn a_look_up_that_takes_too_long_times_out_and_keeps_its_place_until_it_ends() {
    let limits = Limits { look_ups_outstanding: 1, ..Limits::default() };
    let client = Client::tcp().connect_timeout(Duration::from_millis(500));
    let mut world = World::new(Simulation::new(3), limits, client);
    world.simulation.look_ups_take(Duration::from_secs(2)..=Duration::from_secs(2));
    world.ask("one.test", 1);
    world.run_for(400);
    assert_eq!(world.outcome(1), None);
    world.run_for(200);
    assert_eq!(world.outcome(1), failed(ConnectError::TimedOut(Duration::from_millis(500))));
    world.ask("one.test", 2);
    world.run_for(1_000);
    assert_eq!(world.outcome(2), failed(ConnectError::TooManyLookUps { limit: 1 }));
    world.simulation.look_ups_take(Duration::ZERO..=Duration::ZERO);
    world.run_for(1_000);
    world.ask("one.test", 3);
    world.run_for(1_000);
    assert_eq!(world.outcome(3), connected_to(SERVING));
    assert_eq!(world.outcome(1), failed(ConnectError::TimedOut(Duration::from_millis(500))), "and that is all");
    world.run();
}

#[test]
fn as_many_are_looked_up_at_once_as_there_are_threads_and_the_others_wait_their_turn() {
    let client = Client::tcp().connect_timeout(Duration::from_millis(2_500));
    let mut world = World::new(Simulation::new(3), Limits { look_up_threads: 2, ..Limits::default() }, client);
    world.simulation.look_ups_take(Duration::from_secs(1)..=Duration::from_secs(1));
    (0..6).for_each(|tag| world.ask("one.test", tag));
    world.run_for(1_500);
    assert_eq!((0..6).filter(|&tag| world.outcome(tag).is_some()).count(), 2);
    world.run_for(2_500);
    let timed_out = failed(ConnectError::TimedOut(Duration::from_millis(2_500)));
    assert_eq!((0..6).filter(|&tag| world.outcome(tag) == connected_to(SERVING)).count(), 4);
    assert_eq!(
        (0..6).filter(|&tag| world.outcome(tag) == timed_out).count(),
        2,
        "the time of a request runs while it waits"
    );
    world.run();
}

#[test]
fn a_drain_gives_up_what_is_being_looked_up() {
    let mut world = World::clean(5);
    world.simulation.look_ups_take(Duration::from_secs(5)..=Duration::from_secs(5));
    world.ask("one.test", 1);
    world.run_for(100);
    let report = world.run();
    assert_eq!(world.outcome(1), failed(ConnectError::Draining));
    assert_eq!(report.connects_failed(), 1);
}

#[test]
fn a_maintained_connection_finds_its_host_where_it_is_now() {
    let mut world = World::clean(5);
    let how = ConnectionMaintaining::new(Target::host("moving.test", PORT).tag(1))
        .waits(Duration::from_millis(10), Duration::from_millis(20));
    let handle = world.connector.maintain(how).expect("room");
    world.run_for(300);
    world.simulation.name("moving.test", &[SERVING]);
    world.run_for(300);
    world.simulation.name("moving.test", &[ALSO_SERVING]);
    world.run_for(300);
    handle.cancel();
    let outcomes = world.outcomes.lock().expect("no panic").remove(&1).expect("attempts");
    let first = |wanted: &Outcome| outcomes.iter().position(|outcome| outcome == wanted);
    let places = [
        first(&Outcome::Failed(ConnectError::NameNotFound)),
        first(&Outcome::Connected(SocketAddr::new(SERVING, PORT))),
        first(&Outcome::Connected(SocketAddr::new(ALSO_SERVING, PORT))),
    ];
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{outcomes:?}");
    world.run();
}

#[test]
fn one_that_is_cancelled_while_its_host_is_looked_up_ends_at_once() {
    let mut world = World::clean(5);
    world.simulation.look_ups_take(Duration::from_secs(5)..=Duration::from_secs(5));
    let handle =
        world.connector.maintain(ConnectionMaintaining::new(Target::host("one.test", PORT).tag(1))).expect("room");
    world.run_for(100);
    handle.cancel();
    world.run_for(100);
    assert_eq!(world.outcome(1), failed(ConnectError::Cancelled));
    world.run();
}

/// What a hostile run has come to: its hash, and how many were connected.
fn hostile(seed: u64) -> (u64, u64) {
    const ASKED: u64 = 40;
    let simulation = Simulation::hostile(seed);
    let look_ups_outstanding = 1 + simulation.random_below(40) as u32;
    let look_up_threads = 1 + simulation.random_below(4) as u32;
    let max_connections = 10 + simulation.random_below(100) as u32;
    let connect_timeout = Duration::from_millis(20 + simulation.random_below(400));
    let limits = Limits { look_ups_outstanding, look_up_threads, max_connections, ..Limits::default() };
    let mut world = World::new(simulation, limits, Client::tcp().connect_timeout(connect_timeout));
    let slowest = 1 + world.simulation.random_below(100);
    world.simulation.look_ups_take(Duration::ZERO..=Duration::from_millis(slowest));
    for tag in 0..ASKED {
        let name = ["one.test", "second.test", "empty.test", "nobody.test"][world.simulation.random_below(4) as usize];
        world.ask(name, tag);
        if world.simulation.random_below(3) == 0 {
            let pause = 1 + world.simulation.random_below(20);
            world.run_for(pause);
        }
    }
    // Some are drained in the middle of it.
    let last = world.simulation.random_below(800);
    world.run_for(last);
    let report = world.run();
    let connected = (0..ASKED).filter(|&tag| match world.outcome(tag) {
        Some(Outcome::Connected(_)) => true,
        Some(Outcome::Failed(_)) => false,
        None => panic!("seed {seed}: nothing became of {tag}"),
    });
    let connected = connected.count() as u64;
    assert_eq!(report.connected(), connected, "seed {seed}");
    assert_eq!(report.connects_failed(), ASKED - connected, "seed {seed}");
    (world.simulation.trace_hash(), connected)
}

#[test]
fn in_hostile_worlds_each_request_has_one_outcome() {
    let connected: u64 = (0..150).map(|seed| hostile(seed).1).sum();
    assert!(connected > 1_000, "{connected} of 6,000 connected");
}

#[test]
fn a_run_with_look_ups_is_repeated_exactly_from_its_seed() {
    for seed in 0..10 {
        assert_eq!(hostile(seed), hostile(seed), "seed {seed}");
    }
}
