//! GRPCRoute: services and methods; what its services speak.
use super::{came_to, check, services};
use crate::{
    client::Connection,
    harness::{Start, eventually},
};

const ROUTES: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: gateway }
spec: { gatewayClassName: weir, listeners: [{ name: http, port: $PORT, protocol: HTTP }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: { name: routes }
spec:
  parentRefs: [{ name: gateway }]
  hostnames: [grpc.test]
  rules:
  - filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-route, value: method }] } }]
    matches: [{ method: { method: Get } }]
    backendRefs: [{ name: echo, port: 80 }]
  - filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-route, value: service }] } }]
    matches: [{ method: { service: shop.Cart } }]
    backendRefs: [{ name: echo, port: 80 }]
  - filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-route, value: both }] } }]
    matches: [{ method: { service: shop.Cart, method: Get } }]
    backendRefs: [{ name: echo, port: 80 }]
  - filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-route, value: header }] } }]
    matches: [{ method: { service: shop.Cart, method: Get }, headers: [{ name: x-v, value: '2' }] }]
    backendRefs: [{ name: echo, port: 80 }]
  - filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-route, value: pattern }] } }]
    matches: [{ method: { type: RegularExpression, service: 'shop\\..*', method: List.* } }]
    backendRefs: [{ name: echo, port: 80 }]
  - matches: [{ method: { service: shop.Gone } }]
    backendRefs: [{ name: nothing, port: 80 }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: { name: empty }
spec: { parentRefs: [{ name: gateway }], hostnames: [empty.test] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: rest }
spec:
  parentRefs: [{ name: gateway }]
  hostnames: [other.test]
  rules: [{ backendRefs: [{ name: echo2, port: 80 }] }]
---
";

#[test]
fn methods_are_routed() {
    let weir = Start::new().upstreams(2).file("all.yaml", format!("{ROUTES}{}", services("default", 2))).run();
    check(
        weir.address(),
        came_to,
        &[
            ("POST grpc.test/shop.Cart/Get", "both"),
            ("POST grpc.test/shop.Cart/Get | x-v: 2", "header"),
            ("POST grpc.test/shop.Cart/Put", "service"),
            ("POST grpc.test/shop.Cart/ListAll", "service"),
            ("POST grpc.test/shop.Till/ListAll", "pattern"),
            ("POST grpc.test/shop.Till/Get", "method"),
            ("POST grpc.test/shop.Till/Put", "404"),
            ("POST grpc.test/shop.Gone/Put", "503"),
            ("POST grpc.test/shop.Cart.Get", "404"),
            ("POST other.test/shop.Cart/Get", "echo2"),
            ("POST empty.test/shop.Cart/Get", "404"),
        ],
    );
    // Nobody said what the services speak: one of GRPCRoutes speaks HTTP/2.
    let protocol = |host: &str| weir.get(host, "/shop.Cart/Get").json()["protocol"].as_str().unwrap().to_string();
    assert_eq!((protocol("grpc.test").as_str(), protocol("other.test").as_str()), ("HTTP/2.0", "HTTP/1.1"));
    // Callers learn in their own words what went wrong: 14 is UNAVAILABLE, 12 UNIMPLEMENTED.
    let mut c = Connection::open(weir.address()).unwrap();
    for (path, status) in [("/shop.Gone/Put", "14"), ("/shop.Till/Put", "12")] {
        let answer = c.request("POST", "grpc.test", path, &[("content-type", "application/grpc")], b"").unwrap();
        assert_eq!((answer.status, answer.header("grpc-status")), (200, Some(status)), "{path}: {answer:?}");
    }
}

/// Of an HTTPRoute and a GRPCRoute with a host of a listener in common, one is attached.
#[test]
fn a_host_has_routes_of_one_kind() {
    let route = |kind: &str, name: &str, created: &str, at: &str, hosts: &str| {
        let header =
            format!("{{ type: RequestHeaderModifier, requestHeaderModifier: {{ set: [{{ name: x-route, value: {kind}-{name} }}] }} }}");
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{ name: {name}, creationTimestamp: '{created}-01-01T00:00:00Z' }}\nspec:\n  parentRefs: [{{ name: gateway, sectionName: {at} }}]\n  hostnames: [{hosts}]\n  rules: [{{ filters: [{header}], backendRefs: [{{ name: echo, port: 80 }}] }}]\n"
        )
    };
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: gateway }\nspec:\n  gatewayClassName: weir\n  listeners:\n  - { name: one, port: $PORT, protocol: HTTP }\n  - { name: two, port: $PORT2, protocol: HTTP }\n---\n";
    let first = route("GRPCRoute", "chain-1", "2020", "one", "a.chain.test");
    let files = [
        gateway.to_string(),
        services("default", 1),
        // The older one; of the same age the first by name.
        route("GRPCRoute", "young", "2025", "one", "age.test"),
        route("HTTPRoute", "old", "2024", "one", "age.test"),
        route("GRPCRoute", "b", "2024", "one", "name.test"),
        route("HTTPRoute", "a", "2024", "one", "name.test"),
        // Hosts have hosts in common.
        route("GRPCRoute", "wide", "2020", "one", "'*.wild.test'"),
        route("HTTPRoute", "narrow", "2021", "one", "x.y.wild.test"),
        route("HTTPRoute", "within", "2020", "one", "x.mild.test"),
        route("GRPCRoute", "around", "2021", "one", "'*.mild.test'"),
        route("HTTPRoute", "sibling", "2021", "one", "wild.test"),
        // Another listener is another matter.
        route("HTTPRoute", "elsewhere", "2026", "two", "age.test, '*.wild.test'"),
        // One that is kept out keeps nobody out.
        route("HTTPRoute", "chain-2", "2021", "one", "a.chain.test, b.chain.test"),
        route("GRPCRoute", "chain-3", "2022", "one", "b.chain.test"),
    ];
    let weir = Start::new().file("all.yaml", files.concat()).file("first.yaml", &first[4..]).run();
    let accepted = |title: &str| {
        let all = weir.admin(&format!("/objects?filter={title}$")).json();
        let conditions = all["objects"][0]["conditions"].as_array().unwrap().clone();
        let own = conditions.iter().find(|c| c["type"] == "Accepted").unwrap();
        format!("{} {}", own["status"].as_str().unwrap(), own["reason"].as_str().unwrap())
    };
    let attached = [
        ("GRPCRoute/default/young", false),
        ("HTTPRoute/default/old", true),
        ("GRPCRoute/default/b", false),
        ("HTTPRoute/default/a", true),
        ("GRPCRoute/default/wide", true),
        ("HTTPRoute/default/narrow", false),
        ("HTTPRoute/default/within", true),
        ("GRPCRoute/default/around", false),
        ("HTTPRoute/default/sibling", true),
        ("HTTPRoute/default/elsewhere", true),
        ("GRPCRoute/default/chain-1", true),
        ("HTTPRoute/default/chain-2", false),
        ("GRPCRoute/default/chain-3", true),
    ];
    for (title, wanted) in attached {
        assert_eq!(accepted(title), if wanted { "True Accepted" } else { "False HostnameConflict" }, "{title}");
    }
    check(
        weir.address(),
        came_to,
        &[
            ("POST age.test/a.B/C", "HTTPRoute-old"),
            ("POST name.test/a.B/C", "HTTPRoute-a"),
            ("POST x.y.wild.test/a.B/C", "GRPCRoute-wide"),
            ("POST x.mild.test/a.B/C", "HTTPRoute-within"),
            ("POST y.mild.test/a.B/C", "404"),
            ("POST wild.test/a.B/C", "HTTPRoute-sibling"),
            ("POST a.chain.test/a.B/C", "GRPCRoute-chain-1"),
            ("POST b.chain.test/a.B/C", "GRPCRoute-chain-3"),
        ],
    );
    assert_eq!(weir.says("has GRPCRoute/default/chain-1 for these hosts").len(), 1, "{}", weir.printed());
    // Without the first the second is attached, and the third is not any more; and back.
    weir.remove("first.yaml");
    weir.get_until("b.chain.test", "/", |a| came_to(a) == "HTTPRoute-chain-2");
    weir.get_until("a.chain.test", "/", |a| came_to(a) == "HTTPRoute-chain-2");
    assert_eq!(accepted("GRPCRoute/default/chain-3"), "False HostnameConflict");
    weir.write("first.yaml", &first[4..]);
    weir.get_until("b.chain.test", "/", |a| came_to(a) == "GRPCRoute-chain-3");
    eventually("the condition", || (accepted("HTTPRoute/default/chain-2") == "False HostnameConflict").then_some(()));
}
