//! A server: the thread that owns its state, and the handles to it.
use crate::{
    commands::Session,
    engine::{Engine, now},
    options::Options,
    request::Command,
};
use bytes::Bytes;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// What a server has done and holds.
#[derive(Debug, Default)]
pub struct Stats {
    pub used_memory: AtomicU64,
    pub keys: AtomicU64,
    pub commands: AtomicU64,
    pub expired_keys: AtomicU64,
    /// Commands that were refused for want of memory.
    pub refused: AtomicU64,
    /// Scripts that were ended for their instructions or memory.
    pub stopped_scripts: AtomicU64,
}

/// A handle; copies mean the same server.
#[derive(Clone, Debug)]
pub struct Server {
    jobs: mpsc::Sender<Job>,
    stats: Arc<Stats>,
    options: Arc<Options>,
}

/// Commands of one connection that have arrived together.
#[derive(Debug)]
pub(crate) struct Job {
    pub commands: Vec<Command>,
    pub session: Session,
    pub done: oneshot::Sender<Done>,
}

#[derive(Debug)]
pub(crate) struct Done {
    pub replies: Vec<u8>,
    /// Not run yet: the replies are many bytes already.
    pub left: Vec<Command>,
    pub session: Session,
}

/// Jobs that may wait for the thread.
const MAX_JOBS: usize = 256;
/// Replies of one job; the rest of its commands waits until they are written.
const ENOUGH: usize = 1 << 20;
/// Deep recursion of a script ends in Lua's own limit before it ends the stack.
const STACK: usize = 4 << 20;
/// The longest sleep of the thread while keys wait to expire.
const REST: Duration = Duration::from_secs(60);

impl Server {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(name: &str, options: Options) -> io::Result<Server> {
        let (jobs, queue) = mpsc::channel(MAX_JOBS);
        let (stats, options) = (Arc::new(Stats::default()), Arc::new(options));
        let server = Server { jobs, stats: stats.clone(), options: options.clone() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let run = move || runtime.block_on(work(Engine::new(&options), queue, &stats));
        std::thread::Builder::new().name(format!("redis-{name}")).stack_size(STACK).spawn(run)?;
        Ok(server)
    }

    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Runs one command, past any password. The reply is the bytes of the wire.
    ///
    /// # Errors
    /// The server has ended.
    pub async fn run(&self, words: &[&[u8]]) -> io::Result<Vec<u8>> {
        let command = words.iter().map(|w| Bytes::copy_from_slice(w)).collect();
        let session = Session { authenticated: true, ..Session::default() };
        Ok(self.execute(vec![command], session).await?.replies)
    }

    pub(crate) async fn execute(&self, commands: Vec<Command>, session: Session) -> io::Result<Done> {
        let (done, result) = oneshot::channel();
        let ended = || io::Error::new(io::ErrorKind::ConnectionReset, "the server has ended");
        self.jobs.send(Job { commands, session, done }).await.map_err(|_| ended())?;
        result.await.map_err(|_| ended())
    }
}

/// Until the last handle is gone.
async fn work(mut engine: Engine, mut queue: mpsc::Receiver<Job>, stats: &Stats) {
    loop {
        let next = engine.store.borrow().next_expiry().map(|when| Duration::from_millis(when.saturating_sub(now())).min(REST));
        let job = match next {
            None => queue.recv().await,
            Some(wait) => match timeout(wait, queue.recv()).await {
                Ok(job) => job,
                Err(_) => {
                    engine.store.borrow_mut().tick(now());
                    publish(&engine, stats);
                    continue;
                }
            },
        };
        let Some(Job { commands, mut session, done }) = job else { return };
        let (mut replies, mut commands) = (Vec::new(), commands.into_iter());
        while replies.len() < ENOUGH
            && let Some(command) = commands.next()
        {
            engine.execute(&mut session, &command).write(&mut replies);
            stats.commands.fetch_add(1, Relaxed);
        }
        publish(&engine, stats);
        // The connection may be gone.
        let _ = done.send(Done { replies, left: commands.collect(), session });
    }
}

fn publish(engine: &Engine, stats: &Stats) {
    let store = engine.store.borrow();
    let bytes = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    stats.used_memory.store(bytes(store.used_memory()), Relaxed);
    stats.keys.store(bytes(store.keys()), Relaxed);
    stats.expired_keys.store(store.expired, Relaxed);
    stats.refused.store(store.refused, Relaxed);
    stats.stopped_scripts.store(engine.scripts.stopped, Relaxed);
}
