//! A system that takes the server at its word: it is killed if it uses more memory than it said.

use std::net::TcpStream;

use rustix::process::Signal;

use crate::common::{self, assert_echoed, pattern};
use crate::memory_cgroup::MemoryCgroup;
use crate::needs;
use crate::server::Server;

on_both_engines! {
    in_a_memory_cgroup_of_its_ceiling_it_outlives_stopped_readers_and_a_flood
    the_default_memory_keeps_within_the_cgroup
}

/// Connections that the server allows.
const CONNECTIONS: u64 = 600;

fn cgroup(what: &str) -> Option<MemoryCgroup> {
    MemoryCgroup::make().inspect_err(|error| needs::not_here(what, error)).ok()
}

/// The command of a shell that moves it into the cgroup.
fn enter(cgroup: &MemoryCgroup) -> String {
    format!("echo $$ > '{}'", cgroup.processes_file().display())
}

fn in_a_memory_cgroup_of_its_ceiling_it_outlives_stopped_readers_and_a_flood(engine: &str) {
    let Some(cgroup) = cgroup("a memory cgroup") else { return };
    let arguments = ["echo", "--memory", "64M", "--max-connections", &CONNECTIONS.to_string()];
    let server = Server::start(engine, &arguments, &[], Some(&enter(&cgroup)));
    cgroup.limit(server.ceiling_bytes, server.kernel_bytes, CONNECTIONS).expect("it can be limited");

    // Readers that have stopped with much outstanding, a process of them and threads that never read,
    let address = server.address().to_string();
    let stopped = common::tidegate(&["load", &address, "-c", "200", "-s", "64K", "-p", "16", "-d", "60s"]).spawned();
    server.wait_until("it talks", |counters| counters.connections == 200 && counters.received_bytes > 8 << 20);
    stopped.signal(Signal::STOP);
    let deaf: Vec<TcpStream> = (0..100).map(|_| common::connect(server.address())).collect();
    std::thread::scope(|scope| {
        for stream in &deaf {
            scope.spawn(|| common::send_until_blocked(stream));
        }
        // a flood of connections that are reset at once,
        let address = server.address();
        scope.spawn(move || (0..2_000).for_each(|_| common::reset(common::connect(address))));
        // and somebody who is served all the while.
        for seed in 0..20 {
            assert_echoed(&common::connect(server.address()), &pattern(seed, 300_000));
        }
    });
    server.assert_below_ceiling();
    assert_eq!(cgroup.kills(), 0, "the system killed it for its memory");
    assert_echoed(&common::connect(server.address()), &pattern(99, 1 << 20));
    drop((stopped, deaf));
    let summary = server.drained();
    assert!(summary.connections >= 200 + 100 + 20, "{summary:?}");
    assert_eq!(cgroup.kills(), 0, "the system killed it for its memory");
}

fn the_default_memory_keeps_within_the_cgroup(engine: &str) {
    const LIMIT_BYTES: u64 = 256 << 20;
    let Some(cgroup) = cgroup("the default memory in a cgroup") else { return };
    let arguments = ["echo", "--max-connections", "1000"];
    let outside = Server::start(engine, &arguments, &[], None);
    let outside_bytes = outside.ceiling_bytes;
    outside.drained();
    cgroup.limit(LIMIT_BYTES / 2, LIMIT_BYTES / 2, 0).expect("it can be limited");
    let inside = Server::start(engine, &arguments, &[], Some(&enter(&cgroup)));
    // Half of what is there when the sockets of the kernel have half.
    assert!(inside.ceiling_bytes <= LIMIT_BYTES / 4, "{} bytes", inside.ceiling_bytes);
    assert!(inside.ceiling_bytes < outside_bytes, "the cgroup makes no difference: {outside_bytes} bytes outside");
    let deaf: Vec<TcpStream> = (0..100).map(|_| common::connect(inside.address())).collect();
    std::thread::scope(|scope| {
        for stream in &deaf {
            scope.spawn(|| common::send_until_blocked(stream));
        }
    });
    assert_echoed(&common::connect(inside.address()), &pattern(1, 1 << 20));
    inside.assert_below_ceiling();
    drop(deaf);
    inside.drained();
    assert_eq!(cgroup.kills(), 0, "the system killed it for its memory");
}
