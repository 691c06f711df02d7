//! The PROXY protocol, versions 1 and 2: where a connection really comes from, as a proxy in front of the server says before anything
//! else.
//!
//! [`ProxyProtocol`] takes the header of connections that were accepted, [`ProxyHeader`] puts one before what we send. The protocol is
//! that of HAProxy's `proxy-protocol.txt` (2020/03/05).

mod header;
mod sending;
#[cfg(all(test, not(loom)))]
mod tests;
mod version_1;
mod version_2;

use std::time::Duration;

pub use self::sending::ProxyHeader;

use self::header::Header;
use super::{
    Above, Below, Description, Down, Fill, Filter, FilterContext, FilterError, FilterFactory, FilterFailure,
    FilterPeer, Read, Reserve,
};
use crate::network::Network;
use crate::time::Time;

/// Takes the PROXY protocol header, of either version, off the connections of a listener.
///
/// A header is taken from trusted networks only, since whoever may send one may claim any address. From there it is required, and whole,
/// before anything else: there is no handler until it is there. What it says is in the [`Description`] that the handler is made with. Connections
/// from elsewhere are reset ([`NotAllowed`](crate::CloseReason::NotAllowed)), or [let through](Self::pass_others).
///
/// A header is refused ([`ProtocolError`](crate::CloseReason::ProtocolError)) if anything in it is not as the protocol says; one that says that
/// the proxy speaks for itself (`LOCAL`), or that the addresses are unknown or none of IP (`UNKNOWN`, unix sockets), is taken and tells nothing.
///
/// It belongs next to the wire: it is the first filter of its listener.
///
/// ```
/// use tidegate::filter::proxy::ProxyProtocol;
/// use tidegate::{Listener, Network};
///
/// let balancers: [Network; 2] = ["10.0.0.0/24".parse()?, "2001:db8::/64".parse()?];
/// let listener = Listener::tcp("127.0.0.1:0".parse()?).filter(ProxyProtocol::from(balancers));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ProxyProtocol {
    trusted: Vec<Network>,
    passes_others: bool,
    within: Duration,
    body_bytes_max: u16,
}

impl ProxyProtocol {
    /// How long the header may take, by default. Three seconds: that of the protocol's text ("at least 3 seconds to cover a TCP retransmit").
    pub const WITHIN: Duration = Duration::from_secs(3);
    /// The most that a header of version 2 may have after its first 16 bytes, by default: what the text says of a header that has to fit into one
    /// segment of at least 536 bytes, rounded up to that.
    pub const BODY_BYTES_MAX: u16 = 536;

    /// Takes headers from these networks.
    pub fn from(trusted: impl IntoIterator<Item = Network>) -> Self {
        let trusted = trusted.into_iter().collect();
        Self { trusted, passes_others: false, within: Self::WITHIN, body_bytes_max: Self::BODY_BYTES_MAX }
    }

    /// Lets connections from other networks through, without a look at what they send: a header of theirs is data for the handler.
    pub fn pass_others(mut self) -> Self {
        self.passes_others = true;
        self
    }

    /// How long the header may take ([`HandshakeTimeout`](crate::CloseReason::HandshakeTimeout)). Default: 3 s.
    pub fn within(mut self, time: Duration) -> Self {
        self.within = time;
        self
    }

    /// The most that a header of version 2 may have after its first 16 bytes; a larger one is refused
    /// ([`MessageTooLarge`](crate::CloseReason::MessageTooLarge)). One of version 1 has 107 bytes at most. Default: 536 bytes.
    pub fn body_bytes_max(mut self, bytes: u16) -> Self {
        self.body_bytes_max = bytes;
        self
    }
}

impl FilterFactory for ProxyProtocol {
    fn reserve(&self) -> Reserve {
        let header_bytes = version_1::LINE_BYTES_MAX.max(version_2::FIXED_BYTES + usize::from(self.body_bytes_max));
        Reserve { state_bytes: size_of::<Accepting>() + header_bytes, write_bytes: 0 }
    }

    fn make(&self, peer: &FilterPeer) -> Result<Box<dyn Filter>, FilterError> {
        let address = peer.address.ip();
        if self.trusted.iter().any(|network| network.contains(address)) {
            let header = Header::new(self.body_bytes_max.into());
            return Ok(Box::new(Accepting { header, within: self.within, deadline: None }));
        }
        if self.passes_others {
            return Ok(Box::new(Untouched));
        }
        let text = format!("{address} is in none of the {} networks that are trusted", self.trusted.len());
        Err(FilterError::new(FilterFailure::NotAllowed, text))
    }
}

/// The filter of a connection whose header is to come, or has.
struct Accepting {
    header: Header,
    within: Duration,
    /// When the header must be whole; unknown before the first call.
    deadline: Option<Time>,
}

impl Filter for Accepting {
    fn name(&self) -> &'static str {
        "proxy-protocol"
    }

    fn tells_messages_apart(&self) -> bool {
        false
    }

    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
        if !self.header.is_whole() {
            self.deadline.get_or_insert_with(|| context.now() + self.within);
        }
        loop {
            match below.fill(context)? {
                Fill::Data if self.header.is_whole() => return Ok(below.take().map_or(Read::Starved, Read::Data)),
                Fill::Data => {
                    let count = self.header.take(below.bytes())?;
                    below.consume(count);
                }
                Fill::Starved => return Ok(Read::Starved),
                Fill::NoMemory => return Ok(Read::NoMemory),
                Fill::Finished if self.header.is_whole() || self.header.is_empty() => return Ok(Read::Finished),
                Fill::Finished => {
                    let text = format!(
                        "the stream ended after {} bytes of a PROXY protocol header",
                        self.header.length_bytes()
                    );
                    return Err(FilterError::new(FilterFailure::Truncated, text));
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
        // Nothing is said to somebody of whom nothing is known.
        if self.header.is_whole() { super::pass_all(above, down, context) } else { Ok(()) }
    }

    fn is_established(&self) -> bool {
        self.header.is_whole()
    }

    fn deadline(&self) -> Option<Time> {
        self.deadline.filter(|_| !self.header.is_whole())
    }

    fn time_passed(&mut self, _context: &mut FilterContext<'_>) -> Result<(), FilterError> {
        let text = format!("{} bytes of a PROXY protocol header after {:?}", self.header.length_bytes(), self.within);
        Err(FilterError::new(FilterFailure::EstablishTimeout, text))
    }

    fn describe(&self, description: &mut Description) {
        if let Some((source, destination)) = self.header.addresses() {
            description.source = Some(source);
            description.destination = Some(destination);
        }
    }
}

/// The filter of a connection from elsewhere, which does nothing.
struct Untouched;

impl Filter for Untouched {
    fn name(&self) -> &'static str {
        "proxy-protocol-untouched"
    }

    fn tells_messages_apart(&self) -> bool {
        false
    }

    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
        super::read_through(below, context)
    }
}
