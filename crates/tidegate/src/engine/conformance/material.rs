//! Bytes to send, with which losses, repeats and early frees are seen.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::memory::{Gather, Payload, Piece};

/// A small generator of repeatable choices (SplitMix64).
pub(super) struct Choices(u64);

impl Choices {
    /// The choices of `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// The next number below `limit`.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// `length` bytes that depend on `seed` and on their position, so that a lost, repeated or foreign byte shows.
pub(super) fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut choices = Choices::new(seed);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&choices.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Compares without printing megabytes.
pub(super) fn assert_same_bytes(got: &[u8], wanted: &[u8], what: &str) {
    if let Some(position) = got.iter().zip(wanted).position(|(one, other)| one != other) {
        panic!(
            "{what}: byte {position} is {:#04x}, should be {:#04x} (got {} bytes, wanted {})",
            got[position],
            wanted[position],
            got.len(),
            wanted.len()
        );
    }
    assert_eq!(got.len(), wanted.len(), "{what}: the number of bytes");
}

/// One payload as a piece.
pub(super) fn piece(payload: impl Into<Payload>) -> Piece {
    let payload = payload.into();
    Piece { charge_bytes: payload.charge_bytes(), held_bytes: payload.held_bytes(), payload }
}

/// A gather of one payload.
pub(super) fn gather_of(payload: impl Into<Payload>) -> Box<Gather> {
    let mut gather = Box::new(Gather::default());
    gather.push(piece(payload));
    gather
}

/// Where the bytes of dropped payloads are: a checker for leaks sees that these are kept on purpose.
static KEPT: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// A payload of which one can tell whether it was dropped. What it held is overwritten then, and never given to
/// the allocator again, so that whoever still reads it reads wrong bytes and nothing worse.
pub(super) struct Watched {
    bytes: &'static mut [u8],
    drops: Arc<AtomicUsize>,
}

impl Watched {
    /// A payload of `bytes` that adds one to `drops` when it is dropped.
    pub(super) fn payload(bytes: Vec<u8>, drops: &Arc<AtomicUsize>) -> Payload {
        let bytes = bytes.leak();
        KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(bytes.as_ptr().expose_provenance());
        Payload::from(Bytes::from_owner(Self { bytes, drops: Arc::clone(drops) }))
    }
}

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        self.bytes
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        crate::memory::poison(self.bytes);
        self.drops.fetch_add(1, Ordering::SeqCst);
    }
}
