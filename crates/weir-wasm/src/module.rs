//! A compiled plugin: checked for what the host needs of it, linked to the host functions, ready to be started any number of times.
use crate::{
    abi,
    declared::{Abi, Callbacks, ModuleError},
    engine::{Compiler, Engine},
    functions::Functions,
    state::Host,
    wasi,
};
use std::{fmt, sync::Arc};
use wasmtime::{ExternType, InstancePre, UnknownImportError};

/// Compiled code, shared by all instances of all workers. Cheap to clone.
#[derive(Clone)]
pub struct Module {
    inner: Arc<Inner>,
}

/// What is no module at all is said in a word; the libraries print the bytes they found.
pub(crate) fn begins_as_module(wasm: &[u8]) -> Result<(), ModuleError> {
    if !wasm.starts_with(b"\0asm") {
        return Err(ModuleError::Invalid("it does not begin with \\0asm".into()));
    }
    // The layer of components stands beside the version.
    if wasm.get(6) == Some(&1) {
        let message = "it is a component, and plugins are core modules: Rust builds them for wasm32-wasip1";
        return Err(ModuleError::Invalid(message.into()));
    }
    Ok(())
}

struct Inner {
    engine: Engine,
    pre: InstancePre<Host>,
    compiler: Compiler,
    abi: Abi,
    callbacks: Callbacks,
    allocator: &'static str,
}

impl Module {
    /// Compiles code and optimizes it; takes seconds for a large plugin, so it is called on a thread that serves nobody.
    pub fn compile(engine: &Engine, wasm: &[u8]) -> Result<Module, ModuleError> {
        Module::link(engine, &Module::compile_raw(&engine.wasmtime, wasm)?, Compiler::Cranelift)
    }

    /// Compiles code in one pass, so that it can serve until optimized code is there. `None` where that is not possible: Winch does not
    /// know the processor or an instruction, or the code is no module; [`Module::compile`] says which.
    pub fn compile_baseline(engine: &Engine, wasm: &[u8]) -> Option<Result<Module, ModuleError>> {
        let compiled = Module::compile_raw(&engine.baseline()?, wasm).ok()?;
        Some(Module::link(engine, &compiled, Compiler::Winch))
    }

    pub(crate) fn compile_raw(engine: &wasmtime::Engine, wasm: &[u8]) -> Result<wasmtime::Module, ModuleError> {
        begins_as_module(wasm)?;
        wasmtime::Module::from_binary(engine, wasm).map_err(|e| ModuleError::Invalid(format!("{e:#}")))
    }

    pub(crate) fn link(engine: &Engine, compiled: &wasmtime::Module, compiler: Compiler) -> Result<Module, ModuleError> {
        let names = || compiled.exports().map(|e| e.name());
        let abi = Abi::of_exports(names())?;
        let pre = host_functions(compiled.engine()).linker().instantiate_pre(compiled).map_err(|e| {
            match e.downcast_ref::<UnknownImportError>() {
                Some(unknown) => ModuleError::MissingImport { module: unknown.module().to_owned(), name: unknown.name().to_owned() },
                None => ModuleError::ImportType(format!("{e:#}")),
            }
        })?;
        if !matches!(compiled.get_export("memory"), Some(ExternType::Memory(_))) {
            return Err(ModuleError::NoMemory);
        }
        // The reference host takes malloc where both exist (TinyGo).
        let allocator = ["malloc", "proxy_on_memory_allocate"].into_iter().find(|name| is_allocator(compiled.get_export(name)));
        let allocator = allocator.ok_or(ModuleError::NoAllocator)?;
        let callbacks = Callbacks::of_exports(names());
        Ok(Module { inner: Arc::new(Inner { engine: engine.clone(), pre, compiler, abi, callbacks, allocator }) })
    }

    pub fn compiler(&self) -> Compiler {
        self.inner.compiler
    }

    pub fn abi(&self) -> Abi {
        self.inner.abi
    }

    pub fn callbacks(&self) -> &Callbacks {
        &self.inner.callbacks
    }

    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    pub(crate) fn pre(&self) -> &InstancePre<Host> {
        &self.inner.pre
    }

    pub(crate) fn allocator(&self) -> &'static str {
        self.inner.allocator
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module").field("abi", &self.inner.abi).field("compiler", &self.inner.compiler).finish_non_exhaustive()
    }
}

fn is_allocator(export: Option<ExternType>) -> bool {
    let Some(ExternType::Func(f)) = export else { return false };
    f.params().len() == 1 && f.results().len() == 1 && f.params().chain(f.results()).all(|t| t.is_i32())
}

/// Every host function, under every name that a module of any version may use.
pub(crate) fn host_functions(engine: &wasmtime::Engine) -> Functions {
    let mut functions = Functions::new(engine);
    abi::register(&mut functions);
    wasi::register(&mut functions);
    functions
}
