//! What the servers of the campaign serve.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate::{Buffer, CloseReason, Connection, ConnectionHandle, Handler, Limits, Payload, Refusal};

/// What handlers have seen that must not be. A panic of theirs would only end their connection; this ends the run.
#[derive(Clone, Default)]
pub struct Complaints(Arc<Mutex<Option<String>>>);

impl Complaints {
    pub fn add(&self, what: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
    }

    /// `Err` with the first complaint, if there is one.
    pub fn check(&self) -> Result<(), String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err)
    }
}

/// Sees what happens to a connection, and whether the reason of its end fits.
#[derive(Clone)]
pub struct Witness {
    heard: u64,
    sent: u64,
    /// What is heard is sent back at once.
    is_prompt: bool,
    /// More is sent than is heard.
    publishes: bool,
    /// Jobs panic.
    panics: bool,
    /// The system is out of memory for longer than a connection waits for it.
    meets_shortage: bool,
    limits: Arc<Limits>,
    pub complaints: Complaints,
}

impl Witness {
    pub fn new(limits: &Limits) -> Self {
        Self {
            heard: 0,
            sent: 0,
            is_prompt: false,
            publishes: false,
            panics: false,
            meets_shortage: false,
            limits: Arc::new(limits.clone()),
            complaints: Complaints::default(),
        }
    }

    /// One that knows that what is heard is sent back at once.
    pub fn of_a_prompt_service(&self) -> Self {
        Self { is_prompt: true, ..self.clone() }
    }

    /// One that knows that jobs may panic.
    pub fn of_panics(&self) -> Self {
        Self { panics: true, ..self.clone() }
    }

    /// One that knows that the system runs out of memory, if `meets` says so.
    pub fn of_a_shortage(self, meets: bool) -> Self {
        Self { meets_shortage: meets, ..self }
    }

    /// One that knows that more is sent than is heard.
    pub fn of_a_publisher(&self) -> Self {
        Self { publishes: true, ..self.clone() }
    }

    pub fn hears(&mut self, bytes: usize) {
        self.heard += bytes as u64;
    }

    pub fn sends(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// A limit of time that is not the run's own is so long that nothing here ever reaches it.
    pub fn ends(&self, reason: &CloseReason) {
        let limits = &self.limits;
        let default = Limits::default();
        let fits = match reason {
            CloseReason::FirstByteTimeout => {
                limits.first_byte_timeout != default.first_byte_timeout && (self.heard, self.sent) == (0, 0)
            }
            CloseReason::IdleTimeout => {
                limits.idle_timeout != default.idle_timeout && (!self.is_prompt || self.sent == self.heard)
            }
            CloseReason::SendTooSlow => {
                limits.min_send_progress != default.min_send_progress && (self.sent < self.heard || self.publishes)
            }
            CloseReason::ReceiveTooSlow => limits.min_receive_rate.is_some() && self.heard > 0,
            // Only the publisher's queues refuse for so long, and it judges that for itself.
            CloseReason::SlowConsumer => false,
            CloseReason::SystemMemory => self.meets_shortage,
            CloseReason::OffloadPanicked => self.panics,
            _ => true,
        };
        if !fits {
            let (heard, sent) = (self.heard, self.sent);
            self.complaints.add(format!("ended as {reason} with {heard} bytes heard, {sent} sent, {limits:?}"));
        }
    }
}

/// Sends back what comes.
pub struct Echo {
    pub witness: Witness,
}

impl Handler for Echo {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        self.witness.hears(data.len());
        if let Err(refused) = connection.send(data) {
            self.witness.complaints.add(format!("an echo was refused: {refused}"));
        }
    }

    fn on_sent(&mut self, _connection: &mut Connection<'_>, bytes: usize) {
        self.witness.sends(bytes);
    }

    fn on_close(self, reason: &CloseReason) {
        self.witness.ends(reason);
    }
}

/// Sends back what comes, a little later: holds buffers meanwhile, and doesn't read while it holds many.
pub struct Later {
    held: VecDeque<Payload>,
    peer_finished: bool,
    witness: Witness,
}

impl Later {
    const HELD_MAX: usize = 3;

    pub fn new(witness: Witness) -> Self {
        Self { held: VecDeque::new(), peer_finished: false, witness }
    }

    /// Sends what is held, as far as it is taken; the rest waits for `on_writable`.
    fn send_held(&mut self, connection: &mut Connection<'_>) {
        while let Some(payload) = self.held.pop_front() {
            // A copy half of the time, so that send memory is charged.
            let payload =
                if connection.random().is_multiple_of(2) { Payload::copy_from(payload.as_slice()) } else { payload };
            if let Err(refused) = connection.send(payload) {
                self.held.push_front(refused.payload);
                return;
            }
        }
        connection.resume_read();
        if self.peer_finished {
            connection.shutdown();
        }
    }
}

impl Handler for Later {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        self.witness.hears(data.len());
        self.held.push_back(data.into());
        if self.held.len() >= Self::HELD_MAX {
            connection.pause_read();
        }
        let after = Duration::from_micros(connection.random() % 20_000);
        connection.set_timer(0, after);
    }

    fn on_timer(&mut self, connection: &mut Connection<'_>, _timer: u8) {
        self.send_held(connection);
    }

    fn on_writable(&mut self, connection: &mut Connection<'_>) {
        self.send_held(connection);
    }

    fn on_peer_shutdown(&mut self, connection: &mut Connection<'_>) {
        self.peer_finished = true;
        self.send_held(connection);
    }

    fn on_sent(&mut self, _connection: &mut Connection<'_>, bytes: usize) {
        self.witness.sends(bytes);
    }

    fn on_close(self, reason: &CloseReason) {
        self.witness.ends(reason);
    }
}

/// Sends back what comes until it loses patience: then it ends the connection in one of the ways there are.
pub struct Moody {
    pub witness: Witness,
    pub handle: Option<ConnectionHandle<Mood>>,
}

/// What a moody handler tells itself by its mailbox, as another thread would.
pub enum Mood {
    /// Finish sending.
    Finish,
    /// Panic.
    Panic,
}

impl Handler for Moody {
    type Message = Mood;

    fn on_connect(&mut self, connection: &mut Connection<'_, Mood>) {
        self.handle = Some(connection.handle());
        if connection.random().is_multiple_of(8) {
            connection.close();
        }
    }

    fn on_read(&mut self, connection: &mut Connection<'_, Mood>, data: Buffer) {
        self.witness.hears(data.len());
        if let Err(refused) = connection.send(data) {
            // After a half-close of our own nothing more is taken.
            if refused.why != Refusal::Closing {
                self.witness.complaints.add(format!("an echo was refused: {refused}"));
            }
        }
        let Some(handle) = &self.handle else { return };
        match connection.random() % 40 {
            0 => connection.close(),
            1 => connection.abort(),
            2 => connection.shutdown(),
            3 => handle.close(),
            4 => handle.abort(),
            5 => drop(handle.post(Mood::Finish)),
            6 => drop(handle.post(Mood::Panic)),
            8 => drop(connection.offload(|| -> Mood { panic!("{PLANNED}") })),
            7 => {
                connection.pause_read();
                let after = Duration::from_millis(connection.random() % 50);
                connection.set_timer(1, after);
            }
            _ => {}
        }
    }

    fn on_timer(&mut self, connection: &mut Connection<'_, Mood>, _timer: u8) {
        connection.resume_read();
    }

    fn on_message(&mut self, connection: &mut Connection<'_, Mood>, message: Mood) {
        match message {
            Mood::Finish => connection.shutdown(),
            Mood::Panic => panic!("{PLANNED}"),
        }
    }

    fn on_sent(&mut self, _connection: &mut Connection<'_, Mood>, bytes: usize) {
        self.witness.sends(bytes);
    }

    fn on_close(self, reason: &CloseReason) {
        self.witness.ends(reason);
    }
}

/// What a planned panic says.
pub const PLANNED: &str = "a panic that the run plans";
