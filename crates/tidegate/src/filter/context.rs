//! What a filter may use besides its neighbours.

use std::rc::Rc;

use crate::memory::{Buffer, SendLease};
use crate::random::split_mix;
use crate::time::Time;

/// Time, randomness and memory, for one call of a filter.
pub struct FilterContext<'a> {
    pub(crate) now: Time,
    pub(crate) random: &'a mut u64,
    pub(crate) lease: &'a Rc<SendLease>,
    /// What consumed pieces were charged: goes back when the call is over.
    pub(crate) refund_bytes: usize,
    /// A filter keeps something back until its time has come.
    pub(crate) holds_back: bool,
    /// Send memory that is left for others when something is only kept, in bytes.
    pub(crate) spared_bytes: usize,
    /// Since when the connection is read from, if it is.
    pub(crate) reading_since: Option<Time>,
}

impl<'a> FilterContext<'a> {
    pub(crate) fn new(now: Time, random: &'a mut u64, lease: &'a Rc<SendLease>) -> Self {
        Self {
            now,
            random,
            lease,
            refund_bytes: 0,
            holds_back: false,
            spared_bytes: 0,
            reading_since: Some(Time::ZERO),
        }
    }

    /// The time: the same for everything in one turn of the loop; virtual in a simulation.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Whether the connection is being read from at present. It isn't while its handler has paused reading or takes no more for now: what the
    /// peer has sent may then lie unread, so that its silence says nothing.
    pub fn is_reading(&self) -> bool {
        self.reading_since.is_some()
    }

    /// Since when it has been read from without a pause, if it [is](Self::is_reading). Known in [`time_passed`](super::Filter::time_passed); in
    /// other calls, the beginning of time.
    pub fn reading_since(&self) -> Option<Time> {
        self.reading_since
    }

    /// Says that [`write`](super::Filter::write) keeps back what it could write, until its [`deadline`](super::Filter::deadline), and not for want of
    /// room: it doesn't wait for memory then, and the peer is not blamed for taking nothing.
    ///
    /// In [`read`](super::Filter::read), with [`Starved`](super::Read::Starved): that the connection is not to be read from until then.
    pub fn hold_back(&mut self) {
        self.holds_back = true;
    }

    /// A random number: from the seed in a simulation. Not for secrets.
    pub fn random(&mut self) -> u64 {
        split_mix(self.random)
    }

    /// A right-sized buffer with a copy of `bytes`, charged to send memory until it is dropped; `None` if there is no memory for it
    /// now ([`Read::NoMemory`](super::Read::NoMemory)).
    pub fn buffer(&mut self, bytes: &[u8]) -> Option<Buffer> {
        Buffer::copied(bytes, self.lease).ok()
    }
}
