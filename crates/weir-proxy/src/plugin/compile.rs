//! Compiled code by digest. What is new and large is first compiled in one pass, so that it serves soon; optimized code replaces it.
use super::metrics::Compilations;
use crate::app_log::Logger;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Instant,
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, oneshot},
};
use weir_wasm::{Abi, Callbacks, Compiler, Engine, Module, ModuleError, background, cache::Cache};

/// Smaller code is optimized at once: that takes less than a tenth of a second.
const SMALL: usize = 64 << 10;

/// The code of one digest, for all plugins and versions that use it.
pub(crate) struct Compiled {
    module: Mutex<Module>,
    pub abi: Abi,
    pub callbacks: Callbacks,
}

impl Compiled {
    fn new(module: Module) -> Compiled {
        Compiled { abi: module.abi(), callbacks: *module.callbacks(), module: Mutex::new(module) }
    }

    /// The best code there is now.
    pub fn module(&self) -> Module {
        self.module.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What has compiled it.
    pub fn compiler(&self) -> Compiler {
        self.module.lock().unwrap_or_else(PoisonError::into_inner).compiler()
    }
}

/// Compiles modules; one per process.
pub(super) struct Compilers {
    pub engine: Engine,
    cache: Option<Cache>,
    runtime: Handle,
    /// As long as a generation uses them: a change of configuration compiles nothing.
    known: tokio::sync::Mutex<HashMap<String, Arc<Compiled>>>,
    /// Compiling takes all cores as it is: one after the other.
    compiling: Semaphore,
    /// The same for what happens behind code that serves already.
    pub optimizing: Semaphore,
    pub compilations: Compilations,
}

impl Compilers {
    pub fn new(engine: Engine, cache: Option<Cache>, runtime: Handle) -> Compilers {
        Compilers {
            engine,
            cache,
            runtime,
            known: Default::default(),
            compiling: Semaphore::new(1),
            optimizing: Semaphore::new(1),
            compilations: Compilations::default(),
        }
    }

    /// Modules found on disk, and not found, since the start.
    pub fn lookups(&self) -> (u64, u64) {
        self.cache.as_ref().map_or((0, 0), Cache::counts)
    }

    /// Compiled code, from memory or disk where it is known. `Err`: the host failed.
    pub async fn get(self: &Arc<Self>, digest: &str, wasm: bytes::Bytes) -> Result<Result<Arc<Compiled>, ModuleError>, String> {
        if let Some(known) = self.known.lock().await.get(digest) {
            return Ok(Ok(known.clone()));
        }
        let _turn = self.compiling.acquire().await;
        if let Some(known) = self.known.lock().await.get(digest) {
            return Ok(Ok(known.clone()));
        }
        let compilers = self.clone();
        let work = move || compilers.compile(&wasm);
        let compiled = match self.runtime.spawn_blocking(work).await.map_err(|e| e.to_string())? {
            Ok(module) => Arc::new(Compiled::new(module)),
            Err(e) => return Ok(Err(e)),
        };
        self.known.lock().await.insert(digest.into(), compiled.clone());
        Ok(Ok(compiled))
    }

    /// Lets go of the code of other digests.
    pub async fn keep(&self, used: &[String]) {
        self.known.lock().await.retain(|digest, _| used.contains(digest));
    }

    fn compile(&self, wasm: &[u8]) -> Result<Module, ModuleError> {
        if let Some(found) = self.cache.as_ref().and_then(|cache| cache.find(&self.engine, wasm)) {
            return found;
        }
        if wasm.len() > SMALL {
            let begun = Instant::now();
            if let Some(module) = Module::compile_baseline(&self.engine, wasm) {
                self.compilations.add(Compiler::Winch, begun.elapsed());
                return module;
            }
        }
        self.optimize(wasm)
    }

    fn optimize(&self, wasm: &[u8]) -> Result<Module, ModuleError> {
        let begun = Instant::now();
        let module = match &self.cache {
            Some(cache) => cache.compile(&self.engine, wasm),
            None => Module::compile(&self.engine, wasm),
        };
        self.compilations.add(Compiler::Cranelift, begun.elapsed());
        module
    }

    /// Replaces baseline code by optimized code; whether it did. Ends early if nothing uses the code any more.
    pub async fn improve(self: Arc<Self>, compiled: Weak<Compiled>, name: &str, wasm: bytes::Bytes) -> bool {
        if compiled.upgrade().is_none_or(|c| c.compiler() == Compiler::Cranelift) {
            return false;
        }
        let _turn = self.optimizing.acquire().await;
        // Another plugin of the same code may have come first.
        if compiled.upgrade().is_none_or(|c| c.compiler() == Compiler::Cranelift) {
            return false;
        }
        let (done, result) = oneshot::channel();
        let compilers = self.clone();
        let started = background::spawn(move || drop(done.send(compilers.optimize(&wasm))));
        let module = match (started, result.await) {
            (Ok(()), Ok(Ok(module))) => module,
            (Err(e), _) => return not_optimized(name, &e.to_string()),
            (_, Ok(Err(e))) => return not_optimized(name, &e.to_string()),
            (_, Err(_)) => return not_optimized(name, "the compiler failed"),
        };
        let Some(compiled) = compiled.upgrade() else { return false };
        *compiled.module.lock().unwrap_or_else(PoisonError::into_inner) = module;
        true
    }
}

fn not_optimized(name: &str, why: &str) -> bool {
    Logger::Wasm.warning(format_args!("{name}: its code is not optimized: {why}; the baseline code keeps serving"));
    false
}
