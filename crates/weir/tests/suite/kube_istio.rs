//! What `weir gateway` writes into the status of Istio's kinds.
use crate::{
    harness::eventually,
    kube_gateway::Gateway,
    kube_status::{condition, writes, wrote},
};
use serde_json::Value;
use weir_test::Kube;

/// A namespace with a Gateway for `a.test`, and a VirtualService that sends its requests to a Service of that namespace.
pub fn base(namespace: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: in, namespace: {namespace}}}
spec: {{servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['*']}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: v, namespace: {namespace}}}
spec: {{hosts: [a.test], gateways: [in], http: [{{route: [{{destination: {{host: s.{namespace}.svc.cluster.local}}}}]}}]}}
---
"
    )
}

fn status(kube: &Kube, namespace: &str, path: &str) -> Value {
    kube.object(&format!("/apis/networking.istio.io/v1/namespaces/{namespace}/{path}")).unwrap_or_default()["status"].clone()
}

/// The codes of its messages.
fn codes(status: &Value) -> Vec<&str> {
    let messages = status["validationMessages"].as_array().into_iter().flatten();
    messages.map(|message| message["type"]["code"].as_str().unwrap_or("?")).collect()
}

/// `status/reason` of `Accepted` with the generation that it is about.
fn accepted(status: &Value) -> String {
    format!("{} {}", condition(status, "Accepted"), status["conditions"][0]["observedGeneration"])
}

#[test]
fn istio_kinds_have_validation_messages() {
    let kube = Kube::shared();
    kube.apply(&base("analyzed"));
    let _gateway = Gateway::ready(kube, 26, &["--namespace", "analyzed"]);
    let service = || status(kube, "analyzed", "virtualservices/v");
    eventually("the host is not found", || (codes(&service()) == ["IST0101"]).then_some(()));
    let message = service()["validationMessages"][0].clone();
    assert_eq!((&message["type"]["name"], &message["level"]), (&"ReferencedResourceNotFound".into(), &"ERROR".into()));
    // A warning: the object serves as far as it goes.
    assert_eq!(accepted(&service()), "True/Accepted 1");
    let ports = |ports: &str| {
        format!("{{apiVersion: v1, kind: Service, metadata: {{name: s, namespace: analyzed}}, spec: {{ports: [{ports}]}}}}\n")
    };
    kube.apply(&ports("{name: a, port: 8080}, {name: b, port: 8081}"));
    eventually("the destination names no port", || (codes(&service()) == ["IST0112"]).then_some(()));
    kube.apply(&ports("{name: a, port: 8080}"));
    eventually("the message goes", || codes(&service()).is_empty().then_some(()));
    assert_eq!(accepted(&service()), "True/Accepted 1");
    // Other kinds: one that is accepted, and one that the proxy cannot use.
    kube.apply(
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: analyzed}, spec: {rules: [{}]}}
---
{apiVersion: extensions.istio.io/v1alpha1, kind: WasmPlugin, metadata: {name: p, namespace: analyzed}, spec: {url: 'http://10.245.0.26:1/p.wasm'}}
",
    );
    for (path, wanted) in [
        ("/apis/security.istio.io/v1/namespaces/analyzed/authorizationpolicies/p", "True/Accepted"),
        ("/apis/extensions.istio.io/v1alpha1/namespaces/analyzed/wasmplugins/p", "False/PluginCodeUnavailable"),
    ] {
        eventually(path, || (condition(&kube.object(path)?["status"], "Accepted") == wanted).then_some(()));
    }
    // Of a version with errors, and of an object that never had another one.
    let wrong = |name: &str, gateway: &str| {
        format!(
            "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: analyzed}}
spec: {{hosts: [{name}.test], gateways: [{gateway}], http: [{{match: [{{uri: {{regex: '('}}}}], redirect: {{uri: /}}}}]}}
---
"
        )
    };
    kube.apply(&(wrong("mesh", "mesh") + &wrong("v", "in") + &wrong("w", "in")));
    for (name, wanted) in [("v", "False/InvalidRegex 2"), ("w", "False/InvalidRegex 1")] {
        let now = || status(kube, "analyzed", &format!("virtualservices/{name}"));
        let is_said = || (codes(&now()) == ["IST0122"] && accepted(&now()) == wanted).then_some(());
        eventually(&format!("{name}: {wanted}"), is_said);
    }
    assert_eq!(status(kube, "analyzed", "virtualservices/mesh"), Value::Null, "that of a mesh is not for this gateway to write");
}

#[test]
fn what_clusters_are_made_of_has_a_status_while_it_is_used() {
    let kube = Kube::shared();
    let rule = |name: &str, host: &str, more: &str| {
        format!(
            "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: used}}
spec: {{host: {host}{more}}}
---
"
        )
    };
    let entry = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: e, namespace: used}
spec:
  hosts: [e.test]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  workloadSelector: {labels: {app: e}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: w, namespace: used}
spec: {address: 192.0.2.1, labels: {app: e}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: other, namespace: used}
spec: {address: 192.0.2.2, labels: {app: other}}
---
";
    let route = |name: &str, to: &str| {
        format!(
            "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: used}}
spec: {{hosts: [{name}.test], gateways: [in], http: [{{route: [{{destination: {to}}}]}}]}}
---
"
        )
    };
    let subsets = ", subsets: [{name: v1, labels: {version: v1}}]";
    let rules = rule("r", "e.test", subsets) + &rule("unused", "elsewhere.test", "");
    kube.apply(&(base("used") + &rules + entry + &route("first", "{host: e.test}")));
    let gateway = Gateway::ready(kube, 29, &["--namespace", "used"]);
    let is = |path: &'static str, wanted: &'static str, wanted_codes: &'static [&'static str]| {
        eventually(&format!("{path} {wanted} {wanted_codes:?}"), || {
            let now = status(kube, "used", path);
            (accepted(&now) == wanted && codes(&now) == wanted_codes).then_some(())
        })
    };
    for path in ["destinationrules/r", "serviceentries/e", "workloadentries/w"] {
        is(path, "True/Accepted 1", &[]);
    }
    // A subset that has no endpoints, once a route uses it.
    kube.apply(&route("second", "{host: e.test, subset: v1}"));
    is("destinationrules/r", "True/Accepted 1", &["IST0173"]);
    // The version before goes on, and the status is about the one that is there.
    kube.apply(&rule("r", "e.test", ", trafficPolicy: {tunnel: {targetHost: '*.test', targetPort: 80}}"));
    is("destinationrules/r", "False/InvalidValue 2", &["IST0106", "IST0173"]);
    kube.apply(&rule("r", "e.test", ", subsets: [{name: v1, labels: {app: e}}]"));
    is("destinationrules/r", "True/Accepted 3", &[]);
    // Messages of others stay.
    let theirs = r#"{"status":{"conditions":[{"type":"Reconciled","status":"True"}],"validationMessages":[{"documentationUrl":"https://istio.io/?ref=istioctl"}]}}"#;
    let path = "/apis/networking.istio.io/v1/namespaces/used/serviceentries/e/status";
    assert_eq!(kube.api("PATCH", path, "application/merge-patch+json", theirs.as_bytes()).unwrap().status, 200);
    eventually("the condition is there again, beside theirs", || {
        let now = status(kube, "used", "serviceentries/e");
        let all = (condition(&now, "Accepted"), &now["conditions"][1]["type"], now["validationMessages"].as_array().map(Vec::len));
        (all == ("True/Accepted".into(), &"Reconciled".into(), Some(1))).then_some(())
    });
    for path in ["destinationrules/unused", "workloadentries/other"] {
        assert_eq!(status(kube, "used", path), Value::Null, "{path} is not used");
    }
    // A new process writes nothing that is there.
    let before: Vec<usize> =
        ["destinationrules", "serviceentries", "workloadentries"].map(|kind| writes(kube, &format!("/used/{kind}"))).into();
    assert_eq!(before, [4, 2, 1]);
    drop(gateway);
    let _again = Gateway::ready(kube, 29, &["--namespace", "used"]);
    kube.apply(&rule("last", "e.test", ""));
    is("destinationrules/last", "True/Accepted 1", &[]);
    wrote(kube, "/used/destinationrules", before[0] + 1);
    assert_eq!((writes(kube, "/used/serviceentries"), writes(kube, "/used/workloadentries")), (before[1], before[2]));
}
