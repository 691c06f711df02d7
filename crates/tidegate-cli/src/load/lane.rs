//! What the connections of one I/O thread have measured. Only that thread writes it, so the lock is free but for a look
//! by the progress line now and then.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tidegate::Time;

use super::pace::on_tick;

/// Latencies above this count as this much: an hour, in nanoseconds.
const LATENCY_NANOS_MAX: u64 = 3_600_000_000_000;

/// The digits of a latency that are kept: 0.1 % of each.
const LATENCY_DIGITS: u8 = 3;

/// An empty histogram of latencies in nanoseconds.
pub(super) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, LATENCY_DIGITS).expect("the bounds are constants that fit")
}

/// The measurements of one I/O thread.
pub(super) struct Lane {
    ledger: Mutex<Ledger>,
}

/// What was measured.
pub(super) struct Ledger {
    /// When the load begins and ends, by the clock of the thread.
    span: Option<(Time, Time)>,
    last_answer: Time,
    /// Answers, or lines.
    pub messages: u64,
    /// Wrong ones among them, and connections that got more than they were owed.
    pub mismatches: u64,
    /// Places at which numbers of a ticker are missing, and how many are.
    pub gaps: u64,
    pub missed: u64,
    /// Of the block, by connections that are over.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// In nanoseconds.
    pub latencies: Histogram<u64>,
    /// Where the first wrong byte was, for the user.
    pub first_mismatch: Option<String>,
    /// Where the first gap was, for the user.
    pub first_gap: Option<String>,
}

impl Lane {
    pub(super) fn new() -> Self {
        Self {
            ledger: Mutex::new(Ledger {
                span: None,
                last_answer: Time::ZERO,
                messages: 0,
                mismatches: 0,
                gaps: 0,
                missed: 0,
                bytes_sent: 0,
                bytes_received: 0,
                latencies: latencies(),
                first_mismatch: None,
                first_gap: None,
            }),
        }
    }

    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// The start and the end of a load that begins at `at`, by the clock of this thread, on which it is `now`: the same for
    /// all its connections, and on ticks.
    pub(super) fn span(&mut self, at: Instant, duration: Duration, now: Time) -> (Time, Time) {
        *self.span.get_or_insert_with(|| {
            let start = on_tick(now + at.saturating_duration_since(Instant::now()));
            (start, start + duration)
        })
    }

    /// `count` answers came at `now`; what they took is told one by one.
    #[inline]
    pub(super) fn answered(&mut self, count: u64, now: Time) {
        self.messages += count;
        self.last_answer = now;
    }

    /// An answer took this long.
    #[inline]
    pub(super) fn took(&mut self, latency: Duration) {
        self.latencies.saturating_record(latency.as_nanos() as u64);
    }

    /// `count` answers were wrong; `place` says where the first of all wrong bytes was.
    #[cold]
    #[inline(never)]
    pub(super) fn mismatched(&mut self, count: u64, place: impl FnOnce() -> String) {
        self.mismatches += count;
        self.first_mismatch.get_or_insert_with(place);
    }

    /// `missed` messages are missing at `gaps` places; `place` says where the first of all was.
    #[cold]
    #[inline(never)]
    pub(super) fn missed(&mut self, gaps: u64, missed: u64, place: impl FnOnce() -> String) {
        self.gaps += gaps;
        self.missed = self.missed.saturating_add(missed);
        self.first_gap.get_or_insert_with(place);
    }

    /// From the start of the load to the last answer; zero without answers.
    pub(super) fn answered_for(&self) -> Duration {
        self.span.map_or(Duration::ZERO, |(start, _)| self.last_answer.saturating_since(start))
    }
}
