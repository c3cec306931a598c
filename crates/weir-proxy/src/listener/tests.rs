//! Which chain a connection meets.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::{cluster::ClusterRegistry, secrets::Secrets};
use std::sync::Arc;
use weir_config::model::{DownstreamTls, NetworkFilter, Secret, SecretContent, TcpProxy};

fn chain(name: &str, server_names: &[&str], terminates: bool) -> Arc<FilterChain> {
    Arc::new(FilterChain {
        name: name.into(),
        server_names: server_names.iter().map(|n| (*n).to_string()).collect(),
        tls: terminates.then(|| DownstreamTls { certificates: vec!["cert".into()], ..Default::default() }),
        filters: vec![NetworkFilter::TcpProxy(TcpProxy {
            stat_prefix: name.into(),
            clusters: vec![],
            sni_clusters: vec![],
            idle_timeout: Duration::ZERO,
            max_connect_attempts: 1,
            access_log: vec![],
        })],
    })
}

fn listener(chains: Vec<Arc<FilterChain>>) -> ListenerRt {
    let made = weir_test::self_signed(&["a.test"]);
    let content = SecretContent::TlsCertificate { certificate_chain: made.pem, private_key: made.key };
    let mut secrets = Secrets::default();
    secrets.set(&Arc::new(Secret { name: "cert".into(), content, origin: None }));
    let address = "127.0.0.1:0".parse().unwrap();
    let config = Listener {
        name: "l".into(),
        address,
        protocol: Default::default(),
        filter_chains: chains,
        proxy_protocol: false,
        max_connections: 10,
        origins: vec![],
    };
    let clusters = ClusterRegistry::default();
    let (rt, findings) = build(&Arc::new(config), None, &secrets, &Default::default(), &clusters, &mut |_| Arc::default(), &|_| false);
    assert_eq!(findings, []);
    rt
}

#[test]
fn the_most_specific_server_name_wins() {
    let l = listener(vec![
        chain("wild", &["*.a.test"], true),
        chain("deep", &["*.x.a.test"], true),
        chain("exact", &["B.a.test", "c.test"], true),
        chain("second", &["c.test"], true),
        chain("through", &["through.test"], false),
        chain("any", &[], true),
        chain("plain", &[], false),
    ]);
    assert!(l.needs_inspection());
    for (name, expect) in [
        (Some("y.a.test"), "wild"),
        (Some("z.y.a.test"), "wild"),
        (Some("y.x.a.test"), "deep"),
        (Some("b.a.test"), "exact"),
        (Some("c.test"), "exact"),
        (Some("through.test"), "through"),
        (Some("a.test"), "any"),
        (None, "any"),
    ] {
        let hello = ClientHello { server_name: name.map(str::to_string), alpn: vec![] };
        assert_eq!(&*l.find(Some(&hello)).unwrap().config.name, expect, "{name:?}");
    }
    assert_eq!(&*l.find(None).unwrap().config.name, "plain");
}

#[test]
fn nothing_is_looked_at_in_vain() {
    let hello = ClientHello { server_name: Some("x.test".into()), alpn: vec![] };
    let only_tls = listener(vec![chain("any", &[], true)]);
    assert!(!only_tls.needs_inspection() && &*only_tls.only().unwrap().config.name == "any");
    let only_plain = listener(vec![chain("plain", &[], false)]);
    assert!(!only_plain.needs_inspection() && &*only_plain.only().unwrap().config.name == "plain");
    let named = listener(vec![chain("named", &["a.test"], true)]);
    assert!(named.needs_inspection() && named.find(Some(&hello)).is_none() && named.find(None).is_none());
    let star = listener(vec![chain("star", &["*"], true), chain("plain", &[], false)]);
    assert_eq!(&*star.find(Some(&hello)).unwrap().config.name, "star");
    assert_eq!(&*star.find(None).unwrap().config.name, "plain");
}
