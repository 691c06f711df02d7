//! Fairness: E14.

use super::fixture::{Fixture, Peer};
use super::material::pattern;
use super::rig::{Rig, write_available};
use crate::engine::{Completion, SocketId};

/// What a multishot receive may deliver in one batch.
const BATCH_BUFFERS: usize = 32;
const BUDGET_BYTES: usize = 32 * 1024;

fn rig<F: Fixture>() -> (Rig<F>, usize) {
    let rig = Rig::<F>::with(|config| {
        config.arena.buffers = 256;
        config.receive_budget_bytes = BUDGET_BYTES;
    });
    let most = BUDGET_BYTES + BATCH_BUFFERS * rig.arena().buffer_bytes();
    (rig, most)
}

/// The bytes that `flooded` got before `other` got its first; `None` if that has none yet. The buffers go home.
fn bytes_before<F: Fixture>(rig: &mut Rig<F>, flooded: SocketId, other: SocketId) -> (usize, bool) {
    let mut bytes = 0;
    let mut seen = false;
    for event in rig.take_all() {
        if let Completion::Received { socket, buffer } = event {
            seen |= socket == other;
            if socket == flooded && !seen {
                bytes += buffer.len();
            }
        }
    }
    (bytes, seen)
}

pub(super) fn a_flood_on_one_socket_delays_another_by_one_budget_and_one_batch<F: Fixture>() {
    let (mut rig, most) = rig::<F>();
    let (flooded, mut flooding) = rig.pair();
    let (quiet, mut whispering) = rig.pair();
    let flood = pattern(14, 8 * 1024 * 1024);
    let mut written = write_available(&mut flooding, &flood);
    assert!(written > most, "only {written} bytes fit before anybody reads: this case would prove nothing");
    rig.write_all(&mut whispering, b"!");
    rig.receive(flooded);
    rig.receive(quiet);
    let mut before = 0;
    rig.until("the byte", |rig| {
        written += write_available(&mut flooding, &flood[written..]);
        let (bytes, seen) = bytes_before(rig, flooded, quiet);
        before += bytes;
        seen
    });
    assert!(before <= most, "{before} bytes of the flood before one byte of another; {most} are allowed");
    flooding.finish();
    rig.finish();
}

pub(super) fn a_byte_in_the_middle_of_a_flood_arrives_within_one_budget_and_one_batch<F: Fixture>() {
    let (mut rig, most) = rig::<F>();
    let (flooded, mut flooding) = rig.pair();
    let (quiet, mut whispering) = rig.pair();
    rig.receive(flooded);
    rig.receive(quiet);
    let flood = pattern(15, 8 * 1024 * 1024);
    let (mut written, mut total) = (0, 0);
    while total < 4 * 1024 * 1024 {
        written += write_available(&mut flooding, &flood[written..]);
        rig.take_all();
        rig.write_all(&mut whispering, b"!");
        let mut before = 0;
        rig.until("the byte", |rig| {
            let (bytes, seen) = bytes_before(rig, flooded, quiet);
            before += bytes;
            written += write_available(&mut flooding, &flood[written..]);
            seen
        });
        assert!(before <= most, "{before} bytes of the flood before one byte of another; {most} are allowed");
        total += before.max(16 * 1024);
    }
    flooding.finish();
    rig.finish();
}
