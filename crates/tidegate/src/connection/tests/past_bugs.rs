//! What once went wrong, each under the name of what must hold instead.

use super::*;

/// A reserve smaller than a reply, which is allowed with a floor that holds one, never had enough, and whoever stood in
/// line stood there for ever.
#[test]
fn a_reserve_smaller_than_a_reply_is_back_when_all_of_it_is() {
    let bench = Bench::new(8, 1_000, small_flow());
    assert!(bench.pools.can_charge_reply());
    let used = use_up(&bench.pools.lease);
    assert!(!bench.pools.can_charge_reply());
    bench.pools.lease.refund(used);
    assert!(bench.pools.can_charge_reply());
}
