//! The world around one connection: an engine that keeps its contract and no more than that, a handler that does
//! whatever its script says, and an account of everything that must hold after each step.

mod account;
mod engine;
mod handler;
mod time;

use std::collections::VecDeque;
use std::io;

use super::*;
use crate::engine::CloseMode;

/// What the handler does, in a callback or between two.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Send {
        kind: Kind,
        bytes: usize,
    },
    SendHeld(usize),
    DropHeld(usize),
    Shutdown,
    Close,
    Abort,
    PauseRead,
    ResumeRead,
    /// Other rules for the queue, of those that the world has.
    SetFlow(usize),
}

/// What a message is made of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Static,
    /// A vector with this much more capacity than length.
    Owned(usize),
    Shared,
}

/// What the handler does with the data it is given.
#[derive(Clone, Copy, Debug)]
pub(super) enum WithData {
    Echo,
    EchoCopy,
    EchoWithoutFirstByte,
    Hold,
    Drop,
}

/// What the handler does in one callback.
#[derive(Clone, Debug)]
pub(super) struct Callback {
    pub(super) data: WithData,
    pub(super) actions: Vec<Action>,
}

/// What happens to the connection. What the engine contract doesn't allow at that moment is skipped.
#[derive(Clone, Debug)]
pub(super) enum Input {
    Received(usize),
    ReceivePaused,
    PeerFinished,
    ReceiveFailed(io::ErrorKind),
    Discarded(usize),
    /// The system took this many hundredths of what it was offered.
    Sent(usize),
    SendFailed(io::ErrorKind),
    WriteShut(Option<io::ErrorKind>),
    /// The handler acts outside of the callbacks of this connection: on a message, on a timer.
    Handler(Vec<Action>),
    CloseByHandle,
    AbortByHandle,
    Wait(u64),
    OthersTake(usize),
    OthersGive,
    /// The line for send memory moves.
    MemoryTurn,
    /// The system has no memory for the send, or the receive.
    SendShort,
    ReceiveShort,
    /// ... and may have some again.
    SystemAgain,
    /// Another connection takes a turn to send.
    OthersSend,
    /// ... and ends it: the next in line gets it.
    TurnMoves,
}

/// What the engine has been told about receiving.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Receive {
    Off,
    On,
    /// Paused; so many buffers that were filled before may still come.
    Pausing(u32),
    Discarding,
    /// Finished or failed.
    Over,
}

/// A buffer that the handler has, with what it is charged to send memory as a copy.
struct Held {
    buffer: Buffer,
    copy_bytes: usize,
}

/// A message that was taken and is not sent whole.
#[derive(Clone, Copy)]
struct Message {
    bytes: usize,
    held_bytes: usize,
    charge_bytes: usize,
    copy_bytes: usize,
}

/// See the [module](self).
pub(super) struct World {
    machine: Machine,
    pools: Pools,
    now: Time,

    // The engine.
    receive: Receive,
    in_flight: Option<Box<Gather>>,
    peer_finished: bool,
    shutting: bool,
    shut: bool,
    closed: Option<CloseMode>,

    // The handler.
    script: Vec<Callback>,
    turn: usize,
    /// A refused message is tried again, in `on_writable`, before anything else.
    insistent: bool,
    refused: VecDeque<(Payload, usize)>,
    held: Vec<Held>,
    paused: bool,
    shutdown_called: bool,
    /// The rules that the queue may have, and those that it has.
    controls: Vec<FlowControl>,
    control: FlowControl,
    flow_changed: bool,

    // The account.
    /// All bytes of the messages that were taken.
    taken: Vec<u8>,
    /// How many of them are on the wire.
    on_wire: usize,
    queued: VecDeque<Message>,
    begun: VecDeque<Message>,
    /// How much of the first begun message is on the wire.
    on_wire_of_first: usize,
    /// What may wait now, in bytes and messages: more than the limit only while that is from before the limit was lowered.
    allowed: (usize, usize),
    over_mark: bool,
    over_since: Time,
    over_before: Duration,
    refusing_since: Option<Time>,
    dropped_messages: u64,
    dropped_bytes: u64,
    owes_writable: bool,
    /// The handler has made room itself, and is told after the next send has begun.
    told_after_send: bool,
    wanted_bytes: usize,
    received: usize,
    delivered: usize,
    peer_shutdown_told: bool,
    closing: bool,
    cause: Option<CloseReason>,
    others_bytes: usize,
    others_sends: u32,
    attempts: u8,
    steps: usize,

    // The account of time.
    /// When the machine looks at the time next.
    armed: Time,
    short: bool,
    spoke: bool,
    active: Time,
    /// When the period of `min_send_progress` began, what was taken since, and how much of it had passed when it was stopped.
    paced: Time,
    taken_bytes: u64,
    pace_held: Option<Duration>,
    offers_all: bool,
    /// How much of the period of `min_receive_rate` had passed when reading last went on, and when that was.
    rate_passed: Option<Duration>,
    rate_runs_since: Option<Time>,
    heard_bytes: u64,
}

/// Input as a peer sends it: the byte at each offset of the stream tells where it belongs.
fn pattern(offset: usize, bytes: usize) -> Vec<u8> {
    (offset..offset + bytes).map(|position| (position % 251) as u8).collect()
}

static STATIC_BYTES: [u8; 160 << 10] = [0xEE; 160 << 10];

/// What the asking policy of the worlds does, by the bytes that wait and those of the message.
pub(super) fn decide(queued_bytes: usize, bytes: usize) -> Decision {
    match (queued_bytes + bytes) % 5 {
        0 | 1 => Decision::DropOldest,
        2 => Decision::DropNewest,
        3 if bytes.is_multiple_of(8) => Decision::Close,
        _ => Decision::Wait,
    }
}

impl World {
    /// `controls` are the rules that the queue may have, the first of them to begin with.
    pub(super) fn new(
        buffers: u32,
        reserve_bytes: usize,
        flow: Flow,
        controls: Vec<FlowControl>,
        script: Vec<Callback>,
        insistent: bool,
    ) -> Self {
        let control = controls[0].clone();
        Self {
            machine: Machine::new(Time::ZERO, 0),
            pools: pools(buffers, reserve_bytes, flow, &control),
            allowed: (control.queue_bytes, control.queue_messages as usize),
            control,
            controls,
            flow_changed: false,
            now: Time::ZERO,
            receive: Receive::Off,
            in_flight: None,
            peer_finished: false,
            shutting: false,
            shut: false,
            closed: None,
            script,
            turn: 0,
            insistent,
            refused: VecDeque::new(),
            held: Vec::new(),
            paused: false,
            shutdown_called: false,
            taken: Vec::new(),
            on_wire: 0,
            queued: VecDeque::new(),
            begun: VecDeque::new(),
            on_wire_of_first: 0,
            over_mark: false,
            over_since: Time::ZERO,
            over_before: Duration::ZERO,
            refusing_since: None,
            dropped_messages: 0,
            dropped_bytes: 0,
            owes_writable: false,
            told_after_send: false,
            wanted_bytes: 0,
            received: 0,
            delivered: 0,
            peer_shutdown_told: false,
            closing: false,
            cause: None,
            others_bytes: 0,
            others_sends: 0,
            attempts: 0,
            steps: 0,
            armed: Time::MAX,
            short: false,
            spoke: false,
            active: Time::ZERO,
            paced: Time::ZERO,
            taken_bytes: 0,
            pace_held: None,
            offers_all: false,
            rate_passed: None,
            rate_runs_since: None,
            heard_bytes: 0,
        }
    }

    /// All connections together may have `most` sends at once.
    pub(super) fn share_sends(&mut self, most: u32) {
        self.pools.sends.set_most(most);
    }

    /// One input, and what follows from it unless more comes in the same batch.
    pub(super) fn happen(&mut self, input: &Input, more_in_batch: bool) {
        self.input(input);
        self.check();
        if !more_in_batch {
            self.flush();
        }
    }
}
