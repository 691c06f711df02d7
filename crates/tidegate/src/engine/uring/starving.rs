//! Receives that wait for a buffer, first come first served.

use std::collections::VecDeque;

use crate::engine::SocketId;

/// The line of receives that found the arena empty.
///
/// A socket that leaves (paused, closed) is only marked: its place is skipped when its turn comes, and the line
/// is cleaned when more than half of it is marked, so that its length stays below twice the number of sockets.
#[derive(Default)]
pub(super) struct Line {
    waiting: VecDeque<SocketId>,
    left: usize,
}

impl Line {
    /// Joins at the end.
    pub(super) fn join(&mut self, socket: SocketId) {
        self.waiting.push_back(socket);
    }

    /// Goes back to the front, in this order: these had their turn, and another took the buffer.
    pub(super) fn rejoin(&mut self, sockets: &mut Vec<SocketId>) {
        for socket in sockets.drain(..).rev() {
            self.waiting.push_front(socket);
        }
    }

    /// One socket in the line no longer waits; `waits` tells for each whether it does.
    pub(super) fn leave(&mut self, waits: impl Fn(SocketId) -> bool) {
        self.left += 1;
        if self.left * 2 > self.waiting.len() {
            self.waiting.retain(|&socket| waits(socket));
            self.left = 0;
        }
    }

    /// The first that still waits.
    pub(super) fn next(&mut self, waits: impl Fn(SocketId) -> bool) -> Option<SocketId> {
        while let Some(socket) = self.waiting.pop_front() {
            if waits(socket) {
                return Some(socket);
            }
            self.left = self.left.saturating_sub(1);
        }
        None
    }

    /// Whether nobody waits. Places of sockets that have left count until they are cleaned: `next` tells for sure.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
