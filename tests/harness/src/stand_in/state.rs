//! The store, the watches that are open, and the faults that are due.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use crate::stand_in::{
    Disturbance, Fault, Kind,
    leases::Leases,
    render,
    store::{Change, Store},
    watch_body::Piece,
};

pub(super) struct State {
    pub(super) store: Store,
    pub(super) leases: Leases,
    pub(super) faults: Faults,
    pub(super) streaming_lists: bool,
    watches: Vec<Watch>,
    /// Kept so that their connections stay open; nothing is sent to them.
    half_open: Vec<Watch>,
    /// Makes the tokens of endless lists differ.
    pub(super) tokens: u64,
}

pub(super) struct Watch {
    pub(super) namespace: Option<String>,
    pub(super) bookmarks: bool,
    pub(super) sender: UnboundedSender<Piece>,
}

impl State {
    pub(super) fn new() -> Self {
        let (watches, half_open) = (Vec::new(), Vec::new());
        Self {
            store: Store::new(),
            leases: Leases::default(),
            faults: Faults::default(),
            streaming_lists: true,
            watches,
            half_open,
            tokens: 0,
        }
    }

    pub(super) fn put(&mut self, pod: &Value) -> u64 {
        let change = self.store.put(pod);
        self.broadcast(&change);
        change.version
    }

    /// The version of the change, and the last state of the pod as JSON.
    pub(super) fn delete(&mut self, namespace: &str, name: &str) -> Option<(u64, Bytes)> {
        let last = self.store.get(namespace, name)?;
        let change = self.store.delete(namespace, name)?;
        self.broadcast(&change);
        Some((change.version, last))
    }

    pub(super) fn bookmark(&mut self) {
        let line = render::bookmark(self.store.version(), false);
        self.send(|watch| watch.bookmarks.then(|| Piece::Data(line.clone())));
    }

    /// Sends what has been from the start of a watch, and everything from now on.
    pub(super) fn open(&mut self, watch: Watch, before: impl IntoIterator<Item = Bytes>) {
        for line in before {
            // The client may be gone already.
            let _ = watch.sender.send(Piece::Data(line));
        }
        self.watches.push(watch);
    }

    pub(super) fn open_watches(&mut self) -> usize {
        self.watches.retain(|watch| !watch.sender.is_closed());
        self.watches.len()
    }

    pub(super) fn send_all(&mut self, piece: impl Fn() -> Piece) {
        self.send(|_| Some(piece()));
    }

    pub(super) fn disturb(&mut self, disturbance: &Disturbance) {
        match disturbance {
            Disturbance::HalfOpen => self.half_open.append(&mut self.watches),
            Disturbance::End => self.watches.clear(),
            Disturbance::Break => {
                self.send_all(|| Piece::Break);
                self.watches.clear();
            }
            Disturbance::CutEvent => {
                let line = self.some_event();
                self.send_all(|| Piece::Data(line.slice(..line.len() / 2)));
                self.send_all(|| Piece::Break);
                self.watches.clear();
            }
            Disturbance::Rubbish => self.send_all(|| Piece::Data(Bytes::from_static(b"{\"type\": rubbish\n"))),
            Disturbance::Bytes(bytes) => self.send_all(|| Piece::Data(bytes.clone())),
            Disturbance::ErrorEvent(code, retry_after) => {
                let line = render::error_event(&render::status(*code, *retry_after));
                self.send_all(|| Piece::Data(line.clone()));
                self.watches.clear();
            }
        }
    }

    /// A change of a pod if there is one, else a bookmark.
    fn some_event(&self) -> Bytes {
        let pod = self.store.all().into_iter().next();
        pod.map_or_else(|| render::bookmark(self.store.version(), false), |pod| render::event("MODIFIED", &pod.item))
    }

    fn broadcast(&mut self, change: &Change) {
        self.send(|watch| change.is_in(watch.namespace.as_deref()).then(|| Piece::Data(change.line.clone())));
    }

    /// Sends to every watch that the function has something for, and forgets those whose client is gone.
    fn send(&mut self, piece: impl Fn(&Watch) -> Option<Piece>) {
        self.watches.retain(|watch| piece(watch).is_none_or(|piece| watch.sender.send(piece).is_ok()));
    }
}

/// Which fault is due for which request.
#[derive(Default)]
pub(super) struct Faults {
    next: HashMap<Kind, VecDeque<Fault>>,
    always: HashMap<Kind, Fault>,
}

impl Faults {
    pub(super) fn next(&mut self, kind: Kind, fault: Fault) {
        self.next.entry(kind).or_default().push_back(fault);
    }

    pub(super) fn always(&mut self, kind: Kind, fault: Option<Fault>) {
        match fault {
            Some(fault) => self.always.insert(kind, fault),
            None => self.always.remove(&kind),
        };
    }

    /// The fault for a request that has come.
    pub(super) fn take(&mut self, kind: Kind) -> Option<Fault> {
        let next = self.next.get_mut(&kind).and_then(VecDeque::pop_front);
        next.or_else(|| self.always.get(&kind).cloned())
    }
}
