//! The threads that serve: each a runtime of its own, with its own accepting sockets. What they are told comes as
//! commands; what they serve by, they look up.
use crate::{
    Shared,
    conn::ConnInfo,
    drain::{Drain, Phase},
    hcm::{self, HcmCache},
    listener::{self, DrainGroup, ListenerSlot},
    snapshot::HcmKey,
    worker::Worker,
};
use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    rc::{Rc, Weak},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
    task::spawn_local,
};
use weir_net::io::Io;

/// How often connection managers are compared with the configuration where no request does it.
const REFRESH: Duration = Duration::from_secs(1);

/// What the main runtime asks of a worker.
pub(crate) enum Command {
    /// Accept for a listener.
    Listen(Arc<ListenerSlot>, std::net::TcpListener),
    /// Accept no more for the listener with this id.
    Close(u64),
    /// Connections of an drain_group that has ended should leave.
    End(Arc<DrainGroup>),
    /// All connections, present and future, are at least in this phase.
    Phase(Phase),
    /// Another worker waits for a connection of the cluster in this slot: one here is to make room.
    ReleaseConnection(u32),
    /// Another worker waits for a connection to any cluster: close an idle one here.
    ReleaseAnyConnection,
    /// Drop everything and end.
    Stop,
}

/// A worker as the main runtime sees it.
pub(crate) struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    thread: JoinHandle<()>,
}

impl Handle {
    /// Starts worker number `index`.
    pub fn start(index: usize, shared: Arc<Shared>) -> io::Result<Handle> {
        let (commands, receive) = mpsc::unbounded_channel();
        let (started, starting) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name(format!("wrk:{index}")).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
            match runtime {
                Err(e) => drop(started.send(Err(e))),
                Ok(runtime) => {
                    let _ = started.send(Ok(()));
                    runtime.block_on(async { Local::new(index, shared).run(receive).await });
                }
            }
        })?;
        starting.recv().unwrap_or_else(|_| Err(io::Error::other("the worker ended")))?;
        Ok(Handle { commands, thread })
    }

    /// Without effect once the worker has ended.
    pub fn post(&self, command: Command) {
        let _ = self.commands.send(command);
    }

    /// Waits for the thread. Not to be called on a runtime's thread.
    pub fn join(self) {
        let _ = self.thread.join();
    }
}

/// What the tasks of one worker share.
pub(crate) struct Local {
    pub shared: Arc<Shared>,
    pub worker: Rc<Worker>,
    hcms: Rc<HcmCache>,
    drains: RefCell<HashMap<u64, Rc<Drain>>>,
    /// For connections whose filter chain is not known yet.
    arriving: Rc<Drain>,
}

impl Local {
    fn new(index: usize, shared: Arc<Shared>) -> Rc<Local> {
        let worker = Worker::new(index, shared.clone());
        let hcms = Rc::new(HcmCache::new(worker.clone()));
        spawn_local(refresh(Rc::downgrade(&hcms)));
        Rc::new(Local { worker, hcms, shared, drains: RefCell::default(), arriving: Rc::default() })
    }

    async fn run(self: Rc<Self>, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut accepting: HashMap<u64, Rc<Notify>> = HashMap::new();
        while let Some(command) = commands.recv().await {
            match command {
                Command::Listen(slot, socket) => {
                    let Ok(socket) = TcpListener::from_std(socket) else { continue };
                    let stop = Rc::new(Notify::new());
                    accepting.insert(slot.id, stop.clone());
                    spawn_local(listener::accept(self.clone(), slot, socket, stop));
                }
                Command::Close(id) => {
                    if let Some(stop) = accepting.remove(&id) {
                        stop.notify_one();
                    }
                }
                Command::End(drain_group) => {
                    if let Some(drain) = self.drains.borrow_mut().remove(&drain_group.id) {
                        spawn_local(end(drain, drain_group, self.shared.clone()));
                    }
                }
                Command::Phase(phase) => {
                    self.arriving.advance(phase);
                    self.drains.borrow().values().for_each(|d| d.advance(phase));
                }
                Command::ReleaseConnection(cluster) => self.worker.release_connection(cluster),
                Command::ReleaseAnyConnection => _ = self.worker.close_idle(),
                Command::Stop => return,
            }
        }
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

/// Leads the connections of an ended drain_group out: told now, the idle ones closed after its drain timeout, the rest cut
/// when the time for shutting down has passed as well.
async fn end(drain: Rc<Drain>, drain_group: Arc<DrainGroup>, shared: Arc<Shared>) {
    drain.advance(Phase::Draining);
    tokio::time::sleep(drain_group.drain_timeout).await;
    drain.advance(Phase::Closing);
    tokio::time::sleep(shared.options.shutdown_timeout).await;
    drain.advance(Phase::Cutting);
}
