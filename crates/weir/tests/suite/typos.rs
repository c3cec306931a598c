//! A typo is an error: `weir check` fails, and a running gateway keeps serving the last good version of the object.
use crate::{
    harness::{Start, weir},
    yaml::ToEcho,
};
use serde_json::Value;
use std::fs;

/// A route that asks for a host and a header, so that a condition that is not read shows.
const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: admin, labels: { team: a } }
spec:
  parentRefs: [{ name: gateway }]
  hostnames: [admin.test]
  rules:
  - matches:
    - path: { type: PathPrefix, value: /admin }
      headers: [{ name: x-token, value: secret }]
    backendRefs: [{ name: echo, port: 80 }]
";

/// The input, its misspelt part, and the text of the finding.
const TYPOS: &[(&str, &str, &str)] = &[
    ("hostnames:", "hostname:", "did you mean hostnames?"),
    ("headers:", "header:", "did you mean headers?"),
    ("matches:", "match:", "did you mean matches?"),
    ("spec:", "specs:", "spec"),
    ("labels:", "lables:", "did you mean labels?"),
    ("rules:", "rulez:", "did you mean rules?"),
    ("value: secret", "valu: secret", "value"),
    ("kind: HTTPRoute", "kind: HTTPRout", "did you mean HTTPRoute?"),
    ("kind: HTTPRoute", "kind: HttpRoute", "did you mean HTTPRoute?"),
    ("kind: HTTPRoute", "knd: HTTPRoute", "kind"),
    ("gateway.networking.k8s.io/v1", "networking.k8s.io/v1", "write apiVersion: gateway.networking.k8s.io/v1"),
    ("gateway.networking.k8s.io/v1", "gateway.networking.k8.io/v1", "write apiVersion: gateway.networking.k8s.io/v1"),
    ("gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v11", "write gateway.networking.k8s.io/v1"),
    ("apiVersion: gateway.networking.k8s.io/v1\nkind:", "apiversion: gateway.networking.k8s.io/v1\nKind:", "add apiVersion and kind"),
];

/// Exit code and findings of `weir check`.
fn check(text: &str, args: &[&str]) -> (Option<i32>, Vec<Value>) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), text).unwrap();
    let out = weir().args(["check", "-o", "json"]).args(args).arg(folder.path()).output().unwrap();
    (out.status.code(), serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}")))
}

#[test]
fn check_fails_for_a_typo() {
    let legacy =
        "apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: { name: a }\nspec: { backend: { serviceName: a, servicePort: 80 } }\n";
    let mut cases: Vec<(String, &str)> = TYPOS.iter().map(|(from, to, says)| (ROUTE.replacen(from, to, 1), *says)).collect();
    cases.push((legacy.into(), "write apiVersion: networking.k8s.io/v1"));
    for (text, says) in cases {
        let (code, found) = check(&text, &[]);
        let told = found.iter().any(|f| f["severity"] == "error" && f["line"].is_u64() && f.to_string().contains(says));
        assert!(code == Some(1) && told, "{says}: {code:?} {found:#?}\n{text}");
    }
}

#[test]
fn the_last_good_version_serves_until_a_typo_is_mended() {
    let weir = Start::new().file("gateway.yaml", ToEcho::new().hostnames("other.test").text()).file("route.yaml", ROUTE).run();
    let get = |headers: &[(&str, &str)], path: &str| {
        let mut c = crate::client::Connection::open(weir.address()).unwrap();
        c.request("GET", "admin.test", path, headers, b"").unwrap().status
    };
    let serves = |what: &str| {
        let (with, without) = (get(&[("x-token", "secret")], "/admin"), get(&[], "/admin"));
        assert_eq!((with, without), (200, 404), "{what}: {}", weir.printed());
    };
    serves("at first");
    for (number, (from, to, _)) in TYPOS.iter().enumerate() {
        // A remark makes each text another, so that its finding is a new one.
        let remarks = "# a remark\n".repeat(number + 1);
        weir.write("route.yaml", &format!("{remarks}{}", ROUTE.replacen(from, to, 1)));
        crate::harness::eventually(to, || {
            let findings = weir.admin("/objects").json();
            let told = findings["objects"].as_array()?.iter().flat_map(|o| o["findings"].as_array()).flatten();
            told.into_iter().any(|f| f["severity"] == "error" && f["line"].as_u64() > Some(number as u64 + 1)).then_some(())
        });
        serves(to);
    }
    weir.write("route.yaml", &ROUTE.replace("secret", "other"));
    crate::harness::eventually("the mended route", || (get(&[("x-token", "other")], "/admin") == 200).then_some(()));
}

#[test]
fn warnings_are_errors_where_they_are_asked_to_be() {
    let route = ROUTE.replace("spec:\n", "spec:\n  useDefaultGateways: All\n");
    let text = format!("{}---\n{route}", ToEcho::new().port(80).upstream(3000).text());
    for (args, code) in [(&[][..], 0), (&["--strict"], 1)] {
        let (got, found) = check(&text, args);
        assert_eq!((got, found.len(), &found[0]["severity"]), (Some(code), 1, &Value::from("warning")), "{found:#?}");
    }
    // Kinds of others are no mistakes.
    let other = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: { name: a }\n---\napiVersion: example.com/v1\nkind: Widget\nmetadata: { name: a }\n";
    let (code, found) = check(other, &[]);
    assert_eq!((code, found.len()), (Some(0), 2), "{found:#?}");
}

#[test]
fn a_misspelt_gateway_is_named() {
    let base = ToEcho::new().port(80).upstream(3000).text();
    for (name, severity, help) in [("gatway", "error", "did you mean gateway?"), ("nothing", "warning", "add it")] {
        let (code, found) = check(&format!("{base}---\n{}", ROUTE.replace("name: gateway", &format!("name: {name}"))), &[]);
        assert_eq!(code, Some(i32::from(severity == "error")), "{found:#?}");
        assert!(found.len() == 1 && found[0]["severity"] == severity && found[0].to_string().contains(help), "{found:#?}");
    }
}

/// As `kubectl get -o yaml` prints objects: with all that a cluster adds to them.
#[test]
fn objects_of_a_cluster_have_no_errors() {
    let (code, found) = check(include_str!("typos/cluster.yaml"), &[]);
    let errors: Vec<&Value> = found.iter().filter(|f| f["severity"] == "error").collect();
    assert!(code == Some(0) && errors.is_empty(), "{errors:#?}");
}
