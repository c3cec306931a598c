//! The order of HTTP filters, and what routes change about them.
use crate::{
    client::{self, Answer},
    harness::{Start, Weir},
    mesh::Mesh,
    plugin_kit::{guest, istio},
};

const OBJECTS: &str = r#"
{ apiVersion: v1, kind: Service, metadata: { name: echo }, spec: { ports: [{ port: 80 }] } }
---
{ apiVersion: v1, kind: Endpoints, metadata: { name: echo }, subsets: [{ addresses: [{ ip: 127.0.0.1 }], ports: [{ port: $ECHO }] }] }
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: open, annotations: { nginx.ingress.kubernetes.io/enable-cors: "true" } }
spec: { rules: [{ host: a.test, http: { paths: [{ path: /, pathType: Prefix, backend: { service: { name: echo, port: { number: 80 } } } }] } }] }
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: closed
  annotations:
    nginx.ingress.kubernetes.io/enable-cors: "true"
    nginx.ingress.kubernetes.io/whitelist-source-range: 192.0.2.0/24
spec: { rules: [{ host: a.test, http: { paths: [{ path: /closed, pathType: Prefix, backend: { service: { name: echo, port: { number: 80 } } } }] } }] }
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: limited
  annotations: { higress.io/enable-cors: "true", higress.io/route-limit-rpm: "1", higress.io/route-limit-burst-multiplier: "1" }
spec: { rules: [{ host: b.test, http: { paths: [{ path: /, pathType: Prefix, backend: { service: { name: echo, port: { number: 80 } } } }] } }] }
"#;

/// Says that it has seen a request; sends one with `x-to-closed` to another route; marks each response that it sees.
const PLUGIN: &str = r#"
(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
  (call $say [the plugin has seen it])
  (if (call $has [x-to-closed]) (then (drop (call $set (i32.const 0) [:path] [/closed]))))
  (i32.const 0))
(func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
  (drop (call $add (i32.const 2) [x-plugin] [yes]))
  (i32.const 0))"#;

const ORIGIN: (&str, &str) = ("origin", "https://shop.test");

fn send(weir: &Weir, method: &str, host: &str, path: &str, header: (&str, &str)) -> Answer {
    let headers = [ORIGIN, ("access-control-request-method", "GET"), header];
    client::request(weir.address(), method, host, path, &headers, b"").unwrap()
}

/// Its status, whether CORS lets the origin in, and whether the plugin has seen it.
fn outcome(answer: &Answer) -> (u16, bool, bool) {
    (answer.status, answer.header("access-control-allow-origin").is_some(), answer.header("x-plugin").is_some())
}

#[test]
fn what_refuses_comes_before_cors_and_plugins() {
    let plugin = istio("marks", "url: file://guest.wat");
    let start = Start::new().file("all.yaml", OBJECTS).file("guest.wat", guest(PLUGIN)).file("plugin.yaml", plugin);
    let weir = start.arg("--http-port").arg("$PORT").run();
    let none = ("x-none", "1");
    for (method, host, path, header, wanted) in [
        ("OPTIONS", "a.test", "/closed", none, (403, false, false)),
        ("OPTIONS", "a.test", "/", none, (200, true, false)),
        ("OPTIONS", "b.test", "/", none, (200, true, false)),
        ("OPTIONS", "b.test", "/", none, (429, false, false)),
    ] {
        assert_eq!(outcome(&send(&weir, method, host, path, header)), wanted, "{method} {host}{path}");
    }
    assert!(weir.lines("the plugin has seen it").is_empty(), "the requests that were answered before plugins");
    // A plugin cannot lead a request past the checks of the route that it then takes.
    let diverted = send(&weir, "GET", "a.test", "/", ("x-to-closed", "1"));
    assert_eq!((diverted.status, diverted.body.trim()), (403, "RBAC: access denied"));
    assert_eq!(outcome(&send(&weir, "GET", "a.test", "/", none)), (200, true, true));
    weir.says("the plugin has seen it");

    let dump = weir.admin("/config_dump").json();
    let of = |kind: &str| dump["configs"].as_array().unwrap().iter().find(|c| c["@type"].as_str().unwrap().ends_with(kind)).unwrap();
    let listeners = of("ListenersConfigDump")["dynamic_listeners"].as_array().unwrap();
    let chains = |l: &serde_json::Value| l["active_state"]["listener"]["filter_chains"].as_array().unwrap().clone();
    let manager = listeners.iter().flat_map(chains).map(|c| c["filters"][0]["typed_config"].clone()).find(|m| !m["http_filters"].is_null());
    let filters = manager.unwrap()["http_filters"].as_array().unwrap().clone();
    let names: Vec<_> = filters.iter().map(|f| f["name"].as_str().unwrap().trim_start_matches("envoy.filters.http.")).collect();
    let place = |name: &str| names.iter().position(|n| *n == name).unwrap_or_else(|| panic!("{name} in {names:?}"));
    let order = ["rbac", "local_ratelimit", "cors.ingress", "default/marks", "fault", "cors", "router"].map(place);
    assert!(order.is_sorted(), "{names:?}");
    let routes = of("RoutesConfigDump").to_string();
    assert!(routes.contains("typed_per_filter_config") && routes.contains("cors.v3.CorsPolicy"), "{routes}");
}

/// CORS of a VirtualService is last, as in Istio: policies, plugins and faults come before it.
#[test]
fn cors_of_a_virtual_service_is_last() {
    let cors = "corsPolicy: { allowOrigins: [{ exact: 'https://shop.test' }], allowMethods: [GET] }";
    let fault = "fault: { abort: { httpStatus: 418, percentage: { value: 100 } } }";
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: p, namespace: istio-system }\nspec:\n  \
                  action: DENY\n  rules: [{ to: [{ operation: { hosts: [denied.test], methods: [OPTIONS] } }] }]\n";
    let weir = Mesh::new()
        .to("both.test", &["$ECHO"], &format!("{cors}\n{fault}"))
        .to("cors.test", &["$ECHO"], cors)
        .to("fault.test", &["$ECHO"], fault)
        .to("denied.test", &["$ECHO"], cors)
        .start()
        .file("policy.yaml", policy)
        .file("guest.wat", guest(PLUGIN))
        .file("plugin.yaml", istio("marks", "url: file://guest.wat"))
        .run();
    for (method, host, wanted) in [
        ("OPTIONS", "cors.test", (200, true, true)),
        ("GET", "cors.test", (200, true, true)),
        ("OPTIONS", "both.test", (418, false, true)),
        ("GET", "both.test", (418, false, true)),
        ("GET", "fault.test", (418, false, true)),
        ("OPTIONS", "denied.test", (403, false, false)),
        ("GET", "denied.test", (200, true, true)),
    ] {
        assert_eq!(outcome(&send(&weir, method, host, "/", ("x-none", "1"))), wanted, "{method} {host}");
    }
}
