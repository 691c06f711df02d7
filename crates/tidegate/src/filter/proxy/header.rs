//! A header as it comes, in whatever pieces.

use std::net::SocketAddr;

use super::{version_1, version_2};
use crate::filter::{FilterError, FilterFailure};

/// Who is connected to whom: source and destination.
pub(super) type Addresses = (SocketAddr, SocketAddr);

/// A header that is to come, comes, or has come.
pub(super) struct Header {
    /// What has come of it; nothing any more when it is whole.
    bytes: Vec<u8>,
    body_bytes_max: usize,
    /// What it says, once it is whole.
    told: Option<Option<Addresses>>,
}

/// How much more has to come.
enum Need {
    /// So many bytes, and then a look at them.
    Bytes(usize),
    /// The end of a line, within so many bytes.
    Line(usize),
}

impl Header {
    pub(super) fn new(body_bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), body_bytes_max, told: None }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.told.is_some()
    }

    /// Whether nothing has come.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What has come, while it is not whole.
    pub(super) fn length_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// What it has told.
    pub(super) fn addresses(&self) -> Option<Addresses> {
        self.told.flatten()
    }

    /// Takes what belongs to it off the front of `bytes`; returns how much that was. Not to be called when it is whole.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<usize, FilterError> {
        let mut taken = 0;
        while !self.is_whole() && taken < bytes.len() {
            let rest = &bytes[taken..];
            let count = match self.need(rest[0])? {
                Need::Bytes(count) => count.min(rest.len()),
                Need::Line(most) => {
                    let rest = &rest[..rest.len().min(most)];
                    rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |position| position + 1)
                }
            };
            self.bytes.reserve_exact(count);
            self.bytes.extend_from_slice(&rest[..count]);
            taken += count;
            self.look()?;
        }
        Ok(taken)
    }

    /// What has to come next; `first` is the next byte.
    fn need(&self, first: u8) -> Result<Need, FilterError> {
        match self.bytes.first().unwrap_or(&first) {
            b'P' => Ok(Need::Line(version_1::LINE_BYTES_MAX - self.bytes.len())),
            b'\r' => Ok(Need::Bytes(match self.bytes.len().checked_sub(version_2::FIXED_BYTES) {
                None => version_2::FIXED_BYTES - self.bytes.len(),
                Some(body_bytes) => version_2::body_bytes(&self.bytes) - body_bytes,
            })),
            other => Err(broken(format!("a PROXY protocol header can't begin with the byte {other:#04x}"))),
        }
    }

    /// Looks at what has come: whether it can become a header, and whether it is one.
    fn look(&mut self) -> Result<(), FilterError> {
        let told = if self.bytes[0] == b'P' {
            version_1::read(&self.bytes)?
        } else {
            version_2::read(&self.bytes, self.body_bytes_max)?
        };
        if told.is_some() {
            self.told = told;
            self.bytes = Vec::new();
        }
        Ok(())
    }
}

/// What is wrong with a header.
pub(super) fn broken(text: impl Into<std::borrow::Cow<'static, str>>) -> FilterError {
    FilterError::new(FilterFailure::Protocol, text)
}
