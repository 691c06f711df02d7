//! Freed memory carries a pattern in debug builds, checked when it is used again.
//!
//! This is how a write into memory that was given back too early is seen: the kernel (or a bug above)
//! changes the pattern, and whoever takes the memory next finds it changed.

/// The byte that freed memory is filled with in debug builds.
pub(crate) const POISON: u8 = 0xDB;

/// Fills `memory` with the pattern, in debug builds; does nothing in release builds.
#[inline]
pub(crate) fn poison(memory: &mut [u8]) {
    if cfg!(debug_assertions) {
        memory.fill(POISON);
    }
}

/// Checks in debug builds that nobody wrote into `memory` since it was poisoned.
///
/// # Panics
/// In debug builds, naming `what` and the first byte that differs.
#[inline]
pub(crate) fn assert_poisoned(memory: &[u8], what: &str) {
    if cfg!(debug_assertions)
        && let Some(position) = memory.iter().position(|&byte| byte != POISON)
    {
        panic!(
            "{what} was written to after it had been freed: byte {position} of {} is {:#04x}",
            memory.len(),
            memory[position]
        );
    }
}
