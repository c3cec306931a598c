//! Connection managers as a worker uses them, for one version of the configuration.
use crate::{
    filter::FactoryContext,
    snapshot::{HcmKey, HcmRt, Snapshot},
    stats::HttpStats,
    worker::Worker,
};
use arc_swap::{ArcSwap, Cache};
use std::{
    cell::RefCell,
    collections::HashMap,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};
use weir_config::model::{EscapedSlashes, HttpConnectionManager};
use weir_net::{
    http::{parse, path},
    timer::nanos,
};

/// The connection managers of the current snapshot that the connections of a worker have asked for.
pub struct HcmCache {
    worker: Rc<Worker>,
    current: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    hcms: RefCell<(u64, HashMap<HcmKey, Rc<Hcm>>)>,
}

impl HcmCache {
    pub fn new(worker: Rc<Worker>) -> HcmCache {
        let current = RefCell::new(Cache::new(worker.shared.snapshot.clone()));
        HcmCache { worker, current, hcms: RefCell::default() }
    }

    /// The connection manager as it is now. `known` is what the connection remembers between requests, so that usually nothing is looked
    /// up; it keeps no old configuration alive. `None`: it is gone.
    pub fn get(&self, key: &HcmKey, known: &mut Weak<Hcm>) -> Option<Rc<Hcm>> {
        let mut current = self.current.borrow_mut();
        let snapshot = current.load();
        let mut hcms = self.hcms.borrow_mut();
        if hcms.0 != snapshot.version {
            hcms.1.clear();
            hcms.0 = snapshot.version;
        } else if let Some(hcm) = known.upgrade() {
            return Some(hcm);
        }
        if let Some(hcm) = hcms.1.get(key) {
            *known = Rc::downgrade(hcm);
            return Some(hcm.clone());
        }
        let rt = snapshot.hcm(key)?.clone();
        let stats = self.worker.shared.stats.http(&rt.config().stat_prefix, self.worker.index);
        let hcm = Rc::new(Hcm::new(rt, snapshot.clone(), stats, &self.worker));
        hcms.1.insert(key.clone(), hcm.clone());
        *known = Rc::downgrade(&hcm);
        Some(hcm)
    }
}

/// A connection manager as a worker uses it, for one version of the configuration.
pub struct Hcm {
    pub rt: Arc<HcmRt>,
    pub snapshot: Arc<Snapshot>,
    pub stats: Arc<HttpStats>,
    pub(super) path: path::Options,
    pub(super) head: parse::Limits,
    pub(super) waits: Waits,
    /// An access log asks for trailers: bodies that may have some are not passed unread.
    pub(super) logs_trailers: bool,
    pub(super) filters: Rc<FactoryContext>,
}

/// What a connection needs to know between requests; it does not hold on to a configuration while it is idle.
#[derive(Clone, Copy)]
pub(super) struct Waits {
    pub idle: u64,
    pub head: u64,
    pub limits: parse::Limits,
}

pub(super) fn ns(d: Option<Duration>) -> u64 {
    d.map_or(u64::MAX, nanos)
}

impl Hcm {
    fn new(rt: Arc<HcmRt>, snapshot: Arc<Snapshot>, stats: Arc<HttpStats>, worker: &Worker) -> Hcm {
        let c = rt.config();
        let path = path::Options {
            normalize: c.normalize_path,
            merge_slashes: c.merge_slashes,
            escaped_slashes: match c.escaped_slashes {
                EscapedSlashes::KeepUnchanged => path::Slashes::Keep,
                EscapedSlashes::RejectRequest => path::Slashes::Reject,
                EscapedSlashes::UnescapeAndRedirect => path::Slashes::Redirect,
                EscapedSlashes::UnescapeAndForward => path::Slashes::Unescape,
            },
        };
        let head = parse::Limits { bytes: c.limits.max_request_headers_bytes as usize, fields: c.limits.max_headers_count as usize };
        let waits = Waits { idle: ns(c.timeouts.idle_timeout), head: ns(c.timeouts.request_headers_timeout), limits: head };
        let logs_trailers = rt.access_logs.iter().any(|l| l.reads_trailers());
        let (core, plugins) = (worker.core.clone(), Rc::downgrade(&worker.plugins));
        let filters = Rc::new(FactoryContext { core, stats: stats.clone(), rt: rt.clone(), plugins });
        Hcm { path, head, waits, logs_trailers, filters, rt, snapshot, stats }
    }
    pub fn config(&self) -> &HttpConnectionManager {
        self.rt.config()
    }
}
