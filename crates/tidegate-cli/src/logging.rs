//! The log, on stderr, which may be a pipe that nobody reads: no I/O thread ever waits for it, and neither does the end
//! of the program.

use std::io::{IsTerminal as _, Write as _};
use std::panic::PanicHookInfo;
use std::sync::mpsc;
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::arguments::LogFormat;

/// Lines that may wait to be written. A line has about 150 bytes, so this is well below a megabyte. Beyond it, lines are
/// dropped and counted.
const LINES_MAX: usize = 4096;

/// How long the end of the program waits for stderr to take what is left.
const STDERR_PATIENCE: Duration = Duration::from_millis(1500);

/// The running log. [`finish`](Self::finish) it at the end.
pub(crate) struct Log {
    guard: WorkerGuard,
    dropped: ErrorCounter,
}

impl Log {
    /// Starts writing the log of the whole program. What is written is chosen by `RUST_LOG`; by default, `level` and up.
    ///
    /// # Errors
    /// A text, when `RUST_LOG` can't be understood.
    pub(crate) fn start(format: LogFormat, level: LevelFilter) -> Result<Self, String> {
        let filter = EnvFilter::builder().with_default_directive(level.into());
        let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
            Ok(directives) => {
                filter.parse(&directives).map_err(|error| format!("can't understand RUST_LOG={directives}: {error}"))?
            }
            Err(_) => filter.parse_lossy(""),
        };
        let (writer, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(LINES_MAX)
            .thread_name("tidegate-log")
            .finish(std::io::stderr());
        let dropped = writer.error_counter();
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
        match format {
            LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
            LogFormat::Json => lines.json().init(),
        }
        std::panic::set_hook(Box::new(log_panic));
        Ok(Self { guard, dropped })
    }

    /// Writes what is left, and how many lines were lost; gives up if stderr doesn't take it.
    pub(crate) fn finish(self) {
        let Self { guard, dropped } = self;
        with_patience(move || {
            // Waits for the writer, and complains on stdout if it is stuck: so both may block.
            drop(guard);
            let lines = dropped.dropped_lines();
            if lines > 0 {
                let text =
                    format!("tidegate: {lines} lines of the log were dropped, because stderr took them too slowly\n");
                let _ = std::io::stderr().write_all(text.as_bytes());
            }
        });
    }
}

/// Writes `text` to stderr, unless it doesn't take it.
pub(crate) fn say_on_stderr(text: String) {
    with_patience(move || {
        let _ = std::io::stderr().write_all(text.as_bytes());
    });
}

/// Does something that may never return, and waits for it, but not forever.
fn with_patience(act: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::sync_channel(1);
    let spawned = std::thread::Builder::new().name("tidegate-stderr".into()).spawn(move || {
        act();
        let _ = done.send(());
    });
    if spawned.is_ok() {
        let _ = wait.recv_timeout(STDERR_PATIENCE);
    }
}

/// In place of the standard hook, which writes to stderr on the thread that panics.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let text = panic.payload_as_str().unwrap_or("(not a text)");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(location, "panic: {text}");
}
