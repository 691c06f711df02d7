//! A filter of a user: a toy of a protocol with all that a real one has. Each side says hello with a key, what follows goes in records,
//! an orderly end is said, and so is an error.

use tidegate::filter::{
    Above, Below, Description, Down, Fill, Filter, FilterContext, FilterError, FilterFactory, FilterFailure,
    FilterPeer, Read, Reserve, Side,
};

/// The most bytes of data in a record.
pub(crate) const RECORD_BYTES: usize = 2048;

/// Before each record: what it is, and its length.
const HEADER_BYTES: usize = 3;

/// What records are.
pub(crate) const HELLO: u8 = 0xC0;
pub(crate) const DATA: u8 = 0xC1;
pub(crate) const GOODBYE: u8 = 0xC2;
pub(crate) const ALARM: u8 = 0xC3;

/// Makes [`Cipher`] filters.
pub(crate) struct Ciphers {
    pub(crate) key: u8,
}

impl FilterFactory for Ciphers {
    fn reserve(&self) -> Reserve {
        Reserve { state_bytes: size_of::<Cipher>() + HEADER_BYTES + RECORD_BYTES, write_bytes: 64 }
    }

    fn make(&self, peer: &FilterPeer) -> Result<Box<dyn Filter>, FilterError> {
        Ok(Box::new(Cipher::new(self.key, peer.side)))
    }
}

/// One side of a connection.
pub(crate) struct Cipher {
    key: u8,
    side: Side,
    /// What both keys make, once the other side has said its own.
    common: Option<u8>,
    /// A record that is not whole, or for whose data there was no memory.
    record: Vec<u8>,
    /// What is to be said besides data.
    hello: Word,
    goodbye: Word,
    alarm: Word,
    at_end: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    NotYet,
    Due,
    Said,
}

impl Cipher {
    pub(crate) fn new(key: u8, side: Side) -> Self {
        // Who connects speaks first.
        let hello = if side == Side::Connected { Word::Due } else { Word::NotYet };
        let record = Vec::with_capacity(HEADER_BYTES + RECORD_BYTES);
        Self { key, side, common: None, record, hello, goodbye: Word::NotYet, alarm: Word::NotYet, at_end: false }
    }

    fn fails(&mut self, text: &'static str) -> FilterError {
        self.alarm = Word::Due;
        FilterError::new(FilterFailure::Protocol, text).with_farewell()
    }

    /// Takes in what is missing of the present record; whether it is whole.
    fn complete(&mut self, below: &mut Below<'_>) -> bool {
        while self.missing() > 0 && !below.bytes().is_empty() {
            let count = self.missing().min(below.bytes().len());
            self.record.extend_from_slice(&below.bytes()[..count]);
            below.consume(count);
        }
        self.missing() == 0
    }

    fn missing(&self) -> usize {
        match self.record.as_slice() {
            [_, high, low, data @ ..] => (usize::from(*high) << 8 | usize::from(*low)).saturating_sub(data.len()),
            begun => HEADER_BYTES - begun.len(),
        }
    }
}

impl Filter for Cipher {
    fn name(&self) -> &'static str {
        "cipher"
    }

    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
        loop {
            while !self.complete(below) {
                if let [_, high, low, ..] = self.record[..]
                    && usize::from(high) << 8 | usize::from(low) > RECORD_BYTES
                {
                    return Err(FilterError::new(FilterFailure::TooLarge, "a record that is too large"));
                }
                match below.fill(context)? {
                    Fill::Data => {}
                    Fill::Starved => return Ok(Read::Starved),
                    Fill::NoMemory => return Ok(Read::NoMemory),
                    Fill::Finished => {
                        return Err(FilterError::new(FilterFailure::Truncated, "the end without a goodbye"));
                    }
                }
            }
            let data = self.record[HEADER_BYTES..].to_vec();
            match (self.record[0], self.common) {
                (HELLO, None) if data.len() == 1 => {
                    self.common = Some(self.key ^ data[0]);
                    if self.side == Side::Accepted {
                        self.hello = Word::Due;
                    }
                }
                (DATA, Some(key)) if !data.is_empty() => {
                    let plain: Vec<u8> = data.iter().map(|byte| byte ^ key).collect();
                    let Some(buffer) = context.buffer(&plain) else { return Ok(Read::NoMemory) };
                    self.record.clear();
                    return Ok(Read::Data(buffer));
                }
                (GOODBYE, Some(_)) => {
                    self.at_end = true;
                    return Ok(Read::Finished);
                }
                (ALARM, _) => return Err(FilterError::new(FilterFailure::Protocol, "the other side raises an alarm")),
                _ => return Err(self.fails("not a record")),
            }
            self.record.clear();
        }
    }

    fn write(
        &mut self,
        above: &mut Above<'_>,
        down: &mut Down<'_>,
        context: &mut FilterContext<'_>,
    ) -> Result<(), FilterError> {
        if self.hello == Word::Due && down.room_bytes() > HEADER_BYTES {
            self.hello = Word::Said;
            down.push(vec![HELLO, 0, 1, self.key]);
        }
        if self.alarm == Word::Due && down.room_bytes() >= HEADER_BYTES {
            self.alarm = Word::Said;
            down.push(vec![ALARM, 0, 0]);
        }
        let Some(key) = self.common.filter(|_| self.hello == Word::Said) else { return Ok(()) };
        while down.room_bytes() > HEADER_BYTES && above.fill(down, context)? {
            let count = above.bytes().len().min(RECORD_BYTES).min(down.room_bytes() - HEADER_BYTES);
            let mut record = Vec::with_capacity(HEADER_BYTES + count);
            record.extend_from_slice(&[DATA, (count >> 8) as u8, count as u8]);
            record.extend(above.bytes()[..count].iter().map(|byte| byte ^ key));
            above.consume(count, context);
            down.push(record);
        }
        if self.goodbye == Word::Due && down.room_bytes() >= HEADER_BYTES {
            self.goodbye = Word::Said;
            down.push(vec![GOODBYE, 0, 0]);
        }
        Ok(())
    }

    fn wants_write(&self) -> bool {
        [self.hello, self.goodbye, self.alarm].contains(&Word::Due)
    }

    fn is_established(&self) -> bool {
        self.common.is_some() && self.hello == Word::Said
    }

    fn finish(&mut self, _context: &mut FilterContext<'_>) {
        if self.is_established() {
            self.goodbye = Word::Due;
        }
    }

    fn describe(&self, description: &mut Description) {
        description.protocol = self.common.map(|key| vec![key]);
    }
}
