//! Version 2: a binary header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::header::{Addresses, broken};
use crate::filter::{FilterError, FilterFailure};

/// What every header begins with: the signature, version and command, family, and the length of the rest.
pub(super) const FIXED_BYTES: usize = 16;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The TLV of the checksum.
const CHECKSUM: u8 = 0x03;
/// Type and length of a TLV.
const TLV_BYTES: usize = 3;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const OVER_V4: u8 = 0x11;
const OVER_V6: u8 = 0x21;

/// How long the rest is, by the first bytes of a header.
pub(super) fn body_bytes(header: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([header[14], header[15]]))
}

/// What a header says, or `None` if there is more to come.
pub(super) fn read(header: &[u8], body_bytes_max: usize) -> Result<Option<Option<Addresses>>, FilterError> {
    let compared = header.len().min(SIGNATURE.len());
    if header[..compared] != SIGNATURE[..compared] {
        return Err(broken("a PROXY protocol header without its signature"));
    }
    if header.len() < FIXED_BYTES {
        return Ok(None);
    }
    let (command, family, body_bytes) = (header[12], header[13], body_bytes(header));
    if command != LOCAL && command != PROXY {
        let text = format!("a PROXY protocol header with version and command {command:#04x}: known are 0x20 and 0x21");
        return Err(broken(text));
    }
    if body_bytes > body_bytes_max {
        let text = format!(
            "a PROXY protocol header with {body_bytes} bytes after the first {FIXED_BYTES}: the most is {body_bytes_max}"
        );
        return Err(FilterError::new(FilterFailure::TooLarge, text));
    }
    if header.len() < FIXED_BYTES + body_bytes {
        return Ok(None);
    }
    if command == LOCAL {
        // The proxy speaks for itself; all else is to be ignored.
        return Ok(Some(None));
    }
    proxied(header, family).map(Some)
}

/// What a whole header of a proxied connection says.
fn proxied(header: &[u8], family: u8) -> Result<Option<Addresses>, FilterError> {
    // Addresses, by family and transport; whether those of a stream or of datagrams doesn't matter.
    let address_bytes = match family {
        // Nothing is known of what follows.
        0x00 => return Ok(None),
        OVER_V4 | 0x12 => 12,
        OVER_V6 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err(broken(format!("a PROXY protocol header with the unknown family {family:#04x}"))),
    };
    let body = &header[FIXED_BYTES..];
    if body.len() < address_bytes {
        let text = format!("a PROXY protocol header with {} bytes for {address_bytes} of addresses", body.len());
        return Err(broken(text));
    }
    check_tlvs(header, FIXED_BYTES + address_bytes)?;
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let v4 = |at: usize| Ipv4Addr::from(std::array::from_fn::<u8, 4, _>(|byte| body[at + byte]));
    let v6 = |at: usize| Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|byte| body[at + byte]));
    Ok(match address_bytes {
        12 => Some(((v4(0), port(8)).into(), (v4(4), port(10)).into())),
        36 => Some(((v6(0), port(32)).into(), (v6(16), port(34)).into())),
        _ => None,
    })
}

/// Looks at the TLVs, which begin at `at`: that each is whole, and that the checksum is right if there is one.
fn check_tlvs(header: &[u8], mut at: usize) -> Result<(), FilterError> {
    let mut checksum_at = None;
    while at < header.len() {
        let Some(&[kind, high, low]) = header.get(at..at + TLV_BYTES) else {
            let text = format!("a PROXY protocol header that ends with {} bytes of a TLV's 3", header.len() - at);
            return Err(broken(text));
        };
        let (value_at, value_bytes) = (at + TLV_BYTES, usize::from(u16::from_be_bytes([high, low])));
        let left_bytes = header.len() - value_at;
        if value_bytes > left_bytes {
            let text = format!("a TLV of type {kind:#04x} with {value_bytes} bytes, of which {left_bytes} are there");
            return Err(broken(text));
        }
        if kind == CHECKSUM {
            if value_bytes != 4 || checksum_at.is_some() {
                return Err(broken("a PROXY protocol header with two checksums, or one that has not 4 bytes"));
            }
            checksum_at = Some(value_at);
        }
        at = value_at + value_bytes;
    }
    let Some(checksum_at) = checksum_at else { return Ok(()) };
    let range = checksum_at..checksum_at + 4;
    let stated = header[range.clone()].iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte));
    let computed = crc32c(header.iter().enumerate().map(|(at, &byte)| if range.contains(&at) { 0 } else { byte }));
    if stated != computed {
        return Err(broken(format!(
            "a PROXY protocol header with the checksum {stated:#010x}: it is {computed:#010x}"
        )));
    }
    Ok(())
}

/// The header that says `addresses`, or that they are not known; `None`: that the connection is the proxy's own.
pub(super) fn write(addresses: Option<Addresses>, has_checksum: bool) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    let command = if addresses.is_some() { PROXY } else { LOCAL };
    let mut body = Vec::new();
    let family = match addresses {
        None => 0x00,
        Some((SocketAddr::V4(source), SocketAddr::V4(destination))) => {
            body.extend(source.ip().octets().into_iter().chain(destination.ip().octets()));
            OVER_V4
        }
        Some((source, destination)) => {
            body.extend([source, destination].into_iter().flat_map(|address| as_v6(address.ip()).octets()));
            OVER_V6
        }
    };
    if let Some((source, destination)) = addresses {
        body.extend([source, destination].into_iter().flat_map(|address| address.port().to_be_bytes()));
    }
    if has_checksum {
        body.extend([CHECKSUM, 0, 4, 0, 0, 0, 0]);
    }
    header.extend([command, family, 0, body.len() as u8]);
    header.extend(body);
    if has_checksum {
        let checksum = crc32c(header.iter().copied()).to_be_bytes();
        let at = header.len() - checksum.len();
        header[at..].copy_from_slice(&checksum);
    }
    header
}

/// An address as one of IPv6: an IPv4 one mapped.
pub(super) fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// The CRC32C (Castagnoli) of some bytes: bit by bit, as there are few.
pub(super) fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    const POLYNOMIAL_REVERSED: u32 = 0x82F6_3B78;
    let mut remainder = u32::MAX;
    for byte in bytes {
        remainder ^= u32::from(byte);
        for _ in 0..8 {
            let is_odd = remainder & 1 == 1;
            remainder >>= 1;
            remainder ^= if is_odd { POLYNOMIAL_REVERSED } else { 0 };
        }
    }
    !remainder
}
