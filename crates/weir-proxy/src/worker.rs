//! What one worker thread owns. Nothing here is shared with another worker but the configuration, the counters (which
//! others only read) and the log's writer.
use crate::{
    Shared,
    access_log::WorkerLogs,
    cluster::ClusterSlot,
    core::Core,
    stream::Stream,
    upstream::{WorkerCluster, copies::Copies},
};
use std::{
    cell::{Cell, RefCell},
    ops::Deref,
    rc::{Rc, Weak},
    sync::{self, Arc},
    time::Duration,
};

/// Free streams that a worker keeps.
const KEEP: usize = 256;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(20);

/// A cluster as a worker knows it.
#[derive(Clone)]
struct Known {
    slot: sync::Weak<ClusterSlot>,
    cluster: Rc<WorkerCluster>,
}

pub struct Worker {
    pub core: Rc<Core>,
    pub shared: Arc<Shared>,
    /// By the numbers of their slots, which live only as long as the configuration has them.
    clusters: RefCell<Vec<Option<Known>>>,
    streams: RefCell<Vec<Rc<Stream>>>,
    pub logs: RefCell<WorkerLogs>,
    pub copies: Rc<Copies>,
    /// Whether requests are refused (see [`crate::overload`]), as of the last tick.
    pub is_overloaded: Cell<bool>,
    next_stream: Cell<u64>,
}

impl Deref for Worker {
    type Target = Core;

    #[inline(always)]
    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Worker {
    /// To be called on the worker's thread, inside its runtime.
    pub fn new(index: usize, shared: Arc<Shared>) -> Rc<Worker> {
        let worker = Rc::new(Worker {
            core: Rc::new(Core::new(index, shared.started)),
            clusters: RefCell::default(),
            streams: RefCell::default(),
            logs: RefCell::default(),
            copies: Rc::default(),
            is_overloaded: Cell::new(false),
            next_stream: Cell::new((index as u64) << 48),
            shared,
        });
        tokio::task::spawn_local(tick(Rc::downgrade(&worker)));
        worker
    }

    /// This worker's side of a cluster, up to date with its slot. `None`: there is no such cluster.
    pub fn cluster(self: &Rc<Self>, slot: &Arc<ClusterSlot>) -> Option<Rc<WorkerCluster>> {
        let mut clusters = self.clusters.borrow_mut();
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

    /// As [`Worker::cluster`]; the names of a new one are waited for a moment.
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
        let known = self.clusters.borrow().get(slot as usize).cloned().flatten();
        if let Some(known) = known {
            known.cluster.release_connection();
        }
    }

    /// Closes an idle connection to any upstream. `false`: none is idle.
    pub fn close_idle(&self) -> bool {
        self.clusters.borrow().iter().flatten().any(|known| known.cluster.close_idle())
    }

    /// A clean stream from the pool.
    pub fn stream(&self) -> Rc<Stream> {
        let stream = self.streams.borrow_mut().pop().unwrap_or_default();
        let id = self.next_stream.get() + 1;
        self.next_stream.set(id);
        let mut info = stream.info.borrow_mut();
        info.stream_id = id;
        info.start = self.now();
        info.wall_start = self.wall(info.start);
        drop(info);
        stream
    }
    /// Puts a stream back unless something (a plugin's callout) still holds it.
    pub fn give_back(&self, stream: Rc<Stream>) {
        let mut free = self.streams.borrow_mut();
        if Rc::strong_count(&stream) == 1 && Rc::weak_count(&stream) == 0 && free.len() < KEEP {
            stream.clear();
            free.push(stream);
        }
    }

    /// Once a second: idle upstream connections that the peer closed or that waited too long. What became of a cluster is
    /// learnt here as well: its next request may come to this worker late, or never.
    fn sweep(self: &Rc<Self>, now: u64) {
        let known = self.clusters.borrow();
        let slots: Vec<_> = known.iter().enumerate().filter_map(|(id, k)| Some((id, k.as_ref()?.slot.upgrade()))).collect();
        drop(known);
        for (id, slot) in slots {
            match slot {
                Some(slot) => self.cluster(&slot).iter().for_each(|cluster| cluster.sweep(now)),
                None => drop(self.clusters.borrow_mut()[id].take()),
            }
        }
    }
}

/// The work of the coarse tick; ends with the worker.
async fn tick(worker: Weak<Worker>) {
    let mut every = tokio::time::interval(TICK);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for count in 1u64.. {
        every.tick().await;
        let Some(w) = worker.upgrade() else { return };
        let now = w.now();
        w.timers.sweep(now);
        w.is_overloaded.set(w.shared.overload.refuses_requests());
        w.logs.borrow_mut().flush();
        if count.is_multiple_of(50) {
            w.correct_wall();
            w.sweep(now);
        }
    }
}
