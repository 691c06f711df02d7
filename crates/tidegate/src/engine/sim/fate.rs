//! What is going to happen: the virtual clock, the events ahead of it, and the seed that decides between the ways
//! things can go.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeSet, BinaryHeap};

use super::endpoint::EndpointId;
use super::faults::{Fault, Faults, Range};
use super::random::Random;
use super::trace::{Record, Trace};
use crate::time::Time;

/// Something that will happen in the world.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// A request to connect arrives at the address that `client` wants.
    Syn { client: EndpointId },
    /// The refusal of its request arrives at `client`.
    Refused { client: EndpointId },
    /// The client's answer to the answer arrives: `server` may be accepted.
    Handshaken { server: EndpointId },
    /// What `endpoint` was transmitting is on the wire.
    Departed { endpoint: EndpointId },
    /// The first thing on the wire from `sender` arrives.
    Arrived { sender: EndpointId },
    /// A reset arrives at `endpoint`.
    Reset { endpoint: EndpointId },
    /// The connection of `endpoint` breaks: both ends see a reset.
    Cut { endpoint: EndpointId },
    /// A peer wanted to be told about this moment.
    PeerTimer { peer: u32 },
    /// The harness wanted to be told about this moment.
    Timer { token: u64 },
}

/// The clock, the events ahead, and the dice.
#[derive(Debug)]
pub(super) struct Fate {
    now: Time,
    /// Numbers the events, so that those of one moment happen in the order in which they were decided.
    sequence: u64,
    ahead: BinaryHeap<Reverse<Ahead>>,
    /// Decides everything in the world.
    pub random: Random,
    /// How hostile the world is.
    pub faults: Faults,
    struck: [u64; Fault::COUNT],
    /// How often each fault could have struck.
    occasions: [u64; Fault::COUNT],
    /// Faults that strike on a certain occasion, counted from 1.
    scripted: BTreeSet<(Fault, u64)>,
    /// What has happened so far.
    pub trace: Trace,
}

#[derive(Debug)]
struct Ahead {
    time: Time,
    sequence: u64,
    event: Event,
}

impl Fate {
    /// Time zero of the world of `seed`.
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        assert!(faults.completion_ns.0 > 0 && faults.turn_ns.0 > 0, "time has to pass");
        Self {
            now: Time::ZERO,
            sequence: 0,
            ahead: BinaryHeap::new(),
            random: Random::new(seed),
            faults,
            struck: [0; Fault::COUNT],
            occasions: [0; Fault::COUNT],
            scripted: BTreeSet::new(),
            trace: Trace::new(),
        }
    }

    /// Lets `event` happen `after_ns` nanoseconds from now.
    pub(super) fn schedule(&mut self, after_ns: u64, event: Event) {
        self.schedule_at(Time::from_nanos(self.now.as_nanos().saturating_add(after_ns)), event);
    }

    /// Lets `event` happen at `time`, or now if that is over.
    pub(super) fn schedule_at(&mut self, time: Time, event: Event) {
        let sequence = self.next_sequence();
        self.ahead.push(Reverse(Ahead { time: time.max(self.now), sequence, event }));
    }

    /// Sets the clock to the next event if it is not later than `limit`, and takes it.
    pub(super) fn next_until(&mut self, limit: Time) -> Option<Event> {
        if self.ahead.peek()?.0.time > limit {
            return None;
        }
        let Reverse(ahead) = self.ahead.pop()?;
        self.set_clock(ahead.time);
        Some(ahead.event)
    }

    /// Moves the clock forward to `time`.
    pub(super) fn set_clock(&mut self, time: Time) {
        assert!(time >= self.now, "the clock goes back from {} to {time}", self.now);
        self.now = time;
    }

    /// A number that is larger than all before.
    pub(super) fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Draws from `range`, each order of magnitude as often as the others: small buffers find more than large ones.
    pub(super) fn draw(&mut self, range: Range) -> u64 {
        let (lowest, highest) = range;
        if lowest == highest {
            return lowest;
        }
        let bits = |number: u64| u64::from(u64::BITS - number.leading_zeros());
        match self.random.between(bits(lowest), bits(highest)) {
            0 => 0,
            bits => {
                let floor = 1 << (bits - 1);
                self.random.between(lowest.max(floor), highest.min(floor - 1 + floor))
            }
        }
    }

    /// Whether `fault` strikes here and now.
    pub(super) fn strikes(&mut self, fault: Fault) -> bool {
        let occasion = &mut self.occasions[fault as usize];
        *occasion += 1;
        let is_scripted = !self.scripted.is_empty() && self.scripted.remove(&(fault, *occasion));
        let strikes = self.random.chance(self.faults.chance(fault)) || is_scripted;
        if strikes {
            self.struck[fault as usize] += 1;
        }
        strikes
    }

    /// Lets `fault` strike on its `nth` occasion from now on, counted from 1.
    pub(super) fn script(&mut self, fault: Fault, nth: u64) {
        self.scripted.insert((fault, self.occasions[fault as usize].saturating_add(nth)));
    }

    /// What `fault` adds here and now: nothing, or from 1 to `most_ns` nanoseconds if it strikes.
    pub(super) fn delay_by(&mut self, fault: Fault, most_ns: u64) -> u64 {
        if self.strikes(fault) { self.random.between(1, most_ns.max(1)) } else { 0 }
    }

    /// A share of `available`: all of it, or from 1 to one fewer if `fault` strikes and there is more than one.
    pub(super) fn shorten(&mut self, fault: Fault, available: usize) -> usize {
        if available > 1 && self.strikes(fault) {
            self.random.between(1, available as u64 - 1) as usize
        } else {
            available
        }
    }

    /// Writes an event down.
    pub(super) fn note(&mut self, record: Record) {
        self.trace.add(self.now, record);
    }

    /// The time.
    pub(super) fn now(&self) -> Time {
        self.now
    }

    /// When the next event happens.
    pub(super) fn next_time(&self) -> Option<Time> {
        self.ahead.peek().map(|Reverse(ahead)| ahead.time)
    }

    /// How often `fault` has struck.
    pub(super) fn struck(&self, fault: Fault) -> u64 {
        self.struck[fault as usize]
    }
}

impl PartialEq for Ahead {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ahead {}

impl PartialOrd for Ahead {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ahead {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.time, self.sequence).cmp(&(other.time, other.sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_in_their_range_and_reach_every_order_of_magnitude() {
        let mut fate = Fate::new(3, Faults::none());
        for range in [(0, 0), (0, 1), (5, 6), (100, 65_536), (u64::MAX - 1, u64::MAX), (0, u64::MAX)] {
            for _ in 0..200 {
                let drawn = fate.draw(range);
                assert!(range.0 <= drawn && drawn <= range.1, "{drawn} of {range:?}");
            }
        }
        let small = (0..1000).filter(|_| fate.draw((1, 1 << 20)) < 1024).count();
        assert!((300..700).contains(&small), "{small} of 1000 below 1024");
    }

    #[test]
    fn a_scripted_fault_strikes_on_its_occasion_and_on_no_other() {
        let mut fate = Fate::new(3, Faults::none());
        assert!(!fate.strikes(Fault::Reset));
        fate.script(Fault::Reset, 2);
        fate.script(Fault::Stall, 1);
        let strikes: Vec<bool> = (0..4).map(|_| fate.strikes(Fault::Reset)).collect();
        assert_eq!(strikes, [false, true, false, false]);
        assert!(fate.strikes(Fault::Stall));
        assert_eq!((fate.struck(Fault::Reset), fate.struck(Fault::Stall)), (1, 1));
    }

    #[test]
    fn events_of_one_moment_happen_in_the_order_in_which_they_were_decided() {
        let mut fate = Fate::new(3, Faults::none());
        for token in 0..5 {
            fate.schedule(10, Event::Timer { token });
        }
        fate.schedule(5, Event::Timer { token: 9 });
        let mut tokens = Vec::new();
        while let Some(Event::Timer { token }) = fate.next_until(Time::from_nanos(10)) {
            tokens.push(token);
        }
        assert_eq!(tokens, [9, 0, 1, 2, 3, 4]);
        assert_eq!(fate.now().as_nanos(), 10);
    }
}
