//! The Kubernetes API that other tests stand on (`tools/kube-rig`): it does what a gateway will meet in a cluster.
use serde_json::Value;
use std::{sync::mpsc, time::Duration};
use weir_test::{Kube, eventually};

const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/rig/httproutes";

const NAMESPACE: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: rig}}\n---\n";

fn route(name: &str, host: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: {name}, namespace: rig}}, spec: {{hostnames: [{host}]}}}}\n---\n"
    )
}

fn version(of: &Value) -> String {
    of["metadata"]["resourceVersion"].as_str().unwrap().to_string()
}

#[test]
fn objects_are_applied_watched_and_checked() {
    let kube = Kube::shared();
    kube.apply(&(NAMESPACE.to_string() + &route("a", "a.test")));
    let list = kube.object(ROUTES).unwrap();
    let mut watch = kube.watch(ROUTES, &version(&list));
    kube.apply(&route("a", "b.test"));
    let event = watch.next().unwrap();
    assert_eq!((event["type"].as_str(), event["object"]["spec"]["hostnames"][0].as_str()), (Some("MODIFIED"), Some("b.test")));
    kube.delete(&route("a", "b.test"));
    assert_eq!(watch.next().unwrap()["type"], "DELETED");
    assert_eq!(kube.object(&format!("{ROUTES}/a")), None);
    // The schemas of Gateway API are those of the release.
    let answer = kube.api("POST", "/rig/apply", "application/yaml", route("b", "no_host").as_bytes()).unwrap();
    assert!(answer.status == 422 && answer.body.contains("spec.hostnames"), "{answer:?}");
    // Istio's and Higress' kinds are there.
    for kind in
        ["networking.istio.io/v1/virtualservices", "extensions.higress.io/v1alpha1/wasmplugins", "networking.higress.io/v1/mcpbridges"]
    {
        assert!(kube.object(&format!("/apis/{kind}")).is_some(), "{kind}");
    }
    let audit = kube.audit();
    assert!(audit.iter().any(|l| l.contains(r#""verb":"patch""#) && l.contains("httproutes/a")), "{audit:?}");
}

#[test]
fn the_api_can_be_stopped_and_can_forget() {
    let kube = Kube::bare();
    let namespace = |n: usize| format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: n{n}}}}}");
    kube.apply(&namespace(0));
    let old = version(&kube.object("/api/v1/namespaces").unwrap());
    kube.apply(&namespace(1));
    // Stopped: requests wait until it goes on.
    kube.signal("kube-apiserver", "STOP");
    std::thread::scope(|scope| {
        let (send, receive) = mpsc::channel();
        let asked = &kube;
        scope.spawn(move || send.send(asked.object("/api/v1/namespaces/n1")));
        assert!(receive.recv_timeout(Duration::from_millis(100)).is_err());
        kube.signal("kube-apiserver", "CONT");
        assert!(receive.recv().unwrap().is_some());
    });
    // Compacted: a watch from before begins with an error.
    kube.forget_history();
    let event = kube.watch("/api/v1/namespaces", &old).next().unwrap();
    assert_eq!((event["type"].as_str(), event["object"]["code"].as_u64()), (Some("ERROR"), Some(410)), "{event}");
    assert!(kube.object("/api/v1/namespaces/n1").is_some());
}

#[test]
fn programs_in_the_rig_end_with_it() {
    let kube = Kube::bare();
    let mut child = kube.command("sleep").arg("600").spawn().unwrap();
    let mut listens = kube.command(env!("CARGO_BIN_EXE_weir")).args(["echo", "--listen", "10.245.0.7:80"]).spawn().unwrap();
    eventually("an answer from an address of the rig", || kube.get("10.245.0.7:80", "x", "/").ok().filter(|a| a.status == 200));
    let apiserver = kube.pid("kube-apiserver");
    drop(kube);
    assert!(!child.wait().unwrap().success() && !listens.wait().unwrap().success());
    let process = format!("/proc/{apiserver}");
    eventually("the end of the API server", || (!std::path::Path::new(&process).exists()).then_some(()));
}
