//! The services of registries (McpBridge) as objects of the index.
//!
//! Each service of a registry is a ServiceEntry that no source holds: routes, DestinationRules and plugins refer to its host as to any
//! other. Its place is that of its registry in the McpBridge. `follow` follows registries on servers from a thread of its own, `shared`
//! is what it shares with the control plane, and `service` the one form in which all of them say what they have.
mod connect;
mod consul;
mod eureka;
mod follow;
mod nacos;
pub mod service;
pub mod shared;
pub mod stats;
mod zookeeper;

pub use shared::{Stats, Waiting, Wake};

use crate::{
    api::{
        istio::ServiceEntry,
        mcp_bridge::{self, McpBridge, Registry, RegistryKind, Server, Source},
    },
    object::{Key, Kind, Meta, Object, Spec},
    source::files::Changes,
    status::condition::{Condition, PENDING, Scope},
};
use shared::{Health, Shared, Slot};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    thread,
    time::Duration,
};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    task::AbortHandle,
};
use weir_config::{
    diagnostic::Diagnostic,
    model::{CidrRange, Name},
};
use weir_net::{
    dial::{Guard, GuardedResolver, is_protected},
    dns,
};

/// How servers are reached, and what they may have.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Name servers; empty for those of the system.
    pub dns_resolvers: Vec<SocketAddr>,
    /// Protected addresses that servers and endpoints may have all the same.
    pub allowed_addresses: Vec<CidrRange>,
    pub limits: Limits,
    pub stats: Stats,
}

/// What a registry may have, and how long its server may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Services of one registry; others are left out.
    pub services: usize,
    /// Endpoints of one service; others are left out.
    pub endpoints: usize,
    /// Bytes of one answer of a server.
    pub answer_bytes: usize,
    pub connect_timeout: Duration,
    pub request_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            services: 20_000,
            endpoints: 10_000,
            answer_bytes: 64 << 20,
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(10),
        }
    }
}

/// One registry of a McpBridge.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct RegistryId {
    bridge: Key,
    kind: RegistryKind,
    name: Name,
}

/// What is known of one registry.
struct Known {
    bridge: Arc<Object>,
    registry: Registry,
    /// The objects made of its services, by host.
    objects: BTreeMap<Name, Arc<Object>>,
    followed: Option<Followed>,
}

/// A registry on a server.
struct Followed {
    slot: Slot,
    server: Arc<Server>,
    credentials: Credentials,
    task: AbortHandle,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a Secret has for servers.
#[derive(Clone, Default, PartialEq)]
pub struct Credentials {
    pub nacos_username: Option<String>,
    pub nacos_password: Option<String>,
    pub consul_token: Option<String>,
    /// There is no such Secret.
    missing: bool,
}

/// What is known of all registries.
pub struct Registries {
    namespaces: Vec<Name>,
    known: BTreeMap<RegistryId, Known>,
    slots: BTreeMap<Slot, RegistryId>,
    last: u64,
    /// `None`: servers are not followed, as where a configuration is only checked.
    servers: Option<Servers>,
}

/// The thread that follows servers.
struct Servers {
    shared: Arc<Shared>,
    runtime: Handle,
    resolver: Arc<GuardedResolver>,
    limits: Limits,
    /// Ends the thread when it is dropped.
    _stop: oneshot::Sender<()>,
}

impl Registries {
    /// Those of McpBridges in these namespaces.
    pub fn new(namespaces: Vec<Name>) -> Registries {
        Registries { namespaces, known: BTreeMap::new(), slots: BTreeMap::new(), last: 0, servers: None }
    }

    /// Others are reported where they are translated.
    fn uses(&self, bridge: &Key) -> bool {
        *bridge.name == *mcp_bridge::NAME && self.namespaces.contains(&bridge.namespace)
    }

    /// From now on servers are followed; `wake` is called when there is something to take.
    pub fn start(&mut self, options: &Options, wake: Wake) -> io::Result<()> {
        let allowed = Arc::new(options.allowed_addresses.clone());
        let is_allowed = move |ip: IpAddr| allowed.iter().any(|range| range.contains(ip.to_canonical()));
        let may_use = is_allowed.clone();
        let shared = Arc::new(Shared::new(wake, Box::new(move |ip| is_protected(ip) && !is_allowed(ip)), options.limits));
        options.stats.set(&shared);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let resolver = {
            let _within = runtime.enter();
            dns::Resolver::new(dns::Options { servers: options.dns_resolvers.clone(), ..dns::Options::default() })?
        };
        let resolver = Arc::new(GuardedResolver::new(Arc::new(resolver), Guard::new(may_use)));
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::Builder::new().name("weir-registries".into()).spawn(move || {
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
        self.servers = Some(Servers { shared, runtime: handle, resolver, limits: options.limits, _stop: stop });
        Ok(())
    }

    /// Takes over those of `changes` that concern registries. Returns the services that come, change or go. `secret` finds a Secret as
    /// of these changes.
    pub fn follow(&mut self, changes: &Changes, secret: &dyn Fn(&Key) -> Option<Arc<Object>>) -> Changes {
        let mut all = Changes::new();
        for (key, object) in changes.iter().filter(|(key, _)| key.kind == Kind::McpBridge) {
            let used = object.as_ref().filter(|_| self.uses(key));
            let bridge = used.and_then(|object| match &object.spec {
                Spec::McpBridge(bridge) => Some((object, &**bridge)),
                _ => None,
            });
            self.set(key, bridge, secret, &mut all);
        }
        if changes.iter().any(|(key, _)| key.kind == Kind::Secret) {
            let ids: Vec<RegistryId> = self.known.iter().filter(|(_, known)| known.followed.is_some()).map(|(id, _)| id.clone()).collect();
            ids.iter().for_each(|id| self.connect(id, secret));
        }
        all
    }

    fn set(
        &mut self,
        key: &Key,
        bridge: Option<(&Arc<Object>, &McpBridge)>,
        secret: &dyn Fn(&Key) -> Option<Arc<Object>>,
        changes: &mut Changes,
    ) {
        let mut now = BTreeSet::new();
        for (object, registry) in bridge.into_iter().flat_map(|(object, bridge)| bridge.registries.iter().map(move |r| (object, r))) {
            let id = RegistryId { bridge: key.clone(), kind: registry.kind, name: registry.name.clone() };
            let new = || Known { bridge: object.clone(), registry: registry.clone(), objects: BTreeMap::new(), followed: None };
            let known = self.known.entry(id.clone()).or_insert_with(new);
            (known.bridge, known.registry) = (object.clone(), registry.clone());
            match &registry.source {
                Source::Listed(entry) => known.put_all(&[(**entry).clone()], changes),
                Source::Server(_) => {
                    // They have another place now.
                    known.put_all(&known.entries(), changes);
                    self.connect(&id, secret);
                }
            }
            now.insert(id);
        }
        let gone: Vec<RegistryId> = self.known.keys().filter(|id| id.bridge == *key && !now.contains(id)).cloned().collect();
        for id in gone {
            let Some(known) = self.known.remove(&id) else { continue };
            if let (Some(followed), Some(servers)) = (&known.followed, &self.servers) {
                servers.shared.close(followed.slot);
                self.slots.remove(&followed.slot);
            }
            changes.extend(known.objects.into_values().map(|object| (object.key.clone(), None)));
        }
    }

    /// Follows the server of a registry, unless that is done already in the same way.
    fn connect(&mut self, id: &RegistryId, secret: &dyn Fn(&Key) -> Option<Arc<Object>>) {
        let (Some(servers), Some(known)) = (&self.servers, self.known.get_mut(id)) else { return };
        let Source::Server(server) = &known.registry.source else { return };
        let credentials = match &server.secret {
            None => Credentials::default(),
            Some(name) => {
                secret(&Key::new(Kind::Secret, &id.bridge.namespace, name)).map_or_else(Credentials::missing, |o| Credentials::of(&o))
            }
        };
        if known.followed.as_ref().is_some_and(|f| f.server == *server && f.credentials == credentials) {
            return;
        }
        // What the one before knew serves until this one was read.
        let before = known.followed.take().map(|followed| {
            self.slots.remove(&followed.slot);
            servers.shared.close(followed.slot)
        });
        self.last += 1;
        let slot = Slot(self.last);
        let title = title(&known.registry, server);
        let sink = servers.shared.open(slot, id.name.clone(), title, before.unwrap_or_default());
        let task = servers.runtime.spawn(follow::run(server.clone(), credentials.clone(), servers.resolver.clone(), servers.limits, sink));
        known.followed = Some(Followed { slot, server: server.clone(), credentials, task: task.abort_handle() });
        self.slots.insert(slot, id.clone());
    }

    /// What changed at servers since the last time.
    pub fn take(&mut self) -> Changes {
        let mut all = Changes::new();
        let Some(servers) = &self.servers else { return all };
        for (slot, host, service) in servers.shared.take() {
            let Some(known) = self.slots.get(&slot).and_then(|id| self.known.get_mut(id)) else { continue };
            match service {
                Some(service) => known.put(service.entry(&host), &mut all),
                None => all.extend(known.objects.remove(&host).map(|object| (object.key.clone(), None))),
            }
        }
        all
    }

    /// Some registry is on a server that is followed.
    pub fn follows(&self) -> bool {
        !self.slots.is_empty()
    }

    /// Every registry was read, or cannot be read for now.
    pub fn is_settled(&self) -> bool {
        self.healths().all(|(_, _, health)| health.is_settled())
    }

    fn healths(&self) -> impl Iterator<Item = (&Known, &Followed, Health)> {
        let followed = self.known.values().filter_map(|known| Some((known, known.followed.as_ref()?)));
        let servers = self.servers.as_ref();
        followed.filter_map(move |(known, followed)| Some((known, followed, servers?.shared.health(followed.slot))))
    }

    /// The conditions of the McpBridges that are used. None where servers are not followed.
    pub fn conditions(&self) -> BTreeMap<Key, Arc<[Condition]>> {
        let mut all: BTreeMap<Key, Vec<Condition>> = BTreeMap::new();
        let Some(servers) = &self.servers else { return BTreeMap::new() };
        for known in self.known.values() {
            let Spec::McpBridge(bridge) = &known.bridge.spec else { continue };
            let same = |r: &Registry| (r.kind, &r.name) == (known.registry.kind, &known.registry.name);
            let Some(index) = bridge.registries.iter().position(same) else { continue };
            let conditions = all.entry(known.bridge.key.clone()).or_insert_with(|| vec![Condition::accepted()]);
            conditions.push(match &known.followed {
                Some(followed) => connected(index, &servers.shared.health(followed.slot)),
                None => condition(index, true, "Connected", "The McpBridge lists its services"),
            });
        }
        all.into_iter().map(|(key, conditions)| (key, conditions.into())).collect()
    }

    /// The first configuration waits for no registry any more.
    pub fn end_waiting(&self) {
        if let Some(servers) = &self.servers {
            servers.shared.end_waiting();
        }
    }

    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut all = Vec::new();
        let Some(Servers { limits, .. }) = &self.servers else { return all };
        for (known, followed, health) in self.healths() {
            let line = &known.registry.line;
            let title = title(&known.registry, &followed.server);
            let mut say = |found: Diagnostic| all.push(found.from_origin(&known.bridge.origin_at(*line)));
            if let Some(why) = &health.error {
                let serves = if health.synced || !known.objects.is_empty() {
                    "the services that were read before keep serving"
                } else {
                    "none of its services was read yet"
                };
                say(Diagnostic::warning("NotConnected", format!("{title} cannot be followed: {why}")).help(serves));
            }
            if health.too_many {
                let message = format!("{title} has more than {} services: the others are left out", limits.services);
                say(Diagnostic::warning("TooManyServices", message).help("name fewer groups, or a tag, or raise --max-registry-services"));
            }
            if followed.credentials.missing
                && let Some(secret) = &followed.server.secret
            {
                let message =
                    format!("there is no Secret {}/{secret} for {title}: it is asked without credentials", known.bridge.key.namespace);
                say(Diagnostic::warning("SecretNotFound", message).help("add it, or change authSecretName"));
            }
        }
        all
    }
}

fn title(registry: &Registry, server: &Server) -> String {
    format!("the registry {} ({}) at {}:{}", registry.name, registry.kind.name(), server.host, server.port)
}

/// Whether the registry with this index in the McpBridge is followed, and why not.
fn connected(index: usize, health: &Health) -> Condition {
    let (status, reason, message) = match &health.error {
        Some(why) => (false, "NotConnected", why.as_str()),
        None if health.connected => (true, "Connected", "The registry is followed"),
        None => (false, PENDING, "The registry is being read"),
    };
    condition(index, status, reason, message)
}

fn condition(index: usize, status: bool, reason: &'static str, message: &str) -> Condition {
    Condition { scope: Scope::Registry(index as u32), kind: "Connected", status, reason, message: message.into() }
}

impl Credentials {
    fn missing() -> Credentials {
        Credentials { missing: true, ..Credentials::default() }
    }

    fn of(object: &Object) -> Credentials {
        let Spec::Secret(secret) = &object.spec else { return Credentials::missing() };
        let text = |key: &str| secret.data.get(key).map(|text| text.trim_end_matches('\n').to_string());
        Credentials {
            nacos_username: text("nacosUsername"),
            nacos_password: text("nacosPassword"),
            consul_token: text("consulToken"),
            missing: false,
        }
    }
}

impl Known {
    fn entries(&self) -> Vec<ServiceEntry> {
        let entry = |object: &Arc<Object>| match &object.spec {
            Spec::ServiceEntry(entry) => Some((**entry).clone()),
            _ => None,
        };
        self.objects.values().filter_map(entry).collect()
    }

    /// These are all services from now on.
    fn put_all(&mut self, services: &[ServiceEntry], changes: &mut Changes) {
        let now: BTreeSet<&Name> = services.iter().filter_map(|entry| entry.hosts.first()).collect();
        let gone: Vec<Name> = self.objects.keys().filter(|host| !now.contains(host)).cloned().collect();
        changes.extend(gone.iter().filter_map(|host| self.objects.remove(host)).map(|object| (object.key.clone(), None)));
        services.iter().for_each(|entry| self.put(entry.clone(), changes));
    }

    fn put(&mut self, entry: ServiceEntry, changes: &mut Changes) {
        let Some(host) = entry.hosts.first().cloned() else { return };
        let made = self.object(&host, entry);
        let same = |old: &Arc<Object>| old.says_the_same(&made) && old.document.is_version_of(&made.document) && old.line == made.line;
        if !self.objects.get(&host).is_some_and(same) {
            let made = Arc::new(made);
            changes.push((made.key.clone(), Some(made.clone())));
            self.objects.insert(host, made);
        }
    }

    /// No source can hold an object of this name.
    fn object(&self, host: &str, entry: ServiceEntry) -> Object {
        let key = Key::new(Kind::ServiceEntry, &self.bridge.key.namespace, &format!("{host}@{}", self.registry.name));
        let (document, line) = (self.bridge.document.clone(), self.registry.line);
        Object { meta: Meta { line, ..Meta::new(key) }, spec: Spec::ServiceEntry(Box::new(entry)), document }
    }
}
