//! The stand-ins of one case, and the gateway's configuration that leads to them.
use super::{
    cases::World,
    http::{self, Got, Record},
    redis,
};
use anyhow::{Context, Result};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, PoisonError},
};
use weir_config::model::{
    Address, Cluster, ClusterLoadAssignment, Config, Discovery, Endpoint, FilterChain, Forward, HttpConnectionManager, HttpFilter,
    Listener, Name, NetworkFilter, Origin, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, WasmCode, WasmPlugin,
    WeightedCluster,
};

/// What the route's upstream is called among those who were asked.
const UPSTREAM: &str = "upstream";

/// Stand-ins that answer, until this is dropped.
pub struct Running {
    record: Record,
    upstream: http::StandIn,
    services: Vec<(String, http::StandIn)>,
    redis: Vec<(String, redis::StandIn)>,
}

impl Running {
    pub async fn start(world: &World) -> Result<Running> {
        let record = Record::default();
        let upstream = http::StandIn::start(UPSTREAM, world.upstream.clone(), record.clone()).await?;
        let (mut services, mut redis) = (Vec::new(), Vec::new());
        for (name, rules) in &world.services {
            services.push((name.clone(), http::StandIn::start(name, rules.clone(), record.clone()).await?));
        }
        for (name, script) in &world.redis {
            redis.push((name.clone(), redis::StandIn::start(script.clone()).await?));
        }
        Ok(Running { record, upstream, services, redis })
    }

    pub fn redis(&self, name: &str) -> Option<&redis::StandIn> {
        self.redis.iter().find(|(n, _)| n == name).map(|(_, r)| r)
    }

    pub fn forget(&self) {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What the upstream was asked, and what the services were.
    pub fn seen(&self) -> (Vec<Got>, Vec<(String, Got)>) {
        let all = self.record.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (upstream, calls): (Vec<_>, Vec<_>) = all.into_iter().partition(|(name, _)| name == UPSTREAM);
        (upstream.into_iter().map(|(_, got)| got).collect(), calls)
    }

    /// A gateway with the plugin on every request. The plugin has another name in each case, so that it starts from scratch.
    pub fn config(&self, plugin: &Path, case: usize, configuration: &str) -> Result<Config> {
        let origin = Origin::named("plugin test");
        let plugin = wasm_plugin(plugin, case, configuration, &origin)?;
        let name: Name = "test".into();
        let mut hcm = HttpConnectionManager::new(name.clone(), name.clone());
        hcm.http_filters = HttpFilter::list(None, [(plugin.phase, plugin.name.clone())]);
        let filters = vec![NetworkFilter::HttpConnectionManager(Arc::new(hcm))];
        let chain = FilterChain { name: name.clone(), server_names: Vec::new(), tls: None, filters };
        let listener = Listener {
            name: name.clone(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            filter_chains: vec![Arc::new(chain)],
            protocol: Default::default(),
            proxy_protocol: false,
            max_connections: u32::MAX,
            origins: vec![origin.clone()],
        };
        let host = VirtualHost::new(name.clone(), vec!["*".into()], vec![Arc::new(route(origin))]);
        let routes = RouteConfiguration { name: name.clone(), virtual_hosts: vec![Arc::new(host)] };
        let mut config = Config {
            listeners: [(name.clone(), Arc::new(listener))].into(),
            routes: [(name, Arc::new(routes))].into(),
            plugins: [(plugin.name.clone(), Arc::new(plugin))].into(),
            ..Config::default()
        };
        let mut add = |name: String, address: SocketAddr| {
            let endpoints = ClusterLoadAssignment::new(None, vec![Endpoint::new(Address::Socket(address))]);
            let name: Name = name.into();
            config.clusters.insert(name.clone(), Arc::new(Cluster::new(name, Discovery::Static(Arc::new(endpoints)))));
        };
        add(UPSTREAM.into(), self.upstream.address);
        for (name, stand_in) in &self.services {
            cluster_names(name, 80).into_iter().for_each(|n| add(n, stand_in.address));
        }
        for (name, stand_in) in &self.redis {
            cluster_names(name, 6379).into_iter().for_each(|n| add(n, stand_in.address));
        }
        Ok(config)
    }
}

/// A plugin may say `outbound|80||auth.test` (as the Higress SDK does), `auth.test:80` or `auth.test` for one and the same.
fn cluster_names(name: &str, default_port: u16) -> Vec<String> {
    if name.contains('|') {
        return vec![name.into()];
    }
    let (host, port) = match name.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
        Some((host, Ok(port))) => (host, port),
        _ => (name, default_port),
    };
    vec![format!("outbound|{port}||{host}"), format!("{host}:{port}"), host.into()]
}

fn route(origin: Origin) -> Route {
    let forward = Forward::to(vec![WeightedCluster::only(UPSTREAM.into())]);
    Route::new("test".into(), RouteMatch::any(), RouteAction::Forward(Box::new(forward)), origin)
}

fn wasm_plugin(file: &Path, case: usize, configuration: &str, origin: &Origin) -> Result<WasmPlugin> {
    let code = fs::read(file).with_context(|| file.display().to_string())?;
    let sha256 = HEXLOWER.encode(&Sha256::digest(&code));
    let name = format!("{}-{}", file.file_stem().unwrap_or_default().to_string_lossy(), case + 1).into();
    let code = WasmCode::File { path: file.display().to_string(), sha256 };
    Ok(WasmPlugin { configuration: configuration.into(), ..WasmPlugin::new(name, code, origin.clone()) })
}

#[cfg(test)]
mod tests {
    use super::cluster_names;

    #[test]
    fn a_stand_in_has_every_name_that_a_plugin_may_use() {
        for (name, expected) in [
            ("auth.test:8080", vec!["outbound|8080||auth.test", "auth.test:8080", "auth.test"]),
            ("auth.test", vec!["outbound|80||auth.test", "auth.test:80", "auth.test"]),
            ("outbound|80|v1|auth.test", vec!["outbound|80|v1|auth.test"]),
        ] {
            assert_eq!(cluster_names(name, 80), expected, "{name}");
        }
    }
}
