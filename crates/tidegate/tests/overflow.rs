//! Servers that publish to peers of which some don't read for a while, under every policy of a full send queue.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate::sim::{Client, ClientId, Next, Peer, Simulation};
use tidegate::{
    Buffer, CloseReason, Connection, Decision, FlowControl, Handler, Limits, Listener, Overflow, OverflowStats,
    Refusal, Report, Sent, Server, Stats,
};

/// The length of a message: its number, and bytes made of it.
const MESSAGE_BYTES: usize = 512;

/// Every connection gets so many, one each [`TICK`].
const MESSAGES: u64 = 8_000;

/// So many fit into the buffers between the server and a reader.
const NETWORK_MESSAGES: u64 = (640 << 10) / MESSAGE_BYTES as u64;

/// A little more in truth, because timers are late by up to a millisecond.
const TICK: Duration = Duration::from_millis(1);

/// When the slow reader stops.
const STOPS: Duration = Duration::from_secs(1);

/// Message `number`.
fn message(number: u64) -> Vec<u8> {
    let mut bytes = vec![number as u8; MESSAGE_BYTES];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// What became of the messages for all connections.
#[derive(Clone, Default)]
struct Fates(Arc<Mutex<Counts>>);

#[derive(Clone, Copy, Default, Debug)]
struct Counts {
    evicted: u64,
    dropped: u64,
    full: u64,
    slow: u64,
}

impl Fates {
    fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn counts(&self) -> Counts {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the next message at each tick; one that is refused is sent again at the next.
struct Publisher {
    next: u64,
    fates: Fates,
}

impl Handler for Publisher {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        connection.set_timer(0, TICK);
    }

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        // A request: answered with itself, which must be taken, dropped or not.
        connection.send(data).expect("a reply is never refused");
    }

    fn on_timer(&mut self, connection: &mut Connection<'_>, _timer: u8) {
        match connection.send(message(self.next)) {
            Ok(sent) => {
                self.next += 1;
                self.fates.count(|counts| match sent {
                    Sent::EvictedOldest(count) => counts.evicted += u64::from(count),
                    Sent::DroppedNew => counts.dropped += 1,
                    _ => {}
                });
            }
            Err(refused) => self.fates.count(|counts| match refused.why {
                Refusal::Full { .. } => counts.full += 1,
                Refusal::SlowConsumer { .. } => counts.slow += 1,
                other => panic!("{other}"),
            }),
        }
        if self.next == MESSAGES {
            connection.shutdown();
        } else {
            connection.set_timer(0, TICK);
        }
    }

    fn on_peer_shutdown(&mut self, _connection: &mut Connection<'_>) {}
}

/// Reads whole messages and notes their numbers.
#[derive(Default)]
struct Reader {
    begun: Vec<u8>,
    numbers: Rc<RefCell<Vec<u64>>>,
}

impl Client for Reader {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        let mut bytes = [0; 8192];
        loop {
            match peer.read(&mut bytes) {
                Ok(0) => return Next::Close,
                Ok(length) => self.begun.extend_from_slice(&bytes[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Next::Wait,
                Err(_) => return Next::Close,
            }
            let whole = self.begun.len() / MESSAGE_BYTES * MESSAGE_BYTES;
            for bytes in self.begun.drain(..whole).as_slice().chunks(MESSAGE_BYTES) {
                let number = u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"));
                if bytes != message(number) {
                    return Next::Failed(format!("message {number} is torn"));
                }
                if self.numbers.borrow().last().is_some_and(|&last| last >= number) {
                    return Next::Failed(format!("message {number} is out of order"));
                }
                self.numbers.borrow_mut().push(number);
            }
        }
    }
}

/// What a run leaves: its report, the counters shortly before the end, what became of messages, and the numbers that each reader got.
struct Outcome {
    report: Report,
    stats: Stats,
    counts: Counts,
    read: Vec<Vec<u64>>,
    /// The newest message when the slow reader went on.
    newest_then: u64,
}

/// The queue of the tests: 32 KiB and 64 messages.
fn queue(overflow: Overflow) -> FlowControl {
    FlowControl {
        window_bytes: 4 << 10,
        queue_bytes: 32 << 10,
        queue_messages: 64,
        high_mark_bytes: 16 << 10,
        low_mark_bytes: 8 << 10,
        overflow,
        over_mark_limit: None,
        reads_above_mark: false,
    }
}

/// Publishes to four readers, of which the first takes nothing for `blip`.
fn run(flow: FlowControl, blip: Duration) -> Outcome {
    let mut simulation = Simulation::new(5);
    let fates = Fates::default();
    let of_handlers = fates.clone();
    let listener = Listener::tcp(([10, 0, 0, 1], 7007).into()).flow(flow);
    let server = Server::builder()
        .limits(Limits { min_send_progress: None, ..Limits::default() })
        .listen(listener, move |_| Publisher { next: 0, fates: of_handlers.clone() });
    let address = simulation.serve(server).expect("sound limits")[0];
    let mut read = Vec::new();
    let clients: Vec<ClientId> = (0..4)
        .map(|_| {
            let reader = Reader::default();
            read.push(Rc::clone(&reader.numbers));
            simulation.client(address, TICK, reader)
        })
        .collect();
    let slow = clients[0];
    simulation.after(STOPS, move |simulation| simulation.clog(slow));
    simulation.after(STOPS + blip, move |simulation| simulation.unclog(slow));
    let stats = Rc::new(RefCell::new(None));
    let seen = Rc::clone(&stats);
    let healthy = Rc::clone(&read[1]);
    simulation.after(STOPS + blip - TICK, move |simulation| {
        let newest = healthy.borrow().last().copied().unwrap_or(0);
        *seen.borrow_mut() = Some((simulation.handle().stats(), newest));
    });
    let report = match simulation.run() {
        Ok(report) => report,
        Err(violation) => panic!("{violation}"),
    };
    let (stats, newest_then) = stats.borrow_mut().take().expect("looked at");
    let read = read.iter().map(|numbers| numbers.borrow().clone()).collect();
    Outcome { report, stats, counts: fates.counts(), read, newest_then }
}

impl Outcome {
    /// Readers that read all the time miss nothing.
    #[track_caller]
    fn assert_others_miss_nothing(&self) {
        for numbers in &self.read[1..] {
            assert!(numbers.iter().copied().eq(0..MESSAGES), "{} of {MESSAGES} messages", numbers.len());
        }
    }

    /// Asserts that `count` is what happens at each tick of a long blip for `span`, give or take what the network and the window hold.
    #[track_caller]
    fn assert_ticks(&self, count: u64, span: Duration) {
        let ticks = self.newest_then as f64 * span.as_secs_f64() / (STOPS + LONG).as_secs_f64();
        let least = ticks * 0.9 - NETWORK_MESSAGES as f64;
        assert!((least..=ticks * 1.1).contains(&(count as f64)), "{count}, not {ticks}");
    }

    fn overflows(&self) -> &OverflowStats {
        self.stats.overflows().next().expect("of the only listener")
    }

    /// Where numbers are missing: the first missing, and how many, each time.
    fn gaps(&self) -> Vec<(u64, u64)> {
        let pairs = self.read[0].windows(2).map(|pair| (pair[0] + 1, pair[1] - pair[0] - 1));
        pairs.filter(|&(_, missing)| missing > 0).collect()
    }
}

const LONG: Duration = Duration::from_secs(8);

#[test]
fn a_blip_drains_by_itself_in_order_under_every_policy() {
    let ask: tidegate::Ask = Arc::new(|_, _| Decision::Close);
    let all = [
        Overflow::default(),
        Overflow::Wait { limit: None },
        Overflow::DropOldest,
        Overflow::DropNewest,
        Overflow::Close,
        Overflow::Ask(ask),
    ];
    for overflow in all {
        // As much as the network and the queue hold.
        let outcome = run(queue(overflow.clone()), Duration::from_millis(40));
        outcome.assert_others_miss_nothing();
        assert!(outcome.read[0].iter().copied().eq(0..MESSAGES), "{overflow:?}: {:?}", outcome.gaps());
        assert_eq!(outcome.report.closed(&CloseReason::SlowConsumer), 0, "{overflow:?}");
        assert_eq!((outcome.report.dropped_messages(), outcome.counts.full), (0, 0), "{overflow:?}");
    }
}

#[test]
fn with_drop_oldest_a_reader_that_wakes_up_gets_what_had_begun_and_then_the_newest() {
    let outcome = run(queue(Overflow::DropOldest), LONG);
    outcome.assert_others_miss_nothing();
    let gaps = outcome.gaps();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    let missing = gaps[0].1;
    outcome.assert_ticks(missing, LONG);
    assert_eq!(outcome.report.dropped_messages(), missing);
    assert_eq!(outcome.report.dropped_bytes(), missing * MESSAGE_BYTES as u64);
    assert_eq!((outcome.counts.evicted, outcome.counts.dropped), (missing, 0));
    assert_eq!(outcome.read[0].last(), Some(&(MESSAGES - 1)), "the newest is never what is dropped");
    let resumed = gaps[0].0 + missing;
    // What follows the gap was queued when the reader woke up: at most a queue's worth old.
    assert!(resumed + 64 + 32 >= outcome.newest_then, "{resumed} comes first, after {}", outcome.newest_then);
    assert_eq!(outcome.report.closed(&CloseReason::SlowConsumer), 0);
}

#[test]
fn with_drop_newest_what_was_queued_comes_and_what_found_no_room_is_missing() {
    let outcome = run(queue(Overflow::DropNewest), LONG);
    outcome.assert_others_miss_nothing();
    let missing: u64 = outcome.gaps().iter().map(|gap| gap.1).sum();
    outcome.assert_ticks(missing, LONG);
    assert_eq!((outcome.report.dropped_messages(), outcome.counts.dropped), (missing, missing));
    assert_eq!(outcome.counts.evicted, 0);
    let stats = outcome.overflows();
    assert!(stats.dropped_messages > 1_000 && stats.refused_messages == 0, "{stats:?}");
    assert_eq!(stats.dropped_bytes, stats.dropped_messages * MESSAGE_BYTES as u64);
    assert_eq!(outcome.stats.dropped_messages(), stats.dropped_messages);
}

#[test]
fn with_close_exactly_the_one_that_stops_ends_as_a_slow_consumer() {
    let outcome = run(queue(Overflow::Close), LONG);
    outcome.assert_others_miss_nothing();
    assert_eq!(outcome.report.closed(&CloseReason::SlowConsumer), 1);
    assert_eq!((outcome.counts.slow, outcome.counts.full, outcome.report.dropped_messages()), (1, 0, 0));
    assert_eq!(outcome.gaps(), [], "what it got has no gap");
    assert_eq!(outcome.overflows().slow_consumers, 1);
}

#[test]
fn who_waits_is_refused_for_as_long_as_the_limit_and_then_the_consumer_goes() {
    let outcome = run(queue(Overflow::Wait { limit: Some(Duration::from_secs(5)) }), LONG);
    outcome.assert_others_miss_nothing();
    assert_eq!(outcome.report.closed(&CloseReason::SlowConsumer), 1);
    outcome.assert_ticks(outcome.counts.full, Duration::from_secs(5));
    assert_eq!(outcome.overflows().refused_messages, outcome.counts.full);
    assert_eq!(outcome.gaps(), []);
}

#[test]
fn without_a_limit_the_producer_is_held_up_by_a_peer_that_is_named_and_nothing_is_lost() {
    let outcome = run(queue(Overflow::Wait { limit: None }), LONG);
    outcome.assert_others_miss_nothing();
    assert_eq!(outcome.report.closed(&CloseReason::SlowConsumer), 0);
    assert!(outcome.read[0].iter().copied().eq(0..MESSAGES), "{:?}", outcome.gaps());
    outcome.assert_ticks(outcome.counts.full, LONG);
    let stats = outcome.overflows();
    assert_eq!(stats.refusing, 1);
    let held_up = stats.longest.expect("somebody holds up the producer");
    assert!(held_up.peer.is_some(), "{held_up:?}");
    assert!((Duration::from_secs(6)..=LONG).contains(&held_up.refusing_for), "{held_up:?}");
    assert!(held_up.queued_messages == 64 && held_up.queued_bytes == 64 * MESSAGE_BYTES, "{held_up:?}");
}

#[test]
fn over_the_mark_for_the_time_that_it_may_ends_also_under_a_policy_that_drops() {
    let limit = Some(Duration::from_secs(5));
    let outcome = run(FlowControl { over_mark_limit: limit, ..queue(Overflow::DropOldest) }, LONG);
    outcome.assert_others_miss_nothing();
    assert_eq!(outcome.report.closed(&CloseReason::SlowConsumer), 1);
    outcome.assert_ticks(outcome.counts.evicted, Duration::from_secs(5));
}

#[test]
fn who_is_asked_may_drop_first_and_close_when_it_was_enough() {
    let ask: tidegate::Ask = Arc::new(|state, _| match state.dropped_messages {
        0..1_000 => Decision::DropOldest,
        _ => Decision::Close,
    });
    let outcome = run(queue(Overflow::Ask(ask)), LONG);
    outcome.assert_others_miss_nothing();
    assert_eq!((outcome.counts.evicted, outcome.counts.slow), (1_000, 1));
    assert_eq!(outcome.report.closed(&CloseReason::SlowConsumer), 1);
}

/// Asks without ever reading the answers, and looks how much was taken.
struct Flooder {
    written: Rc<RefCell<usize>>,
}

impl Client for Flooder {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        while *self.written.borrow() < 4 << 20 {
            match peer.write(&[7; 4096]) {
                Ok(length) => *self.written.borrow_mut() += length,
                Err(_) => return Next::Wait,
            }
        }
        Next::Reset
    }
}

#[test]
fn requests_are_read_where_answers_are_dropped_and_the_flooder_stays_bounded() {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest] {
        let mut simulation = Simulation::new(6);
        let listener = Listener::tcp(([10, 0, 0, 1], 7007).into()).flow(queue(overflow.clone()));
        // One queue's worth of send memory: more is never charged, whatever comes.
        let limits = Limits { send_memory_bytes: 80 << 10, ..Limits::default() };
        let server =
            Server::builder().limits(limits).listen(listener, |_| Publisher { next: 0, fates: Fates::default() });
        let address = simulation.serve(server).expect("sound limits")[0];
        let written = Rc::default();
        simulation.client(address, TICK, Flooder { written: Rc::clone(&written) });
        let report = match simulation.run() {
            Ok(report) => report,
            Err(violation) => panic!("{overflow:?}: {violation}"),
        };
        assert_eq!(*written.borrow(), 4 << 20, "{overflow:?}: it was read from to the end");
        assert!(report.dropped_messages() > 0 && report.closed(&CloseReason::Reset) == 1, "{overflow:?}");
    }
}

/// Changes the policy of its connection when told to.
struct Changing;

impl Handler for Changing {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        let own = connection.flow();
        assert_eq!((own.overflow.clone(), own.queue_messages), (Overflow::Close, 64));
        let text = connection
            .set_flow(FlowControl { high_mark_bytes: 40_000, ..own.clone() })
            .expect_err("a reply would not fit")
            .to_string();
        assert!(text.contains("40000") && text.contains("32768"), "{text}");
        assert_eq!(connection.flow(), own);
        connection.set_flow(FlowControl { overflow: Overflow::DropOldest, queue_messages: 2, ..own }).expect("sound");
        let mut sent = Vec::new();
        for number in 0..200 {
            sent.push(connection.send(message(number)).expect("nothing is refused"));
        }
        let evictions = sent.iter().filter(|sent| matches!(sent, Sent::EvictedOldest(1))).count() as u64;
        let state = connection.queue_state();
        assert_eq!((state.dropped_messages, state.queued_messages, state.limit_messages), (evictions, 2, 2));
        assert!(evictions > 100 && state.outstanding_bytes > 0);
        connection.shutdown();
    }

    fn on_read(&mut self, _connection: &mut Connection<'_>, _data: Buffer) {}
}

#[test]
fn a_handler_changes_the_policy_of_its_own_connection() {
    let mut simulation = Simulation::new(7);
    let listener = Listener::tcp(([10, 0, 0, 1], 7007).into()).flow(queue(Overflow::Close));
    let server = Server::builder().listen(listener, |_| Changing);
    let address = simulation.serve(server).expect("sound limits")[0];
    let reader = Reader::default();
    let numbers = Rc::clone(&reader.numbers);
    simulation.client(address, TICK, reader);
    let report = match simulation.run() {
        Ok(report) => report,
        Err(violation) => panic!("{violation}"),
    };
    assert_eq!(numbers.borrow().last(), Some(&199));
    assert_eq!(numbers.borrow().len() as u64 + report.dropped_messages(), 200);
}

#[test]
fn a_flow_control_that_contradicts_itself_is_refused_by_name_and_with_numbers() {
    let address = ([10, 0, 0, 1], 7007).into();
    let bad = FlowControl { low_mark_bytes: 20_000, ..queue(Overflow::Close) };
    let listener = Listener::tcp(address).flow(bad.clone());
    let error =
        Simulation::new(8).serve(Server::builder().listen(listener, |_| Changing)).expect_err("a contradiction");
    let text = error.to_string();
    assert!(text.contains("10.0.0.1:7007") && text.contains("20000") && text.contains("16384"), "{text}");
    let (server, _connector) = Server::builder().client(tidegate::Client::tcp().flow(bad), |_| Changing);
    let text = Simulation::new(8).serve(server).expect_err("a contradiction").to_string();
    assert!(text.contains("client 0") && text.contains("20000"), "{text}");
}
