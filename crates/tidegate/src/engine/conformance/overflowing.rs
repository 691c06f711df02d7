//! A completion queue that is far too small: E23.

use super::fixture::{Fixture, Peer};
use super::material::{assert_same_bytes, gather_of, pattern, piece};
use super::rig::{Rig, read_available, write_available};
use crate::engine::{CloseMode, Completion};
use crate::memory::Gather;

/// An engine of `connections` sockets with a completion queue of `entries`.
fn rig<F: Fixture>(connections: u32, entries: u32, buffers: u32) -> Rig<F> {
    Rig::with(|config| {
        config.sockets = connections;
        config.arena.buffers = buffers;
        config.submission_entries = 16;
        config.completion_entries = entries;
    })
}

pub(super) fn three_hundred_echoes_survive_a_completion_queue_of_sixteen<F: Fixture>() {
    const CONNECTIONS: usize = 300;
    const ROUNDS: usize = 5;
    let mut rig = rig::<F>(CONNECTIONS as u32, 16, 128);
    let mut pairs = rig.pairs(CONNECTIONS);
    let wanted: Vec<_> = (0..CONNECTIONS).map(|number| pattern(number as u64, ROUNDS * 300)).collect();
    let mut got = vec![Vec::new(); CONNECTIONS];
    let number_of: std::collections::HashMap<_, _> =
        pairs.iter().enumerate().map(|(number, (socket, _))| (*socket, number)).collect();
    for (socket, _) in &pairs {
        rig.receive(*socket);
    }
    rig.turn();
    let mut echoing: Vec<Option<Box<Gather>>> = (0..CONNECTIONS).map(|_| Some(Box::default())).collect();
    let mut waiting: Vec<Vec<_>> = (0..CONNECTIONS).map(|_| Vec::new()).collect();
    for round in 0..ROUNDS {
        // All at once, between two polls.
        for (number, (_, peer)) in pairs.iter_mut().enumerate() {
            let bytes = &wanted[number][round * 300..(round + 1) * 300];
            assert_eq!(write_available(peer, bytes), bytes.len());
        }
        rig.until("every echo", |rig| {
            for event in rig.take_all() {
                match event {
                    Completion::Received { socket, buffer } => waiting[number_of[&socket]].push(buffer),
                    Completion::Sent { socket, mut gather, result } => {
                        gather.advance(result.expect("the peer is there"), drop);
                        echoing[number_of[&socket]] = Some(gather);
                    }
                    other => panic!("{other:?}"),
                }
            }
            for (number, (socket, _)) in pairs.iter().enumerate() {
                let Some(gather) = &mut echoing[number] else { continue };
                for buffer in waiting[number].drain(..) {
                    gather.push(piece(buffer));
                }
                if !gather.is_empty()
                    && let Some(gather) = echoing[number].take()
                {
                    rig.send(*socket, gather);
                }
            }
            for (number, (_, peer)) in pairs.iter_mut().enumerate() {
                assert_eq!(read_available(peer, &mut got[number]), None);
            }
            got.iter().all(|got| got.len() >= (round + 1) * 300)
        });
    }
    rig.until("the last sends", |rig| {
        for event in rig.take_all() {
            assert!(matches!(event, Completion::Sent { .. }), "{event:?}");
            if let Completion::Sent { socket, .. } = event {
                echoing[number_of[&socket]] = Some(Box::default());
            }
        }
        echoing.iter().all(Option::is_some)
    });
    for (got, wanted) in got.iter().zip(&wanted) {
        assert_same_bytes(got, wanted, "the echo, each byte once");
    }
    rig.finish();
}

pub(super) fn a_receive_that_the_system_ended_without_an_error_goes_on<F: Fixture>() {
    let mut rig = Rig::<F>::interrupted(|config| {
        config.sockets = 32;
        config.submission_entries = 4;
        config.completion_entries = 8;
    });
    let mut pairs = rig.pairs(24);
    for (socket, _) in &pairs {
        rig.receive(*socket);
    }
    rig.expect_quiet();
    // Three times as many completions as fit, time and again, none asked for anew.
    for round in 0..20_u8 {
        for (_, peer) in &mut pairs {
            assert_eq!(write_available(peer, &[round; 50]), 50);
        }
        for (socket, _) in &pairs {
            assert_eq!(rig.receive_exactly(*socket, 50), [round; 50]);
        }
    }
    assert!(rig.counters().rearmed > 0, "no receive was ended: this case would prove nothing");
    for (_, peer) in &mut pairs {
        peer.finish();
    }
    for (socket, _) in &pairs {
        rig.expect_finished(*socket);
    }
    rig.expect_quiet();
    rig.finish();
}

pub(super) fn hundreds_of_closes_survive_a_completion_queue_of_sixteen<F: Fixture>() {
    let mut rig = rig::<F>(200, 16, 64);
    let mut pairs = rig.pairs(200);
    for (socket, peer) in &mut pairs {
        rig.receive(*socket);
        assert_eq!(write_available(peer, &[1; 50]), 50);
    }
    rig.turn();
    for (number, (socket, _)) in pairs.iter().enumerate() {
        if number % 2 == 0 {
            rig.send(*socket, gather_of(b"farewell"));
        }
    }
    for (socket, _) in &pairs {
        rig.close(*socket, CloseMode::Abort);
    }
    rig.take_all();
    for (number, (socket, _)) in pairs.iter().enumerate() {
        rig.expect_closed(*socket);
        if number % 2 == 0 {
            let _ = rig.expect_sent(*socket);
        }
    }
    rig.expect_quiet();
    assert_eq!(rig.arena().outstanding(), 0);
    rig.finish();
}
