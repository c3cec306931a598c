//! What is said of a plugin on the admin listener and in conditions.
use super::{
    Generation,
    history::{History, Usage, unix},
};
use serde::Serialize;
use std::{sync::Arc, time::SystemTime};
use weir_config::{
    diagnostic::Diagnostic,
    model::{FailStrategy, Name, Origin, PluginCanary, WasmPlugin},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PluginState {
    /// Being fetched, compiled or tried; nothing serves yet.
    Loading,
    /// The wanted version serves.
    Active,
    /// A new version is being loaded; the one before it serves.
    Updating,
    /// The wanted version was refused; the last good one serves.
    Stale,
    /// The wanted version was refused, and there is no good one: `failStrategy` decides.
    Failed,
}

/// One plugin.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub name: Name,
    pub origin: Origin,
    pub state: PluginState,
    /// Why the wanted version does not serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The `reason` field of the matching diagnostic.
    #[serde(skip)]
    pub cause: &'static str,
    /// Number of the generation that serves; 0 for none.
    pub generation: u64,
    /// SHA-256 of its code.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// The image that it is of, with the digest that its tag named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abi: Option<weir_wasm::Abi>,
    /// What has compiled the code that new instances get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compiler: Option<weir_wasm::Compiler>,
    pub fail_strategy: FailStrategy,
    /// What it takes of which plugin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Arc<PluginCanary>>,
    /// When `state` became what it is, in seconds since 1970.
    #[serde(serialize_with = "unix")]
    pub since: SystemTime,
    /// Of the generation that serves.
    #[serde(flatten)]
    pub usage: Option<Usage>,
    /// Of all workers, spare and retiring ones included.
    pub instances: i64,
    pub memory_bytes: i64,
    pub history: History,
    /// Redis servers that the plugin named when it was configured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub redis: Vec<UpstreamStatus>,
    /// What else was found when the wanted version was tried.
    #[serde(skip)]
    pub warnings: Vec<Diagnostic>,
    /// The last trap of an instance, with its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_trap: Option<String>,
}

/// What a check at load time found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpstreamStatus {
    /// As the plugin named it.
    pub name: String,
    /// `None`: it works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Status {
    pub(super) fn new(plugin: &WasmPlugin) -> Status {
        Status {
            name: plugin.name.clone(),
            origin: plugin.origin.clone(),
            state: PluginState::Loading,
            reason: None,
            cause: "",
            generation: 0,
            digest: String::new(),
            image: None,
            abi: None,
            compiler: None,
            fail_strategy: plugin.fail_strategy,
            canary: plugin.canary.clone(),
            since: SystemTime::now(),
            usage: None,
            instances: 0,
            memory_bytes: 0,
            history: History::default(),
            redis: Vec::new(),
            warnings: Vec::new(),
            last_trap: None,
        }
    }

    /// What the configuration says of it.
    pub(super) fn describe(&mut self, plugin: &WasmPlugin) {
        (self.fail_strategy, self.origin, self.canary) = (plugin.fail_strategy, plugin.origin.clone(), plugin.canary.clone());
    }

    /// The diagnostic for a version that does not serve.
    pub fn refusal(&self) -> Option<Diagnostic> {
        let (why, name) = (self.reason.as_deref()?, &self.name);
        let kept = match (self.state, self.fail_strategy, &self.canary) {
            (PluginState::Stale, ..) => "the version before it still serves".into(),
            (PluginState::Failed, _, Some(canary)) => format!("this canary takes no requests: {} serves all", canary.of),
            (PluginState::Failed, FailStrategy::FailOpen, None) => "requests pass without it (failStrategy FAIL_OPEN)".into(),
            (PluginState::Failed, FailStrategy::FailClose, None) => {
                "requests that it should see are answered with 503 (failStrategy FAIL_CLOSE)".into()
            }
            (PluginState::Failed, FailStrategy::FailReload, None) => {
                "requests that it should see are answered with 503 (failStrategy FAIL_RELOAD)".into()
            }
            _ => return None,
        };
        Some(Diagnostic::error(self.cause, format!("plugin `{name}`: {why}")).help(kept).from_origin(&self.origin))
    }

    /// This generation is what new streams get; `None`: they get none.
    pub(super) fn serves(&mut self, generation: Option<&Generation>) {
        self.generation = generation.map_or(0, |g| g.number);
        self.digest = generation.map(|g| g.digest.clone()).unwrap_or_default();
        self.image = generation.and_then(|g| g.image.clone());
        self.abi = generation.map(|g| g.compiled.abi);
    }

    pub(super) fn become_state(&mut self, state: PluginState, reason: Option<String>) {
        if self.state != state {
            self.since = SystemTime::now();
        }
        (self.state, self.reason) = (state, reason);
    }
}
