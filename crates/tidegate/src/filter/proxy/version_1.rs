//! Version 1: a line of text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::header::{Addresses, broken};
use crate::filter::FilterError;

/// The most that a line has, its end included: the protocol's "worst case" (two IPv6 addresses written in full, with `UNKNOWN`).
pub(super) const LINE_BYTES_MAX: usize = 107;

const BEGINNING: &[u8] = b"PROXY ";

/// What a line says, or `None` if there is more to come.
pub(super) fn read(line: &[u8]) -> Result<Option<Option<Addresses>>, FilterError> {
    let compared = line.len().min(BEGINNING.len());
    if line[..compared] != BEGINNING[..compared] {
        return Err(broken("a PROXY protocol header that does not begin with \"PROXY \""));
    }
    if line.last() != Some(&b'\n') {
        return match line.len() < LINE_BYTES_MAX {
            true => Ok(None),
            false => Err(broken(format!("a PROXY protocol line without an end in {LINE_BYTES_MAX} bytes"))),
        };
    }
    let Some(said) = line.strip_suffix(b"\r\n").and_then(|line| line.strip_prefix(BEGINNING)) else {
        return Err(broken("a PROXY protocol line that does not end with CR LF"));
    };
    // What follows UNKNOWN is to be ignored, whatever it is.
    if said == b"UNKNOWN" || said.starts_with(b"UNKNOWN ") {
        return Ok(Some(None));
    }
    let text = std::str::from_utf8(said).map_err(|_| broken("a PROXY protocol line that is not text"))?;
    let words: Vec<&str> = text.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = words[..] else {
        return Err(broken(format!("a PROXY protocol line of {} words after PROXY: there must be 5", words.len())));
    };
    let address = |text| address(family, text);
    let source = SocketAddr::new(address(source)?, port(source_port)?);
    let destination = SocketAddr::new(address(destination)?, port(destination_port)?);
    Ok(Some(Some((source, destination))))
}

fn address(family: &str, text: &str) -> Result<IpAddr, FilterError> {
    let address = match family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        // Hexadecimal groups alone: the last two are not written as an IPv4 address.
        "TCP6" if !text.contains('.') => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        "TCP6" => None,
        _ => return Err(broken("a PROXY protocol line that is none of TCP4, TCP6, UNKNOWN")),
    };
    address.ok_or_else(|| broken(format!("a PROXY protocol line with an address that is none of {family}")))
}

fn port(text: &str) -> Result<u16, FilterError> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let port = Some(text).filter(|_| is_plain).and_then(|text| text.parse().ok());
    port.ok_or_else(|| broken("a PROXY protocol line with a port that is no number from 0 to 65535"))
}

/// The line that says `addresses`, or that they are not known.
pub(super) fn write(addresses: Option<Addresses>) -> Vec<u8> {
    let line = match addresses {
        None => "PROXY UNKNOWN\r\n".to_owned(),
        Some((SocketAddr::V4(source), SocketAddr::V4(destination))) => {
            let (from, to) = (source.ip(), destination.ip());
            format!("PROXY TCP4 {from} {to} {} {}\r\n", source.port(), destination.port())
        }
        Some((source, destination)) => {
            let (from, to) = (groups(source.ip()), groups(destination.ip()));
            format!("PROXY TCP6 {from} {to} {} {}\r\n", source.port(), destination.port())
        }
    };
    line.into_bytes()
}

/// An address as the eight groups of IPv6, without the forms that some of them have besides.
fn groups(address: IpAddr) -> String {
    super::version_2::as_v6(address).segments().map(|group| format!("{group:x}")).join(":")
}
