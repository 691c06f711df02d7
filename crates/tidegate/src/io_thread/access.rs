//! Who may connect, by address: networks that are allowed or denied.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::network::Network;

/// Which addresses may connect to a listener: [`Listener::access`](crate::Listener::access).
///
/// The longest network that has the address decides, in whatever order they were given; a network that is both allowed and denied is
/// denied. An address in none of them may connect if nothing is allowed by name, and else not.
///
/// ```
/// use tidegate::AccessList;
///
/// let list = AccessList::new().allow("10.0.0.0/8".parse()?).deny("10.6.0.0/16".parse()?).allow("10.6.0.7".parse()?);
/// assert!(list.allows("10.1.1.1".parse()?) && list.allows("10.6.0.7".parse()?));
/// assert!(!list.allows("10.6.0.8".parse()?) && !list.allows("192.0.2.1".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AccessList {
    /// Whether each network is allowed.
    networks: BTreeMap<Network, bool>,
    /// The prefix lengths that occur, longest first: IPv4 and IPv6 together, at most 129.
    prefixes: Vec<u8>,
    has_allowed: bool,
}

impl AccessList {
    /// A list that allows every address.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows `network`, and with that denies what is in no network of the list.
    pub fn allow(self, network: Network) -> Self {
        self.with(network, true)
    }

    /// Denies `network`.
    pub fn deny(self, network: Network) -> Self {
        self.with(network, false)
    }

    fn with(mut self, network: Network, is_allowed: bool) -> Self {
        self.has_allowed |= is_allowed;
        self.networks.entry(network).and_modify(|before| *before &= is_allowed).or_insert(is_allowed);
        if let Err(place) = self.prefixes.binary_search_by(|prefix| network.prefix_bits().cmp(prefix)) {
            self.prefixes.insert(place, network.prefix_bits());
        }
        self
    }

    /// Whether `address` may connect.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let networks = self.prefixes.iter().filter_map(|&prefix_bits| Network::of(address, prefix_bits));
        let mut verdicts = networks.filter_map(|network| self.networks.get(&network));
        verdicts.next().copied().unwrap_or(!self.has_allowed)
    }
}

#[cfg(test)]
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
    fn the_longest_network_decides_and_a_denied_one_stays_denied() {
        let list = AccessList::new().deny(network("10.0.0.0/8")).allow(network("10.1.0.0/16"));
        assert!(list.allows(address("10.1.2.3")) && list.allows(address("::ffff:10.1.2.3")));
        assert!(!list.allows(address("10.2.2.3")) && !list.allows(address("::1")), "something is allowed by name");
        let list = AccessList::new().deny(network("2001:db8::/32"));
        assert!(
            list.allows(address("10.1.2.3")) && list.allows(address("::1")) && !list.allows(address("2001:db8::9"))
        );
        for list in [
            AccessList::new().allow(network("::1")).deny(network("::1")),
            AccessList::new().deny(network("::1")).allow(network("::1")),
        ] {
            assert!(!list.allows(address("::1")));
        }
        assert!(AccessList::new().allows(address("::1")));
        let list = AccessList::new().deny(network("::/0"));
        assert!(
            list.allows(address("10.0.0.1")) && list.allows(address("::ffff:10.0.0.1")) && !list.allows(address("::1"))
        );
    }

    fn addresses() -> impl Strategy<Value = IpAddr> {
        // Few distinct leading bytes, so that networks meet addresses.
        prop_oneof![
            (0_u8..3, any::<u8>(), 0_u8..3).prop_map(|(a, b, c)| IpAddr::from([10 + a, b, c, 1])),
            (0_u16..3, any::<u16>()).prop_map(|(a, b)| IpAddr::from([0x2001, a, b, 0, 0, 0, 0, 1])),
        ]
    }

    proptest! {
        #[test]
        fn the_list_says_what_a_look_at_every_network_says(
            entries in prop::collection::vec((addresses(), 0_u8..=128, any::<bool>()), 0..12),
            who in addresses(),
        ) {
            let mut list = AccessList::new();
            let mut all = Vec::new();
            for (address, prefix, is_allowed) in entries {
                let prefix = prefix.min(if address.is_ipv6() { 128 } else { 32 });
                let Some(network) = Network::of(address, prefix) else { continue };
                list = if is_allowed { list.allow(network) } else { list.deny(network) };
                all.push((network, is_allowed));
            }
            let longest = all.iter().filter(|(network, _)| network.contains(who)).map(|(network, _)| network.prefix_bits()).max();
            let expected = match longest {
                None => !all.iter().any(|(_, is_allowed)| *is_allowed),
                Some(prefix) => all
                    .iter()
                    .filter(|(network, _)| network.prefix_bits() == prefix && network.contains(who))
                    .all(|(_, is_allowed)| *is_allowed),
            };
            prop_assert_eq!(list.allows(who), expected);
        }

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
