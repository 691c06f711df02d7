//! The suite catches what it is there to catch: E18 and E22 with a bug planted.

use super::fixture::Fixture;
use super::sending::{cancel_a_recorded_send, cancel_a_watched_send};
use crate::engine::CloseMode;

/// An engine into which the bug can be planted.
pub(super) trait Plantable: Fixture {
    /// From now on a cancel frees the memory of its send at once.
    fn plant_free_on_cancel(&mut self);
}

/// The same scenarios pass as they are and fail with the bug: once because the memory is seen to be freed, once because the
/// peer gets the pattern of freed memory.
pub(super) fn freeing_a_send_before_its_last_completion_is_caught<F: Plantable>() {
    for mode in [CloseMode::Orderly, CloseMode::Abort] {
        cancel_a_watched_send::<F>(mode, |_| {});
        let message = panic_message(|| cancel_a_watched_send::<F>(mode, F::plant_free_on_cancel));
        assert!(message.contains("freed before its last completion"), "caught by something else: {message}");
    }
    cancel_a_recorded_send::<F>(|_| {});
    if cfg!(not(debug_assertions)) {
        // What was freed keeps its content then, and the peer gets what it was to get.
        return;
    }
    let message = panic_message(|| cancel_a_recorded_send::<F>(F::plant_free_on_cancel));
    assert!(message.contains("what the peer got: byte 0 is 0xdb"), "caught by something else: {message}");
}

/// Runs a scenario that must fail; what it says.
fn panic_message(scenario: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let panic = std::panic::catch_unwind(scenario).expect_err("a build that frees a send too early passes the suite");
    panic.downcast_ref::<String>().cloned().expect("a message")
}
