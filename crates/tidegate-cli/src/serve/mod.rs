//! `tidegate serve`: one of the small services on one or more listeners, until a signal drains it.

pub(crate) mod chargen;
mod counters;
mod discard;
mod echo;
pub(crate) mod filters;
pub(crate) mod ticker;
mod tls;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidegate::{
    AccessList, BindError, Bound, Group, GroupStats, Limits, Listener, Machine, Report, Server, ServerBuilder,
};
use tracing_subscriber::filter::LevelFilter;

use self::chargen::Chargen;
use self::counters::Counters;
use self::discard::Discard;
use self::echo::Echo;
use self::ticker::{Subscriber, Ticker};
use self::tls::Tls;
use crate::Failure;
use crate::arguments::{Preset, ServeOptions, Service};
use crate::descriptors;
use crate::logging::Log;
use crate::signals;
use crate::size::Size;

/// The time between two messages of a ticker, and the size of one in bytes, by default.
const INTERVAL: Duration = Duration::from_millis(100);
const MESSAGE_BYTES: usize = 128;

/// The smallest receive buffer: for small send queues, in which a reply of a larger one would not fit.
const SMALL_BUFFER_BYTES: u32 = 4096;

/// Serves until it has drained.
pub(crate) fn run(options: &ServeOptions) -> Result<(), Failure> {
    if let Some(address) = options.repeated_address() {
        return Err(Failure::Usage(format!("--listen {address} is given twice")));
    }
    let log = Log::start(options.log, LevelFilter::INFO).map_err(Failure::Usage)?;
    let outcome = serve(options);
    log.finish();
    outcome
}

fn serve(options: &ServeOptions) -> Result<(), Failure> {
    let draining = Arc::new(AtomicBool::new(false));
    let threads = options.threads.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    let limits = limits(options)?;
    let size = message_size(options)?;
    let mut builder = Server::builder().limits(limits).threads(threads).engine(options.engine.into());
    let mut group = None;
    if options.service == Service::Ticker {
        let (with_group, made) = builder.group();
        (builder, group) = (with_group, Some(made));
    }
    let tls = Tls::new(options)?;
    for &address in &options.listen {
        // A PROXY header comes before TLS; rates are those of the wire.
        let mut listener = options.filters.put_on(Listener::tcp(address).access(access(options)));
        if let Some(tls) = &tls {
            listener = listener.filter(tls.filter());
        }
        builder = listen(builder, options.service, listener, &draining, group.as_ref());
    }
    builder = match options.memory {
        Some(Size { bytes }) => builder.memory(bytes),
        None => builder.memory_share(Machine::look()),
    };
    let bound = builder.bind().map_err(|error| match (error, options.memory) {
        (BindError::Limits(error), Some(size)) => Failure::Refused(format!("--memory {size}: {error}")),
        (error, _) => Failure::Refused(error.to_string()),
    })?;

    let handle = bound.handle();
    signals::on_first(move || {
        draining.store(true, Ordering::Release);
        handle.drain();
    })
    .map_err(|error| Failure::Refused(format!("can't wait for signals: {error}")))?;
    tls.map_or(Ok(()), Tls::reload_on_hangup)?;

    announce(options.service, &bound);
    let counters = options.stats.map(|every| Counters::log(bound.handle(), every.duration)).transpose()?;
    let interval = options.interval.map_or(INTERVAL, |span| span.duration);
    let ticker = group.clone().map(|group| Ticker::start(group, interval, size)).transpose()?;
    let report = bound.run();
    drop((counters, ticker));
    let stats = group.map(|group| group.stats());
    sum_up(&report.map_err(|error| Failure::Refused(error.to_string()))?, stats);
    Ok(())
}

/// The limits that the options and the machine make.
fn limits(options: &ServeOptions) -> Result<Limits, Failure> {
    let descriptors = descriptors::raise_limit();
    let max_connections =
        descriptors::connections(options.max_connections.map(Into::into), descriptors).map_err(Failure::Refused)?;
    let preset = match options.preset {
        Preset::Connections => Limits::connections(max_connections),
        Preset::Throughput => Limits { max_connections, ..Limits::throughput(max_connections.div_ceil(4)) },
    };
    let queue_bytes = options.send_queue.bytes;
    // Half of the queue is for what waits, the other half for the reply to what is received meanwhile.
    let receive_buffer_bytes = if queue_bytes >= 2 * preset.receive_buffer_bytes as usize {
        preset.receive_buffer_bytes
    } else {
        SMALL_BUFFER_BYTES
    };
    if queue_bytes < 2 * SMALL_BUFFER_BYTES as usize {
        let least = Size { bytes: 2 * SMALL_BUFFER_BYTES as usize };
        return Err(Failure::Usage(format!("--send-queue {} is too small: at least {least}", options.send_queue)));
    }
    let limits = Limits {
        connections_per_ip: options.max_connections_per_ip.map(Into::into),
        accept_rate: options.accept_rate.map(Into::into),
        receive_buffer_bytes,
        send_queue_bytes: queue_bytes,
        high_mark_bytes: queue_bytes / 2,
        low_mark_bytes: queue_bytes / 4,
        window_bytes: options.window.bytes,
        overflow: options.overflow.clone(),
        first_byte_timeout: options.first_byte_timeout.duration(),
        idle_timeout: options.idle_timeout.duration(),
        min_send_progress: options.min_send_progress.value(),
        shutdown_grace: options.shutdown_grace.duration,
        ..preset
    };
    limits.check().map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(limits)
}

/// Who may connect, as the options say.
fn access(options: &ServeOptions) -> AccessList {
    let list = options.allow.iter().fold(AccessList::new(), |list, &network| list.allow(network));
    options.deny.iter().fold(list, |list, &network| list.deny(network))
}

/// The size of a ticker's messages; options that are the ticker's are refused for others.
fn message_size(options: &ServeOptions) -> Result<usize, Failure> {
    if options.service != Service::Ticker && (options.interval.is_some() || options.size.is_some()) {
        return Err(Failure::Usage("--interval and --size are for serve ticker".into()));
    }
    let bytes = options.size.map_or(MESSAGE_BYTES, |size| size.bytes);
    let most = options.send_queue;
    if (ticker::SIZE_MIN..=most.bytes).contains(&bytes) {
        return Ok(bytes);
    }
    let least = ticker::SIZE_MIN;
    Err(Failure::Usage(format!("--size must be from {least} to {most}, which is the --send-queue")))
}

/// Adds a listener of `service`. Services that send of their own accord stop when `draining` is set.
fn listen(
    builder: ServerBuilder,
    service: Service,
    listener: Listener,
    draining: &Arc<AtomicBool>,
    group: Option<&Group>,
) -> ServerBuilder {
    match service {
        Service::Ticker => {
            let Some(group) = group.cloned() else { return builder };
            builder.listen(listener, move |accepted| Subscriber::new(filters::peer(accepted), group.clone()))
        }
        Service::Echo => builder.listen(listener, |accepted| Echo::new(filters::peer(accepted))),
        Service::Discard => builder.listen(listener, |accepted| Discard::new(filters::peer(accepted))),
        Service::Chargen => {
            let draining = Arc::clone(draining);
            builder.listen(listener, move |accepted| Chargen::new(filters::peer(accepted), Arc::clone(&draining)))
        }
    }
}

/// Says where the server listens and what it may use: on stdout for programs, in the log with the rest for people.
fn announce(service: Service, bound: &Bound) {
    let mut lines = String::new();
    for address in bound.local_addrs() {
        let _ = writeln!(lines, "listening {} tcp {address}", service.name());
    }
    let ceiling = bound.ceiling();
    for (name, bytes) in ceiling.terms().into_iter().chain([("total", ceiling.total())]) {
        let _ = writeln!(lines, "ceiling {name} {bytes}");
    }
    let _ = writeln!(lines, "kernel {}", ceiling.kernel_bytes);
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush()) {
        tracing::warn!(%error, "nobody reads stdout: the addresses are only in the log");
        tracing::info!(addresses = ?bound.local_addrs(), "listening");
    }
    let terms: Vec<String> = ceiling.terms().iter().map(|(name, bytes)| format!("{name} {bytes}")).collect();
    tracing::info!(
        engine = bound.engine_name(),
        memory_bytes = ceiling.total(),
        memory = terms.join(" + "),
        kernel_bytes = ceiling.kernel_bytes,
        "serving {}",
        service.name()
    );
}

/// Says what the server has done: as the last line on stdout for programs, in the log for people.
fn sum_up(report: &Report, group: Option<GroupStats>) {
    let mut summary = serde_json::json!({
        "connections": report.connections(),
        "bytes_received": report.bytes_received(),
        "bytes_sent": report.bytes_sent(),
        "dropped_messages": report.dropped_messages(),
        "dropped_bytes": report.dropped_bytes(),
        "closed": counted(report.closed_by_reason()),
        "refused": counted(report.refused_by_cause()),
    });
    if let Some(group) = group {
        let GroupStats { published, refused, delivered, missed, .. } = group;
        summary["ticker"] =
            serde_json::json!({ "published": published, "refused": refused, "delivered": delivered, "missed": missed });
        tracing::info!(published, refused, delivered, missed, "published");
    }
    let mut stdout = io::stdout().lock();
    if let Err(error) = writeln!(stdout, "{summary}").and_then(|()| stdout.flush()) {
        tracing::warn!(%error, "nobody reads stdout: the summary is only in the log");
    }
    tracing::info!(
        connections = report.connections(),
        received_bytes = report.bytes_received(),
        sent_bytes = report.bytes_sent(),
        dropped_messages = report.dropped_messages(),
        closed = listed(report.closed_by_reason()),
        refused = listed(report.refused_by_cause()),
        "drained"
    );
}

/// What occurred, with its counts, for programs.
fn counted(counts: impl Iterator<Item = (&'static str, u64)>) -> serde_json::Map<String, serde_json::Value> {
    counts.filter(|&(_, count)| count > 0).map(|(name, count)| (name.to_owned(), count.into())).collect()
}

/// The same for people.
fn listed(counts: impl Iterator<Item = (&'static str, u64)>) -> String {
    let occurred = counts.filter(|&(_, count)| count > 0);
    occurred.map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}
