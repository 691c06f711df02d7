//! Asking a silent peer whether it is still there.

use std::sync::Arc;
use std::time::Duration;

use super::{
    Above, Below, Down, Fill, Filter, FilterContext, FilterError, FilterFactory, FilterFailure, FilterPeer, Read,
    Reserve,
};
use crate::memory::Payload;
use crate::time::Time;

/// What a message of the peer is to [`KeepAlive`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// A message for whoever is above.
    Message,
    /// The answer to a ping of ours: goes no further.
    Answer,
    /// A ping of the peer, which goes no further, and the answer to it.
    Ping(Vec<u8>),
}

/// How pings and their answers are written in a protocol.
///
/// It sees whole messages, as the filter below hands them up and takes them.
pub trait KeepAliveCodec: Send + Sync + 'static {
    /// The most that a ping or an answer has, in bytes: kept for each connection.
    fn bytes_max(&self) -> usize;

    /// The ping that is sent as the `number`th of its connection, from 1.
    fn ping(&self, number: u64) -> Vec<u8>;

    /// What a message is that the peer has sent.
    ///
    /// # Errors
    /// [`FilterError`] ends the connection: a ping that is not as it must be.
    fn hear(&self, message: &[u8]) -> Result<Heard, FilterError>;
}

/// Sends a ping when the peer has been silent for a while, and gives up when it doesn't answer
/// ([`NoAnswer`](crate::CloseReason::NoAnswer)); answers its pings.
///
/// It sits on top of a filter that cuts the stream into messages: what that hands up in one piece is one message, and a ping goes down as a
/// message of its own, between others. Anything that the peer sends shows that it is there, answers or not. While we don't read, its silence
/// says nothing, and time begins anew when reading goes on. A ping waits behind what is on its way to a peer that takes
/// nothing: [`Limits::min_send_progress`](crate::Limits::min_send_progress) is for those.
///
/// The answer to a ping of the peer is sent before anything else; until it is, no other message is read, so that a peer that pings
/// without reading is not read either.
///
/// ```
/// use std::time::Duration;
/// use tidegate::filter::{FilterError, Heard, KeepAlive, KeepAliveCodec};
///
/// /// A message of one byte: 1 is a ping, 2 its answer.
/// struct Knock;
///
/// impl KeepAliveCodec for Knock {
///     fn bytes_max(&self) -> usize {
///         1
///     }
///
///     fn ping(&self, _number: u64) -> Vec<u8> {
///         vec![1]
///     }
///
///     fn hear(&self, message: &[u8]) -> Result<Heard, FilterError> {
///         Ok(match message {
///             [1] => Heard::Ping(vec![2]),
///             [2] => Heard::Answer,
///             _ => Heard::Message,
///         })
///     }
/// }
///
/// // After 20 s of silence a ping, and two more 5 s apart: given up after 35 s.
/// let keep_alive = KeepAlive::new(Knock).after(Duration::from_secs(20)).answer_within(Duration::from_secs(5)).pings(3);
/// ```
#[derive(Clone)]
pub struct KeepAlive {
    codec: Arc<dyn KeepAliveCodec>,
    after: Duration,
    answer_within: Duration,
    pings: u32,
}

impl KeepAlive {
    /// After how much silence the first ping is sent, by default.
    pub const AFTER: Duration = Duration::from_secs(30);
    /// How long an answer may take, by default.
    pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);
    /// How many pings are sent, by default.
    pub const PINGS: u32 = 3;

    /// With pings as `codec` writes them.
    pub fn new(codec: impl KeepAliveCodec) -> Self {
        let (after, answer_within, pings) = (Self::AFTER, Self::ANSWER_WITHIN, Self::PINGS);
        Self { codec: Arc::new(codec), after, answer_within, pings }
    }

    /// After how much silence the first ping is sent. Default: 30 s.
    pub fn after(mut self, silence: Duration) -> Self {
        self.after = silence;
        self
    }

    /// How long after a ping anything must come; then the next one is sent, or the connection ends. Default: 10 s.
    pub fn answer_within(mut self, time: Duration) -> Self {
        self.answer_within = time;
        self
    }

    /// How many pings in a row stay without an answer until the connection ends. Default: 3.
    ///
    /// # Panics
    /// If that is 0.
    pub fn pings(mut self, count: u32) -> Self {
        assert!(count > 0, "without a ping there is no answer");
        self.pings = count;
        self
    }
}

impl std::fmt::Debug for KeepAlive {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { codec: _, after, answer_within, pings } = self;
        formatter
            .debug_struct("KeepAlive")
            .field("after", after)
            .field("answer_within", answer_within)
            .field("pings", pings)
            .finish_non_exhaustive()
    }
}

impl FilterFactory for KeepAlive {
    fn reserve(&self) -> Reserve {
        let bytes_max = self.codec.bytes_max();
        // An answer that waits, and what is made of a ping or an answer.
        Reserve { state_bytes: size_of::<Asking>() + bytes_max, write_bytes: bytes_max }
    }

    fn make(&self, _peer: &FilterPeer) -> Result<Box<dyn Filter>, FilterError> {
        let options = self.clone();
        Ok(Box::new(Asking {
            options,
            heard: None,
            answer: None,
            ping: Ping::None,
            sent: 0,
            unanswered: 0,
            over: false,
        }))
    }
}

struct Asking {
    options: KeepAlive,
    /// When the peer was heard of last, or the present wait began; unknown before the first call.
    heard: Option<Time>,
    /// What is to be answered.
    answer: Option<Vec<u8>>,
    ping: Ping,
    /// How many pings were sent in all.
    sent: u64,
    /// How many of them since the peer was heard of.
    unanswered: u32,
    /// We have finished, or the peer has: nobody asks any more.
    over: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ping {
    /// None is on its way.
    None,
    /// It is time for one.
    Due,
    /// It was sent then, and nothing has come since.
    Sent(Time),
}

impl Asking {
    /// When what is waited for must have come.
    fn wait_ends(&self) -> Option<Time> {
        match self.ping {
            Ping::None => Some(self.heard? + self.options.after),
            Ping::Due => None,
            Ping::Sent(at) => Some(at + self.options.answer_within),
        }
    }

    fn check(&self, bytes: &[u8]) -> Result<(), FilterError> {
        let (length, most) = (bytes.len(), self.options.codec.bytes_max());
        if length <= most {
            return Ok(());
        }
        Err(FilterError::new(
            FilterFailure::TooLarge,
            format!("a ping or its answer with {length} bytes: the most is {most}"),
        ))
    }
}

impl Filter for Asking {
    fn name(&self) -> &'static str {
        "keep-alive"
    }

    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
        self.heard.get_or_insert(context.now());
        loop {
            if self.answer.is_some() {
                // First things first: called again when it is written.
                return Ok(Read::Starved);
            }
            match below.fill(context)? {
                Fill::Data => {}
                Fill::Starved => return Ok(Read::Starved),
                Fill::NoMemory => return Ok(Read::NoMemory),
                Fill::Finished => {
                    self.over = true;
                    return Ok(Read::Finished);
                }
            }
            (self.heard, self.ping, self.unanswered) = (Some(context.now()), Ping::None, 0);
            let heard = self.options.codec.hear(below.bytes())?;
            let Some(message) = below.take() else { return Ok(Read::Starved) };
            match heard {
                Heard::Message => return Ok(Read::Data(message)),
                Heard::Answer => {}
                Heard::Ping(answer) => {
                    self.check(&answer)?;
                    // When we have finished, there is no way to answer.
                    self.answer = Some(answer).filter(|answer| !self.over && !answer.is_empty());
                }
            }
        }
    }

    fn write(
        &mut self,
        above: &mut Above<'_>,
        down: &mut Down<'_>,
        context: &mut FilterContext<'_>,
    ) -> Result<(), FilterError> {
        if let Some(answer) = self.answer.take_if(|answer| answer.len() <= down.room_bytes()) {
            down.push(Payload::from(answer));
        }
        if self.ping == Ping::Due {
            let ping = self.options.codec.ping(self.sent + 1);
            self.check(&ping)?;
            if ping.len() <= down.room_bytes() {
                down.push(Payload::from(ping));
                self.sent += 1;
                self.unanswered += 1;
                self.ping = Ping::Sent(context.now());
            }
        }
        // A message that was begun is passed on whole: what is ours never comes into the middle of one.
        if self.wants_write() { Ok(()) } else { super::pass_all(above, down, context) }
    }

    fn wants_write(&self) -> bool {
        self.answer.is_some() || self.ping == Ping::Due
    }

    fn finish(&mut self, _context: &mut FilterContext<'_>) {
        // An answer that waits still goes out; a ping would have no sense.
        self.over = true;
        if self.ping == Ping::Due {
            self.ping = Ping::None;
        }
    }

    fn deadline(&self) -> Option<Time> {
        // With an answer that waits we don't read.
        self.wait_ends().filter(|_| !self.over && self.answer.is_none())
    }

    fn time_passed(&mut self, context: &mut FilterContext<'_>) -> Result<(), FilterError> {
        // What the peer has sent may lie unread, or have been until lately.
        let since = context.reading_since().unwrap_or(context.now());
        match &mut self.ping {
            Ping::None => self.heard = self.heard.max(Some(since)),
            Ping::Due => {}
            Ping::Sent(at) => *at = since.max(*at),
        }
        if self.wait_ends().is_none_or(|end| end > context.now()) {
            return Ok(());
        }
        if self.unanswered == self.options.pings {
            let text = format!("{} pings, {:?} apart, without an answer", self.unanswered, self.options.answer_within);
            return Err(FilterError::new(FilterFailure::NoAnswer, text));
        }
        self.ping = Ping::Due;
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
#[path = "tests/keep_alive.rs"]
mod tests;
