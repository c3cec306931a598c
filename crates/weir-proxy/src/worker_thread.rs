//! The threads of the workers: each has a runtime of its own and its own listening sockets. Commands come from the main runtime.
use crate::{
    Shared,
    drain::Phase,
    listener::{self, DrainGroup, ListenerContext, ListenerSlot},
};
use std::{collections::HashMap, io, rc::Rc, sync::Arc, thread::JoinHandle};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{Notify, mpsc},
    task::spawn_local,
};
use weir_net::listen::Listening;

/// What the main runtime asks of a worker.
pub(crate) enum Command {
    /// Accept for a listener.
    Listen(Arc<ListenerSlot>, Listening),
    /// Accept no more for the listener with this id.
    Close(u64),
    /// Connections of a drain group that has ended should leave.
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
                    runtime.block_on(async { run(ListenerContext::new(index, shared), receive).await });
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

/// Does what the main runtime asks for, until it is to stop.
async fn run(context: Rc<ListenerContext>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut accepting: HashMap<u64, Rc<Notify>> = HashMap::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Listen(slot, socket) => {
                let stop = Rc::new(Notify::new());
                accepting.insert(slot.id, stop.clone());
                match socket {
                    Listening::Tcp(socket) => {
                        let Ok(socket) = TcpListener::from_std(socket) else { continue };
                        spawn_local(listener::accept(context.clone(), slot, socket, stop));
                    }
                    Listening::Udp(socket) => {
                        let Ok(socket) = UdpSocket::from_std(socket) else { continue };
                        spawn_local(listener::receive(context.clone(), slot, socket, stop));
                    }
                }
            }
            Command::Close(id) => {
                if let Some(stop) = accepting.remove(&id) {
                    stop.notify_one();
                }
            }
            Command::End(drain_group) => context.end(drain_group),
            Command::Phase(phase) => context.advance(phase),
            Command::ReleaseConnection(cluster) => context.worker.clusters.release_connection(cluster),
            Command::ReleaseAnyConnection => _ = context.worker.clusters.close_idle(),
            Command::Stop => return,
        }
    }
}
