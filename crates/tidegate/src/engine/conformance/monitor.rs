//! The rules that hold in every case, checked on every completion.

use std::collections::HashMap;

use crate::engine::{Completion, ListenerId, SocketId};

/// What the caller of an engine has asked of a socket's receiving side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Demand {
    /// Nothing, or paused.
    Nothing,
    /// Data.
    Data,
    /// A pause whose `ReceivePaused` has not come yet.
    Pause,
    /// To throw data away.
    Discard,
}

#[derive(Debug)]
struct SocketRules {
    demand: Demand,
    /// Pauses called off by a later `receive`: each may or may not leave a `ReceivePaused`.
    called_off: u32,
    ended: bool,
    connecting: bool,
    sending: bool,
    shutting: bool,
    closing: bool,
}

#[derive(Debug, Default)]
struct ListenerRules {
    credit: u64,
    /// The sweep, once the listener is being closed.
    sweep: Option<u64>,
}

/// Follows calls and completions, and panics at the first completion that the contract doesn't allow.
#[derive(Debug, Default)]
pub(super) struct Monitor {
    sockets: HashMap<SocketId, SocketRules>,
    listeners: HashMap<ListenerId, ListenerRules>,
    most_sockets: u32,
    buffer_bytes: usize,
}

impl Monitor {
    /// A monitor for an engine of `most_sockets` sockets and buffers of `buffer_bytes`.
    pub(super) fn new(most_sockets: u32, buffer_bytes: usize) -> Self {
        Self { most_sockets, buffer_bytes, ..Self::default() }
    }

    /// A listener was handed over.
    pub(super) fn listened(&mut self, listener: ListenerId) {
        assert!(self.listeners.insert(listener, ListenerRules::default()).is_none(), "{listener:?} is used again");
    }

    /// Credit was added.
    pub(super) fn credited(&mut self, listener: ListenerId, count: u32) {
        self.listener(listener).credit += u64::from(count);
    }

    /// The listener is to be closed.
    pub(super) fn closing_listener(&mut self, listener: ListenerId, sweep: u32) {
        let rules = self.listener(listener);
        // Accepts that had completed already count as swept, and can't be undone if they are more than that.
        rules.sweep = Some(u64::from(sweep).max(rules.credit));
    }

    /// A socket was made.
    pub(super) fn made(&mut self, socket: SocketId, connecting: bool) {
        assert!(socket.index < self.most_sockets, "{socket:?} of {} sockets", self.most_sockets);
        let rules = SocketRules {
            demand: Demand::Nothing,
            called_off: 0,
            ended: false,
            connecting,
            sending: false,
            shutting: false,
            closing: false,
        };
        assert!(self.sockets.keys().all(|other| other.index != socket.index), "{socket:?} has a place that is in use");
        self.sockets.insert(socket, rules);
    }

    /// Data was asked for.
    pub(super) fn asked(&mut self, socket: SocketId) {
        let rules = self.socket(socket);
        if rules.demand == Demand::Pause {
            rules.called_off += 1;
        }
        if rules.demand != Demand::Discard {
            rules.demand = Demand::Data;
        }
    }

    /// A pause was asked for. Says whether a `ReceivePaused` is due.
    pub(super) fn pausing(&mut self, socket: SocketId) -> bool {
        let rules = self.socket(socket);
        if rules.demand == Demand::Data && !rules.ended {
            rules.demand = Demand::Pause;
        }
        rules.demand == Demand::Pause
    }

    /// Data is to be thrown away.
    pub(super) fn discarding(&mut self, socket: SocketId) {
        let rules = self.socket(socket);
        if rules.demand == Demand::Pause {
            rules.called_off += 1;
        }
        rules.demand = Demand::Discard;
    }

    /// A send was begun.
    pub(super) fn sending(&mut self, socket: SocketId) {
        let rules = self.socket(socket);
        assert!(!rules.sending, "the case itself sends twice at once on {socket:?}");
        rules.sending = true;
    }

    /// A half-close was begun.
    pub(super) fn shutting(&mut self, socket: SocketId) {
        self.socket(socket).shutting = true;
    }

    /// A close was begun.
    pub(super) fn closing(&mut self, socket: SocketId) {
        let rules = self.socket(socket);
        assert!(!rules.closing, "the case itself closes {socket:?} twice");
        rules.closing = true;
    }

    /// The sockets that are not closed, and not being closed.
    pub(super) fn open(&self) -> Vec<SocketId> {
        self.sockets.iter().filter(|(_, rules)| !rules.closing).map(|(&socket, _)| socket).collect()
    }

    /// Whether every socket is closed.
    pub(super) fn all_closed(&self) -> bool {
        self.sockets.is_empty()
    }

    /// The listeners that are not closed, and not being closed.
    pub(super) fn listening(&self) -> Vec<ListenerId> {
        self.listeners.iter().filter(|(_, rules)| rules.sweep.is_none()).map(|(&listener, _)| listener).collect()
    }

    /// Whether every listener is closed.
    pub(super) fn all_listeners_closed(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Checks one completion.
    pub(super) fn observe<S>(&mut self, completion: &Completion<S>) {
        match completion {
            Completion::Woken => {}
            Completion::Accepted { listener, .. } => {
                let rules = self.listener(*listener);
                let left = rules.sweep.as_mut().unwrap_or(&mut rules.credit);
                assert!(*left > 0, "{listener:?} accepted more than its credit");
                *left -= 1;
            }
            Completion::AcceptFailed { listener, error } => {
                let rules = self.listener(*listener);
                assert!(rules.credit > 0, "{listener:?} failed to accept without credit: {error}");
                rules.credit -= 1;
                let cancelled = rules.sweep.is_some() && error.raw_os_error() == Some(libc::ECANCELED);
                assert!(!cancelled, "credit that was taken back is no failed accept");
            }
            Completion::ListenerClosed { listener } => {
                assert!(self.listener(*listener).sweep.is_some(), "{listener:?} closed by itself");
                self.listeners.remove(listener);
            }
            Completion::Connected { socket, .. } => {
                let rules = self.socket(*socket);
                assert!(rules.connecting, "{socket:?} connected without a connect, or twice");
                rules.connecting = false;
            }
            Completion::Received { socket, buffer } => {
                let most = self.buffer_bytes;
                let rules = self.open_socket(*socket, "Received");
                assert!(matches!(rules.demand, Demand::Data | Demand::Pause), "{socket:?} got data unasked: {rules:?}");
                assert!(!rules.ended, "{socket:?} got data after its end");
                assert!((1..=most).contains(&buffer.len()) && buffer.is_arena(), "{socket:?} got {buffer:?}");
            }
            Completion::ReceivePaused { socket } => {
                let rules = self.open_socket(*socket, "ReceivePaused");
                match rules.demand {
                    Demand::Pause => rules.demand = Demand::Nothing,
                    _ if rules.called_off > 0 => rules.called_off -= 1,
                    _ => panic!("{socket:?} was paused unasked: {rules:?}"),
                }
            }
            Completion::PeerFinished { socket } | Completion::ReceiveFailed { socket, .. } => {
                let rules = self.open_socket(*socket, "an end");
                assert!(matches!(rules.demand, Demand::Data | Demand::Discard), "{socket:?} ended unasked: {rules:?}");
                assert!(!rules.ended, "{socket:?} ended twice");
                rules.ended = true;
            }
            Completion::Discarded { socket, bytes } => {
                let rules = self.open_socket(*socket, "Discarded");
                assert!(rules.demand == Demand::Discard && !rules.ended, "{socket:?} discarded unasked: {rules:?}");
                assert!(*bytes > 0, "{socket:?} discarded nothing");
            }
            Completion::Sent { socket, result, .. } => {
                let rules = self.socket(*socket);
                assert!(rules.sending, "{socket:?} sent without a send, or twice");
                rules.sending = false;
                let taken = result.as_ref().map_or(1, |&taken| taken);
                let most = crate::memory::Gather::SLICE_BYTES;
                assert!((1..=most).contains(&taken), "{socket:?}: one send took {taken} bytes");
            }
            Completion::WriteShut { socket, .. } => {
                let rules = self.open_socket(*socket, "WriteShut");
                assert!(rules.shutting, "{socket:?} was half-closed unasked, or twice");
                rules.shutting = false;
            }
            Completion::Closed { socket } => {
                let rules = self.socket(*socket);
                assert!(rules.closing, "{socket:?} closed by itself");
                assert!(!rules.sending && !rules.connecting, "{socket:?} closed with something in flight: {rules:?}");
                self.sockets.remove(socket);
            }
        }
    }

    fn listener(&mut self, listener: ListenerId) -> &mut ListenerRules {
        self.listeners.get_mut(&listener).unwrap_or_else(|| panic!("{listener:?} is closed or was never made"))
    }

    fn socket(&mut self, socket: SocketId) -> &mut SocketRules {
        self.sockets.get_mut(&socket).unwrap_or_else(|| panic!("{socket:?} is closed or was never made"))
    }

    fn open_socket(&mut self, socket: SocketId, what: &str) -> &mut SocketRules {
        let rules = self.socket(socket);
        assert!(!rules.closing, "{what} on {socket:?} after its close was asked for");
        rules
    }
}
