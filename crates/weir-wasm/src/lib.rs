//! The proxy-wasm host: ABI 0.1.0, 0.2.0, 0.2.1 and Higress' 0.2.100 on wasmtime.
//!
//! Knows no other crate of Weir: the proxy side is the two traits of [`host`]. One [`Engine`] per process, one [`Module`] per code and compiler, one
//! [`Instance`] per plugin configuration and worker; an instance may start on any thread, then stays on one, as does all that it calls.
mod abi;
pub mod background;
pub mod cache;
pub mod compatibility;
mod declared;
pub mod engine;
mod functions;
pub mod host;
pub mod inspect;
mod instance;
mod memory;
pub mod module;
pub mod pairs;
mod protobuf;
pub mod row;
pub mod shared;
mod state;
pub mod trap;
mod wasi;

pub use declared::{Abi, Callbacks, ModuleError};
pub use engine::{Compiler, Engine, EngineError, EngineOptions};
pub use host::*;
pub use instance::{Instance, Started};
pub use module::Module;
pub use trap::{StartError, Trap, TrapKind};
