//! What goes wrong in a simulated world, as far as the caller decides it.

use super::{ClientId, Fault, Peer, Simulation};

/// What a probability is counted in.
const MILLION: f64 = 1_000_000.0;

impl Simulation {
    /// Lets `fault` strike with this `probability`, from 0 (never) to 1, on each of its occasions from now on. Rounded to parts per
    /// million. A call in the middle of a run makes a late fault.
    ///
    /// ```
    /// use tidegate::sim::{Fault, Simulation};
    ///
    /// let mut simulation = Simulation::new(7); // a clean world, but for this:
    /// simulation.set_fault(Fault::ShortSend, 0.5);
    /// let mut simulation = Simulation::hostile(7); // everything goes wrong, but for this:
    /// simulation.set_fault(Fault::Reset, 0.0);
    /// ```
    ///
    /// # Panics
    /// If `probability` is not between 0 and 1.
    pub fn set_fault(&mut self, fault: Fault, probability: f64) {
        assert!((0.0..=1.0).contains(&probability), "{fault:?} with a probability of {probability}");
        self.world.set_chance(fault, (probability * MILLION).round() as u32);
    }

    /// Lets `fault` strike for certain on its `nth` occasion from now on, counted from 1: "the third send is short". [`Fault`] says what
    /// the occasions of each are.
    ///
    /// ```
    /// use tidegate::sim::{Fault, Simulation};
    ///
    /// let mut simulation = Simulation::new(7);
    /// simulation.strike_on(Fault::ShortSend, 3);
    /// ```
    ///
    /// # Panics
    /// If `nth` is 0.
    pub fn strike_on(&mut self, fault: Fault, nth: u64) {
        assert!(nth > 0, "occasions are counted from 1");
        self.world.script(fault, nth);
    }

    /// How often each kind of fault has struck so far.
    pub fn faults_struck(&self) -> impl Iterator<Item = (Fault, u64)> {
        Fault::ALL.into_iter().map(|fault| (fault, self.world.struck(fault)))
    }

    /// Clogs the way between a client and the server: from now on nothing arrives, in either direction, before
    /// [`unclog`](Self::unclog). Nobody is told. A client that has not begun can't connect then.
    pub fn clog(&mut self, client: ClientId) {
        let clog = self.peer(client).map(|peer| peer.peer.clog());
        if clog.is_some() || self.waiting.contains_key(&client.0) {
            // Twice is once: the second clog has found the same ends or one more, the server's.
            self.clogs.insert(client, clog);
        }
    }

    /// Frees the way of a client: what has waited arrives now, in the same order. Works also when the client is done.
    pub fn unclog(&mut self, client: ClientId) {
        if let Some(clog) = self.clogs.remove(&client).flatten() {
            clog.remove();
        }
    }

    /// Breaks the connection of a client, if it has one: both ends see a reset.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use tidegate::sim::{Client, Simulation};
    /// # fn script(simulation: &mut Simulation, address: std::net::SocketAddr, client: impl Client + 'static) {
    /// let client = simulation.client(address, Duration::ZERO, client);
    /// simulation.after(Duration::from_millis(20), move |simulation| simulation.reset(client));
    /// # }
    /// ```
    pub fn reset(&mut self, client: ClientId) {
        if let Some(peer) = self.peer(client) {
            peer.peer.cut();
        }
    }

    /// The end of a client that has begun and is not done.
    fn peer(&self, client: ClientId) -> Option<&Peer> {
        self.clients.values().map(|(peer, _)| peer).find(|peer| peer.id == client)
    }
}
