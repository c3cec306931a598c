//! Listeners at configuration time: what changed is built, bound and opened; what is gone is closed; and an address that cannot be
//! bound is tried again.
use super::logs::Logs;
use crate::{
    Shared,
    app_log::Logger,
    filter::config::FilterList,
    listener::{self, DrainGroup, ListenerRt, ListenerSlot, next_id},
    secrets::Secrets,
    snapshot::{HcmBase, HcmChange, HcmKey, Servers},
    verdict::state_of,
    worker_thread::Command,
};
use arc_swap::ArcSwap;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};
use weir_config::{
    delta::{Id, ResourceKind, Verdict},
    diagnostic::{Diagnostic, Severity},
    model::{AccessLog, FilterChain, HttpConnectionManager, HttpFilterConfig, Listener, Name, SocketProtocol},
};
use weir_net::listen::{self, Listening, Transport};

/// All listeners.
pub(super) struct Listeners {
    shared: Arc<Shared>,
    logs: Logs,
    entries: BTreeMap<Name, Entry>,
    /// Listeners of the configuration by what refers to them, or what they refer to.
    by_address: HashMap<(SocketProtocol, SocketAddr), BTreeSet<Name>>,
    by_secret: HashMap<Name, BTreeSet<Name>>,
    by_plugin: HashMap<Name, BTreeSet<Name>>,
    /// Those whose wanted address is not bound.
    unbound: BTreeSet<Name>,
    /// Those that wait for plugins.
    held: BTreeSet<Name>,
    /// Those that the configuration no longer has and that are still open.
    leaving: BTreeSet<Name>,
    /// Listeners that were built so far; for tests.
    #[cfg(test)]
    pub built: usize,
}

struct Entry {
    /// `None`: the configuration no longer has it.
    config: Option<Arc<Listener>>,
    revision: u64,
    /// The slot that accepts connections: still the old one while the new address cannot be bound. `None`: there is none.
    slot: Option<Arc<ListenerSlot>>,
    /// Its address could not be bound and will be tried again.
    waiting: bool,
    /// Plugins that have never started: chains with them stay as they were.
    held: BTreeSet<Name>,
    /// Its connection managers were kept from changing.
    frozen: bool,
    /// Whether there are findings.
    flawed: bool,
    /// For a listener that the configuration no longer has: the one whose address must be bound before this one closes.
    replaced_by: Option<Name>,
}

/// What a delta does to listeners. Nothing of it is in use before [`Listeners::publish`].
#[derive(Default)]
pub(super) struct Changes {
    fresh: Vec<Fresh>,
    built: Vec<(Arc<ListenerSlot>, Arc<ListenerRt>)>,
    pub hcms: Vec<(HcmKey, HcmChange)>,
    added: Vec<Arc<Listener>>,
    closed: Vec<Arc<ListenerSlot>>,
}

/// A listener that is bound and waits for its connection managers before workers accept for it.
struct Fresh {
    slot: Arc<ListenerSlot>,
    sockets: Vec<Listening>,
    /// Its address could not be bound before.
    waited: bool,
    /// The slot of the same name that this one replaces.
    replaces: Option<Arc<ListenerSlot>>,
}

/// Why a listener is not bound.
enum Unbound {
    /// Another listener of the configuration has its address.
    Clash(Diagnostic),
    /// The system refused; it will be tried again.
    Refused(Diagnostic),
}

impl Listeners {
    pub fn new(shared: Arc<Shared>) -> Listeners {
        Listeners {
            shared,
            logs: Logs::default(),
            entries: BTreeMap::new(),
            by_address: HashMap::new(),
            by_secret: HashMap::new(),
            by_plugin: HashMap::new(),
            unbound: BTreeSet::new(),
            held: BTreeSet::new(),
            leaving: BTreeSet::new(),
            #[cfg(test)]
            built: 0,
        }
    }

    /// Notes a listener that is new or has changed; it is still to be built.
    pub fn set(&mut self, listener: Arc<Listener>, revision: u64, changes: &mut Changes) {
        let name = listener.name.clone();
        let before = self.entries.get_mut(&name).and_then(|e| e.config.take());
        if let Some(before) = &before {
            self.forget(before);
        } else {
            changes.added.push(listener.clone());
        }
        self.leaving.remove(&name);
        self.by_address.entry((listener.protocol, listener.address)).or_default().insert(name.clone());
        for secret in listener::secrets_of(&listener) {
            self.by_secret.entry(secret.clone()).or_default().insert(name.clone());
        }
        for plugin in plugins_of(&listener) {
            self.by_plugin.entry(plugin.clone()).or_default().insert(name.clone());
        }
        let entry = self.entries.entry(name).or_insert_with(|| Entry {
            config: None,
            revision,
            slot: None,
            waiting: false,
            held: BTreeSet::new(),
            frozen: false,
            flawed: false,
            replaced_by: None,
        });
        (entry.config, entry.revision, entry.replaced_by) = (Some(listener), revision, None);
    }

    /// Notes that a listener is gone. It stays open until [`Listeners::leave`].
    pub fn remove(&mut self, name: &Name) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let Some(config) = entry.config.take() else { return };
        (entry.waiting, entry.flawed) = (false, false);
        entry.held.clear();
        self.unbound.remove(name);
        self.held.remove(name);
        self.leaving.insert(name.clone());
        self.forget(&config);
        self.shared.verdicts.clear(&Id::new(ResourceKind::Listener, name.clone()));
    }

    fn forget(&mut self, config: &Listener) {
        fn remove<K: std::hash::Hash + Eq>(index: &mut HashMap<K, BTreeSet<Name>>, key: &K, name: &Name) {
            if let Some(names) = index.get_mut(key) {
                names.remove(name);
                if names.is_empty() {
                    index.remove(key);
                }
            }
        }
        remove(&mut self.by_address, &(config.protocol, config.address), &config.name);
        listener::secrets_of(config).for_each(|secret| remove(&mut self.by_secret, secret, &config.name));
        plugins_of(config).for_each(|plugin| remove(&mut self.by_plugin, plugin, &config.name));
    }

    /// Listeners that are to be built because of what they refer to: the secrets and plugins that changed, and addresses that
    /// could not be bound.
    pub fn dependents(&self, secrets: &HashSet<Name>, plugins: &HashSet<Name>) -> BTreeSet<Name> {
        let users = secrets.iter().filter_map(|s| self.by_secret.get(s)).flatten();
        let users = users.chain(plugins.iter().filter_map(|p| self.by_plugin.get(p)).flatten());
        users.chain(&self.unbound).cloned().collect()
    }

    /// Those whose address could not be bound and is free now.
    pub fn bindable(&self) -> BTreeSet<Name> {
        let free = |name: &&Name| {
            let config = self.entries.get(*name).filter(|e| e.waiting).and_then(|e| e.config.as_ref());
            config.is_some_and(|c| listen::probe(transport(c), c.address, self.is_ours(c)).is_ok())
        };
        self.unbound.iter().filter(free).cloned().collect()
    }

    pub fn waiting(&self) -> usize {
        self.unbound.iter().filter(|name| self.entries.get(*name).is_some_and(|e| e.waiting)).count()
    }

    /// Plugins that keep changes of these listeners or route configurations from being used.
    pub fn holders(&self, listeners: &BTreeSet<Name>, routes: &BTreeSet<Name>) -> BTreeSet<Name> {
        let concerned = |(name, entry): &(&Name, &Entry)| {
            listeners.contains(*name) || entry.config.iter().flat_map(|c| managers_of(c)).any(|hcm| routes.contains(&hcm.route_config))
        };
        let held = self.held.iter().filter_map(|name| self.entries.get_key_value(name));
        held.filter(concerned).flat_map(|(_, entry)| entry.held.iter().cloned()).collect()
    }

    pub fn is_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// The new form of one listener, and sockets if its address is new. `changed` and `plugins` name the secrets and plugins that changed.
    pub fn build(&mut self, name: &Name, secrets: &Secrets, changed: &HashSet<Name>, plugins: &HashSet<Name>, changes: &mut Changes) {
        let Some(mut entry) = self.entries.remove(name) else { return };
        if let Some(config) = entry.config.clone() {
            let findings = self.build_entry(&mut entry, &config, secrets, (changed, plugins), changes);
            if let Some(mut findings) = findings {
                for plugin in &entry.held {
                    let text = format!("listener `{name}` waits for the plugin `{plugin}` to start");
                    findings.push(Diagnostic::new(Severity::Info, "PluginNotStarted", text));
                }
                entry.flawed = !findings.is_empty();
                let state = state_of(&findings, !entry.held.is_empty());
                let findings = findings.into_iter().flat_map(|d| of_objects(d, &config)).collect();
                let id = Id::new(ResourceKind::Listener, name.clone());
                self.shared.verdicts.set(Verdict { id, revision: entry.revision, state, findings });
            }
        }
        let mut mark = |set: fn(&mut Listeners) -> &mut BTreeSet<Name>, is: bool| match is {
            true => _ = set(self).insert(name.clone()),
            false => _ = set(self).remove(name),
        };
        mark(|l| &mut l.held, !entry.held.is_empty());
        mark(|l| &mut l.unbound, entry.config.as_ref().is_some_and(|c| entry.slot.as_ref().is_none_or(|s| s.wanted != c.address)));
        self.entries.insert(name.clone(), entry);
    }

    /// What is found; `None` where nothing can have changed in it.
    fn build_entry(
        &mut self,
        entry: &mut Entry,
        config: &Arc<Listener>,
        secrets: &Secrets,
        (changed, plugins): (&HashSet<Name>, &HashSet<Name>),
        changes: &mut Changes,
    ) -> Option<Vec<Diagnostic>> {
        let name = &config.name;
        let current = entry.slot.as_ref().map(|s| s.current.load_full());
        if let Some(current) = &current
            && Arc::ptr_eq(&current.config, config)
            && entry.slot.as_ref().is_some_and(|s| s.wanted == config.address)
            && !entry.flawed
            && !entry.frozen
            && !plugins_of(config).any(|p| plugins.contains(p))
            && listener::renew(current, secrets, changed)
        {
            return None;
        }
        #[cfg(test)]
        (self.built += 1);
        let shared = self.shared.clone();
        let untried = |p: &&Name| shared.plugins.slot(p).is_some_and(|slot| !slot.is_tried());
        let held = |chain: &FilterChain| chain.http_connection_manager().is_some_and(|hcm| plugins_in(hcm).any(|p| untried(&p)));
        entry.held = plugins_of(config).filter(untried).cloned().collect();
        let mut log_findings: Vec<Diagnostic> = Vec::new();
        let mut logs = |config: &[AccessLog]| {
            let (logs, found) = self.logs.get(config, &shared.sinks);
            let new: Vec<_> = found.iter().filter(|d| !log_findings.contains(d)).cloned().collect();
            log_findings.extend(new);
            logs
        };
        let (rt, mut findings) = listener::build(config, current.as_deref(), secrets, changed, &shared.clusters, &mut logs, &held);
        let rt = Arc::new(rt);
        let before: HashMap<&Name, _> = current.iter().flat_map(|c| c.chains()).map(|c| (&c.config.name, c)).collect();
        let held: HashSet<&Name> = config.filter_chains.iter().filter(|c| held(c)).map(|c| &c.name).collect();
        let was_frozen = std::mem::replace(&mut entry.frozen, !held.is_empty());
        let (mut hcms, mut servers) = (Vec::new(), Servers::default());
        for chain in rt.chains() {
            let Some(hcm) = chain.config.http_connection_manager() else { continue };
            let logs = logs(&hcm.access_log);
            let key = HcmKey { listener: name.clone(), chain: chain.config.name.clone() };
            if held.contains(&key.chain) {
                hcms.push((key, HcmChange::Freeze));
                continue;
            }
            let same = before.get(&key.chain).is_some_and(|b| Arc::ptr_eq(b, chain));
            if same && !was_frozen && !plugins_in(hcm).any(|p| plugins.contains(p)) {
                continue;
            }
            let old = shared.connection_managers.base(&key);
            let filters = match FilterList::compile(&hcm.http_filters, old.as_ref().map(|h| &h.filters), |name| shared.plugins.slot(name)) {
                Ok(filters) => filters,
                // It must not serve without them: it stays as it was.
                Err(why) => {
                    findings.push(Diagnostic::error("InvalidValue", format!("listener `{name}`: {why}")));
                    continue;
                }
            };
            let new = HcmBase::new(hcm, logs, filters, &mut servers);
            let old = old.filter(|h| h.same(&new));
            hcms.push((key, HcmChange::Set(old.unwrap_or_else(|| Arc::new(new)))));
        }
        let now: HashSet<&Name> =
            rt.chains().iter().filter(|c| c.config.http_connection_manager().is_some()).map(|c| &c.config.name).collect();
        let gone = before.values().filter(|c| c.config.http_connection_manager().is_some() && !now.contains(&c.config.name));
        hcms.extend(gone.map(|c| (HcmKey { listener: name.clone(), chain: c.config.name.clone() }, HcmChange::Remove)));
        findings.extend(log_findings);
        let waited = std::mem::take(&mut entry.waiting);
        match entry.slot.clone() {
            Some(slot) if slot.wanted == config.address => changes.built.push((slot, rt)),
            // It opens with its first chain.
            None if rt.chains().is_empty() && !entry.held.is_empty() => {}
            before => match self.bind(config, rt.clone(), waited, before.clone()) {
                Ok(fresh) => {
                    entry.slot = Some(fresh.slot.clone());
                    changes.fresh.push(fresh);
                    // The old address stays in use until the new one serves.
                    changes.built.extend(before.map(|b| (b, rt)));
                }
                Err(why) => {
                    entry.waiting = matches!(why, Unbound::Refused(_));
                    let (Unbound::Clash(why) | Unbound::Refused(why)) = why;
                    findings.push(why);
                    changes.built.extend(before.map(|b| (b, rt)));
                }
            },
        }
        if entry.slot.is_some() {
            changes.hcms.extend(hcms);
        }
        Some(findings)
    }

    /// Whether this process already listens on the port.
    fn is_ours(&self, config: &Listener) -> bool {
        let alike = |s: &ListenerSlot| s.protocol == config.protocol && s.address.port() == config.address.port();
        self.shared.listeners.load().iter().any(|s| alike(s))
    }

    fn bind(
        &self,
        config: &Arc<Listener>,
        rt: Arc<ListenerRt>,
        waited: bool,
        replaces: Option<Arc<ListenerSlot>>,
    ) -> Result<Fresh, Unbound> {
        let (name, address) = (&config.name, config.address);
        let first = self
            .by_address
            .get(&(config.protocol, address))
            .and_then(BTreeSet::first)
            .filter(|first| *first != name && address.port() != 0);
        if let Some(other) = first {
            let text = format!("listener `{name}`: the address {address} is taken by listener `{other}`");
            return Err(Unbound::Clash(Diagnostic::error("AddressInUse", text)));
        }
        let ours = self.is_ours(config);
        let sockets = listen::bind(transport(config), address, self.shared.options.workers, ours).and_then(|s| Ok((s[0].local_addr()?, s)));
        match sockets {
            Ok((address, sockets)) => Ok(Fresh { slot: self.slot(config, address, rt), sockets, waited, replaces }),
            Err(e) => {
                self.shared.listener_create_failure.fetch_add(1, Ordering::Relaxed);
                let text = format!("listener `{name}`: cannot listen on {address}: {e}");
                let help = match e.kind() {
                    std::io::ErrorKind::AddrInUse => "another program listens there; the listener opens when it stops",
                    std::io::ErrorKind::PermissionDenied => "ports below 1024 need the capability CAP_NET_BIND_SERVICE",
                    std::io::ErrorKind::AddrNotAvailable => "the address belongs to no interface of this machine",
                    _ => "",
                };
                let d = Diagnostic::error("ListenFailed", text);
                Err(Unbound::Refused(if help.is_empty() { d } else { d.help(help) }))
            }
        }
    }

    fn slot(&self, config: &Listener, address: SocketAddr, rt: Arc<ListenerRt>) -> Arc<ListenerSlot> {
        Arc::new(ListenerSlot {
            name: config.name.clone(),
            id: next_id(),
            wanted: config.address,
            protocol: config.protocol,
            address,
            current: ArcSwap::new(rt),
            stats: Default::default(),
            open: Default::default(),
            total: self.shared.total.clone(),
        })
    }

    /// Closes the listeners that are gone. One that another listener replaces stays as it is until the address of that one can be
    /// bound.
    pub fn leave(&mut self, changes: &mut Changes) {
        for name in self.leaving.clone() {
            let Some(entry) = self.entries.get_mut(&name) else { continue };
            let (known, slot) = (entry.replaced_by.take(), entry.slot.clone());
            let exists = |name: &Name| self.entries.get(name).is_some_and(|e| e.config.is_some());
            let waits = |name: &Name| self.entries.get(name).is_some_and(|e| e.waiting);
            let replaced_by = match (known.filter(exists), &slot) {
                (Some(name), _) => Some(name).filter(waits),
                (None, Some(slot)) => replacement(&slot.current.load().config, &changes.added, &waits),
                (None, None) => None,
            };
            let keys =
                slot.iter().flat_map(|s| s.current.load().chains().to_vec()).filter(|c| c.config.http_connection_manager().is_some());
            let keys: Vec<_> = keys.map(|c| HcmKey { listener: name.clone(), chain: c.config.name.clone() }).collect();
            if replaced_by.is_some() {
                // It keeps serving with the routes that it has.
                changes.hcms.extend(keys.into_iter().map(|key| (key, HcmChange::Freeze)));
                if let Some(entry) = self.entries.get_mut(&name) {
                    (entry.replaced_by, entry.frozen) = (replaced_by, true);
                }
                Logger::Config.debug(format_args!("listener `{name}` stays until its new address can be bound"));
                continue;
            }
            Logger::Config.info(format_args!("listener `{name}` is gone"));
            changes.hcms.extend(keys.into_iter().map(|key| (key, HcmChange::Remove)));
            self.entries.remove(&name);
            self.leaving.remove(&name);
            changes.closed.extend(slot);
        }
    }

    /// Lets workers serve by what was built. To be called once the connection managers are published.
    pub fn publish(&mut self, changes: Changes) {
        let shared = &self.shared;
        let mut ended = Vec::new();
        for (slot, rt) in changes.built {
            let before = slot.current.swap(rt.clone());
            ended.extend(drain_groups_gone(&before, Some(&rt)));
        }
        let opens = !changes.fresh.is_empty() || !changes.closed.is_empty();
        let mut closed = changes.closed;
        for Fresh { slot, sockets, waited, replaces } in changes.fresh {
            let again = if waited { ", which is free now" } else { "" };
            Logger::Config.info(format_args!("listener `{}` on {}{again}", slot.name, slot.address));
            shared.post_each(sockets.into_iter().map(|socket| Command::Listen(slot.clone(), socket)));
            closed.extend(replaces);
        }
        for slot in &closed {
            ended.extend(drain_groups_gone(&slot.current.load(), None));
            shared.post_all(|| Command::Close(slot.id));
        }
        for drain_group in ended {
            drain_group.end();
            shared.post_all(|| Command::End(drain_group.clone()));
        }
        if opens {
            let slots: Vec<_> = self.entries.values().filter_map(|e| e.slot.clone()).collect();
            shared.listeners.store(Arc::new(slots));
        }
        shared.set_waiting_listeners(self.waiting());
        self.logs.sweep();
    }

    /// As they were given.
    pub fn given(&self) -> impl Iterator<Item = (&Name, &Arc<Listener>)> {
        self.entries.iter().filter_map(|(name, e)| Some((name, e.config.as_ref()?)))
    }
}

fn transport(config: &Listener) -> Transport {
    match config.protocol {
        SocketProtocol::Tcp => Transport::Tcp,
        SocketProtocol::Udp => Transport::Udp,
    }
}

fn managers_of(config: &Listener) -> impl Iterator<Item = &HttpConnectionManager> {
    config.filter_chains.iter().filter_map(|c| Some(&**c.http_connection_manager()?))
}

/// The plugins that a listener names.
fn plugins_of(config: &Listener) -> impl Iterator<Item = &Name> {
    managers_of(config).flat_map(plugins_in)
}

fn plugins_in(hcm: &HttpConnectionManager) -> impl Iterator<Item = &Name> {
    hcm.http_filters.iter().filter_map(|filter| match &filter.config {
        HttpFilterConfig::Wasm(plugin) => Some(plugin),
        _ => None,
    })
}

/// The finding, once for each object that the listener comes from.
fn of_objects(d: Diagnostic, config: &Listener) -> Vec<Diagnostic> {
    let mut origins: Vec<_> = config.origins.iter().collect();
    let mut seen = HashSet::new();
    origins.retain(|o| seen.insert(o.object.to_string()));
    if origins.is_empty() { vec![d] } else { origins.into_iter().map(|o| d.clone().from_origin(o)).collect() }
}

/// The waiting listener that replaces `gone`: a new one of the same object, of the same kind (with or without TLS) if the object
/// has new ones of that kind.
fn replacement(gone: &Listener, added: &[Arc<Listener>], waits: &dyn Fn(&Name) -> bool) -> Option<Name> {
    let has_tls = |l: &Listener| l.filter_chains.iter().any(|c| c.tls.is_some());
    let is_related = |l: &Listener| l.origins.iter().any(|o| gone.origins.iter().any(|g| g.object == o.object));
    let added: Vec<&Listener> = added.iter().map(|l| &**l).filter(|l| is_related(l)).collect();
    let alike = |l: &&Listener| has_tls(l) == has_tls(gone);
    let any_alike = added.iter().any(alike);
    added.into_iter().filter(|l| !any_alike || alike(l)).find(|l| waits(&l.name)).map(|l| l.name.clone())
}

/// The drain_groups of `old` that no chain of `new` goes on with.
fn drain_groups_gone(old: &ListenerRt, new: Option<&ListenerRt>) -> Vec<Arc<DrainGroup>> {
    let stay: HashSet<u64> = new.into_iter().flat_map(|n| n.chains()).map(|c| c.drain_group.id).collect();
    old.chains().iter().map(|c| &c.drain_group).filter(|g| !stay.contains(&g.id)).cloned().collect()
}
