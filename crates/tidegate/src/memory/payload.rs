//! Bytes to send.

use std::fmt;

use bytes::Bytes;

use super::{Buffer, Share};
use crate::time::Time;

/// One whole message to send: bytes that the server owns until the system has taken them.
///
/// Made from a received [`Buffer`] (no copy), a `Vec<u8>` or `String` (no copy), [`Bytes`] (shared, no copy),
/// or a `&'static` slice or string. For borrowed bytes there is [`Payload::copy_from`].
pub struct Payload(Source);

enum Source {
    Static(&'static [u8]),
    Owned(Vec<u8>),
    Shared(Bytes),
    Received(Buffer),
    Published(Share),
}

impl Payload {
    /// A payload with a copy of `bytes`.
    pub fn copy_from(bytes: &[u8]) -> Self {
        Self(Source::Owned(bytes.to_vec()))
    }

    /// The bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Source::Static(bytes) => bytes,
            Source::Owned(bytes) => bytes,
            Source::Shared(bytes) => bytes,
            Source::Received(bytes) => bytes,
            Source::Published(share) => share.bytes(),
        }
    }

    /// How many bytes go on the wire.
    #[inline]
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there is nothing to send.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The received buffer, if it is one.
    pub(crate) fn into_received(self) -> Option<Buffer> {
        match self.0 {
            Source::Received(buffer) => Some(buffer),
            Source::Static(_) | Source::Owned(_) | Source::Shared(_) | Source::Published(_) => None,
        }
    }

    /// The vector that it was made of, if it was.
    pub(crate) fn into_vector(self) -> Option<Vec<u8>> {
        match self.0 {
            Source::Owned(bytes) => Some(bytes),
            Source::Static(_) | Source::Shared(_) | Source::Received(_) | Source::Published(_) => None,
        }
    }

    /// What waiting with this payload costs in send memory, in bytes: its capacity, not its length. Nothing for
    /// static bytes, and nothing for a received buffer or what was published, which are accounted for by pools of their own.
    pub(crate) fn charge_bytes(&self) -> usize {
        match &self.0 {
            Source::Static(_) | Source::Received(_) | Source::Published(_) => 0,
            Source::Owned(bytes) => bytes.capacity(),
            Source::Shared(bytes) => bytes.len(),
        }
    }

    /// What waiting with this payload keeps from others, in bytes, whichever pool pays: for the limit of a
    /// connection's send queue.
    pub(crate) fn held_bytes(&self) -> usize {
        match &self.0 {
            Source::Static(bytes) => bytes.len(),
            Source::Owned(bytes) => bytes.capacity(),
            Source::Shared(bytes) => bytes.len(),
            Source::Received(bytes) => bytes.len(),
            Source::Published(share) => share.bytes().len(),
        }
    }

    /// What was published to a group, if it is that.
    pub(crate) fn published(&self) -> Option<&Share> {
        match &self.0 {
            Source::Published(share) => Some(share),
            Source::Static(_) | Source::Owned(_) | Source::Shared(_) | Source::Received(_) => None,
        }
    }

    /// How many whole messages it is: several only if small ones that were published in quick succession were put together.
    pub(crate) fn messages(&self) -> u32 {
        self.published().map_or(1, Share::messages)
    }

    /// When this thread took what was published to a group, if it is that.
    pub(crate) fn published_at(&self) -> Option<Time> {
        self.published().map(Share::taken)
    }
}

impl From<Share> for Payload {
    fn from(share: Share) -> Self {
        Self(Source::Published(share))
    }
}

impl From<&'static [u8]> for Payload {
    fn from(bytes: &'static [u8]) -> Self {
        Self(Source::Static(bytes))
    }
}

impl<const N: usize> From<&'static [u8; N]> for Payload {
    fn from(bytes: &'static [u8; N]) -> Self {
        Self(Source::Static(bytes))
    }
}

impl From<&'static str> for Payload {
    fn from(text: &'static str) -> Self {
        Self(Source::Static(text.as_bytes()))
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Source::Owned(bytes))
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Self(Source::Owned(text.into_bytes()))
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self(Source::Shared(bytes))
    }
}

impl From<Buffer> for Payload {
    fn from(buffer: Buffer) -> Self {
        Self(Source::Received(buffer))
    }
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Source::Static(_) => "static",
            Source::Owned(_) => "owned",
            Source::Shared(_) => "shared",
            Source::Received(_) => "received",
            Source::Published(_) => "published",
        };
        formatter.debug_struct("Payload").field("len", &self.len()).field("kind", &kind).finish()
    }
}
