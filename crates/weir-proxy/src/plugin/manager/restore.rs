//! Rollbacks that an earlier process has decided, and what a later one needs to know of those that this one decides.
use super::{
    super::{Generation, PluginSlot, code, decisions::Decision},
    Manager,
};
use crate::app_log::Logger;
use bytes::Bytes;
use std::sync::Arc;
use weir_config::model::WasmPlugin;

impl Manager {
    /// Brings back what served when the wanted version was taken back by an earlier process. `false`: it cannot be had, and the wanted
    /// version gets another chance.
    pub(super) async fn stand_by(
        self: &Arc<Manager>,
        slot: &Arc<PluginSlot>,
        plugin: &Arc<WasmPlugin>,
        epoch: u64,
        decision: &Decision,
    ) -> bool {
        let (Some(decisions), Some(previous)) = (&self.decisions, &decision.previous) else { return true };
        let (of, digest) = (decisions.clone(), previous.digest.clone());
        let wasm = self.blocking(move || of.code(&digest)).await.ok().flatten();
        let configuration = previous.configuration_for(plugin);
        let restored = match (wasm, configuration) {
            (Some(wasm), Some(configuration)) => {
                let code = code::Code {
                    wasm: wasm.into(),
                    digest: previous.digest.clone(),
                    from: code::From::Disk,
                    image: None,
                    kept: Vec::new(),
                };
                let plugin = Arc::new(WasmPlugin { configuration, ..(**plugin).clone() });
                self.begin(slot, &plugin, epoch, code).await.map(drop).map_err(|refusal| refusal.message)
            }
            _ => Err("it is not on disk any more".to_string()),
        };
        if let Err(why) = &restored {
            let reason = &decision.reason;
            Logger::Wasm
                .warning(format_args!("{}: {reason}; the version before cannot be had ({why}): this one is tried again", plugin.name));
        }
        restored.is_ok()
    }

    /// Keeps the code of a version that is about to serve.
    pub(super) async fn keep_code(&self, plugin: &WasmPlugin, digest: &str, wasm: &Bytes) {
        let Some(decisions) = self.decisions.clone() else { return };
        let (digest, content, used) = (digest.to_string(), wasm.clone(), self.digests());
        let done = self.blocking(move || decisions.keep_code(&digest, &content, &used)).await;
        if let Ok(Err(why)) = done {
            Logger::Wasm.warning(format_args!("{}: its code cannot be kept for a rollback after a restart: {why}", plugin.name));
        }
    }

    /// Keeps the decision for the next process.
    pub(super) fn remember(&self, current: &Generation, previous: Option<&Generation>, reason: &str) {
        let Some(decisions) = &self.decisions else { return };
        if let Err(why) = decisions.keep(&Decision::of(current, previous, reason)) {
            Logger::Wasm.warning(format_args!("{}: the rollback is forgotten at a restart: {why}", current.plugin.name));
        }
    }

    /// Of the versions that serve, and of those that they would give way to.
    fn digests(&self) -> Vec<String> {
        let mut digests = Vec::new();
        for slot in self.slots() {
            digests.extend(slot.current().map(|current| current.digest.clone()));
            digests.extend(slot.lock_watch().iter().filter_map(|watch| Some(watch.previous.as_ref()?.digest.clone())));
        }
        digests
    }
}
