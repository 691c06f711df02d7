//! The memory for what waits to be sent: one reserve for a server, leased to its I/O threads in chunks.
//!
//! Every queued message is charged for, so that all connections together never hold more than the server was
//! told it may use. Charging is done for every message, and the threads share one number: if each charge went
//! there, its cache line would travel between the CPUs all the time. So a thread takes a chunk at a time and
//! charges against its own *surplus*, and the reserve is touched once for some dozens of messages.
//!
//! At all times, over all leases: **charged + surplus + free = total**. Nothing here allocates: it is an
//! account, kept by those who do.
//!
//! # When memory is short
//!
//! What one thread holds as surplus, another can't have. It may keep up to two chunks, which is fine as long
//! as the reserve has some left. When a charge is refused, its lease is *waiting*, which the reserve counts.
//! As long as somebody else waits, a lease keeps no surplus: it returns all of it at its next
//! [`refund`](SendLease::refund) or [`settle`](SendLease::settle), and takes what a charge needs and no whole
//! chunk. So once every thread has settled, a charge is refused only if what is *charged* leaves no room for
//! it.
//!
//! Two things are left to the I/O threads. The reserve wakes nobody: a thread that waits for memory has to
//! try again by itself. And a thread that sleeps doesn't settle: before a sleep without an end in sight it
//! should [`release_surplus`](SendLease::release_surplus).

use crate::sync::Arc;
use crate::sync::atomic::{AtomicUsize, Ordering};
use std::cell::Cell;
use std::rc::Rc;
use thiserror::Error;

/// Bytes that a lease takes from the reserve at a time, if it may: 64 KiB, the size of one slice that is
/// sent, so that a bulk sender goes to the reserve once a slice and a sender of small messages once in dozens
/// of them.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;

/// A charge that was refused: it is more than the lease and the reserve have left together.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Error)]
#[error("send memory: {wanted} bytes are wanted, {free_bytes} of {total_bytes} bytes can be had")]
pub(crate) struct NoMemory {
    /// The bytes that were to be charged.
    pub(crate) wanted: usize,
    /// The bytes that this lease could have charged: its surplus and what was free in the reserve.
    pub(crate) free_bytes: usize,
    /// The size of the reserve.
    pub(crate) total_bytes: usize,
}

/// The send memory of a server: how much there is, and how much of it is not leased.
pub(crate) struct SendReserve {
    total: usize,
    free: AtomicUsize,
    /// How many leases wait for memory, see the module.
    waiting: AtomicUsize,
}

impl SendReserve {
    /// A reserve of `bytes`, all of it free.
    pub(crate) fn new(bytes: usize) -> Arc<SendReserve> {
        Arc::new(SendReserve { total: bytes, free: AtomicUsize::new(bytes), waiting: AtomicUsize::new(0) })
    }

    /// Takes `wanted` bytes, or what there is if that is at least `minimum`; otherwise nothing. Returns the
    /// bytes taken.
    pub(crate) fn take_up_to(&self, wanted: usize, minimum: usize) -> usize {
        debug_assert!(minimum <= wanted, "at least {minimum} of at most {wanted} bytes");
        let share = |free: usize| if free < minimum { 0 } else { free.min(wanted) };
        // Acquire: pairs with the release of those who gave. Their memory is free before ours is allocated,
        // in fact and not only in the account.
        let taken = self.free.fetch_update(Ordering::Acquire, Ordering::Relaxed, |free| {
            let share = share(free);
            (share > 0).then(|| free - share)
        });
        taken.map_or(0, share)
    }

    /// Gives back `bytes` that were taken.
    pub(crate) fn give(&self, bytes: usize) {
        // Release: see `take_up_to`.
        let before = self.free.fetch_add(bytes, Ordering::Release);
        if cfg!(any(debug_assertions, loom)) {
            let total = self.total;
            assert!(
                bytes <= total - before,
                "{bytes} bytes are given to a reserve of which {before} of {total} are free",
            );
        }
    }

    /// Bytes of the reserve, leased or not.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Bytes that aren't leased at this moment.
    pub(crate) fn free(&self) -> usize {
        // Relaxed: a number to look at. Only `take_up_to` decides.
        self.free.load(Ordering::Relaxed)
    }
}

/// The part of a [`SendReserve`] that one I/O thread has at hand. Shared within the thread, by everything
/// that holds charged memory; what is left comes home when the last of them is gone.
pub(crate) struct SendLease {
    reserve: Arc<SendReserve>,
    charged: Cell<usize>,
    surplus: Cell<usize>,
    /// The bytes of the last charge that was refused, until it is certain that nobody waits for them; else
    /// zero. The reserve counts the leases in which it isn't zero.
    refused: Cell<usize>,
    /// Whether a charge was refused since the last `settle`.
    refused_lately: Cell<bool>,
}

impl SendLease {
    /// A lease that holds nothing yet.
    pub(crate) fn new(reserve: Arc<SendReserve>) -> Rc<SendLease> {
        Rc::new(SendLease {
            reserve,
            charged: Cell::new(0),
            surplus: Cell::new(0),
            refused: Cell::new(0),
            refused_lately: Cell::new(false),
        })
    }

    /// Charges `bytes`: from the surplus, else from the reserve, from which a whole chunk is taken if it is
    /// there and nobody waits.
    ///
    /// # Errors
    ///
    /// [`NoMemory`], with nothing changed, if surplus and reserve together don't have as much. Then this
    /// lease waits, and the others keep no surplus, until one of its charges succeeds, or until there is
    /// enough and it hasn't tried for a turn. (A charge that is larger than the whole reserve is refused
    /// without that.)
    pub(crate) fn charge(&self, bytes: usize) -> Result<(), NoMemory> {
        let surplus = self.surplus.get();
        if let Some(missing) = bytes.checked_sub(surplus).filter(|missing| *missing > 0) {
            let wanted = match self.somebody_waits() {
                true => missing,
                false => missing.max(CHUNK_BYTES),
            };
            let leased = self.reserve.take_up_to(wanted, missing);
            if leased == 0 {
                return Err(self.refuse(bytes));
            }
            self.surplus.set(surplus + leased);
        }
        self.surplus.set(self.surplus.get() - bytes);
        self.charged.set(self.charged.get() + bytes);
        self.stop_waiting();
        Ok(())
    }

    /// Takes back a charge of `bytes`, or a part of one. They stay at hand, unless there are more than two
    /// chunks, or more than one and nothing is charged (then one is kept), or another lease waits (then
    /// none).
    pub(crate) fn refund(&self, bytes: usize) {
        let charged = self.charged.get();
        debug_assert!(bytes <= charged, "{bytes} bytes of {charged} charged are refunded");
        // Without debug assertions, the account never has more than there is.
        let bytes = bytes.min(charged);
        self.charged.set(charged - bytes);
        self.surplus.set(self.surplus.get() + bytes);
        let (at_most, kept) = match (self.others_wait(), self.charged.get()) {
            (true, _) => (0, 0),
            (false, 0) => (CHUNK_BYTES, CHUNK_BYTES),
            (false, _) => (2 * CHUNK_BYTES, CHUNK_BYTES),
        };
        if self.surplus.get() > at_most {
            self.return_surplus_above(kept);
        }
    }

    /// To be called once in each turn of the loop, at its end: returns the surplus if another lease waits for
    /// memory. Costs one load if nobody does.
    pub(crate) fn settle(&self) {
        if self.others_wait() {
            self.return_surplus_above(0);
        }
        // Whoever was refused in this turn will try again in the next; until then nobody may take the memory
        // by chunks.
        if !self.refused_lately.replace(false) && self.can_charge(self.refused.get()) {
            self.stop_waiting();
        }
    }

    /// Returns all of the surplus, for example before a long sleep. What is charged stays charged.
    pub(crate) fn release_surplus(&self) {
        self.return_surplus_above(0);
    }

    /// Bytes of the whole reserve: what no charge can exceed.
    pub(crate) fn total(&self) -> usize {
        self.reserve.total()
    }

    /// Bytes that are charged.
    pub(crate) fn charged(&self) -> usize {
        self.charged.get()
    }

    /// Bytes that are at hand and not charged.
    pub(crate) fn surplus(&self) -> usize {
        self.surplus.get()
    }

    /// Whether a charge of `bytes` would succeed now. It may not any more in a moment: other threads charge,
    /// too.
    pub(crate) fn can_charge(&self, bytes: usize) -> bool {
        let missing = bytes.saturating_sub(self.surplus.get());
        missing == 0 || missing <= self.reserve.free()
    }

    /// Leaves `kept` bytes of the surplus, if it is more, and gives the rest to the reserve.
    fn return_surplus_above(&self, kept: usize) {
        let rest = self.surplus.get().saturating_sub(kept);
        if rest > 0 {
            self.surplus.set(self.surplus.get() - rest);
            self.reserve.give(rest);
        }
    }

    /// Notes that a charge can't be made, and says why.
    #[cold]
    fn refuse(&self, wanted: usize) -> NoMemory {
        // What is larger than everything can't be waited for.
        if wanted <= self.reserve.total {
            self.refused_lately.set(true);
            if self.refused.replace(wanted) == 0 {
                // Relaxed: the others need to see it soon, and nothing else by it.
                self.reserve.waiting.fetch_add(1, Ordering::Relaxed);
            }
        }
        NoMemory { wanted, free_bytes: self.surplus.get() + self.reserve.free(), total_bytes: self.reserve.total }
    }

    /// Takes back that this lease waits, if it does.
    fn stop_waiting(&self) {
        if self.refused.replace(0) > 0 {
            self.reserve.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether any lease waits, this one or another.
    fn somebody_waits(&self) -> bool {
        // Relaxed: advice. If it is old, a chunk is taken or kept for a turn longer.
        self.reserve.waiting.load(Ordering::Relaxed) > 0
    }

    /// Whether a lease other than this one waits. (This one keeps its surplus: it may add up to what it waits
    /// for.)
    fn others_wait(&self) -> bool {
        let own = usize::from(self.refused.get() > 0);
        self.reserve.waiting.load(Ordering::Relaxed) > own
    }
}

impl Drop for SendLease {
    /// Returns everything. Nothing should be charged any more; if it is, whoever charged it can't refund it
    /// either.
    fn drop(&mut self) {
        self.stop_waiting();
        self.reserve.give(self.surplus.get() + self.charged.get());
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::thread;

    const KIB: usize = 1024;

    #[test]
    fn a_lease_takes_a_chunk_and_charges_against_it() {
        let reserve = SendReserve::new(200 * KIB);
        let lease = SendLease::new(reserve.clone());
        assert_eq!((reserve.total(), reserve.free()), (200 * KIB, 200 * KIB));
        assert_eq!(lease.charge(4 * KIB), Ok(()));
        assert_eq!(reserve.free(), 136 * KIB);
        assert_eq!(lease.charge(60 * KIB), Ok(()));
        assert_eq!(reserve.free(), 136 * KIB);
        assert_eq!((lease.charged(), lease.surplus()), (64 * KIB, 0));
        assert_eq!(lease.charge(100 * KIB), Ok(()));
        assert_eq!(reserve.free(), 36 * KIB);
        assert_eq!(lease.charge(30 * KIB), Ok(()));
        assert_eq!((lease.surplus(), reserve.free()), (6 * KIB, 0));
    }

    #[test]
    fn a_refusal_names_the_numbers_and_changes_nothing() {
        let reserve = SendReserve::new(100 * KIB);
        let lease = SendLease::new(reserve.clone());
        lease.charge(10 * KIB).unwrap();
        let refusal = lease.charge(91 * KIB).unwrap_err();
        assert_eq!(refusal, NoMemory { wanted: 91 * KIB, free_bytes: 90 * KIB, total_bytes: 100 * KIB });
        assert_eq!(refusal.to_string(), "send memory: 93184 bytes are wanted, 92160 of 102400 bytes can be had");
        assert_eq!((lease.charged(), lease.surplus()), (10 * KIB, 54 * KIB));
        assert!(lease.can_charge(90 * KIB));
        assert!(!lease.can_charge(91 * KIB));
        assert_eq!(lease.charge(90 * KIB), Ok(()));
    }

    #[test]
    fn a_charge_of_nothing_always_succeeds() {
        let lease = SendLease::new(SendReserve::new(0));
        assert_eq!(lease.charge(0), Ok(()));
        assert!(lease.can_charge(0));
        assert!(lease.charge(1).is_err());
        lease.refund(0);
        lease.settle();
        assert_eq!((lease.charged(), lease.surplus()), (0, 0));
    }

    #[test]
    fn more_than_two_chunks_of_surplus_go_back_down_to_one() {
        let reserve = SendReserve::new(1000 * KIB);
        let lease = SendLease::new(reserve.clone());
        lease.charge(200 * KIB).unwrap();
        lease.refund(128 * KIB);
        assert_eq!(lease.surplus(), 128 * KIB);
        lease.refund(1);
        assert_eq!(lease.surplus(), 64 * KIB);
        assert_eq!(lease.charged(), 72 * KIB - 1);
        assert_eq!(reserve.free(), 1000 * KIB - 136 * KIB + 1);
    }

    #[test]
    fn with_nothing_charged_one_chunk_stays_and_can_be_released() {
        let reserve = SendReserve::new(1000 * KIB);
        let lease = SendLease::new(reserve.clone());
        lease.charge(100 * KIB).unwrap();
        lease.refund(100 * KIB);
        assert_eq!((lease.charged(), lease.surplus()), (0, 64 * KIB));
        lease.release_surplus();
        assert_eq!((lease.surplus(), reserve.free()), (0, 1000 * KIB));
    }

    #[test]
    fn a_dropped_lease_returns_everything_and_no_longer_waits() {
        let reserve = SendReserve::new(100 * KIB);
        let lease = SendLease::new(reserve.clone());
        lease.charge(10 * KIB).unwrap();
        lease.charge(100 * KIB).unwrap_err();
        assert_eq!(reserve.waiting.load(Ordering::Relaxed), 1);
        drop(lease);
        assert_eq!(reserve.free(), 100 * KIB);
        assert_eq!(reserve.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_surplus_goes_to_the_lease_that_waits_for_it_at_the_next_settle() {
        let reserve = SendReserve::new(100 * KIB);
        let (rich, poor) = (SendLease::new(reserve.clone()), SendLease::new(reserve.clone()));
        rich.charge(KIB).unwrap();
        rich.settle();
        assert_eq!(rich.surplus(), 63 * KIB);
        poor.charge(80 * KIB).unwrap_err();
        rich.settle();
        assert_eq!(rich.surplus(), 0);
        assert_eq!(poor.charge(80 * KIB), Ok(()));
        // Nobody waits any more: chunks again, as far as there are any.
        rich.charge(KIB).unwrap();
        assert_eq!(rich.surplus(), 18 * KIB);
    }

    #[test]
    fn a_surplus_goes_to_the_lease_that_waits_for_it_at_the_next_refund() {
        let reserve = SendReserve::new(100 * KIB);
        let (rich, poor) = (SendLease::new(reserve.clone()), SendLease::new(reserve.clone()));
        rich.charge(2 * KIB).unwrap();
        poor.charge(80 * KIB).unwrap_err();
        rich.refund(KIB);
        assert_eq!((rich.charged(), rich.surplus()), (KIB, 0));
        assert_eq!(poor.charge(80 * KIB), Ok(()));
    }

    #[test]
    fn while_a_lease_waits_a_busy_one_takes_no_whole_chunks() {
        let reserve = SendReserve::new(128 * KIB);
        let (busy, poor) = (SendLease::new(reserve.clone()), SendLease::new(reserve.clone()));
        busy.charge(64 * KIB).unwrap();
        busy.charge(4 * KIB).unwrap();
        poor.charge(60 * KIB).unwrap_err();
        // The loops of both threads turn; the busy one charges again before the poor one tries.
        busy.refund(4 * KIB);
        poor.settle();
        busy.charge(4 * KIB).unwrap();
        assert_eq!((busy.charged(), busy.surplus()), (68 * KIB, 0));
        assert_eq!(poor.charge(60 * KIB), Ok(()));
    }

    #[test]
    fn a_lease_that_waits_alone_keeps_what_it_saves_up() {
        let reserve = SendReserve::new(100 * KIB);
        let lease = SendLease::new(reserve.clone());
        lease.charge(80 * KIB).unwrap();
        lease.charge(40 * KIB).unwrap_err();
        lease.refund(10 * KIB);
        lease.settle();
        assert_eq!((lease.surplus(), reserve.free()), (10 * KIB, 20 * KIB));
    }

    #[test]
    fn a_lease_that_gave_up_stops_waiting_once_there_is_enough() {
        let reserve = SendReserve::new(100 * KIB);
        let (rich, poor) = (SendLease::new(reserve.clone()), SendLease::new(reserve.clone()));
        rich.charge(50 * KIB).unwrap();
        poor.charge(60 * KIB).unwrap_err();
        poor.settle();
        poor.settle();
        assert!(rich.others_wait(), "there isn't enough");
        rich.refund(50 * KIB);
        poor.settle();
        assert!(!rich.others_wait(), "there is enough, and nobody tried");
    }

    #[test]
    fn nobody_waits_for_a_charge_that_can_never_be_made() {
        let reserve = SendReserve::new(100 * KIB);
        let (rich, poor) = (SendLease::new(reserve.clone()), SendLease::new(reserve.clone()));
        rich.charge(KIB).unwrap();
        assert!(poor.charge(100 * KIB + 1).is_err());
        assert!(poor.charge(usize::MAX).is_err());
        rich.settle();
        assert_eq!(rich.surplus(), 63 * KIB);
    }

    #[test]
    fn threads_with_a_lease_each_never_charge_more_than_there_is() {
        let reserve = SendReserve::new(300 * KIB);
        let charged_by_all = AtomicUsize::new(0);
        thread::scope(|scope| {
            for seed in 0..4 {
                let (reserve, charged_by_all) = (&reserve, &charged_by_all);
                scope.spawn(move || {
                    let lease = SendLease::new(reserve.clone());
                    let mut held = Vec::new();
                    for round in 0..5000 {
                        let bytes = (round * 7919 + seed * 104_729) % (100 * KIB);
                        if lease.charge(bytes).is_ok() {
                            let before = charged_by_all.fetch_add(bytes, Ordering::SeqCst);
                            assert!(before + bytes <= 300 * KIB);
                            held.push(bytes);
                        }
                        if round % 3 != 0
                            && let Some(bytes) = held.pop()
                        {
                            charged_by_all.fetch_sub(bytes, Ordering::SeqCst);
                            lease.refund(bytes);
                        }
                        lease.settle();
                    }
                    for bytes in held {
                        charged_by_all.fetch_sub(bytes, Ordering::SeqCst);
                        lease.refund(bytes);
                    }
                });
            }
        });
        assert_eq!(reserve.free(), 300 * KIB);
        assert_eq!(reserve.waiting.load(Ordering::Relaxed), 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Charge(usize),
        Refund(usize),
        Settle,
        SettleAll,
        Release,
        Replace,
    }

    fn step() -> impl Strategy<Value = Step> {
        let bytes = prop_oneof![0..5 * KIB, 0..100 * KIB, 0..400 * KIB, Just(CHUNK_BYTES), Just(usize::MAX)];
        prop_oneof![
            8 => bytes.prop_map(Step::Charge),
            5 => any::<usize>().prop_map(Step::Refund),
            3 => Just(Step::Settle),
            1 => Just(Step::SettleAll),
            1 => Just(Step::Release),
            1 => Just(Step::Replace),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn what_is_charged_at_hand_and_free_is_always_the_total(
            total in prop_oneof![0..10 * KIB, 0..500 * KIB, 0..4000 * KIB],
            steps in prop::collection::vec((0usize..4, step()), 0..200),
        ) {
            let reserve = SendReserve::new(total);
            let mut leases: Vec<_> = (0..4).map(|_| SendLease::new(reserve.clone())).collect();
            let mut charges: Vec<Vec<usize>> = vec![Vec::new(); 4];
            for (which, step) in steps {
                let charged_by_all: usize = charges.iter().flatten().sum();
                let lease = &leases[which];
                match step {
                    Step::Charge(bytes) => {
                        let free_bytes = lease.surplus() + reserve.free();
                        prop_assert_eq!(lease.can_charge(bytes), bytes <= free_bytes);
                        let expected = match bytes <= free_bytes {
                            true => Ok(()),
                            false => Err(NoMemory { wanted: bytes, free_bytes, total_bytes: total }),
                        };
                        prop_assert_eq!(lease.charge(bytes), expected);
                        if expected.is_ok() {
                            charges[which].push(bytes);
                        } else if bytes <= total {
                            // It waits: once all have settled, only what is charged stands in its way.
                            for lease in &leases {
                                lease.settle();
                            }
                            let has_room = bytes <= total - charged_by_all;
                            // Another one that waits may rightly keep what it saves up for its own charge
                            // only as long as nobody else waits; here this one does.
                            prop_assert_eq!(lease.charge(bytes).is_ok(), has_room);
                            if has_room {
                                charges[which].push(bytes);
                            }
                        }
                    }
                    Step::Refund(any) => {
                        let held = &mut charges[which];
                        if !held.is_empty() {
                            let nth = any % held.len();
                            let part = held[nth].min(any / 7 % (200 * KIB));
                            held[nth] -= part;
                            lease.refund(part);
                            prop_assert!(lease.surplus() <= 2 * CHUNK_BYTES);
                        }
                    }
                    Step::Settle => lease.settle(),
                    Step::SettleAll => leases.iter().for_each(|lease| lease.settle()),
                    Step::Release => {
                        lease.release_surplus();
                        prop_assert_eq!(lease.surplus(), 0);
                    }
                    Step::Replace => {
                        leases[which] = SendLease::new(reserve.clone());
                        charges[which].clear();
                    }
                }
                let mut sum = reserve.free();
                for (lease, charges) in leases.iter().zip(&charges) {
                    prop_assert_eq!(lease.charged(), charges.iter().sum::<usize>());
                    sum += lease.charged() + lease.surplus();
                }
                prop_assert_eq!(sum, total);
                let waiting = leases.iter().filter(|lease| lease.refused.get() > 0).count();
                prop_assert_eq!(reserve.waiting.load(Ordering::Relaxed), waiting);
            }
            drop(leases);
            prop_assert_eq!(reserve.free(), total);
            prop_assert_eq!(reserve.waiting.load(Ordering::Relaxed), 0);
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::thread;

    /// Two threads take from a reserve that isn't enough for both, and give back.
    #[test]
    fn loom_the_reserve_never_gives_out_more_than_there_is_and_loses_nothing() {
        loom::model(|| {
            let reserve = SendReserve::new(10);
            let taken_by_all = Arc::new(AtomicUsize::new(0));
            let takers: Vec<_> = [(8, 3), (7, 7)]
                .into_iter()
                .map(|(wanted, minimum)| {
                    let (reserve, taken_by_all) = (reserve.clone(), taken_by_all.clone());
                    thread::spawn(move || {
                        let taken = reserve.take_up_to(wanted, minimum);
                        assert!(taken == 0 || (minimum..=wanted).contains(&taken));
                        let before = taken_by_all.fetch_add(taken, Ordering::Relaxed);
                        assert!(before + taken <= 10);
                        taken_by_all.fetch_sub(taken, Ordering::Relaxed);
                        reserve.give(taken);
                    })
                })
                .collect();
            for taker in takers {
                taker.join().unwrap();
            }
            assert_eq!(reserve.free(), 10);
        });
    }

    /// Memory that was given is seen as given back by whoever takes it: what its last holder did came before.
    #[test]
    fn loom_who_takes_memory_sees_what_was_done_before_it_was_given() {
        loom::model(|| {
            let reserve = SendReserve::new(1);
            assert_eq!(reserve.take_up_to(1, 1), 1);
            let freed = Arc::new(AtomicUsize::new(0));
            let giver = {
                let (reserve, freed) = (reserve.clone(), freed.clone());
                thread::spawn(move || {
                    freed.store(1, Ordering::Relaxed);
                    reserve.give(1);
                })
            };
            if reserve.take_up_to(1, 1) == 1 {
                assert_eq!(freed.load(Ordering::Relaxed), 1);
                reserve.give(1);
            }
            giver.join().unwrap();
            assert_eq!(reserve.free(), 1);
        });
    }

    /// Two threads charge through leases; after both have settled and gone, everything is home and nobody
    /// waits.
    #[test]
    fn loom_two_leases_account_for_every_byte() {
        loom::model(|| {
            let reserve = SendReserve::new(10);
            let threads: Vec<_> = [6, 7]
                .into_iter()
                .map(|bytes| {
                    let reserve = reserve.clone();
                    thread::spawn(move || {
                        let lease = SendLease::new(reserve);
                        if lease.charge(bytes).is_ok() {
                            lease.refund(bytes);
                        }
                        lease.settle();
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!(reserve.free(), 10);
            assert_eq!(reserve.waiting.load(Ordering::Relaxed), 0);
        });
    }
}
