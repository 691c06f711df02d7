//! Groups on one I/O thread: who is in them, and the delivery of what was published.
//!
//! A delivery takes what waits in a lane, up to [`BATCH`] publications, and walks the members once: each gets the whole batch, while
//! its memory is in the cache. Small publications that are there together are put together before, once for all members, so that a
//! member gets one piece where it would have had dozens; whole messages all the same.
//!
//! A member that refuses (its policy is to wait) **holds up** the delivery: it stops there, the members before it have the whole
//! batch, and when there is room, or the member is gone, it goes on at that place. Meanwhile the lane fills up. Members behind it that
//! have no room either would hold it up next: the time that their policy gives them runs while the first one's does, or a hundred
//! that have stopped would hold up the others a hundred times as long as one may.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;

use super::handlers::Timer;
use super::publishing::{GroupShared, Publishing, publication_overhead_bytes};
use super::{IoThread, Listed, Phase, Slot};
use crate::connection::{Refusal, Refused, Sent};
use crate::engine::{Engine, SocketId};
use crate::memory::{Chunked, Payload, Publication, Share};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::time::Time;

/// Publications that one delivery takes from a lane: as many as a send takes pieces.
const BATCH: usize = crate::memory::Gather::PIECES;

/// Publications up to this size are put together when several wait: copying one once for all members costs less than a place of its
/// own in the send of each.
const SMALL_BYTES: usize = 2048;

/// The most that is put together, in bytes; an eighth of a send queue if that is less, so that what a policy drops at a time stays a
/// small part of the queue.
const TOGETHER_BYTES: usize = 16 << 10;

/// How many members ahead the memory of a connection is called for.
const AHEAD: usize = 4;

/// How long a receiver holds up a group before the log says so, and how often it says so again.
const SAY_HELD: Duration = Duration::from_secs(1);
const SAY_HELD_AGAIN: Duration = Duration::from_secs(10);

/// What the tables here take for each place of a connection in a group: in the dense list of members, which may be half empty (8), and in the tree
/// of the places by connection (12, whose nodes may be half empty).
pub(crate) const MEMBERSHIP_BYTES: usize = 48;

/// Why a connection did not join a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinRefusal {
    /// It is in as many groups as it may be.
    #[error("the connection is in {limit} groups, as many as it may be (Limits::groups_per_connection)")]
    TooMany {
        /// [`Limits::groups_per_connection`](crate::Limits).
        limit: u32,
    },
    /// The group belongs to another server.
    #[error("the group belongs to another server than the connection")]
    OtherServer,
    /// It has ended, or is used by a task of another connection: only its own tasks may let it join.
    #[error("the connection has ended, or is used by a task of another connection: let its own task join")]
    OutOfReach,
}

/// The groups of an I/O thread.
pub(crate) struct Groups {
    /// By the number of the group, as far as one was joined.
    of_thread: Vec<GroupOfThread>,
    /// Where each connection is in the list of each of its groups, by slot and group.
    places: BTreeMap<(u32, u32), u32>,
    per_connection: u32,
    /// Groups with something to deliver.
    backlog: Vec<u32>,
    /// A timer looks whether somebody holds up a group.
    is_timed: bool,
    /// When what holds publish memory was last looked for, and how often something was closed for it since the log said so.
    pub(super) looked_at: Option<Time>,
    pub(super) closed_unsaid: u32,
    pub(super) closed_said_at: Option<Time>,
    /// Publish memory was low at the end of the last turn.
    pub(super) is_pressed: bool,
    /// The server drains, and connections wait for what is left to be delivered.
    drains: bool,
}

#[derive(Default)]
struct GroupOfThread {
    /// The slots of the members.
    members: Vec<u32>,
    /// What is being delivered: all of it to the members before `member`, of `member` itself the first `piece` pieces.
    batch: Vec<Share>,
    member: usize,
    piece: usize,
    /// Of a piece that it gets message by message, the next.
    part: usize,
    held: Option<Held>,
    in_backlog: bool,
    /// Counted and not told yet.
    delivered: u64,
    missed: u64,
}

impl GroupOfThread {
    /// Counts what became of so many messages, as far as the last of them goes; whether its connection holds up the delivery.
    #[cold]
    fn count(&mut self, (messages, outcome): (u32, Result<Sent, Refusal>)) -> bool {
        let messages = u64::from(messages);
        match outcome {
            Ok(Sent::EvictedOldest(evicted)) => {
                self.delivered += messages;
                self.missed += u64::from(evicted);
            }
            Ok(Sent::DroppedNew) | Err(Refusal::TooLarge { .. }) => self.missed += messages,
            Ok(_) => self.delivered += messages,
            Err(Refusal::Full { .. } | Refusal::NoMemory { .. }) => return true,
            // It is ending: what it doesn't get is no loss.
            Err(Refusal::Closing | Refusal::SlowConsumer { .. }) => {}
        }
        false
    }

    /// Whether the member that held up the delivery is still there, and has no room yet.
    fn is_held_up(&self, slots: &Chunked<Slot>) -> bool {
        self.held.is_some_and(|held| {
            self.members.get(self.member) == Some(&held.slot) && slots[held.slot].machine.is_held_up()
        })
    }
}

/// A delivery that is held up.
#[derive(Clone, Copy)]
struct Held {
    slot: u32,
    since: Time,
    /// When the log says so, if it is still held up then.
    say_at: Time,
}

impl Groups {
    /// For a thread whose connections may be in so many groups each.
    pub(crate) fn new(per_connection: u32) -> Self {
        Self {
            of_thread: Vec::new(),
            places: BTreeMap::new(),
            per_connection,
            backlog: Vec::new(),
            is_timed: false,
            looked_at: None,
            closed_unsaid: 0,
            closed_said_at: None,
            is_pressed: false,
            drains: false,
        }
    }

    /// The connection in `slot` joins; false if it was in already.
    pub(crate) fn join(
        &mut self,
        slot: u32,
        number: u32,
        group: &GroupShared,
        thread: usize,
    ) -> Result<bool, JoinRefusal> {
        if self.places.contains_key(&(slot, number)) {
            return Ok(false);
        }
        let limit = self.per_connection;
        if self.places.range((slot, 0)..=(slot, u32::MAX)).count() >= limit as usize {
            return Err(JoinRefusal::TooMany { limit });
        }
        let place = self.of_thread(number).members.len();
        self.of_thread(number).members.push(slot);
        self.places.insert((slot, number), place as u32);
        if !self.of_thread(number).batch.is_empty() {
            self.join_those_who_have_it(place, number);
        }
        group.lane(thread).count_member(true);
        Ok(true)
    }

    /// What is being delivered was published before the last member, at `place`, has joined: it takes a place among those who have it. It
    /// may even have it, from before it has left.
    fn join_those_who_have_it(&mut self, place: usize, number: u32) {
        let group = self.of_thread(number);
        let (slot, boundary) = (group.members[place], group.member);
        group.member += 1;
        // Who has a part of it stays the first of those who don't have all; whoever was behind goes to the end.
        if boundary + 1 < place {
            self.move_member(number, boundary + 1, place);
        }
        if boundary < place {
            self.move_member(number, boundary, boundary + 1);
        }
        self.of_thread(number).members[boundary] = slot;
        self.places.insert((slot, number), boundary as u32);
    }

    /// The connection in `slot` leaves; false if it was not in.
    pub(crate) fn leave(&mut self, slot: u32, number: u32, group: &GroupShared, thread: usize) -> bool {
        let Some(place) = self.places.remove(&(slot, number)) else { return false };
        self.vacate(place as usize, number);
        group.lane(thread).count_member(false);
        true
    }

    /// The connection in `slot` is over.
    pub(super) fn leave_all(&mut self, slot: u32, publishing: &Publishing, thread: usize) {
        while let Some((&(_, number), _)) = self.places.range((slot, 0)..=(slot, u32::MAX)).next() {
            self.leave(slot, number, publishing.group(number), thread);
        }
    }

    /// Closes the gap that a member leaves, so that those who have what is being delivered stay before those who have not.
    fn vacate(&mut self, place: usize, number: u32) {
        let group = &mut self.of_thread[number as usize];
        let (mut gap, last) = (place, group.members.len() - 1);
        if gap < group.member {
            // The last of those who have it takes the place; theirs goes to the last of all.
            group.member -= 1;
            let boundary = group.member;
            self.move_member(number, boundary, gap);
            // Who has a part of it is next behind the boundary, and moves with it.
            if boundary < last {
                self.move_member(number, boundary + 1, boundary);
                gap = boundary + 1;
            } else {
                gap = boundary;
            }
        } else if gap == group.member {
            // It has a part of what is being delivered at most; whoever takes its place has nothing of it.
            group.piece = 0;
            group.part = 0;
        }
        self.move_member(number, last, gap);
        self.of_thread[number as usize].members.pop();
    }

    fn move_member(&mut self, number: u32, from: usize, to: usize) {
        if from != to {
            let members = &mut self.of_thread[number as usize].members;
            members[to] = members[from];
            self.places.insert((members[to], number), to as u32);
        }
    }

    fn of_thread(&mut self, number: u32) -> &mut GroupOfThread {
        if self.of_thread.len() <= number as usize {
            self.of_thread.resize_with(number as usize + 1, GroupOfThread::default);
        }
        &mut self.of_thread[number as usize]
    }

    /// Something is there for this group.
    fn list(&mut self, number: u32) {
        let group = self.of_thread(number);
        if !group.in_backlog {
            group.in_backlog = true;
            self.backlog.push(number);
        }
    }
}

/// How a delivery has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Delivered {
    /// The lane is empty.
    All,
    /// There is more in it.
    Batch,
    /// A member holds it up.
    HeldUp,
}

impl<E: Engine> IoThread<E> {
    /// Delivers what was published, a batch of each group.
    #[inline]
    pub(super) fn take_publications(&mut self) {
        if !self.context.groups.backlog.is_empty() || !self.shared.publishing.has_nothing_for(self.context.thread) {
            self.deliver_publications();
        }
    }

    #[inline(never)]
    fn deliver_publications(&mut self) {
        let shared = Arc::clone(&self.shared);
        let groups = &mut self.context.groups;
        shared.publishing.take_ready(self.context.thread, |number| groups.list(number));
        let mut backlog = std::mem::take(&mut groups.backlog);
        backlog.retain(|&number| {
            let delivered = self.deliver_to_group(number, &shared.publishing);
            self.more_to_do |= delivered == Delivered::Batch;
            let stays = delivered != Delivered::All;
            self.context.groups.of_thread(number).in_backlog = stays;
            stays
        });
        self.context.groups.backlog = backlog;
        if self.context.groups.drains && !self.publications_wait() {
            // Connections that were idle stayed for this.
            self.context.groups.drains = false;
            self.mark_all_dirty();
        }
    }

    /// Goes on with the delivery of one group, or begins one.
    fn deliver_to_group(&mut self, number: u32, publishing: &Publishing) -> Delivered {
        let thread = self.context.thread;
        let group = publishing.group(number);
        let lane = group.lane(thread);
        let together_bytes = TOGETHER_BYTES.min(publishing.message_bytes() / 8);
        let (now, of_thread) = (self.context.now, self.context.groups.of_thread(number));
        if of_thread.is_held_up(&self.slots) {
            return Delivered::HeldUp;
        }
        of_thread.held = None;
        if of_thread.batch.is_empty() {
            let mut gathering = Gathering {
                batch: &mut of_thread.batch,
                run: Vec::new(),
                run_bytes: 0,
                together_bytes,
                now,
                group: number,
            };
            lane.pop(BATCH, |publication| gathering.add(publication, publishing));
            gathering.end_run(publishing);
        }
        let held = self.walk_members(number);
        let of_thread = self.context.groups.of_thread(number);
        group.delivered.fetch_add(std::mem::take(&mut of_thread.delivered), Ordering::Relaxed);
        if of_thread.missed > 0 {
            group.missed.fetch_add(std::mem::take(&mut of_thread.missed), Ordering::Relaxed);
        }
        match held {
            true => Delivered::HeldUp,
            false if lane.is_empty() => Delivered::All,
            false => Delivered::Batch,
        }
    }

    /// Gives the batch to the members that don't have it; whether one of them holds it up. A policy that asks a function of the program
    /// may panic: that ends the connection that it was asked for, and the next one goes on.
    fn walk_members(&mut self, number: u32) -> bool {
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.walk_members_unguarded(number))) {
                Ok(held) => return held,
                Err(panic) => {
                    let group = self.context.groups.of_thread(number);
                    group.piece = 0;
                    group.part = 0;
                    group.member += 1;
                    let index = group.members[group.member - 1];
                    self.panicked(index, panic);
                }
            }
        }
    }

    fn walk_members_unguarded(&mut self, number: u32) -> bool {
        let Self { slots, pools, context, dirty, .. } = self;
        let now = context.now;
        let group = context.groups.of_thread(number);
        while let Some(&index) = group.members.get(group.member) {
            if let Some(&ahead) = group.members.get(group.member + AHEAD) {
                slots.prefetch(ahead);
            }
            let slot = &mut slots[index];
            if !slot.listed.is_in(Listed::DIRTY) {
                slot.listed.enter(Listed::DIRTY);
                dirty.push(index);
            }
            while let Some(share) = group.batch.get(group.piece) {
                let apart = slot.machine.is_filtered()
                    && share.messages() > 1
                    && slot.machine.tells_messages_apart(index, pools);
                let sent = match apart {
                    // As if it were too large as a whole.
                    true => Err(Refusal::TooLarge { bytes: share.bytes().len(), limit_bytes: 0 }),
                    false => slot
                        .machine
                        .send(Payload::from(share.clone()), &mut 0, now, pools)
                        .map_err(|refused| refused.why),
                };
                match sent {
                    Ok(Sent::Queued | Sent::OverMark) => group.delivered += u64::from(share.messages()),
                    outcome => {
                        let outcome = match outcome {
                            Err(Refusal::TooLarge { .. }) => {
                                send_parts(share, &mut group.part, |part| slot.machine.send(part, &mut 0, now, pools))
                            }
                            outcome => (share.messages(), outcome),
                        };
                        if group.count(outcome) {
                            group.held = Some(Held { slot: index, since: now, say_at: now + SAY_HELD });
                            self.watch_who_holds_up();
                            return true;
                        }
                    }
                }
                group.part = 0;
                group.piece += 1;
            }
            group.piece = 0;
            group.member += 1;
        }
        group.member = 0;
        group.batch.clear();
        false
    }

    /// After the flush: whether a delivery that was held up can go on, so that the next turn comes at once.
    #[inline]
    pub(super) fn look_at_backlog(&mut self) {
        if !self.context.groups.backlog.is_empty() {
            let (groups, slots) = (&self.context.groups, &self.slots);
            let waits = |number: &u32| groups.of_thread[*number as usize].is_held_up(slots);
            self.more_to_do |= !groups.backlog.iter().all(waits);
        }
    }

    /// Whether something that was published before waits for members on this thread.
    pub(super) fn publications_wait(&self) -> bool {
        !self.context.groups.backlog.is_empty() || !self.shared.publishing.has_nothing_for(self.context.thread)
    }

    /// While draining: whether an idle connection stays, because something is left to be delivered.
    pub(super) fn stays_for_publications(&mut self) -> bool {
        let stays = self.publications_wait();
        self.context.groups.drains |= stays;
        stays
    }

    /// Sets the timer that looks who holds up a group, if it is not set.
    #[cold]
    #[inline(never)]
    fn watch_who_holds_up(&mut self) {
        if !self.context.groups.is_timed {
            self.context.groups.is_timed = true;
            self.context.wheel.insert(self.context.now + SAY_HELD, Timer::GroupHeld);
        }
    }

    /// Says in the log who holds up a group, lets the time of those run who would hold it up next, and goes on looking while somebody
    /// does.
    #[cold]
    #[inline(never)]
    pub(super) fn say_who_holds_up(&mut self) {
        let now = self.context.now;
        let groups = &mut self.context.groups;
        groups.is_timed = false;
        for (number, group) in groups.of_thread.iter_mut().enumerate() {
            let Some(held) = &mut group.held else { continue };
            let batch_bytes = group.batch.iter().map(|share| share.bytes().len()).sum();
            for &behind in group.members.iter().skip(group.member + 1) {
                let slot = &mut self.slots[behind];
                if slot.machine.is_awaited(batch_bytes, now, &mut self.pools) && !slot.listed.is_in(Listed::DIRTY) {
                    slot.listed.enter(Listed::DIRTY);
                    self.dirty.push(behind);
                }
            }
            if now >= held.say_at {
                held.say_at = now + SAY_HELD_AGAIN;
                let socket = SocketId { index: held.slot, generation: self.slots[held.slot].key.generation };
                tracing::warn!(
                    group = number,
                    peer = self.engine.peer_address(socket).map(tracing::field::display),
                    held_up_ms = now.saturating_since(held.since).as_millis() as u64,
                    queued_bytes = self.slots[held.slot].machine.queued_bytes(),
                    "a receiver whose queue is full holds up its group"
                );
            }
        }
        if groups.of_thread.iter().any(|group| group.held.is_some()) {
            self.watch_who_holds_up();
        }
    }

    /// The thread ends: nobody is left.
    #[cold]
    pub(super) fn forget_publications(&mut self) {
        debug_assert!(self.context.groups.places.is_empty(), "members without a connection");
        self.shared.publishing.empty_lanes(self.context.thread);
        for group in &mut self.context.groups.of_thread {
            group.batch.clear();
        }
    }

    /// The groups' part in the phases of the server.
    pub(super) fn groups_follow(&mut self, phase: Phase) {
        if phase > Phase::Running {
            self.shared.publishing.tell_everybody();
        }
    }
}

/// Sends those messages one by one, from number `next` on, that were put together and are too large for a connection as a whole, or must be
/// told apart by its filters; how many
/// were sent, and what became of the last one.
#[cold]
#[inline(never)]
fn send_parts(
    share: &Share,
    next: &mut usize,
    mut send: impl FnMut(Payload) -> Result<Sent, Refused>,
) -> (u32, Result<Sent, Refusal>) {
    // One message that is too large by itself counts as one.
    let mut sent = u32::from(share.message(0).is_none());
    let mut outcome = Err(Refusal::TooLarge { bytes: share.bytes().len(), limit_bytes: 0 });
    while let Some(message) = share.message(*next) {
        outcome = send(Payload::copy_from(message)).map_err(|refused| refused.why);
        if let Err(Refusal::Full { .. } | Refusal::NoMemory { .. }) = outcome {
            break;
        }
        sent += 1;
        *next += 1;
    }
    (sent, outcome)
}

/// Makes a batch of publications, small ones that follow each other together.
struct Gathering<'a> {
    batch: &'a mut Vec<Share>,
    /// Small ones that are not in the batch yet.
    run: Vec<Arc<Publication>>,
    run_bytes: usize,
    together_bytes: usize,
    now: Time,
    group: u32,
}

impl Gathering<'_> {
    fn add(&mut self, publication: Arc<Publication>, publishing: &Publishing) {
        let bytes = publication.bytes().len();
        if self.run_bytes + bytes > self.together_bytes || bytes > SMALL_BYTES {
            self.end_run(publishing);
        }
        if bytes > SMALL_BYTES {
            self.batch.push(Share::new(publication, self.now, self.group));
        } else {
            self.run_bytes += bytes;
            self.run.push(publication);
        }
    }

    /// What has come together goes into the batch: as one, if there is memory for the copy.
    fn end_run(&mut self, publishing: &Publishing) {
        // Its lane has nothing to do with it: a copy is in no lane.
        let charge_bytes = self.run_bytes + self.run.len() * size_of::<u32>() + publication_overhead_bytes(1);
        let pool = &publishing.pool;
        if self.run.len() > 1 && pool.is_easy() && pool.charge(charge_bytes).is_ok() {
            let mut together = Vec::with_capacity(self.run_bytes);
            let mut ends = Vec::with_capacity(self.run.len());
            for publication in self.run.drain(..) {
                together.extend_from_slice(publication.bytes());
                ends.push(together.len() as u32);
            }
            let publication =
                Publication::of_several(Bytes::from(together), ends.into_boxed_slice(), charge_bytes, Arc::clone(pool));
            self.batch.push(Share::new(publication, self.now, self.group));
        } else {
            let (now, group) = (self.now, self.group);
            self.batch.extend(self.run.drain(..).map(|publication| Share::new(publication, now, group)));
        }
        self.run_bytes = 0;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    use super::super::publishing::GroupLimits;
    use super::*;
    use crate::memory::PublishPool;

    /// What happens to a group while a delivery is held up.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Join(u32),
        Leave(u32),
        /// The delivery goes on by one member, and then has begun with the next.
        GoesOn,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => (0_u32..12).prop_map(Event::Join),
            3 => (0_u32..12).prop_map(Event::Leave),
            2 => Just(Event::GoesOn),
        ]
    }

    proptest! {
        /// In the simulation it came twice, to one that left and joined again.
        #[test]
        fn what_is_being_delivered_comes_to_each_member_once_whoever_joins_and_leaves_meanwhile(
            members in 1_u32..8,
            events in prop::collection::vec(event(), 0..60),
        ) {
            let limits = GroupLimits { groups: 1, publish_queue: 1, memory_bytes: 1 << 16, message_bytes: 1 << 10 };
            let publishing = Publishing::new(1, limits, 1);
            let shared = publishing.group(0);
            let mut groups = Groups::new(4);
            for slot in 0..members {
                prop_assert_eq!(groups.join(slot, 0, shared, 0), Ok(true));
            }
            let pool = PublishPool::new(1 << 16);
            let publication = crate::memory::Publication::new(Bytes::from_static(b"news"), 0, pool);
            groups.of_thread(0).batch.push(Share::new(publication, Time::ZERO, 0));
            // Those who are to get it, and who has got a part of it.
            let mut due: BTreeSet<u32> = (0..members).collect();
            let mut begun = None;
            for event in events {
                match event {
                    Event::Join(slot) => drop(groups.join(slot, 0, shared, 0)),
                    Event::Leave(slot) => {
                        groups.leave(slot, 0, shared, 0);
                        due.remove(&slot);
                        begun = begun.filter(|&it| it != slot);
                    }
                    Event::GoesOn => {
                        let group = groups.of_thread(0);
                        if let Some(&slot) = group.members.get(group.member) {
                            prop_assert!(due.remove(&slot), "{slot} gets it, and is not to");
                            group.member += 1;
                            group.piece = 1;
                            begun = group.members.get(group.member).copied();
                        }
                    }
                }
                let group = groups.of_thread(0);
                let left: BTreeSet<u32> = group.members[group.member.min(group.members.len())..].iter().copied().collect();
                prop_assert_eq!(&left, &due);
                if let Some(begun) = begun {
                    prop_assert_eq!(group.members.get(group.member), Some(&begun), "who has a part is not the next");
                }
                let members = group.members.clone();
                for (place, slot) in members.into_iter().enumerate() {
                    prop_assert_eq!(groups.places.get(&(slot, 0)), Some(&(place as u32)));
                }
            }
        }
    }
}
