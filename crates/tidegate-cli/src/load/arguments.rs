//! What `tidegate load` is told on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::parse::parse_address;
use crate::size::Size;
use crate::span::Span;

/// How to load a server.
#[derive(Args, Debug)]
#[command(after_help = LOAD_NOTES)]
pub(crate) struct LoadOptions {
    /// Address and port of the server, such as 127.0.0.1:7007 or [::1]:7007
    #[allow(rustdoc::broken_intra_doc_links, reason = "the text is for --help, and [::1] is an address")]
    #[arg(value_name = "ADDR", value_parser = parse_address)]
    pub address: SocketAddr,

    /// Connections of the block that is measured
    #[arg(short, long, value_name = "N", default_value_t = 50)]
    pub connections: u32,

    /// What the whole block sends a second, in bytes or in units of 1,024 bytes (K), 1,024 K (M), 1,024 M (G): an open
    /// loop. Without it the loop is closed: each answer is followed by the next message at once
    #[arg(short, long, value_name = "BYTES_PER_SECOND")]
    pub rate: Option<Size>,

    /// Bytes of a message; K, M and G as above [default: 64; with a ticker: what comes first]
    #[arg(short, long, value_name = "SIZE")]
    pub size: Option<Size>,

    /// Messages that each connection may have unanswered [default: 1]
    #[arg(short = 'p', long, value_name = "N")]
    pub depth: Option<u32>,

    /// How long to measure: 500ms, 10s, 5m, 1h
    #[arg(short, long, value_name = "TIME", default_value = "10s")]
    pub duration: Span,

    /// Connections that are begun a second
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    pub connect_rate: u32,

    /// Connect from this many addresses, 127.0.0.1 and up, when the server is on 127.0.0.0/8: each has ports for about
    /// 28,000 connections [default: one for each 10,000 connections]
    #[arg(long, value_name = "N")]
    pub sources: Option<u32>,

    /// Connections beside the block that send until nothing more is taken, and never read
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub never_read: u32,

    /// Connections beside the block that send nothing
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub silent: u32,

    /// How fast each connection of the block reads at most, in bytes or in units as above; 0: never. Slow connections have small
    /// receive buffers, and connections of different rates take a process for each [default: as fast as it comes]
    #[arg(long, value_name = "BYTES_PER_SECOND")]
    pub read_rate: Option<Size>,

    /// What the server is
    #[arg(long, value_enum, default_value = "echo")]
    pub expect: Expect,

    /// Whether messages of a ticker may be missing [default: forbidden]
    #[arg(long, value_enum)]
    pub gaps: Option<Gaps>,

    /// Speak TLS, with a server whose certificate --tls-ca vouches for
    #[arg(long)]
    pub tls: bool,

    /// The certificates that may have issued the server's, in a PEM file
    #[arg(long, value_name = "FILE", requires = "tls", conflicts_with = "tls_insecure")]
    pub tls_ca: Option<PathBuf>,

    /// What the server's certificate must be for [default: its address]
    #[arg(long, value_name = "NAME", requires = "tls")]
    pub tls_name: Option<String>,

    /// Take any certificate for good, and so load whoever answers
    #[arg(long, requires = "tls")]
    pub tls_insecure: bool,

    /// Check every byte of every answer, and not only how many there are; chargen lines and ticker messages are always
    /// checked
    #[arg(long)]
    pub verify: bool,

    /// Print one JSON object instead of the table, and show no progress
    #[arg(long)]
    pub json: bool,
}

const LOAD_NOTES: &str = "\
Measuring begins when all connections are up or have failed. At the end nothing more is sent, the answers that are
still due are waited for (at most 5s), and the connections are ended in order. SIGINT and SIGTERM end the run early.

Latency is from sending to the last byte of the answer; with --rate from when the message was due, even if it could
only be sent later, because too many were unanswered.

  refused       connections that the server's system refused
  closed_early  connections that the server ended, by a close or a reset, before the load on them was over
  failed        connections that could not be made otherwise, or broke otherwise than by the server's close or reset, or
                whose answers did not come
  mismatches    answers, lines or messages with a wrong byte in them, messages that come twice or in the wrong order, and
                connections that got more than they were owed
  gaps          places at which numbers of a ticker are missing; missed: how many are

With --expect ticker each connection reads from the moment it is up, and may come in the middle of the stream. Latency is then
from publishing to receiving, by the clock of the machine, which the server has to be on as well.

Status 0: all went well; refused and closed_early are only counted. Status 1: mismatches, gaps that are not allowed,
failed connections, nobody connected, or the system refuses descriptors or memory. Status 2: bad arguments.

Example: 10,000 messages of 1 KiB a second over 200 connections for a minute, every byte checked
  tidegate load 127.0.0.1:7007 -c 200 -s 1K -r 10000K -d 1m --verify";

/// What a server does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Expect {
    /// It sends back what it gets
    Echo,
    /// It sends numbered lines of 64 bytes; nothing is sent to it
    Chargen,
    /// It publishes one numbered stream to everybody; nothing is sent to it
    Ticker,
}

impl Expect {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Chargen => "chargen",
            Self::Ticker => "ticker",
        }
    }
}

/// What it means that messages of a ticker are missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Gaps {
    /// A failure, as with a server that waits or closes
    Forbidden,
    /// What is to be expected of a server that drops messages for slow readers; they are counted
    Allowed,
}
