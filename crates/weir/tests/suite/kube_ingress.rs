//! Whose an Ingress of a cluster is, and what `weir gateway` writes into its status.
use crate::{harness::eventually, kube_gateway::Gateway};
use serde_json::{Value, json};
use weir_test::Kube;

const OURS: &str = "weir.dev/ingress-controller";
const OTHER: &str = "other.test/controller";
const CLASS: &str = "kubernetes.io/ingress.class";

fn class(name: &str, controller: &str, is_default: bool) -> String {
    format!(
        "---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {{ name: {name}, annotations: {{ ingressclass.kubernetes.io/is-default-class: '{is_default}' }} }}
spec: {{ controller: {controller} }}
"
    )
}

/// It answers with a redirect, so that it needs no upstream.
fn ingress(name: &str, class: &str, annotations: &str) -> String {
    format!(
        "---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{ name: {name}, namespace: classes, annotations: {{ nginx.ingress.kubernetes.io/permanent-redirect: 'https://x.test/', {annotations} }} }}
spec:
  {class}
  rules: [{{ host: {name}.test, http: {{ paths: [{{ path: /, pathType: Prefix, backend: {{ service: {{ name: x, port: {{ number: 80 }} }} }} }}] }} }}]
"
    )
}

fn named(name: &str, class: &str) -> String {
    ingress(name, &format!("ingressClassName: {class}"), "")
}

fn object(kube: &Kube, name: &str) -> Value {
    kube.object(&format!("/apis/networking.k8s.io/v1/namespaces/classes/ingresses/{name}")).unwrap()
}

/// A cluster of its own: the API server gives the default class to each new Ingress without one.
#[test]
fn classes_decide_whose_an_ingress_is_and_who_writes_its_status() {
    let kube = Kube::start();
    kube.apply("{ apiVersion: v1, kind: Namespace, metadata: { name: classes } }");
    kube.apply(&(class("ours", OURS, false) + &class("other", OTHER, false)));
    kube.apply(&(named("named", "ours") + &ingress("old", "", &format!("{CLASS}: ours")) + &named("theirs", "other")));
    kube.apply(&(named("late", "late") + &ingress("none", "", "")));
    let theirs = json!([{ "ip": "203.0.113.9" }]);
    // The other controller has the same addresses on this one, as where the address of a load balancer moved.
    let both = json!([{ "ip": "192.0.2.1" }, { "hostname": "lb.test" }]);
    kube.apply(&named("shared", "other"));
    for (name, addresses) in [("theirs", &theirs), ("shared", &both)] {
        let body = json!({ "status": { "loadBalancer": { "ingress": addresses } } }).to_string();
        let path = format!("/apis/networking.k8s.io/v1/namespaces/classes/ingresses/{name}/status?fieldManager=other");
        assert_eq!(kube.api("PATCH", &path, "application/merge-patch+json", body.as_bytes()).unwrap().status, 200);
    }
    let version = |name: &str| object(&kube, name)["metadata"]["resourceVersion"].clone();
    let untouched = (version("theirs"), version("shared"));
    let flags = ["--http-port", "80", "--publish-status-address", "192.0.2.1", "--publish-status-address", "lb.test"];
    let gateway = Gateway::ready(&kube, 91, &flags);

    let addresses = |name: &str| object(&kube, name)["status"]["loadBalancer"]["ingress"].clone();
    let served = |name: &str| {
        gateway.answers(&format!("{name}.test"), 301);
        eventually(&format!("{name} has the addresses"), || (addresses(name) == both).then_some(()));
    };
    let left = |name: &str| {
        gateway.answers(&format!("{name}.test"), 404);
        eventually(&format!("{name} has no address"), || addresses(name).is_null().then_some(()));
    };
    served("named");
    served("old");
    for name in ["theirs", "shared", "late", "none"] {
        gateway.answers(&format!("{name}.test"), 404);
    }
    assert_eq!((addresses("late"), addresses("none")), (Value::Null, Value::Null));

    // The class comes after the Ingress, goes, and comes as that of another controller.
    kube.apply(&class("late", OURS, false));
    served("late");
    kube.delete(&class("late", OURS, false));
    left("late");
    kube.apply(&class("late", OTHER, false));
    // One that came later shows that this was read.
    kube.apply(&named("mark", "ours"));
    served("mark");
    left("late");

    // A default class takes what has none, for as long as it is the default.
    kube.apply(&class("ours", OURS, true));
    served("none");
    kube.apply(&class("ours", OURS, false));
    left("none");
    kube.apply(&class("other", OTHER, true));
    kube.apply(&named("mark2", "ours"));
    served("mark2");
    left("none");

    // The class of an Ingress changes.
    kube.apply(&named("named", "other"));
    left("named");
    kube.apply(&ingress("old", "", &format!("{CLASS}: other")));
    left("old");
    assert_eq!((version("theirs"), version("shared")), untouched, "an Ingress of another controller was written");
    kube.apply(&named("theirs", "ours"));
    served("theirs");
    kube.apply(&named("named", "ours"));
    served("named");
    // An error in an Ingress does not take it out of DNS.
    kube.apply(&named("named", "ours").replace("permanent-redirect: 'https://x.test/'", "auth-url: 'http://auth.test'"));
    gateway.answers("named.test", 503);
    kube.apply(&named("mark3", "ours"));
    served("mark3");
    assert_eq!(addresses("named"), both);
}
