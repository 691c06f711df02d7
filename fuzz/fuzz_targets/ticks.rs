//! The stream of a ticker as `load --expect ticker` follows it: what is found doesn't depend on the pieces in which it comes.
#![no_main]
#![allow(dead_code, reason = "the module of the program has more than is fuzzed here")]

#[path = "../../crates/tidegate-cli/src/load/ticks.rs"]
mod ticks;

use ticks::{Found, Ticks};

fn follow<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (u64, u64, u64, u64, bool, Vec<u64>) {
    let (mut ticks, mut times) = (Ticks::new(None), Vec::new());
    let mut sum = (0, 0, 0, 0_u64, false);
    for piece in pieces {
        let Found { messages, wrong, gaps, missed, torn, .. } = ticks.check(piece, |time| times.push(time));
        sum = (sum.0 + messages, sum.1 + wrong, sum.2 + gaps, sum.3.saturating_add(missed), sum.4 | torn);
    }
    (sum.0, sum.1, sum.2, sum.3, sum.4, times)
}

/// Messages with what the bytes say: right ones, with wrong numbers, wrong fillings, wrong lengths.
fn stream(data: &[u8]) -> Vec<u8> {
    let (mut stream, mut number) = (Vec::new(), 1_u64);
    for &byte in data {
        let length = if byte == 7 { 0 } else { 30_u32 };
        number = number.wrapping_add(match byte % 8 {
            0 => 3,
            1 => u64::MAX,
            _ => 1,
        });
        stream.extend(length.to_be_bytes());
        stream.extend(number.to_be_bytes());
        stream.extend(u64::from(byte).to_be_bytes());
        stream.extend((20..30_u8).map(|place| (number as u8).wrapping_add(place) ^ u8::from(byte % 16 == 9)));
    }
    stream
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&piece, rest)) = data.split_first() else { return };
    let piece = 1 + usize::from(piece % 64);
    for stream in [rest.to_vec(), stream(rest)] {
        assert_eq!(follow(std::iter::once(&stream[..])), follow(stream.chunks(piece)), "pieces of {piece} make a difference");
    }
});
