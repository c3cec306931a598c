//! Objects of a cluster that name files of the gateway (`weir gateway --allow-file-references`).
use crate::kube_gateway::Gateway;
use std::fs;
use weir_test::{Kube, certificates::self_signed};

/// A Gateway, a plugin and a rule of a cluster that name a certificate, code and roots.
fn objects(certificate: &str, key: &str, code: &str, roots: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: files}}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: in, namespace: files}}
spec:
  servers:
  - {{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['*']}}
  - port: {{number: 443, name: https, protocol: HTTPS}}
    hosts: ['*']
    tls: {{mode: SIMPLE, serverCertificate: {certificate}, privateKey: {key}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: v, namespace: files}}
spec: {{hosts: [a.test], gateways: [in], http: [{{route: [{{destination: {{host: s.files.svc.cluster.local}}}}]}}]}}
---
{{apiVersion: v1, kind: Service, metadata: {{name: s, namespace: files}}, spec: {{ports: [{{port: 80}}]}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: rule, namespace: files}}
spec: {{host: s.files.svc.cluster.local, trafficPolicy: {{tls: {{mode: SIMPLE, caCertificates: {roots}}}}}}}
---
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {{name: plugin, namespace: files}}
spec: {{url: 'file://{code}'}}
"
    )
}

#[test]
fn objects_of_a_cluster_name_no_files_but_those_that_the_operator_permits() {
    let kube = Kube::shared();
    let folder = tempfile::tempdir().unwrap();
    let signed = self_signed(&["a.test"]);
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), &signed.pem).unwrap();
    fs::write(folder.path().join("tls.crt"), signed.pem).unwrap();
    fs::write(folder.path().join("tls.key"), signed.key).unwrap();
    fs::write(folder.path().join("plugin.wasm"), b"\0asm\x01\0\0\0").unwrap();
    let (permitted, outside) = (folder.path().to_str().unwrap(), outside.path().to_str().unwrap());
    let (certificate, code) = (format!("{permitted}/tls.crt"), format!("{permitted}/plugin.wasm"));

    kube.apply(&objects(&certificate, &format!("{permitted}/tls.key"), &code, outside));
    let gateway = Gateway::ready(kube, 73, &["--namespace", "files"]);
    for (object, path) in [("/files/in", &*certificate), ("/files/plugin", &code), ("/files/rule", outside)] {
        gateway.says(&["error", object, &format!("may not name the file {path}")]);
    }
    let dump = gateway.dump().to_string();
    assert!(!dump.contains("file-cert:") && !dump.contains("file-root:"), "{dump}");
    // The cluster trusts nobody without its roots, rather than those of the system.
    assert!(dump.contains("kubernetes:///not-permitted-cacert"), "{dump}");
    drop(gateway);

    // Relative paths start at the folder that is permitted.
    kube.apply(&objects("tls.crt", "tls.key", "plugin.wasm", outside));
    let gateway = Gateway::ready(kube, 73, &["--namespace", "files", "--allow-file-references", permitted]);
    gateway.says(&["error", "/files/rule", &format!("may only name files below {permitted}, not {outside}")]);
    let dump = gateway.dump().to_string();
    assert!(dump.contains(&format!("file-cert:{permitted}/tls.crt~{permitted}/tls.key")), "{dump}");
    assert!(!dump.contains("file-root:"), "{dump}");
    let printed = gateway.printed();
    assert!(!printed.contains("not tls.") && !printed.contains("not plugin.wasm"), "{printed}");
}
