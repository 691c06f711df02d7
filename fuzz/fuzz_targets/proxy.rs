//! PROXY headers of both versions, made of arbitrary bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate::filter::fuzzing::proxy(data));
