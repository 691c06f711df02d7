//! Checks the lines of a chargen server.

use std::ops::Range;

use crate::serve::chargen::{DIGITS, LINE_BYTES, lines};

/// Compares what comes with the lines that should come.
#[derive(Debug)]
pub(super) struct Lines {
    /// The line that should come next.
    expected: [u8; LINE_BYTES],
    /// The part of a line that has come.
    partial: [u8; LINE_BYTES],
    partial_bytes: usize,
    /// Whole lines that have come.
    count: u64,
    /// The number of the first wrong one among them.
    first_wrong: Option<u64>,
}

const NUMBER: Range<usize> = 0..DIGITS;

impl Lines {
    /// From line 0 on.
    pub(super) fn new() -> Self {
        let mut expected = [0; LINE_BYTES];
        expected.copy_from_slice(&lines(0, 1));
        Self { expected, partial: [0; LINE_BYTES], partial_bytes: 0, count: 0, first_wrong: None }
    }

    /// Takes the next bytes that have come. Returns how many lines have ended in them, and how many of those are wrong.
    pub(super) fn check(&mut self, mut bytes: &[u8]) -> (u64, u64) {
        let (before, mut wrong) = (self.count, 0);
        if self.partial_bytes > 0 {
            let count = (LINE_BYTES - self.partial_bytes).min(bytes.len());
            let (part, rest) = bytes.split_at(count);
            self.partial[self.partial_bytes..self.partial_bytes + count].copy_from_slice(part);
            self.partial_bytes += count;
            bytes = rest;
            if self.partial_bytes == LINE_BYTES {
                self.partial_bytes = 0;
                let line = self.partial;
                wrong += self.check_line(&line);
            }
        }
        let (whole, rest) = bytes.as_chunks::<LINE_BYTES>();
        for line in whole {
            wrong += self.check_line(line);
        }
        if !rest.is_empty() {
            self.partial[..rest.len()].copy_from_slice(rest);
            self.partial_bytes = rest.len();
        }
        (self.count - before, wrong)
    }

    /// How many lines had come before the first wrong one.
    pub(super) fn first_wrong(&self) -> Option<u64> {
        self.first_wrong
    }

    /// 1 if the line is wrong.
    #[inline]
    fn check_line(&mut self, line: &[u8; LINE_BYTES]) -> u64 {
        let right = *line == self.expected;
        if !right {
            self.wrong_line(line);
        }
        self.count += 1;
        increment(&mut self.expected[NUMBER]);
        u64::from(!right)
    }

    #[cold]
    #[inline(never)]
    fn wrong_line(&mut self, line: &[u8; LINE_BYTES]) {
        self.first_wrong.get_or_insert(self.count);
        // If it is a line, it goes on from there: lines that were lost are one fault, and not one for each that follows.
        let is_line = line[NUMBER].iter().all(u8::is_ascii_digit) && line[DIGITS..] == self.expected[DIGITS..];
        if is_line {
            self.expected[NUMBER].copy_from_slice(&line[NUMBER]);
        }
    }
}

/// Adds one to a number in decimal digits.
fn increment(digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return;
        }
        *digit = b'0';
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_lines_of_the_server_are_right() {
        let mut checker = Lines::new();
        for first in [0, 100, 1_000, 1_100] {
            let count = if first == 100 { 900 } else { 100 };
            assert_eq!(checker.check(&lines(first, count)), (count, 0));
        }
        assert_eq!(checker.first_wrong(), None);
    }

    #[test]
    fn lost_lines_are_one_fault() {
        let mut checker = Lines::new();
        assert_eq!(checker.check(&lines(0, 10)), (10, 0));
        assert_eq!(checker.check(&lines(15, 10)), (10, 1));
        assert_eq!(checker.first_wrong(), Some(10));
    }

    #[test]
    fn a_lost_byte_tears_all_that_follow() {
        let mut text = lines(0, 10);
        text.remove(64 * 3 + 30);
        assert_eq!(Lines::new().check(&text), (9, 6));
    }

    proptest! {
        #[test]
        fn right_lines_are_right_however_they_are_cut(pieces in prop::collection::vec(1_usize..300, 1..50)) {
            let text = lines(0, 200);
            let (mut checker, mut rest) = (Lines::new(), &text[..]);
            let mut seen = 0;
            for piece in pieces {
                let (now, later) = rest.split_at(piece.min(rest.len()));
                let (count, wrong) = checker.check(now);
                seen += count;
                prop_assert_eq!(wrong, 0);
                rest = later;
            }
            prop_assert_eq!(seen, ((text.len() - rest.len()) / 64) as u64);
            prop_assert_eq!(checker.check(rest), (200 - seen, 0));
        }

        #[test]
        fn a_changed_byte_is_one_wrong_line_or_two(at in 0_usize..64 * 50, change in 1_u8.., cut in 0_usize..64 * 50) {
            let mut text = lines(0, 50);
            text[at] ^= change;
            let mut checker = Lines::new();
            let (first, second) = text.split_at(cut);
            let (first, second) = (checker.check(first), checker.check(second));
            prop_assert_eq!(first.0 + second.0, 50);
            // A digit that was changed to another one looks like a gap, and so does the way back.
            let wrong = first.1 + second.1;
            prop_assert!(wrong == 1 || (wrong == 2 && at % 64 < DIGITS), "{} wrong lines", wrong);
            prop_assert_eq!(checker.first_wrong(), Some(at as u64 / 64));
        }
    }
}
