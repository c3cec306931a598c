//! `weir migrate --from-cluster` against a real Kubernetes API.
use crate::kube_gateway::as_service_account;
use serde_json::Value;
use std::process::Output;
use weir_test::Kube;

fn ingress(namespace: &str, name: &str) -> String {
    format!(
        "---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{ name: {name}, namespace: {namespace}, annotations: {{ nginx.ingress.kubernetes.io/app-root: /home }} }}
spec: {{ rules: [{{ host: {name}.test, http: {{ paths: [{{ path: /, pathType: Prefix, backend: {{ service: {{ name: shop, port: {{ name: web }} }} }} }}] }} }}] }}
"
    )
}

fn migrate(kube: &Kube, kubeconfig: &str, args: &[&str]) -> Output {
    let mut command = kube.command(env!("CARGO_BIN_EXE_weir"));
    command.args(["migrate", "--from", "ingress-nginx", "--from-cluster", "--kubeconfig", kubeconfig]).args(args).output().unwrap()
}

#[test]
fn ingresses_of_a_cluster_are_read_page_by_page() {
    /// More than the server is asked for at a time.
    const COUNT: usize = 510;
    let kube = Kube::shared();
    kube.apply(
        "{ apiVersion: v1, kind: Namespace, metadata: { name: migrated } }
---
{ apiVersion: v1, kind: Namespace, metadata: { name: migrated-too } }
---
{ apiVersion: v1, kind: Service, metadata: { name: shop, namespace: migrated-too }, spec: { ports: [{ name: admin, port: 81 }, { name: web, port: 8080 }] } }
---
{ apiVersion: v1, kind: ServiceAccount, metadata: { name: reader, namespace: migrated } }
---
{ apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: { name: reader, namespace: migrated }, rules: [{ apiGroups: [networking.k8s.io], resources: [ingresses], verbs: [list] }] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: { name: reader, namespace: migrated }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader }
subjects: [{ kind: ServiceAccount, name: reader, namespace: migrated }]
",
    );
    let many: String = (0..COUNT).map(|n| ingress("migrated", &format!("i{n}"))).collect();
    kube.apply(&(many + &ingress("migrated-too", "named")));
    let admin = kube.kubeconfig().to_str().unwrap().to_string();
    let out = migrate(kube, &admin, &["--namespace", "migrated", "--namespace", "migrated-too", "-o", "json"]);
    let told: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    assert_eq!((told["ingresses"].as_u64(), told["verdicts"].as_array().map(Vec::len)), (Some(COUNT as u64 + 1), Some(COUNT + 1)));
    let names: std::collections::BTreeSet<&str> =
        told["verdicts"].as_array().unwrap().iter().map(|row| row["object"].as_str().unwrap()).collect();
    assert_eq!(names.len(), COUNT + 1);
    // The number of a named port is that of the Service.
    let out = migrate(kube, &admin, &["--namespace", "migrated-too", "--to", "gateway-api"]);
    let (yaml, told) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
    assert!(out.status.success() && yaml.contains("port: 8080\n") && !yaml.contains("no equivalent"), "{told}\n{yaml}");

    // What may not be read is named, with what to do.
    let folder = tempfile::tempdir().unwrap();
    let reader = as_service_account(kube, "migrated", "reader", folder.path());
    for (args, wanted) in [
        (&["--namespace", "migrated"][..], "cannot list resource \"services\""),
        (&["--namespace", "migrated-too"], "cannot list resource \"ingresses\""),
        (&[], "cannot list resource \"ingresses\" in API group \"networking.k8s.io\" at the cluster scope"),
    ] {
        let out = migrate(kube, &reader, args);
        let told = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.code() == Some(1) && out.stdout.is_empty(), "{args:?}: {told}");
        assert!(told.contains(wanted) && told.contains("name the namespaces that you may read by --namespace"), "{args:?}: {told}");
    }
}
