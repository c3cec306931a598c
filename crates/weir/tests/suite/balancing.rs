//! Choosing an endpoint, from YAML: fair policies, hashes that stick, and names whose addresses change.
use crate::{
    client::{self, Answer, Connection},
    harness::{Start, Weir, echo_server, eventually, runtime},
    mesh::{Mesh, cluster_becomes, name},
    yaml::Service,
};
use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};
use weir_test::DnsServer;

const TEN: [&str; 10] = ["$ECHO", "$ECHO2", "$ECHO3", "$ECHO4", "$ECHO5", "$ECHO6", "$ECHO7", "$ECHO8", "$ECHO9", "$ECHO10"];

/// How often each upstream answers.
fn shares(weir: &Weir, host: &str, requests: usize) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    let mut c = Connection::open(weir.address()).unwrap();
    for _ in 0..requests {
        *out.entry(name(&c.request("GET", host, "/", &[], b"").unwrap())).or_default() += 1;
    }
    out
}

/// Who answers each of some users.
fn by_user(weir: &Weir, host: &str, users: usize) -> Vec<String> {
    let mut c = Connection::open(weir.address()).unwrap();
    (0..users).map(|i| name(&c.request("GET", host, "/", &[("x-user", &format!("user-{i}"))], b"").unwrap())).collect()
}

#[test]
fn policies_are_fair() {
    let mut mesh = Mesh::new();
    for (host, policy) in [("round.test", "ROUND_ROBIN"), ("random.test", "RANDOM"), ("least.test", "LEAST_REQUEST")] {
        mesh = mesh.to(host, &["$ECHO", "$ECHO2", "$ECHO3", "$ECHO4"], "").policy(host, &format!("loadBalancer: {{ simple: {policy} }}"));
    }
    let weir = mesh.start().upstreams(4).run();
    let round = shares(&weir, "round.test", 400);
    assert!(round.len() == 4 && round.values().all(|n| *n == 100), "{round:?}");
    for host in ["random.test", "least.test"] {
        let of = shares(&weir, host, 1200);
        // Some six standard deviations from 300.
        assert!(of.len() == 4 && of.values().all(|n| (205..395).contains(n)), "{host}: {of:?}");
    }
}

#[test]
fn hashes_stick_and_few_move_when_an_endpoint_goes() {
    let hash = |table: &str| format!("loadBalancer: {{ consistentHash: {{ httpHeaderName: x-user{table} }} }}");
    let mesh = |hosts: &[&str]| {
        Mesh::new()
            .to("ring.test", hosts, "")
            .policy("ring.test", &hash(", ringHash: { minimumRingSize: 4096 }"))
            .to("maglev.test", hosts, "")
            .policy("maglev.test", &hash(", maglev: { tableSize: 65537 }"))
    };
    let weir = mesh(&TEN).start().upstreams(10).run();
    const USERS: usize = 400;
    let before: Vec<_> = ["ring.test", "maglev.test"].map(|host| by_user(&weir, host, USERS)).into();
    for (host, users) in ["ring.test", "maglev.test"].iter().zip(&before) {
        // Again, over connections of other workers.
        assert_eq!(by_user(&weir, host, USERS), *users, "{host}");
        assert_eq!(users.iter().collect::<HashSet<_>>().len(), 10, "{host}");
    }
    weir.write("mesh.yaml", &mesh(&TEN[..9]).text());
    for host in ["ring.test", "maglev.test"] {
        cluster_becomes(&weir, host, "membership_total", 9);
    }
    for (host, users) in ["ring.test", "maglev.test"].iter().zip(&before) {
        let after = by_user(&weir, host, USERS);
        assert!(!after.contains(&"echo10".to_string()), "{host}");
        let moved = after.iter().zip(users).filter(|(a, b)| a != b).count();
        let had = users.iter().filter(|n| *n == "echo10").count();
        assert!(moved >= had && moved <= USERS * 15 / 100 + had / 2, "{host}: {moved} of {USERS} moved, {had} had to");
    }
}

#[test]
fn cookies_addresses_and_parameters_keep_to_an_endpoint() {
    let by = |what: &str| format!("loadBalancer: {{ consistentHash: {{ {what} }} }}");
    let weir = Mesh::new()
        .to("cookie.test", &TEN, "")
        .policy("cookie.test", &by("httpCookie: { name: session, path: /shop, ttl: 1h }"))
        .to("given.test", &TEN, "")
        .policy("given.test", &by("httpCookie: { name: session }"))
        .to("source.test", &TEN, "")
        .policy("source.test", &by("useSourceIp: true"))
        .to("query.test", &TEN, "")
        .policy("query.test", &by("httpQueryParameterName: user"))
        .start()
        .upstreams(10)
        .run();
    let get = |host: &str, path: &str, headers: &[(&str, &str)]| client::request(weir.address(), "GET", host, path, headers, b"").unwrap();
    // Who comes without a cookie is given one, and stays where it leads.
    let mut met = HashSet::new();
    for _ in 0..12 {
        let first = get("cookie.test", "/", &[]);
        let set = first.header("set-cookie").unwrap_or_else(|| panic!("{first:?}")).to_string();
        assert!(set.starts_with("session=\"") && set.contains("; Max-Age=3600; Path=/shop; HttpOnly"), "{set}");
        let cookie = set.split(';').next().unwrap().to_string();
        for _ in 0..3 {
            let again = get("cookie.test", "/", &[("cookie", &cookie)]);
            assert_eq!((name(&again), again.header("set-cookie")), (name(&first), None));
        }
        met.insert(name(&first));
    }
    assert!(met.len() > 2, "{met:?}");
    let none = |a: &Answer| a.header("set-cookie").is_none();
    assert!((0..5).all(|_| none(&get("given.test", "/", &[]))), "without a time to live no cookie is made");
    let named = |host: &str, path: &str, headers: &[(&str, &str)]| (0..4).map(|_| name(&get(host, path, headers))).collect::<HashSet<_>>();
    assert_eq!(named("given.test", "/", &[("cookie", "a=1; session=x; b=2")]).len(), 1);
    assert_eq!(named("query.test", "/?a=1&user=me", &[]).len(), 1);
    assert_eq!(named("source.test", "/", &[]).len(), 1);
    let users: HashSet<_> = (0..40).map(|i| name(&get("query.test", &format!("/?user={i}"), &[]))).collect();
    assert!(users.len() > 5, "{users:?}");
    // Other addresses of this machine.
    let sources: HashSet<_> = (2..40).map(|i| name(&get_from(IpAddr::from([127, 0, 0, i]), weir.address(), "source.test"))).collect();
    assert!(sources.len() > 5, "{sources:?}");
}

fn get_from(from: IpAddr, to: SocketAddr, host: &str) -> Answer {
    let io = runtime().block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from, 0)).unwrap();
        socket.connect(to).await.unwrap().into_std().unwrap()
    });
    io.set_nonblocking(false).unwrap();
    Connection::over(io).request("GET", host, "/", &[("connection", "close")], b"").unwrap()
}

/// A DestinationRule holds whichever API's route leads to its host.
#[test]
fn hashes_hold_for_routes_of_every_api() {
    let slices: String = (0..4).map(|i| Service::new("shop", TEN[i]).slice(&format!("shop-{i}"))).collect();
    let rest = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: gateway }
spec:
  gatewayClassName: weir
  listeners: [{ name: http, port: $PORT, protocol: HTTP }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: shop }
spec:
  parentRefs: [{ name: gateway }]
  hostnames: [route.test]
  rules: [{ backendRefs: [{ name: shop, port: 80 }] }]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: shop }
spec:
  ingressClassName: weir
  rules:
  - host: ingress.test
    http: { paths: [{ path: /, pathType: Prefix, backend: { service: { name: shop, port: { number: 80 } } } }] }
---
apiVersion: v1
kind: Service
metadata: { name: shop }
spec: { ports: [{ port: 80 }] }
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: shop }
spec:
  host: shop
  trafficPolicy: { loadBalancer: { consistentHash: { httpHeaderName: x-user } } }
";
    let weir = Start::new().file("gateway.yaml", format!("{rest}---\n{slices}")).arg("--http-port").arg("$PORT2").upstreams(4).run();
    let ingress = SocketAddr::from(([127, 0, 0, 1], weir.ports[1]));
    let ask = |to, host: &str, user: &str| name(&client::request(to, "GET", host, "/", &[("x-user", user)], b"").unwrap());
    let mut met = HashSet::new();
    for user in 0..24 {
        let user = format!("u{user}");
        let first = ask(weir.address(), "route.test", &user);
        for _ in 0..2 {
            assert_eq!(ask(weir.address(), "route.test", &user), first);
            assert_eq!(ask(ingress, "ingress.test", &user), first);
        }
        met.insert(first);
    }
    assert!(met.len() > 2, "{met:?}");
}

#[test]
fn new_endpoints_warm_up() {
    const WINDOW: Duration = Duration::from_secs(4);
    let mesh = |hosts: &[&str]| {
        let policy = "loadBalancer: { simple: ROUND_ROBIN, warmup: { duration: 4s, minimumPercent: 10 } }";
        Mesh::new().to("warm.test", hosts, "").policy("warm.test", policy).text()
    };
    let weir = Start::new().file("mesh.yaml", mesh(&["$ECHO"])).upstreams(2).run();
    assert_eq!(shares(&weir, "warm.test", 4)["echo"], 4);
    // The first endpoint is new as well, as long as the gateway is.
    let began = Instant::now();
    eventually("the first endpoint is warm", || (began.elapsed() > WINDOW).then_some(()));
    let of = eventually("a second in which this machine serves sixty requests", || {
        weir.write("mesh.yaml", &mesh(&["$ECHO"]));
        cluster_becomes(&weir, "warm.test", "membership_total", 1);
        let added = Instant::now();
        weir.write("mesh.yaml", &mesh(&["$ECHO", "$ECHO2"]));
        cluster_becomes(&weir, "warm.test", "membership_total", 2);
        let of = shares(&weir, "warm.test", 60);
        // Where the machine was busy elsewhere for long this says nothing.
        (added.elapsed() < WINDOW / 4).then_some(of)
    });
    assert!(of.get("echo2").is_none_or(|n| *n < 21), "{of:?}");
    eventually("an even share", || shares(&weir, "warm.test", 40).get("echo2").is_some_and(|n| *n >= 18).then_some(()));
}

#[test]
fn the_nearest_endpoints_serve_while_they_are_well() {
    let near = "outlierDetection: { consecutive5xxErrors: 2, interval: 1h, baseEjectionTime: 1h, maxEjectionPercent: 100 }";
    let places = ["$ECHO { zone: near }", "$ECHO2 { zone: next }", "$ECHO3 { zone: far }"];
    let place = |mesh: String| {
        mesh.replace("{ zone: near }", "{}, locality: eu/eu-1/a")
            .replace("{ zone: next }", "{}, locality: eu/eu-2/a")
            .replace("{ zone: far }", "{}, locality: us/us-1/a")
    };
    let distribute = "loadBalancer: { localityLbSetting: { distribute: [{ from: eu/eu-1/*, to: { 'eu/eu-1/*': 75, 'us/*': 25 } }] } }";
    let mesh = Mesh::new()
        .to("near.test", &places, "retries: { attempts: 0 }")
        .policy("near.test", near)
        .to("off.test", &places, "retries: { attempts: 0 }")
        .policy("off.test", &format!("{near}\nloadBalancer: {{ simple: ROUND_ROBIN, localityLbSetting: {{ enabled: false }} }}"))
        .to("share.test", &places, "")
        .policy("share.test", distribute)
        .text();
    let weir = Start::new()
        .file("mesh.yaml", place(mesh))
        .arg("--labels")
        .arg("istio=ingressgateway,topology.kubernetes.io/region=eu,topology.kubernetes.io/zone=eu-1")
        .upstreams(3)
        .run();
    assert_eq!(shares(&weir, "off.test", 30).len(), 3);
    let of = shares(&weir, "share.test", 1200);
    assert!(of.len() == 2 && (800..1000).contains(&of["echo"]) && of.contains_key("echo3"), "{of:?}");
    // The nearest first; when it fails the next zone, then the other region.
    for expected in ["echo", "echo2", "echo3"] {
        assert_eq!(shares(&weir, "near.test", 20).into_keys().collect::<Vec<_>>(), [expected]);
        for _ in 0..2 {
            assert_eq!(weir.get("near.test", "/status/500").status, 500);
        }
    }
    assert_eq!(weir.get("near.test", "/").status, 503);
}

#[test]
fn names_are_followed_by_their_time_to_live() {
    let server = DnsServer::start();
    // The same port on two addresses, so that only the address tells them apart.
    let one = echo_server("one");
    let port = one.address().port();
    let two = std::net::TcpListener::bind(("127.0.0.2", port)).unwrap();
    std::thread::spawn(move || {
        for mut io in two.incoming().map_while(Result::ok) {
            use std::io::{Read, Write};
            let _ = io.read(&mut [0; 4096]);
            let body = "{\"name\":\"two\"}";
            let _ = write!(io, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        }
    });
    server.set("up.test", &["127.0.0.1"], 1);
    let mesh = "\
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: up }
spec:
  hosts: [up.test]
  resolution: DNS
  ports: [{ number: $UP, name: http, protocol: HTTP }]
";
    let route = "- route: [{ destination: { host: up.test, port: { number: $UP } } }]\n";
    let weir =
        Mesh::new().raw(mesh).routes("in.test", route).start().arg("--dns-resolver").arg(server.address.to_string()).word("UP", port).run();
    assert_eq!(name(&weir.get_until("in.test", "/", |a| a.status == 200)), "one");
    // The record changes; the next connections go to the new address without a change of any file.
    server.set("up.test", &["127.0.0.2"], 1);
    weir.get_until("in.test", "/", |a| a.status == 200 && a.json()["name"] == "two");
    // The name goes, then the server falls silent: the last good address stays in use.
    let asked = || server.questions.load(std::sync::atomic::Ordering::Relaxed);
    server.remove("up.test");
    let before = asked();
    eventually("it is asked for again", || (asked() > before + 1).then_some(()));
    assert_eq!(name(&weir.get("in.test", "/")), "two");
    eventually("the failure is said", || (!weir.lines("up.test").is_empty()).then_some(()));
    server.silent.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(name(&weir.get("in.test", "/")), "two");
    // And back.
    server.silent.store(false, std::sync::atomic::Ordering::Relaxed);
    server.set("up.test", &["127.0.0.1", "127.0.0.2"], 1);
    weir.get_until("in.test", "/", |a| a.status == 200 && a.json()["name"] == "one");
}
