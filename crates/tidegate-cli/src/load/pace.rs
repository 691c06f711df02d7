//! When a connection sends: pure, told the time.
//!
//! **Closed loop.** As many messages as may be unanswered go out at the start, and one more for each answer.
//!
//! **Open loop.** Every message has a time at which it is due, whatever the server does. One that can't be sent then,
//! because too many are unanswered, is sent later, and its latency still counts from when it was due: a server that stalls
//! delays all messages that were due meanwhile, and not only the one that happened to be on its way.
//!
//! The messages of all connections together are spaced evenly: message number `k` of connection `i` of `n` is number
//! `k * n + i` of all. Each is due at the end of the tick of the timers in which its even place lies. So the timer for it
//! expires exactly when it is due, and the ticks don't show in the latency.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use tidegate::Time;

/// What the framework's timers go by: one that is due on a tick expires on it, in nanoseconds.
const TICK_NANOS: u64 = 1_000_000;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// The first tick that is not before `time`.
pub(super) fn on_tick(time: Time) -> Time {
    Time::from_nanos(time.as_nanos().div_ceil(TICK_NANOS).saturating_mul(TICK_NANOS))
}

/// The rate of a whole block of connections, evenly shared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Of all connections.
    pub bytes_per_second: NonZeroU64,
    pub message_bytes: u64,
    /// How many share it.
    pub connections: u32,
}

/// The due times of one connection's messages, one after another, without a division for each.
#[derive(Clone, Debug)]
struct Cadence {
    /// When the next message is due, less a fraction of a nanosecond.
    due: Time,
    /// That fraction, in parts of `parts`; below it.
    fraction: u64,
    /// From one message to the next.
    step: Duration,
    step_fraction: u64,
    parts: u64,
}

impl Cadence {
    /// Those of connection `number`, when the first of all messages is due at `start`.
    fn new(rate: Rate, number: u32, start: Time) -> Self {
        let parts = rate.bytes_per_second.get();
        let span = |messages: u32| {
            // Up to 2^32 messages of 2^64 bytes would overflow; those that are allowed are far below.
            let nanos = u128::from(messages) * u128::from(rate.message_bytes) * NANOS_PER_SECOND;
            let whole = u64::try_from(nanos / u128::from(parts)).unwrap_or(u64::MAX);
            (Duration::from_nanos(whole), (nanos % u128::from(parts)) as u64)
        };
        let (offset, fraction) = span(number);
        let (step, step_fraction) = span(rate.connections);
        Self { due: start + offset, fraction, step, step_fraction, parts }
    }

    /// When the next message is due: on a tick.
    fn due(&self) -> Time {
        on_tick(self.due + Duration::from_nanos(u64::from(self.fraction > 0)))
    }

    /// Goes on to the message after it.
    fn advance(&mut self) {
        self.due = self.due + self.step;
        let (fraction, overflowed) = self.fraction.overflowing_add(self.step_fraction);
        self.fraction = fraction;
        if overflowed || fraction >= self.parts {
            self.fraction = fraction.wrapping_sub(self.parts);
            self.due = self.due + Duration::from_nanos(1);
        }
    }
}

/// When unanswered messages began to count.
#[derive(Debug)]
enum Begun {
    /// Closed loop, one message at a time: when it was sent. The common case, and without a block of its own.
    Sent(Time),
    /// Closed loop: when each was sent, in a ring, from the oldest on.
    SentEach { times: Box<[Time]>, oldest: u32 },
    /// Open loop: the due times of the next to be sent and of the oldest unanswered.
    Due { next: Cadence, oldest: Cadence },
}

/// The pace of one connection.
#[derive(Debug)]
pub(super) struct Pace {
    begun: Begun,
    depth: u32,
    unanswered: u32,
    start: Time,
    /// From then on nothing is sent.
    end: Time,
}

impl Pace {
    /// A closed loop with up to `depth` messages unanswered.
    pub(super) fn closed(depth: NonZeroU32, start: Time, end: Time) -> Self {
        let depth = depth.get();
        let begun = match depth {
            1 => Begun::Sent(Time::ZERO),
            _ => Begun::SentEach { times: vec![Time::ZERO; depth as usize].into_boxed_slice(), oldest: 0 },
        };
        Self { begun, depth, unanswered: 0, start, end }
    }

    /// An open loop: the share of connection `number` in `rate`, with up to `depth` messages unanswered.
    pub(super) fn open(rate: Rate, number: u32, depth: NonZeroU32, start: Time, end: Time) -> Self {
        let next = Cadence::new(rate, number, start);
        Self { begun: Begun::Due { oldest: next.clone(), next }, depth: depth.get(), unanswered: 0, start, end }
    }

    /// How many messages to send now. They count as sent.
    pub(super) fn take(&mut self, now: Time) -> u32 {
        if now < self.start || now >= self.end {
            return 0;
        }
        let room = self.depth - self.unanswered;
        let count = match &mut self.begun {
            Begun::Sent(time) => {
                if room > 0 {
                    *time = now;
                }
                room
            }
            Begun::SentEach { times, oldest } => {
                for place in self.unanswered..self.depth {
                    times[wrapped(*oldest + place, self.depth)] = now;
                }
                room
            }
            Begun::Due { next, .. } => {
                let mut count = 0;
                while count < room && next.due() <= now && next.due() < self.end {
                    next.advance();
                    count += 1;
                }
                count
            }
        };
        self.unanswered += count;
        count
    }

    /// The oldest unanswered message was answered. Returns how long it took: from when it was due, or from when it was sent
    /// where nothing is due.
    pub(super) fn answered(&mut self, now: Time) -> Duration {
        debug_assert!(self.unanswered > 0, "an answer to nothing");
        self.unanswered = self.unanswered.saturating_sub(1);
        let begun = match &mut self.begun {
            Begun::Sent(time) => *time,
            Begun::SentEach { times, oldest } => {
                let begun = times[*oldest as usize];
                *oldest = wrapped(*oldest + 1, self.depth) as u32;
                begun
            }
            Begun::Due { oldest, .. } => {
                let begun = oldest.due();
                oldest.advance();
                begun
            }
        };
        now.saturating_since(begun)
    }

    /// When to [`take`](Self::take) next, if not by an answer. `None`: only an answer can bring more, or nothing can.
    pub(super) fn next_due(&self, now: Time) -> Option<Time> {
        if now < self.start {
            return Some(self.start);
        }
        match &self.begun {
            Begun::Due { next, .. } if self.unanswered < self.depth && now < self.end => {
                Some(next.due()).filter(|&due| due < self.end)
            }
            _ => None,
        }
    }

    /// Nothing more is sent from now on.
    pub(super) fn stop(&mut self, now: Time) {
        self.end = self.end.min(now);
    }

    /// Messages without an answer.
    pub(super) fn unanswered(&self) -> u32 {
        self.unanswered
    }

    /// Whether nothing more is sent and nothing is unanswered.
    pub(super) fn is_over(&self, now: Time) -> bool {
        now >= self.end && self.unanswered == 0
    }
}

/// A place in a ring of `depth`, less than once around.
fn wrapped(place: u32, depth: u32) -> usize {
    (if place >= depth { place - depth } else { place }) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn at_ms(milliseconds: u64) -> Time {
        Time::from_nanos(milliseconds * TICK_NANOS)
    }

    fn depth(depth: u32) -> NonZeroU32 {
        NonZeroU32::new(depth).expect("at least 1")
    }

    fn rate(bytes_per_second: u64, message_bytes: u64, connections: u32) -> Rate {
        Rate { bytes_per_second: NonZeroU64::new(bytes_per_second).expect("at least 1"), message_bytes, connections }
    }

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_closed_loop_sends_to_its_depth_at_the_start_and_one_for_each_answer_until_the_end() {
        for size in [1, 3] {
            let mut pace = Pace::closed(depth(size), at_ms(10), at_ms(20));
            assert_eq!((pace.take(at_ms(9)), pace.next_due(at_ms(9))), (0, Some(at_ms(10))));
            assert_eq!((pace.take(at_ms(10)), pace.take(at_ms(10))), (size, 0));
            assert_eq!(pace.next_due(at_ms(10)), None);
            assert_eq!(pace.answered(at_ms(12)), ms(2));
            assert_eq!(pace.take(at_ms(12)), 1);
            for _ in 1..size {
                assert_eq!(pace.answered(at_ms(15)), ms(5));
            }
            assert_eq!(pace.answered(at_ms(15)), ms(3), "the one that was sent at 12");
            assert_eq!(pace.take(at_ms(20)), 0);
            assert!(pace.is_over(at_ms(20)));
        }
    }

    #[test]
    fn an_open_loop_sends_when_messages_are_due_and_counts_from_then() {
        // 1,000 messages a second over 4 connections: this one has numbers 1, 5, 9...
        let mut pace = Pace::open(rate(64_000, 64, 4), 1, depth(2), at_ms(100), at_ms(200));
        assert_eq!((pace.take(at_ms(100)), pace.next_due(at_ms(100))), (0, Some(at_ms(101))));
        assert_eq!((pace.take(at_ms(101)), pace.next_due(at_ms(101))), (1, Some(at_ms(105))));
        // The server stalls.
        assert_eq!((pace.take(at_ms(105)), pace.next_due(at_ms(105))), (1, None));
        assert_eq!(pace.take(at_ms(150)), 0, "two are unanswered");
        assert_eq!(pace.answered(at_ms(150)), ms(49));
        assert_eq!(pace.take(at_ms(150)), 1, "the one that was due at 109");
        assert_eq!(pace.answered(at_ms(150)), ms(45));
        assert_eq!(pace.answered(at_ms(151)), ms(42), "it counts from 109, although it was sent at 150");
    }

    #[test]
    fn what_is_due_at_the_end_or_later_is_not_sent() {
        let mut pace = Pace::open(rate(1_000, 1, 1), 0, depth(100), at_ms(0), at_ms(10));
        assert_eq!(pace.take(at_ms(9)), 10);
        assert_eq!(pace.next_due(at_ms(9)), None);
        assert_eq!(pace.take(at_ms(10)), 0);
        assert!(!pace.is_over(at_ms(10)), "ten are unanswered");
    }

    #[test]
    fn a_stop_is_an_early_end() {
        let mut pace = Pace::open(rate(1_000, 1, 1), 0, depth(100), at_ms(0), at_ms(1_000));
        assert_eq!(pace.take(at_ms(0)), 1);
        pace.stop(at_ms(5));
        assert_eq!((pace.take(at_ms(5)), pace.next_due(at_ms(5))), (0, None));
        pace.answered(at_ms(6));
        assert!(pace.is_over(at_ms(6)));
    }

    #[test]
    fn the_slowest_and_the_fastest_rates_neither_overflow_nor_stop() {
        let mut slow = Cadence::new(rate(1, 16 << 20, u32::MAX), u32::MAX - 1, at_ms(1));
        slow.advance();
        slow.advance();
        assert_eq!(slow.due(), on_tick(Time::MAX));
        let mut fast = Cadence::new(rate(u64::MAX, 1, 1), 0, at_ms(1));
        for _ in 0..1_000 {
            fast.advance();
        }
        assert_eq!(fast.due(), at_ms(2), "a nanosecond is after the first tick");
    }

    prop_compose! {
        fn any_rate()(
            bytes_per_second in prop_oneof![1_u64..10_000, 1_u64..10_000_000_000, Just(u64::MAX)],
            message_bytes in prop_oneof![1_u64..2_000, Just(16_u64 << 20)],
            connections in prop_oneof![1_u32..10, 1_u32..100_000],
        ) -> Rate {
            rate(bytes_per_second, message_bytes, connections)
        }
    }

    /// When message `k` of connection `number` is due, by the definition.
    fn exact_due(rate: Rate, number: u32, k: u64, start: Time) -> u128 {
        let message = u128::from(k) * u128::from(rate.connections) + u128::from(number);
        let nanos = (message * u128::from(rate.message_bytes) * NANOS_PER_SECOND)
            .div_ceil(u128::from(rate.bytes_per_second.get()));
        let tick = u128::from(TICK_NANOS);
        (u128::from(start.as_nanos()) + nanos).div_ceil(tick) * tick
    }

    proptest! {
        #[test]
        fn due_times_step_by_step_are_the_exact_ones(
            rate in any_rate(),
            part in 0.0_f64..1.0,
            start_ms in 0_u64..100_000,
            steps in 1_u64..300,
        ) {
            let number = (f64::from(rate.connections) * part) as u32;
            let mut cadence = Cadence::new(rate, number, at_ms(start_ms));
            for k in 0..steps {
                let exact = exact_due(rate, number, k, at_ms(start_ms));
                let last = u128::from(on_tick(Time::MAX).as_nanos());
                if exact >= last / 2 {
                    break; // Hundreds of years: it saturates somewhere beyond.
                }
                prop_assert_eq!(u128::from(cadence.due().as_nanos()), exact);
                cadence.advance();
            }
        }

        #[test]
        fn all_connections_together_never_send_more_than_the_rate_and_all_that_is_due(
            message_bytes in 1_u64..2_000,
            messages_per_second in 1_u64..20_000,
            connections in 1_u32..30,
            looks in prop::collection::vec(0_u64..40, 1..60),
        ) {
            let rate = rate(message_bytes * messages_per_second, message_bytes, connections);
            let end = at_ms(1 << 40);
            let mut paces: Vec<Pace> =
                (0..connections).map(|number| Pace::open(rate, number, depth(1 << 20), at_ms(0), end)).collect();
            let (mut now_ms, mut sent) = (0, 0_u64);
            for wait_ms in looks {
                now_ms += wait_ms;
                sent += paces.iter_mut().map(|pace| u64::from(pace.take(at_ms(now_ms)))).sum::<u64>();
                // Message 0 is due at 0.
                prop_assert_eq!(sent, messages_per_second * now_ms / 1_000 + 1);
            }
        }

        /// What the pace promises, the slow way: a list of due or send times.
        #[test]
        fn depth_order_and_latencies_are_those_of_a_plain_list(
            open in any::<bool>(),
            depth_messages in 1_u32..6,
            messages_per_second in 1_u64..5_000,
            connections in 1_u32..5,
            steps in prop::collection::vec((0_u64..20, 0_usize..8), 1..100),
            start_ms in 0_u64..50,
            length_ms in 1_u64..500,
        ) {
            let rate = rate(messages_per_second, 1, connections);
            let (number, start, end) = (connections - 1, at_ms(start_ms), at_ms(start_ms + length_ms));
            let mut pace = match open {
                true => Pace::open(rate, number, depth(depth_messages), start, end),
                false => Pace::closed(depth(depth_messages), start, end),
            };
            let mut list: VecDeque<Time> = VecDeque::new();
            let (mut now_ms, mut sent) = (0, 0);
            for (wait_ms, answers) in steps {
                now_ms += wait_ms;
                let now = at_ms(now_ms);
                for _ in 0..answers.min(list.len()) {
                    let begun = list.pop_front().expect("as many as there are");
                    prop_assert_eq!(pace.answered(now), now.saturating_since(begun));
                }
                let before = list.len();
                while now >= start && now < end && list.len() < depth_messages as usize {
                    let due = Time::from_nanos(u64::try_from(exact_due(rate, number, sent, start)).expect("soon"));
                    if !open {
                        list.push_back(now);
                    } else if due <= now && due < end {
                        list.push_back(due);
                        sent += 1;
                    } else {
                        break;
                    }
                }
                prop_assert_eq!(pace.take(now) as usize, list.len() - before);
                prop_assert_eq!(pace.take(now), 0, "all at once");
                prop_assert_eq!(pace.unanswered() as usize, list.len());
                prop_assert_eq!(pace.is_over(now), now >= end && list.is_empty());
                if let Some(due) = pace.next_due(now) {
                    prop_assert!(due > now && due < end.max(start + ms(1)), "a timer that does something");
                    prop_assert_eq!(due, on_tick(due), "on a tick");
                    prop_assert!(list.len() < depth_messages as usize);
                }
            }
        }
    }
}
