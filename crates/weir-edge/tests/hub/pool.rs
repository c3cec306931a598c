//! What a hub believes of another hub of its node pool: not everything.
use super::{
    hub::{JSON, Rig, told},
    upstream::{SERVICES, Seen, Upstream},
};
use rcgen::DnType;
use serde_json::json;
use weir_edge::{
    apimachinery::request::GroupVersionResource,
    hub::pool::{
        Members,
        order::{Candidate, order},
    },
    run::PoolOptions,
};
use weir_test::{Ca, Signed, eventually};

fn rig() -> Rig {
    Rig::with(|options| {
        options.pool_scope_resources = vec![GroupVersionResource::read("v1/services").unwrap()];
        options.pool_sharing = Some(PoolOptions { address: ([127, 0, 0, 1], 0).into(), peers: Some(Members::new()) });
    })
}

/// A node whose hub comes before that of the rig.
fn before() -> String {
    let names = (0..).map(|i| format!("node-{i}"));
    let comes_first = |name: &String| matches!(order("services.v1/json", "n", &[name], false, |_| false)[0], Candidate::Peer(_));
    names.into_iter().find(comes_first).unwrap()
}

fn of_node(ca: &Ca, name: &str) -> Signed {
    ca.sign_with(&[], |params| {
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{name}"));
    })
}

fn set(rig: &Rig, name: &str, peer: &Upstream) {
    rig.hub().share.pool.set(&Members::from([(name.to_string(), peer.address.to_string())]));
}

/// Where the services are followed.
#[track_caller]
fn follows(rig: &Rig, wanted: &str) {
    eventually(&format!("the services are followed at {wanted}"), || {
        let source = rig.hub().share.followed().into_iter().find_map(|followed| followed.source);
        (source.as_deref() == Some(wanted)).then_some(())
    });
}

fn left(rig: &Rig) -> u64 {
    rig.hub().share.pool.stats.left.load(std::sync::atomic::Ordering::Relaxed)
}

#[test]
fn a_peer_is_followed_until_it_is_gone_or_behind() {
    let rig = rig();
    let name = before();
    let peer = rig.another(|ca| of_node(ca, &name));
    peer.put("a", json!({}));
    set(&rig, &name, &peer);
    let mut watch = rig.watch(&format!("{SERVICES}?watch=1&resourceVersion=0"), &[]);
    watch.until("\"a\"");
    follows(&rig, &name);
    peer.put("b", json!({}));
    assert_eq!(told(&watch.until("\"b\"")), [("ADDED".to_string(), "b".to_string())]);
    assert_eq!((rig.upstream.count(Seen::is_list_of_hub), rig.upstream.watches(), peer.watches()), (0, 0, 1));
    // Without the link nothing changes for clients: lists are as the peer has them.
    rig.upstream.cut();
    rig.is_down();
    peer.put("c", json!({}));
    watch.until("\"c\"");
    assert_eq!(rig.names(&format!("{SERVICES}?resourceVersion=0"), &[JSON]), ["a", "b", "c"]);
    rig.upstream.mend();
    eventually("the link is up", || rig.hub().remote.is_proven().then_some(()));

    // The peer goes: the watch goes on at the API server, which is where the peer was.
    for name in ["a", "b", "c"] {
        rig.upstream.put(name, json!({}));
    }
    peer.cut();
    follows(&rig, "API server");
    rig.upstream.put("d", json!({}));
    assert_eq!(told(&watch.until("\"d\"")), [("ADDED".to_string(), "d".to_string())]);

    // It comes back with the state from before: it is asked, and left.
    let asked = peer.count(Seen::watches);
    let before = left(&rig);
    peer.mend();
    rig.upstream.put("e", json!({}));
    watch.until("\"e\"");
    rig.hub().share.pool.set(&Members::new());
    set(&rig, &name, &peer);
    eventually("the peer is asked again", || (peer.count(Seen::watches) > asked).then_some(()));
    peer.put("lie", json!({}));
    eventually("the peer is left", || (left(&rig) > before).then_some(()));
    follows(&rig, "API server");
    rig.upstream.put("f", json!({}));
    assert_eq!(told(&watch.until("\"f\"")), [("ADDED".to_string(), "f".to_string())]);
    assert_eq!(rig.names(&format!("{SERVICES}?resourceVersion=0"), &[JSON]), ["a", "b", "c", "d", "e", "f"]);
}

#[test]
fn a_live_peer_is_found_behind_many_that_do_not_run() {
    let rig = rig();
    // The order of the pool for this kind: the live peer comes right before the hub of the rig, and all others before that.
    let names: Vec<String> = (0..60).map(|i| format!("node-{i}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let rank = |name: &str| {
        let others: Vec<&str> = all.iter().copied().filter(|other| *other != name).collect();
        let ahead = |other: &&str| order("services.v1/json", name, &[other], false, |_| false)[0] != Candidate::Server;
        others.into_iter().filter(ahead).count()
    };
    let ahead = |name: &str| order("services.v1/json", "n", &[name], false, |_| false)[0] != Candidate::Server;
    let mut before: Vec<&str> = all.iter().copied().filter(|name| ahead(name)).collect();
    before.sort_by_key(|name| rank(name));
    let (live, dead) = before.split_last().unwrap();
    assert!(dead.len() >= 10, "{before:?}");
    let peer = rig.another(|ca| of_node(ca, live));
    peer.put("a", json!({}));
    // A port that nobody listens on any more.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut members: Members = dead.iter().map(|name| (name.to_string(), nobody.to_string())).collect();
    members.insert(live.to_string(), peer.address.to_string());
    rig.hub().share.pool.set(&members);
    let mut watch = rig.watch(&format!("{SERVICES}?watch=1&resourceVersion=0"), &[]);
    follows(&rig, live);
    watch.until("\"a\"");
    // Those that do not run are not asked again: the watch at the live one is at the best place that there is.
    let up = rig.hub().share.pool.peers().into_iter().filter(|peer| rig.hub().share.pool.is_up(peer)).count();
    assert_eq!(up, 1);
    // The live one goes, and comes back.
    peer.cut();
    follows(&rig, "API server");
    peer.mend();
    follows(&rig, live);
}

#[test]
fn an_older_list_of_a_peer_is_not_taken() {
    let rig = rig();
    let name = before();
    let peer = rig.another(|ca| of_node(ca, &name));
    peer.put("old", json!({}));
    for i in 0..20 {
        rig.upstream.put(&format!("s{i:02}"), json!({}));
    }
    let mut watch = rig.watch(&format!("{SERVICES}?watch=1&resourceVersion=0"), &[]);
    watch.until("\"s19\"");
    follows(&rig, "API server");
    // It does not know the version that this hub has, and offers its list.
    peer.script(|seen| {
        let expired = || super::upstream::status(410, "Expired", "too old resource version");
        seen.watches().then(expired)
    });
    set(&rig, &name, &peer);
    eventually("the peer is left", || (left(&rig) > 0).then_some(()));
    assert!(peer.count(Seen::is_list_of_hub) > 0);
    follows(&rig, "API server");
    rig.upstream.put("new", json!({}));
    assert_eq!(told(&watch.until("\"new\"")), [("ADDED".to_string(), "new".to_string())]);
}

#[test]
fn a_hub_of_another_node_is_not_asked() {
    let rig = rig();
    let name = before();
    let other = rig.another(|ca| of_node(ca, "another"));
    let not_a_node = rig.another(|ca| ca.sign(&["127.0.0.1"]));
    for peer in [&other, &not_a_node] {
        let before = left(&rig);
        set(&rig, &name, peer);
        let mut watch = rig.watch(&format!("{SERVICES}?watch=1&resourceVersion=0"), &[]);
        let service = format!("s{before}");
        rig.upstream.put(&service, json!({}));
        watch.until(&format!("\"{service}\""));
        follows(&rig, "API server");
        eventually("the peer is left", || (left(&rig) > before).then_some(()));
        assert!(peer.seen().is_empty());
    }
}
