//! What one worker thread owns. Nothing here is shared with another worker but the configuration, the counters (which
//! others only read) and the log's writer.
use crate::{Shared, access_log::WorkerLogs, core::Core, stream::Stream, upstream::WorkerClusters};
use std::{
    cell::{Cell, RefCell},
    ops::Deref,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

/// Free streams that a worker keeps.
const KEEP: usize = 256;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(20);

pub struct Worker {
    pub core: Rc<Core>,
    pub shared: Arc<Shared>,
    pub clusters: Rc<WorkerClusters>,
    streams: RefCell<Vec<Rc<Stream>>>,
    pub logs: RefCell<WorkerLogs>,
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
        let core = Rc::new(Core::new(index, shared.started));
        let worker = Rc::new(Worker {
            clusters: WorkerClusters::new(core.clone(), shared.clone()),
            core,
            streams: RefCell::default(),
            logs: RefCell::default(),
            is_overloaded: Cell::new(false),
            next_stream: Cell::new((index as u64) << 48),
            shared,
        });
        tokio::task::spawn_local(tick(Rc::downgrade(&worker)));
        worker
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
            w.clusters.sweep(now);
        }
    }
}
