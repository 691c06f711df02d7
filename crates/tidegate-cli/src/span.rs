//! Times on the command line: `500ms`, `30s`, `10m`, `2h`; and amounts in times: `1/60s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tidegate::MinProgress;

use crate::size::Size;

/// A time as it is written on the command line: a whole number with a unit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Span {
    pub duration: Duration,
}

/// The units, the longest suffix first where one is the end of another.
const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

/// Why a text is not a time, or not an amount in a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SpanError {
    /// It is not written like one.
    Form,
    /// It is longer than can be told.
    TooLong,
    /// It is not written like an amount in a time.
    ProgressForm,
    /// Nothing, or in no time.
    ZeroProgress,
}

impl fmt::Display for SpanError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Form => "a time is a whole number with one of the units ms, s, m, h: 500ms, 30s, 10m",
            Self::TooLong => "the time is longer than can be told in milliseconds",
            Self::ProgressForm => "it must be BYTES/TIME, such as 1/60s or 16K/10s, or off",
            Self::ZeroProgress => "bytes and time must both be above 0; to ask for nothing, write off",
        })
    }
}

impl std::error::Error for SpanError {}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let unit = UNITS.iter().find_map(|&(unit, milliseconds)| Some((text.strip_suffix(unit)?, milliseconds)));
        let (digits, milliseconds) = unit.ok_or(SpanError::Form)?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(SpanError::Form);
        }
        let count: u64 = digits.parse().map_err(|_| SpanError::TooLong)?;
        let milliseconds = count.checked_mul(milliseconds).ok_or(SpanError::TooLong)?;
        Ok(Self { duration: Duration::from_millis(milliseconds) })
    }
}

impl fmt::Display for Span {
    /// With the largest unit that divides it, so that what is written can be read again.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.duration.as_millis() as u64;
        let unit = UNITS.iter().rev().find(|&&(_, unit)| milliseconds != 0 && milliseconds.is_multiple_of(unit));
        match unit {
            Some((unit, of_unit)) => write!(formatter, "{}{unit}", milliseconds / of_unit),
            None => write!(formatter, "{milliseconds}ms"),
        }
    }
}

/// A limit of time that can be switched off with the word `off`.
pub(crate) fn parse_optional(text: &str) -> Result<Limit<Span>, String> {
    if text == "off" {
        return Ok(Limit::Off);
    }
    let span: Span = text.parse().map_err(|error: SpanError| format!("{error}; or off"))?;
    if span.duration.is_zero() {
        return Err("a limit of 0 lets no connection live; to have none, write off".into());
    }
    Ok(Limit::At(span))
}

/// A limit, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Limit<T> {
    /// There is none.
    Off,
    /// This.
    At(T),
}

impl<T> Limit<T> {
    /// The limit, if there is one.
    pub(crate) fn value(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::At(value) => Some(value),
        }
    }
}

impl Limit<Span> {
    /// The time, if there is one.
    pub(crate) fn duration(self) -> Option<Duration> {
        self.value().map(|span| span.duration)
    }
}

/// An amount in a time: `BYTES/TIME`, or `off`.
pub(crate) fn parse_progress(text: &str) -> Result<Limit<MinProgress>, SpanError> {
    if text == "off" {
        return Ok(Limit::Off);
    }
    let (bytes, within) = text.split_once('/').ok_or(SpanError::ProgressForm)?;
    let bytes: Size = bytes.parse().map_err(|_| SpanError::ProgressForm)?;
    let within: Span = within.parse().map_err(|_| SpanError::ProgressForm)?;
    if bytes.bytes == 0 || within.duration.is_zero() {
        return Err(SpanError::ZeroProgress);
    }
    Ok(Limit::At(MinProgress::new(bytes.bytes as u64, within.duration)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn milliseconds(text: &str) -> Result<u128, SpanError> {
        text.parse().map(|span: Span| span.duration.as_millis())
    }

    #[test]
    fn a_time_is_a_number_with_a_unit() {
        assert_eq!(milliseconds("500ms"), Ok(500));
        assert_eq!(milliseconds("30s"), Ok(30_000));
        assert_eq!(milliseconds("10m"), Ok(600_000));
        assert_eq!(milliseconds("2h"), Ok(7_200_000));
        assert_eq!(milliseconds("0s"), Ok(0));
    }

    #[test]
    fn what_is_not_written_like_a_time_is_refused() {
        for text in ["", "s", "ms", "30", "1.5s", "-1s", "+1s", "30 s", "30S", "1d", "٣s", "1m30s"] {
            assert_eq!(milliseconds(text), Err(SpanError::Form), "{text:?}");
        }
        assert_eq!(milliseconds("18446744073709551615m"), Err(SpanError::TooLong));
        assert_eq!(milliseconds("99999999999999999999ms"), Err(SpanError::TooLong));
    }

    #[test]
    fn an_amount_in_a_time_has_both_above_0_or_is_off() {
        assert_eq!(parse_progress("1/60s"), Ok(Limit::At(MinProgress::new(1, Duration::from_secs(60)))));
        assert_eq!(parse_progress("16K/500ms"), Ok(Limit::At(MinProgress::new(16_384, Duration::from_millis(500)))));
        assert_eq!(parse_progress("off"), Ok(Limit::Off));
        assert_eq!(parse_progress("0/60s"), Err(SpanError::ZeroProgress));
        assert_eq!(parse_progress("1/0s"), Err(SpanError::ZeroProgress));
        for text in ["", "1", "/", "1/", "/60s", "1/60", "1:60s", "x/60s"] {
            assert_eq!(parse_progress(text), Err(SpanError::ProgressForm), "{text:?}");
        }
    }

    #[test]
    fn a_limit_of_no_time_is_refused_and_off_is_none() {
        assert_eq!(parse_optional("off"), Ok(Limit::Off));
        assert_eq!(parse_optional("5m").map(Limit::duration), Ok(Some(Duration::from_secs(300))));
        assert!(parse_optional("0s").is_err_and(|text| text.contains("off")));
    }

    proptest! {
        #[test]
        fn a_time_that_is_written_is_read_again(milliseconds in any::<u64>(), shift in 0_u32..60) {
            let span = Span { duration: Duration::from_millis(milliseconds >> shift) };
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn any_text_is_a_time_or_an_error(text in ".*") {
            let _: Result<Span, SpanError> = text.parse();
            let _ = parse_progress(&text);
        }
    }
}
