//! The end of an engine.

use std::mem;
use std::time::{Duration, Instant};

use io_uring::{cqueue, opcode, types};

use super::kind::Kind;
use super::socket::Operation;
use super::{UringEngine, UringStream, buffer_ring};
use crate::engine::Completion;

impl Drop for UringEngine {
    /// Tear-down: cancel all, reap to zero, then free; leak what can't be reaped, because the kernel may still use it.
    fn drop(&mut self) {
        self.refuse_now();
        let limit = Instant::now() + self.config.teardown_limit;
        let mut ignored = Vec::new();
        let any = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build();
        let mut cancelled_at = usize::MAX;
        while self.in_flight > 0 && Instant::now() < limit {
            if self.in_flight != cancelled_at {
                // Once for what is in flight, and again when the spilled submissions have gone in behind it.
                self.push(any.clone().user_data(Kind::Cancel.user_data(0, 0)));
                cancelled_at = self.in_flight;
            }
            self.now = self.clock();
            let soon = self.now.saturating_add(Duration::from_millis(10));
            if self.submit_and_wait(Some(soon)).is_err() {
                break;
            }
            self.reap_for_teardown(&mut ignored);
            ignored.clear();
        }
        let _ = self.ring.submitter().unregister_buf_ring(buffer_ring::GROUP);
        if self.in_flight > 0 {
            tracing::error!(
                operations = self.in_flight,
                "operations did not end within {:?}: their memory is leaked, because the kernel may still use it",
                self.config.teardown_limit
            );
            self.leak();
        }
    }
}

impl UringEngine {
    /// Takes last completions without starting anything new.
    fn reap_for_teardown(&mut self, ignored: &mut Vec<Completion<UringStream>>) {
        let entries: Vec<_> =
            self.ring.completion().map(|entry| (entry.user_data(), entry.result(), entry.flags())).collect();
        for (user_data, result, flags) in entries {
            let kind = Kind::of(user_data);
            if let Some(buffer) = cqueue::buffer_select(flags) {
                self.buffers.taken();
                drop(self.arena.filled(u32::from(buffer), usize::try_from(result).unwrap_or(0), user_data as u32));
            }
            if matches!(kind, Some(Kind::Cancel)) || cqueue::more(flags) {
                continue;
            }
            self.in_flight -= 1;
            match kind {
                Some(Kind::Send | Kind::Connect) => self.sockets[user_data as u32].operation = Operation::None,
                Some(Kind::Accept) => self.listeners.reap(user_data as u32, result, ignored),
                _ => {}
            }
        }
    }

    fn leak(&mut self) {
        mem::forget(self.arena.clone());
        for (_, socket) in self.sockets.iter_mut() {
            mem::forget(mem::take(&mut socket.operation));
        }
        mem::forget(mem::take(&mut self.listeners));
        mem::forget(mem::take(&mut self.wake_count));
    }
}
