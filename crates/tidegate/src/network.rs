//! Networks of IP addresses, by which peers are told apart.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network of IP addresses, such as `10.0.0.0/8`, `2001:db8::/32`, or one address.
///
/// An IPv4-mapped address (`::ffff:10.0.0.1`) counts as the IPv4 one, and a network of such addresses as the IPv4 network.
///
/// ```
/// use tidegate::Network;
///
/// let network: Network = "10.0.0.0/8".parse()?;
/// assert!(network.contains("10.200.0.1".parse()?) && network.contains("::ffff:10.1.1.1".parse()?));
/// assert!("10.0.0.1/8".parse::<Network>().is_err()); // an address is no network of 2^24 addresses
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Network {
    /// As many leading bits are the network's.
    prefix_bits: u8,
    is_v6: bool,
    /// Right-aligned; the bits behind the prefix are 0.
    bits: u128,
}

/// What is not a network. The text says what is wrong with it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// It has no IP address before the slash, or at all.
    #[error("\"{0}\" is not an IP address, or one with a prefix length such as 10.0.0.0/8 or 2001:db8::/32")]
    Address(String),
    /// What follows the slash is no prefix length of such an address.
    #[error("\"{text}\": the prefix length must be a number from 0 to {most}")]
    Prefix {
        /// What was given.
        text: String,
        /// The longest prefix, in bits.
        most: u8,
    },
    /// Bits behind the prefix are set.
    #[error("\"{text}\" has bits set behind its prefix: the network is {network}")]
    HostBits {
        /// What was given.
        text: String,
        /// What was perhaps meant.
        network: Network,
    },
}

impl Network {
    /// The network of the addresses that have the first `prefix_bits` bits of `address`; `None` if an address has not so many bits. What
    /// `address` has behind them doesn't matter.
    pub fn of(address: IpAddr, prefix_bits: u8) -> Option<Self> {
        let mapped = |address: Ipv6Addr| address.to_ipv4_mapped().filter(|_| prefix_bits >= MAPPED_BITS);
        let (is_v6, bits, prefix_bits) = match address {
            IpAddr::V4(address) => (false, address.to_bits().into(), prefix_bits),
            IpAddr::V6(address) => match mapped(address) {
                Some(address) => (false, address.to_bits().into(), prefix_bits - MAPPED_BITS),
                None => (true, address.to_bits(), prefix_bits),
            },
        };
        (prefix_bits <= width(is_v6)).then(|| Self { prefix_bits, is_v6, bits: masked(bits, is_v6, prefix_bits) })
    }

    /// How many leading bits of an address are the network's: of 32, or of 128.
    pub fn prefix_bits(&self) -> u8 {
        self.prefix_bits
    }

    /// Whether `address` belongs to it.
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::of(address.to_canonical(), self.prefix_bits) == Some(*self)
    }
}

/// An IPv4-mapped address is an IPv4 one behind so many bits.
const MAPPED_BITS: u8 = 96;

fn width(is_v6: bool) -> u8 {
    if is_v6 { 128 } else { 32 }
}

fn masked(bits: u128, is_v6: bool, prefix_bits: u8) -> u128 {
    let behind = u32::from(width(is_v6) - prefix_bits);
    bits.checked_shr(behind).and_then(|bits| bits.checked_shl(behind)).unwrap_or(0)
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address_text, prefix_text) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address_text.parse().map_err(|_| NetworkError::Address(text.into()))?;
        let most = width(address.is_ipv6());
        // `u8` would take a sign.
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = match prefix_text {
            None => Some(most),
            Some(prefix) => Some(prefix).filter(|text| is_number(text)).and_then(|text| text.parse().ok()),
        };
        let network = prefix.and_then(|prefix_bits| Self::of(address, prefix_bits));
        let network = network.ok_or_else(|| NetworkError::Prefix { text: text.into(), most })?;
        let bits = match address {
            IpAddr::V4(address) => address.to_bits().into(),
            IpAddr::V6(address) => address.to_bits(),
        };
        if prefix.is_some_and(|prefix_bits| masked(bits, address.is_ipv6(), prefix_bits) != bits) {
            return Err(NetworkError::HostBits { text: text.into(), network });
        }
        Ok(network)
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        let is_v6 = address.to_canonical().is_ipv6();
        let bits = match address.to_canonical() {
            IpAddr::V4(address) => address.to_bits().into(),
            IpAddr::V6(address) => address.to_bits(),
        };
        Self { prefix_bits: width(is_v6), is_v6, bits }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match u32::try_from(self.bits) {
            Ok(bits) if !self.is_v6 => write!(formatter, "{}/{}", Ipv4Addr::from_bits(bits), self.prefix_bits),
            _ => write!(formatter, "{}/{}", Ipv6Addr::from_bits(self.bits), self.prefix_bits),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn networks_are_read_and_written() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32", "2001:db8::/32", "::/0", "::1/128"] {
            assert_eq!(network(text).to_string(), text);
        }
        assert_eq!(network("192.0.2.1"), network("192.0.2.1/32"));
        assert_eq!(network("::1"), Network::from(address("::1")));
        assert_eq!(network("::ffff:10.0.0.0/104"), network("10.0.0.0/8"));
        assert_eq!(network("::ffff:10.0.0.1"), Network::from(address("10.0.0.1")));
    }

    #[test]
    fn what_is_no_network_is_refused_with_its_text() {
        let error = |text: &str| text.parse::<Network>().expect_err(text);
        for text in
            ["", "/8", "10.0.0/8", "10.0.0.0.0/8", "010.0.0.0/8", "fe80::1%eth0", "host", "10.0.0.0 /8", "[::1]/128"]
        {
            assert_eq!(error(text), NetworkError::Address(text.into()));
        }
        for (text, most) in [
            ("10.0.0.0/", 32),
            ("10.0.0.0/33", 32),
            ("10.0.0.0/+8", 32),
            ("10.0.0.0/8/8", 32),
            ("::/129", 128),
            ("::/-1", 128),
        ] {
            assert_eq!(error(text), NetworkError::Prefix { text: text.into(), most });
        }
        assert!(error("10.0.0.1/8").to_string().ends_with("the network is 10.0.0.0/8"));
        assert!(error("2001:db8::1/32").to_string().ends_with("the network is 2001:db8::/32"));
        assert!(error("::ffff:10.0.0.1/104").to_string().ends_with("the network is 10.0.0.0/8"));
    }

    fn addresses() -> impl Strategy<Value = IpAddr> {
        // Few distinct leading bytes, so that networks meet addresses.
        prop_oneof![
            (0_u8..3, any::<u8>(), 0_u8..3).prop_map(|(a, b, c)| IpAddr::from([10 + a, b, c, 1])),
            (0_u16..3, any::<u16>()).prop_map(|(a, b)| IpAddr::from([0x2001, a, b, 0, 0, 0, 0, 1])),
        ]
    }

    #[test]
    fn a_network_has_the_addresses_with_its_bits_and_no_others() {
        let inside = |text: &str, who: &str| network(text).contains(address(who));
        assert!(inside("10.0.0.0/8", "10.255.0.1") && !inside("10.0.0.0/8", "11.0.0.1"));
        assert!(inside("10.0.0.0/8", "::ffff:10.1.2.3") && !inside("10.0.0.0/8", "::10.1.2.3"));
        assert!(inside("2001:db8::/32", "2001:db8:ffff::1") && !inside("2001:db8::/32", "2001:db9::"));
        assert!(inside("0.0.0.0/0", "255.255.255.255") && !inside("0.0.0.0/0", "::1"));
        assert!(inside("::/0", "::1") && !inside("::/0", "10.0.0.1") && !inside("::/0", "::ffff:10.0.0.1"));
        assert_eq!(network("10.0.0.0/8").prefix_bits(), 8);
    }

    proptest! {
        #[test]
        fn reading_what_was_written_gives_the_same_and_nothing_panics(address in addresses(), prefix in 0_u8..=255, text in "[0-9a-f:./ ]{0,24}") {
            if let Some(network) = Network::of(address, prefix) {
                prop_assert_eq!(network.to_string().parse(), Ok(network));
            }
            if let Ok(network) = text.parse::<Network>() {
                prop_assert_eq!(network.to_string().parse(), Ok(network));
            }
        }
    }
}
