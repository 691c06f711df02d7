//! A load that makes sense: the options, checked against each other.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::ops::RangeInclusive;
use std::time::Duration;

use tidegate::Limits;

use super::arguments::{Expect, Gaps, LoadOptions};
use super::sources::Sources;
use super::throttle::ReadRate;
use super::ticks::{MESSAGE_BYTES_MAX, MESSAGE_BYTES_MIN};

/// The size of a message unless the user says otherwise, in bytes.
const MESSAGE_BYTES_DEFAULT: usize = 64;

/// What one connection may have unanswered, in bytes.
const UNANSWERED_BYTES_MAX: usize = 16 << 20;

/// What all connections together may take for messages that are unanswered, in bytes.
const BLOCK_BYTES_MAX: u64 = 1 << 30;

/// Receive buffers are so many bytes or a multiple of them.
const PAGE_BYTES: usize = 4096;

/// What the framework charges for a message that waits, and what is remembered of one that is unanswered, in bytes.
const MESSAGE_OVERHEAD_BYTES: usize = 192 + 8;

/// The sizes of the receive buffer of a socket that is read slowly, the smallest that the framework takes and its default: between
/// them, what is read in a second. With more, the peer would see long stops instead of a slow reader.
const SLOW_SOCKET_BYTES: RangeInclusive<u64> = 4 << 10..=128 << 10;

/// Messages that are due together are sent together, up to this many bytes: what one send hands to the system.
const BATCH_BYTES: usize = 64 << 10;

/// The longest run: a year.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// What is to be done, with everything filled in that was not said.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub target: SocketAddr,
    pub expect: Expect,
    /// Connections that are measured.
    pub connections: u32,
    /// Connections beside them that send and never read.
    pub never_read: u32,
    /// Connections beside them that send nothing.
    pub silent: u32,
    /// Of the whole block; `None`: as fast as answers come.
    pub bytes_per_second: Option<NonZeroU64>,
    pub message_bytes: NonZeroUsize,
    /// Messages that a connection may have unanswered.
    pub depth: NonZeroU32,
    pub duration: Duration,
    pub connects_per_second: NonZeroU32,
    pub sources: Sources,
    pub verify: bool,
    /// Of each connection of the block.
    pub read_rate: ReadRate,
    /// How long the messages of a ticker have to be; `None`: as long as the first.
    pub ticker_message_bytes: Option<usize>,
    pub gaps_allowed: bool,
}

impl Plan {
    /// Checks `options`, on a machine with `ports` ports for each address.
    ///
    /// # Errors
    /// A text that names what contradicts what, with the numbers.
    pub(super) fn new(options: &LoadOptions, ports: u32) -> Result<Self, String> {
        let &LoadOptions { connections, never_read, silent, expect, verify, .. } = options;
        let all = u64::from(connections) + u64::from(never_read) + u64::from(silent);
        if all == 0 {
            return Err(
                "--connections 0, and neither --never-read nor --silent: there is nobody to load the server".into()
            );
        }
        let all =
            u32::try_from(all).map_err(|_| format!("{all} connections are more than can be counted ({})", u32::MAX))?;
        if options.address.port() == 0 {
            return Err(format!("{}: nobody listens on port 0", options.address));
        }
        if expect != Expect::Echo {
            let senders = [
                ("--rate", options.rate.is_some()),
                ("--size", options.size.is_some() && expect == Expect::Chargen),
                ("--depth", options.depth.is_some()),
            ];
            if let Some((name, _)) = senders.into_iter().find(|&(_, given)| given) {
                return Err(format!(
                    "{name} is about messages that are sent, but to a {} server nothing is sent: leave it out, or \
                     --expect echo",
                    expect.name()
                ));
            }
        }
        if options.gaps.is_some() && expect != Expect::Ticker {
            return Err(format!("--gaps is about a ticker: with a {} server nothing may be missing", expect.name()));
        }
        let ticker_message_bytes = options.size.map(|size| size.bytes).filter(|_| expect == Expect::Ticker);
        if let Some(bytes) = ticker_message_bytes
            && !(MESSAGE_BYTES_MIN..=MESSAGE_BYTES_MAX).contains(&bytes)
        {
            return Err(format!(
                "--size {bytes}: a message of a ticker has from {MESSAGE_BYTES_MIN} to {MESSAGE_BYTES_MAX} bytes"
            ));
        }
        let read_rate = match options.read_rate.map(|rate| NonZeroU64::new(rate.bytes as u64)) {
            None => ReadRate::Free,
            Some(None) => ReadRate::Never,
            Some(Some(rate)) => ReadRate::AtMost(rate),
        };
        let message_bytes = options.size.map_or(MESSAGE_BYTES_DEFAULT, |size| size.bytes);
        let message_bytes = NonZeroUsize::new(message_bytes).ok_or("--size 0: a message has at least 1 byte")?;
        let depth = NonZeroU32::new(options.depth.unwrap_or(1))
            .ok_or("--depth 0: nothing could be sent, because nothing may be unanswered; at least 1")?;
        let unanswered_bytes = message_bytes.get() as u128 * u128::from(depth.get());
        if unanswered_bytes > UNANSWERED_BYTES_MAX as u128 {
            return Err(format!(
                "--size {message_bytes} times --depth {depth} are {unanswered_bytes} bytes that one connection may have \
                 unanswered: the most is {UNANSWERED_BYTES_MAX}; smaller messages, or fewer at once"
            ));
        }
        // Without verification all messages are the same bytes, which exist once.
        let own_bytes = if verify { message_bytes.get() } else { 0 };
        let block_bytes = u64::from(connections) * u64::from(depth.get()) * (own_bytes + MESSAGE_OVERHEAD_BYTES) as u64;
        if block_bytes > BLOCK_BYTES_MAX {
            return Err(format!(
                "{connections} connections with {depth} messages of {message_bytes} bytes each may take {block_bytes} bytes of \
                 memory: the most is {BLOCK_BYTES_MAX}; fewer connections, fewer messages at once{}",
                if verify { ", smaller ones, or no --verify" } else { "" }
            ));
        }
        let bytes_per_second = match options.rate {
            None => None,
            Some(rate) => {
                Some(NonZeroU64::new(rate.bytes as u64).ok_or("--rate 0: nothing would be sent; at least 1")?)
            }
        };
        let duration = options.duration.duration;
        if duration.is_zero() || duration > DURATION_MAX {
            return Err(format!("--duration {}: it must be from 1ms to {}h", options.duration, 365 * 24));
        }
        let connects_per_second = NonZeroU32::new(options.connect_rate)
            .ok_or("--connect-rate 0: nobody would ever connect; at least 1 a second")?;
        let sources = Sources::new(options.address, all, options.sources, ports)?;
        Ok(Self {
            target: options.address,
            expect,
            connections,
            never_read,
            silent,
            bytes_per_second,
            message_bytes,
            depth,
            duration,
            connects_per_second,
            sources,
            verify,
            read_rate,
            ticker_message_bytes,
            gaps_allowed: options.gaps == Some(Gaps::Allowed),
        })
    }

    /// All connections: the block and those beside it.
    pub(super) fn all_connections(&self) -> u32 {
        self.connections + self.never_read + self.silent
    }

    /// Messages that go out as one at most.
    pub(super) fn batch_messages(&self) -> u32 {
        let batch = (BATCH_BYTES / self.message_bytes).max(1);
        self.depth.get().min(u32::try_from(batch).unwrap_or(u32::MAX))
    }

    /// Limits under which the client itself never stops a load: all that may be unanswered may wait, and nobody is cut off
    /// for being slow.
    pub(super) fn limits(&self) -> Limits {
        let limits = Limits::default();
        let depth = self.depth.get();
        let unanswered_bytes = if self.expect == Expect::Echo { self.message_bytes.get() * depth as usize } else { 0 };
        // While a queue is above its high mark nothing is read, and a server that stops reading until it is read from would wait
        // for ever: so no queue may get there.
        let high_mark_bytes = limits.high_mark_bytes.max(unanswered_bytes);
        let reply_bytes = limits.reply_bytes.max(limits.receive_buffer_bytes as usize);
        // No larger than what can come at once, or is to be read in one go.
        let (receive_buffer_bytes, socket_receive_buffer_bytes) = match (self.read_rate, self.expect) {
            (ReadRate::AtMost(rate), _) => {
                let bytes = rate.get().clamp(*SLOW_SOCKET_BYTES.start(), *SLOW_SOCKET_BYTES.end());
                (PAGE_BYTES as u32, Some(bytes as u32))
            }
            (_, Expect::Echo) => {
                let bytes = (unanswered_bytes.next_multiple_of(PAGE_BYTES) as u32).min(limits.receive_buffer_bytes);
                (bytes, limits.socket_receive_buffer_bytes)
            }
            (_, Expect::Chargen | Expect::Ticker) => (limits.receive_buffer_bytes, limits.socket_receive_buffer_bytes),
        };
        Limits {
            max_connections: self.all_connections(),
            receive_buffer_bytes,
            socket_receive_buffer_bytes,
            high_mark_bytes,
            send_queue_bytes: high_mark_bytes + reply_bytes,
            // The mark of messages is at three quarters.
            send_queue_messages: limits.send_queue_messages.max(depth.saturating_mul(2)),
            // A promise, not an allocation: what nobody sends takes no memory.
            send_floor_bytes: limits.send_floor_bytes + unanswered_bytes + depth as usize * MESSAGE_OVERHEAD_BYTES,
            first_byte_timeout: None,
            idle_timeout: None,
            min_send_progress: None,
            min_receive_rate: None,
            ..limits
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::arguments::{Arguments, Command};

    fn plan(arguments: &str) -> Result<Plan, String> {
        let all = ["tidegate", "load", "127.0.0.1:7007"].into_iter().chain(arguments.split_whitespace());
        let Command::Load(options) = Arguments::try_parse_from(all).expect("well-formed arguments").command else {
            panic!("another command")
        };
        Plan::new(&options, 28_232)
    }

    #[track_caller]
    fn refused(arguments: &str, parts: &[&str]) {
        let text = plan(arguments).expect_err(arguments);
        for part in parts {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
    }

    #[test]
    fn what_is_not_said_is_filled_in() {
        let plan = plan("").expect("it makes sense");
        assert_eq!((plan.connections, plan.message_bytes.get(), plan.depth.get()), (50, 64, 1));
        assert_eq!((plan.bytes_per_second, plan.duration), (None, Duration::from_secs(10)));
        assert_eq!((plan.never_read, plan.silent, plan.connects_per_second.get()), (0, 0, 5_000));
    }

    #[test]
    fn contradictions_are_named_with_their_numbers() {
        refused("-c 0", &["--connections 0", "--silent"]);
        refused("-s 1M -p 17", &["1048576", "17", "17825792", "16777216"]);
        refused("-c 50000 -s 16K -p 2 --verify", &["50000", "16384", "1658400000", "1073741824", "no --verify"]);
        refused("-s 0", &["--size 0"]);
        refused("-p 0", &["--depth 0"]);
        refused("-r 0", &["--rate 0"]);
        refused("-d 0s", &["--duration 0ms", "1ms"]);
        refused("-d 9000h", &["9000h", "8760h"]);
        refused("--connect-rate 0", &["--connect-rate 0"]);
        refused("--expect chargen -r 1M", &["--rate", "chargen"]);
        refused("--expect chargen -s 64", &["--size", "chargen"]);
        refused("--expect chargen -p 1", &["--depth", "chargen"]);
        refused("--expect ticker -p 1", &["--depth", "ticker"]);
        refused("--expect ticker -r 1M", &["--rate", "ticker"]);
        refused("--expect ticker -s 23", &["23", "24", "16777216"]);
        refused("--gaps allowed", &["--gaps", "echo"]);
        refused("-c 30000 --sources 1", &["30000", "28232"]);
        refused("-c 4294967295 --silent 1", &["4294967296"]);
    }

    #[test]
    fn who_reads_slowly_has_small_buffers_and_a_ticker_as_large_ones_as_there_are() {
        let buffers = |arguments| {
            let limits = plan(arguments).expect(arguments).limits();
            assert_eq!(limits.check(), Ok(()), "{arguments}");
            (limits.receive_buffer_bytes, limits.socket_receive_buffer_bytes)
        };
        let usual = Limits::default();
        assert_eq!(buffers("--expect ticker --read-rate 1K"), (4 << 10, Some(4 << 10)));
        assert_eq!(buffers("--expect ticker --read-rate 16K"), (4 << 10, Some(16 << 10)));
        assert_eq!(buffers("--expect ticker --read-rate 1G"), (4 << 10, Some(128 << 10)));
        for arguments in ["--expect ticker", "--expect ticker --read-rate 0 -s 16M", "--expect chargen"] {
            assert_eq!(
                buffers(arguments),
                (usual.receive_buffer_bytes, usual.socket_receive_buffer_bytes),
                "{arguments}"
            );
        }
    }

    #[test]
    fn nobody_but_silent_connections_is_a_load() {
        assert_eq!(plan("-c 0 --silent 5").expect("it makes sense").all_connections(), 5);
    }

    #[test]
    fn the_limits_fit_together_and_hold_all_that_may_be_unanswered() {
        for arguments in [
            "",
            "-s 16M",
            "-s 1 -p 65536",
            "-s 64K -p 256 --verify",
            "-c 40000 --silent 3",
            "-s 1000 -p 7",
            "--read-rate 1",
        ] {
            let plan = plan(arguments).expect(arguments);
            let limits = plan.limits();
            assert_eq!(limits.check(), Ok(()), "{arguments}");
            let depth = plan.depth.get() as usize;
            assert!(limits.high_mark_bytes >= plan.message_bytes.get() * depth, "{arguments}");
            assert!(limits.send_queue_messages as usize * 3 / 4 >= depth, "{arguments}");
            assert!(plan.batch_messages() >= 1 && plan.batch_messages() <= plan.depth.get());
            let batch_bytes = plan.batch_messages() as usize * plan.message_bytes.get();
            assert!(batch_bytes <= BATCH_BYTES.max(plan.message_bytes.get()), "{arguments}");
        }
    }
}
