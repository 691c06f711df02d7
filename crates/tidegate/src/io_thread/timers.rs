//! The timers of an I/O thread: a hierarchical timing wheel.
//!
//! A server has several deadlines for each connection (idle, whole message, linger, handshake), nearly all of
//! them cancelled or moved before they fire. So setting and cancelling must cost the same few instructions
//! whether there are ten timers or a million, which rules out a heap; and the loop must know how long it may
//! sleep, which rules out a wheel that is walked tick by tick.
//!
//! The wheel has [`LEVELS`] levels of 64 slots. A timer lies on the level of the highest six-bit digit in
//! which its tick differs from the present one, in the slot named by that digit. Four things follow, and the
//! code leans on each of them:
//!
//! - every occupied slot is *ahead* of the present one on its level, so the lowest set bit of a level's
//!   bitmap is its earliest slot, without any wrapping round;
//! - everything on a lower level is earlier than anything on a higher one, so the first occupied level has
//!   the next event;
//! - moving the present on up to the next event leaves every timer where it is, so a jump of hours costs the
//!   slots that are occupied, not the ticks that went by;
//! - two timers for the same tick always share a list once the present is near, in the order in which they
//!   were set, because a slot is spread over the lower levels (a *cascade*) before anything else can be put
//!   there.
//!
//! The wheel has no clock: it is told the time.

use std::num::NonZeroU32;

use crate::memory::Pieces;
use crate::time::Time;

/// Length of a tick in nanoseconds: one millisecond.
///
/// A timer fires up to one tick late. Network timeouts are tens of milliseconds and more, so a millisecond
/// isn't noticed, while timers which are due close together share one wake-up; it is also as fine as the
/// coarsest engine can sleep.
pub(crate) const TICK_NANOS: u64 = 1_000_000;

/// Bits of the tick number that one level stands for: 64 slots, so that a level's occupancy is one word.
const LEVEL_BITS: u32 = 6;
/// Slots of a level.
const SLOTS: usize = 1 << LEVEL_BITS;
/// Levels of the wheel: as many as it takes to place every [`Time`] there is (2⁴⁵ ticks), so that no deadline
/// is too far away and needs treatment of its own. The upper ones are hardly ever touched.
const LEVELS: usize = 8;

/// The list after those of the slots: timers whose deadline had passed when they were set.
const OVERDUE: u16 = (LEVELS * SLOTS) as u16;
/// In place of a list: the node isn't in use.
const UNUSED: u16 = u16::MAX;
/// In place of a node's index: there is none.
const NONE: u32 = u32::MAX;

const _: () = assert!(u64::MAX.div_ceil(TICK_NANOS) < 1 << (LEVEL_BITS * LEVELS as u32));

/// Names one timer of a [`TimerWheel`], to cancel it.
///
/// A key whose timer has fired or has been cancelled is stale, and harmless: its generation no longer matches
/// that of the node, which has to be reused four thousand million times before it does again. Eight bytes,
/// and so is `Option<TimerKey>`.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct TimerKey {
    index: u32,
    generation: NonZeroU32,
}

/// A set of timers, each with a value of type `T` that is handed back when it fires.
///
/// **Promises.** A timer never fires before its deadline, and fires at the first [`advance`](Self::advance)
/// at or after the end of the tick in which the deadline lies, which is less than one tick after it. Timers
/// fire in the order of their ticks and within a tick in the order in which they were set, so that a run can
/// be repeated exactly.
///
/// **Costs.** Setting and cancelling are O(1); a timer is moved at most seven times before it fires. The
/// slots take 4 KiB, a timer 24 bytes and its value: 32 bytes for a value of eight. Nodes never move and are reused,
/// never given back, so the memory is that of the most timers there were at a time. The wheel sets no bound of its
/// own: whoever owns it must (timers per connection times connections).
pub(crate) struct TimerWheel<T: Copy> {
    /// The time of the last `advance`.
    now: Time,
    /// The present tick: whole ticks in `now`, or while advancing, the tick of the event at hand.
    tick: u64,
    /// For each level, a bit for each slot that holds timers.
    occupied: [u64; LEVELS],
    /// The slots of all levels, then the list of overdue timers.
    lists: Box<[List]>,
    nodes: Pieces<Node<T>>,
    /// First of the unused nodes, linked by `next`.
    first_unused: u32,
    len: usize,
}

/// A timer, or an unused place for one. Small, because there are several for each connection.
struct Node<T> {
    deadline: Time,
    previous: u32,
    next: u32,
    /// Changes each time the node is freed.
    generation: NonZeroU32,
    /// The list it is in.
    list: u16,
    /// Left from last time if the node is unused.
    value: T,
}

const _: () = assert!(size_of::<Node<u64>>() == 32 && size_of::<Option<TimerKey>>() == 8);

/// Both ends of a list of nodes: the oldest is first.
#[derive(Copy, Clone)]
struct List {
    first: u32,
    last: u32,
}

impl List {
    const EMPTY: List = List { first: NONE, last: NONE };
}

/// The earliest occupied slot of the wheel.
struct Event {
    level: usize,
    list: u16,
    /// The tick at which the slot begins.
    tick: u64,
}

impl<T: Copy> TimerWheel<T> {
    /// An empty wheel whose time is [`Time::ZERO`].
    pub(crate) fn new() -> TimerWheel<T> {
        TimerWheel {
            now: Time::ZERO,
            tick: 0,
            occupied: [0; LEVELS],
            lists: vec![List::EMPTY; LEVELS * SLOTS + 1].into_boxed_slice(),
            nodes: Pieces::new(),
            first_unused: NONE,
            len: 0,
        }
    }

    /// Sets a timer that hands back `value` when `deadline` has come.
    ///
    /// If the deadline isn't after the time of the last [`advance`](Self::advance), the timer fires at the
    /// next one, even if that is told the same time; among others like it, in the order in which they were
    /// set. A deadline in the very last tick of time, such as "now and `Duration::MAX`", never fires.
    ///
    /// # Panics
    ///
    /// With 2³² − 1 timers set, which take 128 GiB.
    pub(crate) fn insert(&mut self, deadline: Time, value: T) -> TimerKey {
        let index = self.take_node(deadline, value);
        let list = if deadline <= self.now { OVERDUE } else { self.list_for(deadline) };
        self.append(index, list);
        self.len += 1;
        TimerKey { index, generation: self.nodes[index as usize].generation }
    }

    /// Takes back a timer and returns its value; `None` if it has fired or been cancelled before.
    pub(crate) fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let node = self.nodes.get(key.index as usize)?;
        if node.generation != key.generation || node.list == UNUSED {
            return None;
        }
        let (value, list, previous, next) = (node.value, node.list, node.previous, node.next);
        match previous {
            NONE => self.lists[list as usize].first = next,
            _ => self.nodes[previous as usize].next = next,
        }
        match next {
            NONE => self.lists[list as usize].last = previous,
            _ => self.nodes[next as usize].previous = previous,
        }
        if self.lists[list as usize].first == NONE {
            self.mark_empty(list);
        }
        self.free_node(key.index);
        Some(value)
    }

    /// Moves the time on to `now` and appends the values of all timers that fire to `expired`, in order.
    ///
    /// A `now` before the last one counts as the last one: time doesn't go back. The cost is that of the
    /// timers that fire or are moved to a lower level, however long the step.
    pub(crate) fn advance(&mut self, now: Time, expired: &mut Vec<T>) {
        self.now = self.now.max(now);
        self.expire(OVERDUE, expired);
        let target = self.now.as_nanos() / TICK_NANOS;
        while let Some(event) = self.next_event() {
            if event.tick > target {
                break;
            }
            self.tick = event.tick;
            if event.level == 0 {
                self.expire(event.list, expired);
            } else {
                self.cascade(event.list);
            }
        }
        self.tick = target;
    }

    /// The time at which [`advance`](Self::advance) should be called next, or `None` if there are no timers.
    ///
    /// At this time `advance` has something to do: a timer to fire, or a slot of a higher level to spread out
    /// (at most seven times for one timer). It is after the time of the last `advance`, unless a timer is
    /// overdue; then it is that time. So a loop that sleeps until it always gets on. It is never a whole tick
    /// after the earliest deadline.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        if self.lists[OVERDUE as usize].first != NONE {
            return Some(self.now);
        }
        let event = self.next_event()?;
        Some(Time::from_nanos(event.tick.saturating_mul(TICK_NANOS)))
    }

    /// When a timer is due; `None` if it has fired or was cancelled.
    pub(crate) fn deadline_of(&self, key: TimerKey) -> Option<Time> {
        let node = self.nodes.get(key.index as usize)?;
        (node.generation == key.generation && node.list != UNUSED).then_some(node.deadline)
    }

    /// The values of all timers that are set, in no particular order. Walks every node there ever was.
    pub(crate) fn values(&self) -> impl Iterator<Item = T> {
        self.nodes.iter().filter(|node| node.list != UNUSED).map(|node| node.value)
    }

    /// How many timers are set.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is set.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The earliest occupied slot: the lowest bit of the lowest level that has any.
    fn next_event(&self) -> Option<Event> {
        let level = self.occupied.iter().position(|slots| *slots != 0)?;
        let slot = self.occupied[level].trailing_zeros() as u64;
        let shift = LEVEL_BITS * level as u32;
        let digits_above = self.tick >> (shift + LEVEL_BITS) << (shift + LEVEL_BITS);
        Some(Event { level, list: (level * SLOTS) as u16 + slot as u16, tick: digits_above | slot << shift })
    }

    /// The slot for a timer, seen from the present tick.
    fn list_for(&self, deadline: Time) -> u16 {
        // Rounded up, so that the tick begins at or after the deadline.
        let tick = deadline.as_nanos().div_ceil(TICK_NANOS);
        debug_assert!(tick >= self.tick, "a slot that has gone by");
        let highest_difference = (tick ^ self.tick).checked_ilog2().unwrap_or(0);
        let level = highest_difference / LEVEL_BITS;
        let slot = (tick >> (level * LEVEL_BITS)) as usize % SLOTS;
        (level as usize * SLOTS + slot) as u16
    }

    /// Fires all timers of a list.
    fn expire(&mut self, list: u16, expired: &mut Vec<T>) {
        let mut index = self.take_list(list);
        while index != NONE {
            let node = &self.nodes[index as usize];
            debug_assert!(node.deadline <= self.now, "a timer fires early");
            let next = node.next;
            expired.push(node.value);
            self.free_node(index);
            index = next;
        }
    }

    /// Spreads a slot of a higher level, which has just begun, over the lower levels. What is due in this
    /// very tick lands in the present slot of the lowest level, and is the next event.
    fn cascade(&mut self, list: u16) {
        let mut index = self.take_list(list);
        while index != NONE {
            let Node { deadline, next, .. } = self.nodes[index as usize];
            let lower = self.list_for(deadline);
            debug_assert!(lower < list, "a cascade leads downwards");
            self.append(index, lower);
            index = next;
        }
    }

    /// Empties a list and returns its first node; the nodes stay linked.
    fn take_list(&mut self, list: u16) -> u32 {
        let first = std::mem::replace(&mut self.lists[list as usize], List::EMPTY).first;
        self.mark_empty(list);
        first
    }

    /// Puts a node at the end of a list.
    fn append(&mut self, index: u32, list: u16) {
        let ends = &mut self.lists[list as usize];
        let previous = std::mem::replace(&mut ends.last, index);
        match previous {
            NONE => ends.first = index,
            _ => self.nodes[previous as usize].next = index,
        }
        let node = &mut self.nodes[index as usize];
        node.previous = previous;
        node.next = NONE;
        node.list = list;
        if list != OVERDUE {
            self.occupied[list as usize / SLOTS] |= 1 << (list as usize % SLOTS);
        }
    }

    /// Clears the bit of a slot. The list of overdue timers has none.
    fn mark_empty(&mut self, list: u16) {
        if list != OVERDUE {
            self.occupied[list as usize / SLOTS] &= !(1 << (list as usize % SLOTS));
        }
    }

    /// A node that is in no list yet: the one freed last, else a new one.
    fn take_node(&mut self, deadline: Time, value: T) -> u32 {
        if self.first_unused != NONE {
            let index = self.first_unused;
            let node = &mut self.nodes[index as usize];
            self.first_unused = node.next;
            node.deadline = deadline;
            node.value = value;
            return index;
        }
        let index = self.nodes.len();
        assert!(index < NONE as usize, "{index} timers are set");
        self.nodes.push(Node {
            deadline,
            previous: NONE,
            next: NONE,
            generation: NonZeroU32::MIN,
            list: UNUSED,
            value,
        });
        index as u32
    }

    /// Makes a node, which must be out of its list, ready for reuse and its key stale.
    fn free_node(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        debug_assert!(node.list != UNUSED, "a timer is freed twice");
        node.generation = node.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        node.list = UNUSED;
        node.next = self.first_unused;
        self.first_unused = index;
        self.len -= 1;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, HashMap};

    const MILLISECOND: u64 = 1_000_000;
    const HOUR: u64 = 3_600_000 * MILLISECOND;
    const YEAR: u64 = 365 * 24 * HOUR;

    fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    fn advance(wheel: &mut TimerWheel<u32>, nanos: u64) -> Vec<u32> {
        let mut expired = Vec::new();
        wheel.advance(at(nanos), &mut expired);
        expired
    }

    #[test]
    fn a_timer_fires_at_the_end_of_the_tick_of_its_deadline_and_not_before() {
        let mut wheel = TimerWheel::new();
        wheel.insert(at(5 * MILLISECOND + 1), 1);
        assert_eq!(wheel.next_deadline(), Some(at(6 * MILLISECOND)));
        assert_eq!(advance(&mut wheel, 5 * MILLISECOND + 1), []);
        assert_eq!(advance(&mut wheel, 6 * MILLISECOND - 1), []);
        assert_eq!(advance(&mut wheel, 6 * MILLISECOND), [1]);
        assert!(wheel.is_empty());
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn a_deadline_on_the_tick_fires_exactly_then() {
        let mut wheel = TimerWheel::new();
        wheel.insert(at(64 * MILLISECOND), 1);
        assert_eq!(advance(&mut wheel, 64 * MILLISECOND - 1), []);
        assert_eq!(advance(&mut wheel, 64 * MILLISECOND), [1]);
    }

    #[test]
    fn a_deadline_in_the_past_fires_although_the_time_has_not_moved() {
        let mut wheel = TimerWheel::new();
        let now = 7 * MILLISECOND + 700;
        assert_eq!(advance(&mut wheel, now), []);
        wheel.insert(at(now), 1);
        wheel.insert(at(3), 2);
        wheel.insert(at(7 * MILLISECOND + 300), 3);
        assert_eq!(wheel.next_deadline(), Some(at(now)));
        assert_eq!(advance(&mut wheel, now), [1, 2, 3]);
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn time_does_not_go_back() {
        let mut wheel = TimerWheel::new();
        assert_eq!(advance(&mut wheel, HOUR), []);
        wheel.insert(at(HOUR + MILLISECOND), 1);
        assert_eq!(advance(&mut wheel, 5), []);
        wheel.insert(at(HOUR), 2);
        assert_eq!(advance(&mut wheel, 5), [2]);
        assert_eq!(advance(&mut wheel, HOUR + MILLISECOND), [1]);
    }

    #[test]
    fn timers_of_one_tick_fire_in_the_order_they_were_set_whichever_level_they_came_from() {
        let mut wheel = TimerWheel::new();
        let deadline = 4096 * MILLISECOND;
        wheel.insert(at(deadline), 1);
        advance(&mut wheel, 4000 * MILLISECOND);
        wheel.insert(at(deadline - 1), 2);
        advance(&mut wheel, 4095 * MILLISECOND);
        wheel.insert(at(deadline - 2), 3);
        wheel.insert(at(deadline + 1), 4);
        assert_eq!(advance(&mut wheel, HOUR), [1, 2, 3, 4]);
    }

    #[test]
    fn a_stale_key_is_harmless() {
        let mut wheel = TimerWheel::new();
        let fired = wheel.insert(at(1), 1);
        assert_eq!(advance(&mut wheel, MILLISECOND), [1]);
        assert_eq!(wheel.cancel(fired), None);
        let reused = wheel.insert(at(HOUR), 2);
        assert_eq!(reused.index, fired.index);
        assert_eq!(wheel.cancel(fired), None);
        assert_eq!(wheel.len(), 1);
        assert_eq!(wheel.cancel(reused), Some(2));
        assert_eq!(wheel.cancel(reused), None);
        assert!(wheel.is_empty());
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn generations_wrap_round_without_becoming_zero() {
        let mut wheel = TimerWheel::new();
        let key = wheel.insert(at(1), 1);
        wheel.nodes[0].generation = NonZeroU32::MAX;
        assert_eq!(wheel.cancel(key), None);
        assert_eq!(advance(&mut wheel, MILLISECOND), [1]);
        let key = wheel.insert(at(1), 2);
        assert_eq!(key.generation, NonZeroU32::MIN);
        assert_eq!(wheel.cancel(key), Some(2));
    }

    #[test]
    fn the_clock_may_jump_by_centuries() {
        let mut wheel = TimerWheel::new();
        wheel.insert(at(500 * YEAR), 3);
        wheel.insert(at(40 * YEAR), 2);
        wheel.insert(at(MILLISECOND), 1);
        assert_eq!(advance(&mut wheel, 500 * YEAR - 1), [1, 2]);
        assert_eq!(advance(&mut wheel, 500 * YEAR), [3]);
    }

    #[test]
    fn a_deadline_at_the_end_of_time_never_fires() {
        let mut wheel = TimerWheel::new();
        let key = wheel.insert(at(u64::MAX), 1);
        assert_eq!(advance(&mut wheel, u64::MAX), []);
        assert_eq!(wheel.cancel(key), Some(1));
    }

    #[test]
    fn nodes_are_reused() {
        let mut wheel = TimerWheel::new();
        let mut now = 0;
        for round in 0..1000 {
            let kept = wheel.insert(at(now + HOUR), round);
            wheel.insert(at(now + MILLISECOND), round);
            now += 2 * MILLISECOND;
            assert_eq!(advance(&mut wheel, now), [round]);
            assert_eq!(wheel.cancel(kept), Some(round));
        }
        assert_eq!(wheel.nodes.len(), 2);
    }

    /// A span of nanoseconds of every order of magnitude, often next to a boundary of ticks or slots.
    fn span() -> impl Strategy<Value = u64> {
        let exact = prop_oneof![0..3 * MILLISECOND, 0..200 * MILLISECOND, 0..HOUR, 0..YEAR, 0..20 * YEAR,];
        let near_a_boundary = (0u32..36, 1u64..4, 0u64..5)
            .prop_map(|(bits, times, offset)| ((times << bits) * MILLISECOND + offset).saturating_sub(2));
        prop_oneof![exact, near_a_boundary]
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64),
        InsertPast(u64),
        /// Cancels one of all the keys there ever were, most of them stale.
        Cancel(usize),
        /// Cancels one of the timers that are set.
        CancelLive(usize),
        Advance(u64),
        AdvanceToNext,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => span().prop_map(Step::Insert),
            1 => span().prop_map(Step::InsertPast),
            1 => any::<usize>().prop_map(Step::Cancel),
            2 => any::<usize>().prop_map(Step::CancelLive),
            3 => span().prop_map(Step::Advance),
            3 => Just(Step::AdvanceToNext),
        ]
    }

    /// What the wheel promises, the slow way: timers sorted by their tick and by the order in which they were
    /// set.
    #[derive(Default)]
    struct Model {
        now: u64,
        /// By tick (zero for the overdue) and number.
        timers: BTreeMap<(u64, u32), u64>,
        ticks: HashMap<u32, u64>,
    }

    impl Model {
        fn insert(&mut self, deadline: u64, number: u32) {
            let tick = match deadline <= self.now {
                true => 0,
                false => deadline.div_ceil(TICK_NANOS),
            };
            self.timers.insert((tick, number), deadline);
            self.ticks.insert(number, tick);
        }

        fn cancel(&mut self, number: u32) -> Option<u32> {
            let tick = *self.ticks.get(&number)?;
            self.timers.remove(&(tick, number)).map(|_| number)
        }

        fn advance(&mut self, now: u64) -> Vec<(u32, u64)> {
            self.now = now;
            let later = self.timers.split_off(&(now / TICK_NANOS + 1, 0));
            std::mem::replace(&mut self.timers, later)
                .into_iter()
                .map(|((_, number), deadline)| (number, deadline))
                .collect()
        }
    }

    /// Advances both and checks what the wheel promises about it.
    fn advance_both(wheel: &mut TimerWheel<u32>, model: &mut Model, now: u64) -> Result<(), TestCaseError> {
        let expected = model.advance(now);
        let expired = advance(wheel, now);
        for (number, deadline) in &expected {
            prop_assert!(*deadline <= now, "{number} is early");
        }
        let expected: Vec<u32> = expected.into_iter().map(|(number, _)| number).collect();
        prop_assert_eq!(expired, expected);
        for ((_, number), deadline) in &model.timers {
            prop_assert!(deadline + TICK_NANOS > now, "{} is late", number);
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn the_wheel_does_what_a_sorted_map_does(steps in prop::collection::vec(step(), 0..200)) {
            let mut wheel = TimerWheel::new();
            let mut model = Model::default();
            let mut keys = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(span) | Step::InsertPast(span) => {
                        let deadline = match step {
                            Step::Insert(_) => model.now + span,
                            _ => model.now.saturating_sub(span),
                        };
                        let number = keys.len() as u32;
                        model.insert(deadline, number);
                        keys.push(wheel.insert(at(deadline), number));
                    }
                    Step::Cancel(any) if !keys.is_empty() => {
                        let number = any % keys.len();
                        prop_assert_eq!(wheel.cancel(keys[number]), model.cancel(number as u32));
                    }
                    Step::CancelLive(any) if !model.timers.is_empty() => {
                        let nth = any % model.timers.len();
                        let number = model.timers.keys().nth(nth).unwrap().1;
                        prop_assert_eq!(wheel.cancel(keys[number as usize]), model.cancel(number));
                    }
                    Step::Cancel(_) | Step::CancelLive(_) => {}
                    // Two hundred steps of at most 200 years would leave the 584 there are.
                    Step::Advance(span) if model.now < 100 * YEAR => {
                        let now = model.now + span;
                        advance_both(&mut wheel, &mut model, now)?;
                    }
                    Step::Advance(_) => {}
                    Step::AdvanceToNext => {
                        if let Some(next) = wheel.next_deadline() {
                            let now = next.as_nanos();
                            advance_both(&mut wheel, &mut model, now)?;
                        }
                    }
                }

                prop_assert_eq!(wheel.len(), model.timers.len());
                prop_assert_eq!(wheel.values().count(), model.timers.len());
                prop_assert_eq!(wheel.is_empty(), model.timers.is_empty());
                let overdue = model.timers.keys().next().is_some_and(|(tick, _)| *tick == 0);
                match wheel.next_deadline().map(Time::as_nanos) {
                    None => prop_assert!(model.timers.is_empty()),
                    Some(next) if overdue => prop_assert_eq!(next, model.now),
                    Some(next) => {
                        let earliest = *model.timers.values().min().unwrap();
                        prop_assert!(next > model.now, "sleeping until then would not get on");
                        prop_assert!(next < earliest + TICK_NANOS, "sleeping until then is too long");
                    }
                }
            }
        }

        #[test]
        fn a_loop_that_sleeps_until_the_next_deadline_fires_everything_in_time(
            spans in prop::collection::vec(span(), 1..50),
            start in span(),
        ) {
            let mut wheel = TimerWheel::new();
            advance(&mut wheel, start);
            let deadlines: Vec<u64> = spans.iter().map(|span| start + span).collect();
            for (number, deadline) in deadlines.iter().enumerate() {
                wheel.insert(at(*deadline), number as u32);
            }
            let mut fired = vec![false; spans.len()];
            let mut turns = 0;
            while let Some(next) = wheel.next_deadline() {
                turns += 1;
                prop_assert!(turns <= LEVELS * spans.len(), "a busy loop");
                for number in advance(&mut wheel, next.as_nanos()) {
                    let deadline = deadlines[number as usize];
                    prop_assert!(!fired[number as usize]);
                    prop_assert!(deadline <= next.as_nanos());
                    prop_assert!(next.as_nanos() < deadline + TICK_NANOS);
                    fired[number as usize] = true;
                }
            }
            prop_assert!(fired.iter().all(|fired| *fired));
        }
    }
}
