//! The randomness of a simulation: xoshiro256**, seeded through SplitMix64.
//!
//! A seed that found a bug must find it again next year, so neither the algorithm nor the order of the draws comes
//! from a crate.

use crate::random::split_mix;

/// A generator whose sequence is fixed for ever by its seed.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: [u64; 4],
}

impl Random {
    /// The generator of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        let mut split = seed;
        let mut next = || split_mix(&mut split);
        Self { state: [next(), next(), next(), next()] }
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        let [first, second, third, fourth] = &mut self.state;
        let result = second.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *second << 17;
        *third ^= *first;
        *fourth ^= *second;
        *second ^= *third;
        *first ^= *fourth;
        *third ^= shifted;
        *fourth = fourth.rotate_left(45);
        result
    }

    /// A number below `bound`.
    ///
    /// # Panics
    /// If `bound` is zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "no number is below zero");
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `lowest` to `highest`, both included. Draws nothing if they are equal.
    pub(crate) fn between(&mut self, lowest: u64, highest: u64) -> u64 {
        assert!(lowest <= highest, "an empty range: {lowest} to {highest}");
        if lowest == highest {
            return lowest;
        }
        match (highest - lowest).checked_add(1) {
            Some(width) => lowest + self.below(width),
            None => self.next(),
        }
    }

    /// True `parts_per_million` times in a million. Draws nothing if that is never.
    pub(crate) fn chance(&mut self, parts_per_million: u32) -> bool {
        parts_per_million > 0 && self.below(1_000_000) < u64::from(parts_per_million)
    }

    /// Brings `items` into a random order.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            items.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_of_a_seed_never_changes() {
        let mut random = Random::new(0);
        let first: Vec<u64> = (0..3).map(|_| random.next()).collect();
        assert_eq!(first, [0x99EC_5F36_CB75_F2B4, 0xBF6E_1F78_4956_452A, 0x1A5F_849D_4933_E6E0]);
    }

    #[test]
    fn numbers_stay_in_their_range() {
        let mut random = Random::new(7);
        let mut seen = [0; 4];
        for _ in 0..1000 {
            seen[random.between(10, 13) as usize - 10] += 1;
            assert_eq!(random.between(5, 5), 5);
        }
        assert!(seen.iter().all(|&count| count > 150), "{seen:?}");
        assert!(!random.chance(0));
        assert!(random.chance(1_000_000));
    }
}
