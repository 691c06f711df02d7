//! The addresses that connections come from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Ports that one address has for outgoing connections, where the system doesn't say: 32,768 to 60,999, the default of
/// Linux.
const PORTS_DEFAULT: u32 = 28_232;

/// Connections from one address unless the user says otherwise: well below its ports, because those of earlier runs stay
/// taken for a minute.
const CONNECTIONS_PER_SOURCE: u32 = 10_000;

/// The most addresses: 127.0.0.1 to 127.0.0.254.
const SOURCES_MAX: u32 = 254;

/// Where connections come from, in turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sources {
    /// How many addresses; with 1 the system chooses.
    count: u32,
}

impl Sources {
    /// Enough addresses for `connections` to `target`, or as many as were `asked` for, each with `ports`.
    ///
    /// # Errors
    /// A text with the numbers, when they are not enough or the target can't be reached from them.
    pub(super) fn new(target: SocketAddr, connections: u32, asked: Option<u32>, ports: u32) -> Result<Self, String> {
        let can_choose = matches!(target.ip(), IpAddr::V4(address) if address.is_loopback());
        let count = match asked {
            Some(count) if !(1..=SOURCES_MAX).contains(&count) => {
                return Err(format!(
                    "--sources {count}: it must be from 1 to {SOURCES_MAX} (127.0.0.1 to 127.0.0.{SOURCES_MAX})"
                ));
            }
            Some(count) if count > 1 && !can_choose => {
                return Err(format!(
                    "--sources {count}: the addresses are in 127.0.0.0/8, from where {} can't be reached",
                    target.ip()
                ));
            }
            Some(count) => count,
            None if can_choose => connections.div_ceil(CONNECTIONS_PER_SOURCE.min(ports)).clamp(1, SOURCES_MAX),
            None => 1,
        };
        let most = u64::from(count) * u64::from(ports);
        if u64::from(connections) > most {
            let way_out = if can_choose && count < SOURCES_MAX { "more --sources, or " } else { "" };
            return Err(format!(
                "{connections} connections, but {count} source address{} with {ports} ports (net.ipv4.ip_local_port_range) \
                 allow at most {most}: {way_out}fewer connections",
                if count == 1 { "" } else { "es" },
            ));
        }
        Ok(Self { count })
    }

    /// Where connection `number` comes from; `None`: where the system likes.
    pub(super) fn address(self, number: u32) -> Option<IpAddr> {
        (self.count > 1).then(|| Ipv4Addr::new(127, 0, 0, (1 + number % self.count) as u8).into())
    }
}

/// How many ports an address of this machine has for outgoing connections.
pub(super) fn local_ports() -> u32 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    count_ports(&range).unwrap_or(PORTS_DEFAULT)
}

fn count_ports(range: &str) -> Option<u32> {
    let mut ends = range.split_whitespace().map(str::parse::<u32>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    last.checked_sub(first).map(|span| span + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> SocketAddr {
        "127.0.0.1:7".parse().unwrap()
    }

    fn remote() -> SocketAddr {
        "192.0.2.1:7".parse().unwrap()
    }

    #[test]
    fn ports_are_counted_with_both_ends() {
        assert_eq!(count_ports("32768\t60999\n"), Some(28_232));
        assert_eq!(count_ports("5 5"), Some(1));
        for text in ["", "1", "9 1", "a b"] {
            assert_eq!(count_ports(text), None, "{text:?}");
        }
        assert!(local_ports() > 0);
    }

    #[test]
    fn few_connections_come_from_where_the_system_likes_and_many_from_several_addresses_in_turn() {
        let few = Sources::new(loopback(), 10_000, None, 28_232).expect("they fit");
        assert_eq!(few.address(9_999), None);
        let many = Sources::new(loopback(), 30_001, None, 28_232).expect("they fit");
        let addresses: Vec<String> =
            (0..5).map(|number| many.address(number).expect("one of several").to_string()).collect();
        assert_eq!(addresses, ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.1"]);
    }

    #[test]
    fn addresses_that_are_not_enough_are_refused_with_the_numbers() {
        let text = Sources::new(loopback(), 28_233, Some(1), 28_232).expect_err("one too many");
        for part in ["28233 connections", "1 source address ", "28232 ports", "at most 28232", "more --sources"] {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
        let text = Sources::new(remote(), 28_233, None, 28_232).expect_err("one too many");
        assert!(!text.contains("--sources"), "there are none for {}: {text}", remote());
        assert!(Sources::new(loopback(), 28_232, Some(1), 28_232).is_ok());
        assert!(Sources::new(loopback(), u32::MAX, None, 28_232).is_err());
    }

    #[test]
    fn other_targets_are_not_reached_from_the_loopback() {
        for target in [remote(), "[::1]:7".parse().unwrap()] {
            assert!(Sources::new(target, 10, Some(2), 28_232).is_err());
            assert_eq!(Sources::new(target, 10, Some(1), 28_232).map(|sources| sources.address(1)), Ok(None));
        }
        assert!(Sources::new(loopback(), 10, Some(0), 28_232).is_err());
        assert!(Sources::new(loopback(), 10, Some(255), 28_232).is_err());
    }
}
