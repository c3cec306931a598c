//! A configuration without any object: everything to one URL, through one plugin at most (`weir run --to`).
use crate::{
    Options, Update,
    artifact::Artifacts,
    control::{PATIENCE, not_watched},
    source::{files::Files, inbox::Inbox, watch::Watch},
    status::{Edit, Owner},
};
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::mpsc;
use url::{Host, Url};
use weir_config::{
    delta::Delta,
    diagnostic::Diagnostic,
    model::{
        Address, Cluster, ClusterLoadAssignment, Config, Discovery, Endpoint, FilterChain, Forward, ForwardOptions, HostRewrite,
        HttpConnectionManager, HttpFilter, Listener, Name, NetworkFilter, Origin, PathRewrite, Route, RouteAction, RouteConfiguration,
        RouteMatch, SocketProtocol, UpstreamProtocol, UpstreamTls, VirtualHost, WasmCode, WasmLimits, WasmPlugin, WeightedCluster,
    },
};

/// Where everything goes.
#[derive(Clone, Debug)]
pub struct Direct {
    /// `http` or `https`, with a host. A path becomes the prefix of every request's.
    pub to: Url,
    pub listen: SocketAddr,
    /// A file, followed while it changes.
    pub plugin: Option<PathBuf>,
    /// JSON, or empty.
    pub plugin_config: String,
    pub plugin_limits: WasmLimits,
}

impl Direct {
    /// Builds the configuration, and builds it again each time the plugin's file changes, until the receiver is dropped.
    pub fn spawn(self, options: Options) -> io::Result<mpsc::Receiver<Update>> {
        let (send, receive) = mpsc::channel(1);
        let follow = move || {
            let mut file = self.plugin.as_deref().map(Followed::new);
            let mut before = Config::default();
            for revision in 1.. {
                let unwatched = file.as_ref().and_then(Followed::unwatched);
                let began = Instant::now();
                let mut diagnostics: Vec<Diagnostic> = unwatched.into_iter().collect();
                let config = self.config(&options, &mut diagnostics);
                let delta = Delta::between(&before, &config, revision);
                before = config;
                let findings = vec![(Owner::Watch, diagnostics.into_iter().map(Arc::new).collect())];
                options.status.edit(Edit { revision, objects: Vec::new(), findings });
                let update = Update { delta, objects: 1, translated: 1, took: began.elapsed(), read: None, complete: true };
                if send.blocking_send(update).is_err() {
                    return;
                }
                while !file.as_mut().is_some_and(|f| f.changed(PATIENCE)) {
                    if send.is_closed() {
                        return;
                    }
                    if file.is_none() {
                        std::thread::sleep(PATIENCE);
                    }
                }
            }
        };
        std::thread::Builder::new().name("weir-files".into()).spawn(follow)?;
        Ok(receive)
    }

    fn config(&self, options: &Options, diagnostics: &mut Vec<Diagnostic>) -> Config {
        let name: Name = "direct".into();
        let origin = Origin::named("--to");
        let cluster = self.cluster(&origin);
        let mut hcm = HttpConnectionManager::new(name.clone(), name.clone());
        hcm.access_log.clone_from(&options.access_log);
        let mut plugins = BTreeMap::new();
        if let Some(path) = &self.plugin {
            // One that cannot be read is there all the same: it fails to load, and is taken up when it can be.
            let digest = Artifacts::default().read(path).unwrap_or_else(|e| {
                diagnostics.push(Diagnostic::error("CodeNotFound", format!("cannot read {}: {e}", path.display())).from_origin(&origin));
                String::new()
            });
            let plugin = self.plugin(path, digest, &origin);
            hcm.http_filters = HttpFilter::list(None, [(plugin.phase, plugin.name.clone())]);
            plugins.insert(plugin.name.clone(), Arc::new(plugin));
        }
        let chain = FilterChain {
            name: name.clone(),
            server_names: Vec::new(),
            tls: None,
            filters: vec![NetworkFilter::HttpConnectionManager(Arc::new(hcm))],
        };
        let listener = Listener {
            name: name.clone(),
            address: self.listen,
            filter_chains: vec![Arc::new(chain)],
            protocol: SocketProtocol::Tcp,
            proxy_protocol: options.proxy_protocol,
            max_connections: u32::MAX,
            origins: vec![origin.clone()],
        };
        let host = VirtualHost::new(name.clone(), vec!["*".into()], vec![Arc::new(self.route(&cluster.name, origin))]);
        let routes = RouteConfiguration { name: name.clone(), virtual_hosts: vec![Arc::new(host)] };
        Config {
            listeners: [(name.clone(), Arc::new(listener))].into(),
            routes: [(name, Arc::new(routes))].into(),
            clusters: [(cluster.name.clone(), Arc::new(cluster))].into(),
            plugins,
            ..Config::default()
        }
    }

    fn cluster(&self, origin: &Origin) -> Cluster {
        let port = self.to.port_or_known_default().unwrap_or(80);
        let host = self.to.host_str().unwrap_or_default();
        let address = match self.to.host() {
            Some(Host::Ipv4(ip)) => Address::Socket((ip, port).into()),
            Some(Host::Ipv6(ip)) => Address::Socket((ip, port).into()),
            _ => Address::Name { host: host.into(), port },
        };
        let resolved = matches!(address, Address::Socket(_));
        let endpoints = Arc::new(ClusterLoadAssignment::new(None, vec![Endpoint::new(address)]));
        let discovery = if resolved { Discovery::Static(endpoints) } else { Discovery::StrictDns(endpoints) };
        let mut cluster = Cluster::new(format!("outbound|{port}||{host}").into(), discovery);
        if self.to.scheme() == "https" {
            cluster.tls = Some(Box::new(UpstreamTls { sni: Some(host.into()), ..UpstreamTls::default() }));
            cluster.protocol = UpstreamProtocol::Auto;
        }
        cluster.origin = Some(origin.clone());
        cluster
    }

    fn route(&self, cluster: &Name, origin: Origin) -> Route {
        let base = self.to.path().trim_end_matches('/');
        // A server of many names wants its own; a process on this machine wants to see what the client asked for.
        let named = matches!(self.to.host(), Some(Host::Domain(name)) if name != "localhost");
        let authority = &self.to[url::Position::BeforeHost..url::Position::AfterPort];
        let options = ForwardOptions {
            path_rewrite: (!base.is_empty()).then(|| Box::new(PathRewrite::Prefix(format!("{base}/")))),
            host_rewrite: named.then(|| HostRewrite::Literal(authority.into())),
            ..ForwardOptions::default()
        };
        let forward = Forward { clusters: vec![WeightedCluster::only(cluster.clone())], options: options.into() };
        Route::new("direct".into(), RouteMatch::any(), RouteAction::Forward(Box::new(forward)), origin)
    }

    fn plugin(&self, path: &Path, sha256: String, origin: &Origin) -> WasmPlugin {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().as_ref().into();
        let code = WasmCode::File { path: path.display().to_string(), sha256 };
        WasmPlugin {
            configuration: self.plugin_config.as_str().into(),
            limits: self.plugin_limits.clone(),
            ..WasmPlugin::new(name, code, origin.clone())
        }
    }
}

/// A file that is watched, with all that its name leads over.
struct Followed {
    paths: Vec<PathBuf>,
    seen: Option<(SystemTime, u64)>,
    inbox: Inbox,
    watch: Result<Watch, notify::Error>,
}

impl Followed {
    fn new(path: &Path) -> Followed {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let inbox = Inbox::default();
        let watch = inbox.watch();
        let mut followed = Followed { seen: None, paths: vec![path], inbox, watch };
        followed.follow();
        followed.seen = followed.stamp();
        followed
    }

    fn unwatched(&self) -> Option<Diagnostic> {
        self.watch.as_ref().err().map(not_watched)
    }

    /// Watches the file, and where it leads to.
    fn follow(&mut self) {
        self.paths.truncate(1);
        self.paths.extend(std::fs::canonicalize(&self.paths[0]).ok().filter(|real| *real != self.paths[0]));
        let paths = &self.paths;
        let followed = self.watch.as_mut().map_or(Ok(false), |w| w.follow(&Files::default(), paths.iter().map(PathBuf::as_path)));
        if let Err(e) = followed {
            self.watch = Err(e);
        }
    }

    /// What changes when the file does.
    fn stamp(&self) -> Option<(SystemTime, u64)> {
        let about = std::fs::metadata(&self.paths[0]).ok()?;
        Some((about.modified().ok()?, about.len()))
    }

    /// Waits for a change, at most for `patience`.
    fn changed(&mut self, patience: Duration) -> bool {
        let happened = match &mut self.watch {
            Ok(watch) => self.inbox.wait(Some(watch), patience).is_some(),
            Err(_) => {
                std::thread::sleep(patience);
                false
            }
        };
        if !happened {
            return false;
        }
        self.follow();
        let now = self.stamp();
        std::mem::replace(&mut self.seen, now) != now
    }
}
