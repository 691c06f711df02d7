//! Looking up names in a simulated world: what is known of them is given, and each look-up takes a virtual time of its own.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::Simulation;

/// The names of the world, and the threads of the server that look them up.
pub(super) struct Names {
    known: BTreeMap<String, Vec<IpAddr>>,
    /// How many are being looked up.
    running: u32,
    takes: RangeInclusive<Duration>,
}

impl Default for Names {
    fn default() -> Self {
        let takes = Duration::from_micros(100)..=Duration::from_millis(50);
        Self { known: BTreeMap::new(), running: 0, takes }
    }
}

impl Simulation {
    /// From now on the host `name` has these addresses, in this order; none: there is no such host, as with every name of which
    /// nothing was said. Look-ups that have begun are not touched. Clients with a [resolver](crate::Client::resolver) of their own ask that.
    ///
    /// ```
    /// use tidegate::sim::Simulation;
    ///
    /// let mut simulation = Simulation::new(7);
    /// simulation.name("db.example.org", &["10.0.0.1".parse()?, "10.0.0.2".parse()?]);
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub fn name(&mut self, name: &str, addresses: &[IpAddr]) {
        self.names.known.insert(name.to_owned(), addresses.to_vec());
    }

    /// How long the look-up of a name takes, in virtual time: each as long as the seed says, between these. As many are made at
    /// once as [`Limits::look_up_threads`](crate::Limits). From 100 µs to 50 ms unless set.
    pub fn look_ups_take(&mut self, takes: RangeInclusive<Duration>) {
        self.names.takes = takes;
    }

    /// Lets threads that have nothing to do begin with what waits.
    pub(super) fn begin_look_ups(&mut self) {
        let Some(server) = &self.server else { return };
        let look_ups = crate::sync::Arc::clone(&server.shared.look_ups);
        while self.names.running < look_ups.workers()
            && let Some(question) = look_ups.next()
        {
            self.names.running += 1;
            // The answer is of the time when it was asked.
            let known = self.names.known.get(&*question.name).cloned().unwrap_or_default();
            let takes = self.draw_between(&self.names.takes.clone());
            self.after(takes, move |simulation| {
                question.answer(|_, port| addresses(&known, port));
                simulation.names.running -= 1;
                simulation.begin_look_ups();
            });
        }
    }
}

fn addresses(known: &[IpAddr], port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(known.iter().map(|&address| SocketAddr::new(address, port)).collect())
}
