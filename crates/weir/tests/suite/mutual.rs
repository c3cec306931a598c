//! Mutual TLS from the gateway's side: the certificate that it shows to upstreams.
use crate::{
    authority::{Authority, holder},
    client,
    harness::{Start, Weir, eventually},
    tls::{istio, server, service},
};
use std::net::SocketAddr;

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
    let ca = Authority::new();
    let own = ca.sign(&["up.test"], None);
    let (first, second) = (ca.sign(&["client.test"], Some("spiffe://first")), ca.sign(&["client.test"], Some("spiffe://second")));
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
        service("secure", up.ports[0]),
        service("echo", 0).replace("port: 0 }", "port: $ECHO }").replace("targetPort: 0", "targetPort: $ECHO"),
    ];
    let secret = |made: &crate::authority::Signed| holder("Secret", "client", &[("tls.crt", &made.pem), ("tls.key", &made.key)]);
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
    assert_eq!(weir.lines("there is no Secret default/client: upstreams that").len(), 1, "{}", weir.printed());
    assert_eq!(resolved(&weir, "silent").as_deref(), Some("ResolvedRefs"));

    let told = |wanted: &str| {
        let answer = weir.get_until("up.test", "/", |a| {
            a.status == 200 && a.json()["headers"]["x-forwarded-client-cert"].as_str().is_some_and(|t| t.contains(wanted))
        });
        assert_eq!(answer.status, 200);
    };
    weir.write("secret.yaml", &secret(&first));
    told(";URI=spiffe://first;");
    assert_eq!(resolved(&weir, "shows").as_deref(), Some("ResolvedRefs"));
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
    assert_eq!(resolved(&weir, "shows").as_deref(), Some("ResolvedRefs"));
}
