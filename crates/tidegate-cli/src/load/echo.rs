//! A connection of the block: sends messages to an echo server and gets them back.

use std::sync::Arc;

use tidegate::{Buffer, CloseReason, Connection, Handler, Payload, Refusal, Time};

use super::board::Order;
use super::contents::{Checker, Contents};
use super::pace::{Pace, Rate};
use super::plan::Plan;
use super::seat::{Seat, Standing};
use super::throttle::{READ_ON, Throttle};

/// The timer for the next message that is due.
const DUE: u8 = 0;

/// What all connections of the block have in common.
pub(super) struct Work {
    plan: Plan,
    message_bytes: usize,
    batch_messages: u32,
    /// As many messages as go out at once, for when their contents don't matter. It is never freed, so that sending it costs
    /// no count of who uses it.
    block: &'static [u8],
}

impl Work {
    pub(super) fn new(plan: &Plan) -> Self {
        let (message_bytes, batch_messages) = (plan.message_bytes.get(), plan.batch_messages());
        let mut block = vec![0; if plan.verify { 0 } else { message_bytes * batch_messages as usize }];
        Contents::new(0).fill(0, &mut block);
        Self { plan: plan.clone(), message_bytes, batch_messages, block: Vec::leak(block) }
    }

    fn pace(&self, number: u64, start: Time, end: Time) -> Pace {
        match self.plan.bytes_per_second {
            None => Pace::closed(self.plan.depth, start, end),
            Some(bytes_per_second) => {
                let rate = Rate {
                    bytes_per_second,
                    message_bytes: self.message_bytes as u64,
                    connections: self.plan.connections,
                };
                Pace::open(rate, number as u32, self.plan.depth, start, end)
            }
        }
    }
}

/// What is compared with what.
struct Verification {
    contents: Contents,
    checker: Checker,
    /// How much was sent.
    offset: u64,
}

/// Sends at its pace, and counts and checks what comes back.
pub(super) struct EchoClient {
    seat: Seat,
    work: Arc<Work>,
    /// `None` until the start is known.
    pace: Option<Pace>,
    /// What has come of an answer that is not whole yet.
    partial_bytes: usize,
    throttle: Throttle,
    /// What the timer is set to.
    timer: Option<Time>,
    verification: Option<Box<Verification>>,
    /// The place in the block, from 0.
    number: u64,
    bytes_sent: u64,
    bytes_received: u64,
}

impl EchoClient {
    pub(super) fn new(seat: Seat, work: &Arc<Work>, number: u64) -> Self {
        let verification = work.plan.verify.then(|| {
            let contents = Contents::new(seat.number);
            let checker = Checker::new(contents, work.message_bytes as u64);
            Box::new(Verification { contents, checker, offset: 0 })
        });
        Self {
            seat,
            work: Arc::clone(work),
            pace: None,
            partial_bytes: 0,
            throttle: Throttle::new(work.plan.read_rate),
            timer: None,
            verification,
            number,
            bytes_sent: 0,
            bytes_received: 0,
        }
    }

    /// Sends what is to be sent now, and sees to it that it goes on, or ends.
    fn go_on(&mut self, connection: &mut Connection<'_, Order>) {
        if self.seat.standing != Standing::Loaded {
            return;
        }
        let now = connection.now();
        let Some(pace) = &mut self.pace else { return };
        let mut count = pace.take(now);
        while count > 0 {
            let batch = count.min(self.work.batch_messages);
            let payload = payload(&self.work, &mut self.verification, batch);
            if let Err(refused) = connection.send(payload) {
                refuse(connection, &refused.why);
                return;
            }
            count -= batch;
        }
        if pace.is_over(now) {
            self.seat.finish(connection);
        } else if let Some(due) = pace.next_due(now)
            && self.timer != Some(due)
        {
            connection.set_timer(DUE, due.saturating_since(now));
            self.timer = Some(due);
        }
    }

    /// The server has sent more than it was sent: what comes from now on can't be told apart.
    #[cold]
    #[inline(never)]
    fn surplus(&mut self, connection: &mut Connection<'_, Order>) {
        let number = self.seat.number;
        let place = || format!("connection {number}: more came back than was sent");
        self.seat.lane.lock().mismatched(1, place);
        self.seat.break_off(connection);
    }
}

/// `batch` messages, as one.
#[inline]
fn payload(work: &Work, verification: &mut Option<Box<Verification>>, batch: u32) -> Payload {
    let length = batch as usize * work.message_bytes;
    match verification {
        None => Payload::from(&work.block[..length]),
        Some(verification) => {
            let mut bytes = vec![0; length];
            verification.contents.fill(verification.offset, &mut bytes);
            verification.offset += length as u64;
            Payload::from(bytes)
        }
    }
}

/// The client's own limits refuse what may be unanswered: they were made for it, so this is an error of the program.
#[cold]
#[inline(never)]
fn refuse(connection: &mut Connection<'_, Order>, why: &Refusal) {
    tracing::error!(%why, "a message was refused");
    connection.abort();
}

impl Handler for EchoClient {
    type Message = Order;

    fn on_connect(&mut self, connection: &mut Connection<'_, Order>) {
        self.throttle.begin(connection);
        self.seat.joined(connection);
    }

    fn on_message(&mut self, connection: &mut Connection<'_, Order>, order: Order) {
        let now = connection.now();
        match (order, &mut self.pace) {
            (Order::Start { at, duration }, _) => {
                let (start, end) = self.seat.lane.lock().span(at, duration, now);
                self.pace = Some(self.work.pace(self.number, start, end));
                self.go_on(connection);
            }
            (Order::Stop, Some(pace)) => {
                pace.stop(now);
                // What is still due is waited for, but not for as long as it would take.
                self.throttle.let_go(connection);
                self.go_on(connection);
            }
            (Order::Gone, _) => self.seat.gone(connection),
            // It never began.
            (Order::Stop, None) => self.seat.finish(connection),
        }
    }

    fn on_timer(&mut self, connection: &mut Connection<'_, Order>, timer: u8) {
        if timer == READ_ON {
            return connection.resume_read();
        }
        self.timer = None;
        self.go_on(connection);
    }

    fn on_read(&mut self, connection: &mut Connection<'_, Order>, data: Buffer) {
        self.bytes_received += data.len() as u64;
        self.throttle.took(connection, data.len());
        let message_bytes = self.work.message_bytes;
        let bytes = self.partial_bytes + data.len();
        let Some(pace) = &mut self.pace else { return self.surplus(connection) };
        if bytes as u64 > u64::from(pace.unanswered()) * message_bytes as u64 {
            return self.surplus(connection);
        }
        // One answer at a time is the common case, and a division would be felt.
        let answers = match bytes {
            _ if bytes < message_bytes => 0,
            _ if bytes == message_bytes => 1,
            _ => bytes / message_bytes,
        };
        self.partial_bytes = bytes - answers * message_bytes;
        let wrong = match &mut self.verification {
            None => 0,
            Some(verification) => verification.checker.check(&data),
        };
        drop(data);
        if answers == 0 {
            return;
        }
        let now = connection.now();
        let mut ledger = self.seat.lane.lock();
        ledger.answered(answers as u64, now);
        for _ in 0..answers {
            ledger.took(pace.answered(now));
        }
        if wrong > 0 {
            let (number, verification) = (self.seat.number, &self.verification);
            let byte = verification.as_ref().and_then(|verification| verification.checker.first_wrong());
            ledger.mismatched(wrong, || {
                format!("connection {number}: byte {} came back changed", byte.unwrap_or_default())
            });
        }
        drop(ledger);
        self.go_on(connection);
    }

    fn on_sent(&mut self, _connection: &mut Connection<'_, Order>, bytes: usize) {
        self.bytes_sent += bytes as u64;
    }

    fn on_peer_shutdown(&mut self, connection: &mut Connection<'_, Order>) {
        self.seat.peer_finished(connection);
    }

    fn on_close(self, reason: &CloseReason) {
        let mut ledger = self.seat.lane.lock();
        ledger.bytes_sent += self.bytes_sent;
        ledger.bytes_received += self.bytes_received;
        drop(ledger);
        self.seat.left(reason, self.pace.map_or(0, |pace| pace.unanswered()));
    }
}
