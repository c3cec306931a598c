//! Mutual TLS beyond clients' certificates: the gateway's own, and those that were revoked.
use crate::{
    client,
    harness::{Start, Weir, eventually},
    tls::{istio, secure_echo, server},
    tls_client::Client,
    yaml::{Service, ToEcho, holder},
};
use std::{fs, net::SocketAddr};
use weir_test::{Ca, Signed};

/// What the admin listener says of a Gateway's references: the reason of the condition.
fn resolved(weir: &Weir, gateway: &str) -> Option<String> {
    let all = weir.admin(&format!("/objects?filter=^Gateway/default/{gateway}$")).json();
    let conditions = all["objects"].as_array()?.first()?["conditions"].as_array()?.clone();
    let own = conditions.iter().find(|c| c["type"] == "ResolvedRefs" && c["scope"].is_null())?;
    assert_eq!(own["status"] == "True", own["reason"] == "ResolvedRefs", "{own}");
    Some(own["reason"].as_str()?.to_string())
}

/// Two Gateways with the same routes, of which one has a certificate; the upstream is another gateway, which asks for one.
#[test]
fn a_gateway_shows_its_certificate_where_a_policy_is() {
    let ca = Ca::new();
    let own = ca.sign(&["up.test"]);
    let (first, second) = (ca.sign_uri(&["client.test"], "spiffe://first"), ca.sign_uri(&["client.test"], "spiffe://second"));
    let both = holder("Secret", "both", &[("tls.crt", &own.pem), ("tls.key", &own.key), ("ca.crt", &ca.pem())]);
    let up = Start::new().file("all.yaml", istio(&server("up.test", "mode: MUTUAL, credentialName: both")) + "---\n" + &both).run();
    let gateway = |name: &str, port: &str, tls: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: {name} }}\nspec:\n  gatewayClassName: weir\n  listeners: [{{ name: http, port: {port}, protocol: HTTP }}]\n{tls}---\n"
        )
    };
    let shows = |reference: &str| gateway("shows", "$PORT", &format!("  tls: {{ backend: {{ clientCertificateRef: {reference} }} }}\n"));
    let rest = [
        gateway("silent", "$PORT2", ""),
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: r }\nspec:\n  parentRefs: [{ name: shows }, { name: silent }]\n  rules:\n  - backendRefs: [{ name: secure, port: 80 }]\n  - { matches: [{ path: { value: /plain } }], backendRefs: [{ name: echo, port: 80 }] }\n---\n".into(),
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: { name: p }\nspec:\n  targetRefs: [{ group: '', kind: Service, name: secure }]\n  validation: { hostname: up.test, caCertificateRefs: [{ group: '', kind: ConfigMap, name: ca }] }\n---\n".into(),
        holder("ConfigMap", "ca", &[("ca.crt", &ca.pem())]),
        Service::new("secure", up.ports[0]).text(),
        Service::new("echo", "$ECHO").text(),
    ];
    let secret = |made: &Signed| holder("Secret", "client", &[("tls.crt", &made.pem), ("tls.key", &made.key)]);
    let apart = secret(&second).replace("name: client", "name: client, namespace: apart");
    let weir =
        Start::new().file("gateway.yaml", shows("{ name: client }")).file("rest.yaml", rest.concat()).file("apart.yaml", apart).run();
    let status = |port: usize, path: &str| {
        client::get(SocketAddr::from(([127, 0, 0, 1], weir.ports[port])), "up.test", path)
            .unwrap_or_else(|e| panic!("{e}: {}", weir.printed()))
    };
    // Without its certificate the upstream is not talked to as if none were asked for.
    assert_eq!((status(0, "/").status, status(0, "/plain").status), (503, 200));
    assert_eq!(resolved(&weir, "shows").as_deref(), Some("InvalidClientCertificateRef"));
    assert_eq!(weir.says("there is no Secret default/client: upstreams that").len(), 1, "{}", weir.printed());
    assert_eq!(resolved(&weir, "silent").as_deref(), Some("ResolvedRefs"));

    let told = |wanted: &str| {
        let answer = weir.get_until("up.test", "/", |a| {
            a.status == 200 && a.json()["headers"]["x-forwarded-client-cert"].as_str().is_some_and(|t| t.contains(wanted))
        });
        assert_eq!(answer.status, 200);
    };
    weir.write("secret.yaml", &secret(&first));
    told(";URI=spiffe://first;");
    // Requests meet a change before it is reported.
    let resolves = || eventually("the condition", || (resolved(&weir, "shows")? == "ResolvedRefs").then_some(()));
    resolves();
    assert_eq!(status(0, "/plain").json()["headers"].get("x-forwarded-client-cert"), None);
    // The other Gateway has none to show.
    assert_eq!((status(1, "/").status, status(1, "/plain").status), (503, 200));
    // Another certificate is shown by the next connection.
    weir.write("secret.yaml", &secret(&second));
    told(";URI=spiffe://second;");

    // Of another namespace: only where that one grants it.
    weir.write("secret.yaml", &secret(&first));
    told(";URI=spiffe://first;");
    weir.write("gateway.yaml", &shows("{ name: client, namespace: apart }"));
    eventually("the condition", || (resolved(&weir, "shows")? == "RefNotPermitted").then_some(()));
    assert!(!status(0, "/").body.contains("spiffe://second"), "shown without a grant");
    weir.write("grant.yaml", "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: { name: g, namespace: apart }\nspec:\n  from: [{ group: gateway.networking.k8s.io, kind: Gateway, namespace: default }]\n  to: [{ group: '', kind: Secret }]\n");
    told(";URI=spiffe://second;");
    resolves();
}

/// A list that revokes a client holds from the next handshake on, wherever it comes from; who is in stays in.
#[test]
fn revoked_clients_are_refused() {
    let (ca, stranger) = (Ca::new(), Ca::new());
    let own = ca.sign(&["secret.test", "files.test", "named.test"]);
    let (good, bad) = (ca.sign(&["good.test"]), ca.sign(&["bad.test"]));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (name, text) in [("chain.pem", &own.pem), ("key.pem", &own.key), ("ca.pem", &ca.pem()), ("crl.pem", &ca.revoke(&[], 2100))] {
        fs::write(path(name), text).unwrap();
    }
    let at = folder.path().display();
    let servers = [
        server("secret.test", "mode: MUTUAL, credentialName: both"),
        server("named.test", "mode: OPTIONAL_MUTUAL, credentialName: own, caCertCredentialName: both"),
        server(
            "files.test",
            &format!(
                "mode: MUTUAL, serverCertificate: {at}/chain.pem, privateKey: {at}/key.pem, caCertificates: {at}/ca.pem, caCrl: {at}/crl.pem"
            ),
        ),
    ];
    let pair = [("tls.crt", &*own.pem), ("tls.key", &*own.key)];
    let own_secret = holder("Secret", "own", &pair);
    let both = |crl: Option<&str>| {
        let mut texts = vec![pair[0], pair[1]];
        let pem = ca.pem();
        texts.push(("ca.crt", &pem));
        texts.extend(crl.map(|crl| ("ca.crl", crl)));
        holder("Secret", "both", &texts)
    };
    let weir = Start::new().file("gateway.yaml", istio(&servers.concat())).file("own.yaml", own_secret).file("both.yaml", both(None)).run();
    let pem = ca.pem();
    assert_eq!(client::request(weir.admin, "POST", "localhost", "/logging?connection=debug", &[], b"").unwrap().status, 200);
    let hosts = ["secret.test", "named.test", "files.test"];
    let enters = |host: &str, who: &Signed| {
        Client { trust: Some(&pem), identity: Some(who), ..Client::default() }.ask(weir.address(), host, &[]).is_ok()
    };
    for host in hosts {
        assert!(enters(host, &good) && enters(host, &bad), "{host}: {}", weir.printed());
    }
    let accepted = Client { trust: Some(&pem), identity: Some(&bad), ..Client::default() };
    let (mut open, _) = accepted.connect(weir.address(), "secret.test").unwrap();
    let mut still =
        || assert_eq!(open.request("GET", "secret.test", "/", &[], b"").unwrap().status, 200, "the open connection was touched");
    still();

    let revoked = ca.revoke(&[&bad], 2100);
    weir.write("both.yaml", &both(Some(&revoked)));
    fs::write(path("crl.pem"), &revoked).unwrap();
    for host in hosts {
        eventually("the revocation", || (!enters(host, &bad)).then_some(()));
        assert!(enters(host, &good), "{host}: {}", weir.printed());
    }
    still();
    let counter = || weir.stat(&format!("listener.0.0.0.0_{}.ssl.fail_verify_error", weir.ports[0]));
    eventually("the counter", || (counter() >= 3).then_some(()));
    weir.says("Revoked");

    // What is no list is said where it stands; the last good one holds.
    weir.write("both.yaml", &both(Some("nothing")));
    fs::write(path("crl.pem"), "nothing").unwrap();
    eventually("a word about the Secret", || weir.lines("ca.crl holds no revocation list that can be read").first().cloned());
    eventually("a word about the file", || weir.lines("crl.pem holds no revocation list that can be read").first().cloned());
    for host in hosts {
        assert!(enters(host, &good) && !enters(host, &bad), "{host}");
    }
    // One of another authority says nothing of ours, and one that is out of date nothing at all: nobody is let in.
    weir.write("both.yaml", &both(Some(&stranger.revoke(&[], 2100))));
    eventually("the stranger's list", || (!enters("secret.test", &good)).then_some(()));
    weir.write("both.yaml", &both(Some(&ca.revoke(&[], 2025))));
    eventually("a word about the old list", || weir.lines("was to be renewed by 2025-01-01T00:00:00").first().cloned());
    assert!(!enters("secret.test", &good));
    // Its end brings everybody back.
    weir.write("both.yaml", &both(None));
    for host in ["secret.test", "named.test"] {
        eventually("the end of the list", || (enters(host, &good) && enters(host, &bad)).then_some(()));
    }
    still();
}

#[test]
fn revoked_upstreams_are_refused() {
    let ca = Ca::new();
    let (own, other) = (ca.sign(&["up.test"]), ca.sign(&["other.test"]));
    let upstream = secure_echo("secure", &own);
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().display();
    let list = |revoked: &[&Signed]| ca.revoke(revoked, 2100);
    fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
    fs::write(folder.path().join("crl.pem"), list(&[&other])).unwrap();
    let rule = |tls: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: up }}\nspec:\n  host: echo\n  trafficPolicy: {{ tls: {{ mode: SIMPLE, {tls} }} }}\n"
        )
    };
    let secret = |crl: &str| holder("Secret", "roots", &[("cacert", &ca.pem()), ("crl", crl)]);
    let weir = Start::new()
        .upstreams(0)
        .file("all.yaml", ToEcho::new().upstream(upstream.address().port()).text())
        .file("rule.yaml", rule(&format!("sni: up.test, caCertificates: {at}/ca.pem, caCrl: {at}/crl.pem")))
        .file("secret.yaml", secret(&list(&[])))
        .arg("--access-log-format")
        .arg("LOG %RESPONSE_CODE% %RESPONSE_FLAGS% %UPSTREAM_TRANSPORT_FAILURE_REASON%")
        .run();
    assert!(weir.lines("warning").is_empty() && weir.lines("error").is_empty(), "{}", weir.printed());
    let comes_to = |status: u16| drop(weir.get_until("up.test", "/", |a| a.status == status));
    comes_to(200);
    fs::write(folder.path().join("crl.pem"), list(&[&other, &own])).unwrap();
    comes_to(503);
    eventually("the log", || weir.lines("LOG 503 UF").into_iter().find(|l| l.contains("Revoked")));
    assert!(weir.stat("cluster.outbound|80||echo.default.svc.cluster.local.ssl.fail_verify_error") > 0);
    fs::write(folder.path().join("crl.pem"), list(&[])).unwrap();
    comes_to(200);
    // Of a credential, and beside a list of names.
    weir.write("rule.yaml", &rule("credentialName: roots, subjectAltNames: [up.test]"));
    weir.write("secret.yaml", &secret(&list(&[&own])));
    comes_to(503);
    weir.write("secret.yaml", &secret(&list(&[&other])));
    comes_to(200);
    // The list of a file goes with the roots of a file.
    weir.write("rule.yaml", &rule(&format!("credentialName: roots, caCrl: {at}/crl.pem")));
    eventually("a word about it", || weir.lines("it has no effect here").first().cloned());
}
