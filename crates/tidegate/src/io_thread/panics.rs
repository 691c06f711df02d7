//! What becomes of the panics of handlers and filters.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Logs a panic and drops its payload, which may panic itself.
pub(super) fn swallow(panic: Box<dyn std::any::Any + Send>, what: &str) {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("(not a text)"), "{what}");
    if let Err(again) = catch_unwind(AssertUnwindSafe(move || drop(panic))) {
        // A payload that panics when it is dropped may do so for ever: this one is left alone.
        std::mem::forget(again);
    }
}
