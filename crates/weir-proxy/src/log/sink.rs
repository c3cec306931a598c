//! Where records go: one writer thread per sink, fed with blocks.
use super::{Logger, Record};
use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};
use weir_config::model::LogSink;

/// A worker's block is handed over when it holds this many bytes, or at the next [`WorkerLogs::flush`].
const BLOCK: usize = 64 * 1024;
/// Blocks that one worker may have on their way to one sink.
const BLOCKS: usize = 16;
/// Blocks that wait in front of one sink.
const QUEUE: usize = 64;

/// The sinks of a process. One that no logger uses any more is closed.
#[derive(Default)]
pub struct Sinks {
    open: Mutex<HashMap<LogSink, Weak<Sink>>>,
}

/// The entrance to one writer thread.
pub struct Sink {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
    writes: Arc<Writes>,
}

/// What became of the blocks.
#[derive(Default)]
struct Writes {
    completed: AtomicU64,
    failed: AtomicU64,
}

/// Sums over all open sinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records lost for want of a free block, or with a block that could not be written.
    pub dropped: u64,
    /// Blocks written, and those that failed.
    pub write_completed: u64,
    pub write_failed: u64,
}

enum Message {
    /// Bytes, and the way back for the empty block.
    Block(Vec<u8>, SyncSender<Vec<u8>>),
    Reopen,
    /// Answered when everything before it is written.
    Sync(SyncSender<()>),
}

impl Sinks {
    /// The sink, opened now if it was not. Files are appended to and made where they are missing.
    pub fn open(&self, of: &LogSink) -> io::Result<Arc<Sink>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sink) = open.get(of).and_then(Weak::upgrade) {
            return Ok(sink);
        }
        let sink = Arc::new(Sink::start(Target::open(of)?)?);
        open.retain(|_, s| s.strong_count() > 0);
        open.insert(of.clone(), Arc::downgrade(&sink));
        Ok(sink)
    }
    fn live(&self) -> Vec<Arc<Sink>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).values().filter_map(Weak::upgrade).collect()
    }
    /// Opens files anew after they were moved away (SIGHUP, `/reopen_logs`).
    pub fn reopen(&self) {
        for sink in self.live() {
            let _ = sink.queue.send(Message::Reopen);
        }
    }
    /// Waits until everything that was handed over is written; for the end of the process and for tests.
    pub fn sync(&self) {
        for sink in self.live() {
            let (done, written) = sync_channel(1);
            if sink.queue.send(Message::Sync(done)).is_ok() {
                let _ = written.recv();
            }
        }
    }
    /// What has become of records so far.
    pub fn counts(&self) -> Counts {
        self.live().iter().fold(Counts::default(), |sum, s| Counts {
            dropped: sum.dropped + s.dropped.load(Relaxed),
            write_completed: sum.write_completed + s.writes.completed.load(Relaxed),
            write_failed: sum.write_failed + s.writes.failed.load(Relaxed),
        })
    }
}

enum Target {
    Stdout,
    Stderr,
    File(String, File),
}

impl Target {
    fn open(of: &LogSink) -> io::Result<Target> {
        Ok(match of {
            LogSink::Stdout => Target::Stdout,
            LogSink::Stderr => Target::Stderr,
            LogSink::File(path) => Target::File(path.clone(), append(path)?),
        })
    }
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Target::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()
            }
            Target::Stderr => io::stderr().lock().write_all(bytes),
            Target::File(_, file) => file.write_all(bytes),
        }
    }
    /// Keeps the old file if the new one cannot be opened.
    fn reopen(&mut self) {
        if let Target::File(path, file) = self
            && let Ok(new) = append(path)
        {
            *file = new;
        }
    }
}

fn append(path: &str) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

impl Sink {
    fn start(mut target: Target) -> io::Result<Sink> {
        let (queue, messages) = sync_channel::<Message>(QUEUE);
        let (dropped, writes) = (Arc::<AtomicU64>::default(), Arc::<Writes>::default());
        let (lost, done) = (dropped.clone(), writes.clone());
        std::thread::Builder::new().name("access-log".into()).spawn(move || {
            while let Ok(message) = messages.recv() {
                match message {
                    Message::Block(mut block, back) => {
                        if target.write(&block).is_ok() {
                            done.completed.fetch_add(1, Relaxed);
                        } else {
                            done.failed.fetch_add(1, Relaxed);
                            lost.fetch_add(memchr::memchr_iter(b'\n', &block).count() as u64, Relaxed);
                        }
                        block.clear();
                        block.shrink_to(2 * BLOCK);
                        let _ = back.try_send(block);
                    }
                    Message::Reopen => target.reopen(),
                    Message::Sync(done) => {
                        let _ = done.try_send(());
                    }
                }
            }
        })?;
        Ok(Sink { queue, dropped, writes })
    }
}

/// A worker's ends of the sinks that it writes to.
#[derive(Default)]
pub struct WorkerLogs {
    ends: Vec<End>,
}

struct End {
    sink: Arc<Sink>,
    block: Vec<u8>,
    back: (SyncSender<Vec<u8>>, Receiver<Vec<u8>>),
    /// Blocks made so far, the one at hand included.
    made: usize,
}

impl WorkerLogs {
    /// Writes one record. It reaches the sink with the next full block or [`WorkerLogs::flush`]. `false`: the writer is too
    /// slow, and the record is lost.
    pub fn write(&mut self, logger: &Logger, record: &Record<'_>) -> bool {
        let at = self.ends.iter().position(|e| Arc::ptr_eq(&e.sink, &logger.sink)).unwrap_or_else(|| {
            self.ends.push(End::new(logger.sink.clone()));
            self.ends.len() - 1
        });
        let end = &mut self.ends[at];
        if end.block.len() >= BLOCK - 4096 && !end.hand_over() {
            end.sink.dropped.fetch_add(1, Relaxed);
            return false;
        }
        logger.write(record, &mut end.block);
        true
    }
    /// Hands over what waits: to be called every 100 ms or so, and before the worker ends. Ends of sinks that only this
    /// worker still holds are let go.
    pub fn flush(&mut self) {
        self.ends.retain_mut(|end| {
            let empty = end.block.is_empty() || end.hand_over();
            !(empty && Arc::strong_count(&end.sink) == 1)
        });
    }
}

impl Drop for WorkerLogs {
    fn drop(&mut self) {
        self.flush();
    }
}

impl End {
    fn new(sink: Arc<Sink>) -> End {
        End { sink, block: Vec::with_capacity(BLOCK), back: sync_channel(BLOCKS), made: 1 }
    }
    /// Gives the block away if there is another one.
    fn hand_over(&mut self) -> bool {
        let next = match self.back.1.try_recv() {
            Ok(block) => block,
            Err(_) if self.made < BLOCKS => {
                self.made += 1;
                Vec::with_capacity(BLOCK)
            }
            Err(_) => return false,
        };
        let full = std::mem::replace(&mut self.block, next);
        match self.sink.queue.try_send(Message::Block(full, self.back.0.clone())) {
            Ok(()) => true,
            Err(e) => {
                let (std::sync::mpsc::TrySendError::Full(m) | std::sync::mpsc::TrySendError::Disconnected(m)) = e;
                if let Message::Block(full, _) = m {
                    let unused = std::mem::replace(&mut self.block, full);
                    let _ = self.back.0.try_send(unused);
                }
                false
            }
        }
    }
}
