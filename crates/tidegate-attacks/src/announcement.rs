//! What the server says on stdout: where it listens and what it may use at the start, what it has done at the end.

use std::collections::BTreeMap;
use std::net::SocketAddr;

/// What the first lines say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The first address that the server listens on.
    pub address: SocketAddr,
    /// The most memory that it may use itself.
    pub ceiling_bytes: u64,
    /// The most memory that the kernel may use for its sockets.
    pub kernel_bytes: u64,
}

/// Collects the first lines until the announcement is whole.
#[derive(Debug, Default)]
pub struct Announcing {
    lines: Vec<String>,
    address: Option<SocketAddr>,
    ceiling_bytes: Option<u64>,
    kernel_bytes: Option<u64>,
}

impl Announcing {
    /// Takes one more line. `Ok(Some)`: that was the last that was missing.
    ///
    /// # Errors
    /// A line that starts like one of the announcement and isn't.
    pub fn line(&mut self, line: &str) -> Result<Option<Announcement>, String> {
        self.lines.push(line.to_owned());
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["listening", _, "tcp", address] => {
                let address = address.parse().map_err(|_| format!("not an address in `{line}`"))?;
                self.address.get_or_insert(address);
            }
            ["ceiling", "total", bytes] => self.ceiling_bytes = Some(number(bytes, line)?),
            ["ceiling", _, bytes] => {
                number(bytes, line)?;
            }
            ["kernel", bytes] => self.kernel_bytes = Some(number(bytes, line)?),
            ["listening" | "ceiling" | "kernel", ..] => return Err(format!("not understood: `{line}`")),
            _ => {}
        }
        Ok(match (self.address, self.ceiling_bytes, self.kernel_bytes) {
            (Some(address), Some(ceiling_bytes), Some(kernel_bytes)) => {
                Some(Announcement { address, ceiling_bytes, kernel_bytes })
            }
            _ => None,
        })
    }

    /// What is missing, for a person.
    pub fn missing(&self) -> String {
        let lines = [
            ("`listening SERVICE tcp ADDRESS`", self.address.is_none()),
            ("`ceiling total BYTES`", self.ceiling_bytes.is_none()),
            ("`kernel BYTES`", self.kernel_bytes.is_none()),
        ];
        let missing: Vec<&str> = lines.into_iter().filter(|&(_, missing)| missing).map(|(line, _)| line).collect();
        format!("its stdout has no line {}; it has {:?}", missing.join(", no line "), self.lines)
    }
}

fn number(text: &str, line: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("not a number of bytes in `{line}`"))
}

/// What the last line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Connections that the server has accepted.
    pub connections: u64,
    /// Why they ended; reasons that did not occur may be missing.
    pub closed: BTreeMap<String, u64>,
}

impl Summary {
    /// Reads the JSON object of the last line.
    ///
    /// # Errors
    /// What is missing in it.
    pub fn parse(line: &str) -> Result<Self, String> {
        let value: serde_json::Value = serde_json::from_str(line)
            .map_err(|error| format!("the last line is no JSON object ({error}): `{line}`"))?;
        let connections = value["connections"].as_u64();
        let connections = connections.ok_or_else(|| format!("no number `connections` in the last line: `{line}`"))?;
        let object = value["closed"].as_object();
        let object = object.ok_or_else(|| format!("no object `closed` in the last line: `{line}`"))?;
        let mut closed = BTreeMap::new();
        for (reason, count) in object {
            let count = count.as_u64().ok_or_else(|| format!("`{reason}` has no number in the last line: `{line}`"))?;
            if count > 0 {
                closed.insert(reason.clone(), count);
            }
        }
        Ok(Self { connections, closed })
    }

    /// How many connections ended for any of `reasons`.
    pub fn closed_for(&self, reasons: &[&str]) -> u64 {
        reasons.iter().filter_map(|&reason| self.closed.get(reason)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [&str; 6] = [
        "listening echo tcp 127.0.0.1:41001",
        "listening echo tcp 127.0.0.1:41002",
        "ceiling base 10",
        "ceiling send 20",
        "ceiling total 30",
        "kernel 400",
    ];

    #[test]
    fn an_announcement_is_whole_with_its_last_line() {
        let mut announcing = Announcing::default();
        for line in &LINES[..5] {
            assert_eq!(announcing.line(line), Ok(None), "{line}");
        }
        let address = "127.0.0.1:41001".parse().expect("an address");
        let whole = Announcement { address, ceiling_bytes: 30, kernel_bytes: 400 };
        assert_eq!(announcing.line(LINES[5]), Ok(Some(whole)));
    }

    #[test]
    fn a_line_that_is_missing_or_wrong_is_named() {
        let mut announcing = Announcing::default();
        announcing.line(LINES[0]).expect("it is right");
        let text = announcing.missing();
        assert!(text.contains("ceiling total") && text.contains("kernel") && text.contains("41001"), "{text}");
        assert!(!text.contains("no line `listening"), "{text}");
        for wrong in ["ceiling total many", "kernel", "listening echo tcp nowhere", "ceiling base -1"] {
            assert!(announcing.line(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_summary_may_have_all_reasons_or_only_those_that_occurred() {
        let all = r#"{"bytes_received":1,"bytes_sent":1,"connections":3,"closed":{"finished":2,"reset":1,"failed":0}}"#;
        let some = r#"{"connections":3,"closed":{"reset":1,"finished":2},"refused":{"full":7}}"#;
        let summary = Summary::parse(all).expect("a summary");
        assert_eq!(Summary::parse(some), Ok(summary.clone()));
        assert_eq!((summary.closed_for(&["reset", "finished"]), summary.closed_for(&["failed"])), (3, 0));
        for wrong in
            ["", "drained", r#"{"closed":{}}"#, r#"{"connections":3}"#, r#"{"connections":3,"closed":{"reset":"1"}}"#]
        {
            assert!(Summary::parse(wrong).is_err(), "{wrong}");
        }
    }
}
