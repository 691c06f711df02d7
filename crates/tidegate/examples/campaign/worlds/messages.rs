//! Reading a stream of messages that each begin with their length and are filled with one byte.

use std::io::ErrorKind;

use tidegate::sim::{Next, Peer};

/// What has come of a stream and is not a whole message yet.
pub struct Messages {
    /// The bytes before the filling, of which the first four are the length of the whole.
    head_bytes: usize,
    /// The longest.
    most_bytes: usize,
    begun: Vec<u8>,
}

impl Messages {
    pub fn new(head_bytes: usize, most_bytes: usize) -> Self {
        Self { head_bytes, most_bytes, begun: Vec::new() }
    }

    /// Reads all there is. `take` is handed the head of each whole message, and the byte that fills it if it has any.
    pub fn read(&mut self, peer: &mut Peer, mut take: impl FnMut(&[u8], Option<u8>) -> Result<(), String>) -> Next {
        let mut bytes = [0; 4096];
        loop {
            match peer.read(&mut bytes) {
                Ok(0) => return Next::Close,
                Ok(length) => self.begun.extend_from_slice(&bytes[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Next::Wait,
                // The world resets connections, and so does the server.
                Err(_) => return Next::Close,
            }
            if let Err(what) = self.cut(&mut take) {
                return Next::Failed(what);
            }
        }
    }

    fn cut(&mut self, take: &mut impl FnMut(&[u8], Option<u8>) -> Result<(), String>) -> Result<(), String> {
        let mut place = 0;
        while let Some(head) = self.begun.get(place..place + self.head_bytes) {
            let length = head[..4].iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
            if !(self.head_bytes..=self.most_bytes).contains(&length) {
                return Err(format!("a message of {length} bytes: torn"));
            }
            let Some(filling) = self.begun.get(place + self.head_bytes..place + length) else { break };
            let fill = filling.first().copied();
            if filling.iter().any(|&byte| Some(byte) != fill) {
                return Err(format!("a message of {length} bytes with bytes of another: torn"));
            }
            take(head, fill)?;
            place += length;
        }
        self.begun.drain(..place);
        Ok(())
    }
}

/// A number in a head, its first byte first.
pub fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}
