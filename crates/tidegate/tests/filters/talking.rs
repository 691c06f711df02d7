//! Two servers' ends that talk through filters.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::sim::Simulation;
use tidegate::{
    Buffer, Client, CloseReason, ConnectError, Connected, Connection, Handler, Limits, Listener, Server, Target,
};

use crate::cipher::Ciphers;
use crate::common::{Echo, address, reasons, run};

/// Sends `total` bytes in messages of a size, wants them back, and finishes.
pub(crate) struct Asker {
    pub(crate) total: usize,
    pub(crate) message_bytes: usize,
    pub(crate) sent: usize,
    pub(crate) received: usize,
    pub(crate) outcome: Arc<Mutex<Vec<(usize, CloseReason)>>>,
}

impl Asker {
    fn push(&mut self, connection: &mut Connection<'_>) {
        while self.sent < self.total {
            let count = self.message_bytes.min(self.total - self.sent);
            let message: Vec<u8> = (self.sent..self.sent + count).map(|place| place as u8).collect();
            if connection.send(message).is_err() {
                return;
            }
            self.sent += count;
        }
    }
}

impl Handler for Asker {
    type Message = Infallible;

    fn on_connect(&mut self, connection: &mut Connection<'_>) {
        self.push(connection);
    }

    fn on_writable(&mut self, connection: &mut Connection<'_>) {
        self.push(connection);
    }

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        for (place, byte) in (self.received..).zip(data.iter()) {
            assert_eq!(*byte, place as u8, "byte {place}");
        }
        self.received += data.len();
        if self.received == self.total {
            connection.shutdown();
        }
    }

    fn on_close(self, reason: &CloseReason) {
        self.outcome.lock().expect("no panic").push((self.received, *reason));
    }
}

/// Runs askers against an echo, with filters between them; returns how they ended.
fn talk(seed: u64, total: usize, limits: Limits) -> Vec<(usize, CloseReason)> {
    let outcome = Arc::new(Mutex::new(Vec::new()));
    let mut simulation = Simulation::new(seed);
    let listener = Listener::tcp(address()).filter(Ciphers { key: 0x15 });
    let server = Server::builder().limits(limits).listen(listener, |accepted| {
        assert_eq!(accepted.description().protocol, Some(vec![0x15 ^ 0x70]));
        Echo
    });
    let told = Arc::clone(&outcome);
    let make = move |connected: &Connected| Asker {
        total,
        message_bytes: 9 + connected.tag as usize * 977,
        sent: 0,
        received: 0,
        outcome: Arc::clone(&told),
    };
    let (server, connector) = server.client(Client::tcp().filter(Ciphers { key: 0x70 }), make);
    let address = simulation.serve(server).expect("sound limits")[0];
    for tag in 0..4 {
        connector.connect(Target::new(address).tag(tag)).expect("room");
    }
    run(&mut simulation, Duration::from_secs(60));
    let outcome = outcome.lock().expect("no panic");
    outcome.clone()
}

#[test]
fn what_is_said_through_filters_on_both_sides_comes_once_in_order_and_ends_in_order() {
    for seed in 0..6 {
        let limits = Limits { max_connections: 100, send_memory_bytes: 200_000, ..Limits::default() };
        let outcome = talk(seed, 5_000, limits);
        assert_eq!(outcome.len(), 4, "seed {seed}: {outcome:?}");
        for &(received, reason) in &outcome {
            // A world may reset connections at random.
            let is_well = received == 5_000 && reason == CloseReason::Finished || reason == CloseReason::Reset;
            assert!(is_well, "seed {seed}: {outcome:?}");
        }
    }
}

#[test]
fn a_client_whose_filters_are_never_established_is_told_so_once() {
    let mut simulation = Simulation::new(5);
    let failures = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&failures);
    // The other side echoes: the hello that comes back is one, but what follows is not.
    let listener = Listener::tcp(address());
    let limits = Limits { handshake_timeout: Duration::from_secs(3), ..Limits::default() };
    let server = Server::builder().limits(limits).listen(listener, |_| Silent);
    let client = Client::tcp().filter(Ciphers { key: 1 }).on_failed(move |failed| {
        told.lock().expect("no panic").push((failed.tag, failed.error));
    });
    let (server, connector) =
        server.client(client, |_: &Connected| -> Echo { panic!("a handler without a handshake") });
    let address = simulation.serve(server).expect("sound limits")[0];
    connector.connect(Target::new(address).tag(77)).expect("room");
    let report = run(&mut simulation, Duration::from_secs(20));
    let reason = CloseReason::HandshakeTimeout;
    assert_eq!(*failures.lock().expect("no panic"), [(77, ConnectError::NotEstablished { reason })]);
    assert!(reasons(&report).contains(&("handshake_timeout", 1)), "{:?}", reasons(&report));
}

/// Says nothing.
struct Silent;

impl Handler for Silent {
    type Message = Infallible;

    fn on_read(&mut self, _: &mut Connection<'_>, _: Buffer) {}
}
