//! The kernel's share: what socket buffers take at worst, and how a machine's memory is divided between them and the server.
//!
//! The rules are those of Linux 6.1 to 6.18 (`net/core/sock.c`, `net/ipv4/tcp.c`, `net/ipv4/tcp_input.c`), checked by measurement:
//! `tests/kernel_memory.rs` fills the sockets of a real server and adds up what the kernel says that they hold.

use crate::memory::{Gather, MESSAGE_OVERHEAD_BYTES, PAGE_BYTES};
use crate::surface::limits::send_memory_min;
use crate::surface::{Limits, LimitsError, Machine};

/// What a socket takes without any data: 3.9 KB measured on Linux 6.18 (socket, file, inode and directory entry), and as much again for the
/// requests that wait on it.
const SOCKET_BYTES: usize = 8 << 10;

/// Memory is granted to a socket by pages: at most one is begun and not full in each direction.
const BEGUN_PAGE_BYTES: usize = PAGE_BYTES;

/// A send buffer is looked at before a packet is added, never after. One packet has at most 64 KiB of data (`GSO_LEGACY_MAX_SIZE`) and
/// `SKB_TRUESIZE(0)`, 576 bytes, of its own; rounded up. (On interfaces with BIG TCP it may be up to 512 KiB.)
const LAST_SENT_BYTES: usize = 68 << 10;

/// The same for a receive buffer. What was received fills the pages that the driver has put it into by half or more.
const LAST_RECEIVED_BYTES: usize = 2 * LAST_SENT_BYTES;

/// The largest buffers of a kernel that doesn't say: the defaults of `net.ipv4.tcp_wmem` and `net.ipv4.tcp_rmem`.
const SEND_BUFFER_MAX_BYTES: usize = 4 << 20;
const RECEIVE_BUFFER_MAX_BYTES: usize = 6 << 20;

/// The buffers of one socket, as the kernel counts them: data and its own overhead.
struct Buffers {
    send_bytes: usize,
    receive_bytes: usize,
}

impl Buffers {
    fn of(limits: &Limits) -> Self {
        // The kernel doubles what it is told; what it chooses itself is not doubled.
        let doubled = |bytes: u32| 2 * bytes as usize;
        let machine = match (limits.socket_send_buffer_bytes, limits.socket_receive_buffer_bytes) {
            (Some(_), Some(_)) => Machine::default(),
            _ => Machine::look(),
        };
        let chosen = |seen: Option<u64>, otherwise| seen.map_or(otherwise, saturated);
        Self {
            send_bytes: limits
                .socket_send_buffer_bytes
                .map_or_else(|| chosen(machine.tcp_send_buffer_max_bytes, SEND_BUFFER_MAX_BYTES), doubled),
            receive_bytes: limits
                .socket_receive_buffer_bytes
                .map_or_else(|| chosen(machine.tcp_receive_buffer_max_bytes, RECEIVE_BUFFER_MAX_BYTES), doubled),
        }
    }

    /// A connection that waits to be accepted: the peer may send already, the server doesn't yet.
    fn waiting_bytes(&self) -> usize {
        SOCKET_BYTES + self.receive_bytes + LAST_RECEIVED_BYTES + BEGUN_PAGE_BYTES
    }

    fn connection_bytes(&self) -> usize {
        self.waiting_bytes() + self.send_bytes + LAST_SENT_BYTES + BEGUN_PAGE_BYTES
    }

    /// What arrives while a thread is inside a call on the socket is put aside, up to this much (`tcp_add_backlog`).
    fn busy_bytes(&self) -> usize {
        2 * self.receive_bytes + self.send_bytes / 2 + (64 << 10)
    }
}

fn saturated(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl Limits {
    /// What the kernel may use at worst for the sockets of a server with these limits, in bytes, with `backlog_connections` waiting to be
    /// accepted: `max_connections` x (both buffers as the kernel counts them, one packet beyond each, the socket itself), what waits, and
    /// for each I/O thread what arrives during a call.
    pub(crate) fn kernel_bytes(&self, threads: usize, backlog_connections: usize) -> usize {
        let buffers = Buffers::of(self);
        let connections = (self.max_connections as usize).saturating_mul(buffers.connection_bytes());
        let waiting = self.backlog_kernel_bytes(backlog_connections);
        connections.saturating_add(waiting).saturating_add(threads.saturating_mul(buffers.busy_bytes()))
    }

    /// The part of the kernel's line that is for `connections` waiting in the backlogs, in bytes: the peer of such a connection may fill its
    /// receive buffer, and nothing is sent yet.
    pub fn backlog_kernel_bytes(&self, connections: usize) -> usize {
        connections.saturating_mul(Buffers::of(self).waiting_bytes())
    }

    /// Sets [`send_memory_bytes`](Self::send_memory_bytes) so that a server with these limits, `threads` I/O threads and handlers of
    /// `handler_bytes` takes a sensible share of what `machine` has available: half of what the kernel's sockets leave. The
    /// kernel's part is what they take at worst ([`Ceiling::kernel_bytes`](crate::Ceiling::kernel_bytes)), but not more than the machine
    /// allows all of TCP (`net.ipv4.tcp_mem`), nor than half of what is available.
    ///
    /// The share is at most what is of use (every queue full), and at least what the server needs. Limits stay as they are where
    /// nothing is known of the machine.
    ///
    /// # Errors
    /// When not even what the server needs is there; the text has the numbers and the way out.
    pub fn share_of(self, machine: &Machine, threads: usize, handler_bytes: usize) -> Result<Self, LimitsError> {
        let Some(available) = machine.available_bytes().map(saturated) else { return Ok(self) };
        let kernel = self.kernel_bytes(threads, 0).min(machine.tcp_memory_bytes.map_or(usize::MAX, saturated));
        let left = available - kernel.min(available / 2);
        let least = self.least_memory(threads, handler_bytes);
        if least > left {
            return Err(LimitsError::machine(&self, least, left, available, machine.allowed_bytes().map(saturated)));
        }
        let useful = self.useful_memory(threads, handler_bytes).max(least);
        self.fit_memory((left / 2).clamp(least, useful), threads, handler_bytes)
    }

    /// The least that a server with these limits can be given in all, in bytes.
    pub fn least_memory(&self, threads: usize, handler_bytes: usize) -> usize {
        let bare = Self { send_memory_bytes: 0, ..self.clone() };
        bare.ceiling(threads, handler_bytes).total().saturating_add(send_memory_min(self))
    }

    /// The most that it has use for: every connection has its queue full and a window on its way.
    fn useful_memory(&self, threads: usize, handler_bytes: usize) -> usize {
        let messages = self.send_queue_messages as usize + Gather::PIECES;
        let queue =
            self.send_queue_bytes + self.window_bytes.max(Gather::SLICE_BYTES) + messages * MESSAGE_OVERHEAD_BYTES;
        let queues = (self.max_connections as usize).saturating_mul(queue.saturating_sub(self.send_floor_bytes));
        let full = Self { send_memory_bytes: queues, ..self.clone() };
        full.ceiling(threads, handler_bytes).total()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::surface::ControlGroup;

    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;

    fn machine(available: usize, tcp: usize) -> Machine {
        Machine {
            memory_total_bytes: Some(2 * available as u64),
            memory_available_bytes: Some(available as u64),
            tcp_memory_bytes: Some(tcp as u64),
            ..Machine::default()
        }
    }

    #[test]
    fn a_connection_is_counted_with_both_buffers_doubled_and_a_packet_beyond_each() {
        let limits = Limits {
            max_connections: 3,
            socket_send_buffer_bytes: Some(64 << 10),
            socket_receive_buffer_bytes: Some(32 << 10),
            ..Limits::default()
        };
        let one = 128 * KIB + 68 * KIB + 64 * KIB + 136 * KIB + 2 * 4 * KIB + 8 * KIB;
        assert_eq!(limits.kernel_bytes(0, 0), 3 * one);
        let waiting = one - 128 * KIB - 68 * KIB - 4 * KIB;
        assert_eq!(limits.kernel_bytes(0, 5), 3 * one + 5 * waiting);
        let busy = 2 * 64 * KIB + 64 * KIB + 64 * KIB;
        assert_eq!(limits.kernel_bytes(2, 0), 3 * one + 2 * busy);
    }

    #[test]
    fn without_options_the_kernels_own_maxima_count() {
        let limits = Limits {
            max_connections: 1,
            socket_send_buffer_bytes: None,
            socket_receive_buffer_bytes: None,
            ..Limits::default()
        };
        let machine = Machine::look();
        let maxima = machine.tcp_send_buffer_max_bytes.map_or(SEND_BUFFER_MAX_BYTES, saturated)
            + machine.tcp_receive_buffer_max_bytes.map_or(RECEIVE_BUFFER_MAX_BYTES, saturated);
        let bounded =
            Limits { socket_send_buffer_bytes: Some(4096), socket_receive_buffer_bytes: Some(4096), ..limits.clone() };
        assert_eq!(limits.kernel_bytes(0, 0) - maxima, bounded.kernel_bytes(0, 0) - 4 * 4096);
    }

    #[test]
    fn the_share_is_half_of_what_the_kernel_leaves() {
        let limits = Limits { max_connections: 1000, ..Limits::default() };
        let kernel = limits.kernel_bytes(2, 0);
        let available = kernel + 400 * MIB;
        let shared = limits.clone().share_of(&machine(available * 2, usize::MAX), 2, 16).expect("it fits");
        assert!(shared.ceiling(2, 16).total() <= (available * 2 - kernel) / 2);
        let shared = limits.clone().share_of(&machine(kernel + 2 * 128 * MIB, 100 * MIB), 2, 16).expect("it fits");
        let expected = (kernel + 256 * MIB - 100 * MIB) / 2;
        let useful = limits.useful_memory(2, 16);
        assert_eq!(shared.ceiling(2, 16).total(), expected.min(useful), "tcp_mem bounds the kernel's part");
    }

    #[test]
    fn a_large_machine_gives_what_is_of_use_and_no_more() {
        let limits = Limits { max_connections: 100, ..Limits::default() };
        let shared = limits.clone().share_of(&machine(1 << 40, 1 << 30), 2, 16).expect("it fits");
        assert_eq!(shared.ceiling(2, 16).total(), limits.useful_memory(2, 16));
        assert_eq!(
            limits.clone().share_of(&Machine::default(), 2, 16),
            Ok(limits),
            "an unknown machine changes nothing"
        );
    }

    #[test]
    fn a_small_control_group_counts_and_a_refusal_has_the_numbers_and_the_way_out() {
        let group = |limit_bytes: u64| Machine {
            control_groups: vec![ControlGroup {
                directory: "/a".into(),
                limit_file: "memory.max",
                limit_bytes,
                used_bytes: 12 << 20,
            }],
            ..machine(1 << 40, 1 << 30)
        };
        let limits = Limits::default();
        let shared = limits.clone().share_of(&group(512 << 20), 2, 16).expect("it fits");
        assert_eq!(shared.ceiling(2, 16).total(), 125 * MIB, "a quarter of 500 MiB, as the kernel has the half");
        let error = limits.share_of(&group(64 << 20), 2, 16).expect_err("it doesn't fit").to_string();
        for part in ["10000 connections", "27262976", "54525952", "67108864", "fewer connections"] {
            assert!(error.contains(part), "{part} is missing: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_share_stays_within_what_is_available(available in 0_usize..1 << 42, tcp in 0_usize..1 << 42, connections in 1_u32..1_000_000, threads in 1_usize..64) {
            let limits = Limits { max_connections: connections, ..Limits::default() };
            match limits.clone().share_of(&machine(available, tcp), threads, 100) {
                Ok(shared) => {
                    let total = shared.ceiling(threads, 100).total();
                    prop_assert!(total <= available && total >= limits.least_memory(threads, 100));
                    prop_assert_eq!(shared.check(), Ok(()));
                }
                Err(_) => prop_assert!(limits.least_memory(threads, 100) > available / 2),
            }
        }
    }
}
