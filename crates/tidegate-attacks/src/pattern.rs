//! Bytes that look random and are the same for the same seed, so that what is lost, doubled or swapped shows.

/// Fills `bytes` with what belongs to `seed`.
pub fn fill(seed: u64, bytes: &mut [u8]) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for piece in bytes.chunks_mut(8) {
        state = step(state);
        piece.copy_from_slice(&state.to_le_bytes()[..piece.len()]);
    }
}

/// The next number of a sequence (xorshift64).
pub fn step(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ (state << 17)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_seed_is_another_pattern() {
        let mut patterns = [[0; 100]; 3];
        fill(1, &mut patterns[0]);
        fill(1, &mut patterns[1]);
        fill(2, &mut patterns[2]);
        assert_eq!(patterns[0], patterns[1]);
        assert_ne!(patterns[0], patterns[2]);
        assert_ne!(patterns[0][..8], patterns[0][8..16]);
    }
}
