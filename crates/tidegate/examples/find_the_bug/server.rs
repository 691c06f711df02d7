//! A server that answers requests, once with a bug and once without.
//!
//! A request is a line with a number; the answer is as many bytes of data, and a line feed. A client may send many requests without waiting
//! for answers.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidegate::{Buffer, Connection, Handler, Payload, Refusal};

/// The most bytes that a client may ask for. Less than [`Limits::reply_bytes`](tidegate::Limits), so one answer is always taken.
pub const ANSWER_MAX: usize = 4_000;

/// The longest request, its line feed included.
pub const REQUEST_MAX: usize = 5;

/// The answer to a request for `length` bytes: a pattern that begins with the length, so that answers can be told apart.
pub fn answer(length: usize) -> Vec<u8> {
    let mut answer: Vec<u8> = format!("{length:04}").into_bytes().into_iter().cycle().take(length).collect();
    answer.push(b'\n');
    answer
}

/// What was received and is not answered yet.
#[derive(Default)]
pub struct Input {
    bytes: Vec<u8>,
}

impl Input {
    /// Takes the next whole request out: `Some(None)` if it is not a number that may be asked for.
    fn next_request(&mut self) -> Option<Option<usize>> {
        let end = self.bytes.iter().position(|&byte| byte == b'\n');
        let Some(end) = end else {
            return (self.bytes.len() >= REQUEST_MAX).then_some(None);
        };
        let line: Vec<u8> = self.bytes.drain(..=end).collect();
        let number = std::str::from_utf8(&line[..end]).ok().and_then(|text| text.parse().ok());
        Some(number.filter(|&number| number <= ANSWER_MAX))
    }
}

/// Answers every request at once. **The bug:** when the send queue is full, `send` refuses, and the answer is lost.
///
/// With a client that waits for each answer this never happens, and neither does it with one that reads quickly.
#[derive(Default)]
pub struct Forgetful {
    input: Input,
}

impl Handler for Forgetful {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        self.input.bytes.extend_from_slice(&data);
        while let Some(request) = self.input.next_request() {
            match request {
                Some(length) => drop(connection.send(answer(length))),
                None => return connection.abort(),
            }
        }
    }
}

/// Answers a request only when the answer before it was taken; until then it doesn't read on.
pub struct Careful {
    input: Input,
    /// An answer that was refused.
    refused: Option<Payload>,
    peer_finished: bool,
    watch: Arc<Watch>,
}

/// What a test may look at from outside.
#[derive(Default)]
pub struct Watch {
    /// The most unanswered input that any connection has held, in bytes.
    pub input_bytes_most: AtomicUsize,
}

impl Careful {
    pub fn new(watch: &Arc<Watch>) -> Self {
        Self { input: Input::default(), refused: None, peer_finished: false, watch: Arc::clone(watch) }
    }

    fn go_on(&mut self, connection: &mut Connection<'_>) {
        loop {
            let next = match self.refused.take() {
                Some(refused) => refused,
                None => match self.input.next_request() {
                    Some(Some(length)) => answer(length).into(),
                    Some(None) => return connection.abort(),
                    None => break,
                },
            };
            if let Err(refused) = connection.send(next) {
                // `on_writable` comes when there is room; a connection that no longer sends needs no answer.
                if refused.why != Refusal::Closing {
                    self.refused = Some(refused.payload);
                    connection.pause_read();
                }
                return;
            }
        }
        connection.resume_read();
        if self.peer_finished {
            connection.shutdown();
        }
    }
}

impl Handler for Careful {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        self.input.bytes.extend_from_slice(&data);
        self.watch.input_bytes_most.fetch_max(self.input.bytes.len(), Ordering::Relaxed);
        self.go_on(connection);
    }

    fn on_writable(&mut self, connection: &mut Connection<'_>) {
        self.go_on(connection);
    }

    fn on_peer_shutdown(&mut self, connection: &mut Connection<'_>) {
        self.peer_finished = true;
        self.go_on(connection);
    }
}
