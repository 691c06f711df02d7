//! The signals that end the program, and the one that has it read its files again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
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

/// From now on, each SIGHUP calls `reload` on a thread of its own; several that come meanwhile are one.
///
/// # Errors
/// When the system refuses the signal handler or the thread.
pub(crate) fn on_hangup(mut reload: impl FnMut() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP])?;
    let run = move || signals.forever().for_each(|_| reload());
    std::thread::Builder::new().name("tidegate-reload".into()).spawn(run)?;
    Ok(())
}

fn name(signal: i32) -> &'static str {
    if signal == SIGINT { "SIGINT" } else { "SIGTERM" }
}
