//! Listeners over real sockets: filter chains, TLS, the PROXY protocol, limits, and changes under open connections.
#![allow(clippy::unwrap_used)]
mod common;
use common::*;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use weir_config::{diagnostic::Severity, model::*};

#[tokio::test]
async fn the_server_name_leads_to_its_chain_and_certificate() {
    let (proxy, ca) = (start(), Ca::new());
    let (a, b) = (upstream("a:").await, upstream("b:").await);
    let backend = ca.sign(&["through.test"]);
    let through = tls_upstream("through:", &backend).await;
    let certs = [("exact", ca.sign(&["x.a.test"])), ("wild", ca.sign(&["*.a.test"])), ("b", ca.sign(&["b.test"]))];
    let mut conf = Conf::default();
    conf.cluster("a", a).cluster("b", b).cluster("through", through);
    for (name, pem) in &certs {
        conf.certificate(name, pem);
    }
    let chains = vec![
        tcp("a", &["*.a.test"], &["exact", "wild"], "a"),
        tcp("b", &["b.test"], &["b"], "b"),
        tcp("through", &["through.test"], &[], "through"),
        tcp("plain", &[], &[], "b"),
    ];
    let report = proxy.apply(conf.listener("l", loopback(), chains).delta()).await;
    assert_eq!(report.diagnostics(), []);
    let (address, client) = (address_of(&proxy, "l"), trusting(&ca));
    for (name, greeting, pem) in [
        ("x.a.test", "a:", &certs[0].1),
        ("y.a.test", "a:", &certs[1].1),
        ("b.test", "b:", &certs[2].1),
        // Passed through: the client sees the backend's own certificate.
        ("through.test", "through:", &backend),
    ] {
        let mut io = connect_tls(&client, address, name).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        expect(&mut io, greeting).await;
        ping(&mut io, "hello").await;
        assert_eq!(serial(&io), serial_of(pem), "{name}");
    }
    let mut plain = connect(address).await;
    plain.write_all(b"hi").await.unwrap();
    expect(&mut plain, "b:hi").await;
    assert_eq!(counter(&proxy, "l", "ssl.handshake"), 3);
    // A name that no chain is for meets the plain chain, which passes TLS on as it is.
    assert!(connect_tls(&client, address, "other.test").await.is_err());
}

#[tokio::test]
async fn a_name_without_chain_is_turned_away() {
    let (proxy, ca) = (start(), Ca::new());
    let mut conf = Conf::default();
    conf.cluster("a", upstream("a:").await).certificate("a", &ca.sign(&["a.test"]));
    proxy.apply(conf.listener("l", loopback(), vec![tcp("a", &["a.test"], &["a"], "a")]).delta()).await;
    assert!(connect_tls(&trusting(&ca), address_of(&proxy, "l"), "b.test").await.is_err());
    let mut plain = connect(address_of(&proxy, "l")).await;
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(closes(&mut plain).await);
    assert_eq!(counter(&proxy, "l", "no_filter_chain_match"), 2);
}

#[tokio::test]
async fn certificates_change_under_open_connections() {
    let (proxy, ca) = (start(), Ca::new());
    let (old, new) = (ca.sign(&["a.test"]), ca.sign(&["a.test"]));
    let mut conf = Conf::default();
    conf.cluster("a", upstream("a:").await).certificate("cert", &old);
    conf.listener("l", loopback(), vec![tcp("a", &["a.test"], &["cert"], "a")]);
    proxy.apply(conf.delta()).await;
    let address = address_of(&proxy, "l");
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut io = connect_tls(&trusting(&ca), address, "a.test").await.unwrap();
        expect(&mut io, "a:").await;
        assert_eq!(serial(&io), serial_of(&old));
        open.push(io);
    }
    let report = proxy.apply(conf.certificate("cert", &new).delta()).await;
    assert_eq!((report.version, report.diagnostics()), (2, vec![]));
    assert_eq!(address_of(&proxy, "l"), address, "the socket stays");
    let io = connect_tls(&trusting(&ca), address, "a.test").await.unwrap();
    assert_eq!(serial(&io), serial_of(&new));
    for io in &mut open {
        ping(io, "still here").await;
    }
    // A broken one is refused alone: the last good one keeps serving.
    let mut broken = new.clone();
    broken.key = old.key.clone();
    let report = proxy.apply(conf.certificate("cert", &broken).delta()).await;
    assert_eq!(report.diagnostics().len(), 1, "{:?}", report.diagnostics());
    let d = &report.diagnostics()[0];
    assert!(d.severity == Severity::Error && d.message.contains("`cert`") && d.message.contains("does not match"), "{d:?}");
    let io = connect_tls(&trusting(&ca), address, "a.test").await.unwrap();
    assert_eq!(serial(&io), serial_of(&new));
    // It is said again as long as it is so, and no longer.
    assert_eq!(proxy.apply(conf.cluster("other", loopback()).delta()).await.diagnostics().len(), 1);
    assert_eq!(proxy.apply(conf.certificate("cert", &new).delta()).await.diagnostics().len(), 0);
}

#[tokio::test]
async fn a_secret_that_comes_later_completes_the_chain() {
    let (proxy, ca) = (start(), Ca::new());
    let mut conf = Conf::default();
    conf.cluster("a", upstream("a:").await);
    let chains = vec![tcp("a", &["a.test"], &["late"], "a"), tcp("plain", &[], &[], "a")];
    let report = proxy.apply(conf.listener("l", loopback(), chains).delta()).await;
    assert!(report.diagnostics().iter().any(|d| d.message.contains("there is no secret `late`")), "{:?}", report.diagnostics());
    let report = proxy.apply(conf.certificate("late", &ca.sign(&["a.test"])).delta()).await;
    assert_eq!(report.diagnostics(), []);
    expect(&mut connect_tls(&trusting(&ca), address_of(&proxy, "l"), "a.test").await.unwrap(), "a:").await;
}

#[tokio::test]
async fn listeners_come_change_and_go_while_others_serve() {
    let proxy = start();
    let mut conf = Conf::default();
    conf.cluster("a", upstream("a:").await).cluster("b", upstream("b:").await);
    conf.listener("stays", loopback(), vec![tcp("c", &[], &[], "a")]);
    proxy.apply(conf.delta()).await;
    let stays = address_of(&proxy, "stays");
    let mut first = connect(stays).await;
    expect(&mut first, "a:").await;

    // Another comes.
    proxy.apply(conf.listener("moves", loopback(), vec![tcp("c", &[], &[], "a")]).delta()).await;
    let before = address_of(&proxy, "moves");
    let mut moving = connect(before).await;
    expect(&mut moving, "a:").await;

    // Its chain leads elsewhere: old connections go on, new ones follow.
    proxy.apply(conf.listener("moves", loopback(), vec![tcp("c", &[], &[], "b")]).delta()).await;
    assert_eq!(address_of(&proxy, "moves"), before);
    expect(&mut connect(before).await, "b:").await;
    ping(&mut moving, "old").await;

    // It moves to another address: the new one accepts, the old one no more, its connections go on.
    let free = free();
    proxy.apply(conf.listener("moves", free, vec![tcp("c", &[], &[], "b")]).delta()).await;
    assert_eq!(address_of(&proxy, "moves"), free);
    expect(&mut connect(free).await, "b:").await;
    until("the old address is closed", || std::net::TcpStream::connect(before).is_err()).await;
    ping(&mut moving, "after the move").await;

    // It goes.
    conf.0.listeners.remove("moves");
    proxy.apply(conf.delta()).await;
    assert_eq!(proxy.listeners().len(), 1);
    until("the address is closed", || std::net::TcpStream::connect(free).is_err()).await;
    ping(&mut first, "all along").await;
    assert_eq!(address_of(&proxy, "stays"), stays);
}

#[tokio::test]
async fn a_renamed_listener_takes_the_address_over() {
    let proxy = start();
    let mut conf = Conf::default();
    let free = free();
    conf.cluster("a", upstream("a:").await).listener("one", free, vec![tcp("c", &[], &[], "a")]);
    assert_eq!(proxy.apply(conf.delta()).await.diagnostics(), []);
    let mut old = connect(free).await;
    expect(&mut old, "a:").await;
    conf.0.listeners.clear();
    let report = proxy.apply(conf.listener("two", free, vec![tcp("c", &[], &[], "a")]).delta()).await;
    assert_eq!(report.diagnostics(), []);
    assert_eq!(proxy.listeners().len(), 1);
    for _ in 0..50 {
        expect(&mut connect(free).await, "a:").await;
    }
    ping(&mut old, "still").await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_said_and_tried_again() {
    let proxy = start();
    let address = free();
    let taken = std::net::TcpListener::bind(address).unwrap();
    let mut conf = Conf::default();
    conf.cluster("a", upstream("a:").await).listener("l", address, vec![tcp("c", &[], &[], "a")]);
    conf.listener("m", address, vec![tcp("c", &[], &[], "a")]);
    let report = proxy.apply(conf.delta()).await;
    let diagnostics = report.diagnostics();
    let messages: Vec<_> = diagnostics.iter().map(|d| d.message.as_str()).collect();
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(messages[0].contains(&format!("listener `l`: cannot listen on {address}")), "{messages:?}");
    assert!(messages[1].contains("is taken by listener `l`"), "{messages:?}");
    drop(taken);
    proxy.apply(conf.delta()).await;
    assert_eq!(proxy.listeners().len(), 1);
    expect(&mut connect(address).await, "a:").await;
}

/// What the header says is tested with the binary.
#[tokio::test]
async fn a_proxy_protocol_header_that_stays_incomplete_times_out() {
    let proxy = start_with(|o| o.listener_filters_timeout = std::time::Duration::from_millis(500));
    let mut conf = Conf::default();
    conf.cluster("a", upstream("a:").await);
    proxy.apply(conf.listener_with("l", loopback(), vec![tcp("plain", &[], &[], "a")], |l| l.proxy_protocol = true).delta()).await;
    let mut slow = connect(address_of(&proxy, "l")).await;
    slow.write_all(b"PROXY TCP4 1.2").await.unwrap();
    assert!(closes(&mut slow).await);
    assert_eq!(counter(&proxy, "l", "downstream_pre_cx_timeout"), 1);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_counted() {
    let proxy = start();
    let mut conf = Conf::default();
    conf.cluster("a", upstream("a:").await);
    proxy.apply(conf.listener_with("l", loopback(), vec![tcp("c", &[], &[], "a")], |l| l.max_connections = 2).delta()).await;
    let address = address_of(&proxy, "l");
    let mut held = vec![connect(address).await, connect(address).await];
    for io in &mut held {
        expect(io, "a:").await;
    }
    assert!(closes(&mut connect(address).await).await);
    assert_eq!(counter(&proxy, "l", "downstream_cx_overflow"), 1);
    held.pop();
    until("the place is free", || proxy.shared().connections() == 1).await;
    expect(&mut connect(address).await, "a:").await;
}

#[tokio::test]
async fn client_certificates_are_asked_for() {
    let (proxy, ca, other) = (start(), Ca::new(), Ca::new());
    let mut conf = Conf::default();
    conf.cluster("a", upstream("a:").await).certificate("a", &ca.sign(&["a.test"])).roots("ca", &ca.pem());
    let tls = |names: &[&str], client_ca: Option<&str>| DownstreamTls {
        certificates: vec!["a".into()],
        client_certificate: ClientCertificate::Required,
        client_ca: client_ca.map(Name::from),
        subject_alt_names: names.iter().map(|n| (*n).to_string()).collect(),
        ..Default::default()
    };
    proxy.apply(conf.listener("l", loopback(), vec![tcp_with("c", &[], Some(tls(&["me.test"], Some("ca"))), "a")]).delta()).await;
    let address = address_of(&proxy, "l");
    let with = |pem: Option<Signed>| {
        weir_net::tls::Client::new(weir_net::tls::ClientOptions {
            trust: weir_net::tls::Trust::Anyone,
            subject_alt_names: vec![],
            certificate: pem.map(|p| Arc::new(weir_net::tls::Certificate::from_pem(&p.pem, &p.key).unwrap())),
            server_name: None,
            min_version: None,
        })
        .unwrap()
    };
    for (pem, admitted) in
        [(None, false), (Some(other.sign(&["me.test"])), false), (Some(ca.sign(&["you.test"])), false), (Some(ca.sign(&["me.test"])), true)]
    {
        let refused = match connect_tls(&with(pem), address, "a.test").await {
            Ok(mut io) => {
                if admitted {
                    expect(&mut io, "a:").await;
                }
                !admitted && closes(&mut io).await
            }
            Err(_) => true,
        };
        assert_eq!(refused, !admitted);
    }
    let counted = ["connection_error", "fail_verify_no_cert", "fail_verify_error", "fail_verify_san"];
    // A refusal is counted after the alert was sent.
    until("each is counted", || counted.map(|name| counter(&proxy, "l", &format!("ssl.{name}"))) == [0, 1, 1, 1]).await;
    // Other roots hold from the next handshake on; who is in stays in.
    let mut open = connect_tls(&with(Some(ca.sign(&["me.test"]))), address, "a.test").await.unwrap();
    expect(&mut open, "a:").await;
    assert_eq!(proxy.apply(conf.roots("ca", &other.pem()).delta()).await.diagnostics(), []);
    expect(&mut connect_tls(&with(Some(other.sign(&["me.test"]))), address, "a.test").await.unwrap(), "a:").await;
    if let Ok(mut io) = connect_tls(&with(Some(ca.sign(&["me.test"]))), address, "a.test").await {
        assert!(closes(&mut io).await);
    }
    ping(&mut open, "still").await;
    assert!(!proxy.shared().listeners.load()[0].current.load().chains()[0].drain_group.has_ended());
    // Without roots nothing could be verified: refused, and the previous version keeps serving.
    let report = proxy.apply(conf.listener("l", loopback(), vec![tcp_with("c", &[], Some(tls(&[], None)), "a")]).delta()).await;
    assert_eq!(report.diagnostics().len(), 1, "{:?}", report.diagnostics());
    assert!(connect_tls(&with(Some(other.sign(&["me.test"]))), address, "a.test").await.is_ok());
    // Another demand ends the drain_group: connections are told to leave.
    let drain_group = proxy.shared().listeners.load()[0].current.load().chains()[0].drain_group.clone();
    proxy.apply(conf.listener("l", loopback(), vec![tcp_with("c", &[], Some(tls(&["you.test"], Some("ca"))), "a")]).delta()).await;
    assert!(drain_group.has_ended());
}
