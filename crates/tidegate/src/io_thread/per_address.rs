//! How many connections each address has.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::memory::{Chunked, FreeList, IndexStack};

/// Who a connection is counted for: an IPv4 address, or the /64 of an IPv6 one, which is what one customer gets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Party {
    Four(u32),
    Six(u64),
}

impl Party {
    fn of(address: IpAddr) -> Self {
        // An IPv4 address in the clothes of IPv6 (::ffff:a.b.c.d) is that IPv4 address.
        match address.to_canonical() {
            IpAddr::V4(address) => Self::Four(address.to_bits()),
            IpAddr::V6(address) => Self::Six((address.to_bits() >> 64) as u64),
        }
    }
}

/// What a counted connection carries, and what comes back when it is released. Each is out at most once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket(u32);

impl Ticket {
    /// The connection is not counted.
    pub(crate) const NONE: Self = Self(u32::MAX);

    /// Its number, if it is one.
    pub(crate) fn number(self) -> Option<u32> {
        (self != Self::NONE).then_some(self.0)
    }
}

impl Default for Ticket {
    fn default() -> Self {
        Self::NONE
    }
}

/// Counts the connections of each address, for the acceptor alone.
///
/// A connection that is admitted gets a [`Ticket`]. Whichever thread releases it puts the ticket on the stack of the returned ones, which
/// has a place for each and so is never full, and nobody waits for anybody; the acceptor looks there before it decides. A
/// ticket is on the stack before its connection stops being counted in the server: so there are never more tickets out than
/// connections allowed, the table never has more entries than that, and an address is ordered, not hashed: nobody can
/// choose addresses that collide, and every run is the same.
pub(crate) struct PerAddress {
    limit: u32,
    counts: BTreeMap<Party, u32>,
    /// Whom each ticket is counted for.
    parties: Chunked<Option<Party>>,
    free: FreeList,
}

impl PerAddress {
    /// At most `limit` connections for each address, `connections` in all.
    pub(crate) fn new(limit: u32, connections: u32) -> Self {
        Self { limit, counts: BTreeMap::new(), parties: Chunked::new(connections), free: FreeList::new(connections) }
    }

    /// Counts a connection from `address`, if it may have one more. Tickets that came back are counted first.
    pub(crate) fn admit(&mut self, address: IpAddr, returned: &IndexStack) -> Option<Ticket> {
        self.collect(returned);
        let party = Party::of(address);
        let count = self.counts.get(&party).copied().unwrap_or(0);
        if count >= self.limit {
            return None;
        }
        // Can't be `None` but for a connection that nobody has counted: see the type.
        let ticket = self.free.take()?;
        *self.parties.ensure(ticket) = Some(party);
        self.counts.insert(party, count + 1);
        Some(Ticket(ticket))
    }

    fn collect(&mut self, returned: &IndexStack) {
        if returned.is_empty() {
            return;
        }
        for ticket in returned.take_all() {
            let Some(party) = self.parties.get_mut(ticket).and_then(Option::take) else {
                debug_assert!(false, "ticket {ticket} came back twice");
                continue;
            };
            self.free.give(ticket);
            if let Some(count) = self.counts.get_mut(&party) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&party);
                }
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn admit(table: &mut PerAddress, returned: &IndexStack, address: &str) -> Option<u32> {
        table.admit(address.parse().expect("an address"), returned).and_then(Ticket::number)
    }

    #[test]
    fn an_ipv4_address_is_one_party_and_so_is_the_64_of_an_ipv6_one() {
        let (mut table, returned) = (PerAddress::new(1, 100), IndexStack::new(100));
        let mut may = |address| admit(&mut table, &returned, address).is_some();
        assert!(may("192.0.2.1") && !may("192.0.2.1") && may("192.0.2.2"));
        assert!(!may("::ffff:192.0.2.1"), "the same address in the clothes of IPv6");
        assert!(may("::ffff:192.0.2.3") && !may("192.0.2.3"));
        assert!(may("2001:db8:1:2::1") && !may("2001:db8:1:2:ffff::9") && may("2001:db8:1:3::1"));
        assert!(may("::1"), "whose /64 is 0, and no IPv4 address");
        assert!(may("0.0.0.0"));
    }

    #[test]
    fn a_connection_that_is_over_makes_room_for_another() {
        let (mut table, returned) = (PerAddress::new(2, 3), IndexStack::new(3));
        let first = admit(&mut table, &returned, "192.0.2.1").expect("the first");
        assert!(admit(&mut table, &returned, "192.0.2.1").is_some());
        assert_eq!(admit(&mut table, &returned, "192.0.2.1"), None);
        returned.push(first);
        assert!(admit(&mut table, &returned, "192.0.2.1").is_some());
        assert_eq!(admit(&mut table, &returned, "192.0.2.1"), None);
    }

    proptest! {
        /// Against a list of all connections that there are.
        #[test]
        fn the_table_is_what_a_naive_model_says(
            limit in 1_u32..4,
            steps in prop::collection::vec((any::<bool>(), 0_u8..6, any::<prop::sample::Index>()), 1..200),
        ) {
            const CONNECTIONS: usize = 12;
            let returned = IndexStack::new(CONNECTIONS as u32);
            let mut table = PerAddress::new(limit, CONNECTIONS as u32);
            let mut model: Vec<(IpAddr, u32)> = Vec::new();
            for (arrives, number, which) in steps {
                let address: IpAddr = match number {
                    0..=2 => [192, 0, 2, number].into(),
                    3 => [0x2001, 0xDB8, 0, 0, 0, 0, 0, which.index(9) as u16].into(),
                    _ => [0x2001, 0xDB8, 0, u16::from(number), 0, 0, 0, 1].into(),
                };
                if arrives && model.len() < CONNECTIONS {
                    let same = |other: &IpAddr| match (address, *other) {
                        (IpAddr::V6(one), IpAddr::V6(other)) => one.segments()[..4] == other.segments()[..4],
                        (one, other) => one == other,
                    };
                    let has = model.iter().filter(|(other, _)| same(other)).count();
                    let ticket = table.admit(address, &returned);
                    prop_assert_eq!(ticket.is_some(), has < limit as usize);
                    model.extend(ticket.and_then(Ticket::number).map(|ticket| (address, ticket)));
                } else if !model.is_empty() {
                    let (_, ticket) = model.swap_remove(which.index(model.len()));
                    returned.push(ticket);
                }
                prop_assert!(table.counts.len() <= CONNECTIONS, "the table is bounded by the connections");
            }
            for (_, ticket) in model {
                returned.push(ticket);
            }
            table.collect(&returned);
            prop_assert!(table.counts.is_empty() && table.free.in_use() == 0, "nothing is left when all are gone");
        }
    }
}
