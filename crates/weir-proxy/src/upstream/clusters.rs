//! The clusters of one worker: where everything that reaches an upstream from this thread begins.
use super::{WorkerCluster, copies::Copies};
use crate::{Shared, cluster::ClusterSlot, core::Core};
use std::{
    cell::RefCell,
    ops::Deref,
    rc::Rc,
    sync::{self, Arc},
};

/// A cluster as a worker knows it.
#[derive(Clone)]
struct Known {
    slot: sync::Weak<ClusterSlot>,
    cluster: Rc<WorkerCluster>,
}

/// One per worker.
pub struct WorkerClusters {
    core: Rc<Core>,
    pub(super) shared: Arc<Shared>,
    /// By the numbers of their slots, which live only as long as the configuration has them.
    known: RefCell<Vec<Option<Known>>>,
    pub(super) copies: Rc<Copies>,
}

impl Deref for WorkerClusters {
    type Target = Core;

    #[inline(always)]
    fn deref(&self) -> &Core {
        &self.core
    }
}

impl WorkerClusters {
    pub fn new(core: Rc<Core>, shared: Arc<Shared>) -> Rc<WorkerClusters> {
        let copies = Rc::new(Copies::new(shared.options.max_mirrored_requests, shared.options.max_mirrored_bytes));
        Rc::new(WorkerClusters { core, shared, known: RefCell::default(), copies })
    }

    /// This worker's side of a cluster, up to date with its slot. `None`: there is no such cluster.
    pub fn cluster(self: &Rc<Self>, slot: &Arc<ClusterSlot>) -> Option<Rc<WorkerCluster>> {
        let mut clusters = self.known.borrow_mut();
        let id = slot.id as usize;
        if clusters.len() <= id {
            clusters.resize_with(id + 1, || None);
        }
        let version = slot.version();
        if let Some(known) = &clusters[id]
            && known.cluster.version == version
        {
            return Some(known.cluster.clone());
        }
        let previous = clusters[id].take().map(|known| known.cluster);
        let new = slot.current().map(|rt| {
            Rc::new({
                let stats = self.shared.stats.cluster(&slot.name, self.index);
                WorkerCluster::new(slot, version, rt, previous.as_deref(), stats, self.random())
            })
        });
        clusters[id] = new.clone().map(|cluster| Known { slot: Arc::downgrade(slot), cluster });
        new
    }

    /// As [`WorkerClusters::cluster`]; the names of a new one are waited for a moment.
    pub async fn warm_cluster(self: &Rc<Self>, slot: &Arc<ClusterSlot>) -> Option<Rc<WorkerCluster>> {
        let cluster = self.cluster(slot);
        match cluster.as_ref().filter(|c| c.is_warming()).map(|c| c.rt.clone()) {
            None => cluster,
            Some(warming) => {
                warming.warmed().await;
                self.cluster(slot)
            }
        }
    }

    /// Makes room among the connections of the cluster in a slot, for another worker.
    pub fn release_connection(&self, slot: u32) {
        let known = self.known.borrow().get(slot as usize).cloned().flatten();
        if let Some(known) = known {
            known.cluster.release_connection();
        }
    }

    /// Closes an idle connection to any upstream. `false`: none is idle.
    pub fn close_idle(&self) -> bool {
        self.known.borrow().iter().flatten().any(|known| known.cluster.close_idle())
    }

    /// Once a second: closes idle connections that the peer closed or that waited too long, and takes over changes of clusters whose next
    /// request may come to this worker late, or never.
    pub fn sweep(self: &Rc<Self>, now: u64) {
        let known = self.known.borrow();
        let slots: Vec<_> = known.iter().enumerate().filter_map(|(id, k)| Some((id, k.as_ref()?.slot.upgrade()))).collect();
        drop(known);
        for (id, slot) in slots {
            match slot {
                Some(slot) => self.cluster(&slot).iter().for_each(|cluster| cluster.sweep(now)),
                None => drop(self.known.borrow_mut()[id].take()),
            }
        }
    }
}
