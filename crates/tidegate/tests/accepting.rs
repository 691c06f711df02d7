//! The acceptor in simulated worlds: its limits hold whatever goes wrong, and a rate is kept to the tick.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::sim::{Client, Next, Peer, Simulation, Violation};
use tidegate::{
    Accepted, Buffer, CloseReason, Connection, Handler, Limits, Listener, RefusedBecause, Report, Server, WhenFull,
};

const BUSY: &[u8] = b"busy";
const WORD: &[u8] = b"are you there?";

/// What the handlers see of each other.
#[derive(Default)]
struct Ledger {
    by_ip: BTreeMap<IpAddr, u32>,
    by_ip_max: u32,
    by_thread: BTreeMap<usize, u32>,
    by_thread_max: BTreeMap<usize, u32>,
    /// When each was told of its connection, in nanoseconds.
    connected_ns: Vec<u64>,
}

/// Sends back what comes, and is counted.
struct Counted {
    accepted: Accepted,
    ledger: Arc<Mutex<Ledger>>,
}

impl Counted {
    fn new(accepted: &Accepted, ledger: &Arc<Mutex<Ledger>>) -> Self {
        let mut all = ledger.lock().expect("no handler panics");
        let count = all.by_ip.entry(accepted.peer.ip()).or_default();
        *count += 1;
        let count = *count;
        all.by_ip_max = all.by_ip_max.max(count);
        let active = all.by_thread.entry(accepted.io_thread).or_default();
        *active += 1;
        let active = *active;
        let most = all.by_thread_max.entry(accepted.io_thread).or_default();
        *most = active.max(*most);
        drop(all);
        Self { accepted: accepted.clone(), ledger: Arc::clone(ledger) }
    }
}

impl Handler for Counted {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        let mut all = self.ledger.lock().expect("no handler panics");
        all.connected_ns.push(connection.now().as_nanos());
    }

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        let _ = connection.send(data);
    }

    fn on_peer_shutdown(&mut self, connection: &mut Connection<'_>) {
        connection.shutdown();
    }

    fn on_close(self, _reason: &CloseReason) {
        let mut all = self.ledger.lock().expect("no handler panics");
        *all.by_ip.get_mut(&self.accepted.peer.ip()).expect("counted") -= 1;
        *all.by_thread.get_mut(&self.accepted.io_thread).expect("counted") -= 1;
    }
}

/// Says a word and wants it back, or to hear that the server is busy; keeps the connection for a while.
struct Asks {
    written: usize,
    got: Vec<u8>,
    stays: Duration,
    leaves: bool,
    answered: Arc<Mutex<(u64, u64)>>,
}

impl Client for Asks {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        while self.written < WORD.len() {
            match peer.write(&WORD[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Refused and gone; what it was told, if it was, is read below.
                Err(_) => break,
            }
        }
        let mut block = [0; 64];
        loop {
            match peer.read(&mut block) {
                Ok(0) => break,
                Ok(count) => self.got.extend_from_slice(&block[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.got == WORD {
                        if self.leaves {
                            self.answered.lock().expect("no client panics").0 += 1;
                            return Next::Close;
                        }
                        self.leaves = true;
                        peer.wake_after(self.stays);
                    }
                    return Next::Wait;
                }
                // A reset, by fate or after a refusal.
                Err(_) => return Next::Close,
            }
        }
        if self.got == BUSY {
            self.answered.lock().expect("no client panics").1 += 1;
        } else if !WORD.starts_with(&self.got) && !BUSY.starts_with(&self.got) {
            return Next::Failed(format!("got {:?}", self.got));
        }
        Next::Close
    }
}

struct Outcome {
    report: Report,
    ledger: Ledger,
    /// Clients that got their word back, and clients that heard that the server is busy.
    answered: (u64, u64),
    hash: u64,
    events: u64,
}

/// `clients` from `addresses` addresses come within `within`.
fn run(
    mut simulation: Simulation,
    limits: Limits,
    (clients, addresses, within): (u64, u64, Duration),
    stays: Duration,
) -> Result<Outcome, Violation> {
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let answered = Arc::new(Mutex::new((0, 0)));
    let handlers = Arc::clone(&ledger);
    let server = Server::builder()
        .limits(limits)
        .listen(Listener::tcp(([10, 0, 0, 1], 7007).into()).busy_answer(BUSY), move |accepted: &Accepted| {
            Counted::new(accepted, &handlers)
        });
    let address = simulation.serve(server).expect("the limits are sound")[0];
    for number in 0..clients {
        let last = simulation.random_below(addresses) as u8;
        let local = SocketAddr::from(([10, 9, 9, last], 1_000 + number as u16));
        let after = Duration::from_nanos(simulation.random_below(within.as_nanos() as u64 + 1));
        let client = Asks { written: 0, got: Vec::new(), stays, leaves: false, answered: Arc::clone(&answered) };
        simulation.client_from(local, address, after, client);
    }
    let report = simulation.run()?;
    let (hash, events) = (simulation.trace_hash(), simulation.trace_count());
    drop(simulation);
    let ledger = std::mem::take(&mut *ledger.lock().expect("no handler panics"));
    let answered = *answered.lock().expect("no client panics");
    Ok(Outcome { report, ledger, answered, hash, events })
}

#[test]
fn in_hostile_worlds_no_limit_of_the_acceptor_is_ever_exceeded_and_nobody_is_lost() {
    let mut refused = [0; 3];
    let causes = [RefusedBecause::Full, RefusedBecause::PerIp, RefusedBecause::Unserved];
    let mut served = 0;
    for seed in 0..150 {
        let simulation = Simulation::hostile(seed);
        let below = |bound| simulation.random_below(bound) as u32;
        let limits = Limits {
            max_connections: 4 + below(10),
            connections_per_ip: [None, Some(1 + below(4))][below(2) as usize],
            accept_rate: [None, Some(1 + below(200))][below(2) as usize],
            active_connections: [None, Some(1 + below(4))][below(2) as usize],
            when_full: [WhenFull::Wait, WhenFull::Refuse][below(2) as usize],
            ..Limits::default()
        };
        let again = limits.clone();
        let arrive = (30, 5, Duration::from_millis(300));
        let stays = Duration::from_millis(50);
        let outcome = run(simulation, limits.clone(), arrive, stays).unwrap_or_else(|violation| panic!("{violation}"));
        let most = limits.connections_per_ip.unwrap_or(u32::MAX);
        assert!(outcome.ledger.by_ip_max <= most, "seed {seed}: {} of one address", outcome.ledger.by_ip_max);
        for (thread, &active) in &outcome.ledger.by_thread_max {
            let share = limits.active_connections.map_or(u32::MAX, |active| active.div_ceil(2));
            assert!(active <= share, "seed {seed}: {active} active on thread {thread}, of {share}");
        }
        assert!(outcome.ledger.by_ip.values().all(|&count| count == 0), "seed {seed}: somebody is left");
        let (full, per_ip) = (outcome.report.refused(causes[0]), outcome.report.refused(causes[1]));
        assert!(outcome.answered.1 <= full + per_ip, "seed {seed}: who told them?");
        assert!(limits.when_full == WhenFull::Refuse || full == 0, "seed {seed}");
        assert!(limits.connections_per_ip.is_some() || per_ip == 0, "seed {seed}");
        assert!(outcome.report.connections() + full + per_ip <= 30, "seed {seed}");
        served += outcome.answered.0;
        for (sum, because) in refused.iter_mut().zip(causes) {
            *sum += outcome.report.refused(because);
        }
        if seed % 30 == 0 {
            let simulation = Simulation::hostile(seed);
            // The same dice in the same order.
            for bound in [10, 4, 2, 200, 2, 4, 2, 2] {
                simulation.random_below(bound);
            }
            let second = run(simulation, again, arrive, stays).unwrap_or_else(|violation| panic!("{violation}"));
            assert_eq!((outcome.hash, outcome.events), (second.hash, second.events), "seed {seed} has two histories");
        }
    }
    assert!(refused[0] > 0 && refused[1] > 0 && served > 0, "{refused:?} refused, {served} served");
}

#[test]
fn a_rate_is_kept_to_the_tick_and_the_acceptor_does_not_spin() {
    // Bursts of 10: the other 40 come one by one, 10 ms apart, as far as the ticks of the wheel (1 ms) go.
    let limits = |rate| Limits { accept_rate: rate, ..Limits::default() };
    let arrive = (50, 200, Duration::ZERO);
    let stays = Duration::from_secs(1);
    let limited = run(Simulation::new(3), limits(Some(100)), arrive, stays).expect("a clean world");
    let mut times = limited.ledger.connected_ns.clone();
    times.sort_unstable();
    assert_eq!((times.len(), limited.answered), (50, (50, 0)));
    let begun = times[0];
    for (number, &time) in times.iter().enumerate().skip(10) {
        let earliest = begun + (number as u64 - 9) * 10_000_000;
        assert!(time + 1_000_000 >= earliest, "connection {number} after {} ns", time - begun);
        assert!(time <= earliest + 3_000_000, "connection {number} after {} ns", time - begun);
    }
    let unlimited = run(Simulation::new(3), limits(None), arrive, stays).expect("a clean world");
    assert!(limited.events <= unlimited.events + 200, "{} events, {} without", limited.events, unlimited.events);
}

#[test]
fn in_a_clean_world_every_refused_client_hears_that_the_server_is_busy() {
    let limits = Limits { max_connections: 5, when_full: WhenFull::Refuse, ..Limits::default() };
    let arrive = (60, 200, Duration::from_millis(100));
    let outcome = run(Simulation::new(8), limits, arrive, Duration::from_millis(20)).expect("a clean world");
    let (served, busy) = outcome.answered;
    assert!(served >= 5 && busy > 0, "{served} served, {busy} refused");
    assert_eq!(outcome.report.connections(), served);
    let refused = outcome.report.refused(RefusedBecause::Full);
    // One whose word arrives after the refusal sees a reset, which may overtake the answer in this world.
    assert!(busy <= refused && served + refused == 60, "{busy} of {refused} heard it");
}
