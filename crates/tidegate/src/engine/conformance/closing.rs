//! Closing in every state: E20 and E21.

use super::fixture::{Fixture, Peer};
use super::material::{assert_same_bytes, gather_of, pattern};
use super::rig::{Ending, QUIET_TURNS, Rig};
use super::sending::{MORE_THAN_FITS, block};
use crate::engine::{CloseMode, Completion, SocketId};
use crate::memory::Buffer;

/// What a socket can be doing when it is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nothing was ever asked.
    Idle,
    /// A receive was recorded and not polled.
    JustAsked,
    /// A receive waits.
    Armed,
    /// A receive waits, and data has come since the last poll.
    ArmedWithData,
    /// A receive waits and its pause was recorded.
    Pausing,
    /// Paused.
    Paused,
    /// Paused, with data that nobody has asked for.
    PausedWithData,
    /// Waiting in line for a buffer.
    Starving,
    /// Waiting in line for a buffer, and a pause was recorded.
    StarvingPausing,
    /// The peer has finished, and it was reported.
    Ended,
    /// The peer has finished, and it was not reported.
    EndedUnseen,
    /// The peer has reset, and it was reported.
    Failed,
    /// The peer has reset, and it was not reported.
    FailedUnseen,
    /// The peer has reset while paused, and a receive was recorded.
    FailedAsking,
    /// Throwing data away.
    Discarding,
    /// A send was recorded and not polled.
    JustSent,
    /// A send waits for the peer to read.
    Blocked,
    /// A send and a receive wait.
    BlockedAndArmed,
    /// Half-closed.
    HalfClosed,
    /// A half-close was recorded and not polled.
    HalfClosing,
}

const STATES: [State; 20] = [
    State::Idle,
    State::JustAsked,
    State::Armed,
    State::ArmedWithData,
    State::Pausing,
    State::Paused,
    State::PausedWithData,
    State::Starving,
    State::StarvingPausing,
    State::Ended,
    State::EndedUnseen,
    State::Failed,
    State::FailedUnseen,
    State::FailedAsking,
    State::Discarding,
    State::JustSent,
    State::Blocked,
    State::BlockedAndArmed,
    State::HalfClosed,
    State::HalfClosing,
];

/// A connection in `state`, and what must be held while it is. The peer is gone where it has reset.
fn connection<F: Fixture>(rig: &mut Rig<F>, state: State) -> (SocketId, Option<F::Peer>, Vec<Buffer>) {
    let in_line = matches!(state, State::Starving | State::StarvingPausing);
    let held = if in_line { rig.hold_all_buffers().2 } else { Vec::new() };
    let (socket, mut peer) = rig.pair_with(Some(16 * 1024));
    let settle = |rig: &mut Rig<F>| (0..QUIET_TURNS).for_each(|_| rig.turn());
    match state {
        State::Idle => {}
        State::JustAsked => rig.receive(socket),
        State::Armed => {
            rig.receive(socket);
            settle(rig);
        }
        State::ArmedWithData => {
            rig.receive(socket);
            settle(rig);
            assert!(peer.try_write(&pattern(27, 10_000)).is_ok());
        }
        State::Pausing => {
            rig.receive(socket);
            settle(rig);
            rig.pause(socket);
        }
        State::Paused | State::PausedWithData => {
            rig.receive(socket);
            settle(rig);
            rig.pause(socket);
            rig.expect_paused(socket);
            if state == State::PausedWithData {
                rig.write_all(&mut peer, b"unread");
                settle(rig);
            }
        }
        State::Starving | State::StarvingPausing => {
            rig.write_all(&mut peer, b"unread");
            rig.receive(socket);
            rig.until("the receive to starve", |rig| rig.counters().starving > 0);
            if state == State::StarvingPausing {
                rig.pause(socket);
            }
        }
        State::Ended => {
            rig.receive(socket);
            peer.finish();
            rig.expect_finished(socket);
        }
        State::EndedUnseen => {
            rig.receive(socket);
            settle(rig);
            peer.finish();
        }
        State::Failed => {
            rig.receive(socket);
            peer.reset();
            rig.expect_failed(socket);
            return (socket, None, held);
        }
        State::FailedUnseen => {
            rig.receive(socket);
            settle(rig);
            peer.reset();
            return (socket, None, held);
        }
        State::FailedAsking => {
            rig.receive(socket);
            settle(rig);
            peer.reset();
            rig.pause(socket);
            rig.expect_paused(socket);
            rig.receive(socket);
            return (socket, None, held);
        }
        State::Discarding => {
            rig.discard(socket);
            rig.write_all(&mut peer, &pattern(28, 5000));
            rig.expect("Discarded", |event| matches!(event, Completion::Discarded { .. }));
            settle(rig);
        }
        State::JustSent => rig.send(socket, gather_of(b"sent")),
        State::Blocked => {
            block(rig, socket, gather_of(pattern(29, MORE_THAN_FITS)));
        }
        State::BlockedAndArmed => {
            rig.receive(socket);
            block(rig, socket, gather_of(pattern(29, MORE_THAN_FITS)));
        }
        State::HalfClosed => {
            rig.shutdown_write(socket);
            rig.expect_write_shut(socket).expect("the peer is there");
        }
        State::HalfClosing => rig.shutdown_write(socket),
    }
    (socket, Some(peer), held)
}

/// Closes in `state` and `mode`, with and without a poll afterwards before anything else happens, and gives what the
/// peer saw.
fn close_in<F: Fixture>(state: State, mode: CloseMode) -> Option<Ending> {
    let mut rig = Rig::<F>::sized(8, 4);
    let (socket, peer, held) = connection(&mut rig, state);
    rig.take_all();
    rig.close(socket, mode);
    rig.expect_closed(socket);
    // The monitor has checked that nothing but `Sent` came before it; here: nothing comes after it.
    while let Some(event) = rig.take(|event| matches!(event, Completion::Sent { .. })) {
        drop(event);
    }
    rig.expect_quiet();
    let ending = peer.map(|mut peer| rig.read_to_end(&mut peer).1);
    drop(held);
    rig.expect_quiet();
    assert_eq!((rig.arena().outstanding(), rig.counters().starving), (0, 0), "{state:?} {mode:?}");
    rig.finish();
    ending
}

pub(super) fn an_orderly_close_in_every_state_completes_and_shows_the_end<F: Fixture>() {
    for state in STATES {
        let ending = close_in::<F>(state, CloseMode::Orderly);
        match state {
            State::Failed | State::FailedUnseen | State::FailedAsking => assert_eq!(ending, None),
            // There may be unread bytes: TCP resets then.
            State::ArmedWithData | State::PausedWithData | State::Starving | State::StarvingPausing => {
                assert!(ending.is_some())
            }
            _ => assert_eq!(ending, Some(Ending::Finished), "{state:?}"),
        }
    }
}

pub(super) fn an_abort_in_every_state_completes_and_resets<F: Fixture>() {
    for state in STATES {
        let ending = close_in::<F>(state, CloseMode::Abort);
        match state {
            State::Failed | State::FailedUnseen | State::FailedAsking => assert_eq!(ending, None),
            // The peer has seen the end of the stream before the reset.
            State::HalfClosed | State::HalfClosing => assert!(ending.is_some()),
            _ => assert_eq!(ending, Some(Ending::Reset), "{state:?}"),
        }
    }
}

pub(super) fn a_close_delivers_no_data_and_no_pause_of_what_was_in_flight<F: Fixture>() {
    let mut rig = Rig::<F>::sized(8, 64);
    for (paused, turns) in [(false, 0), (true, 0), (false, 1), (true, 1)] {
        let (socket, mut peer) = rig.pair();
        rig.receive(socket);
        rig.turn();
        rig.write_all(&mut peer, &pattern(30, 100_000));
        for _ in 0..turns {
            rig.poll(std::time::Duration::ZERO);
        }
        rig.take_all();
        if paused {
            rig.pause(socket);
        }
        assert!(peer.try_write(&pattern(31, 10_000)).is_ok());
        rig.close(socket, CloseMode::Orderly);
        rig.expect_closed(socket);
        rig.expect_quiet();
        assert_eq!(rig.arena().outstanding(), 0, "received data goes home undelivered");
    }
    rig.finish();
}

pub(super) fn a_close_with_a_blocked_send_reports_exactly_what_the_peer_gets<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    for room in [false, true] {
        let (socket, mut peer) = rig.pair_with(Some(8 * 1024));
        let wanted = pattern(32, MORE_THAN_FITS);
        let mut taken = block(&mut rig, socket, gather_of(wanted.clone()));
        let mut got = Vec::new();
        if room {
            super::rig::read_available(&mut peer, &mut got);
        }
        rig.close(socket, CloseMode::Orderly);
        let (_, result) = rig.expect_sent(socket);
        taken += result.unwrap_or(0);
        let (rest, ending) = rig.read_to_end(&mut peer);
        got.extend(rest);
        assert_eq!(ending, Ending::Finished);
        assert_same_bytes(&got, &wanted[..taken], "what the peer got");
        rig.expect_closed(socket);
    }
    rig.finish();
}

pub(super) fn an_orderly_close_after_a_send_loses_nothing<F: Fixture>() {
    let mut rig = Rig::<F>::new();
    for receiving in [false, true] {
        let (socket, mut peer) = rig.pair();
        if receiving {
            rig.receive(socket);
        }
        let bytes = pattern(33, 64 * 1024);
        rig.send_now(socket, bytes.clone());
        rig.close_now(socket, CloseMode::Orderly);
        let (got, ending) = rig.read_to_end(&mut peer);
        assert_same_bytes(&got, &bytes, "what the peer got");
        assert_eq!(ending, Ending::Finished);
    }
    rig.finish();
}

pub(super) fn every_socket_closes_once_also_after_an_error<F: Fixture>() {
    let mut rig = Rig::<F>::sized(4, 4);
    // More errors than places: a place that an error had closed already would be free too early, or never.
    for number in 0..12 {
        let mode = if number % 2 == 0 { CloseMode::Orderly } else { CloseMode::Abort };
        let socket = if number % 3 == 0 {
            let address = rig.fixture.refusing_address();
            let socket = rig.connect(address);
            rig.expect_connected(socket).expect_err("nobody listens");
            socket
        } else {
            let (socket, peer) = rig.pair();
            rig.receive(socket);
            peer.reset();
            rig.expect_failed(socket);
            if number % 3 == 1 {
                rig.send(socket, gather_of(b"in vain"));
                assert!(rig.expect_sent(socket).1.is_err());
            }
            socket
        };
        rig.expect_quiet();
        rig.close_now(socket, mode);
        rig.expect_quiet();
    }
    rig.finish();
}
