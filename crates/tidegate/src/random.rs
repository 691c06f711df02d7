//! Random numbers from a word of state.

/// The next number of a SplitMix64 sequence: fast, good enough for spreading and for choices, not for secrets. The constants are
/// those of its reference implementation (public domain, S. Vigna). Seeds of simulations depend on it: it never changes.
pub(crate) fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}
