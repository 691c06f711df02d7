//! The signals that end the program.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

/// From now on, the first SIGTERM or SIGINT calls `first` on a thread of its own, and the second ends the process at
/// once, with 128 plus its number, whatever its threads do.
///
/// # Errors
/// When the system refuses a signal handler or the thread.
pub(crate) fn on_first(first: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let seen = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // In this order: the signal that sets the flag must not find it set. Both run inside the signal handler, so the
        // second signal is obeyed even if no thread of the program gets to run.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&seen))?;
        flag::register(signal, Arc::clone(&seen))?;
    }
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("tidegate-signals".into()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            tracing::info!(signal = name(signal), "draining; a second signal ends the program at once");
            first();
        }
    })?;
    Ok(())
}

fn name(signal: i32) -> &'static str {
    if signal == SIGINT { "SIGINT" } else { "SIGTERM" }
}
