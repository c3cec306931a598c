//! What each filter makes of objects, in both encodings. Inputs and outputs are those of the tests of OpenYurt
//! (github.com/openyurtio/openyurt, pkg/yurthub/filter/*/filter_test.go, Apache License 2.0), with some of our own beside them.
use super::{object, shown};
use crate::{
    apimachinery::media::Encoding,
    filters::context::{Context, Repair},
    store::ObjectName,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

const BOTH: [Encoding; 2] = [Encoding::Json, Encoding::Protobuf];

/// `Some(None)`: the object is hidden; `None`: it is kept as it is.
type Case = (&'static str, Value, Option<Option<Value>>);

#[track_caller]
fn check(agent: &str, context: &Context, cases: Vec<Case>) {
    for encoding in BOTH {
        for (what, input, wanted) in &cases {
            let wanted = match wanted {
                None => Some(super::opened(&object(input, encoding))),
                Some(None) => None,
                Some(Some(value)) => Some(super::opened(&object(value, encoding))),
            };
            assert_eq!(shown(agent, context, input, encoding), wanted, "{what} ({encoding})");
        }
    }
}

fn hub() -> Context {
    Context { node: "node1".into(), hub: Some("169.251.2.1:10268".parse().unwrap()), ..Context::default() }
}

fn meta(namespace: &str, name: &str) -> Value {
    json!({ "name": name, "namespace": namespace, "resourceVersion": "7" })
}

fn service(namespace: &str, name: &str, kind: &str, annotations: Value) -> Value {
    let mut meta = meta(namespace, name);
    meta["annotations"] = annotations;
    let spec = json!({ "ports": [{ "name": "https", "port": 443 }], "clusterIP": "10.96.0.1", "type": kind, "clusterIPs": ["10.96.0.1"] });
    json!({ "kind": "Service", "apiVersion": "v1", "metadata": meta, "spec": spec })
}

fn pod(containers: Value) -> Value {
    json!({ "kind": "Pod", "apiVersion": "v1", "metadata": meta("default", "pod1"), "spec": { "containers": containers } })
}

#[test]
fn masterservice() {
    let mut master = service("default", "kubernetes", "ClusterIP", json!({}));
    let before = master.clone();
    master["spec"]["clusterIP"] = "169.251.2.1".into();
    master["spec"]["clusterIPs"] = json!(["169.251.2.1"]);
    master["spec"]["ports"][0]["port"] = 10268.into();
    let mut other_ports = before.clone();
    other_ports["spec"]["ports"] = json!([{ "name": "", "port": 80 }]);
    let mut other_ports_after = other_ports.clone();
    other_ports_after["spec"]["clusterIP"] = "169.251.2.1".into();
    other_ports_after["spec"]["clusterIPs"] = json!(["169.251.2.1"]);
    check(
        "kubelet",
        &hub(),
        vec![
            ("it's a kubernetes service", before.clone(), Some(Some(master))),
            ("it's not a kubernetes service", service("default", "svc", "ClusterIP", json!({})), None),
            ("of another namespace", service("kube-system", "kubernetes", "ClusterIP", json!({})), None),
            ("without the port", other_ports, Some(Some(other_ports_after))),
            ("not serviceList", pod(json!([{}])), None),
        ],
    );
    check("kubelet", &Context::default(), vec![("the hub has no address for pods", before.clone(), None)]);
    check("kube-proxy", &hub(), vec![("another client", before, None)]);
}

#[test]
fn discardcloudservice() {
    let discard = || json!({ "svc.openyurt.io/discard": "true" });
    check(
        "kube-proxy",
        &hub(),
        vec![
            ("discard lb service", service("default", "svc1", "LoadBalancer", discard()), Some(None)),
            ("discard cloud clusterIP service", service("kube-system", "x-tunnel-server-internal-svc", "ClusterIP", json!({})), Some(None)),
            ("skip lb service", service("default", "svc1", "LoadBalancer", json!({})), None),
            ("no load balancer", service("default", "svc1", "ClusterIP", discard()), None),
            ("another value", service("default", "svc1", "LoadBalancer", json!({ "svc.openyurt.io/discard": "false" })), None),
        ],
    );
    check("kubelet", &hub(), vec![("another client", service("default", "svc1", "LoadBalancer", discard()), None)]);
}

#[test]
fn inclusterconfig() {
    let map = |namespace: &str, name: &str, file: &str| json!({ "kind": "ConfigMap", "apiVersion": "v1", "metadata": meta(namespace, name), "data": { "config.conf": file, "other": "" } });
    let before = "    clientConnection:\n      acceptContentTypes: \"\"\n      kubeconfig: /var/lib/kube-proxy/kubeconfig.conf\n      qps: 0\n    clusterCIDR: 10.244.0.0/16";
    let after = "    clientConnection:\n      acceptContentTypes: \"\"\n      #kubeconfig: /var/lib/kube-proxy/kubeconfig.conf\n      qps: 0\n    clusterCIDR: 10.244.0.0/16";
    check(
        "kubelet",
        &hub(),
        vec![
            ("kube-proxy configmap", map("kube-system", "kube-proxy", before), Some(Some(map("kube-system", "kube-proxy", after)))),
            ("kube-proxy configmap without kubeconfig", map("kube-system", "kube-proxy", "    qps: 0"), None),
            ("commented out before", map("kube-system", "kube-proxy", after), None),
            ("another one", map("default", "kube-proxy", before), None),
        ],
    );
    check("kubelet", &Context::default(), vec![("nothing leads to the hub", map("kube-system", "kube-proxy", before), None)]);
}

#[test]
fn nodeportisolation() {
    let of = |kind: &str, listen: &str| service("default", "svc1", kind, json!({ "nodeport.openyurt.io/listen": listen }));
    let context = |pool: Option<&str>| Context { pool: pool.map(str::to_string), ..Context::default() };
    let table: [(&str, Option<&str>, &str, &str, bool); 12] = [
        ("disable NodePort service listening on nodes of foo NodePool", Some("foo"), "NodePort", "-foo", false),
        ("disable NodePort service listening on nodes of bar NodePool", Some("bar"), "NodePort", "foo", false),
        ("duplicated node pool configuration", Some("foo"), "NodePort", "foo,-foo", true),
        ("duplicated, the other way round", Some("foo"), "NodePort", "-foo,foo", false),
        ("enable NodePort service listening on nodes of foo NodePool", Some("foo"), "NodePort", "foo", true),
        ("enable NodePort service listening on all nodes", Some("foo"), "NodePort", "*", true),
        ("all but one", Some("foo"), "LoadBalancer", "-foo,*", false),
        ("all but another", Some("foo"), "LoadBalancer", "-bar, *", true),
        ("enable nodeport service on orphan nodes", None, "NodePort", "-foo,*", true),
        ("nobody", Some("foo"), "NodePort", "", false),
        ("nonsense", Some("foo"), "NodePort", ",-,--,", false),
        ("skip ClusterIP service", Some("foo"), "ClusterIP", "-foo", true),
    ];
    for (what, pool, kind, listen, kept) in table {
        check("kube-proxy", &context(pool), vec![(what, of(kind, listen), (!kept).then_some(None))]);
    }
    check("kube-proxy", &context(Some("foo")), vec![("no annotation", service("default", "svc1", "NodePort", json!({})), None)]);
}

#[test]
fn forwardkubesvctraffic() {
    let slice = |name: &str, family: &str, endpoints: Value, port: u16| json!({ "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": meta("default", name), "endpoints": endpoints, "ports": [{ "name": "https", "port": port }], "addressType": family });
    let before = || json!([{ "addresses": ["172.16.0.14"], "conditions": { "ready": true } }, { "addresses": ["172.16.0.15"], "conditions": { "ready": true } }]);
    let after = json!([{ "addresses": ["169.251.2.1"], "conditions": { "ready": true } }]);
    check(
        "kube-proxy",
        &hub(),
        vec![
            (
                "endpointslice is kubernetes endpointslice",
                slice("kubernetes", "IPv4", before(), 6443),
                Some(Some(slice("kubernetes", "IPv4", after, 10268))),
            ),
            ("endpointslice is not kubernetes endpointslice", slice("foo", "IPv4", before(), 6443), None),
            ("of another family", slice("kubernetes", "IPv6", before(), 6443), None),
        ],
    );
}

#[test]
fn serviceenvupdater() {
    let variable = |name: &str, value: &str| json!({ "name": name, "value": value });
    let (host, port) = ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT");
    let container = |address: &str, number: &str| json!({ "env": [variable(host, address), variable(port, number), variable("OTHER_ENV_VAR", "some-value")] });
    let old = || container("some-host", "1234");
    let new = || container("169.251.2.1", "10268");
    let elsewhere = json!({ "env": [{ "name": host, "valueFrom": { "fieldRef": { "fieldPath": "status.hostIP" } } }] });
    let mut initial = pod(json!([]));
    initial["spec"]["initContainers"] = json!([old()]);
    let mut initial_after = initial.clone();
    initial_after["spec"]["initContainers"] = json!([new()]);
    check(
        "kubelet",
        &hub(),
        vec![
            ("service host and service port set to original value", pod(json!([old()])), Some(Some(pod(json!([new()]))))),
            ("set to correct value, should update nothing", pod(json!([new()])), None),
            ("service host and service port does not exist", pod(json!([{ "env": [variable("OTHER_ENV_VAR", "some-value")] }])), None),
            (
                "service host does not exist",
                pod(json!([{ "env": [variable(port, "1")] }])),
                Some(Some(pod(json!([{ "env": [variable(port, "10268")] }])))),
            ),
            (
                "service port does not exist",
                pod(json!([{ "env": [variable(host, "h")] }])),
                Some(Some(pod(json!([{ "env": [variable(host, "169.251.2.1")] }])))),
            ),
            ("multiple containers", pod(json!([old(), old()])), Some(Some(pod(json!([new(), new()]))))),
            ("initial containers", initial, Some(Some(initial_after))),
        ],
    );
    // What the tables do not have is in JSON only.
    let pod = pod(json!([elsewhere]));
    assert_eq!(shown("kubelet", &hub(), &pod, Encoding::Json), Some(super::opened(&object(&pod, Encoding::Json))));
}

/// Node of each endpoint of a slice; `None`: it is not known.
pub fn slice(nodes: &[Option<&str>]) -> Value {
    let endpoint = |(i, node): (usize, &Option<&str>)| {
        let mut endpoint = json!({ "addresses": [format!("10.244.1.{}", i + 2)] });
        node.iter().for_each(|node| endpoint["nodeName"] = (*node).into());
        endpoint
    };
    let endpoints: Vec<Value> = nodes.iter().enumerate().map(endpoint).collect();
    let mut meta = meta("default", "svc1-np7sf");
    meta["labels"] = json!({ "kubernetes.io/service-name": "svc1" });
    json!({ "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": meta, "endpoints": endpoints })
}

/// The same endpoints as those of an EndpointSlice of `discovery.k8s.io/v1beta1` and as Endpoints.
pub fn older(slice: &Value) -> [Value; 2] {
    let mut beta = slice.clone();
    beta["apiVersion"] = "discovery.k8s.io/v1beta1".into();
    let mut addresses = Vec::new();
    for endpoint in beta["endpoints"].as_array_mut().unwrap() {
        let mut address = json!({ "ip": endpoint["addresses"][0] });
        if let Some(node) = endpoint.as_object_mut().unwrap().shift_remove("nodeName") {
            endpoint["deprecatedTopology"] = json!({ "kubernetes.io/hostname": node });
            address["nodeName"] = node;
        }
        addresses.push(address);
    }
    let mut endpoints =
        json!({ "kind": "Endpoints", "apiVersion": "v1", "metadata": { "name": "svc1", "namespace": "default", "resourceVersion": "7" } });
    let (ready, other) = addresses.split_at(addresses.len() / 2);
    let mut subset = json!({});
    [("addresses", ready), ("notReadyAddresses", other)]
        .into_iter()
        .filter(|(_, all)| !all.is_empty())
        .for_each(|(field, all)| subset[field] = all.into());
    if subset != json!({}) {
        endpoints["subsets"] = json!([subset]);
    }
    [beta, endpoints]
}

/// The addresses of an object.
pub fn addresses(object: &Value) -> Vec<String> {
    let all = |object: &Value, field: &str| object[field].as_array().cloned().unwrap_or_default();
    let mut found: Vec<String> = all(object, "endpoints").iter().map(|e| e["addresses"][0].as_str().unwrap().into()).collect();
    for subset in all(object, "subsets") {
        for field in ["addresses", "notReadyAddresses"] {
            found.extend(all(&subset, field).iter().map(|a| a["ip"].as_str().unwrap().to_string()));
        }
    }
    found
}

#[test]
fn servicetopology() {
    let (node1, node2, node3) = (Some("node1"), Some("node2"), Some("node3"));
    let all = [node1, node2, node1, node3];
    let (hostname, pool, zone) = (Some("kubernetes.io/hostname"), Some("openyurt.io/nodepool"), Some("kubernetes.io/zone"));
    let hangzhou: (Option<&str>, Option<&[&str]>) = (Some("hangzhou"), Some(&["node1", "node3"]));
    let shanghai: (Option<&str>, Option<&[&str]>) = (Some("shanghai"), Some(&["node1"]));
    type Row<'a> = (&'a str, Option<&'a str>, (Option<&'a str>, Option<&'a [&'a str]>), &'a [Option<&'a str>], &'a [u8]);
    let table: [Row<'_>; 15] = [
        ("topologyKeys is kubernetes.io/hostname", hostname, hangzhou, &all, &[2, 4]),
        ("topologyKeys is openyurt.io/nodepool", pool, hangzhou, &all, &[2, 4, 5]),
        ("topologyKeys is kubernetes.io/zone", zone, hangzhou, &all, &[2, 4, 5]),
        ("without openyurt.io/topologyKeys", None, hangzhou, &all, &[2, 3, 4, 5]),
        ("currentNode is not in any nodepool", pool, (None, None), &all, &[2, 4]),
        ("currentNode has no endpoints on node", hostname, shanghai, &[node2, node2, node3, node3], &[]),
        ("currentNode has no endpoints in nodepool", pool, shanghai, &[node2, node2, node3, node3], &[]),
        ("nil NodeName (node topology)", hostname, hangzhou, &[node1, None, node2], &[2]),
        ("nil NodeName (nodePool topology)", pool, hangzhou, &[node1, None, node3, node2], &[2, 4]),
        ("all endpoints have nil NodeName", pool, hangzhou, &[None, None], &[]),
        ("the pool has no nodes", pool, (Some("empty"), Some(&[])), &all, &[]),
        ("the nodes of the pool are not known", pool, (Some("hangzhou"), None), &all, &[2, 3, 4, 5]),
        ("another key", Some("example.com/rack"), hangzhou, &all, &[2, 3, 4, 5]),
        ("no endpoints", hostname, hangzhou, &[], &[]),
        ("all are here", hostname, hangzhou, &[node1, node1], &[2, 3]),
    ];
    for (what, key, (pool, nodes), endpoints, wanted) in table {
        let name = ObjectName { namespace: "default".into(), name: "svc1".into() };
        let other = ObjectName { namespace: "other".into(), name: "svc1".into() };
        let keys = [(other, "kubernetes.io/hostname".to_string())].into_iter().chain(key.map(|key| (name, key.to_string())));
        let context = Context {
            node: "node1".into(),
            pool: pool.map(str::to_string),
            pool_nodes: nodes.map(|nodes| nodes.iter().map(ToString::to_string).collect()),
            topology: Arc::new(keys.collect()),
            ..Context::default()
        };
        let slice = slice(endpoints);
        let wanted: Vec<String> = wanted.iter().map(|i| format!("10.244.1.{i}")).collect();
        for encoding in BOTH {
            for object in older(&slice).iter().chain([&slice]) {
                for agent in ["kube-proxy", "coredns", "nginx-ingress-controller"] {
                    let found = shown(agent, &context, object, encoding).unwrap();
                    assert_eq!(addresses(&found), wanted, "{what} {encoding} {object}");
                }
                let found = shown("kubectl", &context, object, encoding).unwrap();
                assert_eq!(addresses(&found).len(), endpoints.len(), "{what}");
            }
        }
    }
    let mut unlabelled = slice(&all);
    unlabelled["metadata"]["labels"] = json!({});
    let topology =
        Arc::new(BTreeMap::from([(ObjectName { namespace: "default".into(), name: "svc1".into() }, "kubernetes.io/hostname".into())]));
    check(
        "kube-proxy",
        &Context { node: "node1".into(), topology, ..Context::default() },
        vec![("no service info in endpointslice", unlabelled, None)],
    );
}

fn repairs(of: &[(&str, Repair)]) -> Context {
    let name = |name: &str| ObjectName { namespace: "default".into(), name: name.into() };
    Context { repairs: Arc::new(of.iter().map(|(n, repair)| (name(n), repair.clone())).collect()), ..Context::default() }
}

#[test]
fn endpoints_are_repaired_from_what_kubelet_reported() {
    let status = |ips: &[&str], ready: bool| {
        let ips: Vec<Value> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
        json!({ "podIP": ips.first().map(|ip| ip["ip"].clone()), "podIPs": ips, "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }] })
    };
    let repair = |ips: &[&str], ready: bool, sent| Repair::of(&status(ips, ready), "u1", sent);
    let endpoint = |ip: &str, uid: &str, conditions: Value| json!({ "addresses": [ip], "conditions": conditions, "targetRef": { "kind": "Pod", "namespace": "default", "name": "p1", "uid": uid } });
    let up = || json!({ "ready": true, "serving": true, "terminating": false });
    let down = || json!({ "ready": false, "serving": false, "terminating": false });
    let slice = |family: &str, endpoints: Vec<Value>| json!({ "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": meta("default", "s-1"), "endpoints": endpoints, "addressType": family });
    let other = || json!({ "addresses": ["10.0.0.9"], "targetRef": { "kind": "Pod", "namespace": "default", "name": "p2", "uid": "u2" } });
    let v4 = |endpoint: Value| slice("IPv4", vec![endpoint, other()]);
    let both = &["10.0.0.2", "fd00::2"];
    let table: Vec<(&str, Repair, Value, Option<Value>)> = vec![
        ("another address", repair(both, true, None), v4(endpoint("10.0.0.1", "u1", up())), Some(v4(endpoint("10.0.0.2", "u1", up())))),
        (
            "by address family",
            repair(both, true, None),
            slice("IPv6", vec![endpoint("fd00::1", "u1", up())]),
            Some(slice("IPv6", vec![endpoint("fd00::2", "u1", up())])),
        ),
        ("not ready", repair(both, false, None), v4(endpoint("10.0.0.1", "u1", up())), Some(v4(endpoint("10.0.0.2", "u1", down())))),
        ("ready again", repair(both, true, None), v4(endpoint("10.0.0.2", "u1", down())), Some(v4(endpoint("10.0.0.2", "u1", up())))),
        ("the same", repair(both, true, None), v4(endpoint("10.0.0.2", "u1", up())), None),
        ("conditions that are not set are true", repair(both, true, None), v4(endpoint("10.0.0.2", "u1", json!({}))), None),
        ("no address", repair(&[], true, None), v4(endpoint("10.0.0.1", "u1", up())), Some(v4(endpoint("10.0.0.1", "u1", down())))),
        ("another pod of the same name", repair(both, true, None), v4(endpoint("10.0.0.1", "u9", up())), None),
        ("a reference without uid", repair(both, true, None), v4(endpoint("10.0.0.1", "", up())), Some(v4(endpoint("10.0.0.2", "", up())))),
        (
            "sent, and not written since",
            repair(both, true, Some(7)),
            v4(endpoint("10.0.0.1", "u1", up())),
            Some(v4(endpoint("10.0.0.2", "u1", up()))),
        ),
        ("sent, and written since", repair(both, true, Some(6)), v4(endpoint("10.0.0.1", "u1", up())), None),
    ];
    for (what, repair, input, wanted) in table {
        for agent in ["kube-proxy", "anybody", ""] {
            check(agent, &repairs(&[("p1", repair.clone())]), vec![(what, input.clone(), wanted.clone().map(Some))]);
        }
    }
    let address =
        |ip: &str, name: &str| json!({ "ip": ip, "targetRef": { "kind": "Pod", "namespace": "default", "name": name, "uid": "u1" } });
    let endpoints = |ready: Vec<Value>, other: Vec<Value>| {
        let mut subset = json!({});
        [("addresses", ready), ("notReadyAddresses", other)]
            .into_iter()
            .filter(|(_, all)| !all.is_empty())
            .for_each(|(field, all)| subset[field] = all.into());
        json!({ "kind": "Endpoints", "apiVersion": "v1", "metadata": meta("default", "s"), "subsets": [subset] })
    };
    let old = || address("10.0.0.1", "p1");
    let new = || address("10.0.0.2", "p1");
    let other = || address("10.0.0.9", "p2");
    let table = [
        ("moves to the ready ones", true, endpoints(vec![other()], vec![old()]), endpoints(vec![other(), new()], vec![])),
        ("moves to the others", false, endpoints(vec![other(), old()], vec![]), endpoints(vec![other()], vec![new()])),
        ("stays", true, endpoints(vec![old(), other()], vec![]), endpoints(vec![new(), other()], vec![])),
    ];
    for (what, ready, input, wanted) in table {
        check("coredns", &repairs(&[("p1", repair(both, ready, None))]), vec![(what, input, Some(Some(wanted)))]);
    }
}

/// Random numbers from a seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    /// A value that may stand in the place of any other.
    fn value(&mut self, depth: u32) -> Value {
        let names = [
            "addresses",
            "nodeName",
            "targetRef",
            "kind",
            "name",
            "conditions",
            "ready",
            "deprecatedTopology",
            "kubernetes.io/hostname",
            "ip",
        ];
        match self.below(if depth == 0 { 5 } else { 7 }) {
            0 => Value::Null,
            1 => (self.below(2) == 0).into(),
            2 => self.below(1 << 40).into(),
            3 => ["node1", "node2", "", "Pod", "p1", "10.0.0.1"][self.below(6) as usize].into(),
            4 => json!({}),
            5 => (0..self.below(4)).map(|_| self.value(depth - 1)).collect::<Vec<_>>().into(),
            _ => (0..self.below(5))
                .map(|_| (names[self.below(10) as usize].to_string(), self.value(depth - 1)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }
}

#[test]
fn ten_thousand_random_slices_panic_nowhere() {
    let mut random = Random(7);
    let mut contexts =
        [hub(), repairs(&[("p1", Repair { uid: String::new(), ips: vec!["10.0.0.2".parse().unwrap()], ready: true, sent: None })])];
    contexts[0].topology = Arc::new(BTreeMap::from([(
        ObjectName { namespace: "default".into(), name: "kubernetes".into() },
        "kubernetes.io/hostname".into(),
    )]));
    let (mut changed, mut unreadable) = (0, 0);
    for i in 0..10_000 {
        let kind = ["EndpointSlice", "Endpoints", "Service", "Pod", "ConfigMap"][random.below(5).min(1 + i % 5) as usize];
        let mut meta = json!({ "name": "kubernetes", "namespace": "default", "resourceVersion": "7" });
        meta["labels"] = json!({ "kubernetes.io/service-name": "kubernetes" });
        let mut value = json!({ "kind": kind, "apiVersion": "v1", "metadata": meta, "addressType": "IPv4" });
        for field in ["endpoints", "subsets", "ports", "spec", "data"] {
            value[field] = random.value(5);
        }
        if random.below(2) == 0 {
            let node = ["node1", "node2"][random.below(2) as usize];
            let target = random.value(3);
            value["endpoints"] = json!([{ "addresses": ["10.0.0.1"], "nodeName": node, "targetRef": { "kind": "Pod", "name": "p1" } }, { "nodeName": random.value(2), "targetRef": target }]);
        }
        let agent = ["kube-proxy", "kubelet", "coredns"][random.below(3) as usize];
        let context = &contexts[random.below(2) as usize];
        let chain = crate::filters::chain::Chain::of(
            context,
            agent,
            &super::request(crate::apimachinery::request::Verb::List, super::resource_of(kind)),
        )
        .unwrap();
        let json = object(&value, Encoding::Json);
        changed += u32::from(chain.apply(&json, context, None).unwrap() != crate::filters::chain::Verdict::Keep);
        // The same on the wire, whole and cut off anywhere.
        let Some(bytes) = super::wire(&value) else { continue };
        for end in [bytes.len(), random.below(bytes.len() as u64) as usize] {
            match crate::apimachinery::object::Object::read(bytes.slice(..end), Encoding::Protobuf) {
                Ok(whole) => unreadable += u32::from(chain.apply(&whole, context, None).is_err()),
                Err(_) => unreadable += 1,
            }
        }
    }
    assert!(changed > 1000 && unreadable > 1000, "{changed} {unreadable}");
}
