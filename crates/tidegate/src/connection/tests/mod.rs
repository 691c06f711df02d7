//! Tests of the connection state machine: named cases, bugs that once happened, and a model that plays handler and
//! engine against it.

mod filtered;
mod model;
mod named;
mod pace;
mod past_bugs;
mod strain;
mod world;

use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::memory::{
    ArenaConfig, ArenaMemory, Buffer, Gather, MESSAGE_OVERHEAD_BYTES, Payload, ReceiveArena, SendLease, SendReserve,
};
use crate::time::Time;

/// The connection slot that all tests use.
const OWNER: u32 = 1;

/// The size of a receive buffer, in bytes.
const BUFFER_BYTES: usize = 4096;

/// What a delivery charges ahead.
const CREDIT_BYTES: usize = BUFFER_BYTES + MESSAGE_OVERHEAD_BYTES;

/// Limits small enough to be reached: a queue of 16 KiB and 8 messages, a floor of one reply.
fn small_queue() -> FlowControl {
    FlowControl {
        window_bytes: 8 << 10,
        queue_bytes: 16 << 10,
        queue_messages: 8,
        high_mark_bytes: 8 << 10,
        low_mark_bytes: 4 << 10,
        overflow: Overflow::Wait { limit: None },
        over_mark_limit: None,
        reads_above_mark: false,
    }
}

/// ... and no limits of time.
fn small_flow() -> Flow {
    Flow {
        floor_bytes: CREDIT_BYTES,
        held_buffers: 2,
        reply_bytes: BUFFER_BYTES,
        close_timeout: Duration::from_secs(30),
        linger_timeout: Duration::from_secs(5),
        linger_bytes: 10_000,
        first_byte_timeout: None,
        idle_timeout: None,
        min_send_progress: None,
        min_receive_rate: None,
    }
}

/// Pools with an arena of `buffers` buffers and a reserve of `reserve_bytes`.
fn pools(buffers: u32, reserve_bytes: usize, flow: Flow, queue: &FlowControl) -> Pools {
    let config = ArenaConfig { buffers, buffer_bytes: BUFFER_BYTES as u32, owners: 2, lent_max: 1 };
    let arena = ReceiveArena::new(ArenaMemory::new(config, Box::new(|| {})));
    let flows = Flows::new(std::slice::from_ref(queue), 1);
    let filters = Filters::new(2, 1, 0, Duration::from_secs(10));
    Pools::new(arena, SendLease::new(SendReserve::new(reserve_bytes)), flow, flows, filters)
}

/// A buffer of the arena with `bytes` in it, as an engine delivers it.
fn filled(pools: &Pools, bytes: &[u8]) -> Buffer {
    let index = pools.arena.take_free().expect("a free buffer");
    let mut buffer = pools.arena.filled(index, bytes.len(), OWNER);
    buffer.copy_from_slice(bytes);
    buffer
}

/// Takes all of send memory that is left, for somebody else.
fn use_up(lease: &Rc<SendLease>) -> usize {
    let mut taken = 0;
    let mut bytes = lease.total();
    while bytes > 0 {
        match lease.charge(bytes) {
            Ok(()) => taken += bytes,
            Err(_) => bytes /= 2,
        }
    }
    taken
}

/// A machine, its pools and a clock that stands still unless moved: enough for cases told step by step.
struct Bench {
    machine: Machine,
    pools: Pools,
    now: Time,
    /// What the system holds and nobody has read.
    unread_bytes: usize,
}

impl Bench {
    fn new(buffers: u32, reserve_bytes: usize, flow: Flow) -> Self {
        Self::with_queue(buffers, reserve_bytes, flow, &small_queue())
    }

    fn with_queue(buffers: u32, reserve_bytes: usize, flow: Flow, queue: &FlowControl) -> Self {
        let (machine, pools) = (Machine::new(Time::ZERO, 0), pools(buffers, reserve_bytes, flow, queue));
        Self { machine, pools, now: Time::ZERO, unread_bytes: 0 }
    }

    fn roomy() -> Self {
        Self::new(8, 1 << 20, small_flow())
    }

    /// The next step.
    fn step(&mut self) -> Option<Step> {
        self.machine.next_step(OWNER, self.now, &mut self.pools)
    }

    /// All steps that are to be done now, by name; buffers and gathers are dropped.
    fn steps(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        while let Some(step) = self.step() {
            assert!(names.len() < 100, "steps without end: {names:?}");
            names.push(match &step {
                Step::Deliver(_) => "Deliver".to_owned(),
                Step::Send(_) => "Send".to_owned(),
                other => format!("{other:?}"),
            });
            if let Step::Deliver(delivery) = step {
                self.machine.end_delivery(delivery.credit_bytes, &mut self.pools);
            }
        }
        names
    }

    /// The next step, which must be a send.
    fn gather(&mut self) -> Box<Gather> {
        match self.step() {
            Some(Step::Send(gather)) => gather,
            other => panic!("a send was expected, not {other:?}"),
        }
    }

    /// Puts one byte in flight, so that what is sent after it waits in the queue.
    fn occupy(&mut self) -> Box<Gather> {
        self.send("x").expect("taken");
        self.gather()
    }

    fn send(&mut self, payload: impl Into<Payload>) -> Result<Sent, Refused> {
        self.machine.send(payload.into(), &mut 0, self.now, &mut self.pools)
    }

    fn received(&mut self, bytes: &[u8]) -> Option<Delivery> {
        let buffer = filled(&self.pools, bytes);
        self.machine.received(buffer, OWNER, self.now, &mut self.pools)
    }

    /// Data that goes to the handler at once, which keeps it and sends nothing.
    fn kept(&mut self, bytes: &[u8]) -> Buffer {
        let delivery = self.received(bytes).expect("delivered at once");
        self.machine.end_delivery(delivery.credit_bytes, &mut self.pools);
        delivery.buffer
    }

    fn sent(&mut self, gather: Box<Gather>, bytes: usize) {
        self.machine.sent(gather, Ok(bytes), self.now, &mut self.pools);
    }

    fn sent_all(&mut self, gather: Box<Gather>) {
        let bytes = gather.slices().map(<[u8]>::len).sum();
        self.sent(gather, bytes);
    }

    fn write_shut(&mut self) {
        self.machine.write_shut(Ok(()), self.now, &mut self.pools);
    }

    fn close(&mut self) {
        self.machine.close(CloseReason::ClosedByHandler, self.now, &mut self.pools);
    }

    fn peer_finished(&mut self) {
        self.machine.peer_finished(&mut self.pools);
    }

    fn wait(&mut self, duration: Duration) {
        self.now = self.now + duration;
        self.machine.time_passed(self.now, || self.unread_bytes, &mut self.pools);
    }

    /// Time passes as it does on an I/O thread: the machine looks at it when it wants to, and not in between.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let look = self.machine.next_look(self.now, &self.pools);
            if look > end {
                break;
            }
            assert!(look > self.now || self.machine.deadline() <= self.now, "a busy loop");
            self.now = look.max(self.now);
            self.machine.time_passed(self.now, || self.unread_bytes, &mut self.pools);
        }
        self.now = end;
    }

    /// The engine has closed the socket; nothing may be left.
    fn released(&mut self) -> CloseReason {
        let reason = self.machine.released();
        assert_eq!((self.machine.charged_bytes(), self.pools.messages_waiting()), (0, 0));
        assert_eq!((self.pools.flows.in_use(), self.pools.flows.refusing()), (0, 0));
        reason
    }
}

/// The simulation looks for these; each is a state that the machine itself never rests in.
#[test]
fn what_is_neglected_is_seen_and_what_waits_for_a_reason_is_not() {
    use super::marks::Mark;

    let pools = pools(4, 10_000, small_flow(), &small_queue());
    let neglect = |marks: &[Mark]| {
        let mut machine = Machine::new(Time::ZERO, 0);
        marks.iter().for_each(|&mark| machine.marks.set(mark, true));
        machine.neglected(&pools).is_some()
    };
    assert!(!neglect(&[Mark::Receiving]));
    assert!(neglect(&[]), "nothing is in the way of reading");
    for reason in [Mark::PausedByHandler, Mark::WaitsForMemory, Mark::SystemShort, Mark::PeerFinished] {
        assert!(!neglect(&[reason]), "{reason:?}");
    }
    assert!(neglect(&[Mark::Receiving, Mark::QueueHigh]), "the queue is empty");
    assert!(neglect(&[Mark::Receiving, Mark::OwesWritable]), "there is room");
    assert!(!neglect(&[Mark::Receiving, Mark::OwesWritable, Mark::WaitsForMemory]));
    let half_closed = [Mark::Receiving, Mark::OwesWritable, Mark::ShutdownWanted];
    assert!(!neglect(&half_closed), "nothing more can be sent");
    assert!(neglect(&[&half_closed[..], &[Mark::OffloadRefused]].concat()), "there is room for the job");
}
