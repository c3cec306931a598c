//! `weir gateway` against a real Kubernetes API: how it reads and follows a cluster.
use crate::harness::{cache_in, eventually};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Stdio},
    sync::{Arc, Mutex},
};
use weir_test::{
    Kube,
    client::Answer,
    kube::programs::{API, programs},
};

/// A gateway in a cluster. Its listeners and its admin listener are at an address of the rig.
pub struct Gateway<'k> {
    kube: &'k Kube,
    child: Child,
    output: Arc<Mutex<Vec<String>>>,
    address: String,
    folder: tempfile::TempDir,
}

impl<'k> Gateway<'k> {
    /// At `10.245.0.HOST`.
    pub fn start(kube: &'k Kube, host: u8, args: &[&str]) -> Gateway<'k> {
        let (address, folder) = (format!("10.245.0.{host}"), tempfile::tempdir().unwrap());
        let mut command = kube.command(env!("CARGO_BIN_EXE_weir"));
        command.args(["gateway", "--workers", "1", "--bind", &address, "--admin", &format!("{address}:15000")]);
        if !args.contains(&"--leader-election-id") {
            command.args(["--leader-election-id", &format!("weir-{host}")]);
        }
        command.arg("--cache-dir").arg(cache_in(folder.path())).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().unwrap(), output.clone());
        collect(child.stderr.take().unwrap(), output.clone());
        Gateway { kube, child, output, address, folder }
    }

    /// As `start`, and waits until it is ready.
    pub fn ready(kube: &'k Kube, host: u8, args: &[&str]) -> Gateway<'k> {
        let gateway = Gateway::start(kube, host, args);
        eventually("ready", || gateway.admin("/ready").filter(|a| a.status == 200));
        gateway
    }

    pub fn admin(&self, path: &str) -> Option<Answer> {
        self.kube.get(&format!("{}:15000", self.address), "localhost", path).ok()
    }
    pub fn get(&self, host: &str) -> Option<Answer> {
        self.kube.get(&format!("{}:80", self.address), host, "/").ok()
    }
    #[track_caller]
    pub fn answers(&self, host: &str, status: u16) {
        eventually(&format!("{host} answers {status}: {}", self.printed()), || self.get(host).filter(|a| a.status == status));
    }
    pub fn printed(&self) -> String {
        self.output.lock().unwrap().join("\n")
    }
    /// Waits until it printed a line with all of these words.
    #[track_caller]
    pub fn says(&self, words: &[&str]) {
        let found = || self.output.lock().unwrap().iter().any(|line| words.iter().all(|w| line.contains(w))).then_some(());
        eventually(&format!("{words:?}"), found);
    }
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(std::process::Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }
    /// The routes and clusters that it serves by.
    pub fn dump(&self) -> Value {
        let dump: Value = serde_json::from_str(&self.admin("/config_dump").unwrap().body).unwrap();
        without_versions(dump)
    }
}

impl Drop for Gateway<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- weir printed:\n{}\n---", self.printed());
        }
        let _ = &self.folder;
    }
}

/// A kubeconfig in `folder` with the rights of a service account; its path.
pub fn as_service_account(kube: &Kube, namespace: &str, name: &str, folder: &Path) -> String {
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
    let token: Value = serde_json::from_str(&kube.api("POST", &path, "application/json", b"{}").unwrap().body).unwrap();
    let users = json!([{ "name": "rig-admin", "user": { "token": token["status"]["token"] } }]);
    let config = fs::read_to_string(kube.kubeconfig()).unwrap();
    let without_users = config.lines().filter(|l| !l.starts_with("users:")).collect::<Vec<_>>().join("\n");
    let file = folder.join("kubeconfig");
    fs::write(&file, format!("{without_users}\nusers: {users}\n")).unwrap();
    file.to_str().unwrap().into()
}

/// Waits until a service account may do this: the API server hears of roles a little later than it stores them.
#[track_caller]
pub fn permitted(kube: &Kube, namespace: &str, name: &str, what: &Value) {
    let user = format!("system:serviceaccount:{namespace}:{name}");
    let groups = ["system:serviceaccounts", "system:authenticated"];
    let review = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": { "user": user, "groups": groups, "resourceAttributes": what } });
    eventually(&format!("{user} may {what}"), || {
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let answer = kube.api("POST", path, "application/json", review.to_string().as_bytes()).unwrap();
        (answer.json()["status"]["allowed"] == true).then_some(())
    });
}

fn collect(from: impl Read + Send + 'static, into: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            into.lock().unwrap().push(line);
        }
    });
}

/// Without what counts changes or tells the time.
fn without_versions(mut value: Value) -> Value {
    match &mut value {
        Value::Object(map) => {
            map.retain(|key, _| !matches!(key.as_str(), "version_info" | "last_updated" | "configuration_version"));
            map.values_mut().for_each(|v| *v = without_versions(v.take()));
        }
        Value::Array(list) => list.iter_mut().for_each(|v| *v = without_versions(v.take())),
        _ => {}
    }
    value
}

/// A namespace with a Gateway and an upstream, which is an address where nothing listens unless a test starts an echo there.
pub fn base(namespace: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}
---
{{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {{name: {namespace}}}, spec: {{controllerName: weir.dev/gateway-controller}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: web, namespace: {namespace}}}
spec: {{gatewayClassName: {namespace}, listeners: [{{name: http, port: 80, protocol: HTTP}}]}}
---
"
    )
}

/// A route that redirects: it answers without an upstream.
pub fn route(namespace: &str, name: &str, host: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  parentRefs: [{{name: web}}]
  hostnames: [{host}]
  rules: [{{filters: [{{type: RequestRedirect, requestRedirect: {{hostname: elsewhere.test, statusCode: 302}}}}]}}]
---
"
    )
}

#[test]
fn a_cluster_is_served_and_followed() {
    let kube = Kube::shared();
    kube.apply(&(base("followed") + &route("followed", "a", "a.test")));
    let gateway = Gateway::ready(kube, 11, &["--namespace", "followed"]);
    gateway.answers("a.test", 302);
    kube.apply(&route("followed", "b", "b.test"));
    gateway.answers("b.test", 302);
    kube.apply(&route("followed", "b", "c.test"));
    gateway.answers("c.test", 302);
    gateway.answers("b.test", 404);
    kube.delete(&route("followed", "b", "c.test"));
    gateway.answers("c.test", 404);
    // What the schema of the API lets pass and Weir does not take is named with its field.
    let wrong =
        route("followed", "w", "w.test").replace("rules: [{", "rules: [{matches: [{path: {type: RegularExpression, value: '(?P<'}}], ");
    kube.apply(&wrong);
    gateway.says(&["error", "spec.rules[0].matches[0].path", "HTTPRoute/followed/w"]);
    // Pods are read where subsets ask for their labels.
    let pods = || gateway.admin("/stats?filter=kubernetes.objects.pods").unwrap().body;
    kube.apply(
        "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: followed}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: followed}, spec: {containers: [{name: c, image: c}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: s, namespace: followed}, spec: {ports: [{port: 80}]}}
---
",
    );
    kube.apply(&route("followed", "d", "d.test"));
    gateway.answers("d.test", 302);
    assert_eq!(pods(), "");
    kube.apply(
        "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: s, namespace: followed}
spec: {host: s, subsets: [{name: v1, labels: {version: v1}}]}
",
    );
    eventually("Pods are read", || (pods() == "control.kubernetes.objects.pods: 1\n").then_some(()));
    // Files come first.
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), route("followed", "a", "file.test")).unwrap();
    let with_files = Gateway::ready(kube, 12, &["--namespace", "followed", "-f", folder.path().to_str().unwrap()]);
    with_files.answers("file.test", 302);
    with_files.answers("a.test", 404);
    fs::remove_file(folder.path().join("a.yaml")).unwrap();
    with_files.answers("a.test", 302);
    with_files.answers("file.test", 404);
}

#[test]
fn kinds_are_found_when_they_are_installed() {
    let kube = Kube::bare();
    let gateway = Gateway::ready(&kube, 13, &[]);
    gateway.says(&["info", "httproutes.gateway.networking.k8s.io is not installed"]);
    gateway.says(&["info", "virtualservices.networking.istio.io is not installed"]);
    for path in programs(API).unwrap().definitions {
        let files: Vec<_> = if path.is_dir() { fs::read_dir(&path).unwrap().map(|f| f.unwrap().path()).collect() } else { vec![path] };
        for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "yaml") && !f.ends_with("kustomization.yaml")) {
            kube.apply(&fs::read_to_string(file).unwrap());
        }
    }
    let objects = base("later") + &route("later", "a", "a.test");
    eventually("the kinds can be used", || {
        let answer = kube.api("POST", "/rig/apply", "application/yaml", objects.as_bytes()).unwrap();
        (answer.status == 200).then_some(())
    });
    gateway.answers("a.test", 302);
}

#[test]
fn the_last_configuration_serves_while_the_api_is_away() {
    let kube = Kube::start();
    let routes = |range: std::ops::Range<usize>, host: &str| -> String {
        range.map(|n| route("away", &format!("r{n}"), &format!("r{n}.{host}"))).collect()
    };
    kube.apply(&(base("away") + &routes(0..600, "one.test")));
    let gateway = Gateway::ready(&kube, 14, &[]);
    gateway.answers("r599.one.test", 302);
    kube.signal("kube-apiserver", "STOP");
    gateway.says(&["warning", "cannot be reached", "the last configuration keeps serving"]);
    gateway.answers("r7.one.test", 302);
    let ready = gateway.admin("/ready").unwrap();
    assert!(ready.status == 200 && ready.body.starts_with("LIVE\nthe configuration is "), "{ready:?}");
    assert!(ready.body.contains(" s old: the Kubernetes API at https://10.244.0.1:6443 cannot be reached: "), "{ready:?}");
    let stale = gateway.admin("/ready?format=json").unwrap().json();
    eventually("the age of the configuration", || {
        let age = gateway.admin("/stats?filter=configuration_age_seconds")?.body;
        age.trim_end().strip_prefix("control.kubernetes.configuration_age_seconds: ")?.parse().ok().filter(|age: &u64| *age > 0)
    });
    assert!(stale["stale"].as_str().is_some_and(|why| why.contains("cannot be reached")) && stale["waiting"] == json!([]), "{stale}");
    // One that starts now waits for all kinds, for the same reason.
    let late = Gateway::start(&kube, 17, &[]);
    let waits = |a: &Answer| a.body.contains("NotConnected: the Kubernetes API at https://10.244.0.1:6443 cannot be reached: ");
    let ready = eventually("the reason to wait", || late.admin("/ready").filter(waits));
    assert!(ready.status == 503 && ready.body.lines().count() == 2 && ready.body.contains("secrets, "), "{ready:?}");
    drop(late);
    kube.signal("kube-apiserver", "CONT");
    eventually("the API is back", || gateway.admin("/ready").filter(|a| a.body == "LIVE\n"));
    // A cut, with 1,000 edits and deletes that etcd has forgotten when it ends.
    gateway.signal("STOP");
    kube.apply(&routes(0..500, "two.test"));
    kube.delete(&routes(350..600, "one.test"));
    kube.apply(&routes(600..850, "one.test"));
    kube.forget_history();
    gateway.signal("CONT");
    gateway.answers("r7.two.test", 302);
    gateway.answers("r849.one.test", 302);
    gateway.answers("r7.one.test", 404);
    gateway.answers("r599.one.test", 404);
    let after = gateway.dump();
    drop(gateway);
    let fresh = Gateway::ready(&kube, 14, &[]).dump();
    assert!(fresh.to_string().contains("r700.one.test"));
    let lines = |dump: &Value| -> Vec<String> { serde_json::to_string_pretty(dump).unwrap().lines().map(String::from).collect() };
    let (after, fresh) = (lines(&after), lines(&fresh));
    let differs = after.iter().zip(&fresh).position(|(a, b)| a != b).unwrap_or(after.len().min(fresh.len()));
    let part = |lines: &[String]| lines[differs.saturating_sub(5)..lines.len().min(differs + 5)].join("\n");
    assert!(after == fresh, "after the cut:\n{}\nof a fresh start:\n{}", part(&after), part(&fresh));
}

#[test]
fn permissions_that_are_refused_are_named() {
    let kube = Kube::shared();
    kube.apply(&(base("refused") + &route("refused", "a", "a.test")));
    let role = |resources: &str| {
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: refused}}
rules:
- {{apiGroups: [gateway.networking.k8s.io], resources: [{resources}], verbs: [get, list, watch]}}
- {{apiGroups: ['', discovery.k8s.io, networking.k8s.io, extensions.istio.io, extensions.higress.io], resources: ['*'], verbs: [get, list, watch]}}
---
{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: weir, namespace: refused}}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: refused}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: refused}}
subjects: [{{kind: ServiceAccount, name: weir, namespace: refused}}]
---
"
        )
    };
    let most = "gatewayclasses, gateways, grpcroutes, tlsroutes, tcproutes, udproutes, backendtlspolicies, referencegrants, listenersets";
    kube.apply(&role(most));
    let folder = tempfile::tempdir().unwrap();
    let file = as_service_account(kube, "refused", "weir", folder.path());
    let gateways = json!({ "verb": "watch", "group": "gateway.networking.k8s.io", "resource": "gateways", "namespace": "refused" });
    permitted(kube, "refused", "weir", &gateways);
    let gateway = Gateway::start(kube, 15, &["--namespace", "refused", "--kubeconfig", &file]);
    gateway.says(&["error", "cannot watch resource \"httproutes\"", "in the namespace \"refused\"", "grant get, list and watch"]);
    // An API without any permission is left out.
    gateway.says(&["warning", "cannot watch resource \"virtualservices\"", "serves without this API"]);
    gateway.says(&["warning", "no leader can be elected", "leases.coordination.k8s.io \"weir-15\" is forbidden"]);
    // `/ready` says what is missing.
    let waits = |a: &Answer| a.body.lines().filter(|line| line.starts_with("waiting for ")).count() == 1;
    let ready = eventually("only one kind is waited for", || gateway.admin("/ready").filter(waits));
    assert_eq!(ready.status, 503, "{ready:?}");
    let words = [
        "PRE_INITIALIZING\nwaiting for httproutes.gateway.networking.k8s.io in the namespace refused for ",
        " s: Forbidden: ",
        "cannot watch",
    ];
    assert!(words.iter().all(|part| ready.body.contains(part)), "{ready:?}");
    let ready = gateway.admin("/ready?format=json").unwrap();
    let (waits, state) = (&ready.json()["waiting"][0], &ready.json()["state"]);
    assert_eq!((ready.status, state, &waits["reason"]), (503, &json!("PRE_INITIALIZING"), &json!("Forbidden")), "{ready:?}");
    assert_eq!(waits["resources"], json!(["httproutes.gateway.networking.k8s.io in the namespace refused"]));
    kube.apply(&role(&format!("{most}, httproutes")));
    gateway.answers("a.test", 302);
    assert_eq!(eventually("ready", || gateway.admin("/ready").filter(|a| a.status == 200)).body, "LIVE\n");
}
