//! The healthy clients: connections that echo message after message, compare every byte, and take the time of every answer.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::pattern;

/// A client that has no answer for so long stops asking: the verdict was lost long before.
const GIVE_UP: Duration = Duration::from_secs(5);

/// The largest message: as large as the reply that a server by default promises to take whatever others do.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Between an answer and the next message. So a client asks up to 200 times a second, and all of them leave the processors to
/// the attackers.
const PAUSE: Duration = Duration::from_millis(5);

/// What clients have seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Messages that came back, right or wrong.
    pub messages: u64,
    /// Messages that came back wrong.
    pub mismatches: u64,
    /// The longest that an answer took.
    pub worst: Duration,
    /// Why clients could not go on, in words.
    pub ended: Vec<String>,
}

impl Seen {
    /// What both have seen.
    pub fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.mismatches += other.mismatches;
        self.worst = self.worst.max(other.worst);
        self.ended.extend(other.ended);
    }
}

/// Healthy clients at work, a thread each.
pub struct HealthyClients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Seen>>,
    first: Receiver<()>,
}

impl HealthyClients {
    /// Starts `count` of them.
    pub fn start(address: SocketAddr, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (say, first) = sync_channel(count);
        let threads = (0..count)
            .map(|number| {
                let stop = Arc::clone(&stop);
                let say = say.clone();
                std::thread::spawn(move || {
                    let mut client = Client::new(number as u64 + 1);
                    client.work(address, |_| {
                        let _ = say.try_send(());
                        !stop.load(Ordering::Relaxed)
                    });
                    client.seen
                })
            })
            .collect();
        Self { stop, threads, first }
    }

    /// Waits until so many answers have come as there are clients, or all of them have given up.
    pub fn wait_for_answers(&self) {
        for _ in 0..self.threads.len() {
            if self.first.recv_timeout(GIVE_UP).is_err() {
                return;
            }
        }
    }

    /// Lets them take their last answer, half-close and see the end, and returns what they have seen.
    pub fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut seen = Seen::default();
        for thread in self.threads {
            match thread.join() {
                Ok(one) => seen.add(one),
                Err(_) => seen.ended.push("a healthy client panicked".into()),
            }
        }
        seen
    }
}

/// Connects, echoes one message, and leaves: what a newcomer sees.
pub fn newcomer(address: SocketAddr) -> Seen {
    let mut client = Client::new(u64::from(u32::MAX));
    let begun = Instant::now();
    client.work(address, |_| false);
    client.seen.worst = client.seen.worst.max(begun.elapsed());
    client.seen
}

struct Client {
    seed: u64,
    seen: Seen,
    sent: Vec<u8>,
    came: Vec<u8>,
}

impl Client {
    fn new(seed: u64) -> Self {
        Self { seed, seen: Seen::default(), sent: vec![0; MESSAGE_BYTES_MAX], came: vec![0; MESSAGE_BYTES_MAX] }
    }

    /// Echoes messages until `go_on` (which gets their number) says no, then ends the connection in order.
    fn work(&mut self, address: SocketAddr, mut go_on: impl FnMut(u64) -> bool) {
        let begun = Instant::now();
        let outcome = connect(address).and_then(|mut stream| {
            while self.echo(&mut stream)? && go_on(self.seen.messages) {
                std::thread::sleep(PAUSE);
            }
            if self.seen.mismatches == 0 { leave(&mut stream) } else { Ok(()) }
        });
        if let Err(error) = outcome {
            self.seen.worst =
                self.seen.worst.max(if self.seen.messages == 0 { begun.elapsed() } else { Duration::ZERO });
            let text = match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("no answer within {GIVE_UP:?}"),
                _ => error.to_string(),
            };
            self.seen.ended.push(format!("client {} after {} messages: {text}", self.seed, self.seen.messages));
        }
    }

    /// One message there and back. `Ok(false)`: it came back wrong.
    fn echo(&mut self, stream: &mut TcpStream) -> io::Result<bool> {
        let seed = pattern::step(self.seed << 32 | (self.seen.messages + 1));
        let length = 1 + (seed % MESSAGE_BYTES_MAX as u64) as usize;
        let (sent, came) = (&mut self.sent[..length], &mut self.came[..length]);
        pattern::fill(seed, sent);
        let begun = Instant::now();
        let outcome = stream.write_all(sent).and_then(|()| stream.read_exact(came));
        self.seen.worst = self.seen.worst.max(begun.elapsed());
        outcome?;
        self.seen.messages += 1;
        let right = sent == came;
        self.seen.mismatches += u64::from(!right);
        Ok(right)
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, GIVE_UP)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(GIVE_UP))?;
    stream.set_write_timeout(Some(GIVE_UP))?;
    Ok(stream)
}

/// Half-closes; nothing but the end of the stream may follow.
fn leave(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown(std::net::Shutdown::Write)?;
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::Error::other("more bytes, where the end should be")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Serves one connection with `answer`, which changes what came in.
    fn serve_one(answer: fn(&mut [u8])) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("somebody comes");
            let mut bytes = [0; MESSAGE_BYTES_MAX];
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                answer(&mut bytes[..count]);
                if stream.write_all(&bytes[..count]).is_err() {
                    return;
                }
            }
        });
        (address, thread)
    }

    #[test]
    fn an_echo_is_counted_and_timed() {
        let (address, server) = serve_one(|_| {});
        let seen = newcomer(address);
        server.join().expect("it serves");
        assert_eq!((seen.messages, seen.mismatches, seen.ended.len()), (1, 0, 0), "{seen:?}");
        assert!(seen.worst > Duration::ZERO);
    }

    #[test]
    fn one_wrong_bit_is_a_mismatch() {
        let (address, server) = serve_one(|bytes| bytes[0] ^= 1);
        let seen = newcomer(address);
        server.join().expect("it serves");
        assert_eq!((seen.messages, seen.mismatches), (1, 1), "{seen:?}");
    }

    #[test]
    fn a_connection_that_is_closed_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let server = std::thread::spawn(move || drop(listener.accept().expect("somebody comes")));
        let seen = newcomer(address);
        server.join().expect("it accepts");
        assert_eq!((seen.messages, seen.ended.len()), (0, 1), "{seen:?}");
    }
}
