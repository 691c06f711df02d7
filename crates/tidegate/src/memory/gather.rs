//! The payloads of one send.

use std::collections::VecDeque;

use super::Payload;
use crate::time::Time;

/// What a waiting message is charged besides its payload, in bytes: its node in a list of messages (56), its place in a gather
/// while it is sent (48, and as much again while the gather grows), and its slice for the kernel (16, likewise).
pub(crate) const MESSAGE_OVERHEAD_BYTES: usize = 192;

/// A payload on its way, with what it is charged.
#[derive(Debug)]
pub(crate) struct Piece {
    /// The bytes.
    pub payload: Payload,
    /// What its connection is charged for it in send memory, in bytes.
    pub charge_bytes: usize,
    /// What it counts against the limit of its connection's send queue, in bytes: 0 for what a filter has made, which was never in it.
    pub held_bytes: usize,
}

impl Piece {
    /// Whether a filter has made it, in contrast to a message (which is never empty).
    pub(crate) fn is_made(&self) -> bool {
        self.held_bytes == 0
    }
}

/// What a filter is charged for a payload that it has made, in bytes.
pub(crate) fn made_charge_bytes(payload: &Payload) -> usize {
    payload.charge_bytes().max(payload.len()) + MESSAGE_OVERHEAD_BYTES
}

/// Payloads that go out together, in order, by one gathered send.
///
/// The engine owns a `Gather` from the send until its completion brings it back; what the system did not take is
/// still in it and goes out with the next send. A payload that has entered a `Gather` has begun and is never dropped
/// while its connection lives.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    /// The first piece, here and not in the queue: most sends have no other, and touch no more memory than this then.
    first: Option<Piece>,
    /// The pieces behind the first. Empty while there is none.
    rest: VecDeque<Piece>,
    /// How much of the first piece has been sent already.
    sent_of_first: usize,
    /// Bytes that are not sent yet, over all pieces.
    remaining: usize,
}

impl Gather {
    /// The most bytes that one send hands to the system: large enough that the cost of the call is small, small
    /// enough that progress is seen often (with a window of 64 KiB, at least once a window).
    pub(crate) const SLICE_BYTES: usize = 64 * 1024;

    /// The most pieces that one send hands to the system: 64 iovecs are 1 KiB, copied by the kernel at each call.
    pub(crate) const PIECES: usize = 64;

    /// Adds a piece behind the others.
    ///
    /// # Panics
    /// If it is empty: an empty message never reaches the wire.
    pub(crate) fn push(&mut self, piece: Piece) {
        let length = piece.payload.len();
        assert!(length > 0, "an empty payload in a send");
        self.remaining += length;
        if self.first.is_none() {
            self.first = Some(piece);
        } else {
            self.rest.push_back(piece);
        }
    }

    /// Records that the first `sent` bytes are gone; `finished` gets every piece that is now sent whole.
    ///
    /// # Panics
    /// If more was sent than there is.
    pub(crate) fn advance(&mut self, sent: usize, mut finished: impl FnMut(Piece)) {
        assert!(sent <= self.remaining, "{sent} bytes sent of {}", self.remaining);
        self.remaining -= sent;
        self.sent_of_first += sent;
        while let Some(first) = &self.first {
            let length = first.payload.len();
            if self.sent_of_first < length {
                break;
            }
            self.sent_of_first -= length;
            if let Some(piece) = self.first.take() {
                finished(piece);
            }
            if !self.rest.is_empty() {
                self.first = self.rest.pop_front();
            }
        }
    }

    /// Empties the gather; `dropped` gets every piece, sent in part or not at all.
    pub(crate) fn clear(&mut self, mut dropped: impl FnMut(Piece)) {
        self.sent_of_first = 0;
        self.remaining = 0;
        for piece in self.first.take().into_iter().chain(self.rest.drain(..)) {
            dropped(piece);
        }
    }

    /// Gives back memory beyond what `pieces` take.
    pub(crate) fn shrink_to(&mut self, pieces: usize) {
        if self.rest.capacity() > pieces {
            self.rest.shrink_to(pieces);
        }
    }

    /// When this thread took the oldest of what was published in it.
    pub(crate) fn oldest_published(&self) -> Option<Time> {
        self.first.iter().chain(&self.rest).find_map(|piece| piece.payload.published_at())
    }

    /// Bytes that are not sent yet.
    pub(crate) fn remaining(&self) -> usize {
        self.remaining
    }

    /// How many pieces are in it, one begun included.
    pub(crate) fn pieces(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// What filters are charged for what they have made of it, in bytes, what is sent in part included.
    pub(crate) fn made_bytes(&self) -> usize {
        let made = self.first.iter().chain(&self.rest).filter(|piece| piece.is_made());
        made.map(|piece| made_charge_bytes(&piece.payload)).sum()
    }

    /// Whether everything is sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.remaining == 0
    }

    /// Whether another piece may join the next send, with `window_bytes` on the wire at once.
    pub(crate) fn has_room_within(&self, window_bytes: usize) -> bool {
        self.remaining < Self::SLICE_BYTES.min(window_bytes) && self.pieces() < Self::PIECES
    }

    /// What the next send hands to the system, if that is one slice; `None` if there are several pieces, or none.
    pub(crate) fn only_slice(&self) -> Option<&[u8]> {
        let first = self.first.as_ref().filter(|_| self.rest.is_empty())?;
        let bytes = &first.payload.as_slice()[self.sent_of_first..];
        Some(&bytes[..bytes.len().min(Self::SLICE_BYTES)])
    }

    /// What the next send hands to the system: at most [`SLICE_BYTES`](Self::SLICE_BYTES) in at most
    /// [`PIECES`](Self::PIECES) slices.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut room = Self::SLICE_BYTES;
        let mut skip = self.sent_of_first;
        self.first.iter().chain(&self.rest).take(Self::PIECES).map_while(move |piece| {
            if room == 0 {
                return None;
            }
            let bytes = &piece.payload.as_slice()[skip..];
            skip = 0;
            let bytes = &bytes[..bytes.len().min(room)];
            room -= bytes.len();
            Some(bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(bytes: &[u8]) -> Piece {
        Piece { payload: Payload::copy_from(bytes), charge_bytes: bytes.len(), held_bytes: bytes.len() }
    }

    proptest! {
        /// Whatever is sent however short, the bytes on the wire are the payloads in order, each once.
        #[test]
        fn short_sends_of_any_size_deliver_every_byte_in_order(
            lengths in prop::collection::vec(1usize..100_000, 1..100),
            shares in prop::collection::vec(1usize..=100, 1..50),
        ) {
            let mut gather = Gather::default();
            let mut expected = Vec::new();
            for (number, &length) in lengths.iter().enumerate() {
                let bytes = vec![number as u8; length];
                expected.extend_from_slice(&bytes);
                gather.push(piece(&bytes));
            }
            let (mut wire, mut finished, mut turn) = (Vec::new(), 0, 0);
            while !gather.is_empty() {
                let slices: Vec<&[u8]> = gather.slices().collect();
                prop_assert_eq!(gather.only_slice(), (gather.pieces() == 1).then(|| slices[0]));
                prop_assert!(slices.len() <= Gather::PIECES);
                let offered = slices.concat();
                prop_assert!(!offered.is_empty() && offered.len() <= Gather::SLICE_BYTES);
                let sent = (offered.len() * shares[turn % shares.len()]).div_ceil(100);
                wire.extend_from_slice(&offered[..sent]);
                gather.advance(sent, |_| finished += 1);
                turn += 1;
            }
            prop_assert_eq!(wire, expected);
            prop_assert_eq!(finished, lengths.len());
            prop_assert_eq!(gather.pieces(), 0);
        }
    }
}
