//! Which version serves: the newest good one, unless it does worse than the one before it.
use super::{
    super::{
        Generation, PluginSlot, PluginState,
        history::Outcome,
        rollback::{Failure, Look, Watch},
    },
    Manager,
};
use crate::app_log::{Level, Logger};
use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};
use tokio::time::sleep;
use weir_config::model::WasmPlugin;

/// How often versions are compared.
const LOOKS: Duration = Duration::from_secs(1);

/// Compares the versions of all plugins, until the manager is gone.
pub(super) async fn watch(manager: Weak<Manager>) {
    loop {
        sleep(LOOKS).await;
        let Some(manager) = manager.upgrade() else { return };
        for slot in manager.slots() {
            if let Some(current) = slot.current() {
                current.recent.note(current.plugin.limits.rollback.window, || current.totals());
            }
            manager.compare(&slot);
        }
    }
}

impl Manager {
    pub(super) fn publish(&self, slot: &Arc<PluginSlot>, plugin: &WasmPlugin, epoch: u64, mut generation: Generation) {
        {
            let mut status = slot.lock_status();
            if slot.epoch() != epoch {
                return;
            }
            generation.number = slot.next_number();
            let previous = slot.current();
            *slot.lock_watch() = match (&plugin.canary, &previous) {
                (Some(_), _) => Some(Watch::of_canary(generation.number)),
                (None, Some(previous)) => Watch::of(generation.number, previous),
                (None, None) => None,
            };
            // It may be the one that corrects them.
            slot.resizes.iter().for_each(|r| r.store(false, Ordering::Relaxed));
            if let Some(previous) = &previous {
                status.history.ended(previous, Outcome::Replaced, None);
            }
            status.history.serves(&generation);
            status.serves(Some(&generation));
            status.become_state(PluginState::Active, None);
            slot.current.store(Some(Arc::new(generation)));
        }
        self.report(slot);
        Logger::Wasm.info(format_args!("{}: generation {} serves", plugin.name, slot.current().map_or(0, |g| g.number)));
        self.ring();
    }

    /// An instance of this generation has trapped.
    pub(in super::super) fn trapped(&self, slot: &Arc<PluginSlot>, number: u64) {
        if let Some(current) = slot.current().filter(|g| g.number == number) {
            current.traps.fetch_add(1, Ordering::Relaxed);
            self.compare(slot);
        }
    }

    /// Compares the version that serves with the other one.
    fn compare(&self, slot: &Arc<PluginSlot>) {
        let plugin = slot.wanted.load().canary.as_ref().and_then(|canary| self.slot(&canary.of)?.current());
        let failed = {
            let mut status = slot.lock_status();
            let mut watch = slot.lock_watch();
            let (Some(current), Some(watched)) = (slot.current(), &mut *watch) else { return };
            if current.number != watched.generation {
                return;
            }
            match watched.look(&current, plugin.as_deref()) {
                Look::On => false,
                Look::Over => {
                    *watch = None;
                    false
                }
                Look::Failed(why) => {
                    let previous = watch.take().and_then(|watched| watched.previous);
                    take_back(slot, &mut status, &current, previous.as_deref(), &why);
                    self.remember(&current, previous.as_deref(), status.reason.as_deref().unwrap_or_default());
                    true
                }
            }
        };
        if failed {
            self.report(slot);
            self.ring();
        }
    }
}

/// The version before serves again; none after a canary. What the configuration wants stays refused until it changes.
fn take_back(slot: &PluginSlot, status: &mut super::Status, current: &Generation, previous: Option<&Generation>, why: &Failure) {
    let back = previous.map(|good| good.again(slot.next_number()));
    let (state, what, serves) = match (&back, &current.plugin.canary) {
        (None, Some(canary)) => (PluginState::Failed, "the canary", format!("{} serves all requests", canary.of)),
        _ => (PluginState::Stale, "the new version", "the version before it serves again".into()),
    };
    status.history.ended(current, Outcome::RolledBack, Some(why.to_string()));
    if let Some(back) = &back {
        status.history.serves(back);
    }
    status.serves(back.as_ref());
    // While a newer version is on its way, that is what is said.
    if status.state == PluginState::Active {
        let trap = status.last_trap.as_deref().filter(|_| matches!(why, Failure::Traps { .. }));
        let trap = trap.map(|trap| format!("; the last trap: {trap}")).unwrap_or_default();
        status.become_state(state, Some(format!("{what} was taken back: {why}{trap}")));
        status.cause = "PluginRolledBack";
    }
    slot.rollbacks.fetch_add(1, Ordering::Relaxed);
    Logger::Wasm.write(Level::Error, format_args!("{}: generation {} is taken back: {why}; {serves}", slot.name, current.number));
    slot.current.store(back.map(Arc::new));
}
