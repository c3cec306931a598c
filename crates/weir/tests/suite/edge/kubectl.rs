//! A real kubectl behind the hub: it prints the same with and without the API server.
use super::hub::{Edge, Link, prepare};
use crate::harness::{Kube, eventually};
use std::process::{Command, Stdio};
use weir_test::kube::programs::{KUBECTL, programs};

const OBJECTS: &str = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: default}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: m, namespace: default}, data: {x: kept}}
---
apiVersion: v1
kind: Pod
metadata: { name: web, namespace: default, labels: { app: web } }
spec:
  nodeName: rig-node
  automountServiceAccountToken: false
  containers: [{ name: c, image: example.test/web }]
";

/// What an operator on the node asks, and a part of the answer.
const COMMANDS: &[(&[&str], &str)] = &[
    (&["get", "pods", "-A"], "NAMESPACE   NAME   READY   STATUS"),
    (&["get", "pods", "-A", "-o", "wide"], "NOMINATED NODE"),
    (&["get", "pods", "-l", "app=web", "--show-labels"], "app=web"),
    (&["get", "pod", "web", "-o", "yaml"], "image: example.test/web"),
    (&["describe", "pod", "web"], "rig-node"),
    (&["get", "configmaps"], "DATA"),
    (&["get", "configmap", "m", "-o", "jsonpath={.data.x}"], "kept"),
    (&["api-resources"], "endpointslices"),
    (&["api-versions"], "discovery.k8s.io/v1"),
    (&["explain", "pods.spec.nodeName"], "FIELD: nodeName"),
    (&["get", "--raw", "/version"], "gitVersion"),
];

/// What is printed, without ages: they are those of the moment.
fn words(text: &str) -> Vec<&str> {
    let is_age = |word: &str| word.starts_with(|c: char| c.is_ascii_digit()) && word.ends_with(['s', 'm']);
    text.split_whitespace().filter(|word| !is_age(word)).collect()
}

#[test]
fn kubectl_answers_the_same_without_the_api_server() {
    let kube = Kube::bare();
    prepare(&kube);
    kube.apply(OBJECTS);
    let path = programs(KUBECTL).unwrap().path;
    let (cache, link) = (tempfile::tempdir().unwrap(), Link::to(&kube));
    // Discovery comes from the hub, and from nothing that kubectl has kept itself.
    let run = |edge: &Edge, arguments: &[&str]| {
        let home = tempfile::tempdir().unwrap();
        let mut command = Command::new("kubectl");
        command.env("PATH", &path).env("HOME", home.path()).env_remove("KUBECONFIG").arg(format!("--server=http://{}", edge.address));
        let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let mut edge = Edge::start(&kube, &link, cache.path());
    let online: Vec<String> = COMMANDS
        .iter()
        .map(|(arguments, part)| {
            eventually(&arguments.join(" "), || {
                let (good, printed, error) = run(&edge, arguments);
                assert!(!good || printed.contains(part), "{arguments:?}: {printed}{error}");
                good.then_some(printed)
            })
        })
        .collect();
    link.cut();
    for restart in [false, true] {
        if restart {
            edge.kill();
            edge = Edge::start(&kube, &link, cache.path());
        }
        eventually("the link counts as down", || (edge.admin("/stats").json()["link"]["up"] == false).then_some(()));
        for ((arguments, part), online) in COMMANDS.iter().zip(&online) {
            // What was asked last may not be kept at once.
            eventually(&format!("restart {restart}: {arguments:?}"), || {
                let (good, printed, error) = run(&edge, arguments);
                let same = good && printed.contains(part) && words(&printed) == words(online);
                if !same {
                    eprintln!("{arguments:?}: {printed}{error}\nbefore: {online}");
                }
                same.then_some(())
            });
        }
    }
}
