//! Sizes as they are written on the command line.

use std::fmt;
use std::str::FromStr;

/// A number of bytes. Written as digits alone, or with a unit: `K`, `M` and `G` are powers of 1,024.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Size {
    /// How many bytes.
    pub bytes: usize,
}

/// The units, the largest first.
const UNITS: [(char, usize); 3] = [('G', 1 << 30), ('M', 1 << 20), ('K', 1 << 10)];

/// Why a text is not a size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SizeError {
    /// It is not written like one.
    Form,
    /// It is more than this machine can address.
    TooLarge,
}

impl fmt::Display for SizeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => formatter.write_str(
                "a size is a whole number of bytes, or one of the units K, M, G (powers of 1,024): 65536, 64K, 128M, 1G",
            ),
            Self::TooLarge => write!(formatter, "the size is above {} bytes, the most that can be addressed", usize::MAX),
        }
    }
}

impl std::error::Error for SizeError {}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let unit = UNITS.iter().find_map(|&(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)));
        let (digits, unit_bytes) = unit.unwrap_or((text, 1));
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(SizeError::Form);
        }
        // Digits only: what can go wrong is their number.
        let count: usize = digits.parse().map_err(|_| SizeError::TooLarge)?;
        let bytes = count.checked_mul(unit_bytes).ok_or(SizeError::TooLarge)?;
        Ok(Self { bytes })
    }
}

impl fmt::Display for Size {
    /// With the largest unit that divides it, so that what is written is exact and can be read again.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|&&(_, bytes)| self.bytes != 0 && self.bytes.is_multiple_of(bytes));
        match unit {
            Some((unit, bytes)) => write!(formatter, "{}{unit}", self.bytes / bytes),
            None => write!(formatter, "{}", self.bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(text: &str) -> Result<usize, SizeError> {
        text.parse().map(|size: Size| size.bytes)
    }

    #[test]
    fn units_are_powers_of_1024_and_digits_alone_are_bytes() {
        assert_eq!(bytes("0"), Ok(0));
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes("64K"), Ok(65_536));
        assert_eq!(bytes("128M"), Ok(134_217_728));
        assert_eq!(bytes("1G"), Ok(1_073_741_824));
        assert_eq!(bytes("007K"), Ok(7168));
    }

    #[test]
    fn what_is_not_written_like_a_size_is_refused() {
        for text in
            ["", "K", "64k", "64KB", "64KiB", "6 4", " 64", "64 K", "-1", "+1", "1.5G", "1_000", "0x10", "1T", "٣"]
        {
            assert_eq!(bytes(text), Err(SizeError::Form), "{text:?}");
        }
    }

    #[test]
    fn what_is_too_large_is_refused_and_not_wrapped_around() {
        for text in ["18446744073709551616", "18014398509481984K", "17179869184G", "99999999999999999999999999G"] {
            assert_eq!(bytes(text), Err(SizeError::TooLarge), "{text}");
        }
        assert_eq!(bytes("18446744073709551615"), Ok(usize::MAX));
    }

    proptest! {
        #[test]
        fn a_size_that_is_written_is_read_again(bytes in any::<usize>(), shift in 0_u32..40) {
            let size = Size { bytes: bytes >> shift << (shift % 31) };
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn any_text_is_a_size_or_an_error(text in ".*") {
            let _ = bytes(&text);
        }

        #[test]
        fn digits_with_a_unit_are_their_product_or_too_large(count in any::<u64>(), unit in 0_usize..4) {
            let (suffix, unit_bytes) = [("", 1_u128), ("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30)][unit];
            let expected = usize::try_from(u128::from(count) * unit_bytes).map_err(|_| SizeError::TooLarge);
            prop_assert_eq!(bytes(&format!("{count}{suffix}")), expected);
        }
    }
}
