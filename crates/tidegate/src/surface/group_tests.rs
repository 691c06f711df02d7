//! Groups in simulated servers: what each kind of receiver gets, who holds up whom, and where the memory goes.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use super::simulation::{Client, Next, Peer, Simulation};
use super::{Group, Handler, Limits, Listener, PublishRefusal, Report, Server};
use crate::connection::{Overflow, Sent};
use crate::engine::sim::{Fault, Faults, World};
use crate::memory::Buffer;
use crate::surface::Connection;
use crate::time::Time;

const MILLISECOND: Duration = Duration::from_millis(1);

/// The number of a message, then filler that is checked.
fn message(number: u64, bytes: usize) -> Vec<u8> {
    let filler = (8..bytes).map(|place| (number as u8).wrapping_add(place as u8));
    number.to_be_bytes().into_iter().chain(filler).collect()
}

/// Joins when it is connected, and does what its peer writes: `l`eaves, joins `a`gain, `p`anics.
struct Subscriber {
    group: Group,
}

impl Handler for Subscriber {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        assert_eq!(connection.join(&self.group), Ok(true));
        assert_eq!(connection.join(&self.group), Ok(false), "it is in already");
    }

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        for byte in data.iter() {
            match byte {
                b'l' => assert!(connection.leave(&self.group) && !connection.leave(&self.group)),
                b'a' => assert_eq!(connection.join(&self.group), Ok(true)),
                _ => panic!("as asked"),
            }
        }
    }
}

/// What is published, how fast.
#[derive(Clone, Copy)]
struct Plan {
    count: u64,
    bytes: usize,
    every: Duration,
    /// Messages that are published at once.
    burst: u64,
}

/// Publishes from its timer; what is refused is tried again at the next tick, so its numbers have no gaps.
struct Publisher {
    group: Group,
    plan: Plan,
    next: u64,
    refusals: std::sync::Arc<Mutex<Vec<PublishRefusal>>>,
}

impl Publisher {
    fn publish(&mut self, connection: &mut Connection<'_>) {
        for _ in 0..self.plan.burst {
            if self.next > self.plan.count {
                return connection.close();
            }
            match self.group.publish(message(self.next, self.plan.bytes)) {
                Ok(_) => self.next += 1,
                Err(refused) => {
                    assert_eq!(refused.payload.len(), self.plan.bytes, "the message comes back");
                    self.refusals.lock().expect("one thread").push(refused.why);
                    break;
                }
            }
        }
        connection.set_timer(0, self.plan.every);
    }
}

impl Handler for Publisher {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, _data: Buffer) {
        self.publish(connection);
    }

    fn on_timer(&mut self, connection: &mut Connection<'_>, _timer: u8) {
        self.publish(connection);
    }
}

/// How a receiver reads.
#[derive(Clone, Copy)]
struct Reader {
    /// At most so many bytes...
    piece: usize,
    /// ... so far apart; zero: whatever comes at once.
    every: Duration,
    /// Not between these.
    stops: (Time, Time),
    /// Writes these bytes, each when so many messages have come.
    orders: &'static [(u64, u8)],
    /// Closes when the last message has come, or at this time.
    until: Time,
}

impl Reader {
    const PROMPT: Self = Self {
        piece: usize::MAX,
        every: Duration::ZERO,
        stops: (Time::MAX, Time::MAX),
        orders: &[],
        until: Time::from_nanos(3_600_000_000_000),
    };

    const fn stopped_until(seconds: u64) -> Self {
        let until = Time::from_nanos(seconds * 1_000_000_000);
        Self { stops: (Time::ZERO, until), until, ..Self::PROMPT }
    }
}

/// What a receiver got.
#[derive(Default, Debug)]
struct Got {
    numbers: Vec<u64>,
    reset: bool,
}

struct Receiver {
    reader: Reader,
    plan: Plan,
    partial: Vec<u8>,
    next_read: Time,
    orders_given: usize,
    got: Rc<RefCell<Got>>,
}

impl Receiver {
    fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.partial.extend_from_slice(bytes);
        while self.partial.len() >= self.plan.bytes {
            let rest = self.partial.split_off(self.plan.bytes);
            let whole = std::mem::replace(&mut self.partial, rest);
            let number = u64::from_be_bytes(whole[..8].try_into().expect("eight bytes"));
            if whole != message(number, self.plan.bytes) {
                return Err(format!("a torn message, perhaps {number}"));
            }
            self.got.borrow_mut().numbers.push(number);
        }
        Ok(())
    }
}

impl Client for Receiver {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        let (now, reader) = (peer.now(), self.reader);
        if now >= reader.until {
            return Next::Close;
        }
        peer.wake_after(reader.until.saturating_since(now));
        let (stop, go) = reader.stops;
        if now >= stop && now < go {
            peer.wake_after(go.saturating_since(now));
            return Next::Wait;
        }
        if now < self.next_read {
            return Next::Wait;
        }
        let mut room = reader.piece;
        let mut bytes = [0; 4096];
        while room > 0 {
            let most = room.min(bytes.len());
            match peer.read(&mut bytes[..most]) {
                Ok(0) => return Next::Close,
                Ok(length) => {
                    room -= length;
                    if let Err(what) = self.take(&bytes[..length]) {
                        return Next::Failed(what);
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.got.borrow_mut().reset = true;
                    return Next::Close;
                }
            }
        }
        if !reader.every.is_zero() {
            self.next_read = now + reader.every;
            peer.wake_after(reader.every);
        }
        let come = self.got.borrow().numbers.len() as u64;
        while let Some(&(after, order)) = reader.orders.get(self.orders_given)
            && come >= after
            && peer.write(&[order]).is_ok()
        {
            self.orders_given += 1;
        }
        if self.got.borrow().numbers.last() == Some(&self.plan.count) { Next::Close } else { Next::Wait }
    }
}

/// Says one byte to the publisher, and waits for its end.
struct Starter {
    said: bool,
}

impl Client for Starter {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        self.said = self.said || peer.write(b"!").is_ok();
        match peer.read(&mut [0; 8]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Next::Wait,
            _ => Next::Close,
        }
    }
}

struct Outcome {
    report: Report,
    got: Vec<Rc<RefCell<Got>>>,
    refusals: Vec<PublishRefusal>,
    group: Group,
    /// The least free publish memory that was seen.
    pool_low: usize,
}

impl Outcome {
    fn numbers(&self, receiver: usize) -> Vec<u64> {
        self.got[receiver].borrow().numbers.clone()
    }
}

fn limits(overflow: Overflow) -> Limits {
    Limits { overflow, receive_buffer_bytes: 4096, first_byte_timeout: None, ..Limits::default() }
}

fn run(seed: u64, faults: Faults, limits: Limits, plan: Plan, readers: &[Reader]) -> Outcome {
    let mut simulation = Simulation::with(World::new(seed, faults));
    let (builder, group) = Server::builder().group();
    let refusals = std::sync::Arc::new(Mutex::new(Vec::new()));
    let (of_subscribers, of_publisher, noted) = (group.clone(), group.clone(), refusals.clone());
    let builder = builder
        .limits(limits)
        .listen(Listener::tcp(([10, 0, 0, 1], 1).into()), move |_| Subscriber { group: of_subscribers.clone() })
        .listen(Listener::tcp(([10, 0, 0, 1], 2).into()), move |_| Publisher {
            group: of_publisher.clone(),
            plan,
            next: 1,
            refusals: noted.clone(),
        });
    assert_eq!(group.publish("too early").expect_err("not bound").why, PublishRefusal::NotBound);
    let addresses = simulation.serve(builder).expect("sound limits");
    let mut got = Vec::new();
    for &reader in readers {
        let noted = Rc::new(RefCell::new(Got::default()));
        got.push(Rc::clone(&noted));
        let receiver =
            Receiver { reader, plan, partial: Vec::new(), next_read: Time::ZERO, orders_given: 0, got: noted };
        simulation.client(addresses[0], MILLISECOND, receiver);
    }
    let (members, of_check) = (readers.len() as u32, group.clone());
    simulation.run_until(|_| of_check.members() == members).expect("nobody fails");
    assert_eq!(group.members(), members);
    simulation.client(addresses[1], MILLISECOND, Starter { said: false });
    let pool_low = Rc::new(std::cell::Cell::new(usize::MAX));
    let (lowest, looked_at) = (Rc::clone(&pool_low), group.clone());
    simulation.check("the publish pool", move |_| {
        let pool = &looked_at.server().expect("it is bound").publishing.pool;
        lowest.set(lowest.get().min(pool.free()));
        (pool.free() <= pool.total()).then_some(()).ok_or("more is free than there is".into())
    });
    let report = simulation.run().unwrap_or_else(|violation| panic!("{violation}"));
    let pool = &group.server().expect("it was bound").publishing.pool;
    assert_eq!(pool.free(), pool.total(), "publish memory that did not come back");
    assert_eq!(group.members(), 0, "who has ended has left");
    assert_eq!(group.publish("too late").expect_err("it is over").why, PublishRefusal::ServerOver);
    let refusals = std::mem::take(&mut *refusals.lock().expect("one thread"));
    Outcome { report, got, refusals, group, pool_low: pool_low.get() }
}

/// A network that holds little for those who don't read.
fn narrow() -> Faults {
    Faults { send_buffer_bytes: (8_192, 8_192), receive_buffer_bytes: (8_192, 8_192), ..Faults::none() }
}

fn all(count: u64) -> Vec<u64> {
    (1..=count).collect()
}

/// The reasons that were counted, without those of orderly ends.
fn bad_ends(report: &Report) -> Vec<(&'static str, u64)> {
    report
        .closed_by_reason()
        .filter(|&(name, count)| count > 0 && !["finished", "closed_by_handler", "drained"].contains(&name))
        .collect()
}

const BRISK: Plan = Plan { count: 3_000, bytes: 128, every: MILLISECOND, burst: 10 };

#[test]
fn every_member_on_every_thread_gets_every_message_in_order() {
    for policy in [Overflow::default(), Overflow::DropOldest, Overflow::DropNewest, Overflow::Close] {
        let outcome = run(1, Faults::none(), limits(policy), BRISK, &[Reader::PROMPT; 9]);
        for receiver in 0..9 {
            assert_eq!(outcome.numbers(receiver), all(3_000));
        }
        let stats = outcome.group.stats();
        assert_eq!((stats.published, stats.delivered, stats.missed), (3_000, 27_000, 0));
        assert_eq!(bad_ends(&outcome.report), []);
    }
}

#[test]
fn short_sends_and_late_completions_change_nothing() {
    let faults = Faults::none().with(Fault::ShortSend, 300_000).with(Fault::LateCompletion, 100_000);
    let outcome = run(2, faults, limits(Overflow::default()), BRISK, &[Reader::PROMPT; 5]);
    for receiver in 0..5 {
        assert_eq!(outcome.numbers(receiver), all(3_000));
    }
}

#[test]
fn who_leaves_and_joins_again_in_mid_stream_has_one_gap_and_others_none() {
    let comes_and_goes = Reader { orders: &[(500, b'l'), (500, b'a')], ..Reader::PROMPT };
    // Leaves at some message that comes after it asked, and asks for more when it has seen 700.
    let leaves = Reader { orders: &[(500, b'l')], until: Time::from_nanos(2_000_000_000), ..Reader::PROMPT };
    let outcome = run(
        3,
        Faults::none(),
        limits(Overflow::default()),
        BRISK,
        &[Reader::PROMPT, comes_and_goes, leaves, Reader::PROMPT],
    );
    assert_eq!((outcome.numbers(0), outcome.numbers(3)), (all(3_000), all(3_000)));
    let gaps = outcome.numbers(1).windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
    assert!(gaps <= 1, "{gaps} gaps");
    let left = outcome.numbers(2);
    assert!(left.len() >= 500 && left.len() < 3_000 && left == all(left.len() as u64), "{}", left.len());
}

#[test]
fn a_receiver_that_waits_holds_up_its_group_and_nobody_misses_anything() {
    let slow = Reader { piece: 6_000, every: 10 * MILLISECOND, ..Reader::PROMPT };
    let outcome =
        run(4, narrow(), limits(Overflow::Wait { limit: None }), BRISK, &[Reader::PROMPT, slow, Reader::PROMPT, slow]);
    for receiver in 0..4 {
        assert_eq!(outcome.numbers(receiver), all(3_000));
    }
    assert!(!outcome.refusals.is_empty(), "the publisher is slowed down");
    assert!(outcome.refusals.iter().all(|why| matches!(why, PublishRefusal::QueueFull { waiting: 256, .. })));
    assert_eq!(bad_ends(&outcome.report), []);
}

#[test]
fn a_receiver_that_stops_is_waited_for_as_long_as_its_policy_says() {
    let policy = Overflow::Wait { limit: Some(Duration::from_secs(5)) };
    let outcome = run(5, narrow(), limits(policy), BRISK, &[Reader::PROMPT, Reader::stopped_until(60), Reader::PROMPT]);
    assert_eq!((outcome.numbers(0), outcome.numbers(2)), (all(3_000), all(3_000)));
    assert_eq!(bad_ends(&outcome.report), [("slow_consumer", 1)]);
}

/// They were waited for one after the other, each for as long as its policy says: 300 of them for 25 minutes.
#[test]
fn receivers_that_stop_together_are_waited_for_together() {
    let policy = Overflow::Wait { limit: Some(Duration::from_secs(5)) };
    let mut readers = vec![Reader::PROMPT];
    readers.extend([Reader::stopped_until(25); 20]);
    readers.push(Reader::PROMPT);
    let outcome = run(5, narrow(), limits(policy), BRISK, &readers);
    assert_eq!((outcome.numbers(0), outcome.numbers(21)), (all(3_000), all(3_000)));
    assert_eq!(bad_ends(&outcome.report), [("slow_consumer", 20)]);
}

#[test]
fn a_member_that_ends_while_it_holds_up_the_delivery_lets_it_go_on() {
    let gone = Reader { stops: (Time::ZERO, Time::MAX), until: Time::from_nanos(3_000_000_000), ..Reader::PROMPT };
    let outcome = run(
        6,
        narrow(),
        limits(Overflow::Wait { limit: None }),
        BRISK,
        &[gone, Reader::PROMPT, gone, Reader::PROMPT, gone],
    );
    assert_eq!((outcome.numbers(1), outcome.numbers(3)), (all(3_000), all(3_000)));
}

#[test]
fn with_a_policy_that_drops_slow_receivers_miss_messages_and_healthy_ones_none() {
    for policy in [Overflow::DropOldest, Overflow::DropNewest] {
        let wakes_up = Reader { stops: (Time::ZERO, Time::from_nanos(3_000_000_000)), ..Reader::stopped_until(20) };
        let wakes_up = Reader { until: Time::from_nanos(20_000_000_000), ..wakes_up };
        let plan = Plan { count: 5_000, ..BRISK };
        let outcome = run(7, narrow(), limits(policy.clone()), plan, &[Reader::PROMPT, wakes_up, Reader::PROMPT]);
        assert_eq!((outcome.numbers(0), outcome.numbers(2)), (all(5_000), all(5_000)), "{policy:?}");
        let got = outcome.numbers(1);
        assert!(got.is_sorted_by(|one, next| one < next), "in order, each once");
        assert!(got.len() > 500 && got.len() < 4_500, "{policy:?}: {} messages", got.len());
        assert_eq!(got.last() == Some(&5_000), policy == Overflow::DropOldest, "{policy:?}: {:?}", got.last());
        assert_eq!(outcome.group.stats().missed, 5_000 - got.len() as u64, "{policy:?}");
        assert!(outcome.refusals.is_empty(), "nobody holds up the publisher");
        assert_eq!(bad_ends(&outcome.report), []);
    }
}

#[test]
fn with_the_policy_to_close_exactly_the_slow_ones_end() {
    let stopped = Reader::stopped_until(60);
    let outcome = run(8, narrow(), limits(Overflow::Close), BRISK, &[Reader::PROMPT, stopped, Reader::PROMPT, stopped]);
    assert_eq!((outcome.numbers(0), outcome.numbers(2)), (all(3_000), all(3_000)));
    assert_eq!(bad_ends(&outcome.report), [("slow_consumer", 2)]);
}

/// Receivers that stop one after the other each pin other payloads: more of them than there is memory.
#[test]
fn stopped_readers_can_not_pin_the_publish_memory_and_healthy_ones_miss_nothing() {
    let plan = Plan { count: 2_000, bytes: 1_000, every: 2 * MILLISECOND, burst: 2 };
    let memory_bytes = 256 << 10;
    let stops_at = |number: u64| Reader {
        stops: (Time::ZERO + Duration::from_millis(50 * number), Time::MAX),
        until: Time::ZERO + Duration::from_secs(30),
        ..Reader::PROMPT
    };
    let mut readers: Vec<Reader> = (1..=30).map(stops_at).collect();
    readers.extend([Reader::PROMPT; 4]);
    for policy in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Close] {
        let limits = Limits { publish_memory_bytes: memory_bytes, ..limits(policy.clone()) };
        let outcome = run(9, narrow(), limits, plan, &readers);
        for healthy in 30..34 {
            assert_eq!(outcome.numbers(healthy), all(2_000), "{policy:?}");
        }
        let mut ends: Vec<&str> = bad_ends(&outcome.report).into_iter().map(|(name, _)| name).collect();
        ends.retain(|&name| !["slow_consumer", "memory_pressure", "send_too_slow", "reset"].contains(&name));
        assert!(ends.is_empty(), "{policy:?}: {ends:?}");
        if policy == Overflow::DropNewest {
            // Each keeps the queue that it had when it stopped.
            assert!(
                outcome.pool_low < memory_bytes / 8,
                "{policy:?}: the memory was never low ({} free)",
                outcome.pool_low
            );
        }
    }
}

#[test]
fn a_full_publish_memory_of_receivers_that_wait_refuses_the_publisher_and_stays_flat() {
    let plan = Plan { count: 600, bytes: 4_000, every: 2 * MILLISECOND, burst: 4 };
    let limits = Limits { publish_memory_bytes: 200 << 10, ..limits(Overflow::Wait { limit: None }) };
    let slow = Reader { piece: 20_000, every: 10 * MILLISECOND, ..Reader::PROMPT };
    let outcome = run(10, narrow(), limits, plan, &[Reader::PROMPT, slow]);
    assert_eq!((outcome.numbers(0), outcome.numbers(1)), (all(600), all(600)));
    let refused = outcome.refusals.iter().find_map(|why| match *why {
        PublishRefusal::NoMemory { wanted_bytes, free_bytes, total_bytes } => {
            Some((wanted_bytes, free_bytes, total_bytes))
        }
        _ => None,
    });
    let (wanted_bytes, free_bytes, total_bytes) = refused.expect("the memory is too small for the queues");
    assert!(wanted_bytes == 4_320 && free_bytes < wanted_bytes && total_bytes == 200 << 10);
    assert_eq!(bad_ends(&outcome.report), []);
}

#[test]
fn a_handler_that_panics_during_a_broadcast_ends_alone() {
    let panics = Reader { orders: &[(300, b'p')], ..Reader::PROMPT };
    let outcome =
        run(11, Faults::none(), limits(Overflow::default()), BRISK, &[Reader::PROMPT, panics, Reader::PROMPT, panics]);
    assert_eq!((outcome.numbers(0), outcome.numbers(2)), (all(3_000), all(3_000)));
    assert_eq!(bad_ends(&outcome.report), [("handler_panicked", 2)]);
}

#[test]
fn a_function_that_is_asked_and_panics_ends_its_connection_and_the_delivery_goes_on() {
    let ask = Overflow::Ask(std::sync::Arc::new(|_, _| panic!("as asked")));
    let outcome = run(12, narrow(), limits(ask), BRISK, &[Reader::PROMPT, Reader::stopped_until(60), Reader::PROMPT]);
    assert_eq!((outcome.numbers(0), outcome.numbers(2)), (all(3_000), all(3_000)));
    assert_eq!(bad_ends(&outcome.report), [("handler_panicked", 1)]);
}

/// One receiver's own queue is smaller than what is put together for everybody.
#[test]
fn a_receiver_with_a_small_queue_of_its_own_gets_every_message_too() {
    struct Small {
        group: Group,
    }
    impl Handler for Small {
        type Message = Infallible;
        fn on_connect(&mut self, connection: &mut Connection<'_>) {
            connection.join(&self.group).expect("it may");
        }
        fn on_read(&mut self, _connection: &mut Connection<'_>, _data: Buffer) {}
    }
    let plan = Plan { count: 2_000, bytes: 100, every: Duration::ZERO, burst: 1 };
    let mut simulation = Simulation::new(13);
    let (builder, group) = Server::builder().group();
    let limits = Limits { publish_queue: 2_000, ..limits(Overflow::default()) };
    let flow = crate::connection::FlowControl {
        queue_bytes: 2_000,
        high_mark_bytes: 1_000,
        low_mark_bytes: 500,
        overflow: Overflow::DropNewest,
        ..limits.flow_control()
    };
    let of_handlers = group.clone();
    let listener = Listener::tcp(([10, 0, 0, 1], 1).into()).flow(flow);
    let builder = builder.limits(limits).listen(listener, move |_| Small { group: of_handlers.clone() });
    let address = simulation.serve(builder).expect("sound limits")[0];
    let got = Rc::new(RefCell::new(Got::default()));
    let reader = Reader { until: Time::ZERO + Duration::from_secs(10), ..Reader::PROMPT };
    let receiver =
        Receiver { reader, plan, partial: Vec::new(), next_read: Time::ZERO, orders_given: 0, got: got.clone() };
    simulation.client(address, MILLISECOND, receiver);
    let joined = group.clone();
    simulation.run_until(|_| joined.members() == 1).expect("nobody fails");
    // All at once: they are put together, to more than the queue holds.
    for number in 1..=20 {
        assert_eq!(group.publish(message(number, 100)), Ok(1));
    }
    simulation.run().unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!(got.borrow().numbers, all(20));
}

#[test]
fn draining_sends_what_was_published_before_it_and_refuses_what_comes_after() {
    let mut simulation = Simulation::new(14);
    let (builder, group) = Server::builder().group();
    let of_handlers = group.clone();
    let listener = Listener::tcp(([10, 0, 0, 1], 1).into());
    let builder = builder
        .limits(limits(Overflow::default()))
        .listen(listener, move |_| Subscriber { group: of_handlers.clone() });
    let address = simulation.serve(builder).expect("sound limits")[0];
    let plan = Plan { count: u64::MAX, bytes: 128, ..BRISK };
    let all_got: Vec<_> = (0..6).map(|_| Rc::new(RefCell::new(Got::default()))).collect();
    for got in &all_got {
        let reader = Reader::PROMPT;
        let receiver =
            Receiver { reader, plan, partial: Vec::new(), next_read: Time::ZERO, orders_given: 0, got: got.clone() };
        simulation.client(address, MILLISECOND, receiver);
    }
    let joined = group.clone();
    simulation.run_until(|_| joined.members() == 6).expect("nobody fails");
    // More than a delivery takes at a time.
    for number in 1..=200 {
        assert_eq!(group.publish(message(number, 128)), Ok(6));
    }
    simulation.handle().drain();
    assert_eq!(group.publish("more").expect_err("it drains").why, PublishRefusal::ServerOver);
    assert!(!group.wait_for_room(Duration::from_secs(60)), "there will be none");
    let report = simulation.run().unwrap_or_else(|violation| panic!("{violation}"));
    for got in &all_got {
        assert_eq!(got.borrow().numbers, all(200));
    }
    assert_eq!(report.closed_by_reason().find(|&(_, count)| count > 0), Some(("drained", 6)));
}

#[test]
fn who_was_refused_is_told_when_there_is_room() {
    let mut simulation = Simulation::new(15);
    let (builder, group) = Server::builder().group();
    let of_handlers = group.clone();
    let listener = Listener::tcp(([10, 0, 0, 1], 1).into());
    let limits = Limits { publish_queue: 8, ..limits(Overflow::default()) };
    let builder = builder.limits(limits).listen(listener, move |_| Subscriber { group: of_handlers.clone() });
    let address = simulation.serve(builder).expect("sound limits")[0];
    let plan = Plan { count: 16, ..BRISK };
    let got = Rc::new(RefCell::new(Got::default()));
    let receiver = Receiver {
        reader: Reader::PROMPT,
        plan,
        partial: Vec::new(),
        next_read: Time::ZERO,
        orders_given: 0,
        got: got.clone(),
    };
    simulation.client(address, MILLISECOND, receiver);
    let joined = group.clone();
    simulation.run_until(|_| joined.members() == 1).expect("nobody fails");
    let told = std::sync::Arc::new(Mutex::new(0));
    let count = told.clone();
    assert!(group.on_room(move || *count.lock().expect("one thread") += 1));
    assert!(!group.on_room(|| {}), "it has one");
    for number in 1..=8 {
        group.publish(message(number, 128)).expect("there is room");
    }
    assert!(group.wait_for_room(Duration::ZERO), "nobody was refused");
    let refused = group.publish(message(9, 128)).expect_err("it is full");
    assert_eq!(refused.why, PublishRefusal::QueueFull { io_thread: 0, waiting: 8 });
    assert!(!group.wait_for_room(Duration::ZERO));
    let asked = told.clone();
    assert!(simulation.run_until(|_| *asked.lock().expect("one thread") == 1).expect("nobody fails"));
    assert!(group.wait_for_room(Duration::ZERO));
    group.publish(refused.payload).expect("there is room");
    for number in 10..=16 {
        group.publish(message(number, 128)).expect("there is room");
    }
    simulation.run().unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!(got.borrow().numbers, all(16));
}

#[test]
fn groups_and_memberships_are_limited_and_groups_can_be_made_while_the_server_runs() {
    struct Joins {
        groups: std::sync::Arc<Mutex<Vec<Group>>>,
    }
    impl Handler for Joins {
        type Message = Infallible;
        fn on_connect(&mut self, connection: &mut Connection<'_>) {
            let groups = self.groups.lock().expect("one thread").clone();
            let joined: Vec<bool> = groups.iter().map(|group| connection.join(group).is_ok()).collect();
            assert_eq!(joined, [true, true, false], "two groups and no more");
            let sent = connection.send("done").expect("there is room");
            assert_eq!(sent, Sent::Queued);
        }
        fn on_read(&mut self, _connection: &mut Connection<'_>, _data: Buffer) {}
    }
    let mut simulation = Simulation::new(16);
    let groups = std::sync::Arc::new(Mutex::new(Vec::new()));
    let of_handlers = groups.clone();
    let limits = Limits { groups: 3, groups_per_connection: 2, ..limits(Overflow::default()) };
    let (builder, first) = Server::builder().limits(limits).group();
    let listener = Listener::tcp(([10, 0, 0, 1], 1).into());
    let builder = builder.listen(listener, move |_| Joins { groups: of_handlers.clone() });
    let address = simulation.serve(builder).expect("sound limits")[0];
    let handle = simulation.handle();
    let made = [first, handle.group().expect("the second"), handle.group().expect("the third")];
    assert_eq!(handle.group().expect_err("no more").limit, 3);
    groups.lock().expect("one thread").extend(made.iter().cloned());
    let plan = Plan { count: 1, bytes: 9, ..BRISK };
    let got = Rc::new(RefCell::new(Got::default()));
    let reader = Reader { until: Time::ZERO + Duration::from_secs(1), ..Reader::PROMPT };
    let receiver = Receiver { reader, plan, partial: Vec::new(), next_read: Time::ZERO, orders_given: 0, got };
    simulation.client(address, MILLISECOND, receiver);
    let counted = made.clone();
    assert!(simulation.run_until(|_| counted[1].members() == 1).expect("nobody fails"));
    assert_eq!(made.each_ref().map(Group::members), [1, 1, 0]);
    assert_eq!(made[2].publish("to nobody"), Ok(0));
    simulation.run().unwrap_or_else(|violation| panic!("{violation}"));
}

#[test]
fn what_can_never_fit_is_too_large() {
    let mut simulation = Simulation::new(17);
    let (builder, group) = Server::builder().group();
    simulation.serve(builder).expect("sound limits");
    let why = group.publish(vec![0; (64 << 10) + 1]).expect_err("larger than a queue").why;
    assert_eq!(why, PublishRefusal::TooLarge { bytes: (64 << 10) + 1, limit_bytes: 64 << 10 });
    assert_eq!(group.publish(vec![0; 64 << 10]), Ok(0));
    simulation.run().unwrap_or_else(|violation| panic!("{violation}"));
}

#[test]
fn a_hostile_world_tears_no_message_and_one_seed_is_one_run() {
    let hash = |seed| {
        let outcome = run(
            seed,
            Faults::everything(),
            limits(Overflow::DropOldest),
            Plan { count: 300, ..BRISK },
            &[Reader { until: Time::ZERO + Duration::from_secs(100), ..Reader::PROMPT }; 6],
        );
        (0..6).map(|receiver| outcome.numbers(receiver)).collect::<Vec<_>>()
    };
    for seed in 20..24 {
        assert_eq!(hash(seed), hash(seed), "seed {seed}");
    }
}
