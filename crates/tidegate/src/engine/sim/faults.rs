//! What goes wrong in a simulated world, how often, and how far.

use crate::engine::EngineConfig;

/// Something that goes wrong in a simulated world, or at least not as one would wish.
///
/// [`Simulation::hostile`](crate::sim::Simulation::hostile) has all of them now and then;
/// [`set_fault`](crate::sim::Simulation::set_fault) sets how often one strikes, and
/// [`strike_on`](crate::sim::Simulation::strike_on) makes it strike on an occasion of one's choice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(usize)]
#[non_exhaustive]
pub enum Fault {
    /// A receive of the server gets fewer bytes than there are and than the buffer holds. Occasion: each receive of more than a byte.
    ShortReceive,
    /// A send of the server takes fewer bytes than there is room for. Occasion: each send of more than a byte.
    ShortSend,
    /// A completion is reported later than usual, by up to 5 ms. Occasion: each completion.
    LateCompletion,
    /// The completions of one poll are reported in another order. Those of one direction of one socket keep theirs. Occasion: each
    /// poll that reports at least two.
    Reordered,
    /// Both ends of a connection see a reset. Occasion: each connection, and each piece of data on it.
    Reset,
    /// Data on the way is held up by up to 300 ms, and all that follows it. Occasion: each piece.
    Stall,
    /// The receive arena seems to be empty, for up to 20 ms. Occasion: each buffer that is about to be taken.
    ArenaExhausted,
    /// An accept fails because the process has too many open files; the connection stays in the backlog. Occasion: each accept.
    AcceptFailed,
    /// An accept fails because the connection was reset while it waited. Occasion: each accept.
    AcceptAborted,
    /// What is being cancelled completes successfully first. Occasion: each cancel of a receive, send or connect.
    CancelLosesRace,
    /// A close takes up to 200 ms. Occasion: each close.
    CloseLate,
    /// What the server has asked of the system is handed over one poll later, and what it asked after that. Occasion: each operation.
    SubmissionDeferred,
    /// The system ends a receive without an error, as io_uring does when its completion queue is full. Occasion: each buffer that is
    /// about to be filled.
    ReceiveInterrupted,
    /// A connect is refused although somebody listens. Occasion: each connect.
    ConnectFailed,
    /// The clock jumps forward by up to 3 s: the machine was suspended. Occasion: each time that the clock moves on.
    ClockJump,
    /// A send fails because the system is out of memory.
    SendOutOfMemory,
    /// A receive fails because the system is out of memory.
    ReceiveOutOfMemory,
    /// The system gives a connection of the server up, because the peer hasn't acknowledged for too long: its operations fail (`ETIMEDOUT`).
    /// The other end sees a reset. Occasion: each send that finds room.
    TimedOut,
}

impl Fault {
    /// How many kinds there are.
    pub(crate) const COUNT: usize = 18;

    /// All kinds, in the order of their declaration.
    pub const ALL: [Self; Self::COUNT] = [
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
        Self::TimedOut,
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
    /// How many submissions the queue of an engine has room for; drawn for each server.
    pub submission_entries: Range,
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
            submission_entries: (EngineConfig::SUBMISSION_ENTRIES as u64, EngineConfig::SUBMISSION_ENTRIES as u64),
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
            submission_entries: (1, EngineConfig::SUBMISSION_ENTRIES as u64),
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
            (Fault::TimedOut, 200),
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
