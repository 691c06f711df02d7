//! Framing of every kind, fed with arbitrary bytes in arbitrary pieces.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate::filter::fuzzing::framing(data));
