//! The world: a network, the engines in it, and what to do next.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use super::endpoint::{EndpointId, Owner};
use super::fate::{Event, Fate};
use super::faults::{Fault, Faults};
use super::network::Network;
use super::peer::SimPeer;
use super::ring::{EngineTotals, Ring};
use super::sim_engine::SimListener;
use super::trace::Record;
use crate::engine::CloseMode;
use crate::time::Time;

/// A simulated world. Clones are the same world.
///
/// It belongs to one thread of the system. The I/O threads of a server under simulation are several
/// [`SimEngine`](super::SimEngine)s in one world, whose loops are turned when [`step`](Self::step) says so.
#[derive(Clone)]
pub(crate) struct World {
    state: Rc<RefCell<WorldState>>,
}

/// What a simulation does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Turn the loop of this engine once.
    Engine(usize),
    /// Something has changed for this peer: it may read, write or give up.
    Peer(u32),
    /// The moment has come that [`World::call_at`] was told, with this token.
    Timer(u64),
    /// Nothing will ever happen again unless the harness does something.
    Idle,
}

/// What a world consists of.
pub(super) struct WorldState {
    pub(super) network: Network,
    pub(super) rings: Vec<Ring>,
    /// For each peer, whether it is in `ready_peers`.
    peers: Vec<bool>,
    ready_peers: Vec<u32>,
    due_timers: Vec<u64>,
    /// A turn was given away and its time has not passed yet.
    turn_pending: bool,
    seed: u64,
    pub(super) dropped: Dropped,
}

/// What was dropped without the world: streams that nobody adopted, listeners that no engine took over.
///
/// Streams travel between threads, so this is the one thing that the world shares.
#[derive(Clone, Debug, Default)]
pub(super) struct Dropped(Arc<Mutex<Vec<DroppedThing>>>);

/// See [`Dropped`].
#[derive(Clone, Copy, Debug)]
pub(super) enum DroppedThing {
    /// A stream.
    Stream(EndpointId),
    /// A listener.
    Listener(u32),
}

impl Dropped {
    /// Tells the world about it.
    pub(super) fn push(&self, thing: DroppedThing) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(thing);
    }

    /// Whether both belong to one world.
    pub(super) fn is_of_same_world(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn take(&self) -> Vec<DroppedThing> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl World {
    /// The world of `seed`, as hostile as `faults` says.
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let state = WorldState {
            network: Network::new(Fate::new(seed, faults)),
            rings: Vec::new(),
            peers: Vec::new(),
            ready_peers: Vec::new(),
            due_timers: Vec::new(),
            turn_pending: false,
            seed,
            dropped: Dropped::default(),
        };
        Self { state: Rc::new(RefCell::new(state)) }
    }

    /// Binds a listener; port 0 is replaced by a free one. A connection that finds `backlog` others waiting is
    /// refused.
    ///
    /// # Errors
    /// `AddrInUse`.
    pub(crate) fn listen(&self, address: SocketAddr, backlog: u32) -> io::Result<SimListener> {
        let mut state = self.state.borrow_mut();
        let number = state.network.bind(address, backlog)?;
        Ok(SimListener::new(number, state.network.listener_address(number), state.dropped.clone()))
    }

    /// A client that begins to connect to `address`, from an address of its own.
    pub(crate) fn connect(&self, address: SocketAddr) -> SimPeer {
        self.connect_peer(None, address)
    }

    /// A client that begins to connect from `local` to `address`.
    pub(crate) fn connect_from(&self, local: SocketAddr, address: SocketAddr) -> SimPeer {
        self.connect_peer(Some(local), address)
    }

    /// Makes [`step`](Self::step) return [`Step::Timer`] with `token` at `time`.
    pub(crate) fn call_at(&self, time: Time, token: u64) {
        self.state.borrow_mut().network.fate.schedule_at(time, Event::Timer { token });
    }

    /// Decides what happens next: chooses one among all that have something to do; if there is none, lets time go by
    /// until there is.
    pub(crate) fn step(&self) -> Step {
        let mut state = self.state.borrow_mut();
        state.pass_turn();
        loop {
            if let Some(step) = state.choose() {
                state.turn_pending = matches!(step, Step::Engine(_));
                return step;
            }
            let engines = 0..state.rings.len();
            if !state.go_to_next(engines, true) {
                return Step::Idle;
            }
        }
    }

    /// Lets time go by until the loop of `engine` has something to do; false if it never will. For tests of one
    /// engine: peers and other engines are not called.
    pub(crate) fn pump(&self, engine: usize) -> bool {
        let mut state = self.state.borrow_mut();
        state.pass_turn();
        loop {
            let now = state.network.fate.now();
            if state.rings[engine].is_runnable(now) {
                state.turn_pending = true;
                return true;
            }
            if !state.go_to_next(engine..engine + 1, false) {
                return false;
            }
        }
    }

    /// Lets `duration` go by in the network. No engine is called.
    pub(crate) fn run_for(&self, duration: Duration) {
        let mut state = self.state.borrow_mut();
        state.pass_turn();
        let until = state.network.fate.now() + duration;
        state.advance_to(until);
    }

    /// Turns the faults off from now on (those that concern connections which exist already, too), so that a run
    /// can come to an end. The network stays as good or bad as it is.
    pub(crate) fn calm_down(&self) {
        let mut state = self.state.borrow_mut();
        let faults = &mut state.network.fate.faults;
        *faults = Fault::ALL.into_iter().fold(faults.clone(), |faults, fault| faults.with(fault, 0));
        for ring in &mut state.rings {
            ring.exhausted_until = Time::ZERO;
        }
    }

    /// Lets `fault` strike `parts_per_million` times in a million from now on.
    pub(crate) fn set_chance(&self, fault: Fault, parts_per_million: u32) {
        let faults = &mut self.state.borrow_mut().network.fate.faults;
        *faults = faults.clone().with(fault, parts_per_million);
    }

    /// Lets `fault` strike on its `nth` occasion from now on, counted from 1.
    pub(crate) fn script(&self, fault: Fault, nth: u64) {
        self.state.borrow_mut().network.fate.script(fault, nth);
    }

    /// Keeps the last `events` events as text from now on.
    pub(crate) fn keep_trace(&self, events: usize) {
        self.state.borrow_mut().network.fate.trace.keep(events);
    }

    /// How many submissions the queue of an engine in this world is to have room for.
    pub(crate) fn draw_submission_entries(&self) -> u32 {
        let fate = &mut self.state.borrow_mut().network.fate;
        fate.draw(fate.faults.submission_entries) as u32
    }

    /// Writes something of the harness's own into the trace and its hash.
    pub(crate) fn note(&self, kind: &'static str, number: u32, count: u64) {
        let record = Record { engine: None, kind, place: (number, 0), count, content: 0 };
        self.state.borrow_mut().network.fate.note(record);
    }

    /// A number below `bound` from the world's own dice, for decisions of the harness.
    pub(crate) fn random_below(&self, bound: u64) -> u64 {
        self.state.borrow_mut().network.fate.random.below(bound)
    }

    /// The time.
    pub(crate) fn now(&self) -> Time {
        self.state.borrow().network.fate.now()
    }

    /// The seed.
    pub(crate) fn seed(&self) -> u64 {
        self.state.borrow().seed
    }

    /// Everything that has happened, as one number: the same for the same seed and the same calls.
    pub(crate) fn trace_hash(&self) -> u64 {
        self.state.borrow().network.fate.trace.hash()
    }

    /// How many events have happened.
    pub(crate) fn trace_count(&self) -> u64 {
        self.state.borrow().network.fate.trace.count()
    }

    /// The last events as text, the newest last.
    pub(crate) fn trace_text(&self) -> String {
        self.state.borrow().network.fate.trace.text()
    }

    /// How often `fault` has struck.
    pub(crate) fn struck(&self, fault: Fault) -> u64 {
        self.state.borrow().network.fate.struck(fault)
    }

    /// What the engine has done.
    pub(crate) fn totals(&self, engine: usize) -> EngineTotals {
        self.state.borrow().rings[engine].totals
    }

    /// How many completions all engines have reported.
    pub(crate) fn completions(&self) -> u64 {
        self.state.borrow().rings.iter().map(|ring| ring.counters.completions).sum()
    }

    /// How many operations of the engine are in the system.
    pub(crate) fn outstanding(&self, engine: usize) -> u64 {
        self.state.borrow().rings[engine].outstanding()
    }

    /// How many ends of connections there are, those included that were closed and still send.
    pub(crate) fn endpoints(&self) -> usize {
        self.state.borrow().network.endpoints()
    }

    /// Checks what must hold between any two steps.
    ///
    /// # Panics
    /// If it doesn't.
    pub(crate) fn check(&self) {
        for ring in &self.state.borrow().rings {
            ring.check();
        }
    }

    /// The state, for the engines and peers in it.
    pub(super) fn state(&self) -> &RefCell<WorldState> {
        &self.state
    }

    fn connect_peer(&self, local: Option<SocketAddr>, remote: SocketAddr) -> SimPeer {
        let mut state = self.state.borrow_mut();
        let number = state.peers.len() as u32;
        state.peers.push(false);
        let local = local.unwrap_or_else(|| state.network.invent_address(remote));
        let endpoint = state.network.connect(local, remote, Owner::Peer(number));
        SimPeer::new(self.clone(), endpoint, number, local)
    }
}

impl WorldState {
    /// Tells everybody whose endpoint or listener has changed, and closes what was dropped.
    pub(super) fn settle(&mut self) {
        for thing in self.dropped.take() {
            match thing {
                DroppedThing::Stream(endpoint) => self.network.close(endpoint, CloseMode::Orderly),
                DroppedThing::Listener(listener) => self.network.unbind(listener),
            }
        }
        loop {
            if let Some((_, owner)) = self.network.take_touched() {
                match owner {
                    Owner::Socket { engine, index } => {
                        self.rings[engine as usize].endpoint_changed(index, &mut self.network);
                    }
                    Owner::Peer(peer) => self.ready(peer),
                    Owner::Nobody | Owner::Listener(_) | Owner::Stream => {}
                }
            } else if let Some(listener) = self.network.take_touched_listener() {
                for ring in &mut self.rings {
                    ring.backlog_grew(listener, &mut self.network);
                }
            } else {
                return;
            }
        }
    }

    fn ready(&mut self, peer: u32) {
        if !std::mem::replace(&mut self.peers[peer as usize], true) {
            self.ready_peers.push(peer);
        }
    }

    fn choose(&mut self) -> Option<Step> {
        let now = self.network.fate.now();
        let runnable = self.rings.iter().filter(|ring| ring.is_runnable(now)).count();
        let choices = runnable + self.ready_peers.len() + self.due_timers.len();
        if choices == 0 {
            return None;
        }
        let mut choice = self.network.fate.random.below(choices as u64) as usize;
        if choice < runnable {
            let mut runnable = self.rings.iter().filter(|ring| ring.is_runnable(now));
            return runnable.nth(choice).map(|ring| Step::Engine(ring.number as usize));
        }
        choice -= runnable;
        if choice < self.ready_peers.len() {
            let peer = self.ready_peers.swap_remove(choice);
            self.peers[peer as usize] = false;
            return Some(Step::Peer(peer));
        }
        Some(Step::Timer(self.due_timers.swap_remove(choice - self.ready_peers.len())))
    }

    /// Lets the time go by that the last turn has taken.
    fn pass_turn(&mut self) {
        self.settle();
        if std::mem::take(&mut self.turn_pending) {
            let turn = self.network.fate.faults.turn_ns;
            let takes = Duration::from_nanos(self.network.fate.draw(turn));
            self.advance_to(self.network.fate.now() + takes);
        }
    }

    /// Lets time go by until the next event or the next moment at which one of `engines` has something to do. False
    /// if there is none.
    fn go_to_next(&mut self, engines: std::ops::Range<usize>, may_jump: bool) -> bool {
        let now = self.network.fate.now();
        let engine = self.rings[engines].iter().filter_map(|ring| ring.next_time(now)).min();
        let Some(mut time) = [engine, self.network.fate.next_time()].into_iter().flatten().min() else {
            return false;
        };
        if may_jump {
            let most_ns = self.network.fate.faults.jump_ns;
            time = time + Duration::from_nanos(self.network.fate.delay_by(Fault::ClockJump, most_ns));
        }
        self.advance_to(time);
        true
    }

    fn advance_to(&mut self, time: Time) {
        while let Some(event) = self.network.fate.next_until(time) {
            match event {
                Event::PeerTimer { peer } => self.ready(peer),
                Event::Timer { token } => self.due_timers.push(token),
                event => self.network.happen(event),
            }
            self.settle();
        }
        self.network.fate.set_clock(time);
    }
}

impl fmt::Debug for World {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("World")
    }
}
