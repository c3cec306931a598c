//! ListenerSets: their listeners serve beside those of their Gateway, and routes attach to them by name.
use crate::{
    harness::{Start, eventually},
    yaml::Service,
};

fn gateway(allowed: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: gateway }}\nspec:\n  gatewayClassName: weir\n  allowedListeners: {{ namespaces: {{ from: {allowed} }} }}\n  listeners: [{{ name: own, port: $PORT, protocol: HTTP, hostname: own.test }}]\n"
    )
}

fn set(name: &str, created: &str, listeners: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: ListenerSet\nmetadata: {{ name: {name}, creationTimestamp: '2026-01-0{created}T00:00:00Z' }}\nspec:\n  parentRef: {{ name: gateway }}\n  listeners: [{listeners}]\n---\n"
    )
}

fn route(name: &str, parent: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name} }}\nspec:\n  parentRefs: [{{ {parent} }}]\n  rules: [{{ matches: [{{ path: {{ value: /{name} }} }}], backendRefs: [{{ name: echo, port: 80 }}] }}]\n---\n"
    )
}

#[test]
fn listeners_of_sets_serve_beside_those_of_their_gateway() {
    let sets = [
        // The older one has the host that both want.
        set("a", "2", "{ name: x, port: $PORT, protocol: HTTP, hostname: both.test }"),
        set(
            "b",
            "1",
            "{ name: x, port: $PORT, protocol: HTTP, hostname: both.test }, { name: y, port: $PORT, protocol: HTTP, hostname: b.test }, { name: z, port: $PORT2, protocol: HTTP }",
        ),
    ];
    let routes = [
        route("gateway", "name: gateway"),
        route("a", "kind: ListenerSet, name: a"),
        route("b", "kind: ListenerSet, name: b"),
        route("section", "kind: ListenerSet, name: b, sectionName: y"),
        route("missed", "name: gateway, sectionName: y"),
    ];
    let weir = Start::new()
        .file("gateway.yaml", gateway("Same"))
        .file("sets.yaml", sets.concat())
        .file("routes.yaml", routes.concat() + &Service::new("echo", "$ECHO").text())
        .unready()
        .run();
    let table = [
        ("own.test", "/gateway", 200),
        ("own.test", "/b", 404),
        ("both.test", "/b", 200),
        ("both.test", "/a", 404),
        ("both.test", "/gateway", 404),
        ("both.test", "/section", 404),
        ("b.test", "/b", 200),
        ("b.test", "/section", 200),
        ("b.test", "/missed", 404),
        ("other.test", "/b", 404),
    ];
    let answers = || table.map(|(host, path, _)| (host, path, weir.get(host, path).status));
    eventually("the table", || (answers() == table).then_some(()));
    // A listener of a port of its own has the route as well.
    let second = std::net::SocketAddr::from(([127, 0, 0, 1], weir.ports[1]));
    eventually("the other port", || std::net::TcpStream::connect(second).ok());
    // The younger one takes over when the older one is gone, and nothing is left of sets that are no longer allowed.
    weir.write("sets.yaml", &sets[0]);
    eventually("the younger set", || (weir.get("both.test", "/a").status == 200 && weir.get("b.test", "/b").status == 404).then_some(()));
    weir.write("gateway.yaml", &gateway("None"));
    eventually("no set", || (weir.get("both.test", "/a").status == 404 && weir.get("own.test", "/gateway").status == 200).then_some(()));
}
