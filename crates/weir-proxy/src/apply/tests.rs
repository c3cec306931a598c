//! What a change costs, counted in what is built again.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::{Options, Proxy};
use std::net::SocketAddr;
use weir_config::model::*;

fn origin() -> Origin {
    Origin::named("test")
}

fn cluster(n: usize, port: u16, secret: Option<&str>) -> Resource {
    let endpoint = Endpoint::new(Address::Socket(SocketAddr::from(([127, 0, 0, 1], port))));
    let assignment = ClusterLoadAssignment::new(None, vec![endpoint]);
    let mut cluster = Cluster::new(format!("c{n}").into(), Discovery::Static(Arc::new(assignment)));
    let tls = |secret: &str| UpstreamTls {
        certificate: Some(secret.into()),
        verification: UpstreamVerification::Skip,
        sni: Some("a.test".into()),
        ..Default::default()
    };
    cluster.tls = secret.map(|s| Box::new(tls(s)));
    Resource::Cluster(Arc::new(cluster))
}

fn host(n: usize, path: &str) -> Resource {
    let forward = Forward::to(vec![WeightedCluster::only(format!("c{n}").into())]);
    let matches = RouteMatch::path(PathMatch::Prefix(path.into()));
    let route = Route::new("r".into(), matches, RouteAction::Forward(Box::new(forward)), origin());
    let name: Name = format!("h{n}.test").into();
    let host = VirtualHost::new(name.clone(), vec![name.clone()], vec![Arc::new(route)]);
    Resource::VirtualHost("routes".into(), Arc::new(host))
}

fn secret(name: &str) -> Resource {
    let made = weir_test::self_signed(&["a.test"]);
    let content = SecretContent::TlsCertificate { certificate_chain: made.pem, private_key: made.key };
    Resource::Secret(Arc::new(Secret { name: name.into(), content, origin: None }))
}

/// With a chain for each of the secrets.
fn listener(n: usize, secrets: std::ops::Range<usize>) -> Resource {
    let chain = |s: usize| {
        let mut hcm = HttpConnectionManager::new("http".into(), "routes".into());
        hcm.generate_request_id = n.is_multiple_of(2);
        Arc::new(FilterChain {
            name: format!("chain{s}").into(),
            server_names: vec![format!("s{s}.test")],
            tls: Some(DownstreamTls { certificates: vec![format!("s{s}").into()], ..Default::default() }),
            filters: vec![NetworkFilter::HttpConnectionManager(hcm.into())],
        })
    };
    Resource::Listener(Arc::new(Listener {
        name: format!("l{n}").into(),
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        filter_chains: secrets.map(chain).collect(),
        protocol: Default::default(),
        proxy_protocol: false,
        max_connections: 10,
        origins: vec![origin()],
    }))
}

/// What it is, resources that are set and that are gone, and how much is built for it.
type Row = (&'static str, Vec<Resource>, Vec<Id>, [usize; 3]);

#[tokio::test]
async fn a_change_builds_what_changed_and_what_depends_on_it() {
    const LISTENERS: usize = 20;
    const CHAINS: usize = 50;
    let proxy = Proxy::start(Options { workers: 1, admin: None, ..Options::default() }).unwrap();
    let made = secret("s0");
    let Resource::Secret(made) = &made else { unreachable!() };
    let secrets = (0..LISTENERS * CHAINS).map(|n| Resource::Secret(Arc::new(Secret { name: format!("s{n}").into(), ..(**made).clone() })));
    let clusters = (0..1000).map(|n| cluster(n, 80, (n == 7).then_some("s7")));
    let listeners = (0..LISTENERS).map(|n| listener(n, n * CHAINS..(n + 1) * CHAINS));
    let hosts = (0..1000).map(|n| host(n, "/"));
    let report =
        proxy.apply(Delta { revision: 1, set: secrets.chain(clusters).chain(listeners).chain(hosts).collect(), gone: vec![] }).await;
    let only_skip = report.diagnostics().iter().all(|d| d.reason == "InsecureSkipVerify");
    assert!(only_skip && report.verdicts.len() == 1, "{:?}", report.verdicts);
    // What changes, and how many clusters, virtual hosts and listeners are built for it.
    let endpoints = || Resource::Endpoints("c3".into(), Arc::default());
    let table: Vec<Row> = vec![
        ("a cluster", vec![cluster(5, 81, None)], vec![], [1, 0, 0]),
        ("its endpoints", vec![endpoints()], vec![], [1, 0, 0]),
        ("a virtual host", vec![host(5, "/new")], vec![], [0, 1, 0]),
        ("a secret of one chain", vec![secret("s70")], vec![], [0, 0, 0]),
        ("a secret of one chain and a cluster", vec![secret("s7")], vec![], [1, 0, 0]),
        ("the same secret again", vec![Resource::Secret(Arc::new(Secret { name: "s8".into(), ..(**made).clone() }))], vec![], [0, 0, 0]),
        ("a secret that is gone", vec![], vec![Id::new(ResourceKind::Secret, "s70".into())], [0, 0, 1]),
        ("a secret that comes", vec![secret("s70")], vec![], [0, 0, 1]),
        ("a listener", vec![listener(1, CHAINS..2 * CHAINS)], vec![], [0, 0, 1]),
        (
            "hosts that are gone",
            vec![],
            (0..100).map(|n| Id::virtual_host(&"routes".into(), &format!("h{n}.test").into())).collect(),
            [0, 0, 0],
        ),
        ("clusters that are gone", vec![], (0..100).map(|n| Id::new(ResourceKind::Cluster, format!("c{n}").into())).collect(), [0, 0, 0]),
        ("nothing", vec![], vec![], [0, 0, 0]),
    ];
    let counts = || {
        let applier = proxy.applier();
        [applier.clusters.built, applier.routes.compiled(), applier.listeners.built]
    };
    for (revision, (what, set, gone, wanted)) in (2..).zip(table) {
        let before = counts();
        proxy.apply(Delta { revision, set, gone }).await;
        let after = counts();
        assert_eq!([after[0] - before[0], after[1] - before[1], after[2] - before[2]], wanted, "{what}");
    }
    let config = proxy.applier().config();
    let left = (config.clusters.len(), config.routes["routes"].virtual_hosts.len(), config.listeners.len(), config.secrets.len());
    assert_eq!(left, (900, 900, LISTENERS, LISTENERS * CHAINS));
    assert!(proxy.shared().clusters.find("c5").is_none(), "no route holds it any more");
    assert_eq!(proxy.shared().summary.load().routes, 900);
}

#[tokio::test]
async fn a_cluster_stays_while_a_request_may_be_on_its_way_to_it() {
    let proxy = Proxy::start(Options { workers: 1, admin: None, ..Options::default() }).unwrap();
    proxy.apply(Delta { revision: 1, set: vec![cluster(0, 80, None), host(0, "/"), host(1, "/")], gone: vec![] }).await;
    // What a request holds that has chosen its route.
    let table = proxy.applier().routes.table(&"routes".into());
    let gone = vec![Id::virtual_host(&"routes".into(), &"h0.test".into()), Id::new(ResourceKind::Cluster, "c0".into())];
    proxy.apply(Delta { revision: 2, set: vec![], gone }).await;
    assert!(proxy.shared().clusters.find("c0").is_some());
    drop(table);
    assert!(!proxy.applier().free());
    assert!(proxy.shared().clusters.find("c0").is_none());
}

#[tokio::test]
async fn deltas_that_wait_are_applied_as_one() {
    let proxy = Proxy::start(Options { workers: 1, admin: None, ..Options::default() }).unwrap();
    let reports: Vec<_> = {
        // Nothing is applied while this is held.
        let _applier = proxy.applier();
        (1..=50).map(|revision| proxy.apply(Delta { revision, set: vec![cluster(0, revision as u16, None)], gone: vec![] })).collect()
    };
    let mut versions = Vec::new();
    for report in reports {
        versions.push(report.await.version);
    }
    assert!(versions.is_sorted() && versions[49] == 50, "{versions:?}");
    let built = proxy.applier().clusters.built;
    assert!(built <= 2, "{built} times");
    let now = proxy.shared().clusters.find("c0").unwrap().current().unwrap();
    assert_eq!(now.endpoints.load().endpoints[0].address.port(), 50);
}
