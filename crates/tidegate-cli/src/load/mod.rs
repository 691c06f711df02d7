//! `tidegate load`: many connections that load a server, measure how it answers, and check what.
//!
//! The connections are clients of the framework itself, one handler each ([`echo`], [`chargen`], [`ticker`], [`beside`]). When
//! they send is decided by a [`pace`], how fast they read by a [`throttle`], what they send and how it is checked by [`contents`],
//! [`lines`] and [`ticks`]. The main thread conducts: it
//! begins connections, says when the load starts and stops, waits for what is outstanding, and reports.

pub(crate) mod arguments;
mod beside;
mod board;
mod chargen;
mod contents;
mod echo;
mod lane;
mod lines;
mod pace;
mod plan;
mod progress;
mod report;
mod seat;
mod sources;
mod throttle;
mod ticker;
mod ticks;
mod tls;
mod watch;

use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tidegate::filter::tls::TlsClient;
use tidegate::{Bound, Client, Connected, Connector, Report, RunError, Server, ServerHandle, Target};
use tracing_subscriber::filter::LevelFilter;

use self::arguments::{Expect, LoadOptions};
use self::beside::{Beside, Habit};
use self::board::{Board, Order, State};
use self::chargen::ChargenClient;
use self::echo::{EchoClient, Work};
use self::lane::Lane;
use self::plan::Plan;
use self::progress::{INTERVAL, Progress};
use self::report::Outcome;
use self::seat::Seat;
use self::throttle::{ReadRate, Throttle};
use self::ticker::TickerClient;
use self::ticks::Ticks;
use crate::Failure;
use crate::arguments::LogFormat;
use crate::descriptors;
use crate::logging::{Log, say_on_stderr};
use crate::signals;

/// How long a connection may take to be established.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long answers that are still due, and the ends of connections, are waited for when the load is over.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long before the load starts everybody is told: for the first, and for each connection. So all know in time.
const NOTICE: Duration = Duration::from_millis(10);
const NOTICE_PER_CONNECTION: Duration = Duration::from_micros(20);

/// How often connections that are not read from are looked after.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// When a queue is full it is tried again after this.
const RETRY: Duration = Duration::from_millis(1);

/// Loads a server and prints what came of it.
pub(crate) fn run(options: &LoadOptions) -> Result<(), Failure> {
    let plan = Plan::new(options, sources::local_ports()).map_err(Failure::Usage)?;
    let log = Log::start(LogFormat::Text, LevelFilter::WARN).map_err(Failure::Usage)?;
    let tls = tls::client(options, plan.all_connections())?;
    let outcome = load(&plan, tls.as_ref(), Progress::new(!options.json));
    log.finish();
    let outcome = outcome?;

    let text = if options.json { format!("{}\n", outcome.json()) } else { outcome.table() };
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::Refused(format!("can't write the result to stdout: {error}")))?;
    if outcome.is_well() { Ok(()) } else { Err(Failure::Reported) }
}

fn load(plan: &Plan, tls: Option<&TlsClient>, progress: Progress) -> Result<Outcome, Failure> {
    descriptors::check_for(plan.all_connections(), descriptors::raise_limit()).map_err(Failure::Refused)?;
    let board = Arc::new(Board::default());
    let threads = threads(plan);
    let lanes: Arc<[Arc<Lane>]> = (0..threads.get()).map(|_| Arc::new(Lane::new())).collect();

    let builder = Server::builder().limits(plan.limits()).threads(threads);
    let seat = {
        let (board, lanes) = (Arc::clone(&board), Arc::clone(&lanes));
        move |connected: &Connected, first: u64| {
            Seat::new(&board, &lanes[connected.io_thread], first + connected.tag, connected.local)
        }
    };
    // Those beside the block come first, so that they are there when the load starts.
    let (never_read, expect) = (u64::from(plan.never_read), plan.expect);
    let first_of_block = never_read + u64::from(plan.silent);
    let seat_beside = seat.clone();
    let (builder, beside) = builder.client(client(&board, tls), move |connected| {
        let habit = if connected.tag < never_read { Habit::NeverReads } else { Habit::Silent };
        Beside::new(seat_beside(connected, 0), habit, expect)
    });
    let (builder, block) = match plan.expect {
        Expect::Echo => {
            let work = Arc::new(Work::new(plan));
            builder.client(client(&board, tls), move |connected| {
                EchoClient::new(seat(connected, first_of_block), &work, connected.tag)
            })
        }
        Expect::Chargen => {
            let throttle = Throttle::new(plan.read_rate);
            builder.client(client(&board, tls), move |connected| {
                ChargenClient::new(seat(connected, first_of_block), throttle)
            })
        }
        Expect::Ticker => {
            let (throttle, message_bytes) = (Throttle::new(plan.read_rate), plan.ticker_message_bytes);
            builder.client(client(&board, tls), move |connected| {
                TickerClient::new(seat(connected, first_of_block), Ticks::new(message_bytes), throttle)
            })
        }
    };
    let bound = builder.bind().map_err(|error| Failure::Refused(error.to_string()))?;

    let interrupted = Arc::clone(&board);
    signals::on_first(move || interrupted.interrupt())
        .map_err(|error| Failure::Refused(format!("can't wait for signals: {error}")))?;

    let handle = bound.handle();
    let running = start(bound, &board)?;
    let mut conductor = Conductor { plan, board: &board, lanes: &lanes, handle, beside, block, progress };
    let measured = conductor.conduct();
    conductor.progress.clear();
    running
        .join()
        .unwrap_or(Err(RunError::Panicked { thread: 0 }))
        .map_err(|error| Failure::Refused(error.to_string()))?;

    let mut outcome = Outcome::new(board.counts(), measured);
    for lane in lanes.iter() {
        outcome.add(&lane.lock());
    }
    outcome.gaps_allowed = plan.gaps_allowed;
    let nobody = (outcome.counts.connected == 0).then(|| {
        let counts = &outcome.counts;
        format!("nobody connected to {}: {} of {} were refused", plan.target, counts.refused, counts.attempted)
    });
    let gap = outcome.first_gap.clone().filter(|_| !outcome.gaps_allowed);
    for text in [nobody, board.first_failure(), outcome.first_mismatch.clone(), gap].into_iter().flatten() {
        say_on_stderr(format!("tidegate: {text}\n"));
    }
    Ok(outcome)
}

/// As many I/O threads as there are processors for this program, but none without connections.
fn threads(plan: &Plan) -> NonZeroUsize {
    let processors = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    NonZeroUsize::new(plan.all_connections() as usize).map_or(processors, |connections| processors.min(connections))
}

fn client(board: &Arc<Board>, tls: Option<&TlsClient>) -> Client {
    let board = Arc::clone(board);
    let client = Client::tcp().connect_timeout(CONNECT_TIMEOUT).on_failed(move |failed| board.connect_failed(failed));
    match tls {
        Some(tls) => client.filter(tls.clone()),
        None => client,
    }
}

/// Runs the engine on a thread of its own; when it stops, everybody who waits on the board knows.
fn start(bound: Bound, board: &Arc<Board>) -> Result<JoinHandle<Result<Report, RunError>>, Failure> {
    let board = Arc::clone(board);
    let run = move || {
        let result = bound.run();
        board.desert();
        result
    };
    let thread = std::thread::Builder::new().name("tidegate-load".into()).spawn(run);
    thread.map_err(|error| Failure::Refused(format!("can't start a thread: {error}")))
}

/// Takes a load from its first connection to its last.
struct Conductor<'a> {
    plan: &'a Plan,
    board: &'a Board,
    lanes: &'a [Arc<Lane>],
    handle: ServerHandle,
    beside: Connector,
    block: Connector,
    progress: Progress,
}

impl Conductor<'_> {
    /// Returns how long the load was on.
    fn conduct(&mut self) -> Duration {
        self.connect_all();
        let measured = self.load();
        self.end_all();
        measured
    }

    /// Begins all connections at their rate, and waits until each is established or has failed.
    fn connect_all(&mut self) {
        let all = self.plan.all_connections();
        let begun = Instant::now();
        for number in 0..all {
            let due = Duration::from_secs(number.into()) / self.plan.connects_per_second.get();
            self.wait_connecting(begun + due, is_ending);
            if !self.connect(number) {
                return;
            }
        }
        // Each has its own time limit: this one is for the unforeseen.
        let deadline = Instant::now() + CONNECT_TIMEOUT + PATIENCE;
        self.wait_connecting(deadline, |state| state.counts.pending() == 0 || is_ending(state));
    }

    /// Begins a connection. Returns whether the load goes on.
    fn connect(&mut self, number: u32) -> bool {
        let beside = self.plan.never_read + self.plan.silent;
        let (connector, tag) = match number.checked_sub(beside) {
            Some(number) => (&self.block, number),
            None => (&self.beside, number),
        };
        let mut target = Target::new(self.plan.target).tag(tag.into()).on_thread(number as usize % self.lanes.len());
        if let Some(address) = self.plan.sources.address(number) {
            target = target.from_source(address);
        }
        loop {
            if self.board.wait(Instant::now(), is_ending) {
                return false;
            }
            self.board.attempted();
            if connector.connect(target.clone()).is_ok() {
                return true;
            }
            // The queue of the thread is full: it begins some each turn.
            self.board.not_attempted();
            self.board.wait(Instant::now() + RETRY, is_ending);
        }
    }

    /// Starts the load and waits for its end: the time is up, nobody is left, or the user wants it.
    fn load(&mut self) -> Duration {
        let counts = self.board.counts();
        if counts.open == 0 || self.board.wait(Instant::now(), is_ending) {
            return Duration::ZERO;
        }
        let members = u32::try_from(counts.connected).unwrap_or(u32::MAX);
        let duration = self.plan.duration;
        let at = Instant::now() + NOTICE + NOTICE_PER_CONNECTION * members;
        self.board.tell(Order::Start { at, duration }, 0);
        let end = at + duration;
        let is_over = |state: &State| state.counts.open == 0 || is_ending(state);
        let mut next_watch = at;
        while !self.board.wait(end.min(Instant::now() + INTERVAL), is_over) && Instant::now() < end {
            let open = self.board.counts().open;
            let messages = || self.lanes.iter().map(|lane| lane.lock().messages).sum();
            if self.plan.read_rate == ReadRate::Never && Instant::now() >= next_watch {
                watch::tell_the_gone(self.board);
                next_watch = Instant::now() + WATCH_INTERVAL;
            }
            self.progress.loading(Instant::now().saturating_duration_since(at), duration, open, messages);
        }
        Instant::now().saturating_duration_since(at).min(duration)
    }

    /// Stops the load, waits for what is outstanding, and ends what is left then.
    fn end_all(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let is_over = |state: &State| (state.counts.open == 0 && state.counts.pending() == 0) || state.deserted;
        // After an early end some are still being connected: they are told when they have come.
        let mut told = self.board.tell(Order::Stop, 0);
        while !self.board.wait(deadline.min(Instant::now() + INTERVAL), is_over) {
            if Instant::now() >= deadline {
                return self.handle.abort();
            }
            told = self.board.tell(Order::Stop, told);
        }
        self.handle.drain();
    }

    /// Waits for `event`, until `deadline` at most, while connections are made.
    fn wait_connecting(&mut self, deadline: Instant, event: impl Fn(&State) -> bool) {
        while !self.board.wait(deadline.min(Instant::now() + INTERVAL), &event) && Instant::now() < deadline {
            let counts = self.board.counts();
            self.progress.connecting(counts.attempted - counts.pending(), self.plan.all_connections().into());
        }
    }
}

/// Whether everything is to end early.
fn is_ending(state: &State) -> bool {
    state.interrupted || state.deserted
}
