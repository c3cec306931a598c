//! What routes lead to: Services and their slices, ServiceEntries, WorkloadEntries, what DestinationRules choose of them.
use super::{came_to, check, services};
use crate::harness::{Start, eventually};
use std::collections::BTreeSet;

/// A Gateway, and a VirtualService that sends `NAME.test` to each of the named destinations.
fn routes(destinations: &[(&str, &str)]) -> String {
    let mut all = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: { name: gateway }\nspec:\n  selector: { istio: ingressgateway }\n  servers: [{ port: { number: $PORT, name: http, protocol: HTTP }, hosts: ['*'] }]\n".to_string();
    for (name, destination) in destinations {
        all += &format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: {name} }}\nspec:\n  hosts: [{name}.test]\n  gateways: [gateway]\n  http: [{{ route: [{{ destination: {{ {destination} }} }}] }}]\n"
        );
    }
    all + "---\n"
}

fn slice(name: &str, service: &str, more: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: {name}, labels: {{ kubernetes.io/service-name: {service} }} }}\n{more}"
    )
}

/// The names of the upstreams that answer `host` over some requests.
fn who(weir: &crate::harness::Weir, host: &str) -> BTreeSet<String> {
    (0..30).map(|_| came_to(&weir.get(host, "/"))).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn endpoints_come_from_slices_by_port_name_and_condition() {
    let all = [
        routes(&[
            ("web", "host: many, port: { number: 80 }"),
            ("admin", "host: many, port: { number: 81 }"),
            ("external", "host: external, port: { number: $ECHO3 }"),
            ("plain", "host: plain"),
            ("h2", "host: h2"),
            ("by-name", "host: by-name"),
            ("none", "host: none"),
            ("fqdn", "host: fqdn"),
        ]),
        "{ apiVersion: v1, kind: Service, metadata: { name: many }, spec: { selector: { app: many }, ports: [{ name: web, port: 80, targetPort: web }, { name: admin, port: 81, targetPort: adm }] } }\n".into(),
        // Several slices; a slice says what number a name has there.
        slice("many-1", "many", "addressType: IPv4\nports: [{ name: admin, port: $ECHO3 }, { name: web, port: $ECHO }]\nendpoints:\n- { addresses: [127.0.0.1], conditions: { ready: true } }\n- { addresses: [127.0.0.9], conditions: { ready: false } }\n"),
        slice("many-2", "many", "addressType: IPv4\nports: [{ name: web, port: $ECHO2 }]\nendpoints: [{ addresses: [127.0.0.1], conditions: {} }]\n"),
        slice("many-3", "many", "addressType: IPv4\nports: [{ name: web, port: 1 }]\nendpoints: [{ addresses: [127.0.0.1], conditions: { ready: false, serving: true, terminating: true } }]\n"),
        "---\n{ apiVersion: v1, kind: Service, metadata: { name: external }, spec: { type: ExternalName, externalName: localhost } }\n".into(),
        "---\n{ apiVersion: v1, kind: Service, metadata: { name: plain }, spec: { clusterIP: None, ports: [{ port: 80 }] } }\n".into(),
        slice("plain", "plain", "addressType: IPv4\nports: [{ port: $ECHO }]\nendpoints: [{ addresses: [127.0.0.1] }]\n"),
        "---\n{ apiVersion: v1, kind: Service, metadata: { name: h2 }, spec: { ports: [{ name: http-x, port: 80, appProtocol: kubernetes.io/h2c }] } }\n".into(),
        slice("h2", "h2", "addressType: IPv4\nports: [{ name: http-x, port: $ECHO }]\nendpoints: [{ addresses: [127.0.0.1] }]\n"),
        "---\n{ apiVersion: v1, kind: Service, metadata: { name: by-name }, spec: { ports: [{ name: grpc-x, port: 80 }] } }\n".into(),
        slice("by-name", "by-name", "addressType: IPv4\nports: [{ name: grpc-x, port: $ECHO }]\nendpoints: [{ addresses: [127.0.0.1] }]\n"),
        "---\n{ apiVersion: v1, kind: Service, metadata: { name: none }, spec: { ports: [{ port: 80 }] } }\n".into(),
        slice("none", "none", "addressType: IPv4\nports: [{ port: $ECHO }]\nendpoints: [{ addresses: [127.0.0.1], conditions: { ready: false } }]\n"),
        "---\n{ apiVersion: v1, kind: Service, metadata: { name: fqdn }, spec: { ports: [{ port: 80 }] } }\n".into(),
        slice("fqdn", "fqdn", "addressType: FQDN\nports: [{ port: $ECHO2 }]\nendpoints: [{ addresses: [localhost] }]\n"),
    ];
    let weir = Start::new().upstreams(3).file("all.yaml", all.concat()).run();
    super::no_findings(&weir);
    assert_eq!(who(&weir, "web.test"), set(&["echo", "echo2"]));
    check(
        weir.address(),
        came_to,
        &[
            ("GET admin.test/", "echo3"),
            ("GET external.test/", "echo3"),
            ("GET plain.test/", "echo"),
            ("GET none.test/", "503"),
            ("GET fqdn.test/", "echo2"),
        ],
    );
    let protocol = |host: &str| weir.get(host, "/").json()["protocol"].as_str().unwrap().to_string();
    assert_eq!(
        (protocol("h2.test").as_str(), protocol("by-name.test").as_str(), protocol("plain.test").as_str()),
        ("HTTP/2.0", "HTTP/2.0", "HTTP/1.1")
    );
    // An endpoint becomes ready.
    weir.write("all.yaml", &all.concat().replace("conditions: { ready: false } }]\n", "conditions: { ready: true } }]\n"));
    eventually("the endpoint", || (came_to(&weir.get("none.test", "/")) == "echo").then_some(()));
}

fn service_entry(name: &str, spec: &str) -> String {
    format!("---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name} }}\nspec:\n{spec}")
}

#[test]
fn service_entries_resolve_in_each_of_their_ways() {
    let ports = "  ports: [{ number: 80, name: http, protocol: HTTP, targetPort: $ECHO }]\n";
    let all = [
        routes(&[
            ("static", "host: static.ext"),
            ("dns", "host: dns.ext"),
            ("round", "host: round.ext"),
            ("own", "host: own.localhost"),
            ("workloads", "host: workloads.ext"),
            ("subset", "host: workloads.ext, subset: v2"),
            ("hidden", "host: hidden.ext"),
            ("h2", "host: h2.ext"),
            ("none", "host: none.ext"),
        ]),
        service_entry("static", "  hosts: [static.ext]\n  addresses: [240.0.0.1]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n  ports: [{ number: 80, name: http, protocol: HTTP }]\n  endpoints: [{ address: 127.0.0.1, ports: { http: $ECHO2 }, weight: 2, labels: { a: b } }]\n"),
        service_entry("dns", &format!("  hosts: [dns.ext]\n  resolution: DNS\n{ports}  endpoints: [{{ address: localhost, ports: {{ http: $ECHO3 }} }}]\n")),
        service_entry("round", &format!("  hosts: [round.ext]\n  resolution: DNS_ROUND_ROBIN\n{ports}  endpoints: [{{ address: localhost }}]\n")),
        service_entry("own", &format!("  hosts: [own.localhost]\n  resolution: DNS\n{ports}")),
        service_entry("workloads", &format!("  hosts: [workloads.ext]\n  resolution: STATIC\n{ports}  workloadSelector: {{ labels: {{ app: w }} }}\n")),
        service_entry("hidden", &format!("  hosts: [hidden.ext]\n  resolution: STATIC\n{ports}  endpoints: [{{ address: 127.0.0.1 }}]\n  exportTo: [elsewhere]\n")),
        service_entry("h2", "  hosts: [h2.ext]\n  resolution: STATIC\n  ports: [{ number: 80, name: x, protocol: HTTP2, targetPort: $ECHO }]\n  endpoints: [{ address: 127.0.0.1 }]\n"),
        service_entry("none", &format!("  hosts: [none.ext]\n  resolution: STATIC\n{ports}")),
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: { name: one, labels: { app: w } }\nspec: { address: 127.0.0.1, labels: { version: v1 } }\n".into(),
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: { name: two }\nspec: { address: localhost, ports: { http: $ECHO2 }, labels: { app: w, version: v2 } }\n".into(),
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: { name: three }\nspec: { address: 127.0.0.1, ports: { http: $ECHO3 }, labels: { app: other } }\n".into(),
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: { name: w }\nspec: { host: workloads.ext, subsets: [{ name: v2, labels: { version: v2 } }] }\n".into(),
    ];
    let weir = Start::new().upstreams(3).file("all.yaml", all.concat()).run();
    check(
        weir.address(),
        came_to,
        &[
            ("GET static.test/", "echo2"),
            ("GET dns.test/", "echo3"),
            ("GET round.test/", "echo"),
            ("GET own.test/", "echo"),
            ("GET subset.test/", "echo2"),
            ("GET hidden.test/", "503"),
            ("GET none.test/", "503"),
        ],
    );
    assert_eq!(who(&weir, "workloads.test"), set(&["echo", "echo2"]));
    assert_eq!(weir.get("h2.test", "/").json()["protocol"], "HTTP/2.0");
    // A workload joins.
    weir.write("all.yaml", &all.concat().replace("labels: { app: other }", "labels: { app: w }"));
    eventually("the third workload", || who(&weir, "workloads.test").contains("echo3").then_some(()));
    weir.says("is not exported to default");
    weir.says("STATIC without endpoints");
}

#[test]
fn hosts_of_a_pattern_are_the_requests_own() {
    let all = [
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: { name: gateway }\nspec:\n  selector: { a: b }\n  servers: [{ port: { number: $PORT, name: http, protocol: HTTP }, hosts: ['*'] }]\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: v }\nspec:\n  hosts: ['*.localhost']\n  gateways: [gateway]\n  http: [{ route: [{ destination: { host: '*.localhost' } }] }]\n".to_string(),
        service_entry("pattern", "  hosts: ['*.localhost']\n  resolution: DYNAMIC_DNS\n  ports: [{ number: $ECHO, name: http, protocol: HTTP }]\n"),
    ];
    let weir = Start::new().file("all.yaml", all.concat()).run();
    assert_eq!(came_to(&weir.get("a.localhost", "/")), "echo");
}

#[test]
fn destination_rules_apply_by_port_label_and_namespace() {
    let rule = |name: &str, more: &str| {
        format!("---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: {name} }}\nspec:\n{more}")
    };
    let policy = |n: u32| format!("trafficPolicy: {{ connectionPool: {{ http: {{ http2MaxRequests: {n} }} }} }}");
    let all = [
        routes(&[("a", "host: echo"), ("b", "host: echo2"), ("c", "host: echo3"), ("d", "host: echo4")]),
        services("default", 4),
        rule(
            "port",
            "  host: echo\n  trafficPolicy: { connectionPool: { http: { http2MaxRequests: 7 } }, portLevelSettings: [{ port: { number: 80 }, connectionPool: { http: { http2MaxRequests: 8 } } }, { port: { number: 81 }, outlierDetection: {} }] }\n",
        ),
        rule("labels", &format!("  host: echo2\n  workloadSelector: {{ matchLabels: {{ app: edge }} }}\n  {}\n", policy(9))),
        rule("wild", &format!("  host: '*.default.svc.cluster.local'\n  {}\n", policy(10))),
        rule("hidden", &format!("  host: echo4\n  exportTo: [elsewhere]\n  {}\n", policy(11))),
    ];
    let limits = |args: &[&str]| {
        let weir = args.iter().fold(Start::new().upstreams(4).file("all.yaml", all.concat()), |s, a| s.arg(*a)).run();
        let dump = weir.admin("/config_dump?resource=dynamic_active_clusters").json();
        let clusters = dump["configs"].as_array().unwrap().iter().map(|c| &c["cluster"]);
        let limit = |c: &serde_json::Value| {
            (
                c["name"].as_str().unwrap().split('|').nth(3).unwrap().split('.').next().unwrap().to_string(),
                c["circuit_breakers"]["thresholds"][0]["max_requests"].as_u64().unwrap(),
            )
        };
        clusters.map(limit).collect::<Vec<_>>()
    };
    let want = |n: u64| vec![("echo".to_string(), 8), ("echo2".into(), n), ("echo3".into(), 10), ("echo4".into(), 10)];
    assert_eq!(limits(&[]), want(10));
    assert_eq!(limits(&["--labels", "app=edge,istio=ingressgateway"]), want(9));
}
