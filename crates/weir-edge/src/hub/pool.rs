//! The hubs of a node pool share what they follow: each kind is followed at the API server by one of them, and the others follow it there.
//! Nobody elects that one: each hub comes to the same order of its peers, and skips those that do not answer. Peers that cannot be reached
//! are looked for beside that, so that no list waits for one of them twice.
mod left;
pub mod order;

use crate::upstream::{
    credentials::Credentials,
    remote::{Peer, Timeouts},
};
use left::Left;
use order::Candidate;
use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinSet, time::sleep};
use weir_net::dns::{self, Resolver};

/// Most nodes of a pool whose hubs are peers; of more, the first by name.
pub const MOST: usize = 1000;

/// Peers that are looked for at a time, and how often it is seen whether it is time for one.
const LOOKS: usize = 8;
const LOOK: Duration = Duration::from_secs(1);

/// The hubs of the pool by the names of their nodes: host and port.
pub type Members = BTreeMap<String, String>;

#[derive(Debug, Default)]
pub struct Stats {
    /// Requests of peers that were answered, refused, and those for what this hub does not follow at the API server.
    pub served: AtomicU64,
    pub refused: AtomicU64,
    pub unavailable: AtomicU64,
    /// Watches of peers that are open.
    pub watches: AtomicUsize,
    /// Peers that were left: they could not be reached, did not give a kind, or had an older state.
    pub left: AtomicU64,
}

pub struct Pool {
    /// The name of this node.
    this: String,
    /// Whether kinds are shared in the pool.
    pub on: bool,
    members: watch::Sender<Arc<BTreeMap<String, Arc<Peer>>>>,
    left: Mutex<Left>,
    /// Changes when a peer was found that could not be reached.
    found: watch::Sender<()>,
    credentials: Arc<Credentials>,
    resolver: Arc<Resolver>,
    timeouts: Timeouts,
    pub stats: Stats,
}

/// Where a kind is followed from.
#[derive(Clone)]
pub enum Source {
    Server,
    Peer(Arc<Peer>),
}

impl Pool {
    pub fn new(node: &str, on: bool, credentials: Arc<Credentials>, timeouts: Timeouts) -> io::Result<Pool> {
        Ok(Pool {
            this: node.to_string(),
            on,
            members: watch::Sender::new(Arc::default()),
            left: Mutex::default(),
            found: watch::Sender::new(()),
            credentials,
            resolver: Arc::new(Resolver::new(dns::Options::default())?),
            timeouts,
            stats: Stats::default(),
        })
    }

    /// The hubs of the pool from now on, without this one.
    pub fn set(&self, members: &Members) {
        let before = self.members.borrow().clone();
        let peer = |(name, address): (&String, &String)| {
            let same = before.get(name).filter(|peer| peer.address == *address).cloned();
            let new = || Peer::new(name, address, self.credentials.clone(), self.resolver.clone(), self.timeouts).map(Arc::new);
            Some((name.clone(), same.or_else(new)?))
        };
        let peers: BTreeMap<_, _> = members.iter().filter(|(name, _)| **name != self.this).take(MOST).filter_map(peer).collect();
        self.left().set(peers.keys());
        self.members.send_if_modified(|now| {
            let same = now.len() == peers.len() && now.iter().zip(&peers).all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(a.1, b.1));
            *now = Arc::new(peers);
            !same
        });
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn peers(&self) -> Vec<Arc<Peer>> {
        self.members.borrow().values().cloned().collect()
    }

    pub fn changes(&self) -> watch::Receiver<Arc<BTreeMap<String, Arc<Peer>>>> {
        self.members.subscribe()
    }

    /// Changes when a peer was found that could not be reached.
    pub fn found(&self) -> watch::Receiver<()> {
        self.found.subscribe()
    }

    /// Looks for peers for as long as the future is polled.
    pub async fn look(self: Arc<Pool>) {
        let (mut looks, mut members) = (JoinSet::new(), self.changes());
        loop {
            while looks.len() < LOOKS
                && let Some(name) = self.next()
            {
                let (pool, peer) = (self.clone(), self.members.borrow().get(&name).cloned());
                looks.spawn(async move {
                    let reached = match peer {
                        Some(peer) => peer.is_reached().await,
                        None => false,
                    };
                    pool.looked_for(&name, reached);
                });
            }
            tokio::select! {
                Some(_) = looks.join_next() => {}
                () = sleep(LOOK) => {}
                changed = members.changed() => if changed.is_err() { return },
            }
        }
    }

    fn next(&self) -> Option<String> {
        self.left().next(Instant::now())
    }

    fn looked_for(&self, peer: &str, reached: bool) {
        if !reached {
            self.stats.left.fetch_add(1, Relaxed);
        }
        if self.left().looked_for(peer, reached, Instant::now()) {
            self.found.send_replace(());
        }
    }

    pub fn has(&self, node: &str) -> bool {
        self.members.borrow().contains_key(node)
    }

    /// Where a kind can be followed from, the best place first. `asked`: peers follow it from this hub; `link`: whether the API server can
    /// be reached.
    pub fn plan(&self, kind: &str, asked: bool, link: bool) -> Vec<Source> {
        let members = self.members.borrow().clone();
        let (left, now) = (self.left(), Instant::now());
        let peers: Vec<&str> = members.keys().map(String::as_str).collect();
        let order = order::order(kind, &self.this, &peers, asked, |peer| left.is_left(peer, kind, now));
        let from = |source| match source {
            Candidate::Server => link.then_some(Source::Server),
            Candidate::Peer(name) => members.get(name).cloned().map(Source::Peer),
        };
        order.into_iter().filter_map(from).collect()
    }

    /// Whether it is the best place of those that can be reached.
    pub fn is_best(&self, kind: &str, from: &Source) -> bool {
        let members = self.members.borrow().clone();
        let peers: Vec<&str> = members.keys().map(String::as_str).collect();
        let left = self.left();
        let best = order::order(kind, &self.this, &peers, false, |peer| left.is_unreachable(peer));
        match (best.first(), from) {
            (Some(Candidate::Peer(name)), Source::Peer(peer)) => *name == peer.name,
            (Some(Candidate::Server), Source::Server) => true,
            _ => false,
        }
    }

    /// `kind`: what the peer does not give; `None`: it cannot be reached.
    pub fn leave(&self, peer: &Peer, kind: Option<&str>) {
        self.stats.left.fetch_add(1, Relaxed);
        let now = Instant::now();
        match kind {
            Some(kind) => self.left().refuse(&peer.name, kind, now),
            None => self.left().leave(&peer.name, now),
        }
    }

    /// A peer has asked this hub.
    pub fn heard(&self, node: &str) {
        self.left().heard(node, Instant::now());
    }

    /// The API server can be reached again, by the peers, too.
    pub fn forget_refusals(&self) {
        self.left().forget_refusals();
    }

    pub fn answered(&self, peer: &Peer, kind: &str) {
        self.left().answered(&peer.name, kind);
    }

    /// Whether a peer is asked now, at least for some kinds.
    pub fn is_up(&self, peer: &Peer) -> bool {
        !self.left().is_unreachable(&peer.name)
    }
}
