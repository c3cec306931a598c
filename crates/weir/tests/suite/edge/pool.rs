//! Hubs of a node pool that share what they follow: one of them watches each kind at the API server, also when some of them fail.
use super::{
    filters::{POOL_KIND, POOLS, pool},
    hub::{Edge, JSON, Link, prepare},
};
use crate::{
    harness::{Kube, eventually},
    tls_client::Client,
};
use rcgen::{
    DnType,
    ExtendedKeyUsagePurpose::{self, ClientAuth},
};
use serde_json::{Value, json};
use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};
use weir_test::{
    Ca, Signed,
    client::Connection,
    kube::programs::{API, programs},
};

const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
/// What a hub takes to notice that another one is gone is at most 5 s; busy machines are slow.
const GAP: Duration = Duration::from_secs(60);

/// A certificate of a node, or of somebody else.
fn certificate(ca: &Ca, user: &str, group: &str, usages: &[ExtendedKeyUsagePurpose]) -> Signed {
    ca.sign_with(&["localhost"], |params| {
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.distinguished_name.push(DnType::CommonName, user);
        usages.iter().for_each(|usage| params.insert_extended_key_usage(usage.clone()));
    })
}

/// A cluster that lets nodes in whose certificates this test signs.
struct Cluster {
    kube: Kube,
    ca: Ca,
    folder: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Cluster {
        let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
        let client_ca = folder.path().join("client-ca.crt");
        fs::write(&client_ca, ca.pem()).unwrap();
        let trusted = format!("--client-ca-file={}", client_ca.display());
        let kube = Kube::with(programs(API).unwrap(), &["-api-only", "-apiserver-arg", &trusted], &[]);
        prepare(&kube);
        let authority = fs::read_to_string(kube.folder().join("pki/ca.crt")).unwrap();
        fs::write(folder.path().join("both.crt"), [authority, ca.pem()].concat()).unwrap();
        Cluster { kube, ca, folder }
    }

    /// The hub of a node, which shares with its peers.
    fn hub(&self, node: &str, link: &Link, peers: Option<&str>, usages: &[ExtendedKeyUsagePurpose]) -> Edge {
        let folder = self.folder.path().join(node);
        fs::create_dir_all(&folder).unwrap();
        let node_certificate = folder.join("node.pem");
        let signed = certificate(&self.ca, &format!("system:node:{node}"), "system:nodes", usages);
        fs::write(&node_certificate, [signed.pem, signed.key].concat()).unwrap();
        let cache = folder.join("cache");
        fs::create_dir_all(&cache).unwrap();
        let pki = |file: &str| self.kube.folder().join("pki").join(file);
        let mut command = Edge::command_of_node(Path::new(env!("CARGO_BIN_EXE_weir")), node, link, &cache);
        command.arg("--certificate-authority").arg(self.folder.path().join("both.crt")).arg("--client-certificate").arg(&node_certificate);
        command.arg("--tls-cert-file").arg(pki("edge.crt")).arg("--tls-private-key-file").arg(pki("edge.key"));
        command.args(["--pool-sharing", "--multiplexer-port", "0", "--node-ip", "127.0.0.1"]);
        command.args(peers.into_iter().flat_map(|peers| ["--pool-peers", peers]));
        Edge::run(command, &cache)
    }

    /// Watches of a kind at the API server.
    fn watches(&self) -> f64 {
        let metrics = self.kube.api("GET", "/metrics", "text/plain", b"").unwrap().body;
        let lines = metrics.lines().filter(|line| line.starts_with("apiserver_longrunning_requests{"));
        let of_kind = lines.filter(|line| line.contains("resource=\"endpointslices\"") && line.contains("verb=\"WATCH\""));
        of_kind.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Changes slices, and then makes one of this name.
    fn change(&self, name: &str) {
        for i in 0..10 {
            self.kube.apply(&slice(&format!("{name}-{i}"), i));
            self.kube.apply(&slice("changed", i));
            self.kube.delete(&slice(&format!("{name}-{i}"), i));
        }
        self.kube.apply(&slice(name, 0));
    }
}

fn slice(name: &str, i: usize) -> String {
    let metadata = json!({ "name": name, "namespace": "default", "labels": { "i": i.to_string() } });
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "addressType": "IPv4", "endpoints": [] })
        .to_string()
}

/// Type, name and resource version of an event.
type Seen = (String, String, String);

fn seen(event: &Value) -> Seen {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let metadata = &event["object"]["metadata"];
    (text(&event["type"]), text(&metadata["name"]), text(&metadata["resourceVersion"]))
}

/// The API server keeps a slice of its own.
fn is_ours(event: &Seen) -> bool {
    event.1 != "kubernetes"
}

/// A client of a hub, as a reflector is one: where its watch ends, the next one goes on from the last resource version.
struct Reader {
    hub: SocketAddr,
    version: String,
    connection: Connection<TcpStream>,
    held: Vec<u8>,
    seen: Vec<Seen>,
}

impl Reader {
    fn begin(edge: &Edge) -> Reader {
        let path = format!("{SLICES}?resourceVersion=0");
        let list = eventually("the list that all share", || {
            Some(edge.get(&path, &[JSON])).filter(|answer| is_shared(answer.status, answer.header("weir-cache")))
        });
        let version = list.json()["metadata"]["resourceVersion"].as_str().unwrap().to_string();
        Reader { hub: edge.address, connection: watch(edge.address, &version), version, held: Vec::new(), seen: Vec::new() }
    }

    /// Reads until an object of this name was added.
    fn until(&mut self, name: &str) {
        loop {
            while let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).unwrap();
                let (kind, object, version) = seen(&event);
                assert_ne!(kind, "ERROR", "{event}");
                self.version.clone_from(&version);
                if kind == "BOOKMARK" {
                    continue;
                }
                let last = kind == "ADDED" && object == name;
                let event = (kind, object, version);
                self.seen.extend(is_ours(&event).then_some(event));
                if last {
                    return;
                }
            }
            match self.connection.chunk() {
                Ok(Some(piece)) => self.held.extend(piece),
                Ok(None) | Err(_) => {
                    self.held.clear();
                    self.connection = watch(self.hub, &self.version);
                }
            }
        }
    }
}

/// A hub passes a client on to the API server where it is slow to begin.
fn is_shared(status: u16, cache: Option<&str>) -> bool {
    status == 200 && cache.is_some_and(|cache| cache.starts_with("hit"))
}

fn watch(hub: SocketAddr, version: &str) -> Connection<TcpStream> {
    let path = format!("{SLICES}?watch=1&allowWatchBookmarks=true&resourceVersion={version}");
    eventually("a watch of what all share", || {
        let mut connection = Connection::open(hub).unwrap();
        connection.send(format!("GET {path} HTTP/1.1\r\nhost: hub\r\naccept: application/json\r\n\r\n")).unwrap();
        let head = connection.head().unwrap();
        assert_ne!(head.status, 410, "events would be lost");
        is_shared(head.status, head.header("weir-cache")).then_some(connection)
    })
}

/// Where a hub follows the kind: the name of a node, or `API server`.
fn source(edge: &Edge) -> Option<String> {
    let stats = edge.admin("/stats").json();
    let all = stats["pool"]["followed"].as_array().cloned().unwrap_or_default();
    let ours = all.iter().find(|followed| followed["resource"] == "endpointslices.discovery.k8s.io" && followed["media"] == "json");
    ours?["source"].as_str().map(str::to_string)
}

/// The one of some hubs that follows the kind at the API server, once the others follow it there.
#[track_caller]
fn holder(hubs: &[(&str, Edge)]) -> String {
    eventually("one hub follows the API server, and the others that hub", || {
        let sources: Vec<(&str, String)> = hubs.iter().map(|(name, edge)| Some((*name, source(edge)?))).collect::<Option<_>>()?;
        let (holder, _) = sources.iter().find(|(_, source)| source == "API server")?;
        sources.iter().all(|(name, source)| name == holder || source == holder).then(|| holder.to_string())
    })
}

fn signal(edge: &Edge, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &edge.id().to_string()]).status().unwrap().success());
}

/// Where a hub listens for others.
fn pool_port(edge: &Edge) -> SocketAddr {
    edge.says("listening for other hubs of the node pool on https://").rsplit('/').next().unwrap().parse().unwrap()
}

#[test]
fn one_hub_of_a_pool_watches_for_all_and_another_takes_over() {
    let cluster = Cluster::start();
    let names = ["edge-a", "edge-b", "edge-c"];
    // The ways between the hubs: their ports are known before the hubs are there.
    let ways: Vec<Link> = names.iter().map(|_| Link::to_be()).collect();
    let links: Vec<Link> = names.iter().map(|_| Link::to(&cluster.kube)).collect();
    let before = cluster.watches();
    let peers: Vec<String> = names.iter().zip(&ways).map(|(name, way)| format!("{name}=127.0.0.1:{}", way.port())).collect();
    let mut hubs: Vec<(&str, Edge)> =
        names.iter().zip(&links).map(|(name, link)| (*name, cluster.hub(name, link, Some(&peers.join(",")), &[ClientAuth]))).collect();
    for ((_, edge), way) in hubs.iter().zip(&ways) {
        way.lead_to(pool_port(edge));
    }

    // One watch for the pool. A twin client asks the API server itself.
    let twin_version = cluster.kube.object(SLICES).unwrap()["metadata"]["resourceVersion"].as_str().unwrap().to_string();
    let mut twin = cluster.kube.watch(SLICES, &twin_version);
    let mut readers: Vec<(&str, Reader)> = hubs.iter().map(|(name, edge)| (*name, Reader::begin(edge))).collect();
    let first = holder(&hubs);
    eventually("one watch at the API server beside that of the twin", || (cluster.watches() == before + 2.0).then_some(()));
    let changed = |name: &str, readers: &mut [(&str, Reader)]| {
        cluster.change(name);
        let begin = Instant::now();
        readers.iter_mut().for_each(|(_, reader)| reader.until(name));
        let took = begin.elapsed();
        println!("{name}: all clients have it {took:?} after the API server");
        assert!(took < GAP, "{name}: {took:?}");
    };
    changed("steady", &mut readers);
    eventually("status says who follows what", || {
        let (_, text) = hubs[0].1.command(&["status"]);
        text.lines().any(|line| line.starts_with("followed") && line.contains("endpointslices")).then_some(())
    });

    // The link of the hub that watches is cut: it gets what another one has.
    let at = names.iter().position(|name| *name == first).unwrap();
    links[at].cut();
    eventually("another hub takes over", || {
        let sources: Vec<Option<String>> = hubs.iter().map(|(_, edge)| source(edge)).collect();
        let holds = |i: &usize| *i != at && sources[*i].as_deref() == Some("API server");
        (0..names.len()).filter(holds).find(|i| sources[at].as_deref() == Some(names[*i])).map(drop)
    });
    changed("cut", &mut readers);
    links[at].mend();

    // One that watches the API server crashes.
    let holds = |hubs: &[(&str, Edge)]| {
        eventually("a hub follows the API server", || hubs.iter().position(|(_, edge)| source(edge).as_deref() == Some("API server")))
    };
    let dead = holds(&hubs);
    hubs.remove(dead).1.kill();
    // Its client is gone with it; what it has seen is compared below.
    let ended = readers.remove(dead).1;
    changed("killed", &mut readers);

    // One of the others stands still: the last one goes on. When it moves again, its client has missed nothing.
    let frozen = holds(&hubs);
    signal(&hubs[frozen].1, "STOP");
    let (mut still, mut moving): (Vec<_>, Vec<_>) = readers.into_iter().partition(|(name, _)| *name == hubs[frozen].0);
    changed("frozen", &mut moving);
    signal(&hubs[frozen].1, "CONT");
    still.iter_mut().for_each(|(_, reader)| reader.until("frozen"));
    readers = still.into_iter().chain(moving).collect();
    changed("last", &mut readers);

    let direct: Vec<Seen> = {
        let mut all = Vec::new();
        for event in twin.by_ref() {
            let event = seen(&event);
            let last = event.0 == "ADDED" && event.1 == "last";
            all.extend(is_ours(&event).then_some(event));
            if last {
                break;
            }
        }
        all
    };
    for (name, reader) in &readers {
        assert_eq!(reader.seen, direct, "{name}");
    }
    assert_eq!(ended.seen[..], direct[..ended.seen.len()], "the hub that crashed");
}

#[test]
fn only_nodes_of_the_pool_are_given_shared_kinds() {
    let cluster = Cluster::start();
    let kube = &cluster.kube;
    kube.apply(POOL_KIND);
    eventually("the kind of node pools", || kube.object(POOLS));
    for node in ["edge-a", "edge-b", "edge-x"] {
        let labels = json!({ "apps.openyurt.io/nodepool": if node == "edge-x" { "other" } else { "hangzhou" } });
        kube.apply(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node, "labels": labels } }).to_string());
        // Nobody listens there: everything comes from the API server.
        let status = json!({ "status": { "addresses": [{ "type": "InternalIP", "address": "127.0.0.9" }] } });
        let path = format!("/api/v1/nodes/{node}/status");
        let patched = kube.api("PATCH", &path, "application/merge-patch+json", status.to_string().as_bytes()).unwrap();
        assert_eq!(patched.status, 200, "{patched:?}");
    }
    kube.apply(&pool("hangzhou", &["edge-a", "edge-b"]));
    let link = Link::to(kube);
    let edge = cluster.hub("edge-a", &link, None, &[]);
    let port = pool_port(&edge);
    let peers = |wanted: &[&str]| {
        eventually(&format!("the peers {wanted:?}"), || {
            let peers = edge.admin("/stats").json()["pool"]["peers"].as_array().unwrap().clone();
            let found: Vec<(&str, &str)> =
                peers.iter().map(|peer| (peer["node"].as_str().unwrap(), peer["address"].as_str().unwrap())).collect();
            let address = format!("127.0.0.9:{}", port.port());
            (found == wanted.iter().map(|name| (*name, address.as_str())).collect::<Vec<_>>()).then_some(())
        });
    };
    peers(&["edge-b"]);
    let node = |name: &str| certificate(&cluster.ca, &format!("system:node:{name}"), "system:nodes", &[]);
    let (member, stranger) = (node("edge-b"), node("edge-x"));
    let client = certificate(&cluster.ca, "kube-proxy", "system:nodes", &[]);
    let no_group = certificate(&cluster.ca, "system:node:edge-b", "others", &[]);
    let foreign = certificate(&Ca::new(), "system:node:edge-b", "system:nodes", &[]);
    let authority = cluster.ca.pem();
    let list = format!("{SLICES}?resourceVersion=0");
    type Case<'a> = (&'a str, Option<&'a Signed>, &'a str, u16);
    let table: [Case<'_>; 13] = [
        ("a node of the pool", Some(&member), &list, 200),
        ("a node of the pool, services", Some(&member), "/api/v1/services?resourceVersion=0", 200),
        ("a node that is not of the pool", Some(&stranger), &list, 403),
        ("somebody else", Some(&client), &list, 401),
        ("a node without the group", Some(&no_group), &list, 401),
        ("a node of another cluster", Some(&foreign), &list, 401),
        ("no certificate", None, &list, 401),
        ("a kind that is not shared", Some(&member), "/api/v1/secrets?resourceVersion=0", 403),
        ("one namespace", Some(&member), "/api/v1/namespaces/default/services", 403),
        ("a selector", Some(&member), "/api/v1/services?labelSelector=a", 403),
        ("a page", Some(&member), "/api/v1/services?limit=1", 403),
        ("a watch from nowhere", Some(&member), "/api/v1/services?watch=1", 403),
        ("something else", Some(&member), "/version", 403),
    ];
    for (who, identity, path, wanted) in table {
        let client = Client { trust: Some(&authority), identity, ..Client::default() };
        let get = || client.connect(port, "localhost").unwrap().0.request("GET", "localhost", path, &[JSON], b"").unwrap();
        // On a busy machine the API server may be slow for a moment.
        let answer = eventually(who, || Some(get()).filter(|answer| answer.status != 503));
        assert_eq!(answer.status, wanted, "{who}: {}", answer.body);
        assert_eq!(answer.json()["kind"] == "Status", wanted != 200, "{who}: {}", answer.body);
    }
    // The node leaves the pool: its watch ends, and it gets no other one.
    let client = Client { trust: Some(&authority), identity: Some(&member), ..Client::default() };
    let connect = || client.connect(port, "localhost").unwrap().0;
    let mut watch = eventually("a watch", || {
        let answer = connect().request("GET", "localhost", &list, &[JSON], b"").unwrap();
        let version = (answer.status == 200).then(|| answer.json()["metadata"]["resourceVersion"].as_str().unwrap().to_string())?;
        let mut watch = connect();
        let head = format!("GET {SLICES}?watch=1&resourceVersion={version} HTTP/1.1\r\nhost: hub\r\naccept: application/json\r\n\r\n");
        watch.send(head).unwrap();
        (watch.head().unwrap().status == 200).then_some(watch)
    });
    kube.apply(&pool("hangzhou", &["edge-a"]));
    peers(&[]);
    while watch.chunk().unwrap().is_some() {}
    let answer = connect().request("GET", "localhost", &list, &[JSON], b"").unwrap();
    assert_eq!(answer.status, 403, "{}", answer.body);
    let metrics = edge.admin("/metrics").body;
    for wanted in ["weir_edge_pool_requests_total{result=\"served\"}", "weir_edge_pool_requests_total{result=\"refused\"}"] {
        let line = metrics.lines().find(|line| line.starts_with(wanted)).unwrap_or_else(|| panic!("{wanted}: {metrics}"));
        assert!(!line.ends_with(" 0"), "{line}");
    }
}
