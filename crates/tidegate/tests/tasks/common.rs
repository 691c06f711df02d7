//! Clients, and servers with one listener.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::Duration;

use tidegate::sim::{Client, Next, Peer, Simulation};
use tidegate::{Limits, Listener, Server, ServerBuilder, task};

/// Where the servers of these tests listen.
pub fn listener() -> Listener {
    Listener::tcp(SocketAddr::from(([10, 0, 0, 1], 7007)))
}

/// A server with one I/O thread.
pub fn server(limits: Limits) -> ServerBuilder {
    Server::builder().threads(NonZeroUsize::MIN).limits(limits)
}

/// Before the first client comes.
pub const SOON: Duration = Duration::from_millis(1);

/// Bytes that tell by their values where they belong.
pub fn numbered(count: usize) -> Vec<u8> {
    (0..count).map(|number| (number ^ number >> 8) as u8).collect()
}

/// A clean world with a server whose connections `serve` serves.
pub fn world<F, Fut>(limits: Limits, serve: F) -> (Simulation, SocketAddr)
where
    F: Fn(task::Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), task::Error>> + 'static,
{
    let mut simulation = Simulation::new(1);
    let address = simulation.serve(server(limits).listen_async(listener(), serve)).expect("sound limits")[0];
    (simulation, address)
}

/// What a client has received, and how it ended: in order or not.
#[derive(Default)]
pub struct Seen {
    pub bytes: Vec<u8>,
    pub ended: Option<Result<(), io::ErrorKind>>,
}

/// What a client does, in this order.
pub enum Do {
    Write(Vec<u8>),
    /// Waits until so many bytes have come in all.
    Await(usize),
    Finish,
    /// Waits for the end of what the server sends.
    AwaitEnd,
    /// Waits this long.
    Pause(Duration),
    /// Reads nothing more until the next pause is over.
    StopReading,
    Close,
    Reset,
}

/// Follows a script, and reads all the time unless it is stopped.
pub struct Scripted {
    steps: std::collections::VecDeque<Do>,
    written: usize,
    until: Option<tidegate::Time>,
    is_reading: bool,
    seen: Rc<RefCell<Seen>>,
}

/// Lets a client begin that follows `steps`, `after` from now.
pub fn client(simulation: &mut Simulation, address: SocketAddr, after: Duration, steps: Vec<Do>) -> Rc<RefCell<Seen>> {
    let seen = Rc::new(RefCell::new(Seen::default()));
    simulation.client(
        address,
        after,
        Scripted { steps: steps.into(), written: 0, until: None, is_reading: true, seen: Rc::clone(&seen) },
    );
    seen
}

impl Scripted {
    fn read(&self, peer: &mut Peer) {
        let mut seen = self.seen.borrow_mut();
        let mut bytes = [0; 4096];
        while seen.ended.is_none() {
            match peer.read(&mut bytes) {
                Ok(0) => seen.ended = Some(Ok(())),
                Ok(length) => seen.bytes.extend_from_slice(&bytes[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => seen.ended = Some(Err(error.kind())),
            }
        }
    }
}

impl Client for Scripted {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        loop {
            if self.is_reading {
                self.read(peer);
            }
            let Some(step) = self.steps.front() else { return Next::Close };
            let (received, ended) = (self.seen.borrow().bytes.len(), self.seen.borrow().ended);
            match step {
                Do::Write(bytes) => match peer.write(&bytes[self.written..]) {
                    Ok(count) if self.written + count == bytes.len() => self.written = 0,
                    Ok(count) => {
                        self.written += count;
                        return Next::Wait;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Wait,
                    Err(_) => {}
                },
                Do::Await(count) if received >= *count || ended.is_some() => {}
                Do::AwaitEnd if ended.is_some() => {}
                Do::Pause(time) => match self.until {
                    Some(until) if peer.now() >= until => (self.until, self.is_reading) = (None, true),
                    Some(_) => return Next::Wait,
                    None => {
                        self.until = Some(peer.now() + *time);
                        peer.wake_after(*time);
                        return Next::Wait;
                    }
                },
                Do::StopReading => self.is_reading = false,
                Do::Await(_) | Do::AwaitEnd => return Next::Wait,
                Do::Finish => drop(peer.shutdown_write()),
                Do::Close => return Next::Close,
                Do::Reset => return Next::Reset,
            }
            self.steps.pop_front();
        }
    }
}
