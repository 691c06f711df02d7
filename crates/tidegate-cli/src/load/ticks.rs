//! Checks the messages of a ticker server, which publishes one numbered stream to everybody.
//!
//! A message begins with its length in bytes (4 bytes, itself included), its number (8 bytes, each one more than the last) and
//! the time at which it was published, in nanoseconds since the Unix epoch (8 bytes), all big endian. Behind these, byte `i` of
//! the message is the last byte of the number plus `i`.

use std::ops::Range;

/// Bytes of a message before its filling.
pub(super) const HEADER_BYTES: usize = 20;

/// The shortest message: one byte more than nothing to check would be too little.
pub(super) const MESSAGE_BYTES_MIN: usize = 24;

/// The longest: what is longer is no length, but something else that stands in its place.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 << 20;

const NUMBER: Range<usize> = 4..12;
const PUBLISHED: Range<usize> = 12..20;

/// The filling that follows byte `k`, for every `k`, is here from place `k` on: a multiple of 256 bytes and 256 more.
const FILLING_BYTES: usize = 4096;
static FILLING: [u8; FILLING_BYTES + 256] = filling();

const fn filling() -> [u8; FILLING_BYTES + 256] {
    let mut bytes = [0; FILLING_BYTES + 256];
    let mut place = 0;
    while place < bytes.len() {
        bytes[place] = place as u8;
        place += 1;
    }
    bytes
}

/// What was found in some bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Found {
    /// Messages that have ended in them.
    pub messages: u64,
    /// Those of them with a wrong byte, or a number that is not above the last.
    pub wrong: u64,
    /// Places at which numbers are missing, and how many are.
    pub gaps: u64,
    pub missed: u64,
    /// Behind which number the first of these is, and how many are missing there.
    pub first_gap: Option<(u64, u64)>,
    /// What the first fault of the connection was, if it is in these.
    pub fault: Option<String>,
    /// Where a message should begin there is none: what follows can't be told apart.
    pub torn: bool,
}

/// Follows the stream of one connection. Holds no message, however long.
#[derive(Debug, Default)]
pub(super) struct Ticks {
    /// Of every message, once one has come; before that what was asked for, if anything.
    message_bytes: Option<usize>,
    /// The number of the last message.
    last: Option<u64>,
    /// The header of a message that has begun.
    header: [u8; HEADER_BYTES],
    /// How many bytes of that message have come.
    position: usize,
    /// It has a wrong byte.
    is_wrong: bool,
    is_torn: bool,
}

impl Ticks {
    /// For messages of so many bytes, or all as long as the first.
    pub(super) fn new(message_bytes: Option<usize>) -> Self {
        Self { message_bytes, ..Self::default() }
    }

    /// Takes the next bytes that have come. `each` is called with the time of publishing of every message that has ended in them and is
    /// not wrong. Nothing is looked at behind a torn message.
    pub(super) fn check(&mut self, mut bytes: &[u8], mut each: impl FnMut(u64)) -> Found {
        let mut found = Found::default();
        while !bytes.is_empty() && !self.is_torn {
            // Whole messages, one after another, are the common case.
            if self.position == 0
                && let Some(length) = self.message_bytes
                && let Some((message, rest)) = bytes.split_at_checked(length)
                && let Some((header, filling)) = message.split_first_chunk()
                && length_of(header) == length
            {
                self.is_wrong = !is_filling(header, HEADER_BYTES, filling);
                self.ended(header, &mut found, &mut each);
                bytes = rest;
            } else {
                bytes = self.part(bytes, &mut found, &mut each);
            }
        }
        found
    }

    /// Whether a message has begun and not ended.
    pub(super) fn is_within_message(&self) -> bool {
        self.position > 0 && !self.is_torn
    }

    /// Takes a part of a message; returns what is behind it.
    #[cold]
    #[inline(never)]
    fn part<'a>(&mut self, bytes: &'a [u8], found: &mut Found, each: &mut impl FnMut(u64)) -> &'a [u8] {
        if self.position < HEADER_BYTES {
            let (part, rest) = bytes.split_at(bytes.len().min(HEADER_BYTES - self.position));
            self.header[self.position..self.position + part.len()].copy_from_slice(part);
            self.position += part.len();
            if self.position == HEADER_BYTES {
                self.begun(found);
            }
            return rest;
        }
        let length = length_of(&self.header);
        let (part, rest) = bytes.split_at(bytes.len().min(length - self.position));
        self.is_wrong |= !is_filling(&self.header, self.position, part);
        self.position += part.len();
        if self.position == length {
            self.position = 0;
            let header = self.header;
            self.ended(&header, found, each);
        }
        rest
    }

    /// A header is whole.
    fn begun(&mut self, found: &mut Found) {
        let length = length_of(&self.header);
        let is_length = (MESSAGE_BYTES_MIN..=MESSAGE_BYTES_MAX).contains(&length);
        let wanted = *self.message_bytes.get_or_insert(length);
        if !is_length || length != wanted {
            self.is_torn = true;
            found.torn = true;
            found.wrong += 1;
            let fault = || {
                let after = self.last.map_or("at the beginning".into(), |last| format!("behind message {last}"));
                match is_length {
                    true => format!("{after} is a message of {length} bytes, and not of {wanted}"),
                    false => format!("{after} is no message: {length} is no length"),
                }
            };
            found.fault.get_or_insert_with(fault);
        }
        self.is_wrong = false;
    }

    /// A message is whole.
    #[inline]
    fn ended(&mut self, header: &[u8; HEADER_BYTES], found: &mut Found, each: &mut impl FnMut(u64)) {
        found.messages += 1;
        let number = big_endian(header, NUMBER);
        // Before the first, anything may have been.
        let expected = self.last.map_or(number, |last| last.wrapping_add(1));
        if number == expected && !self.is_wrong {
            self.last = Some(number);
        } else if !self.is_unexpected(number, expected, found) {
            return;
        }
        each(big_endian(header, PUBLISHED));
    }

    /// A message is wrong, or has another number than it should; whether it is right but for messages that are missing before it.
    #[cold]
    #[inline(never)]
    fn is_unexpected(&mut self, number: u64, expected: u64, found: &mut Found) -> bool {
        if self.is_wrong || number < expected {
            found.wrong += 1;
            // Its number may be what is wrong: then it stands for the one that was expected.
            if self.is_wrong {
                self.last = Some(expected);
            }
            let fault = || match self.is_wrong {
                true => format!("a byte of message {number} is wrong"),
                false => format!("message {number} comes after message {}", expected.wrapping_sub(1)),
            };
            found.fault.get_or_insert_with(fault);
            return false;
        }
        found.gaps += 1;
        // Numbers are the server's: gaps of them may add up to more than there are numbers.
        found.missed = found.missed.saturating_add(number - expected);
        found.first_gap.get_or_insert((expected.wrapping_sub(1), number - expected));
        self.last = Some(number);
        true
    }
}

fn big_endian(header: &[u8; HEADER_BYTES], range: Range<usize>) -> u64 {
    header[range].iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// The length that a header tells.
#[inline]
fn length_of(header: &[u8; HEADER_BYTES]) -> usize {
    u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize
}

/// Whether `part` is what a message with this header has from place `at` on.
#[inline]
fn is_filling(header: &[u8; HEADER_BYTES], at: usize, part: &[u8]) -> bool {
    let first = header[NUMBER.end - 1].wrapping_add(at as u8) as usize;
    part.chunks(FILLING_BYTES).all(|chunk| *chunk == FILLING[first..first + chunk.len()])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(number: u64, length: usize) -> Vec<u8> {
        let mut bytes = (length as u32).to_be_bytes().to_vec();
        bytes.extend(number.to_be_bytes());
        bytes.extend((number * 1_000).to_be_bytes());
        bytes.extend((HEADER_BYTES..length).map(|place| (number as u8).wrapping_add(place as u8)));
        bytes
    }

    fn messages(numbers: impl IntoIterator<Item = u64>, length: usize) -> Vec<u8> {
        numbers.into_iter().flat_map(|number| message(number, length)).collect()
    }

    /// What is found in `bytes` that come in pieces of these lengths, and the times of publishing.
    fn found(bytes: &[u8], pieces: &[usize]) -> (Found, Vec<u64>) {
        let (mut ticks, mut sum, mut published) = (Ticks::new(None), Found::default(), Vec::new());
        let (mut rest, mut piece) = (bytes, pieces.iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(*piece.next().expect("it goes round")));
            let found = ticks.check(now, |time| published.push(time));
            sum.messages += found.messages;
            sum.wrong += found.wrong;
            sum.gaps += found.gaps;
            sum.missed += found.missed;
            sum.first_gap = sum.first_gap.or(found.first_gap);
            sum.torn |= found.torn;
            sum.fault = sum.fault.or(found.fault);
            rest = later;
        }
        (sum, published)
    }

    #[track_caller]
    fn counts(bytes: &[u8], messages: u64, wrong: u64, gaps: u64, missed: u64) -> Found {
        let whole = found(bytes, &[usize::MAX]).0;
        assert_eq!(
            (whole.messages, whole.wrong, whole.gaps, whole.missed),
            (messages, wrong, gaps, missed),
            "{whole:?}"
        );
        assert_eq!(found(bytes, &[1]).0, whole, "a byte at a time");
        whole
    }

    #[test]
    fn numbers_at_the_end_of_all_numbers_and_gaps_beyond_counting_are_counted_as_far_as_that_goes() {
        let message = |number: u64| {
            let mut bytes = (MESSAGE_BYTES_MIN as u32).to_be_bytes().to_vec();
            bytes.extend(number.to_be_bytes());
            bytes.extend(7_u64.to_be_bytes());
            bytes.extend((HEADER_BYTES..MESSAGE_BYTES_MIN).map(|place| (number as u8).wrapping_add(place as u8)));
            bytes
        };
        let stream: Vec<u8> = [1, u64::MAX, 5, u64::MAX].into_iter().flat_map(message).collect();
        let found = Ticks::new(None).check(&stream, |_| {});
        assert_eq!((found.messages, found.wrong, found.gaps, found.missed), (4, 0, 3, u64::MAX));
        assert_eq!(found.first_gap, Some((1, u64::MAX - 2)));
    }

    #[test]
    fn a_stream_may_begin_anywhere_and_goes_on_one_by_one() {
        counts(&messages(70_000..70_300, 24), 300, 0, 0, 0);
    }

    #[test]
    fn numbers_that_are_missing_are_counted_and_no_fault() {
        let found = counts(&messages([5, 6, 9, 10, 12], 128), 5, 0, 2, 3);
        assert_eq!((found.fault, found.first_gap), (None, Some((6, 2))));
    }

    #[test]
    fn numbers_that_come_again_or_too_late_are_faults() {
        let fault = counts(&messages([5, 6, 6, 7], 128), 4, 1, 0, 0).fault;
        assert_eq!(fault.as_deref(), Some("message 6 comes after message 6"));
        counts(&messages([5, 7, 6, 8], 128), 4, 1, 1, 1);
    }

    #[test]
    fn a_wrong_byte_is_one_wrong_message() {
        for place in [11, 20, 100, 127] {
            let mut bytes = messages(5..10, 128);
            bytes[2 * 128 + place] ^= 1;
            let found = counts(&bytes, 5, 1, 0, 0);
            assert!(found.fault.is_some() && !found.torn, "{place}: {found:?}");
        }
    }

    #[test]
    fn a_torn_message_ends_it() {
        let mut bytes = messages(5..10, 128);
        bytes.remove(300);
        let found = counts(&bytes, 3, 2, 0, 0);
        assert!(found.torn, "{found:?}");
        let other = [messages(5..7, 128), messages(7..9, 64)].concat();
        assert_eq!(
            counts(&other, 2, 1, 0, 0).fault.as_deref(),
            Some("behind message 6 is a message of 64 bytes, and not of 128")
        );
        counts(b"this is something else altogether", 0, 1, 0, 0);
        counts(&messages(1..3, 23), 0, 1, 0, 0);
    }

    #[test]
    fn messages_of_another_size_than_asked_for_are_torn() {
        assert!(Ticks::new(Some(64)).check(&messages(1..3, 128), |_| {}).torn);
        assert_eq!(Ticks::new(Some(64)).check(&messages(1..3, 64), |_| {}).messages, 2);
    }

    proptest! {
        #[test]
        fn right_messages_are_right_however_they_are_cut_and_tell_when_they_were_published(
            first in 0_u64..1 << 40,
            length in prop_oneof![24_usize..300, 8_000_usize..20_000],
            count in 1_u64..20,
            pieces in prop::collection::vec(1_usize..3_000, 1..10),
        ) {
            let numbers = first..first + count;
            let (found, published) = found(&messages(numbers.clone(), length), &pieces);
            prop_assert_eq!(found, Found { messages: count, ..Found::default() });
            prop_assert_eq!(published, numbers.map(|number| number * 1_000).collect::<Vec<_>>());
        }

        #[test]
        fn lost_and_doubled_bytes_are_found(at in 100_usize..900, count in 1_usize..150, twice in any::<bool>()) {
            let mut bytes = messages(1..40, 100);
            if twice {
                let again = bytes[at..at + count].to_vec();
                bytes.splice(at..at, again);
            } else {
                bytes.drain(at..at + count);
            }
            // One whole message that is lost is a gap, also when the cut is where neighbours have the same bytes.
            prop_assume!(twice || count != 100 || at % 100 >= NUMBER.end);
            let found = found(&bytes, &[64]).0;
            prop_assert!(found.wrong > 0, "{:?}", found);
        }
    }
}
