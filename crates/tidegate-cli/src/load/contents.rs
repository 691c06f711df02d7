//! What messages contain when they are verified: every byte follows from its connection and its place in the stream, so
//! that lost, doubled, swapped and torn bytes show, and those of another connection.

/// Bytes that are made at a time.
const WORD_BYTES: u64 = 8;

/// The endless stream of one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Contents {
    seed: u64,
}

impl Contents {
    /// That of connection `number`.
    pub(super) fn new(number: u64) -> Self {
        // Neighbours must not be the same stream a few words apart, so their seeds are far from each other.
        Self { seed: mixed(number.wrapping_add(1)) }
    }

    /// Fills `bytes` with the stream from `offset` on.
    pub(super) fn fill(self, offset: u64, bytes: &mut [u8]) {
        self.walk(offset, bytes.len(), |range, expected| {
            bytes[range].copy_from_slice(expected);
            true
        });
    }

    /// The place of the first of `bytes` that is not the stream's from `offset` on; `None` if all are.
    pub(super) fn first_difference(self, offset: u64, bytes: &[u8]) -> Option<usize> {
        let mut difference = None;
        self.walk(offset, bytes.len(), |range, expected| {
            let start = range.start;
            let got = &bytes[range];
            if got != expected {
                difference = got.iter().zip(expected).position(|(got, expected)| got != expected).map(|at| start + at);
            }
            difference.is_none()
        });
        difference
    }

    /// Gives `length` bytes of the stream from `offset` on, in pieces, with their places; stops where `each` returns false.
    #[inline]
    fn walk(self, offset: u64, length: usize, mut each: impl FnMut(std::ops::Range<usize>, &[u8]) -> bool) {
        let mut at = 0;
        let mut skip = (offset % WORD_BYTES) as usize;
        let mut index = offset / WORD_BYTES;
        while at < length {
            let word = self.word(index).to_le_bytes();
            let count = (word.len() - skip).min(length - at);
            if !each(at..at + count, &word[skip..skip + count]) {
                return;
            }
            at += count;
            skip = 0;
            index = index.wrapping_add(1);
        }
    }

    #[inline]
    fn word(self, index: u64) -> u64 {
        mixed(self.seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }
}

/// Spreads a change of one bit over all (the finisher of SplitMix64: Steele, Lea and Flood, 2014).
#[inline]
fn mixed(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// Compares what comes back with what was sent, message by message.
#[derive(Debug)]
pub(super) struct Checker {
    contents: Contents,
    message_bytes: u64,
    /// How much has come.
    offset: u64,
    /// How much of the present message is still to come.
    rest_bytes: u64,
    /// The present message has a wrong byte.
    wrong: bool,
    /// Where the first wrong byte of all was.
    first_wrong: Option<u64>,
}

impl Checker {
    /// For messages of `message_bytes` with these contents.
    pub(super) fn new(contents: Contents, message_bytes: u64) -> Self {
        Self { contents, message_bytes, offset: 0, rest_bytes: message_bytes, wrong: false, first_wrong: None }
    }

    /// Takes the next bytes that have come. Returns how many messages with a wrong byte have ended in them.
    pub(super) fn check(&mut self, mut bytes: &[u8]) -> u64 {
        let mut wrong_messages = 0;
        while !bytes.is_empty() {
            let count = usize::try_from(self.rest_bytes).map_or(bytes.len(), |rest| rest.min(bytes.len()));
            let (part, rest) = bytes.split_at(count);
            if !self.wrong
                && let Some(at) = self.contents.first_difference(self.offset, part)
            {
                self.wrong = true;
                self.first_wrong.get_or_insert(self.offset + at as u64);
            }
            bytes = rest;
            self.offset += count as u64;
            self.rest_bytes -= count as u64;
            if self.rest_bytes == 0 {
                wrong_messages += u64::from(self.wrong);
                self.wrong = false;
                self.rest_bytes = self.message_bytes;
            }
        }
        wrong_messages
    }

    /// Where in the stream the first wrong byte was.
    pub(super) fn first_wrong(&self) -> Option<u64> {
        self.first_wrong
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(number: u64, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        Contents::new(number).fill(offset, &mut bytes);
        bytes
    }

    /// The wrong messages in `bytes`, which come in pieces of these lengths.
    fn wrong(number: u64, message_bytes: u64, bytes: &[u8], pieces: &[usize]) -> u64 {
        let mut checker = Checker::new(Contents::new(number), message_bytes);
        let (mut count, mut rest) = (0, bytes);
        for &piece in pieces.iter().cycle().take(bytes.len() + 1) {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            count += checker.check(now);
            rest = later;
        }
        count + checker.check(rest)
    }

    #[test]
    fn connections_have_different_streams() {
        for number in 0..100 {
            assert_ne!(stream(number, 0, 64), stream(number + 1, 0, 64));
        }
    }

    #[test]
    fn the_first_wrong_byte_has_its_place() {
        let mut bytes = stream(3, 0, 200);
        bytes[77] ^= 1;
        bytes[130] ^= 1;
        let mut checker = Checker::new(Contents::new(3), 50);
        assert_eq!(checker.check(&bytes), 2);
        assert_eq!(checker.first_wrong(), Some(77));
    }

    proptest! {
        #[test]
        fn a_stream_is_the_same_wherever_it_is_begun(
            number in any::<u64>(),
            offset in 0_u64..1 << 50,
            length in 0_usize..300,
            cut in 0_usize..300,
        ) {
            let cut = cut.min(length);
            let whole = stream(number, offset, length);
            let parts = [stream(number, offset, cut), stream(number, offset + cut as u64, length - cut)].concat();
            prop_assert!(whole == parts);
            prop_assert_eq!(Contents::new(number).first_difference(offset, &whole), None);
        }

        #[test]
        fn what_came_back_as_it_was_is_right_however_it_is_cut(
            number in any::<u64>(),
            message_bytes in 1_u64..100,
            messages in 0_u64..20,
            pieces in prop::collection::vec(1_usize..150, 1..10),
        ) {
            let bytes = stream(number, 0, (message_bytes * messages) as usize);
            prop_assert_eq!(wrong(number, message_bytes, &bytes, &pieces), 0);
        }

        #[test]
        fn changed_bytes_are_found_in_their_messages(
            number in any::<u64>(),
            message_bytes in 1_u64..100,
            messages in 1_u64..20,
            changes in prop::collection::btree_map(0_usize..2_000, 1_u8.., 1..10),
            pieces in prop::collection::vec(1_usize..150, 1..10),
        ) {
            let mut bytes = stream(number, 0, (message_bytes * messages) as usize);
            let mut changed = std::collections::BTreeSet::new();
            for (place, change) in changes {
                let place = place % bytes.len();
                // Two changes of one byte may cancel out: only its first one is done.
                if bytes[place] == stream(number, place as u64, 1)[0] {
                    bytes[place] ^= change;
                    changed.insert(place as u64 / message_bytes);
                }
            }
            prop_assert_eq!(wrong(number, message_bytes, &bytes, &pieces), changed.len() as u64);
        }

        #[test]
        fn lost_doubled_and_swapped_bytes_are_found(
            number in any::<u64>(),
            at in 0_usize..800,
            count in 1_usize..150,
            how in 0..3,
        ) {
            let right = stream(number, 0, 1_200);
            let mut bytes = right.clone();
            match how {
                0 => drop(bytes.drain(at..at + count)),
                1 => drop(bytes.splice(at..at, stream(number, at as u64, count))),
                _ => bytes[at..at + 2 * count].rotate_left(count),
            }
            let bytes = &bytes[..1_048];
            // Two neighbours that are the same can be swapped and nothing has happened.
            prop_assume!(bytes != &right[..1_048]);
            prop_assert!(wrong(number, 8, bytes, &[64]) > 0);
        }

        #[test]
        fn the_stream_of_another_connection_is_found(number in 0_u64..1 << 32, other in 0_u64..1 << 32) {
            prop_assume!(number != other);
            prop_assert_eq!(wrong(number, 64, &stream(other, 0, 640), &[100]), 10);
        }
    }
}
