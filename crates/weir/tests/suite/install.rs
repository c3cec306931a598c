//! The chart, the manifests made from it, and `weir install`.
use crate::{
    harness::{eventually, root, weir},
    kube_gateway::{Gateway, as_service_account, permitted},
};
use serde_json::json;
use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
};
use weir_test::{
    Kube,
    kube::programs::{HELM, programs},
};

/// The version that charts are rendered for; Helm's own default is years old.
const KUBE_VERSION: &str = "1.34.0";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn printed(arguments: &[&str]) -> String {
    let output = weir().args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

/// `weir install` in a cluster.
fn install(kube: &Kube, image: &str) -> Output {
    let mut command = kube.command(env!("CARGO_BIN_EXE_weir"));
    command.args(["install", "--image", image]).env("KUBECONFIG", kube.kubeconfig()).output().unwrap()
}

/// What Helm prints, or its errors.
fn helm(arguments: &[&str]) -> Result<String, String> {
    let path = programs(HELM).unwrap().path;
    let output = Command::new("env").arg("helm").args(arguments).env("PATH", path).current_dir(root()).output().unwrap();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr) + &text(&output.stdout)) }
}

fn template(values: &[&str]) -> Result<String, String> {
    let mut arguments = vec!["template", "weir", "deploy/helm/weir", "--namespace", "weir-system", "--kube-version", KUBE_VERSION];
    values.iter().for_each(|value| arguments.extend(["--set", value]));
    helm(&arguments)
}

fn manifests() -> PathBuf {
    root().join("deploy/manifests/weir.yaml")
}

/// The chart with its default values, without what only Helm reads.
fn rendered() -> String {
    let head = "# The chart deploy/helm/weir with its default values, for those who do not use Helm. Made by a test: see CONTRIBUTING.md.
apiVersion: v1
kind: Namespace
metadata:
  name: weir-system
";
    let helms = [
        "# Source:",
        "    helm.sh/chart:",
        "    app.kubernetes.io/managed-by:",
        "        helm.sh/chart:",
        "        app.kubernetes.io/managed-by:",
    ];
    let chart = template(&[]).unwrap();
    let lines = chart.lines().filter(|l| !helms.iter().any(|h| l.starts_with(h)));
    lines.fold(head.to_string(), |text, line| text + line + "\n")
}

#[test]
fn the_manifests_are_those_of_the_chart() {
    let now = rendered();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(manifests(), &now).unwrap();
    }
    let written = fs::read_to_string(manifests()).unwrap();
    let differs = written.lines().zip(now.lines()).find(|(a, b)| a != b);
    assert!(written == now, "UPDATE=1 cargo test -p weir --test suite the_manifests writes the file: {differs:?}");
}

#[test]
fn the_chart_renders_what_values_ask_for_and_refuses_what_is_wrong() {
    helm(&["lint", "--strict", "--kube-version", KUBE_VERSION, "deploy/helm/weir"]).unwrap();
    // Values, what is there, and what is not.
    for (values, there, absent) in [
        (
            &[][..],
            &["kind: ClusterRole\n", "kind: PodDisruptionBudget", "controllerName: weir.dev/gateway-controller", "replicas: 2"][..],
            &["kind: HorizontalPodAutoscaler", "kind: PodMonitor"][..],
        ),
        (&["gatewayService.type=NodePort"], &["--gateway-service-type=NodePort", "resourceNames: [weir-target-ports]"], &[]),
        (&["gatewayService.create=false"], &["--publish-service=weir-system/weir"], &["gateway-service", "delete", "target-ports"]),
        (&["namespaces={a,b}"], &["--namespace=a", "--namespace=b", "namespace: b\n"], &[]),
        (&["apis.gateway=false"], &["kind: IngressClass"], &["gateway.networking.k8s.io", "kind: GatewayClass"]),
        (&["apis.istio=false", "apis.wasmPlugin=false", "apis.mcpBridge=false"], &["httproutes"], &["istio.io", "higress.io", "pods"]),
        (&["autoscaling.enabled=true"], &["kind: HorizontalPodAutoscaler", "kind: PodDisruptionBudget"], &["replicas: "]),
        (&["replicaCount=1"], &["replicas: 1"], &["kind: PodDisruptionBudget"]),
        (&["metrics.podMonitor.create=true", "metrics.podMonitor.labels.release=prom"], &["kind: PodMonitor", "release: prom"], &[]),
        (&["ingressClass.default=true"], &["is-default-class: \"true\""], &[]),
        (&["serviceAccount.create=false", "serviceAccount.name=mine"], &["serviceAccountName: mine"], &["kind: ServiceAccount\nmetadata"]),
        (&["image.repository=registry.example.com/weir", "image.tag=v7"], &["image: registry.example.com/weir:v7"], &[]),
        (&["extraArgs={--log-level=debug}"], &["- --log-level=debug"], &[]),
        (
            &["service.ports[0].name=sip", "service.ports[0].port=5060", "service.ports[0].protocol=UDP"],
            &["protocol: UDP", "containerPort: 5060"],
            &[],
        ),
    ] {
        let text = template(values).unwrap_or_else(|e| panic!("{values:?}: {e}"));
        for part in there {
            assert!(text.contains(part), "{values:?}: {part} is missing in\n{text}");
        }
        for part in absent {
            assert!(!text.contains(part), "{values:?}: {part} is in\n{text}");
        }
    }
    for (value, says) in [
        ("replicas=3", "replicas"),
        ("service.type=Loadbalancer", "LoadBalancer"),
        ("service.ports[0].name=x,service.ports[0].port=70000", "65,535"),
        ("gatewayService.type=ExternalName", "NodePort"),
        ("image.repository=", "repository"),
        ("serviceAccount.create=false", "serviceAccount.name is required"),
    ] {
        let error = template(&[value]).unwrap_err();
        assert!(error.contains(says), "{value}: {error}");
    }
}

#[test]
fn install_prints_the_manifests_or_applies_them() {
    assert_eq!(printed(&["install", "--dry-run"]), fs::read_to_string(manifests()).unwrap());
    let other = printed(&["install", "--dry-run", "--namespace", "edge", "--image", "registry.example.com/weir:7"]);
    assert!(other.contains("image: registry.example.com/weir:7\n") && !other.contains("weir-system") && other.contains("name: edge\n"));
    for (arguments, says) in [
        (&["install"][..], "--image"),
        (&["install", "--dry-run", "--namespace", "Not_One"], "lower case letters"),
        (&["install", "--dry-run", "--kubeconfig", "x"], "--dry-run"),
        (&["install", "--image", "weir:1", "--kubeconfig", "/nowhere/config"], "cannot read the kubeconfig /nowhere/config"),
    ] {
        let refused = weir().args(arguments).output().unwrap();
        assert!(!refused.status.success() && text(&refused.stderr).contains(says), "{arguments:?}: {refused:?}");
    }
    // Twice: what is there is updated.
    let kube = Kube::start();
    for _ in 0..2 {
        let output = install(&kube, "registry.example.com/weir:7");
        let said = text(&output.stdout);
        assert!(
            output.status.success() && said.contains("Deployment/weir applied") && said.contains("GatewayClass/weir applied"),
            "{output:?}"
        );
    }
    let deployment = kube.object("/apis/apps/v1/namespaces/weir-system/deployments/weir").unwrap();
    assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["image"], "registry.example.com/weir:7");
    // Without the definitions of Gateway API its class is named.
    let output = install(&Kube::bare(), "weir:7");
    assert!(!output.status.success(), "{output:?}");
    assert!(text(&output.stderr).contains("GatewayClass/weir: the cluster has no GatewayClass"), "{output:?}");
}

/// Every argument of the container is one that the command has.
#[test]
fn the_chart_starts_the_command_with_arguments_that_it_has() {
    let text = template(&["namespaces={a}"]).unwrap();
    let help = printed(&["gateway", "--help"]);
    let arguments: Vec<&str> = text.lines().filter_map(|l| l.trim_start().strip_prefix("- --")).collect();
    assert!(arguments.len() > 5, "{text}");
    for argument in arguments {
        let flag = argument.split('=').next().unwrap();
        assert!(help.contains(&format!("--{flag} ")), "--{flag} is no flag of weir gateway");
    }
}

#[test]
fn the_image_holds_all_that_the_program_needs() {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new(root().join("deploy/image/rootfs.sh")).arg(env!("CARGO_BIN_EXE_weir")).arg(dir.path()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let mut run = Command::new("chroot");
    run.args(["--userspec=65532:65532"]).arg(dir.path()).args(["/usr/bin/weir", "check", "-"]).stdin(Stdio::null());
    let output = run.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn the_systemd_unit_is_valid() {
    let unit = fs::read_to_string(root().join("deploy/systemd/weir.service")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("weir.service");
    // It wants the program to be there.
    let installed = unit.replace("/usr/local/bin/weir ", &format!("{} ", env!("CARGO_BIN_EXE_weir")));
    let verify = || Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output().unwrap();
    for (unit, is_valid) in [(installed.clone(), true), (installed.replace("ProtectSystem=strict", "ProtectSystem=strictly"), false)] {
        fs::write(&file, unit).unwrap();
        let output = verify();
        // What it says of units of the machine is not about this one.
        let said = text(&output.stderr);
        let about: Vec<&str> = said.lines().filter(|line| line.contains("weir.service")).collect();
        assert_eq!(about.is_empty(), is_valid, "{output:?}");
    }
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/weir run ")).unwrap();
    let help = printed(&["run", "--help"]);
    for flag in command.split(' ').filter(|word| word.starts_with('-')) {
        assert!(help.contains(&format!("{flag} ")), "{flag} is no flag of weir run");
    }
}

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web, namespace: default}
spec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: moved, namespace: default}
spec:
  parentRefs: [{name: web}]
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {hostname: new.test, statusCode: 302}}]}]
---
";

#[test]
fn the_permissions_of_the_manifests_are_enough() {
    let kube = Kube::start();
    assert!(install(&kube, "weir:7").status.success());
    kube.apply(ROUTE);
    kube.apply(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: weir, namespace: weir-system, labels: {kubernetes.io/service-name: weir}}
addressType: IPv4
ports: [{name: http, port: 80}]
endpoints: [{addresses: [10.245.0.21]}]
",
    );
    let folder = tempfile::tempdir().unwrap();
    let config = as_service_account(&kube, "weir-system", "weir", folder.path());
    permitted(&kube, "weir-system", "weir", &json!({ "verb": "list", "resource": "services" }));
    let lease = json!({ "verb": "create", "group": "coordination.k8s.io", "resource": "leases", "namespace": "weir-system" });
    permitted(&kube, "weir-system", "weir", &lease);
    let arguments = ["--kubeconfig", &config, "--publish-service", "weir-system/weir", "--gateway-service-type", "LoadBalancer"];
    let lease = ["--leader-election-id", "weir", "--leader-election-namespace", "weir-system"];
    let gateway = Gateway::ready(&kube, 21, &[&arguments[..], &lease[..]].concat());
    eventually("the Gateway has a Service", || kube.object("/api/v1/namespaces/default/services/web-weir"));
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dweb-weir";
    let port = eventually("and endpoints", || kube.object(slices)?["items"][0]["ports"][0]["port"].as_u64());
    eventually("it serves", || kube.get(&format!("10.245.0.21:{port}"), "a.test", "/").ok().filter(|a| a.status == 302));
    // Its load balancer gets an address, and another one.
    for address in ["192.0.2.7", "192.0.2.8"] {
        let status = format!(r#"{{"status": {{"loadBalancer": {{"ingress": [{{"ip": "{address}"}}]}}}}}}"#);
        let path = "/api/v1/namespaces/default/services/web-weir/status";
        let answer = kube.api("PATCH", path, "application/merge-patch+json", status.as_bytes()).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        eventually(address, || {
            let web = kube.object("/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways/web")?;
            (web["status"]["addresses"][0]["value"] == address).then_some(())
        });
    }
    // The status of Istio's kinds, also of what clusters are made of.
    kube.apply(
        &(crate::kube_istio::base("istio")
            + "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: istio}, spec: {ports: [{port: 80}]}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: r, namespace: istio}, spec: {host: s}}
"),
    );
    for path in ["gateways/in", "virtualservices/v", "destinationrules/r"] {
        eventually(path, || {
            let object = kube.object(&format!("/apis/networking.istio.io/v1/namespaces/istio/{path}"))?;
            (object["status"]["conditions"][0]["reason"] == "Accepted").then_some(())
        });
    }
    let printed = gateway.printed();
    assert!(!printed.contains("cannot watch resource") && !printed.contains("forbidden"), "{printed}");
}
