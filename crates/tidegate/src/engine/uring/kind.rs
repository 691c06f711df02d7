//! How a completion says what it belongs to.

/// What a completion belongs to: the top byte of its user data. Below it are 24 bits of the generation and 32 bits of
/// the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    Receive = 1,
    Discard = 2,
    Send = 3,
    Connect = 4,
    Close = 5,
    Accept = 6,
    Wake = 7,
    Cancel = 8,
    Writable = 9,
}

impl Kind {
    /// The user data of an operation.
    pub(super) fn user_data(self, index: u32, generation: u32) -> u64 {
        (self as u64) << 56 | u64::from(generation & GENERATION_MASK) << 32 | u64::from(index)
    }

    /// The kind that user data carries; `None` if nobody gave it.
    pub(super) fn of(user_data: u64) -> Option<Self> {
        Some(match user_data >> 56 {
            1 => Self::Receive,
            2 => Self::Discard,
            3 => Self::Send,
            4 => Self::Connect,
            5 => Self::Close,
            6 => Self::Accept,
            7 => Self::Wake,
            8 => Self::Cancel,
            9 => Self::Writable,
            _ => return None,
        })
    }
}

/// The part of a generation that fits in the user data. A place is used again only after its last completion, so the
/// rest is not needed to tell users apart; it is checked.
pub(super) const GENERATION_MASK: u32 = 0x00FF_FFFF;
