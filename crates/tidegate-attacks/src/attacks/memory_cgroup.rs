//! Attackers that never read, against a server whose memory the system limits to what the server said.
//!
//! What the server prints is taken at its word: the system kills it if it uses more. With version 2 one limit holds the ceiling and
//! the kernel's line; with version 1 the socket buffers have a limit of their own, the kernel's line, and the ceiling is given 8 KiB
//! for each connection on top, for the kernel's tables.

use super::never_read;
use crate::stage::{Attack, Plan};

pub const ATTACK: Attack = Attack {
    name: "memory-cgroup",
    summary: "never read, while the system limits the server to what it said",
    plan: |scale| Plan { memory_cgroup: true, ..never_read::plan(scale, 200, 2_000) },
    run: never_read::run,
};
