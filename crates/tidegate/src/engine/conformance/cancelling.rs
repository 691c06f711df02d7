//! Cancels through a submission queue that is full: E22.

use super::fixture::{Fixture, Peer};
use super::material::{gather_of, pattern};
use super::rig::{Ending, Rig, read_available};
use super::sending::MORE_THAN_FITS;
use crate::engine::{CloseMode, Completion};

const CONNECTIONS: usize = 200;

/// An engine whose submission queue has four entries.
fn rig<F: Fixture>() -> Rig<F> {
    Rig::with(|config| {
        config.sockets = CONNECTIONS as u32 + 8;
        config.submission_entries = 4;
    })
}

pub(super) fn hundreds_of_pauses_through_a_tiny_submission_queue_all_complete<F: Fixture>() {
    let mut rig = rig::<F>();
    let mut pairs = rig.pairs(CONNECTIONS);
    for _ in 0..2 {
        for (socket, _) in &pairs {
            rig.receive(*socket);
        }
        rig.expect_quiet();
        for (socket, _) in &pairs {
            assert!(rig.pause(*socket));
        }
        for (socket, _) in &pairs {
            rig.expect_paused(*socket);
        }
        rig.expect_quiet();
    }
    for (_, peer) in &mut pairs {
        rig.write_all(peer, b"later");
    }
    rig.expect_quiet();
    for (socket, _) in &pairs {
        rig.receive(*socket);
    }
    for (socket, _) in &pairs {
        assert_eq!(rig.receive_exactly(*socket, 5), b"later");
    }
    rig.finish();
}

pub(super) fn hundreds_of_closes_through_a_tiny_submission_queue_all_complete<F: Fixture>() {
    let mut rig = rig::<F>();
    for mode in [CloseMode::Orderly, CloseMode::Abort] {
        let mut pairs = rig.pairs(CONNECTIONS);
        for (socket, _) in &pairs {
            rig.receive(*socket);
        }
        rig.expect_quiet();
        for (socket, _) in &pairs {
            rig.close(*socket, mode);
        }
        for (socket, _) in &pairs {
            rig.expect_closed(*socket);
        }
        for (_, peer) in &mut pairs {
            let wanted = if mode == CloseMode::Orderly { Ending::Finished } else { Ending::Reset };
            assert_eq!(rig.read_to_end(peer), (Vec::new(), wanted));
        }
    }
    rig.finish();
}

pub(super) fn hundreds_of_blocked_sends_are_cancelled_through_a_tiny_submission_queue<F: Fixture>() {
    let mut rig = rig::<F>();
    let mut pairs: Vec<_> = (0..20).map(|_| rig.pair_with(Some(4096))).collect();
    let bytes = bytes::Bytes::from(pattern(34, MORE_THAN_FITS));
    for (socket, _) in &pairs {
        rig.receive(*socket);
        rig.send(*socket, gather_of(bytes.clone()));
    }
    // Send on until no send has completed for a while.
    let mut silence = 0;
    while silence < 20 {
        rig.turn();
        silence += 1;
        while let Some(Completion::Sent { socket, mut gather, result }) =
            rig.take(|event| matches!(event, Completion::Sent { .. }))
        {
            gather.advance(result.expect("the peer is there"), drop);
            rig.send(socket, gather);
            silence = 0;
        }
    }
    for (socket, _) in &pairs {
        rig.close(*socket, CloseMode::Abort);
    }
    for (socket, _) in &pairs {
        let _ = rig.expect_sent(*socket);
        rig.expect_closed(*socket);
    }
    for (_, peer) in &mut pairs {
        let mut got = Vec::new();
        rig.until("the reset", |_| read_available(peer, &mut got).is_some());
    }
    rig.finish();
}

pub(super) fn everything_recorded_before_one_poll_takes_effect_in_order<F: Fixture>() {
    let mut rig = rig::<F>();
    let mut pairs = rig.pairs(60);
    for (number, (socket, peer)) in pairs.iter_mut().enumerate() {
        // An end in sight for all, and a different tale for each before it, without a poll.
        peer.finish();
        rig.receive(*socket);
        match number % 6 {
            0 => {}
            1 => drop(rig.pause(*socket)),
            2 => {
                rig.pause(*socket);
                rig.receive(*socket);
            }
            3 => rig.close(*socket, CloseMode::Orderly),
            4 => {
                rig.send(*socket, gather_of(b"last words"));
                rig.pause(*socket);
            }
            _ => {
                rig.pause(*socket);
                rig.close(*socket, CloseMode::Orderly);
            }
        }
    }
    for (number, (socket, peer)) in pairs.iter_mut().enumerate() {
        match number % 6 {
            0 | 2 => rig.expect_finished(*socket),
            1 => rig.expect_paused(*socket),
            4 => {
                rig.expect_paused(*socket);
                assert_eq!(rig.expect_sent(*socket).1.expect("the peer is there"), 10);
                assert_eq!(rig.read_exactly(peer, 10), b"last words");
            }
            _ => {
                rig.expect_closed(*socket);
                assert_eq!(rig.read_to_end(peer), (Vec::new(), Ending::Finished));
            }
        }
    }
    rig.finish();
}

pub(super) fn a_receive_that_is_closed_before_it_was_submitted_ends<F: Fixture>() {
    let mut rig = rig::<F>();
    for _ in 0..3 {
        let mut pairs = rig.pairs(CONNECTIONS);
        for (socket, _) in &pairs {
            rig.receive(*socket);
            rig.close(*socket, CloseMode::Orderly);
        }
        for (socket, _) in &pairs {
            rig.expect_closed(*socket);
        }
        for (_, peer) in &mut pairs {
            assert_eq!(rig.read_to_end(peer), (Vec::new(), Ending::Finished));
        }
    }
    rig.finish();
}
