//! A server that connects to itself, in simulated worlds: what goes out comes back, whatever the network does.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate::sim::{Client as Driver, Next, Peer, Simulation, Violation};
use tidegate::{
    Buffer, Client, ConnectError, ConnectRefusal, Connected, Connection, Connector, Handler, Limits, Listener,
    RefusedBecause, Report, Server, Target, WhenFull,
};

/// Enough worlds for every outcome, few enough for every test run.
const SEEDS: u64 = 60;

/// Sends back what comes.
struct Echo;

impl Handler for Echo {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        connection.send(data).expect("a reply is never refused");
    }
}

/// What happened, for a run and its driver.
#[derive(Default)]
struct Outcomes {
    /// For each tag, how many handlers were made and how many failures told.
    by_tag: Mutex<Vec<u32>>,
    connected: AtomicUsize,
    answered: AtomicUsize,
    ended: AtomicUsize,
    failed: [AtomicUsize; 4],
    /// The sum of all addresses and ports that connections had.
    locals: AtomicU64,
}

impl Outcomes {
    fn note(&self, tag: u64) {
        self.by_tag.lock().unwrap_or_else(PoisonError::into_inner)[tag as usize] += 1;
    }

    fn are_complete(&self) -> bool {
        let all = self.by_tag.lock().unwrap_or_else(PoisonError::into_inner).iter().all(|&count| count > 0);
        all && self.ended.load(Ordering::Relaxed) == self.connected.load(Ordering::Relaxed)
    }

    fn failures(&self) -> [usize; 4] {
        self.failed.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

/// Which of the four counters a failure is counted in.
fn number(error: &ConnectError) -> usize {
    match error {
        ConnectError::TimedOut(_) => 0,
        ConnectError::Refused => 1,
        ConnectError::LimitReached { .. } => 2,
        ConnectError::Draining => 3,
        other => panic!("nothing else goes wrong in a simulated world: {other}"),
    }
}

/// Sends `expected` in pieces, wants each back before the next, and closes.
struct Asker {
    outcomes: Arc<Outcomes>,
    tag: u64,
    left: u32,
    /// What was sent and has not come back.
    expected: Vec<u8>,
}

impl Asker {
    fn ask(&mut self, connection: &mut Connection<'_>) {
        let length = 1 + connection.random() % 3_000;
        self.expected = (0..length).map(|at| (at * 7 + self.tag + u64::from(self.left)) as u8).collect();
        connection.send(self.expected.clone()).expect("the queue is empty");
    }
}

impl Handler for Asker {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        self.ask(connection);
    }

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        assert!(self.expected.starts_with(&data), "tag {}: not what was sent", self.tag);
        self.expected.drain(..data.len());
        if self.expected.is_empty() {
            match self.left.checked_sub(1) {
                Some(left) => {
                    self.left = left;
                    self.ask(connection);
                }
                None => {
                    self.outcomes.answered.fetch_add(1, Ordering::Relaxed);
                    connection.close();
                }
            }
        }
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.outcomes.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// Asks for connections one after the other, at random times, and waits for what becomes of them, or drains before.
struct Asking {
    connector: Connector,
    outcomes: Arc<Outcomes>,
    targets: Vec<Target>,
    patient: bool,
}

impl Driver for Asking {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        let at_once = 1 + peer.random_below(8) as usize;
        for _ in 0..at_once.min(self.targets.len()) {
            let Some(target) = self.targets.pop() else { break };
            match self.connector.connect(target.clone()) {
                Ok(()) => {}
                Err(refused) if matches!(refused.reason, ConnectRefusal::QueueFull { .. }) => {
                    assert_eq!(*refused.target, target);
                    self.targets.push(target);
                    break;
                }
                Err(refused) => return Next::Failed(format!("a connect is refused: {refused}")),
            }
        }
        if self.targets.is_empty() && (!self.patient || self.outcomes.are_complete()) {
            return Next::Close;
        }
        peer.wake_after(Duration::from_micros(1 + peer.random_below(20_000)));
        Next::Wait
    }
}

struct Outcome {
    report: Report,
    hash: u64,
    outcomes: Arc<Outcomes>,
}

const ASKED: u64 = 40;

fn run(seed: u64, simulation: Simulation, patient: bool) -> Result<Outcome, Violation> {
    run_when_full(WhenFull::Wait, seed, simulation, patient)
}

fn run_when_full(
    when_full: WhenFull,
    seed: u64,
    mut simulation: Simulation,
    patient: bool,
) -> Result<Outcome, Violation> {
    let outcomes = Arc::new(Outcomes { by_tag: Mutex::new(vec![0; ASKED as usize]), ..Outcomes::default() });
    let (made, failed) = (Arc::clone(&outcomes), Arc::clone(&outcomes));
    let connect_timeout = Duration::from_millis(1 + simulation.random_below(60));
    let client = Client::tcp().connect_timeout(connect_timeout).on_failed(move |failure| {
        failed.note(failure.tag);
        failed.failed[number(&failure.error)].fetch_add(1, Ordering::Relaxed);
    });
    // From where most connects find no place to where all do.
    let max_connections = 6 + simulation.random_below(60) as u32;
    let limits = Limits { max_connections, when_full, connects_waiting: 5, ..Limits::default() };
    let address: SocketAddr = SocketAddr::from(([10, 0, 0, 1], 7007));
    let builder = Server::builder().limits(limits).threads(NonZeroUsize::new(2).expect("not zero"));
    let (builder, connector) =
        builder.listen(Listener::tcp(address), |_| Echo).client(client, move |connected: &Connected| {
            made.note(connected.tag);
            made.connected.fetch_add(1, Ordering::Relaxed);
            assert_eq!(connected.peer, address);
            if connected.tag.is_multiple_of(2) {
                assert_eq!(connected.local.ip(), source(connected.tag), "the source that was asked for");
            }
            made.locals.fetch_add(u64::from(connected.local.port()), Ordering::Relaxed);
            let left = (connected.tag % 5) as u32;
            Asker { outcomes: Arc::clone(&made), tag: connected.tag, left, expected: Vec::new() }
        });
    simulation.serve(builder).expect("free addresses and sound limits");
    let nobody = SocketAddr::from(([10, 0, 0, 1], 9));
    let targets = (0..ASKED).rev().map(|tag| {
        let target = Target::new(if tag % 10 == 9 { nobody } else { address }).tag(tag);
        let target = if tag.is_multiple_of(2) { target.from_source(source(tag)) } else { target };
        if tag.is_multiple_of(3) { target.on_thread((tag % 2) as usize) } else { target }
    });
    let asking = Asking { connector, outcomes: Arc::clone(&outcomes), targets: targets.collect(), patient };
    // The driver's own connection is refused, and doesn't matter.
    simulation.client(nobody, Duration::from_micros(seed % 100), asking);
    let report = simulation.run()?;
    Ok(Outcome { report, hash: simulation.trace_hash(), outcomes })
}

fn source(tag: u64) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 9, 0, (tag % 4) as u8))
}

#[test]
fn in_a_clean_world_a_server_talks_to_itself() {
    for seed in 0..20 {
        let Outcome { report, outcomes, .. } = match run(seed, Simulation::new(seed), true) {
            Ok(outcome) => outcome,
            Err(violation) => panic!("{violation}"),
        };
        let [timed_out, refused, _, draining] = outcomes.failures();
        assert_eq!((timed_out, draining), (0, 0), "seed {seed}");
        assert!((1..=4).contains(&refused), "of the four to nobody, some at the limit: {refused}, seed {seed}");
        assert_eq!(outcomes.answered.load(Ordering::Relaxed) as u64, report.connected(), "seed {seed}");
        assert_eq!(report.connections(), 2 * report.connected(), "each is accepted too");
    }
}

#[test]
fn in_dozens_of_hostile_worlds_every_connect_has_exactly_one_outcome() {
    let mut failures = [0; 4];
    let (mut connected, mut answered) = (0, 0);
    for seed in 0..SEEDS {
        let outcome = match run(seed, Simulation::hostile(seed), seed % 4 != 0) {
            Ok(outcome) => outcome,
            Err(violation) => panic!("{violation}"),
        };
        let outcomes = &outcome.outcomes;
        let by_tag = outcomes.by_tag.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(by_tag.iter().all(|&count| count == 1), "seed {seed}: {by_tag:?}");
        let told: usize = outcomes.failures().iter().sum();
        assert_eq!(outcome.report.connects_failed(), told as u64, "seed {seed}");
        assert_eq!(outcome.report.connected(), ASKED - told as u64, "seed {seed}");
        for (sum, count) in failures.iter_mut().zip(outcomes.failures()) {
            *sum += count;
        }
        connected += outcomes.connected.load(Ordering::Relaxed);
        answered += outcomes.answered.load(Ordering::Relaxed);
    }
    assert!(failures.iter().all(|&count| count > 0), "timed out, refused, limit reached, draining: {failures:?}");
    assert!(answered > 0 && answered < connected, "{answered} of {connected} were answered");
}

/// A server that turns itself away at its own limit: who is turned away has been connected, and ends without an answer.
#[test]
fn where_who_comes_too_many_is_turned_away_every_connect_has_exactly_one_outcome_too() {
    let (mut turned_away, mut at_the_limit, mut answered) = (0, 0, 0);
    for seed in 0..SEEDS {
        let simulation = if seed % 2 == 0 { Simulation::new(seed) } else { Simulation::hostile(seed) };
        let outcome = match run_when_full(WhenFull::Refuse, seed, simulation, seed % 4 != 0) {
            Ok(outcome) => outcome,
            Err(violation) => panic!("{violation}"),
        };
        let outcomes = &outcome.outcomes;
        let by_tag = outcomes.by_tag.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(by_tag.iter().all(|&count| count == 1), "seed {seed}: {by_tag:?}");
        let told: usize = outcomes.failures().iter().sum();
        assert_eq!(outcome.report.connects_failed(), told as u64, "seed {seed}");
        assert_eq!(outcome.report.connected(), ASKED - told as u64, "seed {seed}");
        let answers = outcomes.answered.load(Ordering::Relaxed) as u64;
        let refused = outcome.report.refused(RefusedBecause::Full);
        let accepted = outcome.report.connections() - outcome.report.connected();
        assert!(answers <= accepted, "seed {seed}: {answers} answers of {accepted} connections");
        assert!(accepted + refused <= ASKED, "seed {seed}: {accepted} accepted, {refused} turned away");
        turned_away += refused;
        at_the_limit += outcomes.failures()[2];
        answered += answers;
    }
    let all = (turned_away, at_the_limit, answered);
    assert!(all.0 > 0 && all.1 > 0 && all.2 > 0, "turned away, at the limit, answered: {all:?}");
}

#[test]
fn one_seed_is_one_history_of_connects_too() {
    for seed in 500..510 {
        let history = || match run(seed, Simulation::hostile(seed), true) {
            Ok(outcome) => (outcome.hash, outcome.outcomes.failures(), outcome.outcomes.locals.load(Ordering::Relaxed)),
            Err(violation) => panic!("{violation}"),
        };
        assert_eq!(history(), history(), "seed {seed}");
    }
}
