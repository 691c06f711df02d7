//! What the program is told on the command line.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tidegate::{EngineChoice, MinProgress, Network, Overflow};

use crate::doctor::DoctorOptions;
use crate::load::arguments::LoadOptions;
use crate::parse::{parse_address, parse_interval, parse_overflow, parse_period, parse_threads};
use crate::serve::filters::FilterOptions;
use crate::size::Size;
use crate::span::{Limit, Span, parse_optional, parse_progress};

/// TCP servers whose limits are promises, and a client that tries them.
#[derive(Parser, Debug)]
#[command(name = "tidegate", version, about, long_about = None)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Serve one of the small services until SIGTERM or SIGINT
    Serve(Box<ServeOptions>),
    /// Load a server with many connections, measure how it answers and check what
    Load(LoadOptions),
    /// Say what this machine can promise, and what stands in the way of more
    Doctor(DoctorOptions),
}

/// How to serve.
#[derive(Args, Debug)]
#[command(after_help = SERVE_NOTES)]
pub(crate) struct ServeOptions {
    /// What each connection gets
    #[arg(value_enum)]
    pub service: Service,

    /// ticker: the time between two messages; 0: as fast as they are taken, while there are connections [default: 100ms]
    #[arg(long, value_name = "TIME", value_parser = parse_interval)]
    pub interval: Option<Span>,

    /// ticker: the size of a message, at least 24 and at most --send-queue [default: 128]
    #[arg(long, value_name = "SIZE")]
    pub size: Option<Size>,

    /// Address and port to listen on, such as 127.0.0.1:7007 or [::1]:7007; port 0 lets the system choose one. May be
    /// given several times
    #[allow(rustdoc::broken_intra_doc_links, reason = "the text is for --help, and [::1] is an address")]
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7007", value_parser = parse_address)]
    pub listen: Vec<SocketAddr>,

    /// I/O threads [default: as many as there are processors]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    pub threads: Option<NonZeroUsize>,

    /// The engine that does the I/O; auto takes the best that this system allows
    #[arg(long, value_enum, default_value = "auto")]
    pub engine: Engine,

    /// Connections at once, over all listeners; those beyond wait in the system's backlog until one closes, or are
    /// refused, as --preset says [default:
    /// 10000, or the hard limit of descriptors (ulimit -Hn) less 64 if that is smaller]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<NonZeroU32>,

    /// Memory that the server may use at worst: a number of bytes, or of units of 1,024 bytes (K), 1,024 K (M), 1,024 M
    /// (G), such as 128M. What connections and receive buffers leave of it is for what waits to be sent [default: half
    /// of what is available when the kernel's sockets have their part, but no more than is of use]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Size>,

    /// What the limits are made for
    #[arg(long, value_enum, default_value = "connections")]
    pub preset: Preset,

    /// Connections at once from one IPv4 address or one IPv6 /64; more are refused [default: no limit]
    #[arg(long, value_name = "N")]
    pub max_connections_per_ip: Option<NonZeroU32>,

    /// Let only addresses of this network connect, such as 10.0.0.0/8, 2001:db8::/32 or one address; others are refused. The
    /// longest network that has the address decides. May be given several times
    #[arg(long, value_name = "CIDR")]
    pub allow: Vec<Network>,

    /// Refuse addresses of this network; it wins over the same one in --allow. May be given several times
    #[arg(long, value_name = "CIDR")]
    pub deny: Vec<Network>,

    /// Connections accepted a second, over all listeners; more wait in the backlog [default: no limit]
    #[arg(long, value_name = "N")]
    pub accept_rate: Option<NonZeroU32>,

    /// What may wait to be sent on one connection; above half of it, the connection is not read from. At least 8K
    #[arg(long, value_name = "SIZE", default_value = "64K")]
    pub send_queue: Size,

    /// What may be on its way into one connection's socket buffer at once. At least 4K
    #[arg(long, value_name = "SIZE", default_value = "64K")]
    pub window: Size,

    /// What becomes of a message for which the send queue has no room: wait (refused until there is room; a connection
    /// that has had none for 30 s is reset, wait=TIME: for so long, wait=0: for ever), drop-oldest (messages that wait
    /// are dropped for it), drop-newest (it is dropped), close (the connection is reset)
    #[arg(long, value_name = "POLICY", default_value = "wait", value_parser = parse_overflow)]
    pub overflow: Overflow,

    /// How long a new connection may take until the first byte goes either way; off: for ever
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_optional)]
    pub first_byte_timeout: Limit<Span>,

    /// How long a connection may stay open without a byte going either way; off: for ever
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_optional)]
    pub idle_timeout: Limit<Span>,

    /// How fast a peer must take what waits for it; a slower one is reset. off: no matter how slowly
    #[arg(long, value_name = "BYTES/TIME", default_value = "1/60s", value_parser = parse_progress)]
    pub min_send_progress: Limit<MinProgress>,

    /// Serve TLS 1.3 and 1.2, with the certificates in this PEM file: the server's first, each followed by that of its issuer. SIGHUP reads
    /// both files again
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// The private key of the certificate (PEM: PKCS #8, PKCS #1 or SEC 1)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Serve only clients with a certificate that one of those in this PEM file has issued
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,

    /// An application protocol to agree upon (ALPN), the best first. May be given several times
    #[arg(long, value_name = "NAME", requires = "tls_cert")]
    pub tls_alpn: Vec<String>,
    #[command(flatten)]
    pub filters: FilterOptions,

    /// How long draining may take after a signal: after half of it, what is still busy is closed in order, after all of it reset
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub shutdown_grace: Span,

    /// Log a line of counters this often
    #[arg(long, value_name = "TIME", value_parser = parse_period)]
    pub stats: Option<Span>,

    /// How to write the log, which goes to stderr; RUST_LOG chooses what is written [default level: info]
    #[arg(long, value_enum, default_value = "text")]
    pub log: LogFormat,
}

const SERVE_NOTES: &str = "\
The first lines on stdout name the addresses, one a line: listening echo tcp 127.0.0.1:7007
Then come the ceilings of memory in bytes: a line `ceiling TERM BYTES` for each term and `ceiling total BYTES` for the
server itself, and `kernel BYTES` for what its sockets may take of the kernel's memory besides.

SIGTERM and SIGINT drain the server: what waits to be accepted is accepted, what is queued is sent, idle connections
are closed, those that are still busy after half of --shutdown-grace are closed in order, and what is left after all of
it is reset; then it exits with status 0. The last line on stdout is a JSON object: bytes_received, bytes_sent,
connections, dropped_messages and dropped_bytes by --overflow, closed by reason, refused by cause; of a ticker also how
many messages were published, refused for now, delivered (one for each receiver) and missed. With TLS, SIGHUP reads the
certificate and its key again: new connections get the new certificate, old ones go on, and files that can't be used change
nothing; the log says which. A second signal ends it at once, with 128 plus its number. Status 1: the system refuses an
address, descriptors, memory or a file. Status 2: bad arguments.

Example: serve 12,000 connections within 96 MiB on every IPv4 address of the machine
  tidegate serve echo --listen 0.0.0.0:7007 --max-connections 12000 --memory 96M";

/// What a connection gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Service {
    /// What comes in goes out
    Echo,
    /// What comes in is thrown away
    Discard,
    /// Numbered lines of 64 bytes, for as long as the peer reads
    Chargen,
    /// One numbered stream for all: messages that are published once, at an --interval, and go to every connection
    Ticker,
}

impl Service {
    /// Its name on the command line and in the `listening` lines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Discard => "discard",
            Self::Chargen => "chargen",
            Self::Ticker => "ticker",
        }
    }
}

/// The presets by their names on the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Preset {
    /// As many connections as the limits hold, all served alike; those beyond wait in the backlog
    Connections,
    /// A quarter of --max-connections is served at once, first come first served; the others wait in line, and those beyond
    /// are refused
    Throughput,
}

/// The engines by their names on the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Engine {
    /// The best that this system allows
    Auto,
    /// io_uring (Linux 6.1 and later)
    Uring,
    /// Readiness: epoll (kqueue on macOS and the BSDs)
    Readiness,
}

impl From<Engine> for EngineChoice {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Auto => Self::Auto,
            Engine::Uring => Self::Uring,
            Engine::Readiness => Self::Readiness,
        }
    }
}

/// How the log is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

impl ServeOptions {
    /// The first address that is asked for twice, if there is one. Port 0 is a new port each time.
    pub(crate) fn repeated_address(&self) -> Option<SocketAddr> {
        let mut seen = BTreeSet::new();
        self.listen.iter().copied().find(|address| address.port() != 0 && !seen.insert(*address))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn options(arguments: &[&str]) -> ServeOptions {
        let all = ["tidegate", "serve", "echo"].iter().chain(arguments);
        match Arguments::try_parse_from(all).expect("valid arguments").command {
            Command::Serve(options) => *options,
            other => panic!("another command: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_default_address_is_port_7007_of_the_loopback_and_listen_replaces_it() {
        assert_eq!(options(&[]).listen, ["127.0.0.1:7007".parse().unwrap()]);
        assert_eq!(options(&["--listen", "[::1]:1"]).listen, ["[::1]:1".parse().unwrap()]);
    }

    #[test]
    fn without_a_policy_a_message_waits() {
        assert_eq!(options(&[]).overflow, Overflow::Wait { limit: Some(Duration::from_secs(30)) });
    }

    #[test]
    fn an_address_twice_is_a_contradiction_but_port_0_twice_is_not() {
        let twice = options(&["--listen", "127.0.0.1:1", "--listen", "[::1]:1", "--listen", "127.0.0.1:1"]);
        assert_eq!(twice.repeated_address(), Some("127.0.0.1:1".parse().unwrap()));
        assert_eq!(options(&["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"]).repeated_address(), None);
    }
}
