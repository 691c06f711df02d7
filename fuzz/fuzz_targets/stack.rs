//! Two stacks of filters that face each other, pulled both ways in arbitrary order, with little memory.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate::filter::fuzzing::stack(data));
