//! What a store holds for its guest: the contexts, the one in effect, answers held for a callback, and bounds.
use crate::{
    engine,
    host::{ContextId, LogLevel, PluginSpec, Services, Stream},
    module::Abi,
    pairs,
    shared::{Shared, Vm},
    trap::Stop,
};
use bytes::Bytes;
use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use wasmtime::{Memory, ResourceLimiter, StoreContextMut, TypedFunc, UpdateDeadline};

/// The root context's id; stream contexts count up from it.
pub(crate) const ROOT: u32 = 1;
/// Entries of one table; Go's function tables hold tens of thousands.
const TABLE_ELEMENTS: usize = 1 << 20;
/// Kept of what the guest wrote to standard error during a call, for the trap's message.
const LAST_WORDS: usize = 512;

/// Ids are made here and count up, so they need no hashing.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        // The table takes its control bits from the top.
        self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.0 = self.0 << 8 | u64::from(*b));
    }
    fn write_u32(&mut self, id: u32) {
        self.0 = id.into();
    }
}

pub(crate) type ById<T> = HashMap<u32, T, BuildHasherDefault<IdHasher>>;

/// Header maps and a body that belong to a callback, not to a stream.
#[derive(Default)]
pub(crate) struct Answer {
    /// Map types 4 to 7.
    pub maps: [Vec<(Vec<u8>, Vec<u8>)>; 4],
    /// A buffer type (4, 5 or 9) and its content.
    pub body: Option<(u32, Bytes)>,
}

pub(crate) struct Host {
    pub spec: Rc<PluginSpec>,
    pub abi: Abi,
    pub services: Rc<dyn Services>,
    pub shared: Arc<Shared>,
    pub vm: Arc<Vm>,
    /// Absent until the module is instantiated.
    pub memory: Option<Memory>,
    /// Absent until `_initialize` has run: no export may be called before.
    pub allocate: Option<Rc<TypedFunc<u32, u32>>>,
    pub streams: ById<Rc<dyn Stream>>,
    pub last_context: u32,
    /// The effective context; 0 while no callback runs.
    pub context: u32,
    pub stream: Option<Rc<dyn Stream>>,
    /// The context of the callback itself, and whether a local response was sent for it.
    pub callback_context: u32,
    pub replied: bool,
    /// Contexts whose `proxy_on_done` said "not yet", and those for which `proxy_done` was called since.
    pub pending_done: HashSet<u32>,
    pub now_done: Vec<u32>,
    pub answer: Answer,
    /// For `proxy_get_status`.
    pub status: (u32, Bytes),
    pub last_call: u32,
    pub rebuild: bool,
    /// From `proxy_on_configure` on.
    pub configured: bool,
    /// Reused by host calls; taken out while in use.
    pub scratch: Vec<u8>,
    pub pairs: pairs::Writer,
    pub host_calls: u64,
    pub deadline: Duration,
    /// CPU time of the thread when the running call was first looked at.
    pub seen_at: Option<Duration>,
    pub bounds: Bounds,
    pub last_words: String,
    /// Lines of standard output and error that have no end yet.
    lines: [Vec<u8>; 2],
}

impl Host {
    pub fn new(spec: Rc<PluginSpec>, abi: Abi, services: Rc<dyn Services>, shared: Arc<Shared>) -> Host {
        Host {
            vm: shared.vm(&spec.vm_id),
            deadline: spec.limits.start_deadline,
            bounds: Bounds { memory_bytes: spec.limits.memory_bytes, refused: None },
            spec,
            abi,
            services,
            shared,
            memory: None,
            allocate: None,
            streams: HashMap::default(),
            last_context: ROOT,
            context: 0,
            stream: None,
            callback_context: 0,
            replied: false,
            pending_done: HashSet::new(),
            now_done: Vec::new(),
            answer: Answer::default(),
            status: (0, Bytes::new()),
            last_call: 0,
            rebuild: false,
            configured: false,
            scratch: Vec::new(),
            pairs: pairs::Writer::default(),
            host_calls: 0,
            seen_at: None,
            last_words: String::new(),
            lines: Default::default(),
        }
    }

    /// Before a callback on that context.
    pub fn enter(&mut self, context: u32) {
        self.context = context;
        self.callback_context = context;
        self.stream = self.streams.get(&context).cloned();
        self.replied = false;
        self.seen_at = None;
        self.bounds.refused = None;
        self.last_words.clear();
    }

    /// After a callback.
    pub fn leave(&mut self) {
        self.write_line(LogLevel::Info, b"\n", 0);
        self.write_line(LogLevel::Error, b"\n", 0);
        self.context = 0;
        self.stream = None;
    }

    /// `proxy_set_effective_context`; false for an id that does not exist.
    pub fn set_effective(&mut self, context: u32) -> bool {
        let stream = self.streams.get(&context).cloned();
        if stream.is_none() && context != ROOT {
            return false;
        }
        self.context = context;
        self.stream = stream;
        true
    }

    pub fn effective(&self) -> ContextId {
        ContextId(if self.context == 0 { ROOT } else { self.context })
    }

    /// A token for a callout: the kind in the low two bits, never 0.
    pub fn token(&mut self, kind: Call) -> u32 {
        self.last_call = self.last_call % (u32::MAX >> 2) + 1;
        self.last_call << 2 | kind as u32
    }

    pub fn hear(&mut self, text: &str) {
        let room = LAST_WORDS.saturating_sub(self.last_words.len());
        self.last_words.extend(text.chars().take(room));
    }

    /// Adds to a line, of which `max` bytes are kept, and logs it when the piece ends it. Blank lines are left out.
    pub fn write_line(&mut self, level: LogLevel, piece: &[u8], max: usize) {
        let line = &mut self.lines[usize::from(level == LogLevel::Error)];
        let text = piece.strip_suffix(b"\n").unwrap_or(piece);
        line.extend_from_slice(&text[..text.len().min(max.saturating_sub(line.len()))]);
        if text.len() == piece.len() || line.is_empty() {
            return;
        }
        let whole = std::mem::take(line);
        if level >= self.services.log_level() {
            self.services.log(level, &String::from_utf8_lossy(&whole));
        }
    }
}

/// The kinds of callout, as they stand in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Call {
    Http = 0,
    Grpc = 1,
    GrpcStream = 2,
    Redis = 3,
}

/// What a guest may allocate.
pub(crate) struct Bounds {
    memory_bytes: usize,
    /// Bytes of the last growth that was refused during this call.
    pub refused: Option<usize>,
}

impl ResourceLimiter for Bounds {
    fn memory_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.memory_bytes || maximum.is_some_and(|m| desired > m) {
            self.refused = Some(desired);
            return Ok(false);
        }
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS && maximum.is_none_or(|m| desired <= m))
    }

    fn instances(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        16
    }

    fn memories(&self) -> usize {
        2
    }
}

/// Looks at a guest that still runs when the epoch has advanced.
///
/// The first look only takes the time, so that short calls, nearly all, pay nothing; up to one tick goes uncounted.
pub(crate) fn on_tick(mut store: StoreContextMut<'_, Host>) -> wasmtime::Result<UpdateDeadline> {
    let host = store.data_mut();
    let now = engine::thread_cpu_time();
    let since = *host.seen_at.get_or_insert(now);
    if now.saturating_sub(since) >= host.deadline {
        return Err(Stop::Deadline(host.deadline).into());
    }
    Ok(UpdateDeadline::Continue(1))
}
