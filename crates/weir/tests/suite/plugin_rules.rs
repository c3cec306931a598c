//! Which plugin meets which request: Higress' rules as its own SDK matches them, phases and priorities, ports, targets.
use crate::{
    client,
    harness::{Start, Weir, eventually},
    plugin_kit::{built, guest, higress, istio, on_headers, shown},
    yaml::ToEcho,
};
use std::net::SocketAddr;

/// Two services of the echo upstream, by Ingress objects: routes that Higress' SDK knows by the Ingress' name.
const INGRESSES: &str = "\
{ apiVersion: v1, kind: Service, metadata: { name: one }, spec: { ports: [{ port: 80, targetPort: $ECHO }] } }
---
{ apiVersion: v1, kind: Service, metadata: { name: two }, spec: { ports: [{ port: 81, targetPort: $ECHO }] } }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: one, labels: { kubernetes.io/service-name: one } }
addressType: IPv4
ports: [{ port: $ECHO }]
endpoints: [{ addresses: [127.0.0.1] }]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: two, labels: { kubernetes.io/service-name: two } }
addressType: IPv4
ports: [{ port: $ECHO }]
endpoints: [{ addresses: [127.0.0.1] }]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: shop }
spec:
  rules: [{ host: shop.test, http: { paths: [{ path: /, pathType: Prefix, backend: { service: { name: one, port: { number: 80 } } } }] } }]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: second }
spec:
  rules: [{ host: second.test, http: { paths: [{ path: /, pathType: Prefix, backend: { service: { name: two, port: { number: 81 } } } }] } }]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: shop-canary, annotations: { higress.io/canary: 'true', higress.io/canary-by-header: x-canary } }
spec:
  rules: [{ host: shop.test, http: { paths: [{ path: /, pathType: Prefix, backend: { service: { name: two, port: { number: 81 } } } }] } }]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: shop, namespace: team }
spec:
  rules: [{ host: team.test, http: { paths: [{ path: /, pathType: Prefix, backend: { service: { name: three, port: { number: $ECHO } } } }] } }]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: shop, namespace: higress-system }
spec:
  rules: [{ host: system.test, http: { paths: [{ path: /, pathType: Prefix, backend: { service: { name: three, port: { number: $ECHO } } } }] } }]
---
{ apiVersion: v1, kind: Service, metadata: { name: three, namespace: team }, spec: { type: ExternalName, externalName: 127.0.0.1, ports: [{ port: $ECHO }] } }
---
{ apiVersion: v1, kind: Service, metadata: { name: three, namespace: higress-system }, spec: { type: ExternalName, externalName: 127.0.0.1, ports: [{ port: $ECHO }] } }
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: rest }
spec:
  rules: [{ http: { paths: [{ path: /, pathType: Prefix, backend: { service: { name: one, port: { number: 80 } } } }] } }]
";

/// Replaces the word "event" of the echo upstream's events by another.
fn word(to: &str) -> String {
    format!("{{ replace: [{{ from: event, to: {to} }}] }}")
}

#[test]
fn rules_of_higress_are_matched_by_its_sdk() {
    let module = built("sse-rewrite-go");
    let spec = |rest: &str| higress("rules", &format!("url: file://{}\n{rest}", module.display()));
    let weir = Start::new().file("ingress.yaml", INGRESSES).file("plugin.yaml", "").arg("--http-port").arg("$PORT").run();
    let says = |host: &str, wanted: &str| {
        weir.get_until(host, "/sse?n=1&every=1ms", |a| a.body.contains(&format!("data: {wanted} 1\n\n")));
    };
    let rules = format!(
        "matchRules:\n- {{ ingress: [shop], config: {} }}\n- {{ domain: [exact.Test., '*.Wild.test', 'pre.*', bücher.test, 'ported.test:80'], config: {} }}\n\
         - {{ service: [two.default.svc.cluster.local], config: {} }}\n- {{ domain: [off.test], configDisable: true, config: {} }}\n",
        word("route"),
        word("domain"),
        word("service"),
        word("off"),
    );
    let everywhere = [
        ("shop.test", "route"),
        ("exact.test", "domain"),
        ("exact.test:8080", "domain"),
        ("a.wild.test", "domain"),
        ("a.b.wild.test", "domain"),
        ("pre.fix", "domain"),
        ("second.test", "service"),
    ];
    // What routes take for the same host is the same for rules.
    let everywhere = everywhere.iter().copied().chain([
        ("Exact.Test", "domain"),
        ("exact.test.", "domain"),
        ("EXACT.test.:8080", "domain"),
        ("A.Wild.TEST.", "domain"),
        ("PRE.fix", "domain"),
        ("SHOP.test.", "route"),
        ("Second.Test", "service"),
        ("xn--bcher-kva.test", "domain"),
        ("XN--BCHER-KVA.test", "domain"),
        ("ported.test", "domain"),
    ]);
    let everywhere: Vec<_> = everywhere.collect();
    // No default: what no rule names is left alone.
    weir.write("plugin.yaml", &spec(&rules));
    everywhere.iter().for_each(|(host, wanted)| says(host, wanted));
    ["off.test", "any.test", "wild.test", "xpre.fix"].iter().for_each(|host| says(host, "event"));
    // A default for the rest; a rule that is switched off falls to it.
    weir.write("plugin.yaml", &spec(&format!("defaultConfig: {}\n{rules}", word("default"))));
    says("any.test", "default");
    everywhere.iter().for_each(|(host, wanted)| says(host, wanted));
    says("off.test", "default");
    // The default switched off; a service with its port; the first rule that matches.
    let rules = format!(
        "matchRules:\n- {{ service: ['two.default.svc.cluster.local:81'], config: {} }}\n- {{ domain: [second.test, late.test], config: {} }}\n",
        word("first"),
        word("late"),
    );
    weir.write("plugin.yaml", &spec(&format!("defaultConfig: {}\ndefaultConfigDisable: true\n{rules}", word("default"))));
    says("late.test", "late");
    says("second.test", "first");
    says("any.test", "event");
    // All of it switched off: the plugin is not there.
    weir.write("plugin.yaml", &spec(&format!("defaultConfig: {}\ndefaultConfigDisable: true\n", word("default"))));
    says("late.test", "event");
    assert!(weir.admin("/plugins").json()["plugins"].as_array().unwrap().is_empty());
    // An Ingress of another namespace is named with it; a bare name is one of the plugin's own namespace, or of higress-system.
    let ingress = |named: &str, hit: [&str; 3]| {
        weir.write("plugin.yaml", &spec(&format!("matchRules: [{{ ingress: [{named}], config: {} }}]\n", word("mine"))));
        for (host, wanted) in ["shop.test", "team.test", "system.test"].into_iter().zip(hit) {
            says(host, if wanted.is_empty() { "event" } else { wanted });
        }
    };
    ingress("team/shop", ["", "mine", ""]);
    ingress("default/shop", ["mine", "", ""]);
    ingress("higress-system/shop", ["", "", "mine"]);
    ingress("shop", ["mine", "", "mine"]);
    assert!(weir.lines("there is no Ingress").is_empty(), "{}", weir.printed());
    ingress("gone/shop, shop", ["mine", "", "mine"]);
    weir.says("there is no Ingress/gone/shop: this rule matches no request of it");
    // A canary by header is guarded with what it takes requests of, unless a rule names it.
    let canary = |wanted: &str| {
        eventually("the canary's rule", || {
            let mut c = client::Connection::open(weir.address()).ok()?;
            let answer = c.request("GET", "shop.test", "/sse?n=1&every=1ms", &[("x-canary", "always")], b"").ok()?;
            answer.body.contains(&format!("data: {wanted} 1\n\n")).then_some(())
        });
    };
    ingress("default/shop", ["mine", "", ""]);
    canary("mine");
    weir.write(
        "plugin.yaml",
        &spec(&format!(
            "matchRules: [{{ ingress: [shop], config: {} }}, {{ ingress: [shop-canary], config: {} }}]\n",
            word("mine"),
            word("own")
        )),
    );
    canary("own");
    says("shop.test", "mine");
    // Istio's field goes through as it stands.
    weir.write("plugin.yaml", &spec(&format!("pluginConfig: {}\n", word("plain"))));
    says("any.test", "plain");
}

/// Shows a later plugin's view of a route in headers of the request.
fn showing() -> String {
    let show = |property: &str, name: &str| {
        format!(
            "(if (i32.eqz (call $get_property [{property}] (i32.const 4) (i32.const 8)))
               (then (drop (call $add (i32.const 0) [{name}] (i32.load (i32.const 4)) (i32.load (i32.const 8))))))"
        )
    };
    let authority = "(drop (call $get_value (i32.const 0) [:authority] (i32.const 4) (i32.const 8)))
        (drop (call $add (i32.const 0) [x-authority] (i32.load (i32.const 4)) (i32.load (i32.const 8))))";
    let host = show("request\\0host", "x-request-host");
    guest(&on_headers("request", &(authority.to_string() + &host + &show("route_name", "x-route") + &show("cluster_name", "x-cluster"))))
}

/// Host and headers of a request; the upstream's host, and what a later plugin sees: the authority, the route, the service.
type Seen = (&'static str, &'static [(&'static str, &'static str)], &'static str, &'static str, &'static str, &'static str);

#[test]
fn a_plugin_sees_the_route_that_another_one_has_led_to() {
    // All headers are put back as they were read; `x-host` and `x-path` lead elsewhere.
    let replace = |header: &str, pseudo: &str| {
        format!(
            "(if (call $has [{header}]) (then (drop (call $set (i32.const 0) [{pseudo}] (i32.load (i32.const 4)) (i32.load (i32.const 8))))))"
        )
    };
    let reroutes = "(if (call $get_pairs (i32.const 0) (i32.const 4) (i32.const 8)) (then unreachable))
        (if (call $set_pairs (i32.const 0) (i32.load (i32.const 4)) (i32.load (i32.const 8))) (then unreachable))"
        .to_string()
        + &replace("x-host", ":authority")
        + "(if (call $has [x-keep]) (then (drop (call $set_property [clear_route_cache] [off]))))";
    let weir = Start::new()
        .file("ingress.yaml", INGRESSES)
        .file("first.wat", guest(&on_headers("request", &reroutes)))
        .file("second.wat", showing())
        .file(
            "plugins.yaml",
            istio("first", "url: file://first.wat\npriority: 2") + &istio("second", "url: file://second.wat\npriority: 1"),
        )
        .arg("--http-port")
        .arg("$PORT")
        .run();
    let rows: &[Seen] = &[
        ("shop.test", &[], "shop.test", "shop.test", "default/shop", "one"),
        ("Shop.Test.:80", &[], "Shop.Test.:80", "shop.test:80", "default/shop", "one"),
        ("shop.test", &[("x-host", "second.test")], "second.test", "second.test", "default/second", "two"),
        ("shop.test", &[("x-host", "SECOND.test.")], "SECOND.test.", "second.test", "default/second", "two"),
        ("second.test", &[("x-host", "other.test")], "other.test", "other.test", "default/rest", "one"),
        ("shop.test", &[("x-host", "second.test"), ("x-keep", "1")], "second.test", "second.test", "default/shop", "one"),
    ];
    for (host, headers, upstream, authority, route, service) in rows {
        let answer = client::request(weir.address(), "GET", host, "/", headers, b"").unwrap();
        let seen = answer.json();
        let what = format!("{host} {headers:?}: {seen}");
        assert_eq!(seen["host"], *upstream, "{what}");
        assert_eq!(
            (&seen["headers"]["x-authority"], &seen["headers"]["x-request-host"]),
            (&(*authority).into(), &(*authority).into()),
            "{what}"
        );
        assert_eq!(seen["headers"]["x-route"], *route, "{what}");
        assert!(seen["headers"]["x-cluster"].as_str().unwrap().contains(&format!("||{service}.default")), "{what}");
    }
}

#[test]
fn a_plugin_is_told_of_the_hosts_of_its_route() {
    let hosts = "(if (call $get_hosts (i32.const 4) (i32.const 8)) (then (drop (call $add (i32.const 2) [x-hosts] [-])))
        (else (drop (call $add (i32.const 2) [x-hosts]
          (call $hex (i32.load (i32.const 4)) (i32.load (i32.const 8))) (i32.mul (i32.load (i32.const 8)) (i32.const 2))))))";
    let draining = "{ addresses: [127.0.0.1] }, { addresses: [127.0.0.2], conditions: { ready: false, serving: true, terminating: true } }";
    let weir = Start::new()
        .file("gateway.yaml", ToEcho::new().hostnames("h").service(|s| s.endpoints(draining)).text())
        .file("guest.wat", guest(&on_headers("response", hosts)))
        .file("plugin.yaml", istio("under-test", "url: file://guest.wat"))
        .run();
    let told = weir.get("h", "/");
    let pairs = shown(told.header("x-hosts").unwrap()).unwrap();
    let pairs = weir_wasm::pairs::Pairs::decode(&pairs).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut found: Vec<_> = pairs.iter().map(|(address, health)| (text(address), text(health))).collect();
    found.sort();
    let port = weir.echo().port();
    let wanted = [(format!("127.0.0.1:{port}"), "Healthy"), (format!("127.0.0.2:{port}"), "Unhealthy")];
    let wanted: Vec<_> = wanted.into_iter().map(|(a, h)| (a, format!("{{\"health_status\":\"{h}\"}}"))).collect();
    assert_eq!(found, wanted);
    // NotFound where there is no route.
    assert_eq!(weir.get("elsewhere", "/").header("x-hosts"), Some("-"));
}

/// Listeners of one Gateway on two ports and of another on a third.
const PORTS: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: first }
spec:
  gatewayClassName: weir
  listeners: [{ name: a, port: $PORT, protocol: HTTP }, { name: b, port: $PORT2, protocol: HTTP }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: second }
spec: { gatewayClassName: weir, listeners: [{ name: c, port: $PORT3, protocol: HTTP }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: echo }
spec: { parentRefs: [{ name: first }, { name: second }], rules: [{ backendRefs: [{ name: echo, port: 80 }] }] }
---
{ apiVersion: v1, kind: Service, metadata: { name: echo }, spec: { ports: [{ port: 80, targetPort: $ECHO }] } }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: echo, labels: { kubernetes.io/service-name: echo } }
addressType: IPv4
ports: [{ port: $ECHO }]
endpoints: [{ addresses: [127.0.0.1] }]
";

#[test]
fn plugins_run_by_phase_and_priority_where_they_are_meant_to() {
    // (name, spec); in the order in which requests meet those that run everywhere.
    let everywhere = [
        ("z-authn-high", "phase: AUTHN\npriority: 100"),
        ("a-authn-low", "phase: AUTHN\npriority: -1"),
        ("b-authn-none", "phase: AUTHN"),
        ("authz", "phase: AUTHZ\npriority: 1"),
        ("stats", "phase: STATS"),
        ("x-late", "priority: 7\nmatch: [{ mode: CLIENT_AND_SERVER }]"),
        ("a-none", "match: [{ mode: CLIENT }]"),
        ("b-none", "selector: { matchLabels: { any: thing } }"),
    ];
    let somewhere = [
        ("only-b", "match: [{ mode: CLIENT, ports: [{ number: $PORT2 }] }]"),
        ("only-c", "targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: second }]"),
        ("only-first", "targetRef: { group: gateway.networking.k8s.io, kind: Gateway, name: first }"),
        ("never", "match: [{ mode: SERVER }]"),
        ("no-such-gateway", "targetRef: { group: gateway.networking.k8s.io, kind: Gateway, name: gone }"),
    ];
    let names: Vec<&str> = everywhere.iter().chain(&somewhere).map(|(name, _)| *name).collect();
    let objects = everywhere.iter().chain(&somewhere).map(|(name, spec)| istio(name, &format!("url: file://{name}.wat\n{spec}")));
    // Listed from the last to the first: order of files and documents means nothing.
    let objects: String = objects.collect::<Vec<_>>().into_iter().rev().collect();
    let mut start = Start::new().file("gateway.yaml", PORTS).file("plugins.yaml", objects);
    for name in &names {
        let request = on_headers("request", &format!("(call $say [order {name}])"));
        let response = on_headers("response", &format!("(drop (call $add (i32.const 2) [x-order] [{name}]))"));
        start = start.file(Box::leak(format!("{name}.wat").into_boxed_str()), guest(&(request + &response)));
    }
    let weir = start.run();
    let ordered: Vec<&str> = everywhere.iter().map(|(name, _)| *name).collect();
    for (port, extra) in [(0, vec!["only-first"]), (1, vec!["only-b", "only-first"]), (2, vec!["only-c"])] {
        let mut wanted = ordered.clone();
        wanted.extend(extra);
        // These have no priority and come by name among those without.
        let late = wanted.iter().position(|n| *n == "a-none").unwrap();
        wanted[late..].sort_unstable();
        let before = weir.lines("order ").len();
        let met = passed(&weir, port);
        assert_eq!(met, wanted.iter().rev().copied().collect::<Vec<_>>(), "the response, on port {port}");
        let said = eventually("the log", || {
            let lines = weir.lines("order ");
            (lines.len() >= before + wanted.len()).then(|| lines[before..].to_vec())
        });
        let said: Vec<&str> = said.iter().map(|l| l.rsplit(' ').next().unwrap()).collect();
        assert_eq!(said, wanted, "the request, on port {port}");
    }
}

/// The plugins that a response on that port has passed, in their order.
fn passed(weir: &Weir, port: usize) -> Vec<String> {
    let to = SocketAddr::from(([127, 0, 0, 1], weir.ports[port]));
    let answer = client::get(to, "h", "/").unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.headers.into_iter().filter(|(n, _)| n == "x-order").map(|(_, v)| v).collect()
}
