//! A client that says more and more while it waits for the answers, and checks every byte of them.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::common::{self, DEADLINE, pattern};

/// After this without an answer it says more: what a system told too early or too late is then told again.
const PATIENCE: Duration = Duration::from_millis(20);

/// What it says at once.
const PIECE_BYTES: usize = 2_000;

/// The most that it has unanswered before its patience is tried.
const AHEAD_BYTES: usize = 16_000;

pub struct Talker {
    stream: TcpStream,
    /// Said over and over.
    words: Vec<u8>,
    said: usize,
    heard: usize,
}

impl Talker {
    pub fn new(stream: TcpStream, seed: u64) -> Self {
        Self { stream, words: pattern(seed, 64 << 10), said: 0, heard: 0 }
    }

    /// Its end of the connection.
    pub fn port(&self) -> u16 {
        self.stream.local_addr().expect("it is connected").port()
    }

    /// So many bytes there and back again, at least. `None`: until the connection ends. Whether it is still open.
    pub fn talk(&mut self, length: Option<usize>) -> bool {
        self.stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        let mut progress = Instant::now();
        let end = length.map_or(usize::MAX, |length| self.heard + length);
        let mut chunk = vec![0; 64 << 10];
        while self.heard < end {
            while self.said - self.heard < AHEAD_BYTES {
                if !self.say() {
                    return false;
                }
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return false,
                Ok(count) => {
                    self.hear(&chunk[..count]);
                    progress = Instant::now();
                }
                Err(error) if common::is_timeout(&error) => {
                    let waited = progress.elapsed();
                    assert!(waited < DEADLINE, "{} bytes of {} came back, and no more", self.heard, self.said);
                    if !self.say() {
                        return false;
                    }
                }
                Err(error) if common::is_reset(&error) => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("after {} bytes: {error}", self.heard),
            }
        }
        true
    }

    /// Says one thing more, finishes, and hears the rest and the end. Returns how much was said, and heard.
    pub fn finish(mut self) -> u64 {
        assert!(self.say(), "the connection is broken");
        self.stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
        self.stream.shutdown(Shutdown::Write).expect("it is connected");
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("an end in order");
        self.hear(&rest);
        assert_eq!(self.heard, self.said, "bytes came back");
        self.said as u64
    }

    /// Ends the connection for a thread that talks on it.
    pub fn hang_up(&self) -> impl FnOnce() + use<> {
        let stream = self.stream.try_clone().expect("a descriptor");
        // It may have ended already.
        move || drop(stream.shutdown(Shutdown::Both))
    }

    fn say(&mut self) -> bool {
        let from = self.said % self.words.len();
        let to = (from + PIECE_BYTES).min(self.words.len());
        match self.stream.write(&self.words[from..to]) {
            Ok(count) => self.said += count,
            Err(error) if common::is_timeout(&error) || error.kind() == ErrorKind::Interrupted => {}
            Err(error) if common::is_reset(&error) => return false,
            Err(error) => panic!("after {} bytes: {error}", self.said),
        }
        true
    }

    fn hear(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let from = self.heard % self.words.len();
            let count = bytes.len().min(self.words.len() - from);
            assert!(bytes[..count] == self.words[from..from + count], "different bytes after {}", self.heard);
            assert!(self.heard + count <= self.said, "more comes back than was said");
            self.heard += count;
            bytes = &bytes[count..];
        }
    }
}
