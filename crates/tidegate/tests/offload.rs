//! Work that handlers have done elsewhere, in simulated worlds: order, bounds, endings.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::sim::{Client, Next, Peer, Simulation};
use tidegate::{
    Buffer, CloseReason, Connection, Handler, Limits, Listener, OffloadRefusal, Report, Server, ServerBuilder,
};

/// What a run has counted.
#[derive(Default)]
struct Counts {
    submitted: AtomicU64,
    done: AtomicU64,
    dropped: AtomicU64,
    connection_full: AtomicU64,
    thread_full: AtomicU64,
    outstanding_most: AtomicU64,
    reasons: Mutex<Vec<CloseReason>>,
}

impl Counts {
    fn of(&self, count: impl Fn(&Self) -> &AtomicU64) -> u64 {
        count(self).load(Ordering::Relaxed)
    }
}

/// Goes with a job, and is counted when it is gone, done or not.
struct Token(Arc<Counts>);

impl Drop for Token {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Each byte is a job, and its answer the same byte. `!` panics, `x` closes at once.
struct Worker {
    counts: Arc<Counts>,
    in_order: bool,
    waiting: VecDeque<u8>,
}

impl Worker {
    fn submit(&mut self, connection: &mut Connection<'_, u8>) {
        while let Some(&byte) = self.waiting.front() {
            if byte == b'x' {
                return connection.close();
            }
            let (counts, token) = (Arc::clone(&self.counts), Token(Arc::clone(&self.counts)));
            let work = move || {
                let _token = token;
                assert!(byte != b'!', "a job that panics as planned");
                counts.done.fetch_add(1, Ordering::Relaxed);
                byte
            };
            let result = if self.in_order { connection.offload(work) } else { connection.offload_unordered(work) };
            let outstanding = u64::from(connection.offloads_outstanding());
            self.counts.outstanding_most.fetch_max(outstanding, Ordering::Relaxed);
            match result {
                Ok(()) => self.counts.submitted.fetch_add(1, Ordering::Relaxed),
                Err(refused) => {
                    match refused.why {
                        OffloadRefusal::ConnectionFull { .. } => &self.counts.connection_full,
                        _ => &self.counts.thread_full,
                    }
                    .fetch_add(1, Ordering::Relaxed);
                    // The job comes back whole.
                    drop(refused.work);
                    self.counts.dropped.fetch_sub(1, Ordering::Relaxed);
                    return;
                }
            };
            self.waiting.pop_front();
        }
    }
}

impl Handler for Worker {
    type Message = u8;

    fn on_read(&mut self, connection: &mut Connection<'_, u8>, data: Buffer) {
        self.waiting.extend(data.iter());
        self.submit(connection);
    }

    fn on_writable(&mut self, connection: &mut Connection<'_, u8>) {
        self.submit(connection);
    }

    fn on_message(&mut self, connection: &mut Connection<'_, u8>, answer: u8) {
        connection.send(vec![answer]).expect("the queue is long enough");
    }

    fn on_peer_shutdown(&mut self, connection: &mut Connection<'_, u8>) {
        assert_eq!((connection.offloads_outstanding(), self.waiting.len()), (0, 0), "the end comes after the results");
        connection.shutdown();
    }

    fn on_close(self, reason: &CloseReason) {
        self.counts.reasons.lock().expect("no panic").push(*reason);
    }
}

/// Sends all of it, finishes, and keeps what comes back until the end.
struct Asks {
    question: Vec<u8>,
    sent: usize,
    finishes: bool,
    answer: Rc<RefCell<Vec<u8>>>,
}

impl Client for Asks {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        while self.sent < self.question.len() {
            match peer.write(&self.question[self.sent..]) {
                Ok(written) => self.sent += written,
                Err(_) => break,
            }
            if self.sent == self.question.len() && self.finishes {
                let _ = peer.shutdown_write();
            }
        }
        let mut bytes = [0; 256];
        loop {
            match peer.read(&mut bytes) {
                Ok(0) => return Next::Close,
                Ok(length) => self.answer.borrow_mut().extend_from_slice(&bytes[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Next::Wait,
                Err(_) => return Next::Close,
            }
        }
    }
}

fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits { offload_workers: 3, ..Limits::default() };
    change(&mut limits);
    limits
}

fn server(counts: &Arc<Counts>, in_order: bool, limits: Limits) -> ServerBuilder {
    let counts = Arc::clone(counts);
    let make = move |_: &_| Worker { counts: Arc::clone(&counts), in_order, waiting: VecDeque::new() };
    Server::builder().limits(limits).threads(NonZeroUsize::MIN).listen(Listener::tcp(([10, 0, 0, 1], 7).into()), make)
}

/// A world with this server, and clients that ask these questions and finish.
struct World {
    simulation: Simulation,
    counts: Arc<Counts>,
    answers: Vec<Rc<RefCell<Vec<u8>>>>,
}

impl World {
    fn new(mut simulation: Simulation, in_order: bool, limits: Limits, questions: &[&[u8]]) -> Self {
        let counts = Arc::new(Counts::default());
        let address = simulation.serve(server(&counts, in_order, limits)).expect("sound limits")[0];
        let mut answers = Vec::new();
        for question in questions {
            let answer = Rc::new(RefCell::default());
            answers.push(Rc::clone(&answer));
            let client = Asks { question: question.to_vec(), sent: 0, finishes: true, answer };
            simulation.client(address, Duration::from_millis(1), client);
        }
        Self { simulation, counts, answers }
    }

    /// Runs to the end; every job is gone then.
    fn run(&mut self) -> Report {
        let report = self.simulation.run().unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!(
            self.counts.of(|counts| &counts.dropped),
            self.counts.of(|counts| &counts.submitted),
            "jobs are left"
        );
        report
    }

    fn answer(&self, client: usize) -> Vec<u8> {
        self.answers[client].borrow().clone()
    }
}

const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvw";

#[test]
fn results_come_in_the_order_of_submission_and_before_the_end() {
    for seed in 0..50 {
        let mut world = World::new(Simulation::new(seed), true, limits(|_| ()), &[ALPHABET, ALPHABET]);
        let report = world.run();
        for client in 0..2 {
            assert_eq!(world.answer(client), ALPHABET, "seed {seed}");
        }
        assert_eq!(report.closed(&CloseReason::Finished), 2, "{report:?}");
    }
}

#[test]
fn unordered_results_come_when_they_are_done() {
    let mut overtaken = 0;
    for seed in 0..20 {
        let mut world = World::new(Simulation::new(seed), false, limits(|_| ()), &[ALPHABET]);
        world.run();
        let mut answer = world.answer(0);
        overtaken += u32::from(answer != ALPHABET);
        answer.sort_unstable();
        assert_eq!(answer, ALPHABET);
    }
    assert!(overtaken > 10, "only {overtaken} of 20 runs had a result that overtook another");
}

#[test]
fn a_connection_has_no_more_jobs_outstanding_than_it_may_and_all_get_done() {
    let limits = limits(|limits| limits.offload_jobs_per_connection = 3);
    let mut world = World::new(Simulation::new(7), true, limits, &[ALPHABET]);
    world.run();
    assert_eq!(world.answer(0), ALPHABET);
    assert_eq!(world.counts.of(|counts| &counts.outstanding_most), 3);
    assert!(world.counts.of(|counts| &counts.connection_full) > 0, "the limit was never reached");
}

#[test]
fn those_who_find_no_room_on_their_thread_stand_in_line_and_all_get_done() {
    for seed in 0..50 {
        let limits = limits(|limits| limits.offload_jobs = 2);
        let mut world = World::new(Simulation::new(seed), true, limits, &[ALPHABET; 6]);
        world.run();
        for client in 0..6 {
            assert_eq!(world.answer(client), ALPHABET, "seed {seed}");
        }
        assert!(world.counts.of(|counts| &counts.thread_full) > 0, "the limit was never reached");
    }
}

#[test]
fn a_panic_in_a_job_ends_its_connection_after_the_results_before_it_and_no_other() {
    for seed in 0..20 {
        let mut world = World::new(Simulation::new(seed), true, limits(|_| ()), &[b"ab!cd", ALPHABET]);
        let report = world.run();
        assert_eq!(report.closed(&CloseReason::OffloadPanicked), 1, "{report:?}");
        assert!(b"ab".starts_with(&world.answer(0)), "seed {seed}: {:?}", world.answer(0));
        assert_eq!(world.answer(1), ALPHABET);
    }
}

#[test]
fn what_has_not_begun_when_the_connection_ends_is_never_done() {
    let limits = limits(|limits| limits.offload_workers = 1);
    let mut world = World::new(Simulation::new(7), true, limits, &[b"abcdefx"]);
    let report = world.run();
    assert_eq!(report.closed(&CloseReason::ClosedByHandler), 1);
    // All were submitted and closed in one callback, before any worker looked.
    assert_eq!(world.counts.of(|counts| &counts.submitted), 6);
    assert_eq!(world.counts.of(|counts| &counts.done), 0);
}

#[test]
fn a_draining_server_waits_for_the_results_of_busy_connections() {
    let limits = limits(|limits| limits.shutdown_grace = Duration::from_secs(60));
    let mut world = World::new(Simulation::new(7), true, limits, &[]);
    world.simulation.jobs_take(Duration::from_secs(2)..=Duration::from_secs(3));
    let answer = Rc::new(RefCell::default());
    let client = Asks { question: b"abc".to_vec(), sent: 0, finishes: false, answer: Rc::clone(&answer) };
    world.simulation.client(([10, 0, 0, 1], 7).into(), Duration::ZERO, client);
    let counts = Arc::clone(&world.counts);
    let begun = world.simulation.run_until(move |_| counts.of(|counts| &counts.submitted) == 3);
    assert!(begun.expect("no violation"), "the jobs are submitted");
    world.simulation.handle().drain();
    let report = world.run();
    assert_eq!((answer.borrow().as_slice(), report.closed(&CloseReason::Drained)), (&b"abc"[..], 1), "{report:?}");
}

#[test]
fn a_connection_that_waits_for_a_result_is_not_idle() {
    let limits = limits(|limits| limits.idle_timeout = Some(Duration::from_millis(100)));
    let mut world = World::new(Simulation::new(7), true, limits, &[]);
    world.simulation.jobs_take(Duration::from_millis(450)..=Duration::from_millis(450));
    let answer = Rc::new(RefCell::default());
    let client = Asks { question: b"a".to_vec(), sent: 0, finishes: false, answer: Rc::clone(&answer) };
    world.simulation.client(([10, 0, 0, 1], 7).into(), Duration::ZERO, client);
    let report = world.run();
    assert_eq!(answer.borrow().as_slice(), b"a", "the answer came before the connection was called idle");
    assert_eq!(report.closed(&CloseReason::IdleTimeout), 1);
}

#[test]
fn without_workers_a_job_is_refused_and_the_text_says_how_to_get_them() {
    struct Tries(Arc<Mutex<String>>);
    impl Handler for Tries {
        type Message = u8;
        fn on_read(&mut self, connection: &mut Connection<'_, u8>, data: Buffer) {
            let length = data.len() as u8;
            let refused = connection.offload(move || length).expect_err("nobody could do it");
            assert_eq!((refused.why, (refused.work)()), (OffloadRefusal::NoWorkers, 1));
            *self.0.lock().expect("no panic") = refused.why.to_string();
        }
    }
    let said = Arc::new(Mutex::default());
    let to_say = Arc::clone(&said);
    let mut simulation = Simulation::new(7);
    let server =
        Server::builder().listen(Listener::tcp(([10, 0, 0, 1], 7).into()), move |_| Tries(Arc::clone(&to_say)));
    let address = simulation.serve(server).expect("sound limits")[0];
    let client = Asks { question: b"a".to_vec(), sent: 0, finishes: true, answer: Rc::default() };
    simulation.client(address, Duration::ZERO, client);
    simulation.run().unwrap_or_else(|violation| panic!("{violation}"));
    assert!(said.lock().expect("no panic").contains("Limits::offload_workers"));
}

/// One hostile run; what was answered is the beginning of what was asked.
fn hostile(seed: u64) -> (u64, u64) {
    let simulation = Simulation::hostile(seed);
    let limits = limits(|limits| {
        limits.offload_workers = 1 + simulation.random_below(3) as u32;
        limits.offload_jobs = 1 + simulation.random_below(12) as u32;
        limits.offload_jobs_per_connection = 1 + simulation.random_below(6) as u32;
        limits.shutdown_grace = Duration::from_millis(50 + simulation.random_below(500));
    });
    let questions: [&[u8]; 8] = [ALPHABET, b"ab!cd", ALPHABET, b"abcx", ALPHABET, b"!", b"x", ALPHABET];
    let mut world = World::new(simulation, true, limits, &questions);
    let interrupted = world.simulation.random_below(3) == 0;
    if interrupted {
        let after = Duration::from_micros(world.simulation.random_below(300_000));
        world.simulation.after(after, |simulation| simulation.handle().drain());
    }
    world.run();
    for (client, question) in questions.iter().enumerate() {
        assert!(question.starts_with(&world.answer(client)), "seed {seed}: {:?}", world.answer(client));
    }
    (world.simulation.trace_hash(), world.counts.of(|counts| &counts.done))
}

#[test]
fn in_hostile_worlds_no_answer_is_lost_or_reordered_and_no_job_is_left() {
    let done: u64 = (0..300).map(|seed| hostile(seed).1).sum();
    assert!(done > 5_000, "only {done} jobs were done");
}

#[test]
fn a_run_with_jobs_is_repeated_exactly_from_its_seed() {
    for seed in 0..10 {
        assert_eq!(hostile(seed), hostile(seed), "seed {seed}");
    }
}
