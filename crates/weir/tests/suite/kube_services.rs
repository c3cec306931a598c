//! A Service for each Gateway (`weir gateway --gateway-service-type`).
use crate::{harness::eventually, kube_gateway::Gateway};
use serde_json::{Value, json};
use weir_test::Kube;

/// A namespace with a class, and the Service in front of a gateway at `10.245.0.HOST`.
fn front(namespace: &str, host: u8) -> String {
    format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}
---
{{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {{name: {namespace}}}, spec: {{controllerName: weir.dev/gateway-controller}}}}
---
{{apiVersion: v1, kind: Service, metadata: {{name: front, namespace: {namespace}}}, spec: {{ports: [{{port: 80}}]}}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: front, namespace: {namespace}, labels: {{kubernetes.io/service-name: front}}}}
addressType: IPv4
ports: [{{name: '', port: 80}}]
endpoints: [{{addresses: [10.245.0.{host}], conditions: {{ready: true}}, nodeName: n1}}]
---
"
    )
}

/// A Gateway and its route, which redirects every host to `NAME.test`.
fn gateway(namespace: &str, name: &str, infrastructure: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  gatewayClassName: {namespace}
  infrastructure: {{{infrastructure}}}
  listeners: [{{name: http, port: 80, protocol: HTTP}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  parentRefs: [{{name: {name}}}]
  rules: [{{filters: [{{type: RequestRedirect, requestRedirect: {{path: {{type: ReplaceFullPath, replaceFullPath: /{name}}}}}}}]}}]
---
"
    )
}

fn start<'k>(kube: &'k Kube, namespace: &str, host: u8) -> Gateway<'k> {
    let service = format!("{namespace}/front");
    let arguments = ["--namespace", namespace, "--leader-election-namespace", namespace, "--publish-service", &service];
    Gateway::ready(kube, host, &[&arguments[..], &["--gateway-service-type", "LoadBalancer"]].concat())
}

fn service(kube: &Kube, namespace: &str, name: &str) -> Option<Value> {
    kube.object(&format!("/api/v1/namespaces/{namespace}/services/{name}"))
}

fn slices(kube: &Kube, namespace: &str, service: &str) -> Vec<Value> {
    let path =
        format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3D{service}");
    kube.object(&path).unwrap()["items"].as_array().unwrap().clone()
}

/// `status/reason` of a condition of a Gateway.
fn condition(kube: &Kube, namespace: &str, gateway: &str, kind: &str) -> String {
    let object = kube.object(&format!("/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/gateways/{gateway}")).unwrap();
    let found = object["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == kind).cloned();
    found.map_or("-".into(), |c| format!("{}/{}", c["status"].as_str().unwrap(), c["reason"].as_str().unwrap()))
}

fn addresses(kube: &Kube, namespace: &str, gateway: &str) -> Value {
    let object = kube.object(&format!("/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/gateways/{gateway}")).unwrap();
    object["status"]["addresses"].clone()
}

#[track_caller]
fn merge(kube: &Kube, path: &str, patch: &Value) {
    let answer = kube.api("PATCH", path, "application/merge-patch+json", patch.to_string().as_bytes()).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// The load balancer gives a Service an address.
#[track_caller]
fn balance(kube: &Kube, namespace: &str, service: &str, address: &str) {
    let patch = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": address }] } } });
    merge(kube, &format!("/api/v1/namespaces/{namespace}/services/{service}/status"), &patch);
}

/// Writes of Services and EndpointSlices of a namespace by gateways.
fn writes(kube: &Kube, namespace: &str) -> usize {
    let objects = [format!("/namespaces/{namespace}/services/"), format!("/namespaces/{namespace}/endpointslices/")];
    let ours =
        |line: &&String| line.contains("fieldManager=weir") && objects.iter().any(|o| line.contains(o)) && !line.contains("/status?");
    kube.audit().iter().filter(ours).count()
}

/// The answer of a Gateway's Service: that of its endpoint, at its target port.
fn location(kube: &Kube, namespace: &str, service: &str) -> Option<String> {
    let slices = slices(kube, namespace, service);
    let slice = slices.first()?;
    let address = format!("{}:{}", slice["endpoints"][0]["addresses"][0].as_str()?, slice["ports"][0]["port"]);
    let answer = kube.get(&address, "same.test", "/").ok()?;
    answer.header("location").map(String::from)
}

#[test]
fn gateways_with_the_same_port_have_services_of_their_own() {
    let kube = Kube::shared();
    let labels = "labels: {team: one, tier: web}, annotations: {example.com/a: b}";
    kube.apply(&(front("own", 71) + &gateway("own", "a", labels) + &gateway("own", "b", "")));
    let first = start(kube, "own", 71);
    // No port and no host tells them apart, and no answer says a target port.
    for name in ["a", "b"] {
        let want = format!("http://same.test/{name}");
        eventually(&want, || location(kube, "own", &format!("{name}-own")).filter(|location| *location == want));
    }
    let made = service(kube, "own", "a-own").unwrap();
    let labels = &made["metadata"]["labels"];
    assert_eq!([&labels["team"], &labels["tier"], &labels["gateway.networking.k8s.io/gateway-name"]], ["one", "web", "a"], "{made}");
    assert_eq!(made["metadata"]["annotations"]["example.com/a"], "b");
    assert_eq!((&made["spec"]["type"], &made["spec"]["selector"]), (&json!("LoadBalancer"), &Value::Null));
    assert_eq!(made["metadata"]["ownerReferences"][0]["kind"], "Gateway");
    let slice = &slices(kube, "own", "a-own")[0];
    assert_eq!((&slice["endpoints"][0]["nodeName"], &slice["endpoints"][0]["conditions"]["ready"]), (&json!("n1"), &json!(true)));

    // Reachable is what has an address.
    eventually("no address", || (condition(kube, "own", "a", "Programmed") == "False/AddressNotAssigned").then_some(()));
    balance(kube, "own", "a-own", "192.0.2.1");
    balance(kube, "own", "b-own", "192.0.2.2");
    eventually("an address", || (condition(kube, "own", "a", "Programmed") == "True/Programmed").then_some(()));
    assert_eq!(addresses(kube, "own", "a"), json!([{ "type": "IPAddress", "value": "192.0.2.1" }]));
    eventually("an address", || (addresses(kube, "own", "b")[0]["value"] == "192.0.2.2").then_some(()));
    // One that is asked for and that the load balancer does not give.
    let path = "/apis/gateway.networking.k8s.io/v1/namespaces/own/gateways/b";
    merge(kube, path, &json!({ "spec": { "addresses": [{ "value": "192.0.2.9" }] } }));
    eventually("asked for", || (service(kube, "own", "b-own")?["spec"]["loadBalancerIP"] == "192.0.2.9").then_some(()));
    eventually("not given", || (condition(kube, "own", "b", "Programmed") == "False/AddressNotUsable").then_some(()));
    balance(kube, "own", "b-own", "192.0.2.9");
    eventually("given", || (condition(kube, "own", "b", "Programmed") == "True/Programmed").then_some(()));

    // A label that is not wanted any more goes, those of others stay.
    merge(kube, "/api/v1/namespaces/own/services/a-own", &json!({ "metadata": { "labels": { "other": "x" } } }));
    let path = "/apis/gateway.networking.k8s.io/v1/namespaces/own/gateways/a";
    merge(kube, path, &json!({ "spec": { "infrastructure": { "labels": { "tier": null, "team": "two" } } } }));
    eventually("labels follow", || {
        let labels = service(kube, "own", "a-own")?["metadata"]["labels"].clone();
        (labels["team"] == "two" && labels["tier"].is_null() && labels["other"] == "x").then_some(())
    });
    // What others change of Weir's fields comes back, and so does what they delete.
    merge(kube, "/api/v1/namespaces/own/services/a-own", &json!({ "metadata": { "labels": { "team": "three" } } }));
    eventually("the label is repaired", || (service(kube, "own", "a-own")?["metadata"]["labels"]["team"] == "two").then_some(()));
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/own/endpointslices/{}", slice["metadata"]["name"].as_str().unwrap());
    assert_eq!(kube.api("DELETE", &path, "application/json", b"").unwrap().status, 200);
    eventually("the endpoints are back", || location(kube, "own", "a-own"));
    // More ports.
    let listeners = json!([
        { "name": "http", "port": 80, "protocol": "HTTP" }, { "name": "more", "port": 8080, "protocol": "HTTP" },
    ]);
    merge(kube, "/apis/gateway.networking.k8s.io/v1/namespaces/own/gateways/a", &json!({ "spec": { "listeners": listeners } }));
    eventually("two ports", || (service(kube, "own", "a-own")?["spec"]["ports"].as_array()?.len() == 2).then_some(()));
    eventually("at two targets", || (slices(kube, "own", "a-own").first()?["ports"].as_array()?.len() == 2).then_some(()));
    eventually("programmed", || (condition(kube, "own", "a", "Programmed") == "True/Programmed").then_some(()));
    assert_eq!(location(kube, "own", "b-own").as_deref(), Some("http://same.test/b"));

    // What is as it should be is not written by the next one.
    drop(first);
    let before = writes(kube, "own");
    let second = start(kube, "own", 71);
    kube.apply(&gateway("own", "c", ""));
    eventually("the next one leads", || service(kube, "own", "c-own"));
    eventually("and c has endpoints", || slices(kube, "own", "c-own").first().cloned());
    // They are seen before they are logged.
    eventually("only the Service and EndpointSlice of c", || (writes(kube, "own") == before + 2).then_some(()));
    // The Service goes with its Gateway.
    kube.delete("{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: b, namespace: own}}");
    eventually("the Service is gone", || service(kube, "own", "b-own").is_none().then_some(()));
    eventually("the endpoints are gone", || slices(kube, "own", "b-own").is_empty().then_some(()));
    // So it does where the class of the Gateway is another one.
    merge(kube, "/apis/gateway.networking.k8s.io/v1/namespaces/own/gateways/c", &json!({ "spec": { "gatewayClassName": "others" } }));
    eventually("the Service is gone", || service(kube, "own", "c-own").is_none().then_some(()));
    assert!(service(kube, "own", "a-own").is_some());
    drop(second);
}

#[test]
fn services_of_others_are_not_touched_and_only_the_leader_writes() {
    let kube = Kube::shared();
    let foreign =
        "{apiVersion: v1, kind: Service, metadata: {name: a-foreign, namespace: foreign, labels: {x: z}}, spec: {ports: [{port: 5432}]}}";
    // Somebody else holds the Lease.
    let now = "2020-01-01T00:00:00.000000Z";
    let lease = format!(
        "{{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {{name: weir-72, namespace: foreign}}, \
         spec: {{holderIdentity: another, leaseDurationSeconds: 3600, acquireTime: '{now}', renewTime: '{now}'}}}}"
    );
    kube.apply(&(front("foreign", 72) + &lease + "\n---\n" + foreign + "\n---\n" + &gateway("foreign", "a", "")));
    kube.apply(&gateway("foreign", "b", ""));
    let weir = start(kube, "foreign", 72);
    weir.says(&["Gateway/foreign/b", "has no address yet"]);
    assert_eq!((service(kube, "foreign", "b-foreign"), writes(kube, "foreign")), (None, 0));
    kube.delete(&lease);
    eventually("it leads", || service(kube, "foreign", "b-foreign"));
    eventually("the condition says so", || (condition(kube, "foreign", "a", "Programmed") == "False/AddressNotAssigned").then_some(()));
    weir.says(&["there is a Service foreign/a-foreign that Weir did not create"]);
    let stays = service(kube, "foreign", "a-foreign").unwrap();
    assert_eq!((&stays["spec"]["ports"][0]["port"], &stays["metadata"]["labels"]), (&json!(5432), &json!({ "x": "z" })));
    kube.delete(foreign);
    eventually("its name is free", || (service(kube, "foreign", "a-foreign")?["spec"]["ports"][0]["port"] == 80).then_some(()));
}
