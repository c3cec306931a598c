//! Registries of a McpBridge: their services as destinations, and how they follow the servers of registries.
mod cluster;
mod consul;
mod eureka;
mod limits;
mod listed;
mod nacos;
mod server;
mod waiting;
mod zookeeper;

use crate::harness::{Start, Weir, eventually};
use std::collections::BTreeMap;

/// A McpBridge with these registries, each a flow map.
pub fn bridge(registries: &[String]) -> String {
    let list: String = registries.iter().map(|registry| format!("  - {registry}\n")).collect();
    format!(
        "---\napiVersion: networking.higress.io/v1\nkind: McpBridge\nmetadata: {{ name: default, namespace: higress-system }}\nspec:\n  registries:\n{list}"
    )
}

/// An Ingress for a host, with the annotation `destination`.
pub fn ingress(host: &str, destination: &str, more: &str) -> String {
    let name = host.replace('.', "-");
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n  annotations:\n    higress.io/destination: \"{destination}\"\n{more}spec: {{ rules: [{{ host: {host}, http: {{ paths: [{{ path: /, pathType: Prefix, backend: {{ resource: {{ apiGroup: networking.higress.io, kind: McpBridge, name: default }} }} }}] }} }}] }}\n"
    )
}

/// How often each upstream, or status, answered.
pub fn answers(weir: &Weir, host: &str, times: usize) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..times {
        let answer = weir.get(host, "/");
        let name = if answer.status == 200 { answer.json()["name"].as_str().unwrap().to_string() } else { answer.status.to_string() };
        *seen.entry(name).or_default() += 1;
    }
    seen
}

/// A registry on a server, as the tests see it.
trait Registry {
    /// The service `shop` has these instances, and no others.
    fn set(&self, ports: &[u16]);
    /// There is no service `shop`.
    fn remove(&self);
    /// The server is gone, with all connections.
    fn stop(&self);
    /// It is back at the same place.
    fn restart(&self);
}

/// Takes a gateway through what happens to a registry. `registry` is its entry in the McpBridge, `host` that of the service.
fn follows(server: &dyn Registry, registry: &str, host: &str, more: &str) {
    let start = Start::new().upstreams(2).file("all.yaml", bridge(&[registry.to_string()]) + &ingress("shop.test", host, "") + more);
    let weir = start.arg("--http-port").arg("$PORT").run();
    let ports = [1, 2].map(|nth| weir.echo_port(nth));
    server.set(&ports[..1]);
    becomes(&weir, &["echo"]);
    let stat = |name: &str| weir.stat(&format!("control.registry.{name}.main"));
    eventually("the statistics", || (["connected", "synced", "services", "endpoints"].map(stat) == [1; 4]).then_some(()));
    server.set(&ports);
    becomes(&weir, &["echo", "echo2"]);
    server.set(&ports[1..]);
    becomes(&weir, &["echo2"]);
    // Nothing is lost with the registry.
    server.stop();
    eventually("the registry is not connected", || (stat("connected") == 0 && stat("errors") > 0).then_some(()));
    assert_eq!(answers(&weir, "shop.test", 3).into_keys().collect::<Vec<_>>(), ["echo2"]);
    assert_eq!((stat("synced"), stat("endpoints")), (1, 1));
    let said = weir.says("cannot be followed");
    assert!(said[0].contains("the registry main"), "{said:?}");
    assert!(weir.admin("/objects").body.contains("cannot be followed"));
    // What happened in the meantime is found out.
    server.restart();
    server.set(&ports[..1]);
    becomes(&weir, &["echo"]);
    eventually("connected again", || (stat("connected") == 1).then_some(()));
    eventually("the finding is gone", || (!weir.admin("/objects").body.contains("cannot be followed")).then_some(()));
    server.remove();
    becomes(&weir, &["503"]);
    // A registry that goes takes its services with it; one that changes keeps them until it was read.
    server.set(&ports);
    becomes(&weir, &["echo", "echo2"]);
    weir.write("all.yaml", &(bridge(&[]) + &ingress("shop.test", host, "")));
    becomes(&weir, &["503"]);
    eventually("no statistics", || (!weir.admin("/stats").body.contains("control.registry")).then_some(()));
}

/// Waits until requests are answered by these upstreams, and by no others.
#[track_caller]
fn becomes(weir: &Weir, wanted: &[&str]) {
    let began = std::time::Instant::now();
    eventually(&format!("answers by {wanted:?}\n{}", weir.printed()), || {
        // Each of the upstreams gets some of ten.
        let seen = answers(weir, "shop.test", 10);
        (seen.into_keys().collect::<Vec<_>>() == wanted).then_some(())
    });
    println!("{wanted:?} after {:?}", began.elapsed());
}
