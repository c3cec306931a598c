//! Events that `weir gateway` writes for what is found about objects without conditions, and the status of Ingress objects.
use crate::{harness::eventually, kube_gateway::Gateway};
use serde_json::Value;
use weir_test::Kube;

fn ingress(namespace: &str, name: &str, class: &str, annotations: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, namespace: {namespace}, annotations: {{{annotations}}}}}\nspec: {{ingressClassName: {class}, rules: [{{host: {name}.test, http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: shop, port: {{number: 80}}}}}}}}]}}}}]}}\n"
    )
}

fn namespace(name: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}\n---\n{{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {{name: {name}}}, spec: {{controller: weir.dev/ingress-controller}}}}\n---\n{{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {{name: {name}-other}}, spec: {{controller: other.test/controller}}}}\n---\n{{apiVersion: v1, kind: Service, metadata: {{name: shop, namespace: {name}}}, spec: {{ports: [{{port: 80}}]}}}}\n"
    )
}

/// `KIND/NAME REASON TYPE NOTE`, sorted.
fn events(kube: &Kube, namespace: &str) -> Vec<String> {
    let list = kube.object(&format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events")).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let one = |e: &Value| {
        let of = &e["regarding"];
        format!("{}/{} {} {} {}", text(&of["kind"]), text(&of["name"]), text(&e["reason"]), text(&e["type"]), text(&e["note"]))
    };
    let mut all: Vec<String> = list["items"].as_array().into_iter().flatten().map(one).collect();
    all.sort();
    all
}

#[test]
fn events_name_what_is_not_supported() {
    let kube = Kube::shared();
    let name = "told";
    let snippet = "nginx.ingress.kubernetes.io/proxy-cookie-path: /a";
    let objects = [
        namespace(name),
        ingress(name, "good", name, "higress.io/timeout: '5'"),
        ingress(name, "warned", name, snippet),
        ingress(name, "closed", name, "nginx.ingress.kubernetes.io/auth-url: 'http://auth'"),
        ingress(name, "foreign", "told-other", snippet),
    ];
    kube.apply(&objects.concat());
    let gateway = Gateway::ready(kube, 51, &["--namespace", name]);
    let found = eventually("two events", || Some(events(kube, name)).filter(|events| events.len() >= 2));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0]
            .starts_with("Ingress/closed UnsupportedAnnotation Warning metadata.annotations[\"nginx.ingress.kubernetes.io/auth-url\"]: ")
    );
    assert!(
        found[0].contains("answered with 503") && found[1].contains("proxy-cookie-path is not supported and has no effect"),
        "{found:?}"
    );
    // As kubectl describe asks: by the uid of the object.
    let uid = kube.object(&format!("/apis/networking.k8s.io/v1/namespaces/{name}/ingresses/warned")).unwrap()["metadata"]["uid"].clone();
    let by_uid = format!("/api/v1/namespaces/{name}/events?fieldSelector=involvedObject.uid={}", uid.as_str().unwrap());
    assert_eq!(kube.object(&by_uid).unwrap()["items"].as_array().unwrap().len(), 1);
    // Another object of the same kind, and a change that leaves the finding as it was.
    kube.apply(&(ingress(name, "warned", name, &format!("{snippet}, a: b")) + &ingress(name, "third", name, snippet)));
    eventually("an event for the new one", || events(kube, name).iter().any(|e| e.starts_with("Ingress/third ")).then_some(()));
    assert_eq!(events(kube, name).len(), 3);
    // A restart writes none again.
    drop(gateway);
    let again = Gateway::ready(kube, 51, &["--namespace", name]);
    kube.apply(&ingress(name, "fourth", name, snippet));
    eventually("an event for the new one", || events(kube, name).iter().any(|e| e.starts_with("Ingress/fourth ")).then_some(()));
    assert_eq!(events(kube, name).len(), 4);
    drop(again);
    // What is still true is renewed before the server removes it.
    let _renews = Gateway::ready(kube, 51, &["--namespace", name, "--event-ttl", "2s"]);
    let counts = || {
        let list = kube.object(&format!("/apis/events.k8s.io/v1/namespaces/{name}/events")).unwrap();
        list["items"].as_array().unwrap().iter().map(|e| e["series"]["count"].as_u64().unwrap_or(1)).collect::<Vec<u64>>()
    };
    let counts = eventually("all are renewed", || Some(counts()).filter(|counts| counts.iter().all(|count| *count >= 3)));
    assert_eq!(counts.len(), 4);
}
