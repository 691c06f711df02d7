//! Having fetched what handlers will need, while others are called.

use super::IoThread;
use super::handlers::Fetch;
use crate::engine::{Completion, Engine};

/// How many completions before its own something is fetched for a handler. A memory access that no cache near answers takes about as long as
/// one completion with a short task: so each has its time before the next needs it, and nothing is pushed out again before it is used.
const AHEAD: [(usize, Fetch); 3] = [(9, Fetch::Place), (6, Fetch::Handler), (3, Fetch::Rest)];

impl<E: Engine> IoThread<E> {
    /// Has the handlers fetched that the next completions are for. Their slots are there already.
    #[inline]
    pub(super) fn prepare(&self, coming: &[Completion<E::Stream>]) {
        for (ahead, what) in AHEAD {
            if let Some(Completion::Received { socket, .. }) = coming.get(ahead - 1)
                && let Some(slot) = self.slots.get(socket.index)
                && let Some(table) = self.tables.get(usize::from(slot.table))
            {
                table.prepare(slot.handler, what);
            }
        }
    }
}
