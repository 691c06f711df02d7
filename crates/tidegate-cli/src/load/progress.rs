//! How far the load has come: one line on the terminal, drawn over itself.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use super::report::grouped;

/// How often the line is drawn.
pub(super) const INTERVAL: Duration = Duration::from_millis(200);

/// The width of the bar, in characters.
const BAR_WIDTH: usize = 24;

/// The line, if there is a terminal for it.
pub(super) struct Progress {
    shown: bool,
    drawn: bool,
}

impl Progress {
    /// On stderr, if that is a terminal, unless the user wants none.
    pub(super) fn new(wanted: bool) -> Self {
        Self { shown: wanted && io::stderr().is_terminal(), drawn: false }
    }

    /// Connections are being made.
    pub(super) fn connecting(&mut self, settled: u64, all: u64) {
        if self.shown {
            self.draw(&line(
                settled as f64 / all.max(1) as f64,
                &format!("connecting  {} of {}", grouped(settled), grouped(all)),
            ));
        }
    }

    /// The load is on. `messages` counts only when the line is shown.
    pub(super) fn loading(&mut self, past: Duration, all: Duration, open: u64, messages: impl FnOnce() -> u64) {
        if self.shown {
            let text = format!(
                "{:.1} s of {:.1} s  {} connections  {} messages",
                past.as_secs_f64(),
                all.as_secs_f64(),
                grouped(open),
                grouped(messages())
            );
            self.draw(&line(past.as_secs_f64() / all.as_secs_f64(), &text));
        }
    }

    /// The load is over: the line goes.
    pub(super) fn clear(&mut self) {
        if self.drawn {
            self.draw("");
        }
    }

    fn draw(&mut self, text: &str) {
        self.drawn = true;
        let mut stderr = io::stderr().lock();
        // A terminal that is gone is no reason to end.
        let _ = write!(stderr, "\r\x1b[2K{text}").and_then(|()| stderr.flush());
    }
}

/// A bar that is full to `part`, and a text.
fn line(part: f64, text: &str) -> String {
    let full = ((part.clamp(0.0, 1.0)) * BAR_WIDTH as f64) as usize;
    format!("[{}{}]  {text}", "#".repeat(full), "-".repeat(BAR_WIDTH - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_as_full_as_the_part_that_is_done_and_never_overflows() {
        assert_eq!(line(0.0, "a"), format!("[{}]  a", "-".repeat(24)));
        assert_eq!(line(0.5, "a"), format!("[{}{}]  a", "#".repeat(12), "-".repeat(12)));
        for part in [1.0, 7.5, f64::INFINITY] {
            assert_eq!(line(part, "a"), format!("[{}]  a", "#".repeat(24)));
        }
        assert_eq!(line(f64::NAN, "a"), line(0.0, "a"));
    }
}
