//! A header that is sent twice: each line is matched by itself, so that none can hide behind another.
use crate::{
    client,
    harness::{Start, TO_ECHO, Weir},
};

/// Routes that answer by themselves when a header fits; one path for each way to match.
const VIRTUAL_SERVICE: &str = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: istio }
spec: { servers: [{ port: { number: $PORT2, name: http, protocol: HTTP }, hosts: ['*'] }] }
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: v }
spec:
  hosts: ['*']
  gateways: [istio]
  http:
  - { match: [{ uri: { prefix: /exact }, headers: { x-role: { exact: admin } } }], directResponse: { status: 403 } }
  - { match: [{ uri: { prefix: /prefix }, headers: { x-role: { prefix: adm } } }], directResponse: { status: 403 } }
  - { match: [{ uri: { prefix: /regex }, headers: { x-role: { regex: 'adm.*' } } }], directResponse: { status: 403 } }
  - { match: [{ uri: { prefix: /without }, withoutHeaders: { x-role: { exact: admin } } }], route: [{ destination: { host: echo } }] }
  - { match: [{ uri: { prefix: /without } }], directResponse: { status: 403 } }
  - route: [{ destination: { host: echo } }]
---
";

const HTTP_ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: admins }
spec:
  parentRefs: [{ name: gateway }]
  rules:
  - matches:
    - { path: { value: /exact }, headers: [{ name: x-role, value: admin }] }
    - { path: { value: /regex }, headers: [{ name: x-role, type: RegularExpression, value: 'adm.*' }] }
    filters: [{ type: RequestRedirect, requestRedirect: { hostname: closed.test } }]
---
";

#[test]
fn a_header_sent_twice_hides_from_no_match() {
    let weir: Weir = Start::new().file("all.yaml", format!("{VIRTUAL_SERVICE}{HTTP_ROUTE}{TO_ECHO}")).run();
    let ask = |port: usize, path: &str, lines: &[&str]| {
        let headers: Vec<(&str, &str)> = lines.iter().map(|v| ("x-role", *v)).collect();
        let to = std::net::SocketAddr::from(([127, 0, 0, 1], weir.ports[port]));
        client::request(to, "GET", "h.test", path, &headers, b"").unwrap().status
    };
    for (lines, admin, by_pattern) in [
        (&["admin"][..], true, true),
        (&["user", "admin"], true, true),
        (&["admin", "user"], true, true),
        (&["", "admin"], true, true),
        (&["user", "admiral"], false, true),
        // One line stays one value.
        (&["user,admin"], false, false),
        (&["admin,user"], false, true),
        (&["user"], false, false),
        (&[], false, false),
    ] {
        for (path, denied) in [("/exact", admin), ("/prefix", by_pattern), ("/regex", by_pattern), ("/without", admin)] {
            assert_eq!(ask(1, path, lines), if denied { 403 } else { 200 }, "VirtualService: {path} {lines:?}");
        }
        for (path, denied) in [("/exact", admin), ("/regex", by_pattern)] {
            assert_eq!(ask(0, path, lines), if denied { 302 } else { 200 }, "HTTPRoute: {path} {lines:?}");
        }
    }
}
