//! GRPCRoute: services and methods; what its services speak.
use super::{came_to, check, services};
use crate::{
    client::{Answer, Connection},
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

/// HTTPRoutes and GRPCRoutes of one host are both served: a GRPCRoute's services first, and for calls only where it names none.
#[test]
fn a_host_has_routes_of_both_kinds() {
    let route = |kind: &str, name: &str, hosts: &str, matches: &str| {
        let header =
            format!("{{ type: ResponseHeaderModifier, responseHeaderModifier: {{ set: [{{ name: x-route, value: {kind}-{name} }}] }} }}");
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{ name: {name} }}\nspec:\n  parentRefs: [{{ name: gateway }}]\n  hostnames: [{hosts}]\n  rules: [{{ {matches}filters: [{header}], backendRefs: [{{ name: echo, port: 80 }}] }}]\n"
        )
    };
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: gateway }\nspec: { gatewayClassName: weir, listeners: [{ name: http, port: $PORT, protocol: HTTP }] }\n---\n";
    let grpc = route("GRPCRoute", "all", "a.test", "");
    let files = [
        gateway.to_string(),
        services("default", 1),
        route("HTTPRoute", "all", "a.test, c.test", ""),
        route("HTTPRoute", "exact", "a.test", "matches: [{ path: { type: Exact, value: /shop.Cart/Get } }], "),
        route("GRPCRoute", "cart", "a.test", "matches: [{ method: { service: shop.Cart } }], "),
        route("GRPCRoute", "wide", "'*.test'", "matches: [{ method: { service: shop.Cart } }], "),
        route("GRPCRoute", "header", "b.test", "matches: [{ headers: [{ name: x-v, value: '2' }] }], "),
        route("HTTPRoute", "rest", "b.test", ""),
    ];
    let weir = Start::new().file("all.yaml", files.concat()).file("grpc.yaml", &grpc[4..]).run();
    super::no_findings(&weir);
    let taken = |answer: &Answer| answer.header("x-route").unwrap_or_default().to_string();
    let call = |host: &str, path: &str, fields: &[(&str, &str)]| {
        let fields = [&[("content-type", "application/grpc+proto"), ("te", "trailers")], fields].concat();
        let answer = Connection::open(weir.address()).unwrap().request("POST", host, path, &fields, b"").unwrap();
        taken(&answer)
    };
    check(
        weir.address(),
        taken,
        &[
            ("GET a.test/", "HTTPRoute-all"),
            ("GET a.test/shop.Cart/Get", "GRPCRoute-cart"),
            ("GET b.test/ | x-v: 2", "HTTPRoute-rest"),
            // The more specific host counts first.
            ("GET c.test/shop.Cart/Get", "HTTPRoute-all"),
            ("GET d.test/shop.Cart/Get", "GRPCRoute-wide"),
        ],
    );
    assert_eq!(call("a.test", "/shop.Cart/Get", &[]), "GRPCRoute-cart");
    assert_eq!(call("a.test", "/shop.Till/Get", &[]), "GRPCRoute-all");
    assert_eq!(call("b.test", "/shop.Till/Get", &[]), "HTTPRoute-rest");
    assert_eq!(call("b.test", "/shop.Till/Get", &[("x-v", "2")]), "GRPCRoute-header");
    weir.remove("grpc.yaml");
    eventually("the HTTPRoute", || (call("a.test", "/shop.Till/Get", &[]) == "HTTPRoute-all").then_some(()));
}
