//! Outgoing connections that are kept alive, and what is said first on them, in simulated worlds.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::sim::Simulation;
use tidegate::{
    Buffer, Client, CloseReason, ConnectError, ConnectRefusal, Connection, ConnectionMaintaining, Connector, GaveUp,
    Handler, Limits, Listener, MaintainingEvent, MaintainingHandle, Report, Server, Target,
};

/// What a listener hears, over all its connections.
type Heard = Arc<Mutex<Vec<u8>>>;

/// Listens, and closes a connection some time after it was made.
struct Closes {
    after: Option<Duration>,
    heard: Heard,
}

impl Handler for Closes {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        if let Some(after) = self.after {
            connection.set_timer(0, after);
        }
    }

    fn on_read(&mut self, _connection: &mut Connection<'_>, data: Buffer) {
        self.heard.lock().expect("no panic").extend_from_slice(&data);
    }

    fn on_timer(&mut self, connection: &mut Connection<'_>, _timer: u8) {
        connection.close();
    }
}

/// Sends a word when it is connected, and waits.
struct Says(&'static str);

impl Handler for Says {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        let _ = connection.send(self.0);
    }

    fn on_read(&mut self, _connection: &mut Connection<'_>, _data: Buffer) {}
}

const LISTENING: ([u8; 4], u16) = ([10, 0, 0, 1], 7);
const NOBODY: ([u8; 4], u16) = ([10, 0, 0, 1], 9);

struct World {
    simulation: Simulation,
    connector: Connector,
    heard: Heard,
    events: Arc<Mutex<Vec<MaintainingEvent>>>,
}

impl World {
    fn new(mut simulation: Simulation, closes_after: Option<Duration>, says: &'static str) -> Self {
        let heard = Heard::default();
        let to_fill = Arc::clone(&heard);
        let limits =
            Limits { connections_maintained: 8, linger_timeout: Duration::from_millis(20), ..Limits::default() };
        let make = move |_: &_| Closes { after: closes_after, heard: Arc::clone(&to_fill) };
        let server = Server::builder().limits(limits).listen(Listener::tcp(LISTENING.into()), make);
        let client = Client::tcp().connect_timeout(Duration::from_millis(500));
        let (server, connector) = server.client(client, move |_| Says(says));
        simulation.serve(server).expect("sound limits");
        Self { simulation, connector, heard, events: Arc::default() }
    }

    /// Maintains connections to `target` with short waits; events are noted.
    fn maintain(
        &self,
        address: ([u8; 4], u16),
        change: impl FnOnce(ConnectionMaintaining) -> ConnectionMaintaining,
    ) -> MaintainingHandle {
        let events = Arc::clone(&self.events);
        let how = ConnectionMaintaining::new(Target::new(address.into()))
            .waits(Duration::from_millis(10), Duration::from_millis(80))
            .steady_after(Duration::from_millis(40))
            .on_event(move |event| events.lock().expect("no panic").push(event.clone()));
        self.connector.maintain(change(how)).expect("room")
    }

    fn run_for(&mut self, millis: u64) {
        let ran = self.simulation.run_for(Duration::from_millis(millis));
        ran.unwrap_or_else(|violation| panic!("{violation}"));
    }

    fn run(&mut self) -> Report {
        self.simulation.run().unwrap_or_else(|violation| panic!("{violation}"))
    }

    fn events(&self) -> Vec<MaintainingEvent> {
        self.events.lock().expect("no panic").clone()
    }

    fn gave_up(&self, why: GaveUp) -> usize {
        self.events().iter().filter(|event| **event == MaintainingEvent::GaveUp { because: why }).count()
    }
}

#[test]
fn first_data_is_sent_before_anything_that_the_handler_sends() {
    for seed in 0..20 {
        let mut world = World::new(Simulation::new(seed), None, "second");
        let target = Target::new(LISTENING.into()).first_data(&b"first, "[..]);
        world.connector.connect(target).expect("room");
        world.run_for(1_000);
        assert_eq!(*world.heard.lock().expect("no panic"), b"first, second", "seed {seed}");
        world.run();
    }
}

#[test]
fn first_data_that_no_queue_could_hold_is_refused_with_its_numbers() {
    let world = World::new(Simulation::new(7), None, "");
    let bytes = Limits::default().send_queue_bytes + 1;
    let refused =
        world.connector.connect(Target::new(LISTENING.into()).first_data(vec![0; bytes])).expect_err("too long");
    assert_eq!(refused.reason, ConnectRefusal::FirstDataTooLarge { bytes, limit: bytes - 1 });
    assert!(refused.to_string().contains("send_queue_bytes") && refused.target.first_data.len() == bytes);
}

#[test]
fn a_connection_that_ends_is_made_again_until_that_is_cancelled() {
    let mut world = World::new(Simulation::new(7), Some(Duration::from_millis(100)), "again ");
    let handle = world.maintain(LISTENING, |how| how);
    world.run_for(1_000);
    let events = world.events();
    let connected =
        events.iter().filter(|event| matches!(event, MaintainingEvent::Connected { attempts: 1, .. })).count();
    assert!((5..=10).contains(&connected), "{events:?}");
    for pair in events.windows(2) {
        match pair {
            // Each has lasted long enough: the waits don't grow.
            [MaintainingEvent::Lost { reason, lasted, next_try_in }, MaintainingEvent::Connected { .. }] => {
                assert_eq!(*reason, CloseReason::Finished);
                assert!(*lasted >= Duration::from_millis(100) && next_try_in.expect("on") <= Duration::from_millis(10));
            }
            [MaintainingEvent::Connected { .. }, MaintainingEvent::Lost { .. }] => {}
            other => panic!("{other:?}"),
        }
    }
    let heard = world.heard.lock().expect("no panic").len();
    assert_eq!(heard, connected * "again ".len());
    handle.cancel();
    world.run_for(1_000);
    assert_eq!((world.gave_up(GaveUp::Cancelled), world.simulation.connections()), (1, 0));
    assert_eq!(world.run().connected(), connected as u64);
}

#[test]
fn attempts_that_fail_wait_longer_and_longer_and_give_up_in_the_end() {
    let mut world = World::new(Simulation::new(7), None, "");
    world.maintain(NOBODY, |how| how.attempts(6));
    world.run_for(2_000);
    let mut events = world.events().into_iter();
    for (number, whole_ms) in (1..6).zip([10, 20, 40, 80, 80]) {
        let Some(MaintainingEvent::Failed { error, attempts, next_try_in }) = events.next() else { panic!("too few") };
        assert_eq!((error, attempts), (ConnectError::Refused, number));
        let bounds = Duration::from_millis(whole_ms / 2)..=Duration::from_millis(whole_ms);
        assert!(next_try_in.is_some_and(|wait| bounds.contains(&wait)), "{next_try_in:?} of {whole_ms} ms");
    }
    let last = MaintainingEvent::Failed { error: ConnectError::Refused, attempts: 6, next_try_in: None };
    let gave_up = MaintainingEvent::GaveUp { because: GaveUp::Attempts };
    assert_eq!(events.collect::<Vec<_>>(), [last, gave_up]);
    assert_eq!(world.run().connects_failed(), 6);
}

#[test]
fn a_drain_ends_it_while_it_is_connected_and_while_it_waits() {
    for address in [LISTENING, NOBODY] {
        let mut world = World::new(Simulation::new(7), None, "");
        world.maintain(address, |how| how.connections(3).waits(Duration::from_secs(9), Duration::from_secs(9)));
        world.run_for(500);
        world.run();
        assert_eq!(world.gave_up(GaveUp::Draining), 3, "{:?}", world.events());
    }
}

#[test]
fn a_wait_that_is_cancelled_ends_at_once() {
    let mut world = World::new(Simulation::new(7), None, "");
    let handle = world.maintain(NOBODY, |how| how.waits(Duration::from_secs(100), Duration::from_secs(100)));
    world.run_for(100);
    handle.cancel();
    world.run_for(1);
    assert_eq!(world.gave_up(GaveUp::Cancelled), 1, "a wait of 100 s ends at once");
    world.run();
}

#[test]
fn no_more_are_maintained_than_may_and_places_come_back() {
    let mut world = World::new(Simulation::new(7), None, "");
    let handle = world.maintain(LISTENING, |how| how.connections(6));
    let more = || ConnectionMaintaining::new(Target::new(LISTENING.into())).connections(3);
    let refused = world.connector.maintain(more()).expect_err("no room for three");
    assert_eq!(refused.reason, ConnectRefusal::TooManyMaintained { wanted: 3, maintained: 6, limit: 8 });
    handle.cancel();
    world.run_for(100);
    world.connector.maintain(more()).expect("room again");
    world.run();
}

/// One hostile run, as far as it can be told: its hash, and how often something was connected.
fn hostile(seed: u64) -> (u64, usize) {
    let simulation = Simulation::hostile(seed);
    let closes_after = Duration::from_millis(simulation.random_below(200));
    let mut world = World::new(simulation, Some(closes_after), "word");
    let steady = world.maintain(LISTENING, |how| how.connections(3));
    world.maintain(NOBODY, |how| how.connections(2).attempts(4));
    let millis = world.simulation.random_below(3_000);
    world.run_for(millis);
    if seed.is_multiple_of(2) {
        steady.cancel();
        let millis = world.simulation.random_below(300);
        world.run_for(millis);
    }
    let report = world.run();
    let events = world.events();
    let gave_up = events.iter().filter(|event| matches!(event, MaintainingEvent::GaveUp { .. })).count();
    assert_eq!(gave_up, 5, "seed {seed}: {events:?}");
    let connected = events.iter().filter(|event| matches!(event, MaintainingEvent::Connected { .. })).count();
    let lost = events.iter().filter(|event| matches!(event, MaintainingEvent::Lost { .. })).count();
    let failed = events.iter().filter(|event| matches!(event, MaintainingEvent::Failed { .. })).count();
    assert_eq!((connected as u64, lost as u64), (report.connected(), report.connected()), "seed {seed}");
    assert_eq!(failed as u64, report.connects_failed(), "seed {seed}");
    (world.simulation.trace_hash(), connected)
}

#[test]
fn in_hostile_worlds_each_is_in_one_state_and_gives_up_once() {
    let connected: usize = (0..150).map(|seed| hostile(seed).1).sum();
    assert!(connected > 1_000, "only {connected} connections");
}

#[test]
fn a_run_with_maintained_connections_is_repeated_exactly_from_its_seed() {
    for seed in 0..10 {
        assert_eq!(hostile(seed), hostile(seed), "seed {seed}");
    }
}

#[test]
fn sockets_addresses_of_events_are_those_of_the_target() {
    let mut world = World::new(Simulation::new(7), None, "");
    world.maintain(LISTENING, |how| how);
    world.run_for(100);
    let peer = SocketAddr::from(LISTENING);
    assert_eq!(world.events(), [MaintainingEvent::Connected { peer, attempts: 1 }]);
    world.run();
}
