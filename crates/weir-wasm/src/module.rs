//! A compiled plugin: checked for what the host needs of it, linked to the host functions, ready to be started any number of times.
use crate::{abi, engine::Engine, state::Host, wasi};
use serde::Serialize;
use std::{fmt, sync::Arc};
use wasmtime::{ExternType, InstancePre, IntoFunc, Linker, UnknownImportError};

/// The version of the proxy-wasm ABI that a module declares by an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Abi {
    #[serde(rename = "0.1.0")]
    V0_1_0,
    #[serde(rename = "0.2.0")]
    V0_2_0,
    #[serde(rename = "0.2.1")]
    V0_2_1,
    /// Higress'.
    #[serde(rename = "0.2.100")]
    V0_2_100,
}

const MARKER: &str = "proxy_abi_version_";

impl Abi {
    pub const ALL: [Abi; 4] = [Abi::V0_1_0, Abi::V0_2_0, Abi::V0_2_1, Abi::V0_2_100];

    pub fn as_str(self) -> &'static str {
        match self {
            Abi::V0_1_0 => "0.1.0",
            Abi::V0_2_0 => "0.2.0",
            Abi::V0_2_1 => "0.2.1",
            Abi::V0_2_100 => "0.2.100",
        }
    }

    /// The first known marker among a module's exports.
    pub fn of_exports<'a>(names: impl Iterator<Item = &'a str>) -> Result<Abi, ModuleError> {
        let mut unknown = None;
        for version in names.filter_map(|n| n.strip_prefix(MARKER)) {
            let version = version.replace('_', ".");
            if let Some(abi) = Abi::ALL.into_iter().find(|a| a.as_str() == version) {
                return Ok(abi);
            }
            unknown.get_or_insert(version);
        }
        Err(unknown.map_or(ModuleError::NoAbi, ModuleError::UnknownAbi))
    }
}

impl fmt::Display for Abi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why code cannot be used as a plugin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    #[error("not a WebAssembly module that this host can compile: {0}")]
    Invalid(String),
    #[error("no Proxy-Wasm ABI version: no export proxy_abi_version_0_1_0, …0_2_0, …0_2_1 or …0_2_100; is this a proxy-wasm plugin?")]
    NoAbi,
    #[error("unknown Proxy-Wasm ABI version {0}; known are 0.1.0, 0.2.0, 0.2.1 and 0.2.100")]
    UnknownAbi(String),
    #[error("imports {module}.{name}, which this host does not have")]
    MissingImport { module: String, name: String },
    #[error("an import has another type than the host's: {0}")]
    ImportType(String),
    #[error("exports no linear memory named memory")]
    NoMemory,
    #[error("exports no allocator: neither malloc nor proxy_on_memory_allocate with one i32 parameter and one i32 result")]
    NoAllocator,
}

/// Which callbacks a module exports; the others need no call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Callbacks {
    pub request_headers: bool,
    pub request_body: bool,
    pub request_trailers: bool,
    pub response_headers: bool,
    pub response_body: bool,
    pub response_trailers: bool,
    pub new_connection: bool,
    pub downstream_data: bool,
    pub upstream_data: bool,
    pub tick: bool,
    pub queue_ready: bool,
    pub http_call_response: bool,
    pub grpc: bool,
    pub redis_call_response: bool,
    pub log: bool,
    pub done: bool,
    pub delete: bool,
}

impl Callbacks {
    pub fn of_exports<'a>(names: impl Iterator<Item = &'a str>) -> Callbacks {
        let mut found = Callbacks::default();
        for name in names.filter_map(|n| n.strip_prefix("proxy_on_")) {
            match name {
                "request_headers" => found.request_headers = true,
                "request_body" => found.request_body = true,
                "request_trailers" => found.request_trailers = true,
                "response_headers" => found.response_headers = true,
                "response_body" => found.response_body = true,
                "response_trailers" => found.response_trailers = true,
                "new_connection" => found.new_connection = true,
                "downstream_data" => found.downstream_data = true,
                "upstream_data" => found.upstream_data = true,
                "tick" => found.tick = true,
                "queue_ready" => found.queue_ready = true,
                "http_call_response" => found.http_call_response = true,
                "grpc_receive" | "grpc_close" => found.grpc = true,
                "redis_call_response" => found.redis_call_response = true,
                "log" => found.log = true,
                "done" => found.done = true,
                "delete" => found.delete = true,
                _ => {}
            }
        }
        found
    }
}

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
    abi: Abi,
    callbacks: Callbacks,
    allocator: &'static str,
}

impl Module {
    /// Compiles code; takes seconds for a large plugin, so it is called on a thread that serves nobody.
    pub fn compile(engine: &Engine, wasm: &[u8]) -> Result<Module, ModuleError> {
        Module::link(engine, &Module::compile_raw(engine, wasm)?)
    }

    pub(crate) fn compile_raw(engine: &Engine, wasm: &[u8]) -> Result<wasmtime::Module, ModuleError> {
        begins_as_module(wasm)?;
        wasmtime::Module::from_binary(&engine.wasmtime, wasm).map_err(|e| ModuleError::Invalid(format!("{e:#}")))
    }

    pub(crate) fn link(engine: &Engine, compiled: &wasmtime::Module) -> Result<Module, ModuleError> {
        let names = || compiled.exports().map(|e| e.name());
        let abi = Abi::of_exports(names())?;
        let pre = Functions::all(&engine.wasmtime).linker.instantiate_pre(compiled).map_err(|e| {
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
        Ok(Module { inner: Arc::new(Inner { engine: engine.clone(), pre, abi, callbacks, allocator }) })
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
        f.debug_struct("Module").field("abi", &self.inner.abi).finish_non_exhaustive()
    }
}

fn is_allocator(export: Option<ExternType>) -> bool {
    let Some(ExternType::Func(f)) = export else { return false };
    f.params().len() == 1 && f.results().len() == 1 && f.params().chain(f.results()).all(|t| t.is_i32())
}

/// The host functions, as they are added.
pub(crate) struct Functions {
    linker: Linker<Host>,
    names: Vec<(&'static str, &'static str)>,
}

impl Functions {
    /// Every host function, under every name that a module of any version may use.
    pub(crate) fn all(engine: &wasmtime::Engine) -> Functions {
        let mut functions = Functions { linker: Linker::new(engine), names: Vec::new() };
        abi::register(&mut functions);
        wasi::register(&mut functions);
        functions
    }

    /// Panics when a name is declared twice, which every test would show.
    pub(crate) fn add<P, R>(&mut self, module: &'static str, name: &'static str, function: impl IntoFunc<Host, P, R>) {
        self.linker.func_wrap(module, name, function).expect("two host functions of one name");
        self.names.push((module, name));
    }

    pub(crate) fn names(self) -> Vec<(&'static str, &'static str)> {
        self.names
    }
}
