//! Filters: what transforms the bytes of a connection between the wire and its handler.
//!
//! A connection has a stack of filters, or none, which costs nothing. Data is **pulled, both ways**:
//!
//! ```text
//!          handler                         send queue (whole messages, with the policy)
//!             ▲  Filter::read                  │
//!        top filter ── pulls from ─┐           ▼  Filter::write, pulls from above
//!             ▲                    │        top filter
//!       bottom filter ◀────────────┘           ▼
//!             ▲  buffers of the wire        bottom filter ─▶ the next gathered send
//! ```
//!
//! So neither way has a queue inside the stack that a peer or a handler could fill. What was received waits at the bottom, as it came;
//! what is to be sent waits at the top, as whole messages, so that a policy drops messages and never parts of what a filter made
//! of them.
//!
//! # The contract
//!
//! - **No re-entrancy.** A filter is called by the stack only, and calls nothing but what it is handed. It makes no system call, and
//!   takes time and randomness from its [`FilterContext`], so that a simulation replays it.
//! - **Reading.** [`Filter::read`] is called when there is room above. It returns one piece of data, or says why there is none: it
//!   is [`Starved`](Read::Starved) of input (and has then moved what it needs of a partial unit out of the input, into right-sized memory
//!   of its own that it has declared or charged: an idle connection holds no buffer; with input left that must wait, the connection is not
//!   received from until the filter has written or its deadline has come, and that input is moved where receive buffers are few), there is no memory for the data
//!   ([`NoMemory`](Read::NoMemory): it is called again when there is, and has lost nothing), or the stream has ended. It is never called
//!   again after [`Finished`](Read::Finished).
//! - **Writing.** [`Filter::write`] is called when the wire has room, also with nothing above: a filter may have bytes of its own to
//!   send, and [`wants_write`](Filter::wants_write) says so. It puts at most [`Down::room_bytes`] of new bytes into [`Down`]. A piece from
//!   above goes on without a copy by [`Above::pass`]. With less room than it can use it writes nothing and is called again with
//!   more.
//! - **Establishing.** Until each filter [is established](Filter::is_established), from the bottom up, there is no handler; reads are made to let the
//!   filters talk, and a [`Read::Data`] that comes with the end of establishing waits for the handler.
//! - **Ending.** When the handler has finished and the queue is empty, [`Filter::finish`] is called once, from the top down; each filter's last bytes go
//!   through those below it. When the bottom one has nothing more, the wire is half-closed.
//! - **The peer's end** comes from below as [`Fill::Finished`]. The filter decides what it means: the end, or a truncation.
//! - **Joining later.** A filter may be added to a connection that is open ([`Connection::add_filter`](crate::Connection::add_filter)). What was received and
//!   not read by then is read through it, what was sent by then goes out before it; it is on top of the others. Until it is established, the
//!   connection is read from for its sake, even if the handler has paused.
//! - **Failing.** A [`FilterError`] ends the connection with the [`CloseReason`](crate::CloseReason) that belongs to it; with a
//!   [farewell](FilterError::with_farewell), what filters still want to write goes out first. A panic is one of the handler's.
//! - **Pausing.** A filter is not read while the handler takes nothing: see [`FilterContext::is_reading`]. It is written from all the same.
//! - **Memory.** What a filter keeps for as long as it lives is declared by its factory ([`Reserve`]) and counted for every connection
//!   in the ceiling; what all share, and what a call takes while it runs, by [`SharedReserve`]. What it makes for the wire is charged to
//!   the connection; the room that it is given is charged ahead. Of what it has declared to write it can always write all when nothing is
//!   in flight, whatever others hold.
//!
//! `docs/filters.md` in the repository has the whole of it.

mod above;
mod below;
mod bench;
mod context;
mod error;
mod factory;
pub mod framing;
#[cfg(any(fuzzing, all(test, not(loom))))]
pub mod fuzzing;
mod keep_alive;
pub mod proxy;
mod rate_limit;
mod read_timeout;
mod stack;
mod tail;
#[cfg(all(test, not(loom)))]
pub(crate) mod tests;
#[cfg(feature = "tls")]
pub mod tls;

pub use above::{Above, Down};
pub(crate) use above::{Budget, Outgoing};
pub(crate) use below::Incoming;
pub use below::{Below, Fill};
pub use bench::FilterBench;
pub use context::FilterContext;
pub use error::{FilterError, FilterFailure};
pub use factory::{Description, FilterFactory, FilterPeer, Reserve, SharedReserve, Side};
pub use keep_alive::{Heard, KeepAlive, KeepAliveCodec};
pub use rate_limit::RateLimit;
pub use read_timeout::ReadTimeout;
pub(crate) use stack::Stack;
pub use tail::Tail;

use crate::memory::Buffer;
use crate::time::Time;

/// What one call of [`Filter::read`] came to.
#[derive(Debug)]
pub enum Read {
    /// Data for whoever is above: at least one byte.
    Data(Buffer),
    /// Nothing yet: all that is below has been taken in, or what is left must wait for the filter's [deadline](Filter::deadline).
    Starved,
    /// There is data, but no memory to hand it up in. The filter is asked again when there is.
    NoMemory,
    /// The end of the stream: nothing comes any more.
    Finished,
}

/// One filter of one connection. See the [module](self) for the contract.
pub trait Filter: 'static {
    /// A short fixed name, for logs.
    fn name(&self) -> &'static str;

    /// The next data for whoever is above, made of what is below.
    ///
    /// # Errors
    /// [`FilterError`] ends the connection, with the reason that it names.
    fn read(&mut self, below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError>;

    /// Puts what is above, transformed, and what the filter itself has to say, into `down`, as much as there is room for. By default
    /// everything goes on as it is.
    ///
    /// # Errors
    /// [`FilterError`] ends the connection, with the reason that it names.
    fn write(
        &mut self,
        above: &mut Above<'_>,
        down: &mut Down<'_>,
        context: &mut FilterContext<'_>,
    ) -> Result<(), FilterError> {
        pass_all(above, down, context)
    }

    /// Whether it matters to [`write`](Self::write) where a message ends. If not, small ones that were published to a
    /// [group](crate::Group) in quick succession come to it as one.
    fn tells_messages_apart(&self) -> bool {
        true
    }

    /// Whether [`write`](Self::write) has something to do although nothing is above.
    fn wants_write(&self) -> bool {
        false
    }

    /// Whether it has done what must be done before the connection is of use: a handshake, a header.
    fn is_established(&self) -> bool {
        true
    }

    /// Our side has finished, and everything from above has been written. The filter's last words follow by
    /// [`write`](Self::write) while it [wants to](Self::wants_write).
    fn finish(&mut self, context: &mut FilterContext<'_>) {
        let _ = context;
    }

    /// When [`time_passed`](Self::time_passed) is to be called; asked after each call of the filter.
    fn deadline(&self) -> Option<Time> {
        None
    }

    /// The deadline has come, or passed.
    ///
    /// # Errors
    /// [`FilterError`] ends the connection, with the reason that it names.
    fn time_passed(&mut self, context: &mut FilterContext<'_>) -> Result<(), FilterError> {
        let _ = context;
        Ok(())
    }

    /// Adds what it has learned about the connection. Called once all filters are established.
    fn describe(&self, description: &mut Description) {
        let _ = description;
    }
}

/// Lets go on what is above as it is. That takes no memory, so it asks for room only after the first piece: the wire has some, or nobody would ask
/// for anything.
pub(crate) fn pass_all(
    above: &mut Above<'_>,
    down: &mut Down<'_>,
    context: &mut FilterContext<'_>,
) -> Result<(), FilterError> {
    while above.fill(down, context)? {
        above.pass(down, context);
        if down.room_bytes() == 0 {
            break;
        }
    }
    Ok(())
}

/// Hands up what is below as it is: [`Filter::read`] of filters that change nothing of what comes.
pub(crate) fn read_through(below: &mut Below<'_>, context: &mut FilterContext<'_>) -> Result<Read, FilterError> {
    Ok(match below.fill(context)? {
        Fill::Data => below.take().map_or(Read::Starved, Read::Data),
        Fill::Starved => Read::Starved,
        Fill::NoMemory => Read::NoMemory,
        Fill::Finished => Read::Finished,
    })
}
