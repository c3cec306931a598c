//! Clusters through TCP proxies: DNS, TLS towards the upstream, endpoints that fail.
#![allow(clippy::unwrap_used)]
mod common;
use common::*;
use weir_config::{diagnostic::Severity, model::*};
use weir_test::DnsServer;

fn names(hosts: &[&str], port: u16) -> std::sync::Arc<ClusterLoadAssignment> {
    assignment(&hosts.iter().map(|h| Address::Name { host: (*h).into(), port }).collect::<Vec<_>>())
}

#[tokio::test]
async fn names_are_followed_and_the_last_good_addresses_stay() {
    let server = DnsServer::start();
    let proxy = start_with(|o| o.dns_resolvers = vec![server.address]);
    let port = upstream("a:").await.port();
    server.set("a.test", &["127.0.0.1"], 1);
    server.set("b.test", &["127.0.0.2", "127.0.0.3"], 60);
    let mut conf = Conf::default();
    conf.cluster_with("strict", Discovery::StrictDns(names(&["a.test", "b.test"], port)), |_| {});
    conf.cluster_with("logical", Discovery::LogicalDns(names(&["b.test"], port)), |_| {});
    conf.cluster_with("local", Discovery::StrictDns(names(&["localhost"], port)), |_| {});
    proxy.apply(conf.delta()).await;
    let addresses = |cluster: &str| {
        let rt = proxy.shared().clusters.find(cluster).unwrap().current().unwrap();
        rt.endpoints.load().endpoints.iter().map(|e| e.address.ip().to_string()).collect::<Vec<_>>()
    };
    // The report waits for names, but not for ever.
    until("they are resolved", || addresses("strict") == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]).await;
    until("one of a name", || addresses("logical") == ["127.0.0.2"]).await;
    until("one without a server", || addresses("local") == ["127.0.0.1"]).await;
    // The record changes, and is followed when its time is up.
    let version = proxy.shared().clusters.find("strict").unwrap().version();
    server.set("a.test", &["127.0.0.9"], 1);
    until("the change is seen", || addresses("strict") == ["127.0.0.9", "127.0.0.2", "127.0.0.3"]).await;
    assert_ne!(proxy.shared().clusters.find("strict").unwrap().version(), version);
    // It goes, and the server goes silent: what was good stays.
    let asked = || server.questions.load(std::sync::atomic::Ordering::Relaxed);
    server.remove("a.test");
    let before = asked();
    until("it is asked for again", || asked() > before + 1).await;
    assert_eq!(addresses("strict"), ["127.0.0.9", "127.0.0.2", "127.0.0.3"]);
    // A change elsewhere in the cluster does not lose them either.
    conf.cluster_with("strict", Discovery::StrictDns(names(&["a.test", "b.test"], port)), |c| c.max_requests_per_connection = 7);
    proxy.apply(conf.delta()).await;
    assert_eq!(addresses("strict"), ["127.0.0.9", "127.0.0.2", "127.0.0.3"]);
    // A cluster that goes empties its slot.
    let slot = proxy.shared().clusters.find("logical").unwrap();
    conf.0.clusters.remove("logical");
    proxy.apply(conf.delta()).await;
    assert!(slot.current().is_none());
}

#[tokio::test]
async fn a_request_names_its_endpoint() {
    let server = DnsServer::start();
    let proxy = start_with(|o| o.dns_resolvers = vec![server.address]);
    server.set("a.test", &["127.0.0.1"], 60);
    let (mut conf, ca) = (Conf::default(), Ca::new());
    let secure = tls_upstream("secure:", &ca.sign(&["a.test"])).await;
    conf.listener("l", loopback(), vec![tcp("c", &["*.test"], &[], "dynamic")]);
    proxy.apply(conf.cluster_with("dynamic", Discovery::DynamicForwardProxy { port: secure.port() }, |_| {}).delta()).await;
    // By the server name of a connection that is passed through.
    expect(&mut connect_tls(&trusting(&ca), address_of(&proxy, "l"), "a.test").await.unwrap(), "secure:").await;
    assert!(connect_tls(&trusting(&ca), address_of(&proxy, "l"), "b.test").await.is_err());
    // By the host that a request names.
    let forward = proxy.shared().clusters.find("dynamic").unwrap().current().unwrap().forward.clone().unwrap();
    let first = forward.endpoint("A.test", 8080).await.unwrap();
    assert_eq!((first.address.to_string().as_str(), first.hostname()), ("127.0.0.1:8080", Some("a.test")));
    let asked = server.questions.load(std::sync::atomic::Ordering::Relaxed);
    let second = forward.endpoint("a.test", 8080).await.unwrap();
    assert!(std::sync::Arc::ptr_eq(&first, &second));
    assert_eq!(server.questions.load(std::sync::atomic::Ordering::Relaxed), asked);
    assert!(forward.endpoint("missing.test", 80).await.is_err());
    assert_eq!(forward.endpoint("[::1]", 80).await.unwrap().address.to_string(), "[::1]:80");
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over() {
    let proxy = start();
    let dead = free();
    let alive = upstream("alive:").await;
    let mut conf = Conf::default();
    conf.cluster_with("a", Discovery::Static(assignment(&[Address::Socket(dead), Address::Socket(alive)])), |_| {});
    proxy.apply(conf.listener("l", loopback(), vec![tcp("c", &[], &[], "a")]).delta()).await;
    for _ in 0..20 {
        expect(&mut connect(address_of(&proxy, "l")).await, "alive:").await;
    }
    conf.cluster("a", dead);
    proxy.apply(conf.delta()).await;
    assert!(closes(&mut connect(address_of(&proxy, "l")).await).await);
    assert_eq!(counter(&proxy, "l", "tcp.upstream_cx_connect_fail"), 1);
    conf.0.clusters.clear();
    proxy.apply(conf.delta()).await;
    assert!(closes(&mut connect(address_of(&proxy, "l")).await).await);
    assert_eq!(counter(&proxy, "l", "tcp.downstream_cx_no_route"), 1);
}

#[tokio::test]
async fn upstreams_speak_tls_and_are_verified() {
    let (proxy, ca, other) = (start(), Ca::new(), Ca::new());
    let secure = tls_upstream("secure:", &ca.sign(&["up.test"])).await;
    let mut conf = Conf::default();
    conf.roots("ca", &ca.pem()).roots("other", &other.pem());
    let tls = |secret: &str, sni: &str| UpstreamTls {
        sni: Some(sni.to_string()),
        verification: UpstreamVerification::Secret(secret.into()),
        ..Default::default()
    };
    let skip = UpstreamTls { verification: UpstreamVerification::Skip, ..Default::default() };
    let table = [
        ("good", tls("ca", "up.test"), true),
        ("name", tls("ca", "down.test"), false),
        ("root", tls("other", "up.test"), false),
        ("skip", skip, true),
    ];
    for (name, tls, _) in &table {
        conf.cluster_with(name, Discovery::Static(assignment(&[Address::Socket(secure)])), |c| c.tls = Some(Box::new(tls.clone())));
        conf.listener(name, loopback(), vec![tcp("c", &[], &[], name)]);
    }
    let report = proxy.apply(conf.delta()).await;
    assert_eq!(report.diagnostics().len(), 1, "{:?}", report.diagnostics());
    assert_eq!((report.diagnostics()[0].severity, report.diagnostics()[0].reason), (Severity::Warning, "InsecureSkipVerify"));
    for (name, _, good) in &table {
        let mut io = connect(address_of(&proxy, name)).await;
        match good {
            true => expect(&mut io, "secure:").await,
            false => assert!(closes(&mut io).await, "{name}"),
        }
    }
    // The client with its sessions stays while its options do.
    let client = |name: &str| proxy.shared().clusters.find(name).unwrap().current().unwrap().tls.clone().unwrap();
    let before = client("good");
    conf.cluster_with("good", Discovery::Static(assignment(&[Address::Socket(secure)])), |c| {
        c.tls = Some(Box::new(tls("ca", "up.test")));
        c.max_requests_per_connection = 1;
    });
    proxy.apply(conf.delta()).await;
    assert!(std::sync::Arc::ptr_eq(&before, &client("good")));
    // A cluster whose roots are gone is refused; the previous version keeps serving.
    conf.0.secrets.remove("ca");
    let report = proxy.apply(conf.delta()).await;
    let diagnostics = report.diagnostics();
    let errors: Vec<_> = diagnostics.iter().filter(|d| d.severity == Severity::Error).map(|d| d.message.as_str()).collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].contains("cluster `good`: there is no secret `ca`"), "{errors:?}");
    expect(&mut connect(address_of(&proxy, "good")).await, "secure:").await;
}

/// What one changed cluster among 10,000 costs; the time is printed, the structure is checked.
#[tokio::test]
async fn what_did_not_change_is_not_touched() {
    let proxy = start();
    let mut conf = Conf::default();
    for i in 0..10_000 {
        conf.cluster(&format!("outbound|80||service-{i}.test"), std::net::SocketAddr::from(([10, 0, (i >> 8) as u8, i as u8], 80)));
    }
    proxy.apply(conf.delta()).await;
    let version = |i: usize| proxy.shared().clusters.find(&format!("outbound|80||service-{i}.test")).unwrap().version();
    let before: Vec<_> = (0..10_000).map(version).collect();
    conf.cluster("outbound|80||service-5000.test", "10.9.9.9:80".parse().unwrap());
    let config = conf.delta();
    let start = std::time::Instant::now();
    proxy.apply(config).await;
    println!("one changed cluster among 10,000: {:?}", start.elapsed());
    let changed: Vec<_> = (0..10_000).filter(|i| version(*i) != before[*i]).collect();
    assert_eq!(changed, [5000]);
}
