//! What goes wrong in a simulated world, how often, and how far.

/// Something that goes wrong, or at least not as one would wish.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(usize)]
pub(crate) enum Fault {
    /// A receive gets fewer bytes than there are and than the buffer holds.
    ShortReceive,
    /// A send takes fewer bytes than there is room for.
    ShortSend,
    /// A completion is reported later than usual, by up to [`Faults::late_ns`].
    LateCompletion,
    /// The completions of one poll are reported in another order. Those of one direction of one socket keep theirs.
    Reordered,
    /// Both ends of a connection see a reset.
    Reset,
    /// Data on the way is held up by up to [`Faults::stall_ns`], and all that follows it.
    Stall,
    /// The arena seems to be empty, for up to [`Faults::exhausted_ns`].
    ArenaExhausted,
    /// An accept fails with `EMFILE`; the connection stays in the backlog.
    AcceptFailed,
    /// An accept fails because the connection was reset while it waited.
    AcceptAborted,
    /// What is being canceled completes successfully first.
    CancelLosesRace,
    /// A close takes up to [`Faults::close_ns`].
    CloseLate,
    /// What was recorded is handed over one poll later.
    SubmissionDeferred,
    /// The system ends a receive without an error (E23).
    ReceiveInterrupted,
    /// A connect fails although somebody listens.
    ConnectFailed,
    /// The clock jumps forward by up to [`Faults::jump_ns`]: the machine was suspended.
    ClockJump,
    /// A send fails because the system is out of memory.
    SendOutOfMemory,
    /// A receive fails because the system is out of memory.
    ReceiveOutOfMemory,
}

impl Fault {
    /// How many kinds there are.
    pub(crate) const COUNT: usize = 17;

    /// All kinds.
    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::ShortReceive,
        Self::ShortSend,
        Self::LateCompletion,
        Self::Reordered,
        Self::Reset,
        Self::Stall,
        Self::ArenaExhausted,
        Self::AcceptFailed,
        Self::AcceptAborted,
        Self::CancelLosesRace,
        Self::CloseLate,
        Self::SubmissionDeferred,
        Self::ReceiveInterrupted,
        Self::ConnectFailed,
        Self::ClockJump,
        Self::SendOutOfMemory,
        Self::ReceiveOutOfMemory,
    ];
}

/// A range that a value is drawn from: lowest and highest, both included.
pub(crate) type Range = (u64, u64);

/// How the world behaves: the chance of each [`Fault`], and what networks are like.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    /// For each [`Fault`], how often it strikes where it can, in parts per million.
    pub chances: [u32; Fault::COUNT],
    /// The most that [`Fault::LateCompletion`] adds, in nanoseconds.
    pub late_ns: u64,
    /// The most that [`Fault::Stall`] adds, in nanoseconds.
    pub stall_ns: u64,
    /// The longest [`Fault::ArenaExhausted`], in nanoseconds.
    pub exhausted_ns: u64,
    /// The longest [`Fault::CloseLate`], in nanoseconds.
    pub close_ns: u64,
    /// The longest [`Fault::ClockJump`], in nanoseconds.
    pub jump_ns: u64,
    /// From the moment that the system has done something to that in which it is reported, in nanoseconds; at least
    /// 1.
    pub completion_ns: Range,
    /// What one turn of an I/O thread takes, in nanoseconds; at least 1, so that time goes on whatever a loop does.
    pub turn_ns: Range,
    /// One way, in nanoseconds; drawn for each connection.
    pub latency_ns: Range,
    /// Added to the latency; drawn for each piece of data.
    pub jitter_ns: Range,
    /// Bytes per second and direction; drawn for each connection.
    pub bandwidth_bytes: Range,
    /// The size of a socket's send buffer, in bytes; drawn for each end of a connection.
    pub send_buffer_bytes: Range,
    /// The size of a socket's receive buffer, in bytes; drawn for each end of a connection.
    pub receive_buffer_bytes: Range,
    /// The most that travels in one piece, in bytes; drawn for each connection.
    pub segment_bytes: Range,
}

impl Faults {
    /// A clean world: nothing goes wrong and every connection is the same.
    pub(crate) fn none() -> Self {
        Self {
            chances: [0; Fault::COUNT],
            late_ns: 5_000_000,
            stall_ns: 300_000_000,
            exhausted_ns: 20_000_000,
            close_ns: 200_000_000,
            jump_ns: 3_000_000_000,
            completion_ns: (1_000, 1_000),
            turn_ns: (500, 500),
            latency_ns: (50_000, 50_000),
            jitter_ns: (0, 0),
            bandwidth_bytes: (1_000_000_000, 1_000_000_000),
            send_buffer_bytes: (262_144, 262_144),
            receive_buffer_bytes: (262_144, 262_144),
            segment_bytes: (65_536, 65_536),
        }
    }

    /// A hostile world: everything goes wrong now and then, and connections are good and bad.
    pub(crate) fn everything() -> Self {
        let mut faults = Self {
            completion_ns: (100, 20_000),
            turn_ns: (200, 20_000),
            latency_ns: (1_000, 20_000_000),
            jitter_ns: (0, 1_000_000),
            bandwidth_bytes: (50_000, 1_000_000_000),
            send_buffer_bytes: (1_024, 262_144),
            receive_buffer_bytes: (1_024, 262_144),
            segment_bytes: (100, 65_536),
            ..Self::none()
        };
        for (fault, parts_per_million) in [
            (Fault::ShortReceive, 100_000),
            (Fault::ShortSend, 100_000),
            (Fault::LateCompletion, 50_000),
            (Fault::Reordered, 200_000),
            (Fault::Reset, 500),
            (Fault::Stall, 1_000),
            (Fault::ArenaExhausted, 2_000),
            (Fault::AcceptFailed, 20_000),
            (Fault::AcceptAborted, 5_000),
            (Fault::CancelLosesRace, 300_000),
            (Fault::CloseLate, 50_000),
            (Fault::SubmissionDeferred, 50_000),
            (Fault::ReceiveInterrupted, 10_000),
            (Fault::ConnectFailed, 5_000),
            (Fault::ClockJump, 200),
            (Fault::SendOutOfMemory, 2_000),
            (Fault::ReceiveOutOfMemory, 2_000),
        ] {
            faults = faults.with(fault, parts_per_million);
        }
        faults
    }

    /// The same, but `fault` strikes `parts_per_million` times in a million.
    #[must_use]
    pub(crate) fn with(mut self, fault: Fault, parts_per_million: u32) -> Self {
        assert!(parts_per_million <= 1_000_000, "{fault:?} more often than always");
        self.chances[fault as usize] = parts_per_million;
        self
    }

    /// How often `fault` strikes, in parts per million.
    pub(crate) fn chance(&self, fault: Fault) -> u32 {
        self.chances[fault as usize]
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_world_has_every_fault_and_a_clean_one_has_none() {
        for (place, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, place);
            assert!(Faults::everything().chance(fault) > 0, "{fault:?}");
            assert_eq!(Faults::none().chance(fault), 0, "{fault:?}");
        }
    }
}
