//! `weir edge` in front of a real Kubernetes API: what passes, and what is answered when the API server stands still.
use crate::harness::{Kube, eventually};
use hub::{Edge, JSON, Link, PROTOBUF, TABLE, until};
use std::{
    os::unix::net::UnixStream,
    process::{Command, Stdio},
};
use weir_test::client::{Answer, Connection};

mod access;
mod certificates;
mod clock;
mod collect;
mod convert;
mod filters;
mod hub;
mod inspect;
mod interface;
mod kubectl;
mod operate;
mod policy;
mod pool;
mod servers;
mod streaming_lists;
mod tunnel;
mod upgrade;
mod writes;

/// A token of the service account that may read.
fn token(kube: &Kube) -> String {
    let body = br#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}}"#;
    let answer = kube.api("POST", "/api/v1/namespaces/default/serviceaccounts/reader/token", "application/json", body).unwrap();
    format!("Bearer {}", answer.json()["status"]["token"].as_str().unwrap())
}

fn prepare(kube: &Kube) {
    hub::prepare(kube);
    let maps: Vec<String> = (0..5).map(|i| format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: m{i}, namespace: default, labels: {{i: 'a{i}'}}}}, data: {{x: 'é\"\\\\ {i}'}}}}")).collect();
    kube.apply(&maps.join("\n---\n"));
}

#[test]
fn what_passes_is_byte_for_byte_that_of_the_api_server() {
    let kube = Kube::bare();
    prepare(&kube);
    let cache = tempfile::tempdir().unwrap();
    let link = Link::to(&kube);
    let edge = Edge::start(&kube, &link, cache.path());
    let maps = "/api/v1/namespaces/default/configmaps";
    for path in [maps, "/api/v1/namespaces/default/configmaps/m1", "/api/v1/namespaces", "/apis", "/version", "/api/v1/nodes/none"] {
        for accept in [JSON, PROTOBUF, TABLE] {
            let gate = |headers: &[(&str, &str)]| {
                let mut connection = Connection::over(UnixStream::connect(kube.folder().join("socket")).unwrap());
                connection.request("GET", "kube", path, headers, b"").unwrap()
            };
            // The resource version of a list is that of the moment: something is always written.
            let (through, direct) = eventually(path, || {
                let (through, direct) = (edge.get(path, &[accept]), gate(&[accept]));
                // Where the API server is slow for a moment, what was kept is answered.
                (through.body == direct.body && through.header("weir-cache").is_none()).then_some((through, direct))
            });
            assert_eq!(through.status, direct.status, "{path} {accept:?}");
            assert_eq!(through.header("content-type"), direct.header("content-type"), "{path} {accept:?}");
        }
    }
    let list = edge.kept(maps, JSON).json();
    let mut watch = edge.watch(&format!("{maps}?watch=1&resourceVersion={}", list["metadata"]["resourceVersion"].as_str().unwrap()));
    for i in 5..8 {
        kube.apply(&format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: m{i}, namespace: default}}}}"));
        until(&mut watch, &format!("\"m{i}\""));
    }
}

#[test]
fn reads_are_answered_when_the_api_server_stands_still() {
    let kube = Kube::bare();
    prepare(&kube);
    let cache = tempfile::tempdir().unwrap();
    let link = Link::to(&kube);
    let edge = Edge::start(&kube, &link, cache.path());
    let maps = "/api/v1/namespaces/default/configmaps";
    let list = edge.kept(maps, JSON);
    let protobuf = edge.kept(maps, PROTOBUF);
    let one = edge.kept("/api/v1/namespaces/default/configmaps/m1", JSON);
    let selected = edge.kept(&format!("{maps}?labelSelector=i%3Da3"), JSON);
    let version = edge.kept("/version", JSON);
    let table = edge.kept(maps, TABLE);
    let row = edge.kept("/api/v1/namespaces/default/configmaps/m1", TABLE);
    // What a pod has read is its own.
    let pod = token(&kube);
    let of_pod = edge.kept_for("/api/v1/namespaces/default/configmaps/m2", &[JSON, ("authorization", &pod)]);
    // A list that the API server streams.
    let initial = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let services = "/api/v1/namespaces/default/services";
    until(&mut edge.watch(&format!("{services}?{initial}")), "k8s.io/initial-events-end");
    // A change that a watch brings.
    let from = list.json()["metadata"]["resourceVersion"].as_str().unwrap().to_string();
    let mut watch = edge.watch(&format!("{maps}?watch=1&resourceVersion={from}"));
    kube.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: later, namespace: default}}");
    until(&mut watch, "\"later\"");
    kube.signal("kube-apiserver", "STOP");
    let offline = |edge: &Edge| {
        let names = |answer: &Answer| -> Vec<String> {
            answer.json()["items"]
                .as_array()
                .unwrap_or_else(|| panic!("{answer:?}"))
                .iter()
                .map(|i| i["metadata"]["name"].as_str().unwrap().to_string())
                .collect()
        };
        let mut wanted = [names(&list), vec!["later".to_string()]].concat();
        wanted.sort();
        eventually("what the watch has brought", || (names(&edge.offline(maps, &[JSON])) == wanted).then_some(()));
        assert_eq!(edge.offline(maps, &[PROTOBUF]).body, protobuf.body);
        assert_eq!(edge.offline("/api/v1/namespaces/default/configmaps/m1", &[JSON]).json(), one.json());
        assert_eq!(edge.offline(&format!("{maps}?labelSelector=i%3Da3"), &[JSON]).body, selected.body);
        assert_eq!(edge.offline("/version", &[JSON]).body, version.body);
        assert_eq!(edge.offline(maps, &[TABLE]).body, table.body);
        assert_eq!(edge.offline("/api/v1/namespaces/default/configmaps/m1", &[TABLE]).json()["rows"], row.json()["rows"]);
        // What is not known to be absent is not "not found".
        let table = [
            ("GET", "/api/v1/namespaces/default/configmaps/none", 404, "NotFound"),
            ("GET", "/api/v1/namespaces/other/configmaps/none", 503, "ServiceUnavailable"),
            ("GET", "/api/v1/secrets", 503, "ServiceUnavailable"),
            ("GET", "/api/v1/secrets?watch=1", 503, "ServiceUnavailable"),
            ("GET", "/apis/apps/v1", 503, "ServiceUnavailable"),
            ("PATCH", "/api/v1/namespaces/default/configmaps/m1", 503, "ServiceUnavailable"),
            ("DELETE", "/api/v1/namespaces/default/configmaps/m1", 503, "ServiceUnavailable"),
        ];
        for (method, path, code, reason) in table {
            let answer = edge.request(method, path, &[JSON], b"");
            assert_eq!((answer.status, answer.json()["reason"].as_str()), (code, Some(reason)), "{method} {path}: {}", answer.body);
            assert_eq!(answer.header("retry-after").is_some(), code == 503, "{method} {path}");
        }
        // A token that was never seen gets nothing of what the node has kept.
        let answer = edge.get(maps, &[JSON, ("authorization", "Bearer unknown")]);
        assert_eq!(answer.status, 503, "{}", answer.body);
        let by_pod = |path: &str| edge.get(path, &[JSON, ("authorization", &pod)]);
        let own = edge.offline("/api/v1/namespaces/default/configmaps/m2", &[JSON, ("authorization", &pod)]);
        assert_eq!(own.body, of_pod.body);
        assert_eq!(by_pod("/api/v1/namespaces/default/configmaps/m1").status, 503);
        assert_eq!(by_pod(maps).status, 503);
        // Nor does the node as somebody else.
        assert_eq!(edge.get(maps, &[JSON, ("impersonate-user", "other")]).status, 503);
        let streamed = edge.offline(services, &[JSON]);
        assert_eq!(streamed.json()["items"][0]["metadata"]["name"].as_str(), Some("kubernetes"), "{streamed:?}");
        // A watch begins with what there is.
        let mut watch = edge.watch(&format!("{maps}?{initial}"));
        let seen = until(&mut watch, "k8s.io/initial-events-end");
        assert_eq!(seen.matches("\"type\":\"ADDED\"").count(), wanted.len());
        watch
    };
    drop(offline(&edge));
    edge.kill();
    // The same after a restart without the API server.
    let edge = Edge::start(&kube, &link, cache.path());
    edge.says("kept: 5 lists, ");
    let watch = offline(&edge);
    kube.signal("kube-apiserver", "CONT");
    eventually("an answer of the API server", || edge.get(maps, &[JSON]).header("weir-cache").is_none().then_some(()));
    // Watches are handed back.
    watch.ends();
}

#[test]
fn bad_settings_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none.pem");
    let base = ["edge", "--server-addr", "https://127.0.0.1:1", "--node-name", "n"];
    let port = ["--proxy-port", "0", "--disk-cache-path", folder.path().to_str().unwrap()];
    let table: [(&[&str], &str); 7] = [
        (
            &[&base[..], &["--pool-scope-resources", "v1/services,nodes"]].concat(),
            "\"nodes\": expected VERSION/RESOURCE or GROUP/VERSION/RESOURCE",
        ),
        (&[&base[..], &["--review-cache-ttl", "abc"]].concat(), "write it as 30s, 1m30s or 500ms"),
        (&[&base[..], &["--review-cache-ttl", "25h"]].concat(), "write at most 24h"),
        (&["edge", "--node-name", "n", "--server-addr", "http://127.0.0.1:1"], "expected https://HOST or https://HOST:PORT"),
        (&["edge", "--node-name", "Not A Node", "--server-addr", "https://127.0.0.1:1"], "expected the name of a Node"),
        (&[&base[..], &["--heartbeat-failed-retry", "0"]].concat(), "0 is not in 1.."),
        (
            &[&base[..], &port, &["--tls-cert-file", missing.to_str().unwrap(), "--tls-private-key-file", missing.to_str().unwrap()]]
                .concat(),
            "cannot read",
        ),
    ];
    for (arguments, says) in table {
        let output = Command::new(env!("CARGO_BIN_EXE_weir")).args(arguments).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(says), "{arguments:?}: {text}");
    }
}
