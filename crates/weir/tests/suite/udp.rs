//! UDPRoutes: sessions, weights, changes under running sessions, limits and statistics.
use crate::harness::{PATIENCE, Start, Weir, eventually, free_port};
use std::{
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

/// An upstream that answers each datagram with its name and the datagram.
fn upstream(name: &'static str) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut datagram = vec![0; 65536];
        while let Ok((length, peer)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(&[name.as_bytes(), b" ", &datagram[..length]].concat(), peer);
        }
    });
    port
}

fn client(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// What one datagram is answered with; `None` if nothing comes, as a datagram may be lost. The answer to an earlier one, which came
/// late, is passed over.
fn try_ask(client: &UdpSocket, text: &str) -> Option<String> {
    client.send(text.as_bytes()).ok()?;
    let mut answer = vec![0; 65536];
    loop {
        let length = client.recv(&mut answer).ok()?;
        let answer = String::from_utf8_lossy(&answer[..length]);
        if answer.ends_with(text) {
            return Some(answer.into_owned());
        }
    }
}

fn ask(client: &UdpSocket, text: &str) -> String {
    eventually("an answer", || try_ask(client, text))
}

fn at(weir: &Weir, port: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], weir.ports[port]))
}

/// A Service with UDP port 53, and TCP port 53 that leads elsewhere.
fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {{ ports: [{{ name: tcp, port: 53, targetPort: 1 }}, {{ name: udp, port: 53, protocol: UDP }}, {{ name: web, port: 80 }}] }}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: {name}, labels: {{ kubernetes.io/service-name: {name} }} }}\naddressType: IPv4\nports: [{{ name: tcp, port: 1 }}, {{ name: udp, port: {port}, protocol: UDP }}]\nendpoints: [{{ addresses: [127.0.0.1] }}]\n---\n"
    )
}

fn gateway(listeners: &[&str]) -> String {
    let listeners: String = listeners.iter().map(|l| format!("  - {{ {l} }}\n")).collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: gateway }}\nspec:\n  gatewayClassName: weir\n  listeners:\n{listeners}---\n"
    )
}

fn route(name: &str, created: &str, backends: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: UDPRoute\nmetadata: {{ name: {name}{created} }}\nspec:\n  parentRefs: [{{ name: gateway, sectionName: udp }}]\n  rules: [{{ backendRefs: [{backends}] }}]\n---\n"
    )
}

#[test]
fn sessions_split_by_weight_and_stay_through_changes() {
    let (a, b) = (upstream("a"), upstream("b"));
    let backends = "{ name: a, port: 53, weight: 3 }, { name: b, port: 53, weight: 1 }, { name: c, port: 53, weight: 0 }";
    let weir = Start::new()
        .upstreams(0)
        .workers(2)
        // TCP and UDP have ports of their own.
        .file("gateway.yaml", gateway(&["name: udp, port: $PORT, protocol: UDP", "name: tcp, port: $PORT, protocol: HTTP"]))
        .file("route.yaml", route("route", "", backends))
        .file("a.yaml", service("a", a))
        .file("b.yaml", service("b", b))
        .file("c.yaml", service("c", upstream("c")))
        .run();
    assert_eq!(weir.says(&format!("listening on udp://0.0.0.0:{}", weir.ports[0])).len(), 1, "{}", weir.printed());
    let clients: Vec<(UdpSocket, String)> = (0..100)
        .map(|_| {
            let client = client(at(&weir, 0));
            // The first datagram of a session is passed on, too.
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            let chosen = try_ask(&client, "1").expect("an answer");
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            (client, chosen[..1].to_string())
        })
        .collect();
    let count = clients.iter().filter(|(_, chosen)| chosen == "a").count();
    assert!(clients.iter().all(|(_, chosen)| chosen == "a" || chosen == "b"));
    // Six standard deviations of 100 tries at 75 per cent.
    assert!((49..=100).contains(&count), "{count}");
    // A datagram of full size, both ways.
    let (large, chosen) = &clients[0];
    let text = "x".repeat(60_000);
    assert_eq!(ask(large, &text), format!("{chosen} {text}"));
    // Each session stays where it is while other things change: the weights, and another listener.
    let backends = "{ name: a, port: 53, weight: 1 }, { name: b, port: 53, weight: 9 }";
    weir.write("route.yaml", &route("route", "", backends));
    weir.write("gateway.yaml", &gateway(&["name: udp, port: $PORT, protocol: UDP"]));
    eventually("the other listener's end", || TcpStream::connect(at(&weir, 0)).is_err().then_some(()));
    for (client, chosen) in &clients {
        assert_eq!(ask(client, "2"), format!("{chosen} 2"));
    }
    // What leads nowhere any more is left, and the sessions go on elsewhere.
    weir.write("route.yaml", &route("route", "", "{ name: b, port: 53 }"));
    let (of_a, _) = clients.iter().find(|(_, chosen)| chosen == "a").unwrap();
    eventually("the change", || (ask(of_a, "change") == "b change").then_some(()));
    for (client, _) in &clients {
        assert_eq!(ask(client, "3"), "b 3");
    }
    weir.write("b.yaml", &service("b", a));
    eventually("the change", || (ask(of_a, "again") == "a again").then_some(()));
    for (client, _) in &clients {
        assert_eq!(ask(client, "4"), "a 4");
    }
    let stat = |name: &str| weir.stat(&format!("listener.0.0.0.0_{}.{name}", weir.ports[0]));
    let (received, sent) = (stat("udp.downstream_sess_rx_datagrams"), stat("udp.downstream_sess_tx_datagrams"));
    assert!(received >= 401 && sent >= 401, "{received} {sent}");
    assert!(stat("udp.downstream_sess_total") >= 200, "{}", stat("udp.downstream_sess_total"));
    eventually("the old sessions end", || (stat("downstream_cx_active") == 100).then_some(()));
    // Without its listener it is closed.
    weir.remove("gateway.yaml");
    eventually("the port is closed", || UdpSocket::bind(("0.0.0.0", weir.ports[0])).ok());
}

#[test]
fn a_route_without_backends_and_a_taken_port_are_reported() {
    let taken = free_port();
    let holder = UdpSocket::bind(("0.0.0.0", taken)).unwrap();
    let weir = Start::new()
        .upstreams(0)
        .unready()
        .file("gateway.yaml", gateway(&[&format!("name: udp, port: {taken}, protocol: UDP")]))
        .file("route.yaml", route("route", "", "{ name: a, port: 80 }"))
        .file("a.yaml", service("a", upstream("a")))
        .run();
    eventually("both are found", || {
        let printed = weir.printed();
        (printed.contains("the Service default/a has no UDP port 80") && printed.contains(&format!("cannot listen on 0.0.0.0:{taken}")))
            .then_some(())
    });
    weir.write("route.yaml", &route("route", "", "{ name: a, port: 53 }"));
    drop(holder);
    let client = client(SocketAddr::from(([127, 0, 0, 1], taken)));
    assert_eq!(ask(&client, "1"), "a 1");
}

#[test]
fn the_oldest_route_has_the_port() {
    let older = ", creationTimestamp: '2026-01-01T00:00:00Z'";
    let newer = ", creationTimestamp: '2026-01-02T00:00:00Z'";
    let weir = Start::new()
        .upstreams(0)
        .file("gateway.yaml", gateway(&["name: udp, port: $PORT, protocol: UDP"]))
        .file("first.yaml", route("a-newer", newer, "{ name: a, port: 53 }"))
        .file("second.yaml", route("b-older", older, "{ name: b, port: 53 }"))
        .file("services.yaml", service("a", upstream("a")) + &service("b", upstream("b")))
        .unready()
        .run();
    for _ in 0..20 {
        assert_eq!(ask(&client(at(&weir, 0)), "1"), "b 1");
    }
    weir.remove("second.yaml");
    eventually("the other one has it", || (ask(&client(at(&weir, 0)), "1") == "a 1").then_some(()));
}

#[test]
fn a_session_without_datagrams_ends_after_the_time_that_is_set() {
    let settings = |time: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: higress-config, namespace: higress-system }}\ndata: {{ higress: '{{ downstream: {{ udpIdleTimeout: {time} }} }}' }}\n"
        )
    };
    let weir = Start::new()
        .upstreams(0)
        .file("gateway.yaml", gateway(&["name: udp, port: $PORT, protocol: UDP"]))
        .file("route.yaml", route("route", "", "{ name: a, port: 53 }"))
        .file("a.yaml", service("a", upstream("a")))
        .file("settings.yaml", settings("100ms"))
        .run();
    let stat = |name: &str| weir.stat(&format!("listener.0.0.0.0_{}.{name}", weir.ports[0]));
    ask(&client(at(&weir, 0)), "1");
    eventually("the session ends", || (stat("udp.idle_timeout") > 0 && stat("downstream_cx_active") == 0).then_some(()));
    // A mistake leaves what was set.
    weir.write("settings.yaml", &settings("0"));
    weir.says("a time above 0");
    let ended = stat("udp.idle_timeout");
    ask(&client(at(&weir, 0)), "2");
    eventually("this session ends, too", || (stat("udp.idle_timeout") > ended).then_some(()));
}
