use super::*;
use crate::{
    cache::{Limits, head::Head},
    offline::{outbox, replies::Reply},
    store::{Options, Store},
};
use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use std::sync::Arc;

const NODE: &str = "system:node:n";
const POD_LIST: &str = "system:node:n\npods.v1\n\njson\nlist\n\nspec.nodeName=n";

fn name(namespace: &str, name: &str) -> ObjectName {
    ObjectName { namespace: namespace.into(), name: name.into() }
}

fn head(dirty: bool) -> Vec<u8> {
    Head { resource_version: "7".into(), at: 5, dirty, list: Bytes::new() }.to_bytes()
}

fn pod(pod: &str, secret: &str) -> (ObjectName, Bytes) {
    let spec = json!({ "volumes": [{ "name": "v", "secret": { "secretName": secret } }] });
    let metadata = json!({ "name": pod, "namespace": "a", "uid": format!("uid-{pod}") });
    (name("a", pod), json!({ "kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec }).to_string().into())
}

fn token(claims: Value) -> String {
    format!("h.{}.s", BASE64URL_NOPAD.encode(claims.to_string().as_bytes()))
}

#[test]
fn what_nobody_needs_goes_after_the_grace_period() {
    let copy = |set: &str| Copy::Set(set.into());
    let (begin, grace) = (Instant::now(), Duration::from_secs(10));
    let mut unneeded = Unneeded::default();
    // When, what nobody needs then, and what is due.
    let table: [(u64, &[&str], &[&str]); 7] = [
        (0, &["a", "b"], &[]),
        (9, &["a", "b", "c"], &[]),
        (10, &["a", "b", "c"], &["a", "b"]),
        // Somebody needs it again: the time starts over.
        (11, &["b"], &["b"]),
        (12, &["a"], &[]),
        (21, &["a"], &[]),
        (22, &["a"], &["a"]),
    ];
    for (at, now, wanted) in table {
        let due = unneeded.due(now.iter().map(|set| copy(set)).collect(), grace, begin + Duration::from_secs(at));
        assert_eq!(due, wanted.iter().map(|set| copy(set)).collect::<Vec<_>>(), "{at}");
    }
}

struct Node {
    cache: Arc<Cache>,
    replies: Replies,
    collector: Collector,
    begin: Instant,
    _runtime: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

impl Node {
    fn new() -> Node {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(folder.path(), Options::default()).unwrap());
        let runtime = crate::cache::runtime().unwrap();
        let replies = Replies::open(&store, Duration::ZERO, &outbox::Stats::default());
        let cache = Cache::new(NODE, store, Limits::default(), runtime.handle().clone());
        let collector = Collector::new(Duration::from_secs(60));
        Node { cache, replies, collector, begin: Instant::now(), _runtime: runtime, _folder: folder }
    }

    fn objects(&self, set: &str, agents: &[&str], names: &[&str]) {
        let namespace = SetKey::read(set).unwrap().namespace;
        for object in names {
            self.cache.store.put(set, &name(&namespace, object), b"{}", &head(false)).unwrap();
        }
        for agent in agents {
            self.cache.agents.note(set, agent);
        }
    }

    fn sweep(&self, at: u64) {
        self.collector.sweep(&self.cache, &self.replies, "n", (self.begin + Duration::from_secs(at), 1000 + at));
    }

    /// What is kept in a set.
    fn has(&self, set: &str) -> String {
        self.cache.store.names(set).iter().map(|name| name.name.as_str()).collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn copies_of_pods_and_clients_that_are_gone_are_collected() {
    let node = Node::new();
    let store = &node.cache.store;
    store.replace(POD_LIST, &head(false), [pod("web", "s-used"), pod("old", "s-old")]).unwrap();
    let of = |resource: &str, namespace: &str, rest: &str| format!("{NODE}\n{resource}\n{namespace}\njson\n{rest}");
    let secrets = of("secrets.v1", "a", "objects\n\n");
    node.objects(&secrets, &["kubelet"], &["s-used", "s-old", "s-gone"]);
    let single = of("pods.v1", "a", "objects\n\n");
    node.objects(&single, &["kubelet"], &["web", "gone"]);
    // Another client of the node has read something of this namespace, too.
    let mixed = of("secrets.v1", "kube-system", "objects\n\n");
    node.objects(&mixed, &["kubelet", "flanneld"], &["s-gone"]);
    // It is not known who has read this.
    let unknown = of("secrets.v1", "b", "objects\n\n");
    node.objects(&unknown, &[], &["s-gone"]);
    let (followed, left) =
        (of("configmaps.v1", "a", "list\n\nmetadata.name=s-used"), of("configmaps.v1", "a", "list\n\nmetadata.name=m-gone"));
    let others = of("configmaps.v1", "a", "list\n\n");
    for set in [&followed, &left, &others] {
        store.replace(set, &head(false), [(name("a", "m"), Bytes::from_static(b"{}"))]).unwrap();
        node.cache.agents.note(set, "kubelet");
    }
    // Users: one of a pod that is here, one of a pod that is gone, one whose token has expired, and one that has a newer token.
    let claims = |sub: &str, exp: u64, uid: &str| json!({ "iss": "k", "sub": sub, "exp": exp, "kubernetes.io": { "pod": { "uid": uid } } });
    for (i, (sub, exp, uid)) in
        [("web", 0, "uid-web"), ("gone", 0, "uid-gone"), ("late", 1000, ""), ("both", 1000, ""), ("both", 9000, "")].into_iter().enumerate()
    {
        node.cache.remember(&[i as u8; 32], Some(&token(claims(sub, exp, uid))));
        let set = format!("k {sub}\nservices.v1\n\njson\nlist\n\n");
        store.replace(&set, &head(false), []).unwrap();
        store.put(NON_RESOURCE, &name(&format!("k {sub}"), "/version"), b"{}", &head(false)).unwrap();
    }
    let issued = |pod: &str| {
        let token = token(json!({ "kubernetes.io": { "namespace": "a", "pod": { "name": pod, "uid": format!("uid-{pod}") } } }));
        let status = json!({ "token": token, "expirationTimestamp": "2100-01-01T00:00:00Z" });
        let body = json!({ "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "status": status }).to_string();
        let reply = Reply { content_type: "application/json".into(), body: body.into() };
        node.replies.issued(&crate::offline::replies::key(pod, "", "", b""), reply);
    };
    ["web", "gone"].into_iter().for_each(issued);

    // No watch follows the pods: nothing is known, nothing is collected.
    node.sweep(0);
    node.sweep(1000);
    assert!(!node.collector.stats.known.load(Relaxed));
    let follow = node.cache.follows.begin(POD_LIST);
    node.sweep(2000);
    assert_eq!((node.has(&secrets), node.collector.stats.known.load(Relaxed)), ("s-gone s-old s-used".into(), true));
    node.sweep(2059);
    assert_eq!(node.has(&secrets), "s-gone s-old s-used");
    // A pod goes; its copies wait for their own grace period.
    store.remove(POD_LIST, &name("a", "old"), &head(false)).unwrap();
    node.sweep(2060);
    assert_eq!(
        (node.has(&secrets), node.has(&single), node.has(&mixed), node.has(&unknown)),
        ("s-old s-used".into(), "web".into(), "s-gone".into(), "s-gone".into())
    );
    let is_there = |set: &str| store.head(set).is_some();
    assert_eq!((is_there(&followed), is_there(&left), is_there(&others)), (true, false, true));
    let user = |sub: &str| is_there(&format!("k {sub}\nservices.v1\n\njson\nlist\n\n"));
    assert_eq!([user("web"), user("gone"), user("late"), user("both")], [true, false, false, true]);
    let documents: Vec<String> = store.names(NON_RESOURCE).into_iter().map(|name| name.namespace).collect();
    assert_eq!(documents, ["k both", "k web"]);
    assert_eq!(node.replies.account_tokens().iter().map(|(_, token)| token.pod.as_str()).collect::<Vec<_>>(), ["web"]);
    node.sweep(2120);
    assert_eq!(node.has(&secrets), "s-used");
    // Tokens that are of no use any more are forgotten once nothing of their users is kept.
    node.sweep(2180);
    node.sweep(2240);
    let mut users: Vec<String> = node.cache.tokens().into_iter().map(|(_, user)| user.name).collect();
    users.sort();
    assert_eq!(users, ["k both", "k web"]);
    // While the list of pods is marked as old, the pod that it misses may be there.
    store.set_head(POD_LIST, &head(true)).unwrap();
    store.remove(POD_LIST, &name("a", "web"), &head(true)).unwrap();
    [3000, 4000].into_iter().for_each(|at| node.sweep(at));
    assert_eq!(node.has(&secrets), "s-used");
    drop(follow);
}
