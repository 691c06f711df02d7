//! A token bucket: how many connections may be accepted now.

use std::time::Duration;

use crate::time::Time;

/// Tokens come at a steady rate, up to a burst of a tenth of a second's worth (at least one).
///
/// Whatever is taken, and whenever the bucket is looked at, in any stretch of time `t` at most `burst + rate × t` tokens are there
/// to be taken. Counted in billionths of a token, so that nothing is lost by rounding at any rate. More may be taken than there
/// is: then the bucket is in debt, and gives nothing until that is paid.
#[derive(Clone, Debug)]
pub(crate) struct TokenBucket {
    per_second: u32,
    level: i64,
    /// When `level` was right.
    at: Time,
}

/// One token, in the unit of the level: with nanoseconds for time and tokens per second for the rate, their product is in it.
const TOKEN: i64 = 1_000_000_000;

impl TokenBucket {
    /// A full bucket.
    ///
    /// # Panics
    /// If the rate is 0.
    pub(crate) fn new(per_second: u32, now: Time) -> Self {
        assert!(per_second > 0, "a bucket that never fills");
        Self { per_second, level: Self::burst(per_second) * TOKEN, at: now }
    }

    /// The most tokens that a bucket of this rate holds.
    pub(crate) fn burst(per_second: u32) -> i64 {
        i64::from((per_second / 10).max(1))
    }

    /// Lets the tokens in that have come until `now`.
    pub(crate) fn refill(&mut self, now: Time) {
        let came = now.saturating_since(self.at).as_nanos().saturating_mul(u128::from(self.per_second));
        let full = Self::burst(self.per_second) * TOKEN;
        // What doesn't fit into an i64 fills any bucket.
        self.level = i64::try_from(came).map_or(full, |came| self.level.saturating_add(came).min(full));
        self.at = self.at.max(now);
    }

    /// Whole tokens that are there; below zero in debt.
    pub(crate) fn tokens(&self) -> i64 {
        self.level.div_euclid(TOKEN)
    }

    /// Takes one token, which need not be there.
    pub(crate) fn take(&mut self) {
        self.level = self.level.saturating_sub(TOKEN);
    }

    /// When there will be a token, if nobody takes one before: after the last refill, unless there is one now.
    pub(crate) fn next_token(&self) -> Time {
        let missing = u64::try_from(TOKEN - self.level).unwrap_or(0);
        self.at + Duration::from_nanos(missing.div_ceil(u64::from(self.per_second)))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bucket_holds_a_tenth_of_a_second_and_at_least_one() {
        for (per_second, burst) in [(1, 1), (9, 1), (20, 2), (1_000, 100), (u32::MAX, 429_496_729)] {
            let mut bucket = TokenBucket::new(per_second, Time::ZERO);
            assert_eq!(bucket.tokens(), burst);
            bucket.refill(Time::ZERO + Duration::from_secs(1_000_000));
            assert_eq!(bucket.tokens(), burst, "full is full");
        }
    }

    #[test]
    fn a_token_is_there_when_it_was_announced_and_not_before() {
        let mut bucket = TokenBucket::new(3, Time::ZERO);
        bucket.take();
        let due = bucket.next_token();
        assert_eq!(due, Time::from_nanos(333_333_334));
        bucket.refill(Time::from_nanos(due.as_nanos() - 1));
        assert_eq!(bucket.tokens(), 0);
        assert_eq!(bucket.next_token(), due);
        bucket.refill(due);
        assert_eq!(bucket.tokens(), 1);
    }

    #[test]
    fn a_debt_is_paid_before_there_is_a_token() {
        let mut bucket = TokenBucket::new(10, Time::ZERO);
        for _ in 0..3 {
            bucket.take();
        }
        assert_eq!(bucket.tokens(), -2);
        assert_eq!(bucket.next_token(), Time::ZERO + Duration::from_millis(300));
    }

    proptest! {
        /// Against a model that replays all of history with exact fractions.
        #[test]
        fn the_bucket_is_what_a_naive_model_says(
            per_second in 1_u32..100_000,
            steps in prop::collection::vec((0_u64..2_000_000_000, 0_u32..5), 1..60),
        ) {
            let mut bucket = TokenBucket::new(per_second, Time::ZERO);
            let full = i128::from((per_second / 10).max(1)) * 1_000_000_000;
            let (mut model, mut now_ns) = (full, 0_u64);
            for (wait_ns, takes) in steps {
                // One nanosecond after another would be the same, as nothing is taken in between.
                now_ns += wait_ns;
                model = (model + i128::from(wait_ns) * i128::from(per_second)).min(full);
                bucket.refill(Time::from_nanos(now_ns));
                prop_assert_eq!(i128::from(bucket.tokens()), model.div_euclid(1_000_000_000));
                for _ in 0..takes {
                    bucket.take();
                    model -= 1_000_000_000;
                }
                prop_assert_eq!(i128::from(bucket.tokens()), model.div_euclid(1_000_000_000));
                let due = bucket.next_token();
                let waited = i128::from(due.as_nanos() - now_ns.min(due.as_nanos()));
                prop_assert!(model + waited * i128::from(per_second) >= 1_000_000_000, "a token when it was announced");
                prop_assert!(
                    waited == 0 || model + (waited - 1) * i128::from(per_second) < 1_000_000_000,
                    "and no nanosecond earlier"
                );
            }
        }

        #[test]
        fn whoever_takes_what_there_is_never_gets_more_than_burst_and_rate(
            per_second in 1_u32..5_000,
            waits in prop::collection::vec(0_u64..300_000_000, 1..100),
        ) {
            let mut bucket = TokenBucket::new(per_second, Time::ZERO);
            let (mut now_ns, mut taken) = (0_u64, Vec::new());
            for wait_ns in waits {
                now_ns += wait_ns;
                bucket.refill(Time::from_nanos(now_ns));
                while bucket.tokens() > 0 {
                    bucket.take();
                    taken.push(now_ns);
                }
            }
            // In billionths of a token: what was taken up to a moment, less what came up to it. From any moment to any later one this
            // grows by a burst at most (and one token, as a stretch may begin in the middle of one).
            let burst = (i128::from(per_second / 10).max(1) + 1) * 1_000_000_000;
            let mut lowest = i128::MAX;
            for (number, &at) in taken.iter().enumerate() {
                let came = i128::from(at) * i128::from(per_second);
                lowest = lowest.min(number as i128 * 1_000_000_000 - came);
                let now = (number as i128 + 1) * 1_000_000_000 - came;
                prop_assert!(now - lowest <= burst, "token {number} at {at} ns is one too many");
            }
        }
    }
}
