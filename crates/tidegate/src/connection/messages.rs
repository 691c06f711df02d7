//! Lists of messages: one table of nodes per I/O thread, so that an idle connection's empty queues take 16 bytes.

use std::rc::Rc;

use super::filtered::Filters;
use super::{Flow, Flows, SendTurns};
use crate::memory::{Gather, MESSAGE_OVERHEAD_BYTES, Piece, ReceiveArena, SendLease, Spares};

const NONE: u32 = u32::MAX;

/// What the connections of an I/O thread share.
pub(crate) struct Pools {
    /// The receive arena.
    pub arena: ReceiveArena,
    /// This thread's share of send memory.
    pub lease: Rc<SendLease>,
    /// The limits of each connection, without those of its queue.
    pub flow: Flow,
    /// The rules of the queues.
    pub flows: Flows,
    /// The filters of the connections that have any.
    pub filters: Filters,
    pub(super) messages: Messages,
    #[expect(clippy::vec_box, reason = "the boxes are what goes to the engine and comes back")]
    gathers: Vec<Box<Gather>>,
    /// The memory of messages that were sent, for those that come.
    pub spares: Spares,
    /// Sends with the system, and whose turn is next.
    pub sends: SendTurns,
    /// A copy found no memory while the arena was low: the loop has to make room until it is not.
    pub pressed: bool,
}

impl Pools {
    /// Gathers to keep for the next sends; more are given back to the allocator.
    const GATHERS_KEPT: usize = 64;
    /// Pieces that a kept gather has room for; more is given back, so that kept gathers stay small.
    const PIECES_KEPT: usize = 16;

    /// Empty pools.
    pub(crate) fn new(arena: ReceiveArena, lease: Rc<SendLease>, flow: Flow, flows: Flows, filters: Filters) -> Self {
        let (messages, sends) = (Messages::default(), SendTurns::new(u32::MAX));
        let spares = Spares::default();
        Self { arena, lease, flow, flows, filters, messages, gathers: Vec::new(), spares, sends, pressed: false }
    }

    /// An empty gather.
    pub(super) fn gather(&mut self) -> Box<Gather> {
        self.gathers.pop().unwrap_or_default()
    }

    /// Takes back an empty gather.
    #[inline]
    pub(super) fn recycle(&mut self, mut gather: Box<Gather>) {
        debug_assert!(gather.is_empty() && gather.pieces() == 0);
        if self.gathers.len() < Self::GATHERS_KEPT {
            gather.shrink_to(Self::PIECES_KEPT);
            self.gathers.push(gather);
        }
    }

    /// Whether at least a quarter of the arena is not out.
    pub(crate) fn arena_has_reserve(&self) -> bool {
        self.arena.has_reserve()
    }

    /// What a promised reply is charged.
    pub(super) fn reply_charge_bytes(&self) -> usize {
        self.flow.reply_bytes + MESSAGE_OVERHEAD_BYTES
    }

    /// Whether a connection that waits for memory should try again: a reply can be charged, or there is all the
    /// memory that there ever is. For a larger message it may try in vain: waiting for more could be for ever, because what waits
    /// for handlers holds memory too.
    pub(crate) fn can_charge_reply(&self) -> bool {
        self.lease.can_charge(self.reply_charge_bytes().min(self.lease.total()))
    }

    /// Messages waiting on this thread, over all connections.
    pub(crate) fn messages_waiting(&self) -> usize {
        self.messages.in_use
    }
}

/// A list of messages of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    first: u32,
    last: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { first: NONE, last: NONE }
    }
}

impl List {
    pub(super) fn is_empty(&self) -> bool {
        self.first == NONE
    }
}

/// The nodes of all lists of a thread.
#[derive(Default)]
pub(super) struct Messages {
    nodes: Vec<Node>,
    free: Vec<u32>,
    in_use: usize,
}

struct Node {
    piece: Option<Piece>,
    next: u32,
}

impl Messages {
    pub(super) fn push(&mut self, list: &mut List, piece: Piece) {
        let node = Node { piece: Some(piece), next: NONE };
        let place = match self.free.pop() {
            Some(place) => {
                self.nodes[place as usize] = node;
                place
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
        };
        if list.is_empty() {
            list.first = place;
        } else {
            self.nodes[list.last as usize].next = place;
        }
        list.last = place;
        self.in_use += 1;
    }

    /// The length of the first message of a list; 0 if there is none.
    pub(super) fn first_len(&self, list: &List) -> usize {
        match self.nodes.get(list.first as usize) {
            Some(Node { piece: Some(piece), .. }) => piece.payload.len(),
            _ => 0,
        }
    }

    /// The messages of a list, the first one first.
    pub(super) fn iter(&self, list: &List) -> impl Iterator<Item = &Piece> {
        let mut next = list.first;
        std::iter::from_fn(move || {
            let node = self.nodes.get(next as usize)?;
            next = node.next;
            node.piece.as_ref()
        })
    }

    pub(super) fn pop(&mut self, list: &mut List) -> Option<Piece> {
        if list.is_empty() {
            return None;
        }
        let place = list.first;
        let node = &mut self.nodes[place as usize];
        let piece = node.piece.take();
        debug_assert!(piece.is_some(), "an empty node in a list");
        list.first = node.next;
        self.free.push(place);
        self.in_use -= 1;
        piece
    }
}
