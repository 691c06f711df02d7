//! The filter itself: records on one side, data on the other.

use std::sync::Arc;
use std::time::Duration;

use rustls::CommonState;

use super::handshakes::{Handshakes, Slot};
use super::session::{Event, Session};
use super::{RECORD_BYTES, SEAL_OVERHEAD_BYTES, WIRE_RECORD_BYTES, explain, names};
use crate::filter::{Above, Below, Description, Down, Fill, Filter, FilterContext, FilterError, FilterFailure, Read};
use crate::memory::Buffer;
use crate::time::Time;

/// What both factories settle for each filter.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub handshake_timeout: Duration,
    pub peer_handshake_bytes: usize,
    pub end_without_notice: bool,
    pub handshakes: Arc<Handshakes>,
}

/// TLS on one connection.
pub(super) struct Tls {
    session: Session,
    settings: Settings,
    /// A record of which not all has come, behind fragments of a handshake message that rustls has looked at. Or, if `plain` says so,
    /// data for which there was no memory above.
    partial: Vec<u8>,
    /// How much of `partial` rustls has looked at.
    kept_bytes: usize,
    /// All of `partial` is data, decrypted.
    is_plain: bool,
    /// Ready for the wire: handshake messages, alerts.
    outgoing: Vec<u8>,
    stage: Stage,
    /// One of the handshakes that may go on at once.
    slot: Option<Slot>,
    server_name: Option<String>,
    peer_closed: bool,
}

/// How far it has come.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Stage {
    /// Not called yet.
    New,
    /// Until then, at the latest.
    Handshake(Time),
    Established,
}

/// What the bytes of a record say about its length.
enum Record {
    /// It is as long as this.
    Bytes(usize),
    /// Its header is not complete.
    Unknown,
    /// This is no header of TLS.
    Invalid,
}

impl Tls {
    pub(super) fn new(session: Session, settings: Settings) -> Self {
        Self {
            session,
            settings,
            partial: Vec::new(),
            kept_bytes: 0,
            is_plain: false,
            outgoing: Vec::new(),
            stage: Stage::New,
            slot: None,
            server_name: None,
            peer_closed: false,
        }
    }

    /// Starts the clock, and the handshake if it is ours to start.
    fn begin(&mut self, context: &FilterContext<'_>) -> Result<(), FilterError> {
        if self.stage == Stage::New {
            self.stage = Stage::Handshake(context.now().saturating_add(self.settings.handshake_timeout));
            if matches!(self.session, Session::Client(_)) {
                self.take_slot()?;
                let (_, result) = self.session.receive(&mut [], &mut self.outgoing, |_| ());
                result.map_err(|error| explain::failure(&error, None))?;
            }
        }
        Ok(())
    }

    fn is_failed(&self) -> bool {
        matches!(self.session, Session::Failed)
    }

    fn take_slot(&mut self) -> Result<(), FilterError> {
        if self.slot.is_none() && self.stage != Stage::Established {
            self.slot = Some(self.settings.handshakes.begin()?);
        }
        Ok(())
    }

    /// Gives rustls the first bytes of what is below, so many, or all of `partial`; keeps in `partial` what is not done with.
    fn process(
        &mut self,
        from_below: Option<(&mut Below<'_>, usize)>,
        context: &mut FilterContext<'_>,
    ) -> Result<Option<Buffer>, FilterError> {
        let was_established = self.stage == Stage::Established;
        if !was_established {
            names::clear();
        }
        let knows_version = |state: &CommonState| state.protocol_version().is_some();
        let is_first = !was_established && !self.session.state().is_some_and(knows_version);
        let mut first_bytes = [0; HEADER_BYTES];
        let take = |data: &[u8]| context.buffer(data).ok_or_else(|| data.to_vec());
        let mut partial = std::mem::take(&mut self.partial);
        let result = match from_below {
            Some((below, length)) => {
                let input = &mut below.bytes_mut()[..length];
                first_bytes.copy_from_slice(&input[..HEADER_BYTES]);
                let (discard, result) = self.session.receive(input, &mut self.outgoing, take);
                partial.extend_from_slice(&input[discard..]);
                below.consume(length);
                result
            }
            None => {
                first_bytes.copy_from_slice(&partial[..HEADER_BYTES]);
                let (discard, result) = self.session.receive(&mut partial, &mut self.outgoing, take);
                if discard == partial.len() {
                    partial = Vec::new();
                } else {
                    partial.drain(..discard);
                }
                result
            }
        };
        let event = result.map_err(|error| {
            self.slot = None;
            explain::failure(&error, is_first.then_some(&first_bytes[..]))
        })?;
        (self.kept_bytes, self.partial) = (partial.len(), partial);
        if !was_established {
            self.server_name = names::take().or(self.server_name.take());
            if self.session.state().is_some_and(|state| !state.is_handshaking()) {
                self.stage = Stage::Established;
                self.slot = None;
            }
        }
        match event {
            Event::Data(Ok(buffer)) => return Ok(Some(buffer)),
            Event::Data(Err(data)) => {
                (self.partial, self.kept_bytes, self.is_plain) = (data, 0, true);
            }
            Event::PeerClosed => {
                self.peer_closed = true;
                (self.partial, self.kept_bytes) = (Vec::new(), 0);
            }
            Event::Starved => {}
        }
        Ok(None)
    }

    /// Lets rustls say what is wrong with a header.
    fn reject(
        &mut self,
        from_below: Option<(&mut Below<'_>, usize)>,
        context: &mut FilterContext<'_>,
    ) -> Result<Option<Buffer>, FilterError> {
        self.process(from_below, context)?;
        Err(self.fail(FilterFailure::Protocol, "TLS: what should be the header of a record is none".to_owned()))
    }

    /// The end of the session, without an alert.
    fn fail(&mut self, failure: FilterFailure, text: String) -> FilterError {
        (self.session, self.partial, self.slot) = (Session::Failed, Vec::new(), None);
        FilterError::new(failure, text)
    }

    /// The most bytes of records that may be kept.
    fn most_kept_bytes(&self) -> usize {
        match self.stage {
            Stage::Established => self.settings.peer_handshake_bytes.max(WIRE_RECORD_BYTES),
            Stage::New | Stage::Handshake(_) => self.settings.peer_handshake_bytes,
        }
    }

    fn too_large(&mut self, bytes: usize) -> FilterError {
        let limit_bytes = self.most_kept_bytes();
        let text = format!(
            "a handshake message in records of {bytes} bytes, at most {limit_bytes} are kept (peer_handshake_bytes)"
        );
        self.fail(FilterFailure::TooLarge, text)
    }

    /// Takes bytes from below, up to the end of a record, and hands it to rustls when it is whole.
    fn take_in(
        &mut self,
        below: &mut Below<'_>,
        context: &mut FilterContext<'_>,
    ) -> Result<Option<Buffer>, FilterError> {
        if self.partial.is_empty() {
            match Record::read(below.bytes()) {
                Record::Bytes(length) if length > self.most_kept_bytes() => return Err(self.too_large(length)),
                Record::Bytes(length) if length <= below.bytes().len() => {
                    return self.process(Some((below, length)), context);
                }
                // rustls has an alert for it.
                Record::Invalid => return self.reject(Some((below, HEADER_BYTES)), context),
                Record::Bytes(_) | Record::Unknown => {}
            }
        }
        // One byte more than there is until the header is complete, then all of the record.
        loop {
            let have = &self.partial[self.kept_bytes..];
            let wanted = match Record::read(have) {
                Record::Bytes(length) => length - have.len(),
                Record::Unknown => HEADER_BYTES - have.len(),
                Record::Invalid => return self.reject(None, context),
            };
            if wanted == 0 {
                return self.process(None, context);
            }
            if self.partial.len() + wanted > self.most_kept_bytes() {
                return Err(self.too_large(self.partial.len() + wanted));
            }
            let count = wanted.min(below.bytes().len());
            if count == 0 {
                return Ok(None);
            }
            self.partial.reserve_exact(wanted);
            self.partial.extend_from_slice(&below.bytes()[..count]);
            below.consume(count);
        }
    }

    /// The peer has ended its stream, without `close_notify`.
    fn cut_off(&self) -> Result<Read, FilterError> {
        let text = match self.stage {
            Stage::Established if self.partial.is_empty() && self.settings.end_without_notice => {
                return Ok(Read::Finished);
            }
            Stage::Established if self.partial.is_empty() => {
                "the stream ended without close_notify: it may have been cut off".to_owned()
            }
            Stage::Established => format!("the stream ended after {} bytes of a record", self.partial.len()),
            Stage::New | Stage::Handshake(_) => "the stream ended within the TLS handshake".to_owned(),
        };
        Err(FilterError::new(FilterFailure::Truncated, text))
    }

    /// Puts what is ready into `down`, as much as there is room for.
    fn flush(&mut self, down: &mut Down<'_>) {
        let room_bytes = down.room_bytes();
        if self.outgoing.is_empty() || room_bytes == 0 {
            return;
        }
        if self.outgoing.len() <= room_bytes {
            let mut outgoing = std::mem::take(&mut self.outgoing);
            outgoing.shrink_to_fit();
            if outgoing.capacity() <= room_bytes {
                down.push(outgoing);
                return;
            }
            self.outgoing = outgoing;
        }
        let mut part = Vec::with_capacity(room_bytes.min(self.outgoing.len()));
        part.extend(self.outgoing.drain(..room_bytes.min(self.outgoing.len())));
        down.push(part);
        self.outgoing.shrink_to_fit();
    }

    /// What has come of a record that is not whole.
    fn unfinished(partial: &mut [u8], is_plain: bool) -> &mut [u8] {
        if is_plain { &mut [] } else { partial }
    }

    fn seal(&mut self, plaintext: &[u8]) -> Result<Vec<u8>, FilterError> {
        let input = Self::unfinished(&mut self.partial, self.is_plain);
        self.session.seal(input, plaintext).map_err(|error| explain::failure(&error, None))
    }

    /// Several messages as the data of one record.
    fn join(
        above: &mut Above<'_>,
        down: &Down<'_>,
        context: &mut FilterContext<'_>,
        most_bytes: usize,
    ) -> Result<Vec<u8>, FilterError> {
        let mut joined = Vec::with_capacity(most_bytes.min(JOINED_BYTES));
        while joined.len() < joined.capacity() && above.fill(down, context)? {
            let count = above.bytes().len().min(joined.capacity() - joined.len());
            joined.extend_from_slice(&above.bytes()[..count]);
            above.consume(count, context);
        }
        Ok(joined)
    }
}

impl Filter for Tls {
    fn name(&self) -> &'static str {
        "tls"
    }

    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
        self.begin(context)?;
        loop {
            if self.is_plain {
                let Some(buffer) = context.buffer(&self.partial) else { return Ok(Read::NoMemory) };
                (self.partial, self.is_plain) = (Vec::new(), false);
                return Ok(Read::Data(buffer));
            }
            if self.peer_closed {
                return Ok(Read::Finished);
            }
            match below.fill(context)? {
                Fill::Data => {
                    self.take_slot()?;
                    if let Some(buffer) = self.take_in(below, context)? {
                        return Ok(Read::Data(buffer));
                    }
                }
                Fill::Starved => return Ok(Read::Starved),
                Fill::NoMemory => return Ok(Read::NoMemory),
                Fill::Finished => return self.cut_off(),
            }
        }
    }

    fn write(
        &mut self,
        above: &mut Above<'_>,
        down: &mut Down<'_>,
        context: &mut FilterContext<'_>,
    ) -> Result<(), FilterError> {
        self.begin(context)?;
        self.flush(down);
        if self.stage != Stage::Established || self.is_failed() || !self.outgoing.is_empty() {
            return Ok(());
        }
        while down.room_bytes() > SEAL_OVERHEAD_BYTES && above.fill(down, context)? {
            let most_bytes = (down.room_bytes() - SEAL_OVERHEAD_BYTES).min(RECORD_BYTES);
            let length = above.bytes().len();
            if most_bytes < length.min(LEAST_RECORD_BYTES) {
                // There will be more room than for such a small record.
                break;
            }
            let sealed = if length >= JOINED_BYTES.min(most_bytes) {
                let count = length.min(most_bytes);
                let sealed = self.seal(&above.bytes()[..count])?;
                above.consume(count, context);
                sealed
            } else {
                let joined = Self::join(above, down, context, most_bytes)?;
                self.seal(&joined)?
            };
            down.push(sealed);
        }
        Ok(())
    }

    fn tells_messages_apart(&self) -> bool {
        false
    }

    fn wants_write(&self) -> bool {
        self.stage == Stage::New || !self.outgoing.is_empty()
    }

    fn is_established(&self) -> bool {
        self.stage == Stage::Established
    }

    fn finish(&mut self, _context: &mut FilterContext<'_>) {
        if self.stage == Stage::Established {
            let input = Self::unfinished(&mut self.partial, self.is_plain);
            self.session.close(input, &mut self.outgoing);
        }
    }

    fn deadline(&self) -> Option<Time> {
        match self.stage {
            Stage::Handshake(until) if !self.is_failed() => Some(until),
            _ => None,
        }
    }

    fn time_passed(&mut self, context: &mut FilterContext<'_>) -> Result<(), FilterError> {
        match self.deadline() {
            Some(until) if until <= context.now() => {
                let text = format!("the TLS handshake was not over after {:?}", self.settings.handshake_timeout);
                Err(self.fail(FilterFailure::EstablishTimeout, text))
            }
            _ => Ok(()),
        }
    }

    fn describe(&self, description: &mut Description) {
        let Some(state) = self.session.state() else { return };
        description.is_encrypted = true;
        description.protocol = state.alpn_protocol().map(<[u8]>::to_vec);
        description.server_name.clone_from(&self.server_name);
        let certificates = state.peer_certificates().unwrap_or_default();
        description.certificates = certificates.iter().map(|certificate| certificate.to_vec()).collect();
    }
}

impl Record {
    fn read(bytes: &[u8]) -> Self {
        let &[kind, major, _, high, low, ..] = bytes else { return Self::Unknown };
        let length = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
        // ChangeCipherSpec, Alert, Handshake, ApplicationData, of whichever version: RFC 8446, B.1.
        match (20..=23).contains(&kind) && major == 3 && length <= WIRE_RECORD_BYTES {
            true => Self::Bytes(length),
            false => Self::Invalid,
        }
    }
}

/// Kind, version, length.
const HEADER_BYTES: usize = 5;

/// Messages shorter than this are sealed together, up to so many bytes: each record costs 22 to 29 bytes on the wire, and some
/// microseconds.
const JOINED_BYTES: usize = 4096;

/// No longer message is cut for want of room into a record smaller than this.
const LEAST_RECORD_BYTES: usize = 1024;
