//! Limiters that listeners and clients share, and lists of who may connect, in simulated worlds.

use std::cell::Cell;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::sim::{Client, Next, Peer, Simulation};
use tidegate::{
    AccessList, Buffer, ConnectError, Connection, ConnectionLimiter, Handler, Limits, Listener, RefusedBecause, Report,
    Server, ServerBuilder, Target, WhenFull,
};

struct Echo;

impl Handler for Echo {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        connection.send(data).expect("an echo is never refused");
    }
}

/// Says a word, wants it back, keeps the connection for a while and finishes.
struct Word {
    said: bool,
    heard: usize,
    keeps: Duration,
    answered: Rc<Cell<u32>>,
}

const WORD: &[u8] = b"here";

impl Client for Word {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        if !self.said && peer.write(WORD).is_ok() {
            self.said = true;
        }
        let mut bytes = [0; 16];
        match peer.read(&mut bytes) {
            Ok(0) => return Next::Close,
            Ok(length) => self.heard += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Next::Close,
        }
        if self.heard < WORD.len() {
            return Next::Wait;
        }
        if self.keeps.is_zero() {
            self.answered.set(self.answered.get() + 1);
            return Next::Close;
        }
        peer.wake_after(std::mem::take(&mut self.keeps));
        Next::Wait
    }
}

struct World {
    simulation: Simulation,
    addresses: Vec<SocketAddr>,
    answered: Rc<Cell<u32>>,
}

impl World {
    fn new(mut simulation: Simulation, server: ServerBuilder) -> Self {
        let addresses = simulation.serve(server).expect("sound limits");
        Self { simulation, addresses, answered: Rc::default() }
    }

    fn client(&mut self, listener: usize, after_ms: u64, from: Option<&str>) {
        let keeps = Duration::from_millis(20);
        let client = Word { said: false, heard: 0, keeps, answered: Rc::clone(&self.answered) };
        let (address, after) = (self.addresses[listener], Duration::from_millis(after_ms));
        match from {
            Some(from) => self.simulation.client_from(from.parse().expect("an address"), address, after, client),
            None => self.simulation.client(address, after, client),
        };
    }

    fn run(&mut self) -> Report {
        self.simulation.run().unwrap_or_else(|violation| panic!("{violation}"))
    }
}

fn at(port: u16) -> Listener {
    Listener::tcp(SocketAddr::from(([10, 0, 0, 1], port)))
}

/// A world whose two listeners share a limiter, which is never overdrawn.
fn two_listeners(simulation: Simulation, most: u32, when_full: WhenFull) -> (World, ConnectionLimiter) {
    let limiter = ConnectionLimiter::new(most);
    let server = Server::builder()
        .limits(Limits { when_full, linger_timeout: Duration::from_millis(50), ..Limits::default() })
        .listen(at(7).limiter(&limiter), |_| Echo)
        .listen(at(8).limiter(&limiter), |_| Echo);
    let mut world = World::new(simulation, server);
    let watched = limiter.clone();
    world.simulation.check("the limiter", move |_| match watched.connections() {
        count if count > watched.most() => Err(format!("{count} connections of {}", watched.most())),
        _ => Ok(()),
    });
    (world, limiter)
}

#[test]
fn listeners_that_share_a_limiter_wait_for_each_other_and_serve_everybody() {
    for seed in 0..40 {
        // One place for two listeners: whoever hoarded it would starve the other.
        let (mut world, limiter) = two_listeners(Simulation::new(seed), 1 + (seed % 3) as u32, WhenFull::Wait);
        for number in 0..12 {
            world.client(number % 2, number as u64, None);
        }
        let report = world.run();
        assert_eq!((world.answered.get(), report.connections(), limiter.connections()), (12, 12, 0), "seed {seed}");
    }
}

#[test]
fn a_full_limiter_refuses_where_that_was_asked_for() {
    let (mut world, limiter) = two_listeners(Simulation::new(7), 2, WhenFull::Refuse);
    for number in 0..6 {
        world.client(number % 2, 0, None);
    }
    let report = world.run();
    let refused = report.refused(RefusedBecause::Limiter);
    assert!(refused > 0 && report.connections() + refused == 6, "{report:?}");
    assert_eq!((u64::from(world.answered.get()), limiter.connections()), (report.connections(), 0));
}

#[test]
fn what_waits_for_a_limiter_when_the_server_drains_is_refused() {
    let (mut world, _) = two_listeners(Simulation::new(7), 1, WhenFull::Wait);
    for number in 0..4 {
        world.client(0, number, None);
    }
    world.simulation.after(Duration::from_millis(10), |simulation| simulation.handle().drain());
    let report = world.run();
    assert_eq!((report.connections(), report.refused(RefusedBecause::Limiter)), (1, 3), "{report:?}");
}

#[test]
fn in_hostile_worlds_a_limiter_is_never_overdrawn_and_every_place_comes_back() {
    let mut served = 0;
    for seed in 0..150 {
        let simulation = Simulation::hostile(seed);
        let when_full = if simulation.random_below(2) == 0 { WhenFull::Wait } else { WhenFull::Refuse };
        let most = 1 + simulation.random_below(4) as u32;
        let (mut world, limiter) = two_listeners(simulation, most, when_full);
        for number in 0..16 {
            let after = world.simulation.random_below(100);
            world.client(number % 2, after, None);
        }
        if world.simulation.random_below(3) == 0 {
            let after = Duration::from_millis(world.simulation.random_below(100));
            world.simulation.after(after, |simulation| simulation.handle().drain());
        }
        served += world.run().connections();
        assert_eq!(limiter.connections(), 0, "seed {seed}");
    }
    assert!(served > 1_000, "only {served} connections were served");
}

#[test]
fn a_connect_beyond_the_limiter_fails_and_says_so_and_both_directions_count() {
    let failures = Arc::new(Mutex::new(Vec::new()));
    let limiter = ConnectionLimiter::new(2);
    let to_fill = Arc::clone(&failures);
    let client = tidegate::Client::tcp()
        .limiter(&limiter)
        .on_failed(move |failed| to_fill.lock().expect("no panic").push(failed.error));
    let (server, connector) = Server::builder().listen(at(7), |_| Echo).client(client, |_| Echo);
    let server = server.listen(at(8).limiter(&limiter), |_| Echo);
    let mut world = World::new(Simulation::new(7), server);
    for _ in 0..3 {
        connector.connect(Target::new(world.addresses[0])).expect("room");
    }
    // Nobody says anything: they stay.
    let connected = world.simulation.run_until(|simulation| simulation.connections() == 4);
    assert!(connected.expect("no violation"), "two connections with both ends here");
    assert_eq!(*failures.lock().expect("no panic"), [ConnectError::LimiterFull { limit: 2 }]);
    assert_eq!(limiter.connections(), 2);
    // The listener waits for those.
    world.client(1, 0, None);
    world.simulation.run_for(Duration::from_secs(1)).expect("no violation");
    assert_eq!(world.answered.get(), 0);
    world.simulation.handle().drain();
    world.run();
    assert_eq!(limiter.connections(), 0);
}

#[test]
fn who_is_not_allowed_is_refused_and_counted() {
    let list = AccessList::new()
        .allow("192.168.0.0/16".parse().expect("a network"))
        .deny("192.168.7.0/24".parse().expect("a network"));
    let server = Server::builder().listen(at(7).access(list), |_| Echo).listen(at(8), |_| Echo);
    let mut world = World::new(Simulation::new(7), server);
    for (number, from) in ["192.168.1.1:1", "192.168.7.1:2", "192.0.2.1:3", "192.168.6.9:4"].into_iter().enumerate() {
        world.client(0, number as u64, Some(from));
    }
    world.client(1, 0, Some("192.0.2.1:5"));
    let report = world.run();
    assert_eq!((world.answered.get(), report.refused(RefusedBecause::Denied)), (3, 2), "{report:?}");
}
