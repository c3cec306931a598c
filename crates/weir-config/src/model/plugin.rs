//! Wasm plugins (`extensions.istio.io` and `extensions.higress.io` WasmPlugin).
use super::{Name, Origin, seconds};
use serde::Serialize;
use std::time::Duration;

/// One plugin with one configuration: the unit that is loaded, started and swapped.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WasmPlugin {
    /// `namespace/name` of the object.
    pub name: Name,
    /// The root context to use (`pluginName`, Envoy's `root_id`).
    pub root_id: String,
    /// Plugins with the same id share queues and shared data; empty for the plugin's own name.
    pub vm_id: String,
    pub code: WasmCode,
    /// What the guest reads in `on_configure`, as it stands; Higress' rules already folded in. Empty for none.
    pub configuration: String,
    pub environment: Vec<(String, String)>,
    pub fail_strategy: FailStrategy,
    pub phase: PluginPhase,
    /// Higher runs first within its phase; `None` runs last. Equal ones run in the order of their names.
    pub priority: Option<i32>,
    pub limits: WasmLimits,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WasmCode {
    /// A path; relative ones start at the folder of the file that names it. The digest of the content is part of the
    /// identity, so that a rewritten file is a change.
    File {
        path: String,
        sha256: String,
    },
    Http {
        url: String,
        sha256: Option<String>,
    },
    /// None can be had: the object is in error and has no good version to go on with. The plugin cannot run, and what that
    /// means for requests is its `fail_strategy`'s to say.
    Unusable {
        why: String,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailStrategy {
    /// 503 while the plugin cannot run.
    #[default]
    FailClose,
    /// As if it were not there.
    FailOpen,
    /// As `FAIL_CLOSE`, but the pause before a new instance does not grow.
    FailReload,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PluginPhase {
    Authn,
    Authz,
    Stats,
    #[default]
    UnspecifiedPhase,
}

/// Bounds on what one instance may use.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WasmLimits {
    pub memory_bytes: u64,
    /// For one callback; start and configuration have `start_deadline`.
    #[serde(serialize_with = "seconds")]
    pub call_deadline: Duration,
    #[serde(serialize_with = "seconds")]
    pub start_deadline: Duration,
    /// Bytes of a body held because the plugin wants it whole; a plugin may raise it for its stream.
    pub body_buffer_bytes: u32,
    /// HTTP and gRPC callouts and Redis commands of one instance that are under way.
    pub max_callouts: u32,
    /// So many traps of a new version, soon after it took streams, bring back the one before; 0: never.
    pub rollback_traps: u32,
}

impl Default for WasmLimits {
    fn default() -> Self {
        WasmLimits {
            memory_bytes: 256 << 20,
            call_deadline: Duration::from_millis(100),
            start_deadline: Duration::from_secs(10),
            body_buffer_bytes: 1 << 20,
            max_callouts: 10_000,
            rollback_traps: 3,
        }
    }
}
