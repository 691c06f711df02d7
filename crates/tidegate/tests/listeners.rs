//! Several listeners that share few places, in simulated worlds: what one doesn't need is another's.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tidegate::filter::{Filter, FilterError, FilterFactory, FilterPeer, Reserve, SharedReserve};
use tidegate::sim::{Client, Next, Peer, Simulation};
use tidegate::{
    BindError, Buffer, Connection, Handler, Limits, Listener, RefusedBecause, Report, Server, Time, WhenFull,
};

const LISTENERS: u8 = 3;

/// Much longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends back what comes.
struct Echo;

impl Handler for Echo {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        connection.send(data).expect("an echo is never refused");
    }
}

/// Asks, and leaves when so many have their answers.
struct Asks {
    answered: Arc<AtomicU32>,
    together: u32,
    asked: bool,
    is_answered: bool,
}

impl Client for Asks {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        if !self.asked && peer.write(b"?").is_ok() {
            self.asked = true;
        }
        match peer.read(&mut [0; 8]) {
            Ok(1..) if !self.is_answered => {
                self.is_answered = true;
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            // Turned away.
            _ => return Next::Close,
        }
        if self.is_answered && self.answered.load(Ordering::Relaxed) >= self.together {
            return Next::Close;
        }
        if peer.now() > Time::ZERO + PATIENCE {
            return Next::Failed(format!(
                "answered: {}, and {} in all",
                self.is_answered,
                self.answered.load(Ordering::Relaxed)
            ));
        }
        peer.wake_after(Duration::from_millis(1));
        Next::Wait
    }
}

fn server(limits: Limits) -> tidegate::ServerBuilder {
    (1..=LISTENERS).fold(Server::builder().limits(limits), |builder, number| {
        builder.listen(Listener::tcp(SocketAddr::from(([10, 0, 0, number], 7007))), |_| Echo)
    })
}

/// Lets `clients` come to the last listener; each stays until `together` have their answers. Returns how many had.
fn only_the_last_is_busy(seed: u64, limits: Limits, clients: u32, together: u32) -> (Report, u32) {
    let mut simulation = Simulation::new(seed);
    let address = *simulation.serve(server(limits)).expect("sound limits").last().expect("there are listeners");
    let answered = Arc::new(AtomicU32::new(0));
    for _ in 0..clients {
        let after = Duration::from_micros(simulation.random_below(50_000));
        let asks = Asks { answered: Arc::clone(&answered), together, asked: false, is_answered: false };
        simulation.client(address, after, asks);
    }
    let report = simulation.run().unwrap_or_else(|violation| panic!("{violation}"));
    (report, answered.load(Ordering::Relaxed))
}

/// Idle listeners once kept all places but one ready for themselves.
#[test]
fn a_busy_listener_gets_the_places_that_idle_ones_do_not_use() {
    for seed in 0..10 {
        let limits = Limits { max_connections: 64, ..Limits::default() };
        // An eighth of the places is kept ready at most.
        assert_eq!(only_the_last_is_busy(seed, limits, 80, 56).1, 80, "seed {seed}");
    }
}

#[test]
fn a_listener_has_a_place_of_its_own_when_there_are_no_more_places_than_listeners() {
    for seed in 0..10 {
        let limits = Limits { max_connections: LISTENERS.into(), ..Limits::default() };
        assert_eq!(only_the_last_is_busy(seed, limits, 20, 1).1, 20, "seed {seed}");
    }
}

#[test]
fn fewer_places_than_listeners_are_refused_unless_who_comes_too_many_is_turned_away() {
    let limits = Limits { max_connections: 2, ..Limits::default() };
    match Simulation::new(0).serve(server(limits.clone())) {
        Err(BindError::Limits(error)) => {
            let text = error.to_string();
            assert!(text.contains("max_connections is 2") && text.contains("3 listeners"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    for seed in 0..10 {
        let limits = Limits { when_full: WhenFull::Refuse, ..limits.clone() };
        let (report, answered) = only_the_last_is_busy(seed, limits, 20, 1);
        assert!(answered >= 2, "seed {seed}");
        assert_eq!(u64::from(answered) + report.refused(RefusedBecause::Full), 20, "seed {seed}");
    }
}

/// The product with the number of connections once overflowed, and what was left of it fitted.
#[test]
fn more_than_any_machine_has_can_be_reserved_and_is_refused() {
    for bytes in [usize::MAX, usize::MAX / 1000 + 1] {
        let listener = |reserved: usize, of_call: usize| {
            let address = SocketAddr::from(([127, 0, 0, 1], 0));
            Listener::tcp(address).reserve(reserved).reserve(reserved / 2).reserve_call(of_call)
        };
        let limits = Limits { max_connections: 1000, ..Limits::default() };
        for listener in [listener(bytes, 0), listener(0, bytes)] {
            let server = Server::builder().threads(2.try_into().expect("two")).limits(limits.clone()).memory(256 << 20);
            let Err(refused) = server.listen(listener.clone(), |_| Echo).bind() else { panic!("{bytes} bytes fit") };
            assert!(refused.to_string().contains("of memory are not enough for 1000 connections"), "{refused}");
            let server = Server::builder().threads(1000.try_into().expect("a thousand")).limits(limits.clone());
            let served = tidegate::sim::Simulation::new(1).serve(server.memory(256 << 20).listen(listener, |_| Echo));
            assert!(served.is_err(), "{bytes} bytes fit into a simulation");
        }
    }
}

/// What filters declare overflowed in the same way.
#[test]
fn filters_that_declare_more_than_any_machine_has_are_refused() {
    struct Greedy(Reserve, SharedReserve);
    impl FilterFactory for Greedy {
        fn reserve(&self) -> Reserve {
            self.0
        }
        fn shared_reserve(&self) -> SharedReserve {
            self.1
        }
        fn make(&self, _: &FilterPeer) -> Result<Box<dyn Filter>, FilterError> {
            unreachable!("nobody is connected")
        }
    }
    for bytes in [usize::MAX, usize::MAX / 1000 + 1, usize::MAX - 100] {
        let (each, all) = (Reserve::default(), SharedReserve::default());
        for (each, all) in [
            (Reserve { state_bytes: bytes, ..each }, all),
            (Reserve { write_bytes: bytes, ..each }, all),
            (Reserve { state_bytes: bytes, write_bytes: bytes }, all),
            (each, SharedReserve { call_bytes: bytes, ..all }),
            (each, SharedReserve { shared_bytes: bytes, ..all }),
        ] {
            let listener = Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0))).filter(Greedy(each, all));
            let listener = listener.filter(Greedy(each, all));
            let limits = Limits { max_connections: 1000, ..Limits::default() };
            let server = Server::builder().threads(2.try_into().expect("two")).limits(limits).memory(256 << 20);
            let Err(refused) = server.listen(listener, |_| Echo).bind() else { panic!("{each:?} {all:?} fit") };
            assert!(refused.to_string().contains("of memory are not enough for 1000 connections"), "{refused}");
        }
    }
}

#[test]
fn what_handlers_reserve_is_a_term_of_the_ceiling_and_comes_from_the_memory_of_the_server() {
    let ceiling = |reserves: &[usize]| {
        let limits = Limits { max_connections: 1000, ..Limits::default() };
        let server = Server::builder().limits(limits).memory(256 << 20);
        let server = reserves.iter().fold(server, |server, &bytes| {
            server.listen(Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0))).reserve(bytes), |_| Echo)
        });
        let bound = server.bind().expect("it fits");
        assert_eq!(bound.ceiling().total(), 256 << 20, "what is reserved is not send memory's");
        bound.ceiling().clone()
    };
    assert!(ceiling(&[0]).terms().iter().all(|(name, _)| *name != "reserved"));
    assert_eq!(ceiling(&[70_000]).reserved_bytes, 70_000_000);
    // A connection is of one listener.
    assert_eq!(ceiling(&[70_000, 30_000, 0]).terms().last(), Some(&("reserved", 70_000_000)));
    // And what a call takes, once for each I/O thread.
    let server = Server::builder().limits(Limits { max_connections: 10, ..Limits::default() }).memory(64 << 20);
    let listener = Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0))).reserve(1_000).reserve_call(500_000);
    let bound = server.threads(2.try_into().expect("two")).listen(listener, |_| Echo).bind().expect("it fits");
    assert_eq!((bound.ceiling().reserved_bytes, bound.ceiling().total()), (1_010_000, 64 << 20));
    let client = tidegate::Client::tcp().reserve(80_000).reserve(1_000);
    let limits = Limits { max_connections: 10, ..Limits::default() };
    let (server, _connector) = Server::builder().limits(limits).client(client, |_| Echo);
    assert_eq!(server.bind().expect("it fits").ceiling().reserved_bytes, 810_000);
}
