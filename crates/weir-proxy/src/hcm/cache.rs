//! Connection managers as a worker uses them, for one version of the configuration.
use crate::{
    filter::FactoryContext,
    plugin::WorkerPlugins,
    snapshot::{HcmKey, HcmRt},
    stats::HttpStats,
    worker::Worker,
};
use std::{
    cell::{Cell, RefCell},
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

/// The connection managers that the connections of a worker have asked for, and the plugins that run in them.
pub struct HcmCache {
    worker: Rc<Worker>,
    plugins: Rc<WorkerPlugins>,
    hcms: RefCell<HashMap<HcmKey, Rc<Hcm>>>,
}

impl HcmCache {
    pub fn new(worker: Rc<Worker>) -> HcmCache {
        let plugins = WorkerPlugins::new(&worker.shared.plugins, Rc::downgrade(&worker));
        HcmCache { worker, plugins, hcms: RefCell::default() }
    }

    /// The connection manager as it is now. `known` is what the connection remembers between requests, so that usually nothing is looked
    /// up; it keeps no old configuration alive. `None`: it is gone.
    pub fn get(&self, key: &HcmKey, known: &mut Weak<Hcm>) -> Option<Rc<Hcm>> {
        let version = self.worker.shared.connection_managers.version();
        if let Some(hcm) = known.upgrade()
            && hcm.checked.get() == version
        {
            return Some(hcm);
        }
        let hcm = self.find(key, version);
        *known = hcm.as_ref().map(Rc::downgrade).unwrap_or_default();
        hcm
    }

    #[cold]
    fn find(&self, key: &HcmKey, version: u64) -> Option<Rc<Hcm>> {
        let mut hcms = self.hcms.borrow_mut();
        let known = hcms.get(key);
        if let Some(hcm) = known.filter(|hcm| hcm.checked.get() == version) {
            return Some(hcm.clone());
        }
        let shared = &self.worker.shared;
        let Some(rt) = shared.connection_managers.get(key) else {
            hcms.remove(key);
            return None;
        };
        if let Some(hcm) = known.filter(|hcm| hcm.rt.is(&rt)) {
            hcm.checked.set(version);
            return Some(hcm.clone());
        }
        let stats = shared.stats.http(&rt.config().stat_prefix, self.worker.index);
        let hcm = Rc::new(Hcm::new(Arc::new(rt), version, stats, self));
        hcms.insert(key.clone(), hcm.clone());
        Some(hcm)
    }

    /// Lets go of what the configuration no longer has, even if no request comes.
    pub fn refresh(&self) {
        let version = self.worker.shared.connection_managers.version();
        let stale = |hcm: &Rc<Hcm>| hcm.checked.get() != version;
        let keys: Vec<HcmKey> = self.hcms.borrow().iter().filter(|(_, hcm)| stale(hcm)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.find(&key, version);
        }
    }
}

/// A connection manager as a worker uses it, for one version of the configuration.
pub struct Hcm {
    pub rt: Arc<HcmRt>,
    /// The version of the configuration that this one was last compared with.
    checked: Cell<u64>,
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
    fn new(rt: Arc<HcmRt>, checked: u64, stats: Arc<HttpStats>, cache: &HcmCache) -> Hcm {
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
        let (core, plugins) = (cache.worker.core.clone(), Rc::downgrade(&cache.plugins));
        let filters = Rc::new(FactoryContext { core, stats: stats.clone(), rt: rt.clone(), plugins });
        Hcm { path, head, waits, logs_trailers, filters, rt, checked: Cell::new(checked), stats }
    }
    pub fn config(&self) -> &HttpConnectionManager {
        self.rt.config()
    }
}
