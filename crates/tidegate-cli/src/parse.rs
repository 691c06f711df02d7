//! What single values on the command line may look like, besides [sizes](crate::size) and [times](crate::span).

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use tidegate::{Network, NetworkError, Overflow};

use crate::size::{Size, SizeError};
use crate::span::{Span, SpanError};

/// The most I/O threads that can be asked for: more than any machine has use for, so a typing error is caught.
const THREADS_MAX: usize = 1024;

pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "it must be an IP address with a port, such as 127.0.0.1:7007 or [::1]:7007".into())
}

pub(crate) fn parse_period(text: &str) -> Result<Span, String> {
    let span: Span = text.parse().map_err(|error: SpanError| error.to_string())?;
    if span.duration.is_zero() { Err("it must be above 0".into()) } else { Ok(span) }
}

pub(crate) fn parse_overflow(text: &str) -> Result<Overflow, String> {
    let (name, limit) = text.split_once('=').map_or((text, None), |(name, limit)| (name, Some(limit)));
    match (name, limit) {
        ("wait", None) => Ok(Overflow::default()),
        ("wait", Some("0")) => Ok(Overflow::Wait { limit: None }),
        ("wait", Some(limit)) => {
            let span: Span = limit.parse().map_err(|error: SpanError| format!("{error}; or wait=0"))?;
            // No time at all is how the rest of the world writes "without a limit".
            Ok(Overflow::Wait { limit: (!span.duration.is_zero()).then_some(span.duration) })
        }
        ("drop-oldest", None) => Ok(Overflow::DropOldest),
        ("drop-newest", None) => Ok(Overflow::DropNewest),
        ("close", None) => Ok(Overflow::Close),
        ("drop-oldest" | "drop-newest" | "close", Some(_)) => Err(format!("only wait takes a time: {name}")),
        _ => {
            Err("it must be wait, wait=TIME (such as wait=5s; wait=0: for ever), drop-oldest, drop-newest or close"
                .into())
        }
    }
}

pub(crate) fn parse_interval(text: &str) -> Result<Span, String> {
    if text == "0" {
        return Ok(Span { duration: Duration::ZERO });
    }
    text.parse().map_err(|error: SpanError| format!("{error}; or 0"))
}

pub(crate) fn parse_threads(text: &str) -> Result<NonZeroUsize, String> {
    let threads: Option<NonZeroUsize> = text.parse().ok();
    threads
        .filter(|threads| threads.get() <= THREADS_MAX)
        .ok_or_else(|| format!("it must be a number from 1 to {THREADS_MAX}"))
}

pub(crate) fn parse_rate(text: &str) -> Result<u64, String> {
    let size: Size = text.parse().map_err(|error: SizeError| error.to_string())?;
    if size.bytes == 0 { Err("it must be above 0".into()) } else { Ok(size.bytes as u64) }
}

pub(crate) fn parse_network(text: &str) -> Result<Network, NetworkError> {
    text.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_with_its_time_and_what_is_none_is_refused_with_the_ways_there_are() {
        let wait = |limit| Ok(Overflow::Wait { limit });
        assert_eq!(parse_overflow("wait"), wait(Some(Duration::from_secs(30))));
        assert_eq!(parse_overflow("wait=500ms"), wait(Some(Duration::from_millis(500))));
        assert_eq!(parse_overflow("wait=0"), wait(None));
        assert_eq!(parse_overflow("wait=0s"), wait(None));
        assert_eq!(parse_overflow("drop-oldest"), Ok(Overflow::DropOldest));
        assert_eq!(parse_overflow("drop-newest"), Ok(Overflow::DropNewest));
        assert_eq!(parse_overflow("close"), Ok(Overflow::Close));
        for (text, hint) in [("drop", "drop-oldest"), ("", "wait=TIME"), ("wait=5", "units"), ("close=5s", "only wait")]
        {
            let error = parse_overflow(text).expect_err(text);
            assert!(error.contains(hint), "{text:?}: {error}");
        }
    }
}
