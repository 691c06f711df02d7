//! The attacks, one a file.

mod all_at_once;
mod byte_a_second;
mod connect_flood;
mod descriptors;
mod half_close;
mod memory_cgroup;
mod never_read;
mod reset_storm;
mod silent;
mod tiny_windows;

use crate::stage::Attack;

/// All of them, in the order of the table.
pub const ALL: [Attack; 10] = [
    never_read::ATTACK,
    byte_a_second::ATTACK,
    connect_flood::ATTACK,
    silent::ATTACK,
    reset_storm::ATTACK,
    tiny_windows::ATTACK,
    half_close::ATTACK,
    descriptors::ATTACK,
    memory_cgroup::ATTACK,
    all_at_once::ATTACK,
];

/// The attack with this name.
pub fn by_name(name: &str) -> Option<&'static Attack> {
    static ATTACKS: [Attack; 10] = ALL;
    ATTACKS.iter().find(|attack| attack.name == name)
}

/// Says what could not be done, and why.
fn failed<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> String + '_ {
    move |error| format!("{what}: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attack_is_found_by_its_name_and_no_two_have_the_same() {
        for attack in ALL {
            assert_eq!(by_name(attack.name).map(|found| found.summary), Some(attack.summary));
        }
        assert!(by_name("kindness").is_none());
    }
}
