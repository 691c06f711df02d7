//! The name that a client asks for (SNI), on its way from the choice of a certificate to the filter.
//!
//! The session shows the name to nobody but the one who chooses the certificate, and that is the same for all connections. So it puts the
//! name down here, on its thread, and the filter that has made the call picks it up when the call returns.

use std::cell::RefCell;

thread_local! {
    static ASKED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Forgets what an earlier call may have left.
pub(super) fn clear() {
    ASKED.with_borrow_mut(|asked| *asked = None);
}

/// A client asks for `name`, in the call that runs now.
pub(super) fn put(name: Option<&str>) {
    ASKED.with_borrow_mut(|asked| *asked = name.map(str::to_owned));
}

/// The name that a client has asked for in the call that has returned.
pub(super) fn take() -> Option<String> {
    ASKED.with_borrow_mut(Option::take)
}
