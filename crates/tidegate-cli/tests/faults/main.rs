//! What a real network, a real system and real peers do to a server, on both engines.
//!
//! The faults are made, not simulated: packets are dropped and connections reset by the packet filter of network namespaces that the
//! test makes, peers are processes that are stopped, memory is limited by a control group, and calls fail because a tracer has
//! them fail. What needs root or a tool that is not here is skipped, and says so on stderr. docs/testing.md has the table.

#[path = "../common/mod.rs"]
mod common;

/// Makes of each of these functions, which take the name of an engine, a test on each.
macro_rules! on_both_engines {
    ($($name:ident)*) => { $(
        mod $name {
            #[test]
            fn on_uring() {
                crate::needs::engine("uring", super::$name);
            }

            #[test]
            fn on_readiness() {
                crate::needs::engine("readiness", super::$name);
            }
        }
    )* };
}

mod calls;
mod memory;
#[path = "../../../tidegate-attacks/src/memory_cgroup.rs"]
#[allow(dead_code, reason = "the attacks use all of it")]
mod memory_cgroup;
mod namespaces;
mod needs;
mod network;
mod server;
mod stopped;
mod talker;
mod tracer;
