//! Settings of the whole gateway in a cluster: whose they are, and where the access log may go.
use crate::{
    harness::eventually,
    kube_gateway::{Gateway, base, route},
};
use std::fs;
use weir_test::Kube;

/// The ConfigMap `istio` of a namespace.
fn mesh(namespace: &str, mesh: &str) -> String {
    format!("---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: istio, namespace: {namespace}}}, data: {{mesh: \"{mesh}\"}}}}\n")
}

#[test]
fn settings_of_a_cluster_name_no_files_but_those_that_the_operator_permits() {
    let kube = Kube::shared();
    kube.apply(&(base("logged") + &route("logged", "a", "a.test")));
    kube.apply("{apiVersion: v1, kind: Namespace, metadata: {name: logged-other}}");
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside.log");
    let permitted = folder.path().join("permitted");
    fs::create_dir(&permitted).unwrap();
    let start = |more: &[&str]| {
        let flags = ["--namespace", "logged", "--namespace", "logged-other", "--system-namespace", "logged"];
        Gateway::ready(kube, 94, &[&flags[..], more].concat())
    };
    // Each answer is logged before the next one is asked for, by the same worker.
    let logs = |gateway: &Gateway<'_>, what: &dyn Fn() -> bool| {
        eventually("the access log", || {
            gateway.get("a.test")?;
            what().then_some(())
        })
    };

    kube.apply(&mesh("logged", &format!("accessLogFile: {}", outside.display())));
    // ConfigMaps elsewhere do not change the gateway.
    kube.apply(&mesh("logged-other", "accessLogFile: ''"));
    let gateway = start(&[]);
    gateway.says(&["error", "ConfigMap/logged/istio", "may not name the file", "outside.log"]);
    gateway.says(&["warning", "ConfigMap/logged-other/istio", "in the namespace logged-other are not used"]);
    gateway.answers("a.test", 302);
    logs(&gateway, &|| gateway.printed().contains("\"GET / HTTP/1.1\" 302"));
    // The standard streams need no permission.
    kube.apply(&mesh("logged", "{accessLogFile: /dev/stderr, accessLogFormat: 'to stderr %RESPONSE_CODE%'}"));
    logs(&gateway, &|| gateway.printed().contains("to stderr 302"));
    drop(gateway);
    assert!(!outside.exists());

    // A relative path starts at the folder that is permitted.
    let gateway = start(&["--allow-file-references", permitted.to_str().unwrap()]);
    kube.apply(&mesh("logged", "{accessLogFile: access.log, accessLogFormat: 'to a file %RESPONSE_CODE%'}"));
    let file = permitted.join("access.log");
    logs(&gateway, &|| fs::read_to_string(&file).is_ok_and(|text| text.contains("to a file 302")));
    kube.apply(&mesh("logged", "accessLogFile: ../outside.log"));
    gateway.says(&["error", "ConfigMap/logged/istio", "may only name files below", "not ../outside.log"]);
    drop(gateway);
    assert!(!outside.exists());
}
