//! Slow attacks on an HTTP server beside a healthy client: whether its memory stays below its ceiling, and whether the client is answered.

mod healthy;
mod slowhttptest;

use std::env;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::compare::child::Server;
use crate::compare::report;
use crate::compare::{CLIENT_CPU, SERVER_CPU, ServerCommand, enter_private_network};
use crate::machine::{self, Facts};
use crate::memory::{self, ceiling_of};
use crate::tools::{self, SLOWHTTPTEST};

use healthy::{Asked, Healthy};
use slowhttptest::Seen;

pub use slowhttptest::{ALL, Attack};

/// Every healthy answer must come within this time.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// The part of the attacking connections that must have been made, or there was no attack.
const ATTACKED: f64 = 0.95;
/// How long a server may take to print its ceiling.
const CEILING_PATIENCE: Duration = Duration::from_secs(2);

/// What a run can be told.
#[derive(Debug)]
pub struct Options {
    /// The server; `{connections}` in its arguments is how many there must be room for.
    pub server: ServerCommand,
    /// What is appended for TLS; `{chain}` and `{key}` are files. Without it, only plain connections are attacked.
    pub tls: Vec<String>,
    /// The attacks, in order.
    pub attacks: Vec<Attack>,
    /// Attacking connections.
    pub connections: usize,
    /// How long each attack is.
    pub seconds: u64,
}

/// A certificate of this run, in files that are removed with it.
struct Certificate {
    directory: PathBuf,
    der: Vec<u8>,
}

impl Certificate {
    fn make() -> io::Result<Certificate> {
        let issued = rcgen::generate_simple_self_signed([healthy::NAME.to_owned()]).map_err(io::Error::other)?;
        let directory = env::temp_dir().join(format!("tidegate-slow-http-{}", std::process::id()));
        fs::create_dir(&directory)?;
        let certificate = Certificate { directory, der: issued.cert.der().to_vec() };
        fs::write(certificate.path("chain.pem"), issued.cert.pem())?;
        fs::write(certificate.path("key.pem"), issued.signing_key.serialize_pem())?;
        Ok(certificate)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        // What is left is small, and worth nothing to anybody.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Runs everything and prints the table.
///
/// # Errors
///
/// A tool that is missing, a server that does not start, or any verdict that is not good.
pub fn run(options: &Options) -> io::Result<()> {
    tools::require(&[SLOWHTTPTEST])?;
    let descriptor_limit = machine::raise_descriptor_limit()?;
    let private_network = enter_private_network();
    let facts = Facts::gather(descriptor_limit, private_network);
    let certificate = Certificate::make()?;
    println!(
        "\n### {} attacking connections for {} s, and a client that asks on a new connection every {} ms\n",
        options.connections,
        options.seconds,
        healthy::EVERY.as_millis()
    );
    println!(
        "| attack | transport | made at least | open at most | closed | asked | unanswered | p50/p99/slowest ms \
         | resident at most, KiB | ceiling, KiB | verdict |"
    );
    println!("|{}", " --- |".repeat(11));
    let mut bad = 0;
    for encrypted in [false, true] {
        if encrypted && options.tls.is_empty() {
            println!(
                "| all | TLS | - | - | - | - | - | - | - | - | not attacked: nothing said how it is switched on |"
            );
            continue;
        }
        for attack in &options.attacks {
            let told = |error: io::Error| io::Error::other(format!("-{}: {error}", attack.option));
            let row = run_attack(attack, encrypted.then_some(&certificate), options).map_err(told)?;
            bad += usize::from(!row.print(attack, encrypted));
        }
    }
    println!();
    report::print_facts(&facts);
    if bad > 0 { Err(io::Error::other(format!("{bad} attacks with a bad verdict"))) } else { Ok(()) }
}

struct Row {
    /// Attacking connections that were made, at least.
    made: usize,
    seen: Seen,
    asked: Asked,
    resident: u64,
    ceiling: Option<u64>,
    wanted: usize,
}

fn run_attack(attack: &Attack, certificate: Option<&Certificate>, options: &Options) -> io::Result<Row> {
    machine::pin(SERVER_CPU)?;
    let mut server = Server::start(&command(certificate, options), false)?;
    machine::pin(CLIENT_CPU)?;
    let ceiling = ceiling_of(|| server.line(CEILING_PATIENCE));
    let accepted = machine::passive_opens()?;
    let healthy = Healthy::start(server.address(), certificate.map(|certificate| certificate.der.clone()))?;
    let seen = attack.run(server.address(), certificate.is_some(), options.connections, options.seconds);
    let asked = healthy.stop()?;
    let accepted = machine::passive_opens()?.saturating_sub(accepted) as usize;
    // Not those of the healthy client, nor those by which slowhttptest looks whether the server is there, one in a second at most.
    let made = accepted.saturating_sub(asked.count() + options.seconds as usize);
    server.still_runs()?;
    let resident = memory::peak_resident_bytes(server.pid()).ok_or_else(|| io::Error::other("the server has ended"))?;
    Ok(Row { made, seen: seen?, asked, resident, ceiling, wanted: options.connections })
}

fn command(certificate: Option<&Certificate>, options: &Options) -> ServerCommand {
    // The attackers, those of them that are not gone yet, and the healthy client.
    let room = (2 * options.connections + 100).to_string();
    let tls = certificate.map(|_| options.tls.iter()).into_iter().flatten();
    let fill_in = |word: &String| {
        let word = word.replace("{connections}", &room);
        let path = |file| certificate.map(|one| one.path(file).to_string_lossy().into_owned()).unwrap_or_default();
        word.replace("{chain}", &path("chain.pem")).replace("{key}", &path("key.pem"))
    };
    let arguments = options.server.arguments.iter().chain(tls).map(fill_in).collect();
    ServerCommand { arguments, ..options.server.clone() }
}

impl Row {
    /// Whether all is well.
    fn print(&self, attack: &Attack, encrypted: bool) -> bool {
        let complaints = self.complaints();
        let verdict = if complaints.is_empty() { "good".to_owned() } else { format!("BAD: {}", complaints.join("; ")) };
        let [p50, p99, slowest] = [0.5, 0.99, 1.0].map(|part| self.asked.at(part).as_secs_f64() * 1e3);
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {p50:.1}/{p99:.1}/{slowest:.1} | {} | {} | {verdict} |",
            attack.name,
            if encrypted { "TLS" } else { "plain" },
            self.made,
            self.seen.open_at_most,
            self.seen.closed,
            self.asked.count(),
            self.asked.failures.len(),
            self.resident >> 10,
            self.ceiling.map_or_else(|| "-".to_owned(), |ceiling| (ceiling >> 10).to_string()),
        );
        complaints.is_empty()
    }

    fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        match self.ceiling {
            None => complaints.push("no ceiling was printed".to_owned()),
            Some(ceiling) if self.resident > ceiling => complaints.push("above the ceiling".to_owned()),
            Some(_) => {}
        }
        if (self.made as f64) < self.wanted as f64 * ATTACKED {
            complaints.push(format!("perhaps only {} connections were made", self.made));
        }
        if let Some(failure) = self.asked.failures.first() {
            complaints.push(format!("{} unanswered, the first: {failure}", self.asked.failures.len()));
        }
        if self.asked.count() == 0 {
            complaints.push("the healthy client had no turn".to_owned());
        }
        if self.asked.at(1.0) > ANSWER_WITHIN {
            complaints.push(format!("an answer took longer than {} s", ANSWER_WITHIN.as_secs()));
        }
        complaints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let asked = Asked { times: vec![Duration::from_millis(3); 10], failures: Vec::new() };
        let seen = Seen { open_at_most: 1_000, closed: 0 };
        Row { made: 1_000, seen, asked, resident: 100, ceiling: Some(100), wanted: 1_000 }
    }

    #[test]
    fn only_a_run_in_which_all_holds_is_good() {
        assert!(row().complaints().is_empty());
        let spoilt: [fn(&mut Row); 6] = [
            |row| row.resident = 101,
            |row| row.ceiling = None,
            |row| row.made = 900,
            |row| row.asked.times.push(Duration::from_millis(1_001)),
            |row| row.asked.times.clear(),
            |row| row.asked.failures.push("refused".to_owned()),
        ];
        for (number, spoil) in spoilt.into_iter().enumerate() {
            let mut row = row();
            spoil(&mut row);
            assert_eq!(row.complaints().len(), 1, "{number}");
        }
    }
}
