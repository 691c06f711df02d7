//! Messages in a stream of bytes: told apart by a length before each, a delimiter after each, or by their fixed size.

use std::time::Duration;

use super::{
    Above, Below, Down, Fill, Filter, FilterContext, FilterError, FilterFactory, FilterFailure, FilterPeer, Read,
    Reserve, Tail,
};
use crate::time::Time;

/// The length before each message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prefix {
    /// One byte.
    U8,
    /// Two bytes, the most significant first.
    U16BigEndian,
    /// Two bytes, the least significant first.
    U16LittleEndian,
    /// Four bytes, the most significant first.
    U32BigEndian,
    /// Four bytes, the least significant first.
    U32LittleEndian,
    /// Eight bytes, the most significant first.
    U64BigEndian,
    /// Eight bytes, the least significant first.
    U64LittleEndian,
}

impl Prefix {
    const fn len(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16BigEndian | Self::U16LittleEndian => 2,
            Self::U32BigEndian | Self::U32LittleEndian => 4,
            Self::U64BigEndian | Self::U64LittleEndian => 8,
        }
    }

    const fn is_big_endian(self) -> bool {
        matches!(self, Self::U8 | Self::U16BigEndian | Self::U32BigEndian | Self::U64BigEndian)
    }

    /// The largest number that it can say.
    const fn largest(self) -> u64 {
        u64::MAX >> (64 - 8 * self.len())
    }

    /// The number that `bytes` say, which are as many as it has.
    fn read(self, bytes: &[u8]) -> u64 {
        let add = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
        if self.is_big_endian() { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) }
    }

    fn write(self, number: u64) -> Vec<u8> {
        let count = self.len();
        if self.is_big_endian() {
            number.to_be_bytes()[8 - count..].to_vec()
        } else {
            number.to_le_bytes()[..count].to_vec()
        }
    }
}

/// What becomes of a message without bytes. A handler never gets one: there is always at least one byte to `on_read`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Empty {
    /// It is passed over, as a sign of life.
    Skipped,
    /// It ends the connection.
    Refused,
}

/// Cuts what is received into messages, and marks where those that are sent end.
///
/// `on_read` gets one whole message each time, without its prefix or delimiter; each message that is sent goes out with it. What has come of a
/// message that isn't whole is kept in memory of its own, charged to send memory by what has come: never by what a length announces.
///
/// ```
/// use tidegate::Listener;
/// use tidegate::filter::framing::{Framing, Prefix};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let lines = Framing::delimiter("\r\n", 1000).message_timeout(std::time::Duration::from_secs(10));
/// let text = Listener::tcp("127.0.0.1:7007".parse()?).filter(lines);
/// let records = Listener::tcp("127.0.0.1:7008".parse()?).filter(Framing::prefix(Prefix::U32BigEndian, 64 << 10));
/// # let _ = (text, records);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Framing {
    kind: Kind,
    max_bytes: usize,
    empty: Empty,
    message_timeout: Option<Duration>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    Prefix { prefix: Prefix, counts_itself: bool },
    Delimiter { delimiter: Vec<u8>, is_kept: bool, may_lack: bool },
    Fixed,
}

impl Framing {
    /// The largest message that there can be, in bytes: a maximum beyond it is taken for this. With what marks it, a message fits into
    /// one [`Buffer`](crate::Buffer).
    pub const MAX_BYTES: usize = 1 << 30;

    /// A length before each message, which has at most `max_bytes` without it, in either direction. A message without bytes is
    /// [refused](Empty::Refused) by default.
    pub fn prefix(prefix: Prefix, max_bytes: usize) -> Self {
        Self::of(Kind::Prefix { prefix, counts_itself: false }, max_bytes, Empty::Refused)
    }

    /// `delimiter` after each message, which has at most `max_bytes` without it, in either direction. A message without bytes (an empty line) is
    /// [skipped](Empty::Skipped) by default; [`keep_delimiter`](Self::keep_delimiter) lets it be seen.
    ///
    /// What is sent must not contain the delimiter, which is not looked for.
    ///
    /// # Panics
    /// If `delimiter` is empty.
    pub fn delimiter(delimiter: impl Into<Vec<u8>>, max_bytes: usize) -> Self {
        let delimiter = delimiter.into();
        assert!(!delimiter.is_empty(), "a delimiter has at least one byte");
        Self::of(Kind::Delimiter { delimiter, is_kept: false, may_lack: false }, max_bytes, Empty::Skipped)
    }

    /// Messages of `bytes` each. One of another size that is sent ends the connection.
    ///
    /// # Panics
    /// If `bytes` is 0.
    pub fn fixed(bytes: usize) -> Self {
        assert!(bytes > 0, "a message has at least one byte");
        Self::of(Kind::Fixed, bytes, Empty::Refused)
    }

    fn of(kind: Kind, max_bytes: usize, empty: Empty) -> Self {
        let max_bytes = max_bytes.min(Self::MAX_BYTES);
        Self { kind, max_bytes, empty, message_timeout: None }
    }

    /// The length counts the bytes of the prefix too.
    pub fn prefix_counts_itself(mut self) -> Self {
        if let Kind::Prefix { counts_itself, .. } = &mut self.kind {
            *counts_itself = true;
        }
        self
    }

    /// Hands messages up with their delimiter. Those that are sent get it all the same.
    pub fn keep_delimiter(mut self) -> Self {
        if let Kind::Delimiter { is_kept, .. } = &mut self.kind {
            *is_kept = true;
        }
        self
    }

    /// The last message before the end of the stream may lack its delimiter. By default it is truncated then
    /// ([`FilterFailure::Truncated`]).
    pub fn last_may_lack_delimiter(mut self) -> Self {
        if let Kind::Delimiter { may_lack, .. } = &mut self.kind {
            *may_lack = true;
        }
        self
    }

    /// What becomes of messages without bytes.
    pub fn empty_messages(mut self, empty: Empty) -> Self {
        self.empty = empty;
        self
    }

    /// How long a message may take from its first byte to its last ([`FilterFailure::MessageTimeout`]). Default: for ever. While the connection
    /// is not read from, the time begins anew.
    pub fn message_timeout(mut self, time: Duration) -> Self {
        self.message_timeout = Some(time);
        self
    }

    /// What follows `tail`, the beginning of a message, in `more`.
    fn scan(&self, tail: &[u8], more: &[u8]) -> Result<Scan, FilterError> {
        match &self.kind {
            Kind::Prefix { prefix, counts_itself } => self.scan_prefix(*prefix, *counts_itself, tail, more),
            Kind::Delimiter { delimiter, is_kept, .. } => self.scan_delimiter(delimiter, *is_kept, tail, more),
            Kind::Fixed if tail.len() + more.len() < self.max_bytes => {
                Ok(Scan::Partial { whole_bytes: self.max_bytes })
            }
            Kind::Fixed => Ok(Scan::Whole { take: self.max_bytes - tail.len(), front: 0, back: 0 }),
        }
    }

    fn scan_prefix(&self, prefix: Prefix, counts_itself: bool, tail: &[u8], more: &[u8]) -> Result<Scan, FilterError> {
        let front = prefix.len();
        let mut bytes = [0; 8];
        let known = tail.iter().chain(more).take(front);
        let count = known.zip(&mut bytes).map(|(&from, to)| *to = from).count();
        if count < front {
            return Ok(Scan::Partial { whole_bytes: front });
        }
        let said = prefix.read(&bytes[..front]);
        let own = if counts_itself { front as u64 } else { 0 };
        let Some(length) = said.checked_sub(own) else {
            let text = format!("a message of {said} bytes, which is to count the {front} bytes of its length");
            return Err(FilterError::new(FilterFailure::Protocol, text));
        };
        let length = usize::try_from(length).ok().filter(|&length| length <= self.max_bytes);
        let length = length.ok_or_else(|| self.too_large(&format!("of {} bytes", said - own)))?;
        self.check_empty(length)?;
        let whole_bytes = front + length;
        if tail.len() + more.len() < whole_bytes {
            return Ok(Scan::Partial { whole_bytes });
        }
        // The tail may have all of it already, when it is empty.
        Ok(Scan::Whole { take: whole_bytes - tail.len(), front, back: 0 })
    }

    fn scan_delimiter(&self, delimiter: &[u8], is_kept: bool, tail: &[u8], more: &[u8]) -> Result<Scan, FilterError> {
        let length = match end_of(delimiter, tail, more) {
            Some(end) => tail.len() + end - delimiter.len(),
            // What may be the beginning of the delimiter is not of the message yet.
            None => tail.len() + more.len() - begun(delimiter, tail, more),
        };
        if length > self.max_bytes {
            return Err(self.too_large(&format!("of {length} bytes or more")));
        }
        let Some(end) = end_of(delimiter, tail, more) else { return Ok(Scan::Partial { whole_bytes: 0 }) };
        self.check_empty(length)?;
        Ok(Scan::Whole { take: end, front: 0, back: if is_kept { 0 } else { delimiter.len() } })
    }

    fn check_empty(&self, length: usize) -> Result<(), FilterError> {
        if length == 0 && self.empty == Empty::Refused {
            return Err(FilterError::new(FilterFailure::Protocol, "a message without bytes"));
        }
        Ok(())
    }

    fn too_large(&self, what: &str) -> FilterError {
        FilterError::new(
            FilterFailure::TooLarge,
            format!("a message {what}, and at most {} are allowed", self.max_bytes),
        )
    }

    /// What goes before a message of `length` bytes that is sent.
    fn before(&self, length: usize) -> Result<Vec<u8>, FilterError> {
        match &self.kind {
            Kind::Prefix { prefix, counts_itself } => {
                let number = (length + if *counts_itself { prefix.len() } else { 0 }) as u64;
                if number > prefix.largest() || length > self.max_bytes {
                    return Err(self.too_large(&format!("to be sent of {length} bytes")));
                }
                Ok(prefix.write(number))
            }
            Kind::Delimiter { .. } if length > self.max_bytes => {
                Err(self.too_large(&format!("to be sent of {length} bytes")))
            }
            Kind::Fixed if length != self.max_bytes => {
                let text = format!("a message to be sent of {length} bytes, and each has {}", self.max_bytes);
                Err(FilterError::new(FilterFailure::TooLarge, text))
            }
            Kind::Delimiter { .. } | Kind::Fixed => Ok(Vec::new()),
        }
    }

    /// What is added to each message that is sent, in bytes.
    fn added_bytes(&self) -> usize {
        match &self.kind {
            Kind::Prefix { prefix, .. } => prefix.len(),
            Kind::Delimiter { delimiter, .. } => delimiter.len(),
            Kind::Fixed => 0,
        }
    }
}

impl FilterFactory for Framing {
    fn reserve(&self) -> Reserve {
        // Each filter has a copy of what it goes by.
        let delimiter = if let Kind::Delimiter { delimiter, .. } = &self.kind { delimiter.capacity() } else { 0 };
        Reserve { state_bytes: size_of::<Frames>() + delimiter, write_bytes: self.added_bytes() }
    }

    fn make(&self, _peer: &FilterPeer) -> Result<Box<dyn Filter>, FilterError> {
        Ok(Box::new(Frames { framing: self.clone(), tail: Tail::new(), owes_delimiter: false, deadline: None }))
    }
}

/// What there is of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scan {
    /// All of it: `take` more bytes, of which, with the tail, `front` and `back` are not part of the message.
    Whole { take: usize, front: usize, back: usize },
    /// Not all. When it is, it will be so long, as far as is known; 0: no telling.
    Partial { whole_bytes: usize },
}

/// Where in `more` the first `delimiter` ends that is in `tail` and `more`, and not in `tail` alone.
fn end_of(delimiter: &[u8], tail: &[u8], more: &[u8]) -> Option<usize> {
    // Across the border: some bytes of it in the tail, the others in front.
    let across = (1..delimiter.len())
        .rev()
        .find(|&inside| tail.ends_with(&delimiter[..inside]) && more.starts_with(&delimiter[inside..]));
    if let Some(inside) = across {
        return Some(delimiter.len() - inside);
    }
    let (first, rest) = delimiter.split_first()?;
    let mut from = 0;
    while let Some(found) = more[from..].iter().position(|byte| byte == first) {
        let after = from + found + 1;
        if more[after..].starts_with(rest) {
            return Some(after + rest.len());
        }
        from = after;
    }
    None
}

/// How many bytes at the end of `tail` and `more` together may be the beginning of `delimiter`.
fn begun(delimiter: &[u8], tail: &[u8], more: &[u8]) -> usize {
    (1..delimiter.len())
        .rev()
        .find(|&count| {
            let (in_more, in_tail) = (count.min(more.len()), count.saturating_sub(more.len()));
            tail.ends_with(&delimiter[..in_tail]) && more.ends_with(&delimiter[in_tail..in_tail + in_more])
        })
        .unwrap_or(0)
}

/// The filter of one connection.
struct Frames {
    framing: Framing,
    tail: Tail,
    /// A message has gone out, and its delimiter has not.
    owes_delimiter: bool,
    /// When the message that has begun must be whole.
    deadline: Option<Time>,
}

impl Frames {
    /// The end of the stream.
    fn end(&mut self) -> Result<Read, FilterError> {
        let may_lack = matches!(self.framing.kind, Kind::Delimiter { may_lack: true, .. });
        if self.tail.is_empty() {
            Ok(Read::Finished)
        } else if may_lack && self.tail.bytes().len() > self.framing.max_bytes {
            // It ended like the beginning of a delimiter, which would not have counted.
            Err(self.framing.too_large(&format!("of {} bytes", self.tail.bytes().len())))
        } else if may_lack {
            self.deadline = None;
            Ok(self.tail.take().map_or(Read::Finished, Read::Data))
        } else {
            let text = format!("the stream ended {} bytes into a message", self.tail.bytes().len());
            Err(FilterError::new(FilterFailure::Truncated, text))
        }
    }
}

impl Filter for Frames {
    fn name(&self) -> &'static str {
        "framing"
    }

    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
        loop {
            match below.fill(context)? {
                Fill::Starved => return Ok(Read::Starved),
                Fill::NoMemory => return Ok(Read::NoMemory),
                Fill::Finished => return self.end(),
                Fill::Data => {}
            }
            let more = below.bytes();
            match self.framing.scan(self.tail.bytes(), more)? {
                Scan::Partial { whole_bytes } => {
                    let count = more.len();
                    if !self.tail.extend(more, whole_bytes, context) {
                        return Ok(Read::NoMemory);
                    }
                    below.consume(count);
                    if self.deadline.is_none() {
                        self.deadline = self.framing.message_timeout.map(|time| context.now() + time);
                    }
                }
                Scan::Whole { take, front, back } => {
                    let buffer = if !self.tail.is_empty() {
                        let whole_bytes = self.tail.bytes().len() + take;
                        if !self.tail.extend(&more[..take], whole_bytes, context) {
                            return Ok(Read::NoMemory);
                        }
                        below.consume(take);
                        self.tail.take()
                    } else if take == more.len() {
                        below.take()
                    } else if take == front + back {
                        below.consume(take);
                        None
                    } else {
                        let Some(copy) = context.buffer(&more[front..take - back]) else {
                            return Ok(Read::NoMemory);
                        };
                        below.consume(take);
                        self.deadline = None;
                        return Ok(Read::Data(copy));
                    };
                    self.deadline = None;
                    if let Some(mut buffer) = buffer {
                        buffer.advance(front);
                        buffer.truncate(buffer.len() - back);
                        if !buffer.is_empty() {
                            return Ok(Read::Data(buffer));
                        }
                    }
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
        loop {
            if down.room_bytes() < self.framing.added_bytes().max(1) {
                return Ok(());
            }
            if self.owes_delimiter {
                if let Kind::Delimiter { delimiter, .. } = &self.framing.kind {
                    down.push(delimiter.as_slice().to_vec());
                }
                self.owes_delimiter = false;
                continue;
            }
            if !above.fill(down, context)? {
                return Ok(());
            }
            down.push(self.framing.before(above.bytes().len())?);
            above.pass(down, context);
            self.owes_delimiter = matches!(self.framing.kind, Kind::Delimiter { .. });
        }
    }

    fn wants_write(&self) -> bool {
        self.owes_delimiter
    }

    fn deadline(&self) -> Option<Time> {
        self.deadline
    }

    fn time_passed(&mut self, context: &mut FilterContext<'_>) -> Result<(), FilterError> {
        let Some(time) = self.framing.message_timeout else { return Ok(()) };
        // While the connection is not read from, silence says nothing about the peer.
        let counts_from = context.reading_since().unwrap_or(context.now());
        if counts_from + time > context.now() {
            self.deadline = Some(counts_from + time);
            return Ok(());
        }
        let text = format!("{} bytes of a message have come in {time:?}, and not all", self.tail.bytes().len());
        Err(FilterError::new(FilterFailure::MessageTimeout, text))
    }
}
