//! The rules of send queues: a few sets of them for each I/O thread, which a connection knows by a number. So a connection's own rules
//! cost it two bytes, and most connections of a thread share one line of the cache.

use super::strain::Strain;
use super::{FlowControl, FlowError};
use crate::memory::{Chunked, FreeList};

/// A [`FlowControl`] as the state machine goes by it: all that a message looks at, in one line of the cache.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Rules {
    pub window_bytes: usize,
    pub queue_bytes: usize,
    pub high_mark_bytes: usize,
    pub low_mark_bytes: usize,
    pub queue_messages: u32,
    pub high_mark_messages: u32,
    pub low_mark_messages: u32,
    /// The table of the connections: the number of the listener or, behind them, of the client.
    pub table: u16,
    /// Reading goes on above the high mark.
    pub reads_on: bool,
    /// What is too much is dropped.
    pub drops: bool,
}

const _: () = assert!(size_of::<Rules>() == 64, "the rules of a connection are one cache line");

impl Rules {
    fn of(control: &FlowControl, table: u16) -> Self {
        Self {
            window_bytes: control.window_bytes,
            queue_bytes: control.queue_bytes,
            high_mark_bytes: control.high_mark_bytes,
            low_mark_bytes: control.low_mark_bytes,
            queue_messages: control.queue_messages,
            high_mark_messages: control.high_mark_messages(),
            low_mark_messages: control.low_mark_messages(),
            table,
            reads_on: control.reads_on(),
            drops: control.overflow.drops(),
        }
    }
}

/// What the policies of the connections of one table have done so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct OverflowTally {
    /// Messages that were dropped.
    pub dropped_messages: u64,
    /// Bytes that they would have put on the wire.
    pub dropped_bytes: u64,
    /// Messages that were refused because a queue was full.
    pub refused_messages: u64,
    /// Connections that ended as slow consumers.
    pub slow_consumers: u64,
}

/// All rules of an I/O thread, and what is noted of connections that come up against them.
pub(crate) struct Flows {
    /// First those of the tables, by the number of the table, then those that connections have of their own.
    rules: Vec<Rules>,
    /// What they were made from, and how many connections have chosen them for themselves.
    origins: Vec<(FlowControl, u32)>,
    /// Rules of connections that nobody has any more.
    unused: Vec<u16>,
    tallies: Vec<OverflowTally>,
    /// What is noted of connections that were over their mark or had something dropped or refused, each by its number.
    pub(super) strains: Chunked<Strain>,
    pub(super) places: FreeList,
    /// Connections that have refused a message and whose handler was not told yet that there is room.
    pub(super) refusing: u32,
    /// Whether a tally has changed since it was last asked.
    changed: bool,
    /// The most that any queue may ever have held, in bytes.
    queue_bytes_max: usize,
}

impl Flows {
    /// How many different rules connections of one I/O thread may have of their own at once. Connections with equal rules share them, so
    /// this many settings are told apart, however many connections have them; it bounds the table (160 bytes each) and the search for
    /// equal ones.
    pub(crate) const OWN_MAX: usize = 256;

    /// For tables with these rules, and at most `connections` connections.
    pub(crate) fn new(tables: &[FlowControl], connections: u32) -> Self {
        Self {
            rules: tables.iter().enumerate().map(|(table, control)| Rules::of(control, table as u16)).collect(),
            origins: tables.iter().map(|control| (control.clone(), 0)).collect(),
            unused: Vec::new(),
            tallies: vec![OverflowTally::default(); tables.len()],
            strains: Chunked::new(connections),
            places: FreeList::new(connections),
            refusing: 0,
            changed: false,
            queue_bytes_max: tables.iter().map(|control| control.queue_bytes).max().unwrap_or(0),
        }
    }

    /// The rules of this number.
    #[inline(always)]
    pub(super) fn rules(&self, flow: u16) -> &Rules {
        &self.rules[flow as usize]
    }

    /// What they were made from.
    pub(super) fn control(&self, flow: u16) -> &FlowControl {
        &self.origins[flow as usize].0
    }

    /// A connection that has the rules `flow` wants to have `control`: the number that it has from now on.
    pub(super) fn change(&mut self, flow: u16, control: FlowControl) -> Result<u16, FlowError> {
        let table = self.rules(flow).table;
        let shared = (self.tallies.len()..self.rules.len())
            .find(|&own| self.origins[own].1 > 0 && self.rules[own].table == table && self.origins[own].0 == control);
        let chosen = if self.origins[table as usize].0 == control {
            table
        } else if let Some(own) = shared {
            own as u16
        } else {
            self.add(control, table)?
        };
        self.queue_bytes_max = self.queue_bytes_max.max(self.rules(chosen).queue_bytes);
        // Before the old ones are left, which may be the same.
        if self.is_own(chosen) {
            self.origins[chosen as usize].1 += 1;
        }
        self.leave(flow);
        Ok(chosen)
    }

    /// Whether these are rules that connections have of their own, and not those of a table.
    fn is_own(&self, flow: u16) -> bool {
        flow as usize >= self.tallies.len()
    }

    fn add(&mut self, control: FlowControl, table: u16) -> Result<u16, FlowError> {
        let rules = Rules::of(&control, table);
        if let Some(unused) = self.unused.pop() {
            self.rules[unused as usize] = rules;
            self.origins[unused as usize] = (control, 0);
            return Ok(unused);
        }
        let most = Self::OWN_MAX.min(u16::MAX as usize - self.tallies.len());
        match u16::try_from(self.rules.len()) {
            Ok(next) if self.rules.len() - self.tallies.len() < most => {
                self.rules.push(rules);
                self.origins.push((control, 0));
                Ok(next)
            }
            _ => Err(FlowError(format!(
                "the connections of this I/O thread have {most} different flow controls of their own, which is the most: equal ones are \
                 shared, so use fewer different values"
            ))),
        }
    }

    /// A connection doesn't go by the rules `flow` any more.
    pub(super) fn leave(&mut self, flow: u16) {
        if !self.is_own(flow) {
            return;
        }
        self.origins[flow as usize].1 -= 1;
        if self.origins[flow as usize].1 == 0 {
            // What the handler gave for them goes: a function may hold much.
            self.origins[flow as usize].0 = self.origins[self.rules[flow as usize].table as usize].0.clone();
            self.unused.push(flow);
        }
    }

    /// What is counted for the table of `flow`; it is taken to change.
    pub(super) fn tally_of(&mut self, flow: u16) -> &mut OverflowTally {
        self.changed = true;
        &mut self.tallies[self.rules[flow as usize].table as usize]
    }

    /// A connection of table `table` has ended as a slow consumer.
    pub(crate) fn count_slow_consumer(&mut self, table: u16) {
        self.changed = true;
        self.tallies[table as usize].slow_consumers += 1;
    }

    /// What was counted for each table, if that has changed since this was last asked.
    pub(crate) fn changed_tallies(&mut self) -> Option<&[OverflowTally]> {
        std::mem::take(&mut self.changed).then_some(&self.tallies)
    }

    /// How many connections hold their producers up.
    pub(crate) fn refusing(&self) -> u32 {
        self.refusing
    }

    /// Connections of which something is noted, and rules that connections have of their own: none when there are no connections.
    pub(crate) fn in_use(&self) -> usize {
        let own = self.rules.len() - self.tallies.len() - self.unused.len();
        self.places.in_use() as usize + own
    }

    /// The most that any queue may ever have held, in bytes.
    pub(crate) fn queue_bytes_max(&self) -> usize {
        self.queue_bytes_max
    }
}
