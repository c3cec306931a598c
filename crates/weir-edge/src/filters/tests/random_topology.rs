//! `servicetopology` against its rule, on random EndpointSlices and Endpoints.
use super::{
    object,
    rules::{Random, addresses, older, slice},
    shown,
};
use crate::{apimachinery::media::Encoding, filters::context::Context, store::ObjectName};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

const NODES: [&str; 4] = ["node1", "node2", "node3", ""];

#[test]
fn of_ten_thousand_random_objects_each_keeps_the_endpoints_of_its_topology() {
    let mut random = Random(11);
    let (mut trimmed, mut kept) = (0, 0);
    for i in 0..10_000 {
        let nodes: Vec<Option<&str>> = (0..random.below(8)).map(|_| NODES.get(random.below(6) as usize).copied()).collect();
        let key =
            [None, Some("kubernetes.io/hostname"), Some("openyurt.io/nodepool"), Some("kubernetes.io/zone"), Some("example.com/rack")]
                [random.below(5) as usize];
        let pool = (random.below(3) > 0).then_some("hangzhou");
        let members = (random.below(4) > 0)
            .then(|| NODES[..3].iter().filter(|_| random.below(2) == 0).map(ToString::to_string).collect::<BTreeSet<_>>());
        let name = ObjectName { namespace: "default".into(), name: "svc1".into() };
        let context = Context {
            node: "node1".into(),
            pool: pool.map(str::to_string),
            pool_nodes: members.clone(),
            topology: Arc::new(key.map(|key| (name, key.to_string())).into_iter().collect::<BTreeMap<_, _>>()),
            ..Context::default()
        };
        // The rule: this node, the nodes of its pool, or no rule.
        let wanted = |node: Option<&str>| match (key, pool, &members) {
            (Some("kubernetes.io/hostname"), ..) | (Some("openyurt.io/nodepool" | "kubernetes.io/zone"), None, _) => node == Some("node1"),
            (Some("openyurt.io/nodepool" | "kubernetes.io/zone"), Some(_), Some(members)) => {
                node.is_some_and(|node| members.contains(node))
            }
            _ => true,
        };
        let slice = slice(&nodes);
        let [beta, endpoints] = older(&slice);
        let value = vec![slice, beta, endpoints].swap_remove(random.below(3) as usize);
        let encoding = if i % 2 == 0 { Encoding::Json } else { Encoding::Protobuf };
        let before = addresses(&super::opened(&object(&value, encoding)));
        // The node of each address is in its number.
        let node_of = |address: &String| nodes[address.rsplit('.').next().unwrap().parse::<usize>().unwrap() - 2];
        let rule: Vec<String> = before.iter().filter(|address| wanted(node_of(address))).cloned().collect();
        let agent = ["kube-proxy", "coredns", "nginx-ingress-controller"][random.below(3) as usize];
        let found = shown(agent, &context, &value, encoding).map(|found| addresses(&found)).unwrap();
        assert_eq!(found, rule, "{i}: {key:?} {pool:?} {members:?} {value}");
        if rule.len() < before.len() { trimmed += 1 } else { kept += 1 }
    }
    assert!(trimmed > 1000 && kept > 1000, "{trimmed} {kept}");
}
