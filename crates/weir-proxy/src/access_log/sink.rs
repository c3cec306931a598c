//! Where records go: one writer thread per sink, fed with blocks.
use super::writer::{Target, Writer, lines};
use super::{AccessLogger, Record};
use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{AcqRel, Relaxed, Release},
        },
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
    totals: Arc<Totals>,
}

/// The entrance to one writer thread.
pub struct Sink {
    queue: SyncSender<Message>,
    /// Asks the writer to open its file again before it writes more.
    reopen: Arc<AtomicBool>,
    totals: Arc<Totals>,
}

/// Totals of all sinks since the start.
#[derive(Default)]
struct Totals {
    dropped: AtomicU64,
    completed: AtomicU64,
    failed: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records lost because the writer was too slow, or because they could not be written.
    pub dropped: u64,
    /// Blocks written, and those that failed.
    pub write_completed: u64,
    pub write_failed: u64,
}

enum Message {
    /// Bytes, and the way back for the empty block.
    Block(Vec<u8>, SyncSender<Vec<u8>>),
    /// Look at `reopen`.
    Wake,
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
        let sink = Arc::new(Sink::start(Target::open(of)?, self.totals.clone())?);
        open.retain(|_, s| s.strong_count() > 0);
        open.insert(of.clone(), Arc::downgrade(&sink));
        Ok(sink)
    }
    fn live(&self) -> Vec<Arc<Sink>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).values().filter_map(Weak::upgrade).collect()
    }
    /// Opens files again after they were moved away (SIGHUP, `/reopen_logs`). Never waits for a writer.
    pub fn reopen(&self) {
        for sink in self.live() {
            sink.reopen.store(true, Release);
            // With a full queue the writer looks before its next block.
            let _ = sink.queue.try_send(Message::Wake);
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
        let totals = &*self.totals;
        Counts {
            dropped: totals.dropped.load(Relaxed),
            write_completed: totals.completed.load(Relaxed),
            write_failed: totals.failed.load(Relaxed),
        }
    }
}

impl Sink {
    fn start(target: Target, totals: Arc<Totals>) -> io::Result<Sink> {
        let (queue, messages) = sync_channel::<Message>(QUEUE);
        let reopen = Arc::<AtomicBool>::default();
        let (asked, counted) = (reopen.clone(), totals.clone());
        let mut writer = Writer::new(target);
        std::thread::Builder::new().name("access-log".into()).spawn(move || {
            while let Ok(message) = messages.recv() {
                if asked.swap(false, AcqRel) {
                    writer.reopen();
                }
                match message {
                    Message::Block(mut block, back) => {
                        let lost = writer.write(&block);
                        let outcome = if lost == 0 { &counted.completed } else { &counted.failed };
                        outcome.fetch_add(1, Relaxed);
                        counted.dropped.fetch_add(lost, Relaxed);
                        block.clear();
                        block.shrink_to(2 * BLOCK);
                        let _ = back.try_send(block);
                    }
                    Message::Wake => {}
                    Message::Sync(done) => {
                        let _ = done.try_send(());
                    }
                }
            }
        })?;
        Ok(Sink { queue, reopen, totals })
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
    /// Empty blocks that came back.
    spare: Vec<Vec<u8>>,
    /// Blocks made so far, the one at hand included.
    made: usize,
}

impl WorkerLogs {
    /// Writes one record. It reaches the sink with the next full block or [`WorkerLogs::flush`]. Where the writer is too slow,
    /// the record is lost and counted.
    pub fn write(&mut self, logger: &AccessLogger, record: &Record<'_>) {
        let at = self.ends.iter().position(|e| Arc::ptr_eq(&e.sink, &logger.sink)).unwrap_or_else(|| {
            self.ends.push(End::new(logger.sink.clone()));
            self.ends.len() - 1
        });
        let end = &mut self.ends[at];
        if end.block.len() >= BLOCK - 4096 && !end.hand_over() {
            end.sink.totals.dropped.fetch_add(1, Relaxed);
            return;
        }
        logger.write(record, &mut end.block);
    }
    /// Hands over what waits: to be called every 20 ms or so. A writer that still has a block to write gets no second one until it
    /// is full, so that small blocks do not use up the queue. Ends of sinks that only this worker still holds are dropped.
    pub fn flush(&mut self) {
        self.ends.retain_mut(|end| {
            let empty = end.block.is_empty() || (end.is_idle() && end.hand_over());
            !(empty && Arc::strong_count(&end.sink) == 1)
        });
    }
}

impl Drop for WorkerLogs {
    fn drop(&mut self) {
        for end in self.ends.iter_mut().filter(|end| !end.block.is_empty()) {
            if !end.hand_over() {
                end.sink.totals.dropped.fetch_add(lines(&end.block), Relaxed);
            }
        }
    }
}

impl End {
    fn new(sink: Arc<Sink>) -> End {
        End { sink, block: Vec::with_capacity(BLOCK), back: sync_channel(BLOCKS), spare: Vec::new(), made: 1 }
    }
    /// Whether the writer has returned all blocks.
    fn is_idle(&mut self) -> bool {
        self.spare.extend(self.back.1.try_iter());
        self.spare.len() + 1 == self.made
    }
    /// Gives the block away if there is another one.
    fn hand_over(&mut self) -> bool {
        let next = match self.spare.pop().or_else(|| self.back.1.try_recv().ok()) {
            Some(block) => block,
            None if self.made < BLOCKS => {
                self.made += 1;
                Vec::with_capacity(BLOCK)
            }
            None => return false,
        };
        let full = std::mem::replace(&mut self.block, next);
        match self.sink.queue.try_send(Message::Block(full, self.back.0.clone())) {
            Ok(()) => true,
            Err(e) => {
                let (std::sync::mpsc::TrySendError::Full(m) | std::sync::mpsc::TrySendError::Disconnected(m)) = e;
                if let Message::Block(full, _) = m {
                    let unused = std::mem::replace(&mut self.block, full);
                    self.spare.push(unused);
                }
                false
            }
        }
    }
}
