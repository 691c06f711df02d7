//! The connection whose request is being served.

use std::cell::Cell;

use tidegate::task;

thread_local! {
    static CURRENT: Cell<Option<task::Context>> = const { Cell::new(None) };
}

/// The surroundings of the connection whose request is being served: to sleep, to spawn, to have work done on other threads. For services
/// that must be `Send`, as those of axum: they can't keep a [`task::Context`], but they can ask for it at any time while a request is served.
///
/// `None` outside of the services of [`listen_http`](crate::ListenHttp::listen_http), their futures and response bodies.
pub fn context() -> Option<task::Context> {
    let context = CURRENT.take();
    let found = context.clone();
    CURRENT.set(context);
    found
}

/// Runs `act` with `context` as that of the request.
pub(crate) fn enter<R>(context: &task::Context, act: impl FnOnce() -> R) -> R {
    // Whatever happens in there, a panic included, what was there before is there again.
    let _before = Restored(CURRENT.replace(Some(context.clone())));
    act()
}

struct Restored(Option<task::Context>);

impl Drop for Restored {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}
