//! How a simulated run goes on, step by step, and what is checked in between.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::{ClientId, Next, Peer, Simulation, Violation, Waiting};
use crate::engine::sim::Step;
use crate::io_thread::{IoThread, Turn};
use crate::surface::Report;
use crate::time::Time;

/// Something that must hold after every step, by its name.
pub(super) struct Invariant {
    name: String,
    holds: InvariantCheck,
}

/// `Err` says how it doesn't hold.
type InvariantCheck = Box<dyn FnMut(&Simulation) -> Result<(), String>>;

/// Something that is done at a moment.
pub(super) enum Plan {
    /// The caller's.
    Act(Box<dyn FnOnce(&mut Simulation)>),
    /// Nothing: time is to come to this.
    Reach,
}

/// The token of all plans; those below are of clients.
const PLAN: u64 = u64::MAX;

/// Those of the server's own invariants that walk all tables are checked after this many steps, its ceilings after each.
const STEPS_PER_CHECK: u64 = 64;

impl Simulation {
    /// Runs until every client is done, then drains the server and runs until it has ended. In between and at the end, everything that
    /// must hold is checked.
    ///
    /// # Errors
    /// [`Violation`]: a client has failed, an invariant doesn't hold, something has panicked (in the server, a client or an invariant;
    /// panics of handlers end their connection, as always), or nothing goes on any more.
    pub fn run(&mut self) -> Result<Report, Violation> {
        if !self.run_until(|simulation| simulation.clients_left() == 0)? {
            return Err(self.stuck());
        }
        if self.server.is_some() {
            self.handle().drain();
        }
        self.run_until(|_| false)?;
        if self.threads.iter().any(Option::is_some) {
            return Err(self.stuck());
        }
        self.guarded(Self::finish)
    }

    /// Runs until `condition` holds, which is looked at before every step; false if it doesn't and nothing goes on any more. The server is
    /// not drained: the run can go on, by this or by [`run`](Self::run).
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use std::time::Duration;
    /// # use tidegate::{Buffer, Connection, Handler, Listener, Server};
    /// # use tidegate::sim::{Client, Fault, Next, Peer, Simulation};
    /// # struct Quiet;
    /// # impl Handler for Quiet {
    /// #     type Message = Infallible;
    /// #     fn on_read(&mut self, _: &mut Connection<'_>, _: Buffer) {}
    /// # }
    /// # struct Waits;
    /// # impl Client for Waits {
    /// #     fn turn(&mut self, peer: &mut Peer) -> Next {
    /// #         match peer.read(&mut [0; 8]) {
    /// #             Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Next::Wait,
    /// #             _ => Next::Close,
    /// #         }
    /// #     }
    /// # }
    /// # let mut simulation = Simulation::new(7);
    /// # let server = Server::builder().listen(Listener::tcp("10.0.0.1:7007".parse()?), |_| Quiet);
    /// # let address = simulation.serve(server)?[0];
    /// for _ in 0..3 {
    ///     simulation.client(address, Duration::from_millis(3), Waits);
    /// }
    /// assert!(simulation.run_until(|simulation| simulation.connections() == 3)?);
    /// simulation.set_fault(Fault::Reset, 0.5); // from now on: a late fault
    /// # simulation.handle().drain();
    /// simulation.run()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_until(&mut self, mut condition: impl FnMut(&Self) -> bool) -> Result<bool, Violation> {
        self.guarded(|simulation| {
            loop {
                if condition(simulation) {
                    return Ok(true);
                }
                if !simulation.step()? {
                    return Ok(false);
                }
            }
        })
    }

    /// Runs until the virtual time is `time`, or later if the clock jumps. Time goes by also when nothing else happens.
    ///
    /// ```
    /// use tidegate::Time;
    /// use tidegate::sim::Simulation;
    ///
    /// let mut simulation = Simulation::new(7);
    /// simulation.run_to(Time::from_nanos(5_000))?;
    /// assert_eq!(simulation.now(), Time::from_nanos(5_000));
    /// # Ok::<(), tidegate::sim::Violation>(())
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_to(&mut self, time: Time) -> Result<(), Violation> {
        self.plan(time, Plan::Reach);
        self.run_until(|simulation| simulation.now() >= time).map(drop)
    }

    /// Runs for `duration` of virtual time. See [`run_to`](Self::run_to).
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_for(&mut self, duration: Duration) -> Result<(), Violation> {
        self.run_to(self.now() + duration)
    }

    /// Lets `act` happen `after` from now, while the simulation runs: a script of what goes wrong when.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tidegate::sim::{Fault, Simulation};
    ///
    /// let mut simulation = Simulation::new(7);
    /// simulation.after(Duration::from_secs(1), |simulation| simulation.set_fault(Fault::Stall, 0.01));
    /// simulation.after(Duration::from_secs(2), |simulation| simulation.set_fault(Fault::Stall, 0.0));
    /// # simulation.run_for(Duration::from_secs(3))?;
    /// # Ok::<(), tidegate::sim::Violation>(())
    /// ```
    pub fn after(&mut self, after: Duration, act: impl FnOnce(&mut Self) + 'static) {
        self.plan(self.now() + after, Plan::Act(Box::new(act)));
    }

    /// Checks after every step that `holds` returns `Ok`. If it doesn't, the run ends as a [`Violation`] with `name` and what it says.
    /// What it looks at is usually shared with handlers and clients.
    ///
    /// ```
    /// use tidegate::sim::Simulation;
    ///
    /// let mut simulation = Simulation::new(7);
    /// simulation.check("few connections", |simulation| match simulation.connections() {
    ///     0..=10 => Ok(()),
    ///     connections => Err(format!("{connections} of them")),
    /// });
    /// # simulation.run_for(std::time::Duration::from_secs(1))?;
    /// # Ok::<(), tidegate::sim::Violation>(())
    /// ```
    pub fn check(&mut self, name: impl Into<String>, holds: impl FnMut(&Self) -> Result<(), String> + 'static) {
        self.invariants.push(Invariant { name: name.into(), holds: Box::new(holds) });
    }

    fn plan(&mut self, time: Time, plan: Plan) {
        self.plans.insert((time, self.plans_made), plan);
        self.plans_made += 1;
        self.world.call_at(time, PLAN);
    }

    /// Makes one step; false: there is none.
    fn step(&mut self) -> Result<bool, Violation> {
        if self.steps == self.steps_max {
            return Err(self.violation(format!("{} steps were not enough", self.steps_max)));
        }
        self.steps += 1;
        match self.world.step() {
            Step::Engine(number) => self.turn_thread(number)?,
            Step::Peer(number) => self.turn_client(number)?,
            Step::Timer(PLAN) => {
                // Whichever timer it was: plans are carried out in the order of their times, also when a clock jump makes several due.
                if let Some((_, Plan::Act(act))) = self.plans.pop_first() {
                    act(self);
                }
            }
            Step::Timer(token) => self.begin_client(token)?,
            Step::Idle => return Ok(false),
        }
        self.check_invariants()?;
        self.check_ceilings()?;
        if self.steps.is_multiple_of(STEPS_PER_CHECK) {
            self.check_server()?;
        }
        Ok(true)
    }

    /// Turns a panic into a violation, so that it has a seed and the last events.
    fn guarded<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T, Violation>) -> Result<T, Violation> {
        catch_unwind(AssertUnwindSafe(|| run(self))).unwrap_or_else(|panic| {
            // What was in the middle of something is not to be touched again, not even by its drop.
            std::mem::forget((std::mem::take(&mut self.threads), std::mem::take(&mut self.clients)));
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(self.violation(format!("a panic: {}", text.unwrap_or("(not a text)"))))
        })
    }

    fn check_invariants(&mut self) -> Result<(), Violation> {
        let mut invariants = std::mem::take(&mut self.invariants);
        let violated = invariants
            .iter_mut()
            .find_map(|invariant| (invariant.holds)(self).err().map(|how| format!("{}: {how}", invariant.name)));
        self.invariants = invariants;
        violated.map_or(Ok(()), |what| Err(self.violation(what)))
    }

    fn turn_thread(&mut self, number: usize) -> Result<(), Violation> {
        let Some(thread) = self.threads.get_mut(number).and_then(Option::as_mut) else { return Ok(()) };
        let turn = thread.turn();
        let forgotten = thread.forgotten_debt();
        self.begin_jobs();
        self.begin_look_ups();
        match turn {
            Ok(Turn::Running) => match forgotten {
                Some(what) => Err(self.violation(what)),
                None => Ok(()),
            },
            Ok(Turn::Finished) => self.end_thread(number),
            Err(error) => Err(self.violation(format!("the engine of I/O thread {number} failed: {error}"))),
        }
    }

    fn begin_client(&mut self, token: u64) -> Result<(), Violation> {
        let Some(Waiting { local, address, client }) = self.waiting.remove(&token) else { return Ok(()) };
        let peer = match local {
            Some(local) => self.world.connect_from(local, address),
            None => self.world.connect(address),
        };
        let (number, id) = (peer.number(), ClientId(token));
        if let Some(clog) = self.clogs.get_mut(&id) {
            *clog = Some(peer.clog());
        }
        self.clients.insert(number, (Peer { id, peer, world: self.world.clone() }, client));
        self.turn_client(number)
    }

    fn turn_client(&mut self, number: u32) -> Result<(), Violation> {
        let Some((peer, client)) = self.clients.get_mut(&number) else { return Ok(()) };
        let next = client.turn(peer);
        match next {
            Next::Wait => {}
            Next::Close => drop(self.clients.remove(&number)),
            Next::Reset => {
                if let Some((peer, _)) = self.clients.remove(&number) {
                    peer.peer.reset();
                }
            }
            Next::Failed(what) => return Err(self.violation(format!("client {number}: {what}"))),
        }
        Ok(())
    }

    /// Nothing goes on any more, but the run is not over.
    fn stuck(&self) -> Violation {
        let connections: u32 = self.threads.iter().flatten().map(IoThread::connections).sum();
        let (clients, waiting, clogged) = (self.clients.len(), self.waiting.len(), self.clogs.len());
        self.violation(format!(
            "nothing goes on any more, but the run is not over: {clients} clients are not done ({clogged} are clogged), {waiting} have \
             not begun, the server has {connections} connections"
        ))
    }
}
