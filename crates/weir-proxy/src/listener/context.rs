//! What the connections of one worker share: its connection managers, and the drains of its filter chains.
use super::DrainGroup;
use crate::{
    Shared,
    conn::ConnInfo,
    drain::{Drain, Phase},
    hcm::{self, HcmCache},
    snapshot::HcmKey,
    worker::Worker,
};
use std::{
    cell::RefCell,
    collections::HashMap,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};
use tokio::task::spawn_local;
use weir_net::io::Io;

/// How often connection managers are compared with the configuration where no request does it.
const REFRESH: Duration = Duration::from_secs(1);

/// One per worker.
pub(crate) struct ListenerContext {
    pub shared: Arc<Shared>,
    pub worker: Rc<Worker>,
    hcms: Rc<HcmCache>,
    drains: RefCell<HashMap<u64, Rc<Drain>>>,
    /// For connections whose filter chain is not known yet.
    arriving: Rc<Drain>,
}

impl ListenerContext {
    pub fn new(index: usize, shared: Arc<Shared>) -> Rc<ListenerContext> {
        let worker = Worker::new(index, shared.clone());
        let hcms = Rc::new(HcmCache::new(worker.clone()));
        spawn_local(refresh(Rc::downgrade(&hcms)));
        Rc::new(ListenerContext { worker, hcms, shared, drains: RefCell::default(), arriving: Rc::default() })
    }

    /// Ends the connections of a drain group that has ended.
    pub fn end(&self, drain_group: Arc<DrainGroup>) {
        if let Some(drain) = self.drains.borrow_mut().remove(&drain_group.id) {
            spawn_local(end(drain, drain_group, self.shared.clone()));
        }
    }

    /// All connections, present and future, are at least in this phase.
    pub fn advance(&self, phase: Phase) {
        self.arriving.advance(phase);
        self.drains.borrow().values().for_each(|d| d.advance(phase));
    }

    /// The drain signal for new connections of `drain_group`.
    pub fn drain_of(&self, drain_group: &Arc<DrainGroup>) -> Rc<Drain> {
        if drain_group.has_ended() {
            // The chain was chosen just before it went.
            let drain = Rc::new(Drain::default());
            spawn_local(end(drain.clone(), drain_group.clone(), self.shared.clone()));
            return drain;
        }
        let mut drains = self.drains.borrow_mut();
        let drain = drains.entry(drain_group.id).or_default();
        drain.advance(self.arriving.phase());
        drain.clone()
    }

    /// Waits until connections that have not been assigned a filter chain are to be closed.
    pub async fn arrivals(&self) {
        self.arriving.watch().idle().await;
    }

    pub async fn serve_http(self: &Rc<Self>, io: Io, conn: ConnInfo) {
        let key = HcmKey { listener: conn.listener.clone(), chain: conn.chain.clone() };
        let protocol = hcm::Protocol::of(&io);
        hcm::serve(io, Rc::new(conn), self.worker.clone(), self.hcms.clone(), key, protocol).await;
    }
}

/// Keeps a worker without requests from holding on to what the configuration no longer has.
async fn refresh(hcms: Weak<HcmCache>) {
    loop {
        tokio::time::sleep(REFRESH).await;
        let Some(hcms) = hcms.upgrade() else { return };
        hcms.refresh();
    }
}

/// Ends the connections of a drain group: they drain at once, the idle ones close after its drain timeout, and the rest are cut after the
/// shutdown timeout.
async fn end(drain: Rc<Drain>, drain_group: Arc<DrainGroup>, shared: Arc<Shared>) {
    drain.advance(Phase::Draining);
    tokio::time::sleep(drain_group.drain_timeout).await;
    drain.advance(Phase::Closing);
    tokio::time::sleep(shared.options.shutdown_timeout).await;
    drain.advance(Phase::Cutting);
}
