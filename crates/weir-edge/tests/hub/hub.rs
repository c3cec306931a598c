//! A hub in this process, and clients of it.
use super::{
    line::{Conditions, Line},
    upstream::Upstream,
};
use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use weir_edge::{
    cache::Limits,
    handover::Sockets,
    hub::Hub,
    offline::outbox,
    run::{Options, Running},
    upstream::{
        credentials::Files,
        health::Thresholds,
        remote::{Balance, Timeouts},
    },
};
use weir_test::{
    Ca, Signed,
    client::{Answer, Connection},
    eventually,
};

pub const JSON: (&str, &str) = ("accept", "application/json");

type Change = Box<dyn Fn(&mut Options) + Send + Sync>;

/// An API server and a hub in front of it.
pub struct Rig {
    pub upstream: Upstream,
    pub hub: Option<Started>,
    folder: TempDir,
    change: Change,
    /// Between the hub and the API server, where there is one.
    pub line: Option<Line>,
    /// Of the API server; it outlives hubs.
    runtime: Runtime,
}

pub struct Started {
    pub address: SocketAddr,
    pub hub: Arc<Hub>,
    running: Option<Running>,
    runtime: Option<Runtime>,
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

impl Rig {
    pub fn start() -> Rig {
        Rig::with(|_| {})
    }

    pub fn with(change: impl Fn(&mut Options) + Send + Sync + 'static) -> Rig {
        Rig::build(Box::new(change), None)
    }

    /// With a line between the two.
    pub fn behind(conditions: Conditions, change: impl Fn(&mut Options) + Send + Sync + 'static) -> Rig {
        Rig::build(Box::new(change), Some(conditions))
    }

    fn build(change: Change, conditions: Option<Conditions>) -> Rig {
        let runtime = runtime();
        let upstream = runtime.block_on(Upstream::start());
        let line = conditions.map(|conditions| runtime.block_on(Line::to(upstream.address, conditions)));
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.crt"), upstream.ca.pem()).unwrap();
        let node = upstream.ca.sign(&["system:node:n"]);
        fs::write(folder.path().join("node.pem"), node.pem + &node.key).unwrap();
        let mut rig = Rig { upstream, hub: None, folder, change, line, runtime };
        rig.start_hub();
        rig
    }

    pub fn start_hub(&mut self) {
        let file = |name: &str| self.folder.path().join(name);
        let server = self.line.as_ref().map_or(self.upstream.address, |line| line.address);
        let mut options = Options {
            servers: vec![format!("https://{server}").parse().unwrap()],
            balance: Balance::RoundRobin,
            node_name: "n".into(),
            files: Files { certificate_authority: file("ca.crt"), client_certificate: file("node.pem"), client_key: None },
            certificates: Default::default(),
            tunnel: None,
            interface: None,
            secure: None,
            plain: Some(([127, 0, 0, 1], 0).into()),
            store: file("store"),
            key: None,
            admin_socket: file("admin.sock"),
            admin: None,
            quota: 64 << 20,
            gc_grace_period: Duration::ZERO,
            limits: Limits::default(),
            outbox: outbox::Limits { events_per_second: 100, ..outbox::Limits::default() },
            settings: weir_edge::settings::File::default(),
            yurt_hub_cfg: None,
            review_ttl: Duration::from_secs(60),
            // No pause of a busy machine is taken for the end of the link.
            timeouts: Timeouts { connect: Duration::from_secs(60), ping_timeout: Duration::from_secs(60), ..Timeouts::default() },
            thresholds: Thresholds {
                probe_up: Duration::from_millis(200),
                probe_down: Duration::from_millis(100),
                ..Thresholds::default()
            },
            max_connections: 100,
            in_flight: Default::default(),
            access_log: None,
            filters: weir_edge::filters::context::Settings::default(),
            pool: None,
            advertise: None,
            pool_scope_resources: Vec::new(),
            pool_sharing: None,
        };
        (self.change)(&mut options);
        let runtime = runtime();
        // The store of the hub before may still be open for a moment.
        let running = eventually("the hub starts", || runtime.block_on(Running::start(options.clone(), Sockets::default())).ok());
        let address = running.listeners.iter().find(|(scheme, _)| *scheme == "http").unwrap().1;
        self.hub = Some(Started { address, hub: running.hub.clone(), running: Some(running), runtime: Some(runtime) });
    }

    /// Runs beside the API server.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// A file beside the store.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Another server, in whose authority the hub trusts.
    pub fn another(&self, certificate: impl FnOnce(&Ca) -> Signed) -> Upstream {
        let other = self.runtime.block_on(Upstream::with(certificate));
        let authorities = fs::read_to_string(self.path("ca.crt")).unwrap() + &other.ca.pem();
        // The hub may read it at any time.
        fs::write(self.path("ca.new"), authorities).unwrap();
        fs::rename(self.path("ca.new"), self.path("ca.crt")).unwrap();
        other
    }

    pub fn stop_hub(&mut self) {
        self.hub = None;
    }

    pub fn hub(&self) -> &Hub {
        &self.hub.as_ref().unwrap().hub
    }

    pub fn open(&self) -> Connection {
        Connection::open(self.hub.as_ref().unwrap().address).unwrap()
    }

    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.open().request("GET", "hub", path, headers, b"").unwrap()
    }

    pub fn watch(&self, path: &str, headers: &[(&str, &str)]) -> Watch {
        let mut connection = self.open();
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        connection.send(format!("GET {path} HTTP/1.1\r\nhost: hub\r\naccept: application/json\r\n{headers}\r\n")).unwrap();
        let head = connection.head().unwrap();
        let watch = Watch { connection, seen: String::new() };
        if head.status != 200 {
            panic!("{path}: {head:?}: {}: {:?}", watch.rest(), self.hub().remote.errors.all());
        }
        watch
    }

    /// Names of what a list of the hub has, however it comes to it.
    pub fn names(&self, path: &str, headers: &[(&str, &str)]) -> Vec<String> {
        names(&self.get(path, headers))
    }

    /// The link counts as down.
    pub fn is_down(&self) {
        eventually("the link is down", || (!self.hub().remote.is_up()).then_some(()));
    }
}

pub fn names(list: &Answer) -> Vec<String> {
    let list = list.json();
    let items = list["items"].as_array().unwrap_or_else(|| panic!("{list}"));
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_string()).collect()
}

impl Drop for Started {
    fn drop(&mut self) {
        self.running = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A watch of a client.
pub struct Watch {
    connection: Connection,
    seen: String,
}

impl Watch {
    /// The events up to one with this text.
    #[track_caller]
    pub fn until(&mut self, part: &str) -> Vec<serde_json::Value> {
        loop {
            if let Some(at) = self.seen.find(part)
                && let Some(end) = self.seen[at..].find('\n')
            {
                let rest = self.seen.split_off(at + end + 1);
                let lines = std::mem::replace(&mut self.seen, rest);
                return lines.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
            }
            match self.connection.chunk().unwrap_or_else(|e| panic!("{part}: {e}: {}", self.seen)) {
                Some(piece) => self.seen += std::str::from_utf8(&piece).unwrap(),
                None => panic!("the watch ended before {part}: {}", self.seen),
            }
        }
    }

    /// Reads to its end, and returns what came.
    pub fn rest(mut self) -> String {
        while let Ok(Some(piece)) = self.connection.chunk() {
            self.seen += &String::from_utf8_lossy(&piece);
        }
        self.seen
    }
}

/// Type and name of events.
pub fn told(events: &[serde_json::Value]) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_string();
    events.iter().map(|event| (text(&event["type"]), text(&event["object"]["metadata"]["name"]))).collect()
}
