//! What stands on the command line of the program: any text is a value or an error, and a value that is written is read again.
#![no_main]
#![allow(dead_code, reason = "the modules of the program have more than is fuzzed here")]

#[path = "../../crates/tidegate-cli/src/parse.rs"]
mod parse;
#[path = "../../crates/tidegate-cli/src/size.rs"]
mod size;
#[path = "../../crates/tidegate-cli/src/span.rs"]
mod span;

use tidegate::{Network, Overflow};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(size) = text.parse::<size::Size>() {
        assert_eq!(size.to_string().parse(), Ok(size));
    }
    if let Ok(span) = text.parse::<span::Span>() {
        assert_eq!(span.to_string().parse(), Ok(span));
    }
    if let Ok(network) = text.parse::<Network>() {
        assert_eq!(network.to_string().parse(), Ok(network));
        assert!(parse::parse_network(text).is_ok());
    }
    if let Ok(address) = parse::parse_address(text) {
        assert_eq!(parse::parse_address(&address.to_string()), Ok(address));
    }
    if let Ok(Overflow::Wait { limit: Some(limit) }) = parse::parse_overflow(text) {
        assert!(!limit.is_zero(), "no time at all is no limit");
    }
    if let Ok(span::Limit::At(progress)) = span::parse_progress(text) {
        assert!(progress.bytes > 0 && !progress.within.is_zero());
    }
    if let Ok(rate) = parse::parse_rate(text) {
        assert!(rate > 0);
    }
    let _ = (span::parse_optional(text), parse::parse_interval(text), parse::parse_period(text), parse::parse_threads(text));
});
