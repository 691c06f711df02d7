//! Small facts about a connection, one bit each, so that several are looked at in one comparison.

/// A fact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Mark {
    /// The handler asked for a pause.
    PausedByHandler,
    /// ... so has what is queued: over its mark, and nothing is dropped.
    QueueHigh,
    /// Waits in line for send memory.
    WaitsForMemory,
    /// The handler is owed an `on_writable`.
    OwesWritable,
    /// The engine was asked for data.
    Receiving,
    /// The engine was told to throw away; while the connection is open, see [`FILTERS_BUSY`](Self::FILTERS_BUSY).
    Discarding,
    /// The engine reported the end of the stream.
    PeerFinished,
    /// ... and the handler knows.
    PeerFinishTold,
    /// The handler half-closed.
    ShutdownWanted,
    /// The engine was told.
    ShutdownTold,
    /// The engine has done it.
    ShutdownDone,
    /// A send is with the engine.
    Sending,
    /// That send has all that waited when it began.
    OffersAll,
    /// Waits in line for its turn to send.
    WaitsToSend,
    /// It is its turn to send.
    Turn,
    /// The pace of sending is not counted, because it is not up to the peer.
    PaceHeld,
    /// A byte has gone, either way.
    Spoke,
    /// The timer has to be set anew.
    Rearm,
    /// The system was out of memory, and nothing is tried again yet.
    SystemShort,
    /// The last send found the system out of memory.
    SendShort,
    /// The last receive did.
    ReceiveShort,
    /// The shortage has just begun: what was tried last before it went well.
    ShortageBegins,
    /// The handler doesn't care about sends that have ended.
    SendsUntold,
    /// Jobs of the handler are outstanding.
    Offloading,
    /// As many as may be.
    OffloadFull,
    /// One more was refused, and the handler has not been told yet that there is room.
    OffloadRefused,
    /// Waits in line to offload a job.
    WaitsToOffload,
    /// The queue passed its high mark and has not come down to the low one.
    AboveHigh,
    /// A message was refused because the queue was full, and the handler was not told since that there is room.
    Refusing,
    /// The timer looks at how long these two last.
    QueueWatched,
    /// The handler itself has made room, by messages that others were dropped for or by other rules: it is told after the next send has
    /// begun, or it could go on like that for ever.
    ToldAfterSend,
    /// It has filters.
    Filtered,
}

impl Mark {
    /// While the connection is open, when nothing is thrown away: its filters have something to hand up or to write. A bit of its own would
    /// make the slot larger.
    pub(super) const FILTERS_BUSY: Self = Self::Discarding;
}

/// A set of facts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Marks(u32);

impl Marks {
    /// These, and no others.
    pub(super) const fn of(marks: &[Mark]) -> Self {
        let (mut bits, mut place) = (0, 0);
        while place < marks.len() {
            bits |= 1 << marks[place] as u32;
            place += 1;
        }
        Self(bits)
    }

    /// These and one more.
    pub(super) const fn with(mut self, mark: Mark) -> Self {
        self.set(mark, true);
        self
    }

    pub(super) const fn has(self, mark: Mark) -> bool {
        self.0 & (1 << mark as u32) != 0
    }

    pub(super) const fn has_any(self, of: Self) -> bool {
        self.0 & of.0 != 0
    }

    /// Those that are also in `of`.
    pub(super) const fn among(self, of: Self) -> Self {
        Self(self.0 & of.0)
    }

    pub(super) const fn set(&mut self, mark: Mark, holds: bool) {
        let bit = 1 << mark as u32;
        self.0 = if holds { self.0 | bit } else { self.0 & !bit };
    }

    /// Takes `of` away.
    pub(super) const fn clear(&mut self, of: Self) {
        self.0 &= !of.0;
    }
}
