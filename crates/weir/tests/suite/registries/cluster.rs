//! A McpBridge in a cluster.
use super::bridge;
use crate::{harness::eventually, kube_gateway::Gateway};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
};
use weir_test::Kube;

const HOST: u8 = 88;

/// `bridge-b.test` is answered by a redirect, and the other hosts by services of registries, which are this gateway with the first host.
const OBJECTS: &str = "
{ apiVersion: v1, kind: Namespace, metadata: { name: higress-system } }
---
{ apiVersion: v1, kind: Namespace, metadata: { name: bridge } }
---
{ apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: { name: bridge }, spec: { controller: weir.dev/ingress-controller } }
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: bridge-b, namespace: bridge, annotations: { higress.io/permanent-redirect: 'https://elsewhere.test/' } }
spec: { ingressClassName: bridge, rules: [{ host: bridge-b.test, http: { paths: [{ path: /, pathType: Prefix, backend: { service: { name: x, port: { number: 80 } } } }] } }] }
";

fn ingress(host: &str, destination: &str) -> String {
    let name = host.replace('.', "-");
    format!(
        "---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{ name: {name}, namespace: bridge, annotations: {{ higress.io/destination: {destination}, higress.io/upstream-vhost: bridge-b.test }} }}
spec: {{ ingressClassName: bridge, rules: [{{ host: {host}, http: {{ paths: [{{ path: /, pathType: Prefix, backend: {{ resource: {{ apiGroup: networking.higress.io, kind: McpBridge, name: default }} }} }}] }} }}] }}
"
    )
}

/// A gateway that answers as a Eureka server with one application. Its delta names another state, so that all is read again each time.
struct Eureka<'k> {
    kube: &'k Kube,
    address: String,
    child: Child,
}

impl Eureka<'_> {
    fn start<'k>(kube: &'k Kube, address: &str, folder: &Path, port: u16) -> Eureka<'k> {
        let instance = json!({ "instanceId": "a", "hostName": "a", "ipAddr": format!("10.245.0.{HOST}"), "status": "UP",
            "port": { "$": port, "@enabled": "true" } });
        let all = json!({ "applications": { "apps__hashcode": "UP_1_", "application": [{ "name": "SHOP", "instance": [instance] }] } });
        let delta = json!({ "applications": { "apps__hashcode": "other", "application": [] } });
        let route = |path: &str, body: &Value| json!({ "match": [{ "uri": { "exact": path } }], "directResponse": { "status": 200, "body": { "string": body.to_string() } } });
        let objects = json!({ "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": { "name": "v" },
            "spec": { "hosts": ["*"], "gateways": ["g"], "http": [route("/eureka/apps", &all), route("/eureka/apps/delta", &delta)] } });
        let gateway = json!({ "apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": { "name": "g" },
            "spec": { "servers": [{ "port": { "number": 8761, "name": "http", "protocol": "HTTP" }, "hosts": ["*"] }] } });
        fs::write(folder.join("eureka.yaml"), format!("{objects}\n---\n{gateway}\n")).unwrap();
        let mut command = kube.command(env!("CARGO_BIN_EXE_weir"));
        command.args(["run", "--workers", "1", "--bind", address, "--admin", &format!("{address}:15000")]).arg(folder);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Eureka { kube, address: address.into(), child };
        let answers = || kube.get(&format!("{address}:8761"), "x", "/eureka/apps").ok().filter(|a| a.status == 200);
        eventually("the registry answers", answers);
        started
    }
}

impl Drop for Eureka<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        eventually("the registry is gone", || self.kube.get(&format!("{}:8761", self.address), "x", "/").is_err().then_some(()));
    }
}

fn status(kube: &Kube) -> Value {
    let object = kube.object("/apis/networking.higress.io/v1/namespaces/higress-system/mcpbridges/default");
    object.unwrap_or_default()["status"].clone()
}

/// What the status says of a registry.
fn registry(kube: &Kube, name: &str) -> Value {
    let status = status(kube);
    let found = status["registries"].as_array().into_iter().flatten().find(|registry| registry["name"] == name);
    found.cloned().unwrap_or_default()
}

/// The condition of the only registry on a server, once it is `True`, or has this reason. Before the first attempt it is `False` as well.
#[track_caller]
fn connected(kube: &Kube, wanted: &str) -> Value {
    eventually(&format!("Connected is {wanted}"), || {
        let condition = registry(kube, "apps")["conditions"][0].clone();
        (condition["type"] == "Connected" && [&condition["status"], &condition["reason"]].contains(&&json!(wanted))).then_some(condition)
    })
}

#[test]
fn registries_of_a_cluster_are_followed() {
    let kube = Kube::shared();
    kube.apply(&(OBJECTS.to_string() + &ingress("bridge-a.test", "own.static") + &ingress("bridge-e.test", "shop.eureka")));
    let gateway = Gateway::ready(kube, HOST, &["--http-port", "80", "--namespace", "higress-system", "--namespace", "bridge"]);
    gateway.answers("bridge-b.test", 301);
    gateway.answers("bridge-a.test", 503);
    let server = kube.free_address().to_string();
    let eureka = format!("{{ type: eureka, name: apps, domain: {server}, port: 8761 }}");
    let listed =
        |port: u16| bridge(&[format!("{{ type: static, name: own, domain: '10.245.0.{HOST}:{port}', port: 80 }}"), eureka.clone()]);
    kube.apply(&listed(80));
    gateway.answers("bridge-a.test", 301);
    gateway.answers("bridge-e.test", 503);
    // Nobody listens there.
    kube.apply(&listed(9));
    gateway.answers("bridge-a.test", 503);
    kube.apply(&listed(80));
    gateway.answers("bridge-a.test", 301);

    // Its status says how each registry on a server is reached, why not, and since when.
    let condition = connected(kube, "NotConnected");
    assert_eq!(condition["status"], "False", "{condition}");
    assert!(condition["message"].as_str().unwrap().contains("refused"), "{condition}");
    let folder = tempfile::tempdir().unwrap();
    let started = Eureka::start(kube, &server, folder.path(), 80);
    gateway.answers("bridge-e.test", 301);
    let condition = connected(kube, "True");
    let said = status(kube);
    assert_eq!(registry(kube, "apps")["type"], "eureka", "{said}");
    // One without a server is always connected.
    let own = registry(kube, "own");
    let condition_of_own = &own["conditions"][0];
    assert_eq!(
        (&own["type"], &condition_of_own["status"], &condition_of_own["reason"]),
        (&json!("static"), &json!("True"), &json!("Connected"))
    );
    assert_eq!((&said["conditions"][0]["type"], &said["conditions"][0]["status"]), (&json!("Accepted"), &json!("True")), "{said}");
    assert!(condition["lastTransitionTime"].as_str().is_some_and(|time| time.ends_with('Z')), "{condition}");
    drop(started);
    connected(kube, "NotConnected");
    gateway.answers("bridge-e.test", 301);
    let started = Eureka::start(kube, &server, folder.path(), 9);
    connected(kube, "True");
    gateway.answers("bridge-e.test", 503);
    drop(started);

    kube.delete(&listed(80));
    gateway.answers("bridge-a.test", 503);
}
