//! What a store holds for its guest: the contexts, the one in effect, answers held for a callback, and bounds.
use crate::{
    declared::Abi,
    engine,
    host::{ContextId, LogLevel, PluginSpec, Services, Stream, StreamType},
    pairs,
    shared::{Shared, Vm},
    trap::Stop,
};
use bytes::Bytes;
use send_wrapper::SendWrapper;
use std::{
    cell::Cell,
    collections::{BTreeSet, HashMap},
    hash::{BuildHasherDefault, Hasher},
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use wasmtime::{Memory, ResourceLimiter, StoreContextMut, TypedFunc, UpdateDeadline};

/// The root context's id; stream contexts count up from it.
pub(crate) const ROOT: u32 = 1;
/// Contexts that may wait for `proxy_done` after their streams have ended; each holds its stream.
pub(crate) const PENDING_DONE: usize = 1000;
/// Entries of one table; Go's function tables hold tens of thousands.
const TABLE_ELEMENTS: usize = 1 << 20;
/// Characters kept of what the guest wrote to standard error during a call, for the trap's message. That shows fewer: the rest is there
/// so that a text to be hidden is whole.
const LAST_WORDS: usize = 4 << 10;
/// The longest log record, in bytes; the rest of a record is cut off.
pub(crate) const MAX_RECORD: usize = 16 << 10;
/// The least that a record counts towards the bytes that a call may log.
const RECORD_COST: usize = 128;

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

/// The instance's link to the proxy.
enum Proxy {
    /// The instance is starting, on any thread, and has no streams.
    Starting(Box<dyn Services + Send>),
    /// The instance belongs to one thread.
    Adopted(SendWrapper<Local>),
}

/// State that only the instance's own thread may touch.
struct Local {
    services: Rc<dyn Services>,
    streams: ById<Rc<dyn Stream>>,
    /// The stream of [`Host::selected`].
    stream: Option<Rc<dyn Stream>>,
}

impl Proxy {
    fn here(services: Rc<dyn Services>) -> Proxy {
        Proxy::Adopted(SendWrapper::new(Local { services, streams: HashMap::default(), stream: None }))
    }

    fn local(&self) -> Option<&Local> {
        match self {
            Proxy::Starting(_) => None,
            Proxy::Adopted(local) => Some(local),
        }
    }

    fn local_mut(&mut self) -> Option<&mut Local> {
        match self {
            Proxy::Starting(_) => None,
            Proxy::Adopted(local) => Some(local),
        }
    }
}

pub(crate) struct Host {
    pub spec: Arc<PluginSpec>,
    pub abi: Abi,
    proxy: Proxy,
    pub shared: Arc<Shared>,
    pub vm: Arc<Vm>,
    /// Absent until the module is instantiated.
    pub memory: Option<Memory>,
    /// Absent until `_initialize` has run: no export may be called before.
    pub allocate: Option<Arc<TypedFunc<u32, u32>>>,
    pub last_context: u32,
    /// The effective context; 0 while no callback runs.
    pub context: u32,
    /// The context whose stream is at hand, or 0. It stays between callbacks: the state of this thread costs something at each look.
    selected: u32,
    /// The context of the callback itself, and whether a local response was sent for it.
    pub callback_context: u32,
    pub replied: bool,
    /// Which directions each context holds until it resumes them (one bit per stream type), and those resumed during this call.
    held: ById<u8>,
    resumed: u8,
    /// Contexts whose `proxy_on_done` said "not yet", and those for which `proxy_done` was called since.
    pub pending_done: BTreeSet<u32>,
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
    /// How many bytes the running call may still log, and how many records were dropped.
    log_room: Cell<usize>,
    log_dropped: Cell<u64>,
    /// Lines of standard output and error that have no end yet.
    lines: [Vec<u8>; 2],
}

impl Host {
    /// For an instance that starts on any thread and is adopted by another.
    pub fn starting(spec: Arc<PluginSpec>, abi: Abi, services: Box<dyn Services + Send>, shared: Arc<Shared>) -> Host {
        Host::new(spec, abi, Proxy::Starting(services), shared)
    }

    /// For an instance that stays on this thread.
    pub fn here(spec: Arc<PluginSpec>, abi: Abi, services: Rc<dyn Services>, shared: Arc<Shared>) -> Host {
        Host::new(spec, abi, Proxy::here(services), shared)
    }

    fn new(spec: Arc<PluginSpec>, abi: Abi, proxy: Proxy, shared: Arc<Shared>) -> Host {
        Host {
            vm: shared.vm(&spec.vm_id),
            deadline: spec.limits.start_deadline,
            bounds: Bounds { memory_bytes: spec.limits.memory_bytes, refused: None },
            spec,
            abi,
            proxy,
            shared,
            memory: None,
            allocate: None,
            last_context: ROOT,
            context: 0,
            selected: 0,
            callback_context: 0,
            replied: false,
            held: HashMap::default(),
            resumed: 0,
            pending_done: BTreeSet::new(),
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
            log_room: Cell::new(0),
            log_dropped: Cell::new(0),
            lines: Default::default(),
        }
    }

    /// Before a callback on that context.
    pub fn enter(&mut self, context: u32) {
        self.context = context;
        self.callback_context = context;
        self.select(context);
        self.log_room.set(self.spec.limits.log_bytes);
        self.replied = false;
        self.resumed = 0;
        self.seen_at = None;
        self.bounds.refused = None;
        self.last_words.clear();
    }

    /// After a callback.
    pub fn leave(&mut self) {
        // Nearly no call leaves an open line behind.
        if !self.lines[0].is_empty() || !self.lines[1].is_empty() {
            self.write_line(LogLevel::Info, b"\n", 0);
            self.write_line(LogLevel::Error, b"\n", 0);
        }
        self.context = 0;
        if let dropped @ 1.. = self.log_dropped.take() {
            self.services().log_dropped(dropped);
        }
    }

    /// `proxy_set_effective_context`; false for an id that does not exist.
    pub fn set_effective(&mut self, context: u32) -> bool {
        if context != self.selected || context == 0 {
            let stream = match self.proxy.local_mut() {
                Some(local) => local.streams.get(&context).cloned().map(|stream| local.stream = Some(stream)),
                None => None,
            };
            if stream.is_some() {
                self.selected = context;
            } else if context == ROOT {
                self.select(ROOT);
            } else {
                return false;
            }
        }
        self.context = context;
        true
    }

    /// Moves the instance to this thread for good.
    pub fn adopt(&mut self, services: Rc<dyn Services>) {
        self.proxy = Proxy::here(services);
    }

    pub fn services(&self) -> &dyn Services {
        match &self.proxy {
            Proxy::Starting(services) => &**services,
            Proxy::Adopted(local) => &*local.services,
        }
    }

    /// The stream in effect.
    pub fn stream(&self) -> Option<&Rc<dyn Stream>> {
        if self.context == 0 {
            return None;
        }
        self.proxy.local()?.stream.as_ref()
    }

    fn select(&mut self, context: u32) {
        if self.selected == context {
            return;
        }
        if let Some(local) = self.proxy.local_mut() {
            local.stream = local.streams.get(&context).cloned();
            self.selected = context;
        }
    }

    pub fn stream_of(&self, context: u32) -> Option<&Rc<dyn Stream>> {
        self.proxy.local()?.streams.get(&context)
    }

    pub fn has_stream(&self, context: u32) -> bool {
        self.stream_of(context).is_some()
    }

    /// Gives the stream a context of its own, the next one that is free, and has it at hand.
    pub fn add_stream(&mut self, stream: Rc<dyn Stream>) -> u32 {
        let mut local = self.proxy.local_mut();
        loop {
            self.last_context = self.last_context.checked_add(1).unwrap_or(ROOT + 1);
            if local.as_ref().is_none_or(|local| !local.streams.contains_key(&self.last_context)) {
                break;
            }
        }
        if let Some(local) = &mut local {
            local.stream = Some(stream.clone());
            local.streams.insert(self.last_context, stream);
            self.selected = self.last_context;
        }
        self.last_context
    }

    pub fn remove_stream(&mut self, context: u32) {
        self.held.remove(&context);
        self.selected = 0;
        if let Some(local) = self.proxy.local_mut() {
            local.stream = None;
            local.streams.remove(&context);
        }
    }

    pub fn clear_streams(&mut self) {
        self.selected = 0;
        if let Some(local) = self.proxy.local_mut() {
            local.stream = None;
            local.streams.clear();
        }
    }

    /// Records whether the callback stopped this direction of its stream or let it continue.
    pub fn hold(&mut self, context: u32, direction: StreamType, stops: bool) {
        let bit = 1 << direction as u8;
        if stops && self.resumed & bit == 0 {
            *self.held.entry(context).or_default() |= bit;
        } else if !self.held.is_empty()
            && let Some(held) = self.held.get_mut(&context)
        {
            *held &= !bit;
        }
    }

    /// The guest resumes the stream in effect.
    pub fn resume(&mut self, direction: StreamType) {
        let bit = 1 << direction as u8;
        if self.context == self.callback_context {
            self.resumed |= bit;
        }
        if let Some(held) = self.held.get_mut(&self.context) {
            *held &= !bit;
        }
    }

    /// Whether the context holds its stream, so that only the guest can resume it.
    pub fn holds(&self, context: u32) -> bool {
        self.held.get(&context).is_some_and(|held| *held != 0)
    }

    /// Streams with a context.
    pub fn streams(&self) -> usize {
        self.proxy.local().map_or(0, |local| local.streams.len())
    }

    /// Logs a record, cut to [`MAX_RECORD`]. The record is dropped once the call has used up its limit.
    pub fn log(&self, level: LogLevel, message: &[u8]) {
        let services = self.services();
        if level < services.log_level() {
            return;
        }
        let room = self.log_room.get();
        if room == 0 {
            self.log_dropped.set(self.log_dropped.get() + 1);
            return;
        }
        let kept = &message[..message.len().min(MAX_RECORD).min(room)];
        // A record costs more than its text.
        self.log_room.set(room.saturating_sub(kept.len().max(RECORD_COST)));
        services.log(level, &String::from_utf8_lossy(kept));
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
        self.log(level, &whole);
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
