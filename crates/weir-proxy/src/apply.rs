//! Taking over a configuration: secrets, clusters, listeners, then the snapshot; what is gone goes last. Everything is
//! decided by comparing pointers with the configuration before, so the cost is that of what changed.
mod tables;

use crate::{
    BoundListener, Report, Shared,
    app_log::Logger,
    cluster::manager::Manager,
    diff,
    listener::{self, DrainGroup, ListenerRt, ListenerSlot, next_id},
    plugin::Loading,
    secrets::Secrets,
    snapshot::{HcmKey, HcmRt, Snapshot},
    upstream::direct::DIRECT,
    worker_thread::Command,
};
use arc_swap::ArcSwap;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{SocketAddr, TcpListener},
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};
use tables::Tables;
use weir_config::{
    diagnostic::Diagnostic,
    model::{AccessLog, Config, Listener, Name},
};
use weir_net::listen;

/// What the configuring side remembers from one configuration to the next.
pub(crate) struct Applier {
    shared: Arc<Shared>,
    clusters: Manager,
    secrets: Secrets,
    listeners: BTreeMap<Name, Entry>,
    tables: Tables,
    /// As it was given, with what was refused.
    given: Arc<Config>,
}

struct Entry {
    /// The slot that accepts connections: still the old one while the new address cannot be bound. `None`: there is none.
    slot: Option<Arc<ListenerSlot>>,
    findings: Vec<Diagnostic>,
    /// Its address could not be bound and will be tried again.
    waiting: bool,
    /// For a listener that the configuration no longer has: the one whose address must be bound before this one closes.
    replaced_by: Option<Name>,
}

/// A listener that is bound and waits for the snapshot before workers accept for it.
struct Fresh {
    slot: Arc<ListenerSlot>,
    sockets: Vec<TcpListener>,
    /// Its address could not be bound before.
    waited: bool,
}

/// Why a listener is not bound.
enum Unbound {
    /// Another listener of the configuration has its address.
    Clash(Diagnostic),
    /// The system refused; it will be tried again.
    Refused(Diagnostic),
}

impl Applier {
    pub fn new(shared: Arc<Shared>, clusters: Manager) -> Applier {
        Applier {
            shared,
            clusters,
            secrets: Secrets::default(),
            listeners: BTreeMap::new(),
            tables: Tables::default(),
            given: Arc::default(),
        }
    }

    /// Changed plugins may still be loading when it returns; [`Loading::finished`] waits for them.
    pub async fn apply(&mut self, config: Arc<Config>) -> (Report, Loading) {
        let old = std::mem::replace(&mut self.given, config.clone());
        let shared = self.shared.clone();
        let changed_secrets = self.secrets.update(&config);
        if !changed_secrets.is_empty() {
            shared.certificates.store(Arc::new(self.secrets.certificates()));
        }
        self.clusters.update(&old, &config, &self.secrets, &changed_secrets).await;

        let loading = shared.plugins.begin(&config.plugins);
        loading.ready().await;

        let (fresh, built) = self.listeners(&old, &config, &changed_secrets);
        let gone = self.gone(&old, &config);
        let snapshot = self.snapshot(&config, &built);
        let version = snapshot.version;
        shared.snapshot.store(Arc::new(snapshot));
        let mut ended = Vec::new();
        for (slot, rt) in built {
            let before = slot.current.swap(rt.clone());
            ended.extend(drain_groups_gone(&before, Some(&rt)));
        }
        let mut closed = Vec::new();
        for fresh in fresh {
            closed.extend(self.open(fresh));
        }
        closed.extend(gone);
        for slot in &closed {
            ended.extend(drain_groups_gone(&slot.current.load(), None));
            shared.post_all(|| Command::Close(slot.id));
        }
        for drain_group in ended {
            drain_group.end();
            shared.post_all(|| Command::End(drain_group.clone()));
        }
        self.tables.sweep();
        self.clusters.remove(&old, &config);
        if diff::removed(&old.clusters, &config.clusters).next().is_some() {
            shared.stats.clusters.retain(|name| config.clusters.contains_key(name) || **name == *DIRECT);
        }

        let slots: Vec<_> = self.listeners.values().filter_map(|e| e.slot.clone()).collect();
        let listeners = slots.iter().map(|s| BoundListener { name: s.name.clone(), address: s.address }).collect();
        shared.listeners.store(Arc::new(slots));
        shared.set_waiting_listeners(self.listeners.values().filter(|e| e.waiting).count());
        (Report { version, diagnostics: self.findings(), listeners }, loading)
    }

    /// Errors of the configuration in use.
    fn findings(&self) -> Vec<Diagnostic> {
        let listeners = self.listeners.values().flat_map(|e| &e.findings);
        self.secrets.findings().chain(self.clusters.findings()).chain(self.tables.findings()).chain(listeners).cloned().collect()
    }

    /// Applies the configuration again if an address that could not be bound is free now.
    pub async fn retry(&mut self) {
        let waiting = |l: &&Arc<Listener>| self.listeners.get(&l.name).is_some_and(|e| e.waiting);
        let free = |l: &Arc<Listener>| listen::probe(l.address, self.is_ours(l.address)).is_ok();
        if self.given.listeners.values().filter(waiting).any(free) {
            let before = self.findings();
            let (report, _) = self.apply(self.given.clone()).await;
            // What was wrong before has been reported.
            for finding in report.diagnostics.iter().filter(|d| !before.contains(d)) {
                Logger::Config.warning(format_args!("{}", finding.line()));
            }
        }
    }

    /// New forms of all listeners that changed, and sockets for new addresses. Nothing of it is in use yet.
    #[expect(clippy::type_complexity, reason = "slots with what they are about to serve")]
    fn listeners(
        &mut self,
        old: &Config,
        new: &Config,
        changed_secrets: &[Name],
    ) -> (Vec<Fresh>, Vec<(Arc<ListenerSlot>, Arc<ListenerRt>)>) {
        let (mut fresh, mut built) = (Vec::new(), Vec::new());
        let names: Vec<&Name> = match changed_secrets {
            [] => diff::changed(&old.listeners, &new.listeners).collect(),
            // Which chain uses which secret is seen while building; chains that do not are kept.
            _ => new.listeners.keys().collect(),
        };
        // What could not be bound is tried again with every configuration.
        let unbound = |name: &&Name| {
            self.listeners.get(*name).is_some_and(|e| e.slot.as_ref().is_none_or(|s| s.wanted != new.listeners[*name].address))
        };
        let failed: Vec<&Name> = new.listeners.keys().filter(unbound).filter(|n| !names.contains(n)).collect();
        for name in names.into_iter().chain(failed) {
            let config = &new.listeners[name];
            let entry = self.listeners.remove(name);
            let waited = entry.as_ref().is_some_and(|e| e.waiting);
            let before = entry.and_then(|e| e.slot);
            let mut waiting = false;
            let current = before.as_ref().map(|s| s.current.load_full());
            let (tables, sinks) = (&mut self.tables, &self.shared.sinks);
            let mut logs = |logs: &[AccessLog]| tables.logs(logs, sinks);
            let clusters = &self.shared.clusters;
            let (rt, mut findings) = listener::build(config, current.as_deref(), &self.secrets, changed_secrets, clusters, &mut logs);
            let rt = Arc::new(rt);
            let slot = match before {
                Some(slot) if slot.wanted == config.address => {
                    built.push((slot.clone(), rt));
                    Some(slot)
                }
                before => match self.bind(config, new, rt.clone(), waited) {
                    Ok(f) => {
                        let slot = f.slot.clone();
                        fresh.push(f);
                        // The old address serves on until the new one does.
                        built.extend(before.map(|b| (b, rt)));
                        Some(slot)
                    }
                    Err(why) => {
                        waiting = matches!(why, Unbound::Refused(_));
                        let (Unbound::Clash(why) | Unbound::Refused(why)) = why;
                        findings.push(why);
                        built.extend(before.clone().map(|b| (b, rt)));
                        before
                    }
                },
            };
            self.listeners.insert(name.clone(), Entry { slot, findings, waiting, replaced_by: None });
        }
        (fresh, built)
    }

    /// Whether this process already listens on the port.
    fn is_ours(&self, address: SocketAddr) -> bool {
        self.shared.listeners.load().iter().any(|s| s.address.port() == address.port())
    }

    fn bind(&self, config: &Arc<Listener>, all: &Config, rt: Arc<ListenerRt>, waited: bool) -> Result<Fresh, Unbound> {
        let place = |d: Diagnostic| config.origins.first().map_or(d.clone(), |origin| d.from_origin(origin));
        let clash = |other: &&Arc<Listener>| other.name < config.name && other.address == config.address && config.address.port() != 0;
        if let Some(other) = all.listeners.values().find(clash) {
            let text = format!("listener `{}`: the address {} is taken by listener `{}`", config.name, config.address, other.name);
            return Err(Unbound::Clash(place(Diagnostic::error("AddressInUse", text))));
        }
        let ours = self.is_ours(config.address);
        let sockets = listen::bind(config.address, self.shared.options.workers, ours).and_then(|s| Ok((s[0].local_addr()?, s)));
        match sockets {
            Ok((address, sockets)) => Ok(Fresh { slot: self.slot(config, address, rt), sockets, waited }),
            Err(e) => {
                self.shared.listener_create_failure.fetch_add(1, Ordering::Relaxed);
                let text = format!("listener `{}`: cannot listen on {}: {e}", config.name, config.address);
                let help = match e.kind() {
                    std::io::ErrorKind::AddrInUse => "another program listens there; the listener opens when it stops",
                    std::io::ErrorKind::PermissionDenied => "ports below 1024 need the capability CAP_NET_BIND_SERVICE",
                    std::io::ErrorKind::AddrNotAvailable => "the address belongs to no interface of this machine",
                    _ => "",
                };
                let d = place(Diagnostic::error("ListenFailed", text));
                Err(Unbound::Refused(if help.is_empty() { d } else { d.help(help) }))
            }
        }
    }

    fn slot(&self, config: &Listener, address: SocketAddr, rt: Arc<ListenerRt>) -> Arc<ListenerSlot> {
        Arc::new(ListenerSlot {
            name: config.name.clone(),
            id: next_id(),
            wanted: config.address,
            address,
            current: ArcSwap::new(rt),
            stats: Default::default(),
            open: Default::default(),
            total: self.shared.total.clone(),
        })
    }

    /// Lets workers accept; the slot of the same name that this one replaces is to be closed.
    fn open(&self, fresh: Fresh) -> Option<Arc<ListenerSlot>> {
        let Fresh { slot, sockets, waited } = fresh;
        let again = if waited { ", which is free now" } else { "" };
        Logger::Config.info(format_args!("listener `{}` on {}{again}", slot.name, slot.address));
        self.shared.post_each(sockets.into_iter().map(|socket| Command::Listen(slot.clone(), socket)));
        self.shared.listeners.load().iter().find(|s| s.name == slot.name).cloned()
    }

    /// Removes the listeners that `new` no longer has. One that another listener replaces stays as it is until the address of
    /// that one can be bound.
    fn gone(&mut self, old: &Config, new: &Config) -> Vec<Arc<ListenerSlot>> {
        let waiting: HashSet<Name> = self.listeners.iter().filter(|(_, e)| e.waiting).map(|(name, _)| name.clone()).collect();
        let mut gone = Vec::new();
        self.listeners.retain(|name, entry| {
            if new.listeners.contains_key(name) {
                return true;
            }
            (entry.findings, entry.waiting) = (Vec::new(), false);
            let known = entry.replaced_by.take().filter(|name| new.listeners.contains_key(name));
            let replaced_by = match (known, &entry.slot) {
                (Some(name), _) => Some(name).filter(|name| waiting.contains(name)),
                (None, Some(slot)) => replacement(&slot.current.load().config, old, new, &waiting),
                (None, None) => None,
            };
            if replaced_by.is_some() {
                entry.replaced_by = replaced_by;
                Logger::Config.debug(format_args!("listener `{name}` stays until its new address can be bound"));
                return true;
            }
            Logger::Config.info(format_args!("listener `{name}` is gone"));
            gone.extend(entry.slot.take());
            false
        });
        gone
    }

    /// The next snapshot. What did not change is the same object as in the one before.
    fn snapshot(&mut self, config: &Arc<Config>, built: &[(Arc<ListenerSlot>, Arc<ListenerRt>)]) -> Snapshot {
        let before = self.shared.snapshot.load();
        self.tables.update(config, &self.shared.clusters);
        let fresh: HashMap<u64, &Arc<ListenerRt>> = built.iter().map(|(s, rt)| (s.id, rt)).collect();
        let mut hcms = HashMap::new();
        for slot in self.listeners.values().filter_map(|e| e.slot.as_ref()) {
            let current = slot.current.load();
            // The new configuration has no routes for it.
            let stays = !config.listeners.contains_key(&slot.name);
            let rt = fresh.get(&slot.id).copied().unwrap_or(&current);
            for chain in rt.chains() {
                let Some(hcm) = chain.config.http_connection_manager() else { continue };
                let key = HcmKey { listener: slot.name.clone(), chain: chain.config.name.clone() };
                if stays {
                    hcms.extend(before.hcms.get(&key).map(|hcm| (key, hcm.clone())));
                    continue;
                }
                let (table, logs) = (self.tables.get(&hcm.route_config), self.tables.logs(&hcm.access_log, &self.shared.sinks));
                let old = before.hcms.get(&key);
                let filters = self.tables.filters(&slot.name, hcm, old.map(|h| &**h), |name| self.shared.plugins.slot(name));
                let Some(filters) = filters else {
                    hcms.extend(old.map(|hcm| (key, hcm.clone())));
                    continue;
                };
                let hcm = HcmRt::new(hcm, table, logs, filters);
                let kept = old.filter(|h| h.same(&hcm)).cloned();
                hcms.insert(key, kept.unwrap_or_else(|| Arc::new(hcm)));
            }
        }
        let leaving = before.hcms.iter().filter(|(key, _)| !hcms.contains_key(key)).map(|(k, h)| (k.clone(), h.clone())).collect();
        Snapshot {
            version: before.version + 1,
            config: config.clone(),
            made_at: SystemTime::now(),
            hcms,
            tables: self.tables.all(),
            leaving,
            clusters: self.shared.clusters.clone(),
        }
    }
}

/// The waiting listener that replaces `gone`: a new one of the same object, of the same kind (with or without TLS) if the object
/// has new ones of that kind.
fn replacement(gone: &Listener, old: &Config, new: &Config, waiting: &HashSet<Name>) -> Option<Name> {
    let has_tls = |l: &Listener| l.filter_chains.iter().any(|c| c.tls.is_some());
    let is_related = |l: &Listener| l.origins.iter().any(|o| gone.origins.iter().any(|g| g.object == o.object));
    let added: Vec<&Listener> =
        new.listeners.values().map(|l| &**l).filter(|l| !old.listeners.contains_key(&l.name) && is_related(l)).collect();
    let alike = |l: &&Listener| has_tls(l) == has_tls(gone);
    let any_alike = added.iter().any(alike);
    let chosen = added.into_iter().filter(|l| !any_alike || alike(l)).find(|l| waiting.contains(&l.name));
    chosen.map(|l| l.name.clone())
}

/// The drain_groups of `old` that no chain of `new` goes on with.
fn drain_groups_gone(old: &ListenerRt, new: Option<&ListenerRt>) -> Vec<Arc<DrainGroup>> {
    let stays = |drain_group: &Arc<DrainGroup>| new.is_some_and(|n| n.chains().iter().any(|c| Arc::ptr_eq(&c.drain_group, drain_group)));
    old.chains().iter().map(|c| &c.drain_group).filter(|drain_group| !stays(drain_group)).cloned().collect()
}
