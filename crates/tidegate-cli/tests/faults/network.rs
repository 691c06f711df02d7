//! A network that loses, slows down, resets and swallows.

use std::io::Read as _;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::{DEADLINE, assert_echoed, assert_end, pattern};
use crate::namespaces::{End, Network};
use crate::server::Server;
use crate::talker::Talker;

on_both_engines! {
    every_byte_arrives_although_packets_are_lost
    on_a_slow_link_every_byte_arrives_and_waits_below_the_ceiling
    connections_that_the_network_resets_in_mid_stream_end_and_no_others
    peers_that_vanish_are_ended_by_their_time_outs
}

/// So many clients echo so much at once, each with bytes of its own.
fn echo_at_once(network: &Network, server: &Server, clients: u64, length: usize) {
    let address = server.address();
    std::thread::scope(|scope| {
        for seed in 0..clients {
            scope.spawn(move || {
                let stream = network.connect(address);
                assert_echoed(&stream, &pattern(seed, length));
                stream.shutdown(Shutdown::Write).expect("it is connected");
                assert_end(&stream);
            });
        }
    });
}

fn every_byte_arrives_although_packets_are_lost(engine: &str) {
    let Some(network) = Network::make("lost packets") else { return };
    let server = network.serve(engine, &["echo"]);
    for end in [End::Server, End::Client] {
        network.rule(end, "numgen random mod 100 < 2 counter drop");
    }
    // How many packets it takes is the system's choice, and which of them are lost is chance: until there were enough.
    let enough = |network: &Network| [End::Server, End::Client].into_iter().all(|end| network.met_packets(end) >= 10);
    let mut rounds = 0;
    while !enough(&network) {
        rounds += 1;
        assert!(
            rounds <= 20,
            "too few packets were lost: {:?}",
            [End::Server, End::Client].map(|end| network.met_packets(end))
        );
        echo_at_once(&network, &server, 32, 300_000);
    }
    network.heal();
    let summary = server.drained();
    let (connections, bytes) = (rounds * 32, rounds * 32 * 300_000);
    assert_eq!((summary.connections, summary.closed_for("finished")), (connections, connections), "{summary:?}");
    assert_eq!((summary.bytes_received, summary.bytes_sent), (bytes, bytes), "{summary:?}");
}

fn on_a_slow_link_every_byte_arrives_and_waits_below_the_ceiling(engine: &str) {
    let Some(network) = Network::make("a slow link") else { return };
    let server = network.serve(engine, &["echo", "--max-connections", "100", "--memory", "24M"]);
    // A megabyte a second to the clients: what they say arrives much faster than the answers leave.
    network.limit_bandwidth(End::Server, "8mbit");
    let begun = Instant::now();
    echo_at_once(&network, &server, 8, 250_000);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(1_500), "2 MB took {took:?}: the link was not slow");
    server.assert_below_ceiling();
    let summary = server.drained();
    assert_eq!((summary.connections, summary.closed_for("finished")), (8, 8), "{summary:?}");
    assert_eq!((summary.bytes_received, summary.bytes_sent), (2_000_000, 2_000_000), "{summary:?}");
}

fn connections_that_the_network_resets_in_mid_stream_end_and_no_others(engine: &str) {
    const VICTIMS: u64 = 20;
    let Some(network) = Network::make("resets") else { return };
    let server = network.serve(engine, &["echo"]);
    let talker = |seed| Talker::new(network.connect(server.address()), seed);
    let mut victims: Vec<Talker> = (0..VICTIMS).map(talker).collect();
    let mut others: Vec<Talker> = (100..104).map(talker).collect();
    let ports = ports(&victims);
    std::thread::scope(|scope| {
        let hang_up: Vec<_> = victims.iter().map(Talker::hang_up).collect();
        let talking: Vec<_> = victims.iter_mut().map(|victim| scope.spawn(|| victim.talk(None))).collect();
        server.wait_until("all of them talk", |counters| counters.received_bytes > VICTIMS * 100_000);
        // Each packet that the server sends them is answered with a reset.
        network.rule(End::Client, &format!("tcp dport {ports} counter reject with tcp reset"));
        for other in &mut others {
            assert!(other.talk(Some(1 << 20)), "a connection that nobody reset has ended");
        }
        server.wait_for_closed("reset", VICTIMS);
        hang_up.into_iter().for_each(|hang_up| hang_up());
        for talking in talking {
            assert!(!talking.join().expect("what came back was right"), "it was reset");
        }
    });
    assert!(network.met_packets(End::Client) >= VICTIMS);
    drop(victims);
    network.heal();
    others.push(Talker::new(network.connect(server.address()), 104));
    assert!(others[4].talk(Some(1 << 20)), "who comes afterwards is served");
    let _said: u64 = others.into_iter().map(Talker::finish).sum();
    let summary = server.drained();
    assert_eq!((summary.closed_for("reset"), summary.closed_for("finished")), (VICTIMS, 5), "{summary:?}");
}

fn peers_that_vanish_are_ended_by_their_time_outs(engine: &str) {
    let Some(network) = Network::make("a black hole") else { return };
    let limits = ["--min-send-progress", "1/1s", "--idle-timeout", "2s"];
    let chargen = network.serve(engine, &[&["chargen"], &limits[..]].concat());
    let echo = network.serve(engine, &[&["echo"], &limits[..]].concat());

    // Readers that vanish with much on its way to them, and peers that vanish while nothing happens.
    let mut readers: Vec<_> = (0..6).map(|_| network.connect(chargen.address())).collect();
    let mut chunk = vec![0; 64 << 10];
    for reader in &mut readers {
        reader.read_exact(&mut chunk).expect("lines without end");
    }
    let idle: Vec<_> = (0..6).map(|_| network.connect(echo.address())).collect();
    for stream in &idle {
        assert_echoed(stream, b"until here");
    }
    let stays = network.connect(chargen.address());
    let talks = network.connect(echo.address());
    let vanish: Vec<u16> =
        readers.iter().chain(&idle).map(|stream| stream.local_addr().expect("it is connected").port()).collect();
    for (end, side) in [(End::Client, "dport"), (End::Server, "sport")] {
        network.rule(end, &format!("tcp {side} {} counter drop", listed(&vanish)));
    }
    // Nobody tells the servers, and those that stay are served all the time.
    let begun = Instant::now();
    let over = AtomicBool::new(false);
    let ended = |server: &Server, reason| {
        server.history().last().is_some_and(|latest| latest.closed_for(reason) >= 6 && latest.connections == 1)
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut chunk = vec![0; 64 << 10];
            while !over.load(Ordering::Relaxed) {
                (&stays).read_exact(&mut chunk).expect("lines without end");
            }
        });
        while !ended(&chargen, "send_too_slow") || !ended(&echo, "idle_timeout") {
            if begun.elapsed() >= DEADLINE {
                over.store(true, Ordering::Relaxed);
                panic!("those that have vanished are still there");
            }
            assert_echoed(&talks, b"still here");
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(begun.elapsed() >= Duration::from_millis(900), "it took {:?}", begun.elapsed());
    assert!(network.met_packets(End::Client) > 0);
    drop((stays, talks));
    let (chargen, echo) = (chargen.drained(), echo.drained());
    assert_eq!((chargen.connections, chargen.closed_for("send_too_slow")), (7, 6), "{chargen:?}");
    assert_eq!((echo.connections, echo.closed_for("idle_timeout")), (7, 6), "{echo:?}");
}

/// Their ports, as a set of the packet filter.
fn ports(talkers: &[Talker]) -> String {
    listed(&talkers.iter().map(Talker::port).collect::<Vec<_>>())
}

fn listed(ports: &[u16]) -> String {
    format!("{{ {} }}", ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", "))
}
