//! Requests whose host is looked up, on their I/O thread.
//!
//! A look-up counts for nothing but itself: its request takes a place among the server's connections, and one at the client's limiter, when
//! an address is tried, and gives both back before the next one. The number of a look-up is free again when its answer has come, wanted or
//! not, so no answer is taken for that of another.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::IoThread;
use super::connecting::{ConnectError, ConnectRequest, Destination};
use super::handlers::Timer;
use super::look_up::{Answer, LookUps, Place, Question};
use super::timers::TimerKey;
use crate::engine::Engine;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::time::Time;

/// Where a name has led.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// Addresses that were not tried yet, the next one last.
    addresses: Vec<SocketAddr>,
    /// When the time for all of it is over.
    deadline: Time,
    /// That of the look-up.
    _place: Option<Arc<Place>>,
}

impl Route {
    fn new(mut addresses: Vec<SocketAddr>, deadline: Time, place: Option<Arc<Place>>) -> Self {
        addresses.reverse();
        Self { addresses, deadline, _place: place }
    }

    /// The next address, and how long it may take: of the time that is left, the same as all that follow.
    pub(super) fn next(&mut self, now: Time) -> Option<(SocketAddr, Duration)> {
        let share = self.deadline.saturating_since(now) / (self.addresses.len() as u32).max(1);
        Some((self.addresses.pop()?, share))
    }

    /// Whether there is another address.
    pub(super) fn leads_on(&self) -> bool {
        !self.addresses.is_empty()
    }
}

/// The look-ups of an I/O thread that were not answered: at most as many as the server may have outstanding.
#[derive(Default)]
pub(super) struct LookingUp {
    /// By number.
    unanswered: BTreeMap<u32, Unanswered>,
    next_number: u32,
    /// How many of them somebody waits for.
    wanted: usize,
}

/// A look-up without an answer.
struct Unanswered {
    /// Who waits for it; `None`: nobody any more.
    wanted: Option<Wanted>,
    place: Arc<Place>,
    is_abandoned: Arc<AtomicBool>,
}

struct Wanted {
    request: ConnectRequest,
    deadline: Time,
    timer: TimerKey,
}

/// What a request takes while its name is looked up, in bytes, and its share of the tree's nodes.
pub(crate) const LOOKING_UP_BYTES: usize = 2 * (size_of::<Unanswered>() + size_of::<u32>()) + 32;

impl LookingUp {
    /// Whether somebody waits for an answer.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted > 0
    }

    fn forget(&mut self, number: u32) -> Option<Wanted> {
        let unanswered = self.unanswered.get_mut(&number)?;
        let wanted = unanswered.wanted.take()?;
        unanswered.is_abandoned.store(true, Ordering::Release);
        self.wanted -= 1;
        Some(wanted)
    }
}

impl<E: Engine> IoThread<E> {
    /// Has the name of a request looked up, or says that it failed.
    pub(super) fn look_up(&mut self, request: ConnectRequest) {
        let Destination::Host { name, port } = &request.target.destination else { return };
        let (name, port) = (std::sync::Arc::clone(name), *port);
        let look_ups = Arc::clone(&self.shared.look_ups);
        if let Err(error) = self.may_begin(&request) {
            return self.connect_failed(request, error);
        }
        let Some(place) = LookUps::take_place(&look_ups) else {
            return self.connect_failed(request, ConnectError::TooManyLookUps { limit: look_ups.limit() });
        };
        let kind = self.connecting.kind(&request);
        let (resolver, deadline) = (kind.resolver.clone(), self.context.now + kind.connect_timeout);
        let looking_up = &mut self.connecting.looking_up;
        while looking_up.unanswered.contains_key(&looking_up.next_number) {
            looking_up.next_number = looking_up.next_number.wrapping_add(1);
        }
        let number = looking_up.next_number;
        looking_up.next_number = number.wrapping_add(1);
        let timer = self.context.wheel.insert(deadline, Timer::LookUp(number));
        let is_abandoned = Arc::new(AtomicBool::new(false));
        let wanted = Some(Wanted { request, deadline, timer });
        looking_up.unanswered.insert(number, Unanswered { wanted, place, is_abandoned: Arc::clone(&is_abandoned) });
        looking_up.wanted += 1;
        let home = Arc::clone(&self.context.shared);
        look_ups.ask(Question { name, port, resolver, number, is_abandoned, home });
    }

    /// An answer has come.
    pub(super) fn name_looked_up(&mut self, answer: Answer) {
        let wanted = self.connecting.looking_up.forget(answer.number);
        let unanswered = self.connecting.looking_up.unanswered.remove(&answer.number);
        let place = unanswered.map(|unanswered| unanswered.place);
        let Some(Wanted { mut request, deadline, timer }) = wanted else { return };
        self.context.wheel.cancel(timer);
        match answer.result {
            Ok(addresses) if addresses.is_empty() => self.connect_failed(request, ConnectError::NameNotFound),
            Ok(addresses) => {
                request.route = Some(Box::new(Route::new(addresses, deadline, place)));
                self.try_connect(request);
            }
            Err(error) => {
                tracing::debug!(destination = %request.target.destination, %error, "a look-up has failed");
                self.connect_failed(request, ConnectError::from_look_up(&error));
            }
        }
    }

    /// A look-up has taken as long as all of its request may.
    #[cold]
    #[inline(never)]
    pub(super) fn look_up_timed_out(&mut self, number: u32) {
        if let Some(Wanted { request, .. }) = self.connecting.looking_up.forget(number) {
            let timeout = self.connecting.kind(&request).connect_timeout;
            self.connect_failed(request, ConnectError::TimedOut(timeout));
        }
    }

    /// Nobody waits any more for the look-ups of these requests.
    pub(super) fn give_up_look_ups(&mut self, error: ConnectError, which: impl Fn(&ConnectRequest) -> bool) {
        let looking_up = &self.connecting.looking_up;
        let given_up = |one: &Unanswered| one.wanted.as_ref().is_some_and(|wanted| which(&wanted.request));
        let numbers: Vec<u32> =
            looking_up.unanswered.iter().filter(|(_, one)| given_up(one)).map(|(&number, _)| number).collect();
        for number in numbers {
            if let Some(Wanted { request, timer, .. }) = self.connecting.looking_up.forget(number) {
                self.context.wheel.cancel(timer);
                self.connect_failed(request, error);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_tried_in_order_and_share_the_time_that_is_left() {
        let addresses: Vec<SocketAddr> = (1..=4).map(|port| SocketAddr::from(([10, 0, 0, 1], port))).collect();
        let start = Time::ZERO + Duration::from_secs(1);
        let mut route = Route::new(addresses.clone(), start + Duration::from_secs(8), None);
        assert_eq!(route.next(start), Some((addresses[0], Duration::from_secs(2))));
        // The first was refused at once: the others have more.
        assert_eq!(route.next(start + Duration::from_secs(2)), Some((addresses[1], Duration::from_secs(2))));
        assert_eq!(route.next(start + Duration::from_secs(2)), Some((addresses[2], Duration::from_secs(3))));
        assert!(route.leads_on());
        assert_eq!(route.next(start + Duration::from_secs(9)), Some((addresses[3], Duration::ZERO)));
        assert!(!route.leads_on());
        assert_eq!(route.next(start), None);
    }
}
