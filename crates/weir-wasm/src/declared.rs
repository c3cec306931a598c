//! What a module says of itself by its exports, and why code cannot be used as a plugin.
use serde::Serialize;
use std::fmt;

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
