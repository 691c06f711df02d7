//! What has happened in a simulation: one number to compare runs by, and the last events for people.

use std::collections::VecDeque;
use std::fmt::Write;

use crate::time::Time;

/// Something that happened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    /// The engine that it happened to.
    pub engine: Option<u32>,
    /// What it was.
    pub kind: &'static str,
    /// Which socket, listener, endpoint or peer, by its place and its generation.
    pub place: (u32, u32),
    /// How many bytes, or another number that says more.
    pub count: u64,
    /// The [`content_hash`] of the bytes, or zero.
    pub content: u64,
}

/// The hash of all that has happened, and the last of it as text.
///
/// The same seed gives the same hash, in every build and process: only fixed-width numbers and the names of events
/// enter it.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    count: u64,
    kept: usize,
    recent: VecDeque<(Time, Record)>,
}

const BASIS: u64 = 0xCBF2_9CE4_8422_2325;
const PRIME: u64 = 0x9E37_79B9_7F4A_7C15;

/// How many events are kept as text, unless told otherwise.
const KEPT: usize = 200;

impl Trace {
    /// Nothing has happened yet.
    pub(crate) fn new() -> Self {
        Self { hash: BASIS, count: 0, kept: KEPT, recent: VecDeque::with_capacity(KEPT) }
    }

    /// Adds an event.
    pub(crate) fn add(&mut self, time: Time, record: Record) {
        self.count += 1;
        for word in [
            time.as_nanos(),
            record.engine.map_or(u64::MAX, u64::from),
            content_hash(record.kind.as_bytes()),
            u64::from(record.place.0) << 32 | u64::from(record.place.1),
            record.count,
            record.content,
        ] {
            self.hash = mix(self.hash, word);
        }
        if self.kept > 0 {
            if self.recent.len() >= self.kept {
                self.recent.pop_front();
            }
            self.recent.push_back((time, record));
        }
    }

    /// Keeps the last `events` events as text from now on.
    pub(crate) fn keep(&mut self, events: usize) {
        self.kept = events;
        while self.recent.len() > events {
            self.recent.pop_front();
        }
    }

    /// Everything that has happened, as one number.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events there were.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The last events, one a line, the newest last.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let left_out = self.count - self.recent.len() as u64;
        for (place, (time, record)) in self.recent.iter().enumerate() {
            let Record { engine, kind, place: (index, generation), count, content } = record;
            let number = left_out + place as u64 + 1;
            let _ = write!(text, "{number:>7} {time} ");
            let _ = match engine {
                Some(engine) => write!(text, "engine {engine}"),
                None => write!(text, "world   "),
            };
            let _ = write!(text, "  {kind:<18} {index}.{generation}  {count}");
            if *content != 0 {
                let _ = write!(text, "  #{content:016x}");
            }
            text.push('\n');
        }
        text
    }
}

/// A hash of `bytes`, never zero. Eight bytes at a time: simulations move many.
pub(crate) fn content_hash(bytes: &[u8]) -> u64 {
    let mut hash = mix(BASIS, bytes.len() as u64);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = mix(hash, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(hash, u64::from_le_bytes(last)).max(1)
}

fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(PRIME);
    product ^ (product >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_told_apart_by_every_byte_and_by_length() {
        let all: Vec<u64> =
            [&b"12345678"[..], b"12345679", b"1234567", b"12345678\0", b"", b"\0"].map(content_hash).to_vec();
        for (place, hash) in all.iter().enumerate() {
            assert!(!all[..place].contains(hash), "{all:x?}");
        }
    }

    #[test]
    fn the_text_has_the_last_events_and_the_hash_has_all() {
        let mut trace = Trace::new();
        trace.keep(2);
        let record = |count| Record { engine: Some(1), kind: "Sent", place: (3, 4), count, content: 0 };
        let mut hashes = Vec::new();
        for count in [1, 2, 3] {
            trace.add(Time::from_nanos(5), record(count));
            hashes.push(trace.hash());
        }
        assert_eq!(trace.count(), 3);
        assert_eq!(trace.text().lines().count(), 2);
        assert!(trace.text().contains("Sent               3.4  3"), "{}", trace.text());
        assert!(hashes[0] != hashes[1] && hashes[1] != hashes[2]);
    }
}
