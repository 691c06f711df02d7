//! The attacks, and what `slowhttptest` says of them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::tools::{self, SLOWHTTPTEST};

/// How much longer than it was told the program may run.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections made in a second.
const RATE: usize = 500;

/// An attack and what it is called.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// What `--attacks` and the table call it.
    pub name: &'static str,
    /// The option that chooses it.
    pub option: char,
    /// What else it is told.
    arguments: &'static [&'static str],
}

/// Every attack, in the order in which they run.
pub const ALL: [Attack; 3] = [
    // A header line of up to 24 bytes every 5 s, and never the empty one.
    Attack { name: "headers", option: 'H', arguments: &["-i", "5", "-x", "24", "-t", "GET"] },
    // 64 KiB announced, up to 10 bytes every 5 s.
    Attack { name: "body", option: 'B', arguments: &["-i", "5", "-x", "10", "-s", "65536", "-t", "POST"] },
    // Ten requests at once, the most that there may be, of whose answers 32 bytes are read every 5 s.
    Attack {
        name: "read",
        option: 'X',
        arguments: &["-k", "10", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-t", "GET"],
    },
];

/// What was seen of an attack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The most that were open at a time, of the reports that come every five seconds.
    pub open_at_most: usize,
    /// Those that had been closed, of the last report.
    pub closed: usize,
}

impl Attack {
    /// The attack of that name.
    ///
    /// # Errors
    ///
    /// A sentence naming the ones there are.
    pub fn find(name: &str) -> Result<Attack, String> {
        ALL.into_iter().find(|attack| attack.name == name).ok_or_else(|| {
            let names = ALL.map(|attack| attack.name).join(", ");
            format!("no attack {name:?}; there are {names}")
        })
    }

    /// Attacks for so long.
    ///
    /// # Errors
    ///
    /// When the program fails or says nothing of its connections.
    pub fn run(&self, server: SocketAddr, encrypted: bool, connections: usize, seconds: u64) -> io::Result<Seen> {
        let scheme = if encrypted { "https" } else { "http" };
        let mut arguments = vec![format!("-{}", self.option)];
        arguments.extend(self.arguments.iter().map(ToString::to_string));
        let rest = [
            ("-c", connections.to_string()),
            ("-r", RATE.to_string()),
            ("-l", seconds.to_string()),
            ("-u", format!("{scheme}://{server}/")),
        ];
        arguments.extend(rest.into_iter().flat_map(|(option, value)| [option.to_owned(), value]));
        let finished = tools::run(SLOWHTTPTEST, &arguments, PATIENCE + Duration::from_secs(seconds), false)?;
        read(&finished.output)
    }
}

/// Reads what it prints every five seconds. When the last connection is closed it ends, without another report.
fn read(output: &str) -> io::Result<Seen> {
    let text = without_colours(output);
    let mut seen = Seen::default();
    let mut reports = 0;
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let Ok(count) = value.trim().parse::<usize>() else { continue };
        match name.trim() {
            "connected" => {
                seen.open_at_most = seen.open_at_most.max(count);
                reports += 1;
            }
            "closed" => seen.closed = count,
            _ => {}
        }
    }
    if reports == 0 {
        return Err(io::Error::other(format!("slowhttptest said nothing of its connections:\n{text}")));
    }
    Ok(seen)
}

/// The text without the sequences that colour it.
fn without_colours(text: &str) -> String {
    let mut pieces = text.split('\u{1b}');
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        // `[`, numbers, and a letter that ends it.
        let end = piece.find(|character: char| character.is_ascii_alphabetic()).map_or(piece.len(), |at| at + 1);
        plain.push_str(&piece[end..]);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connections_are_read_from_coloured_reports() -> io::Result<()> {
        let report = |open: u32, closed: u32| {
            format!(
                "\u{1b}[1;32mpending:     \u{1b}[1;32m        1\n\u{1b}[1;32mconnected:   \u{1b}[0;32m        {open}\n\
                 \u{1b}[1;32merror:       \u{1b}[1;32m        0\n\u{1b}[1;32mclosed:      \u{1b}[1;32m        {closed}\n"
            )
        };
        let seen = read(&[report(200, 0), report(900, 50), report(0, 1_000)].concat())?;
        assert_eq!(seen, Seen { open_at_most: 900, closed: 1_000 });
        assert!(read("Connection refused").is_err());
        Ok(())
    }

    #[test]
    fn every_name_finds_its_own_attack() {
        for attack in ALL {
            assert_eq!(Attack::find(attack.name).map(|found| found.option), Ok(attack.option));
        }
        assert!(Attack::find("range").err().unwrap_or_default().contains("headers"));
    }
}
