//! Gateways of both APIs: addresses, hosts, who may attach, which ones are ours.
use super::{came_to, check, services};
use crate::{
    client,
    harness::{Start, eventually},
};
use std::net::SocketAddr;

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

fn http_route(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec:\n{spec}  rules:\n  - filters: [{{ type: RequestHeaderModifier, requestHeaderModifier: {{ set: [{{ name: x-route, value: {name} }}] }} }}]\n    backendRefs: [{{ name: echo, port: 80 }}]\n"
    )
}

#[test]
fn addresses_are_bound_one_by_one() {
    let gateway = |name: &str, addresses: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: {name} }}\nspec:\n  gatewayClassName: weir\n  addresses: [{addresses}]\n  listeners: [{{ name: http, port: $PORT, protocol: HTTP }}]\n"
        )
    };
    let istio = "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: { name: istio }\nspec:\n  selector: { istio: ingressgateway }\n  servers: [{ port: { number: $PORT, name: http, protocol: HTTP }, hosts: ['*'], bind: 127.0.0.4 }]\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: v }\nspec:\n  hosts: ['*']\n  gateways: [istio]\n  http: [{ headers: { request: { set: { x-route: istio } } }, route: [{ destination: { host: echo } }] }]\n";
    let all = [
        services("default", 1),
        gateway("one", "{ value: 127.0.0.2 }"),
        gateway("two", "{ type: IPAddress, value: 127.0.0.3 }, { value: 127.0.0.5 }"),
        istio.into(),
        http_route("r-one", "default", "  parentRefs: [{ name: one }]\n"),
        http_route("r-two", "default", "  parentRefs: [{ name: two }]\n  hostnames: [two.test]\n"),
    ];
    let weir = Start::new().file("all.yaml", all.concat()).run();
    super::no_findings(&weir);
    let port = weir.ports[0];
    assert!(client::get(at("127.0.0.1", port), "one.test", "/").is_err(), "an address that nobody asked for answers");
    check(at("127.0.0.2", port), came_to, &[("GET one.test/", "r-one"), ("GET two.test/", "r-one")]);
    check(at("127.0.0.3", port), came_to, &[("GET one.test/", "404"), ("GET two.test/", "r-two")]);
    check(at("127.0.0.5", port), came_to, &[("GET two.test/", "r-two")]);
    check(at("127.0.0.4", port), came_to, &[("GET one.test/", "istio")]);
    // One that asks for none has the rest of them.
    weir.write("any.yaml", &format!("{}{}", gateway("any", ""), http_route("r-any", "default", "  parentRefs: [{ name: any }]\n")));
    eventually("the other addresses", || client::get(at("127.0.0.1", port), "one.test", "/").ok().filter(|a| a.status == 200));
    check(at("127.0.0.1", port), came_to, &[("GET one.test/", "r-any")]);
    check(at("127.0.0.2", port), came_to, &[("GET one.test/", "r-one")]);
    weir.remove("any.yaml");
    // An address moves.
    weir.write("all.yaml", &all.concat().replace("127.0.0.2", "127.0.0.6"));
    eventually("the new address", || client::get(at("127.0.0.6", port), "one.test", "/").ok().filter(|a| a.status == 200));
    eventually("the end of the old one", || std::net::TcpStream::connect(at("127.0.0.2", port)).is_err().then_some(()));
}

#[test]
fn listeners_choose_their_routes() {
    let gateway = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: gateway }
spec:
  gatewayClassName: mine
  listeners:
  - { name: same, port: $PORT, protocol: HTTP, hostname: '*.same.test' }
  - { name: all, port: $PORT, protocol: HTTP, hostname: '*.all.test', allowedRoutes: { namespaces: { from: All } } }
  - { name: special, port: $PORT, protocol: HTTP, hostname: special.all.test, allowedRoutes: { namespaces: { from: All } } }
  - { name: grpc, port: $PORT, protocol: HTTP, hostname: '*.grpc.test', allowedRoutes: { kinds: [{ kind: GRPCRoute }], namespaces: { from: All } } }
  - { name: team, port: $PORT2, protocol: HTTP, allowedRoutes: { namespaces: { from: Selector, selector: { matchLabels: { team: shop }, matchExpressions: [{ key: stage, operator: NotIn, values: [dev] }] } } } }
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: mine }
spec: { controllerName: weir.dev/gateway-controller }
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: others }
spec: { controllerName: example.com/controller }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: others }
spec: { gatewayClassName: others, listeners: [{ name: http, port: $PORT3, protocol: HTTP }] }
---
";
    let namespaces = "---\n{ apiVersion: v1, kind: Namespace, metadata: { name: shop, labels: { team: shop } } }\n---\n{ apiVersion: v1, kind: Namespace, metadata: { name: shop-dev, labels: { team: shop, stage: dev } } }\n";
    let to = |section: &str| format!("  parentRefs: [{{ name: gateway, namespace: default{section} }}]\n");
    let all = [
        gateway.to_string(),
        services("default", 1),
        "---\n".into(),
        services("shop", 1),
        "---\n".into(),
        services("shop-dev", 1),
        http_route("own", "default", &to("")),
        http_route("shop", "shop", &to(", sectionName: all")),
        http_route("special", "shop", &to(", sectionName: special")),
        http_route("team", "shop", &format!("{}  hostnames: [team.test]\n", to(", port: $PORT2"))),
        http_route("dev", "shop-dev", &format!("{}  hostnames: [dev.test]\n", to(", sectionName: team"))),
    ];
    let weir = Start::new().file("all.yaml", all.concat()).file("namespaces.yaml", namespaces).run();
    check(
        weir.address(),
        came_to,
        &[
            ("GET a.same.test/", "own"),
            ("GET same.test/", "404"),
            ("GET a.all.test/", "own"),
            ("GET a.b.all.test/", "own"),
            // The listener with the narrower name has it for itself.
            ("GET special.all.test/", "own"),
            ("GET a.grpc.test/", "404"),
            ("GET other.test/", "404"),
        ],
    );
    let second = at("127.0.0.1", weir.ports[1]);
    check(second, came_to, &[("GET team.test/", "team"), ("GET dev.test/", "404"), ("GET a.all.test/", "404")]);
    assert!(std::net::TcpStream::connect(at("127.0.0.1", weir.ports[2])).is_err(), "a Gateway of another controller is open");
    // A namespace gets a label, and its routes a listener.
    weir.write("namespaces.yaml", &namespaces.replace("stage: dev", "stage: prod"));
    eventually("the route of the namespace", || client::get(second, "dev.test", "/").ok().filter(|a| a.status == 200));
    weir.says("allows no routes of this kind and namespace");
    weir.says("belongs to the controller example.com/controller");
}

const ISTIO: &str = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: edge }
spec:
  selector: { istio: edge }
  servers:
  - { port: { number: $PORT, name: http, protocol: HTTP }, hosts: ['default/*.own.test', './*.dot.test', '*.any.test', 'shop/shop.test'] }
  - { port: { number: $PORT2, name: redirect, protocol: HTTP }, hosts: ['*'], tls: { httpsRedirect: true } }
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: inner }
spec:
  selector: { istio: inner }
  servers: [{ port: { number: $PORT3, name: http, protocol: HTTP }, hosts: ['*'] }]
";

fn virtual_service(name: &str, namespace: &str, hosts: &str, more: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec:\n  hosts: [{hosts}]\n  gateways: [default/edge, default/inner]\n{more}  http: [{{ headers: {{ request: {{ set: {{ x-route: {name} }} }} }}, route: [{{ destination: {{ host: echo.default.svc.cluster.local }} }}] }}]\n"
    )
}

#[test]
fn servers_of_istio_choose_by_namespace_and_selector() {
    let all = [
        ISTIO.to_string(),
        "---\n".into(),
        services("default", 1),
        virtual_service("own", "default", "a.own.test, a.dot.test, a.any.test", ""),
        virtual_service("shop", "shop", "b.own.test, b.dot.test, b.any.test, shop.test", ""),
        virtual_service("hidden", "shop", "c.any.test", "  exportTo: ['.']\n"),
        virtual_service("shown", "shop", "d.any.test", "  exportTo: [default]\n"),
    ];
    let weir = Start::new().file("all.yaml", all.concat()).run();
    check(
        weir.address(),
        came_to,
        &[
            ("GET a.own.test/", "own"),
            ("GET a.dot.test/", "own"),
            ("GET a.any.test/", "own"),
            ("GET b.own.test/", "404"),
            ("GET b.dot.test/", "404"),
            ("GET b.any.test/", "shop"),
            ("GET shop.test/", "shop"),
            ("GET c.any.test/", "404"),
            ("GET d.any.test/", "shown"),
        ],
    );
    check(at("127.0.0.1", weir.ports[1]), came_to, &[("GET a.own.test:80/x?y", "301 https://a.own.test/x?y")]);
    check(at("127.0.0.1", weir.ports[2]), came_to, &[("GET a.own.test/", "own")]);

    // With labels of its own a gateway opens what selects it.
    let weir = Start::new().file("all.yaml", all.concat()).arg("--labels").arg("istio=edge,app=x").run();
    check(weir.address(), came_to, &[("GET a.own.test/", "own")]);
    assert!(std::net::TcpStream::connect(at("127.0.0.1", weir.ports[2])).is_err(), "a Gateway for other labels is open");
}
