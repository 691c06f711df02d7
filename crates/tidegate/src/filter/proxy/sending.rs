//! The header before what we send.

use std::net::SocketAddr;

use super::{version_1, version_2};
use crate::filter::{
    Above, Below, Down, Filter, FilterContext, FilterError, FilterFactory, FilterPeer, Read, Reserve, pass_all,
    read_through,
};

/// Sends a PROXY protocol header before anything else: the side of the proxy.
///
/// As the filter of a [`Client`](crate::Client) it says the same on each of its connections. What differs from connection to connection goes to
/// [`Connection::add_filter`](crate::Connection::add_filter), in [`on_connect`](crate::Handler::on_connect) before anything is sent, as a
/// [`filter`](Self::filter) of its own.
///
/// ```
/// use tidegate::Client;
/// use tidegate::filter::proxy::ProxyHeader;
///
/// let (source, destination) = ("192.0.2.7:50000".parse()?, "198.51.100.1:443".parse()?);
/// let client = Client::tcp().filter(ProxyHeader::version_2(source, destination).checksum());
/// let health_checks = Client::tcp().filter(ProxyHeader::local());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProxyHeader {
    version: Version,
    addresses: Option<(SocketAddr, SocketAddr)>,
    has_checksum: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    One,
    Two,
}

impl ProxyHeader {
    /// A line of text, for receivers that know nothing else. If only one of the addresses is of IPv4, it is written as a mapped one of IPv6.
    pub fn version_1(source: SocketAddr, destination: SocketAddr) -> Self {
        Self { version: Version::One, addresses: Some((source, destination)), has_checksum: false }
    }

    /// A line of text that says that the addresses are unknown.
    pub fn version_1_unknown() -> Self {
        Self { version: Version::One, addresses: None, has_checksum: false }
    }

    /// A binary header. If only one of the addresses is of IPv4, it is written as a mapped one of IPv6.
    pub fn version_2(source: SocketAddr, destination: SocketAddr) -> Self {
        Self { version: Version::Two, addresses: Some((source, destination)), has_checksum: false }
    }

    /// A binary header that says that the connection is our own, and nobody's that we speak for: a health check.
    pub fn local() -> Self {
        Self { version: Version::Two, addresses: None, has_checksum: false }
    }

    /// With a checksum (CRC32C), in version 2; there is none in version 1.
    pub fn checksum(mut self) -> Self {
        self.has_checksum = true;
        self
    }

    /// The filter for one connection.
    pub fn filter(&self) -> Box<dyn Filter> {
        Box::new(Sending { header: Some(self.bytes()) })
    }

    /// What it takes for each connection: for [`Client::filter_later`](crate::Client::filter_later).
    pub const RESERVE: Reserve = Reserve {
        state_bytes: size_of::<Sending>() + version_1::LINE_BYTES_MAX,
        write_bytes: version_1::LINE_BYTES_MAX,
    };

    pub(super) fn bytes(&self) -> Vec<u8> {
        match self.version {
            Version::One => version_1::write(self.addresses),
            Version::Two => version_2::write(self.addresses, self.has_checksum),
        }
    }
}

impl FilterFactory for ProxyHeader {
    fn reserve(&self) -> Reserve {
        Self::RESERVE
    }

    fn make(&self, _peer: &FilterPeer) -> Result<Box<dyn Filter>, FilterError> {
        Ok(self.filter())
    }
}

struct Sending {
    /// The header, until it is written.
    header: Option<Vec<u8>>,
}

impl Filter for Sending {
    fn name(&self) -> &'static str {
        "proxy-header"
    }

    fn tells_messages_apart(&self) -> bool {
        false
    }

    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
        read_through(below, context)
    }

    fn write(
        &mut self,
        above: &mut Above<'_>,
        down: &mut Down<'_>,
        context: &mut FilterContext<'_>,
    ) -> Result<(), FilterError> {
        if let Some(header) = self.header.take_if(|header| header.len() <= down.room_bytes()) {
            down.push(header);
        }
        if self.header.is_none() { pass_all(above, down, context) } else { Ok(()) }
    }

    fn wants_write(&self) -> bool {
        self.header.is_some()
    }

    fn is_established(&self) -> bool {
        self.header.is_none()
    }
}
