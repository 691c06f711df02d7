//! Connections of the server itself that are made again whenever they end: to its own echo, and to where nobody listens.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate::sim::Simulation;
use tidegate::{
    Buffer, Client, Connection, ConnectionMaintaining, Connector, GaveUp, Handler, MaintainingEvent, MaintainingHandle,
    ServerBuilder, Target,
};

use super::client::byte_at;
use super::services::Complaints;

/// What is said first on each connection, in bytes.
const FIRST_BYTES: u64 = 40;

/// Where nobody listens.
const NOBODY: ([u8; 4], u16) = ([10, 0, 0, 1], 9);

/// The echo by its name.
const HOST: &str = "echo.test";

/// Gives the server clients of its own.
pub fn of(server: ServerBuilder, simulation: &Simulation, complaints: &Complaints) -> (ServerBuilder, Connector) {
    let timeout = Duration::from_millis(1 + simulation.random_below(300));
    let complaints = complaints.clone();
    server.client(Client::tcp().connect_timeout(timeout), move |_| Steady::new(complaints.clone()))
}

/// Begins a few, and cancels some of them later. Tells what becomes of each.
pub fn begin(
    simulation: &mut Simulation,
    connector: &Connector,
    echo: SocketAddr,
    complaints: &Complaints,
) -> Vec<Story> {
    let count = 1 + simulation.random_below(3);
    let mut stories = Vec::new();
    simulation.name(HOST, &[Ipv4Addr::new(10, 0, 0, 99).into(), echo.ip()]);
    for _ in 0..count {
        let target = match simulation.random_below(8) {
            0 => Target::new(NOBODY.into()),
            // First where nobody listens, then at the echo.
            1..=3 => Target::host(HOST, echo.port()),
            _ => Target::new(echo),
        };
        let first: Vec<u8> = (0..FIRST_BYTES).map(byte_at).collect();
        let steady_after = Duration::from_millis(simulation.random_below(200));
        let story = Story::new(steady_after, complaints.clone());
        let told = story.clone();
        let wait = Duration::from_millis(simulation.random_below(50));
        let mut how = ConnectionMaintaining::new(target.first_data(first))
            .waits(wait, wait * 8)
            .steady_after(steady_after)
            .on_event(move |event| told.goes_on(event));
        if simulation.random_below(3) == 0 {
            how = how.attempts(1 + simulation.random_below(6) as u32);
        }
        let handle = match connector.maintain(how) {
            Ok(handle) => handle,
            Err(refused) => panic!("there is room for a few: {refused}"),
        };
        if simulation.random_below(3) == 0 {
            let after = Duration::from_millis(simulation.random_below(3_000));
            let story = story.clone();
            simulation.after(after, move |_| story.cancel(&handle));
        }
        stories.push(story);
    }
    stories
}

/// What has been told of one maintained connection: it must make sense.
#[derive(Clone)]
pub struct Story {
    chapter: Arc<Mutex<Chapter>>,
    complaints: Complaints,
}

#[derive(Debug)]
struct Chapter {
    is_connected: bool,
    steady_after: Duration,
    /// Attempts in a row that came to nothing, as far as was told.
    attempts: u32,
    is_cancelled: bool,
    is_over: bool,
}

impl Story {
    fn new(steady_after: Duration, complaints: Complaints) -> Self {
        let chapter = Chapter { is_connected: false, steady_after, attempts: 0, is_cancelled: false, is_over: false };
        Self { chapter: Arc::new(Mutex::new(chapter)), complaints }
    }

    fn goes_on(&self, event: &MaintainingEvent) {
        let mut chapter = self.chapter.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = !chapter.is_over
            && match event {
                MaintainingEvent::Connected { attempts, .. } => {
                    let fits = !chapter.is_connected && *attempts == chapter.attempts + 1;
                    chapter.is_connected = true;
                    fits
                }
                MaintainingEvent::Failed { attempts, .. } => {
                    let fits = !chapter.is_connected && *attempts == chapter.attempts + 1;
                    chapter.attempts = *attempts;
                    fits
                }
                MaintainingEvent::Lost { lasted, .. } => {
                    let is_steady = *lasted >= chapter.steady_after;
                    chapter.attempts = if is_steady { 0 } else { chapter.attempts + 1 };
                    std::mem::replace(&mut chapter.is_connected, false)
                }
                MaintainingEvent::GaveUp { because } => {
                    chapter.is_over = true;
                    !chapter.is_connected && (*because != GaveUp::Cancelled || chapter.is_cancelled)
                }
                _ => false,
            };
        if !fits {
            self.complaints.add(format!("a maintained connection was told {event:?} in {chapter:?}"));
        }
    }

    fn cancel(&self, handle: &MaintainingHandle) {
        self.chapter.lock().unwrap_or_else(PoisonError::into_inner).is_cancelled = true;
        handle.cancel();
    }

    /// Whether it was told to the end.
    pub fn is_over(&self) -> bool {
        self.chapter.lock().unwrap_or_else(PoisonError::into_inner).is_over
    }
}

/// Sends numbered bytes to an echo now and then, wants exactly those back, and ends when it likes.
struct Steady {
    /// With what is said first.
    sent: u64,
    heard: u64,
    complaints: Complaints,
}

impl Steady {
    fn new(complaints: Complaints) -> Self {
        Self { sent: FIRST_BYTES, heard: 0, complaints }
    }

    fn call_again(connection: &mut Connection<'_>) {
        let after = Duration::from_micros(connection.random() % 200_000);
        connection.set_timer(0, after);
    }
}

impl Handler for Steady {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        Self::call_again(connection);
    }

    fn on_read(&mut self, _connection: &mut Connection<'_>, data: Buffer) {
        for &byte in data.iter() {
            if self.heard >= self.sent || byte != byte_at(self.heard) {
                self.complaints.add(format!("byte {} of {} came back as {byte:#04x}", self.heard, self.sent));
                return;
            }
            self.heard += 1;
        }
    }

    fn on_timer(&mut self, connection: &mut Connection<'_>, _timer: u8) {
        match connection.random() % 12 {
            0 => connection.close(),
            1 => connection.abort(),
            2 => connection.shutdown(),
            _ => {
                let end = self.sent + connection.random() % 2_000;
                let bytes: Vec<u8> = (self.sent..end).map(byte_at).collect();
                if connection.send(bytes).is_ok() {
                    self.sent = end;
                }
            }
        }
        Self::call_again(connection);
    }
}
