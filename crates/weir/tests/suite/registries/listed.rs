//! Services that a McpBridge lists itself: static addresses and DNS names.
use super::{answers, bridge, ingress};
use crate::harness::{Start, eventually, runtime};
use weir::echo;
use weir_test::{DnsServer, self_signed};

const GATEWAY: &str = "---
{ apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: { name: g }, spec: { gatewayClassName: weir, listeners: [{ name: a, port: $PORT, protocol: HTTP }] } }
---
{ apiVersion: networking.istio.io/v1, kind: Gateway, metadata: { name: g }, spec: { servers: [{ port: { number: $PORT, name: http, protocol: HTTP }, hosts: ['*'] }] } }
";

fn http_route(host: &str, backend: &str) -> String {
    format!(
        "---\n{{ apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{ name: {} }}, spec: {{ parentRefs: [{{ name: g }}], hostnames: [{host}], rules: [{{ backendRefs: [{{ group: networking.higress.io, kind: Service, {backend} }}] }}] }} }}\n",
        host.replace('.', "-")
    )
}

#[test]
fn listed_services_are_destinations_of_every_api() {
    let made = self_signed(&["secure.test"]);
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
    std::fs::write(&chain, &made.pem).unwrap();
    std::fs::write(&key, &made.key).unwrap();
    let options = echo::Options { name: "tls".into(), tls: Some((chain.clone(), key)), ..echo::Options::default() };
    let tls = runtime().block_on(echo::Server::start(options)).unwrap();
    let registries = [
        "{ type: static, name: one, domain: '127.0.0.1:$ECHO', port: 80 }".to_string(),
        "{ type: static, name: Two, domain: '127.0.0.1:$ECHO2', port: 8080, protocol: http }".into(),
        "{ type: static, name: both, domain: '127.0.0.1:$ECHO,127.0.0.1:$ECHO2', port: 80 }".into(),
        "{ type: static, name: h2, domain: '127.0.0.1:$ECHO3', port: 80, protocol: grpc }".into(),
        format!(
            "{{ type: static, name: secure, domain: '127.0.0.1:{}', port: 443, protocol: https, sni: secure.test }}",
            tls.address().port()
        ),
        format!(
            "{{ type: static, name: wrong, domain: '127.0.0.1:{}', port: 443, protocol: https, sni: other.test }}",
            tls.address().port()
        ),
        "{ type: dns, name: named, domain: 'echo.registry.test', port: $ECHO }".into(),
    ];
    let rule = "---\n{ apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: { name: wrong, namespace: higress-system }, spec: { host: wrong.static, trafficPolicy: { tls: { mode: SIMPLE, sni: secure.test, insecureSkipVerify: true } } } }\n";
    let virtual_service = "---\n{ apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: { name: v }, spec: { hosts: [virtual.test], gateways: [g], http: [{ route: [{ destination: { host: one.static } }] }] } }\n";
    let all = [
        GATEWAY.to_string(),
        bridge(&registries),
        ingress("one.test", "one.static", ""),
        ingress("port.test", "Two.static:8080", ""),
        ingress("both.test", "both.static", ""),
        ingress("h2.test", "h2.static", ""),
        ingress("named.test", "named.dns", ""),
        ingress("split.test", "30% one.static\\n30% two.static\\n40% h2.static", ""),
        ingress("nobody.test", "nobody.static", ""),
        ingress("noport.test", "one.static:81", ""),
        ingress("secure.test", "secure.static", ""),
        ingress("wrong.test", "wrong.static", ""),
        http_route("route.test", "name: two.static, port: 8080"),
        http_route("route-only.test", "name: one.static"),
        http_route("route-nobody.test", "name: nobody.static, port: 80"),
        http_route("route-noport.test", "name: one.static, port: 81"),
        virtual_service.into(),
    ];
    let dns = DnsServer::start();
    dns.set("echo.registry.test", &["127.0.0.1"], 60);
    let start = Start::new().upstreams(3).env("SSL_CERT_FILE", chain).file("all.yaml", all.concat());
    let weir = start.arg("--http-port").arg("$PORT").arg("--dns-resolver").arg(dns.address.to_string()).run();
    let one = |host: &str| answers(&weir, host, 1).into_keys().next().unwrap();
    for (host, wanted) in [
        ("one.test", "echo"),
        ("port.test", "echo2"),
        ("h2.test", "echo3"),
        ("named.test", "echo"),
        ("nobody.test", "503"),
        ("noport.test", "503"),
        ("secure.test", "tls"),
        // The certificate is not that of the server name.
        ("wrong.test", "503"),
        ("route.test", "echo2"),
        ("route-only.test", "echo"),
        ("route-nobody.test", "500"),
        ("route-noport.test", "500"),
        ("virtual.test", "echo"),
    ] {
        assert_eq!(one(host), wanted, "{host}: {}", weir.printed());
    }
    let told = weir.get("h2.test", "/").json();
    assert_eq!(told["protocol"], "HTTP/2.0", "{told}");
    assert_eq!(answers(&weir, "both.test", 30).into_keys().collect::<Vec<_>>(), ["echo", "echo2"]);
    let split = answers(&weir, "split.test", 300);
    let near = |name: &str, wanted: usize| split.get(name).is_some_and(|n| n.abs_diff(wanted) < 45);
    assert!(near("echo", 90) && near("echo2", 90) && near("echo3", 120), "{split:?}");
    assert_eq!(weir.says("no Service or ServiceEntry nobody.static").len(), 1);
    // A DestinationRule for the host says more, and a changed registry is followed.
    weir.write("rule.yaml", rule);
    eventually("the DestinationRule applies", || (one("wrong.test") == "tls").then_some(()));
    weir.write("all.yaml", &all.concat().replacen("127.0.0.1:$ECHO'", "127.0.0.1:$ECHO3'", 1));
    eventually("the new address", || (one("one.test") == "echo3").then_some(()));
    assert_eq!((one("virtual.test"), one("port.test")), ("echo3".into(), "echo2".into()));
    weir.write("all.yaml", &all.concat().replacen("name: one,", "name: gone,", 1));
    eventually("the service is gone", || (one("one.test") == "503").then_some(()));
}

#[test]
fn a_mcp_bridge_is_used_in_the_namespaces_that_are_given() {
    let own = "{ type: static, name: own, domain: '127.0.0.1:$ECHO', port: 80 }".to_string();
    let other = "{ type: static, name: other, domain: '127.0.0.1:$ECHO', port: 80 }".to_string();
    let all = [
        bridge(&[own]).replace("higress-system", "registries"),
        bridge(&[other]),
        ingress("own.test", "own.static", ""),
        ingress("other.test", "other.static", ""),
    ];
    let start = Start::new().file("all.yaml", all.concat()).arg("--http-port").arg("$PORT");
    let weir = start.arg("--system-namespace").arg("registries").arg("--system-namespace").arg("more").run();
    let one = |host: &str| answers(&weir, host, 1).into_keys().next().unwrap();
    assert_eq!((one("own.test").as_str(), one("other.test").as_str()), ("echo", "503"));
    weir.says("a McpBridge in the namespace higress-system is not used");
    weir.says("name it default, in the namespace registries or more");
}

#[test]
fn canaries_of_destinations_take_their_share() {
    let all = [
        bridge(&[
            "{ type: static, name: one, domain: '127.0.0.1:$ECHO', port: 80 }".into(),
            "{ type: static, name: two, domain: '127.0.0.1:$ECHO2', port: 80 }".into(),
            "{ type: static, name: three, domain: '127.0.0.1:$ECHO3', port: 80 }".into(),
        ]),
        ingress("a.test", "50% one.static\\n50% two.static", ""),
        ingress("a.test", "three.static", "    higress.io/canary: 'true'\n    higress.io/canary-weight: '40'\n")
            .replace("name: a-test", "name: canary"),
        ingress("a.test", "two.static", "    higress.io/canary: 'true'\n    higress.io/canary-by-header: x-new\n")
            .replace("name: a-test", "name: by-header"),
    ];
    let weir = Start::new().upstreams(3).file("all.yaml", all.concat()).arg("--http-port").arg("$PORT").run();
    let seen = answers(&weir, "a.test", 300);
    let near = |name: &str, wanted: usize| seen.get(name).is_some_and(|n| n.abs_diff(wanted) < 45);
    assert!(near("echo", 90) && near("echo2", 90) && near("echo3", 120), "{seen:?}");
    let by_header = weir_test::client::request(weir.address(), "GET", "a.test", "/", &[("x-new", "always")], b"").unwrap();
    assert_eq!(by_header.json()["name"], "echo2");
}

#[test]
fn mistakes_are_named() {
    let table = [
        ("{ type: static, name: a, domain: 'localhost:80', port: 80 }", "\"localhost:80\" is not an IP address with a port"),
        ("{ type: static, name: a, domain: '10.0.0.1', port: 80 }", "\"10.0.0.1\" is not an IP address with a port"),
        ("{ type: dns, name: a, domain: '10.0.0.1', port: 80 }", "\"10.0.0.1\" is not a DNS name"),
        ("{ type: dns, name: a, domain: 'a.test:80', port: 80 }", "\"a.test:80\" is not a DNS name"),
        ("{ type: dns, name: a, domain: ' , ', port: 80 }", "is empty"),
        ("{ type: static, name: a, domain: '10.0.0.1:80', port: 80, protocol: smtp }", "unknown value \"smtp\""),
        ("{ type: etcd, name: a, domain: a.test, port: 80 }", "unknown value \"etcd\""),
        ("{ type: nacos2, name: a, domain: 'a.test:8848', port: 80 }", "is not the name or address of a server"),
        ("{ type: nacos, name: a, domain: a.test, port: 80 }", "the protocol of Nacos 1 is not supported"),
        ("{ type: nacos2, name: a, domain: a.test, port: 80, nacosRefreshInterval: 1 }", "1 is out of bounds"),
        ("{ type: zookeeper, name: a, domain: a.test, port: 80, zkServicesPath: [x] }", "is not a path of ZooKeeper"),
        ("{ type: static, name: a, port: 80 }", "domain"),
        ("{ type: static, name: 'a b', domain: '10.0.0.1:80', port: 80 }", "cannot be a part of a host name"),
        ("{ type: static, name: a, domain: '10.0.0.1:80', port: 80, proxyName: p }", "is not supported yet"),
        ("{ type: static, name: a, domain: '10.0.0.1:80', port: 80, vport: { default: 80 } }", "is not supported yet"),
    ];
    let check = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.yaml"), text).unwrap();
        let out = crate::harness::weir().args(["check", "-f"]).arg(folder.path()).output().unwrap();
        String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).to_string()
    };
    for (registry, wanted) in table {
        let said = check(&bridge(&[registry.to_string()]));
        assert!(said.contains(wanted), "{registry}\n{said}");
    }
    let good = "{ type: static, name: a, domain: '10.0.0.1:80', port: 80 }".to_string();
    let twice = check(&bridge(&[good.clone(), good.clone()]));
    assert!(twice.contains("two registries a of this type"), "{twice}");
    let named = check(&bridge(std::slice::from_ref(&good)).replace("name: default", "name: other"));
    assert!(named.contains("a McpBridge must be named default"), "{named}");
    let elsewhere = check(&bridge(std::slice::from_ref(&good)).replace("higress-system", "shop"));
    assert!(elsewhere.contains("in the namespace shop is not used"), "{elsewhere}");
    for (destination, wanted) in [
        ("x% a.static", "is not a destination"),
        ("50%", "is not a destination"),
        ("a.static v1 v2", "is not a destination"),
        ("50% a.static", "the weights add up to 50%"),
        ("a.static v1", "has a subset v1"),
    ] {
        let said = check(&(bridge(std::slice::from_ref(&good)) + &ingress("a.test", destination, "")));
        assert!(said.contains(wanted), "{destination}\n{said}");
    }
    let nothing = check(&ingress("a.test", "a.static", "").replace("destination", "ignore-path-case"));
    assert!(nothing.contains("nothing says which service") || nothing.contains("is not a boolean"), "{nothing}");
}
