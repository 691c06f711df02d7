//! The clients of the service of messages: each gets its messages back, whole and once, or breaks a rule of one of the filters.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tidegate::Time;
use tidegate::sim::{Client, Next, Peer, Simulation};

use super::framed::{ANSWER, BUSY, DENIED, NUMBER_BYTES, PING, STRANGE, TRUSTED, Terms, message};

/// What a client is up to, once it has sent its messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// Finishes, and gets everything back.
    Whole,
    /// The same, and sends pings of its own.
    Asking,
    /// Is silent, answers pings, and finishes in the end.
    Lasting,
    /// Answers no ping any more.
    Deaf,
    /// Announces a message that is too large.
    Oversized,
    /// Sends a message without bytes, or one that means nothing.
    Broken,
    /// Stops in the middle of a message.
    Stalling,
    /// Finishes in the middle of a message.
    Cut,
    /// Resets.
    Rude,
    /// Begins with a header that is none.
    Garbled,
    /// Finishes in the middle of the header.
    Headless,
    /// Stops in the middle of the header.
    Hesitant,
    /// Comes from where no header is taken from.
    Stranger,
    /// Comes from where nobody may connect from.
    Denied,
}

impl Manner {
    const ALL: [Self; 14] = [
        Self::Whole,
        Self::Asking,
        Self::Lasting,
        Self::Deaf,
        Self::Oversized,
        Self::Broken,
        Self::Stalling,
        Self::Cut,
        Self::Rude,
        Self::Garbled,
        Self::Headless,
        Self::Hesitant,
        Self::Stranger,
        Self::Denied,
    ];

    /// The one that the port of a header stands for.
    pub fn of(port: u16) -> Option<Self> {
        Self::ALL.get(usize::from(port)).copied()
    }

    /// Whether it comes as far as a handler.
    pub fn is_served(self) -> bool {
        !matches!(self, Self::Garbled | Self::Headless | Self::Hesitant | Self::Stranger | Self::Denied)
    }

    /// Whether it breaks no rule.
    pub fn finishes(self) -> bool {
        matches!(self, Self::Whole | Self::Asking | Self::Lasting)
    }
}

pub struct FramedClient {
    terms: Terms,
    manner: Manner,
    /// The server may end the connection when it likes.
    is_lenient: bool,
    count: u32,
    /// Messages begun, of which the lengths of those that have not come back are here.
    begun: u32,
    lengths: VecDeque<usize>,
    /// What is to be written next.
    unwritten: Vec<u8>,
    /// The beginning of what has come.
    unread: Vec<u8>,
    /// Its last word is said.
    has_spoken: bool,
    has_finished: bool,
    /// How many pings it has sent that were not answered.
    asked: u32,
    /// How many pings it wants to answer before it finishes.
    awaits: u32,
    /// How many pings have come since all that it has said came back.
    pinged: u32,
    /// It was told that there is no room for it.
    is_refused: bool,
    resets_at: Option<Time>,
}

impl FramedClient {
    /// A client, and where it comes from.
    pub fn new(simulation: &Simulation, terms: &Terms, is_lenient: bool) -> (Self, SocketAddr) {
        let choice = simulation.random_below(26) as usize;
        // Every other one breaks no rule.
        let manner = Manner::ALL[if choice < Manner::ALL.len() { choice } else { choice % 3 }];
        let count = 1 + simulation.random_below(1 << simulation.random_below(7)) as u32;
        let client = Self {
            terms: terms.clone(),
            manner,
            is_lenient,
            count,
            begun: 0,
            lengths: VecDeque::new(),
            unwritten: header(simulation, manner, count as u16),
            unread: Vec::new(),
            has_spoken: false,
            has_finished: false,
            asked: 0,
            awaits: if manner == Manner::Lasting { 1 + simulation.random_below(2) as u32 } else { 0 },
            pinged: 0,
            is_refused: false,
            resets_at: None,
        };
        let network = match manner {
            Manner::Stranger => STRANGE,
            Manner::Denied => DENIED,
            _ => TRUSTED,
        };
        let (third, fourth) = (simulation.random_below(256) as u8, simulation.random_below(256) as u8);
        (client, SocketAddr::from(([10, network, third, fourth], 40_000)))
    }

    fn write(&mut self, peer: &mut Peer) -> Result<(), ErrorKind> {
        loop {
            while !self.unwritten.is_empty() {
                match peer.write(&self.unwritten) {
                    Ok(written) => drop(self.unwritten.drain(..written)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error.kind()),
                }
            }
            if !matches!(self.manner, Manner::Headless | Manner::Hesitant) && self.begun < self.count {
                self.begin_message(peer);
            } else if !self.has_spoken {
                self.has_spoken = true;
                self.unwritten = self.last_words(peer);
            } else {
                break;
            }
        }
        let finishes = self.manner.finishes() || matches!(self.manner, Manner::Cut | Manner::Headless);
        if finishes && self.awaits == 0 && !self.has_finished {
            self.has_finished = true;
            peer.shutdown_write().map_err(|error| error.kind())?;
        }
        Ok(())
    }

    fn begin_message(&mut self, peer: &Peer) {
        let length = NUMBER_BYTES + peer.random_below((self.terms.max_bytes - NUMBER_BYTES + 1) as u64) as usize;
        self.unwritten = self.terms.frame(&message(self.begun, length));
        self.lengths.push_back(length);
        self.begun += 1;
        if self.manner == Manner::Asking && peer.random_below(2) == 0 {
            self.unwritten.extend(self.terms.frame(&[PING]));
            self.asked += 1;
        }
    }

    /// What breaks the rule that it breaks.
    fn last_words(&self, peer: &Peer) -> Vec<u8> {
        let max_bytes = self.terms.max_bytes;
        match self.manner {
            // By one byte, or by more.
            Manner::Oversized => {
                self.terms.prefix(max_bytes + 1 + peer.random_below(1 << peer.random_below(15)) as usize)
            }
            Manner::Broken if peer.random_below(2) == 0 => self.terms.prefix(0),
            Manner::Broken => self.terms.frame(&[BUSY]),
            Manner::Stalling | Manner::Cut => {
                let mut whole = self.terms.frame(&message(self.begun, max_bytes));
                whole.truncate(1 + peer.random_below(whole.len() as u64 - 1) as usize);
                whole
            }
            _ => Vec::new(),
        }
    }

    /// Returns whether the end of the stream was read.
    fn read(&mut self, peer: &mut Peer) -> Result<bool, String> {
        let mut bytes = [0; 2048];
        loop {
            match peer.read(&mut bytes) {
                Ok(0) => return Ok(true),
                Ok(length) => self.unread.extend_from_slice(&bytes[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                // The world resets connections, and so does the server.
                Err(_) => return Ok(true),
            }
            self.cut()?;
        }
    }

    /// Takes the whole messages off what has come.
    fn cut(&mut self) -> Result<(), String> {
        let unread = std::mem::take(&mut self.unread);
        let mut rest = &unread[..];
        while let Some((prefix, more)) = rest.split_at_checked(self.terms.prefix_bytes()) {
            let length = self.terms.length(prefix);
            if length == 0 || length > self.terms.max_bytes {
                return Err(format!("a message of {length} bytes came back: torn"));
            }
            let Some((message, more)) = more.split_at_checked(length) else { break };
            self.hear(message)?;
            rest = more;
        }
        self.unread = rest.to_vec();
        Ok(())
    }

    fn hear(&mut self, heard: &[u8]) -> Result<(), String> {
        let comes_back = self.begun - self.lengths.len() as u32;
        match heard {
            [BUSY] if comes_back == 0 && !self.is_refused => self.is_refused = true,
            _ if self.is_refused || !self.manner.is_served() => {
                return Err(format!("{} bytes came to {:?}, who is not served", heard.len(), self.manner));
            }
            [PING] => {
                self.awaits = self.awaits.saturating_sub(1);
                // When the last message has come back all that was ever said had been heard: from there on nothing is a sign of life.
                self.pinged += u32::from(self.begun == self.count && self.lengths.is_empty());
                if self.manner == Manner::Deaf && self.pinged > self.terms.pings {
                    return Err(format!("{} pings came to somebody who doesn't answer", self.pinged));
                }
                // There is no way in the middle of a message, or after the end.
                if self.begun < self.count || (self.manner.finishes() && !self.has_finished) {
                    self.unwritten.extend(self.terms.frame(&[ANSWER]));
                }
            }
            [ANSWER] if self.asked > 0 => self.asked -= 1,
            _ if self.lengths.pop_front() == Some(heard.len()) && *heard == message(comes_back, heard.len()) => {}
            _ => return Err(format!("{} bytes came that are not message {comes_back}", heard.len())),
        }
        Ok(())
    }

    /// What is wrong with an orderly end here, on a connection that is still there.
    fn judge_end(&self) -> Result<(), String> {
        let has_all = self.has_finished && self.lengths.is_empty() && self.asked == 0 && self.unread.is_empty();
        if self.is_lenient || self.is_refused || (self.manner.finishes() && has_all) {
            return Ok(());
        }
        let Self { manner, count, lengths, asked, has_finished, .. } = self;
        let missing = lengths.len();
        Err(format!("{manner:?} ended in order without {missing} of {count} messages, {asked} answers, {has_finished}"))
    }
}

impl Client for FramedClient {
    fn turn(&mut self, peer: &mut Peer) -> Next {
        if self.manner == Manner::Rude {
            let resets_at = *self.resets_at.get_or_insert_with(|| {
                let after = Duration::from_millis(1 + peer.random_below(3_000));
                peer.wake_after(after);
                peer.now() + after
            });
            if peer.now() >= resets_at {
                return Next::Reset;
            }
        }
        let connected = peer.is_connected();
        let is_broken = self.write(peer).is_err();
        match self.read(peer) {
            Err(what) => Next::Failed(what),
            Ok(true) if connected && peer.is_connected() => match self.judge_end() {
                Ok(()) => Next::Close,
                Err(what) => Next::Failed(what),
            },
            Ok(true) => Next::Close,
            Ok(false) if is_broken => Next::Close,
            Ok(false) => {
                // What it has heard may be a reason to answer, or to finish.
                if self.write(peer).is_err() { Next::Close } else { Next::Wait }
            }
        }
    }
}

/// The header of either version, as `manner` would send it.
fn header(simulation: &Simulation, manner: Manner, count: u16) -> Vec<u8> {
    let (source, destination) = ([192, 0, 2, simulation.random_below(256) as u8], [10, 0, 0, 1]);
    let port = Manner::ALL.iter().position(|&one| one == manner).unwrap_or_default() as u16;
    let mut header = if simulation.random_below(2) == 0 {
        let [from, to] = [source, destination].map(std::net::Ipv4Addr::from);
        format!("PROXY TCP4 {from} {to} {port} {count}\r\n").into_bytes()
    } else {
        let addresses = [source, destination].concat();
        let ports = [port.to_be_bytes(), count.to_be_bytes()].concat();
        [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C"[..], &addresses, &ports].concat()
    };
    match manner {
        Manner::Garbled => header[simulation.random_below(6) as usize] ^= 0x20,
        Manner::Headless | Manner::Hesitant => {
            header.truncate(1 + simulation.random_below(header.len() as u64 - 1) as usize);
        }
        _ => {}
    }
    header
}
