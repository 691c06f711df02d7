//! A service whose work is done elsewhere.

use std::collections::VecDeque;

use tidegate::{Buffer, CloseReason, Connection, Handler};

use super::services::Witness;

/// Sends back what comes, by way of a worker: each piece is a job, and its result the answer.
pub struct Offloads {
    /// Pieces for which there was no room among the jobs.
    pieces: VecDeque<Vec<u8>>,
    /// Results for which there was no room in the queue.
    answers: VecDeque<Vec<u8>>,
    peer_finished: bool,
    witness: Witness,
}

impl Offloads {
    pub fn new(witness: Witness) -> Self {
        Self { pieces: VecDeque::new(), answers: VecDeque::new(), peer_finished: false, witness }
    }

    fn go_on(&mut self, connection: &mut Connection<'_, Vec<u8>>) {
        while let Some(answer) = self.answers.pop_front() {
            if let Err(refused) = connection.send(answer) {
                self.answers.push_front(refused.payload.as_slice().to_vec());
                return;
            }
        }
        while let Some(piece) = self.pieces.pop_front() {
            let kept = piece.clone();
            if connection.offload(move || piece).is_err() {
                self.pieces.push_front(kept);
                return;
            }
        }
        if self.peer_finished && connection.offloads_outstanding() == 0 {
            connection.shutdown();
        }
    }
}

impl Handler for Offloads {
    type Message = Vec<u8>;

    fn on_read(&mut self, connection: &mut Connection<'_, Vec<u8>>, data: Buffer) {
        self.witness.hears(data.len());
        self.pieces.extend(data.chunks(1 << 10).map(<[u8]>::to_vec));
        self.go_on(connection);
    }

    fn on_message(&mut self, connection: &mut Connection<'_, Vec<u8>>, answer: Vec<u8>) {
        self.answers.push_back(answer);
        self.go_on(connection);
    }

    fn on_writable(&mut self, connection: &mut Connection<'_, Vec<u8>>) {
        self.go_on(connection);
    }

    fn on_peer_shutdown(&mut self, connection: &mut Connection<'_, Vec<u8>>) {
        // While an answer is refused no piece is tried again: then the end may come before those.
        if connection.offloads_outstanding() > 0 || (self.answers.is_empty() && !self.pieces.is_empty()) {
            self.witness.complaints.add("the peer's end came before the results".into());
        }
        self.peer_finished = true;
        self.go_on(connection);
    }

    fn on_sent(&mut self, _connection: &mut Connection<'_, Vec<u8>>, bytes: usize) {
        self.witness.sends(bytes);
    }

    fn on_close(self, reason: &CloseReason) {
        self.witness.ends(reason);
    }
}
