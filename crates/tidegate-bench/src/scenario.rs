//! The loads: how many connections, how large the messages, how many outstanding.

use serde::{Deserialize, Serialize};

/// One load. Every one is a closed loop: a new request follows an answer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Load {
    /// Connections open at a time.
    pub connections: usize,
    /// Bytes of one message.
    pub message_bytes: usize,
    /// Messages outstanding per connection.
    pub outstanding: usize,
    /// Every request is a connection of its own: connect, one echo, close.
    pub churn: bool,
}

/// A load and what it is called.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What `--scenarios` calls it.
    pub name: &'static str,
    /// What the table is headed with.
    pub title: &'static str,
    /// The load itself.
    pub load: Load,
    /// How many times longer its turns are: every connection should get several
    /// requests, most of them with the memory of this server in the cache.
    pub slice_factor: u32,
}

const fn steady(connections: usize, message_bytes: usize, outstanding: usize) -> Load {
    Load { connections, message_bytes, outstanding, churn: false }
}

/// Every scenario, in the order in which they run.
pub const ALL: [Scenario; 8] = [
    Scenario { name: "a", title: "50 connections x 64 B", load: steady(50, 64, 1), slice_factor: 1 },
    Scenario { name: "b", title: "1,000 connections x 64 B", load: steady(1_000, 64, 1), slice_factor: 1 },
    Scenario { name: "c", title: "10,000 connections x 64 B", load: steady(10_000, 64, 1), slice_factor: 4 },
    Scenario { name: "d", title: "50 connections x 16 KiB", load: steady(50, 16 * 1024, 1), slice_factor: 1 },
    Scenario {
        name: "e",
        title: "64 connections x 1 KiB, 16 outstanding",
        load: steady(64, 1024, 16),
        slice_factor: 1,
    },
    Scenario {
        name: "f",
        title: "churn: connect, one 64 B echo, close; 50 at a time",
        load: Load { connections: 50, message_bytes: 64, outstanding: 1, churn: true },
        slice_factor: 1,
    },
    Scenario { name: "one", title: "1 connection x 64 B", load: steady(1, 64, 1), slice_factor: 1 },
    Scenario { name: "four", title: "4 connections x 64 B", load: steady(4, 64, 1), slice_factor: 1 },
];

impl Scenario {
    /// The scenario of that name.
    ///
    /// # Errors
    ///
    /// A sentence naming the ones there are.
    pub fn find(name: &str) -> Result<Scenario, String> {
        ALL.into_iter().find(|scenario| scenario.name == name).ok_or_else(|| {
            let names = ALL.map(|scenario| scenario.name).join(", ");
            format!("no scenario {name:?}; there are {names}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_its_own_scenario() {
        for scenario in ALL {
            assert_eq!(Scenario::find(scenario.name).map(|found| found.load), Ok(scenario.load));
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let message = Scenario::find("g").err().unwrap_or_default();
        assert!(message.contains("four"), "{message}");
    }
}
