//! The engines of a process, their clocks, and what all instances share.
use crate::shared::{Shared, SharedLimits};
use serde::Serialize;
use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};
use wasmtime::{EngineWeak, Strategy};

/// How often a running guest is looked at, and so the precision of its deadlines.
pub const TICK: Duration = Duration::from_millis(10);

/// Stack of the guest's code, per call; beyond it the guest traps. Threads that run guests need about 1 MiB.
const STACK_BYTES: usize = 512 << 10;

#[derive(Clone, Copy, Debug, Default)]
pub struct EngineOptions {
    pub shared: SharedLimits,
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("no wasm engine on this machine: {0}")]
pub struct EngineError(String);

/// What has compiled a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compiler {
    /// In one pass: in a twentieth of the time, code that runs at about half the speed.
    Winch,
    /// Optimizes.
    Cranelift,
}

impl Compiler {
    pub const ALL: [Compiler; 2] = [Compiler::Winch, Compiler::Cranelift];

    pub fn as_str(self) -> &'static str {
        match self {
            Compiler::Winch => "winch",
            Compiler::Cranelift => "cranelift",
        }
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Compiles modules and holds what instances of one process share. Cheap to clone; one per process.
#[derive(Clone)]
pub struct Engine {
    /// Cranelift's.
    pub(crate) wasmtime: wasmtime::Engine,
    /// Winch's. It lives only as long as code that it compiled.
    baseline: Arc<Mutex<Option<EngineWeak>>>,
    shared: Arc<Shared>,
    /// Whether the thread of Cranelift's engine runs, or why it cannot.
    clock: Arc<OnceLock<Result<(), EngineError>>>,
}

impl Engine {
    pub fn new(options: EngineOptions) -> Result<Engine, EngineError> {
        let wasmtime = engine(Strategy::Cranelift)?;
        Ok(Engine { wasmtime, baseline: Arc::default(), shared: Shared::new(options.shared), clock: Arc::default() })
    }

    /// Winch's engine; `None` where Winch does not know the processor.
    pub(crate) fn baseline(&self) -> Option<wasmtime::Engine> {
        let mut known = self.baseline.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = known.as_ref().and_then(EngineWeak::upgrade) {
            return Some(engine);
        }
        let engine = engine(Strategy::Winch).ok()?;
        tick(&engine).ok()?;
        *known = Some(engine.weak());
        Some(engine)
    }

    /// Makes sure that the epoch of a module's engine advances. For Cranelift's the first instance starts the thread: a process without
    /// plugins is woken by nobody.
    pub(crate) fn run_clock(&self, compiler: Compiler) -> Result<(), EngineError> {
        match compiler {
            Compiler::Winch => Ok(()),
            Compiler::Cranelift => self.clock.get_or_init(|| tick(&self.wasmtime)).clone(),
        }
    }

    /// Shared data and queues of the process.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

fn engine(strategy: Strategy) -> Result<wasmtime::Engine, EngineError> {
    let mut config = wasmtime::Config::new();
    config.strategy(strategy);
    // On demand, not pooled: an instance lives as long as its plugin, so that its creation is never on the request path, while a
    // pool would reserve a slot of the largest plugin's size for each. Each memory reserves 4 GiB of addresses plus guards (no
    // bounds checks, growth in place, start image mapped copy-on-write): 100 plugins on 8 workers are 5 of 128 TiB.
    config.memory_init_cow(true);
    config.epoch_interruption(true);
    config.max_wasm_stack(STACK_BYTES);
    // Guest pointers are 32 bits wide, and nothing of these passes the ABI.
    config.wasm_memory64(false);
    config.wasm_multi_memory(false);
    config.wasm_gc(false);
    config.wasm_function_references(false);
    wasmtime::Engine::new(&config).map_err(|e| EngineError(format!("{e:#}")))
}

/// Starts the thread that advances an engine's epoch. It ends with the engine's last user.
fn tick(engine: &wasmtime::Engine) -> Result<(), EngineError> {
    let weak = engine.weak();
    let tick = move || {
        loop {
            thread::sleep(TICK);
            match weak.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
    };
    thread::Builder::new().name("wasm-epoch".into()).spawn(tick).map(drop).map_err(|e| EngineError(e.to_string()))
}

/// CPU time of this thread: what a deadline is measured in, since wall time passes for a guest that does not run, too.
pub(crate) fn thread_cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// The guest's monotonic clock starts with the process.
pub(crate) fn monotonic() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    // A clock that shows 0 looks unset to some guests.
    START.get_or_init(Instant::now).elapsed() + Duration::from_nanos(1)
}

/// Since the beginning of 1970.
pub(crate) fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
