//! The conformance suite of Gateway API against `weir gateway`, in a cluster of its own (`tools/kube-rig`).
use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};
use weir_test::{
    Kube,
    kube::programs::{SUITE, programs},
};

/// The GatewayClass that is tested, and the Service in front of the gateway, which is a process at an address of the rig.
const OBJECTS: &str = "
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: weir}, spec: {controllerName: weir.dev/gateway-controller}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: weir-system}}
---
{apiVersion: v1, kind: Service, metadata: {name: weir, namespace: weir-system}, spec: {ports: [{port: 80}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: weir, namespace: weir-system, labels: {kubernetes.io/service-name: weir}}
addressType: IPv4
ports: [{name: '', port: 80}]
endpoints: [{addresses: [10.245.0.1]}]
";

const PROFILES: &str = "GATEWAY-HTTP,GATEWAY-GRPC,GATEWAY-TLS,GATEWAY-TCP,GATEWAY-UDP";

/// Where the report of the last complete run is kept.
const REPORT: &str = "docs/conformance/gateway-api-v1.6.0.yaml";

#[derive(ClapArgs)]
pub struct Args {
    /// Profiles to run
    #[arg(long, value_delimiter = ',', default_value = PROFILES)]
    profiles: Vec<String>,
    /// Only this test, by its short name
    #[arg(long)]
    run_test: Option<String>,
    /// Keep the report in docs/conformance
    #[arg(long, conflicts_with = "run_test")]
    write: bool,
    /// The weir binary; default: a development build
    #[arg(long)]
    weir: Option<PathBuf>,
    /// Further flags of the suite, such as -skip-tests=NAME
    #[arg(last = true)]
    more: Vec<String>,
}

impl Args {
    /// All profiles, with this binary.
    pub fn all(weir: PathBuf) -> Args {
        Args { profiles: PROFILES.split(',').map(String::from).collect(), run_test: None, write: false, weir: Some(weir), more: Vec::new() }
    }
}

pub fn run(root: &Path, args: &Args) -> Result<()> {
    let weir = match &args.weir {
        Some(weir) => weir.canonicalize().with_context(|| weir.display().to_string())?,
        None => build(root)?,
    };
    let programs = programs(SUITE).context("tools/kube-rig does not build")?;
    let (definitions, path) = (programs.definitions.clone(), programs.path.clone());
    let logs = weir.parent().unwrap_or(root).join("conformance");
    fs::create_dir_all(&logs)?;
    let report = logs.join("report.yaml");
    let _ = fs::remove_file(&report);

    let kube = Kube::with(programs, &[], &definitions);
    kube.apply(OBJECTS);
    let log = File::create(logs.join("weir.log"))?;
    let mut gateway = kube.command(&weir);
    gateway
        .args(["gateway", "--admin", "127.0.0.1:9901", "--bind", "10.245.0.1", "--publish-service", "weir-system/weir"])
        .args(["--gateway-service-type", "LoadBalancer", "--leader-election-namespace", "weir-system", "--kubeconfig"])
        .arg(kube.kubeconfig());
    let mut gateway = gateway.stdout(log.try_clone()?).stderr(log).spawn()?;
    let features = features(&kube, &mut gateway).with_context(|| format!("see {}", logs.join("weir.log").display()))?;

    let mut suite = Command::new("kube-rig");
    suite.env("PATH", path).args(["conformance", "-gateway-class", "weir", "-dir"]).arg(kube.folder());
    suite.args(["-conformance-profiles", &args.profiles.join(",")]);
    suite.arg("-report").arg(&report).arg("-log").arg(logs.join("suite.log"));
    if args.run_test.is_some() || !args.more.is_empty() {
        // With these flags the suite does not read the features from the status of the GatewayClass.
        suite.args(["-supported-features", &features.join(",")]);
    }
    suite.args(["--", "-organization=weir", "-project=weir", "-url=https://weir.dev", "-contact=https://weir.dev"]);
    suite.arg(format!("-version=v{}", env!("CARGO_PKG_VERSION")));
    suite.args(args.run_test.iter().map(|name| format!("-run-test={name}"))).args(&args.more);
    let passed = suite.status().context("kube-rig")?.success();
    // Killed with the cluster in any case; this way its log says how it ended.
    let _ = gateway.kill();
    let _ = gateway.wait();
    if !passed {
        bail!("logs and the report are in {}", logs.display());
    }
    if args.write {
        fs::create_dir_all(root.join(REPORT).parent().unwrap_or(root))?;
        fs::copy(&report, root.join(REPORT))?;
        println!("wrote {REPORT}");
    }
    Ok(())
}

/// What the GatewayClass says is supported, once Weir has accepted it.
fn features(kube: &Kube, gateway: &mut Child) -> Result<Vec<String>> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let class = kube.object("/apis/gateway.networking.k8s.io/v1/gatewayclasses/weir").unwrap_or_default();
        let accepted = |c: &serde_json::Value| c["type"] == "Accepted" && c["status"] == "True";
        if class["status"]["conditions"].as_array().into_iter().flatten().any(accepted) {
            let features = class["status"]["supportedFeatures"].as_array().into_iter().flatten();
            return Ok(features.filter_map(|f| f["name"].as_str().map(str::to_string)).collect());
        }
        if let Some(status) = gateway.try_wait()? {
            bail!("weir gateway ended: {status}");
        }
        if Instant::now() > deadline {
            bail!("the GatewayClass is not accepted: {}", class["status"]);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn build(root: &Path) -> Result<PathBuf> {
    super::test::cargo(root, &["build", "--workspace", "--bin", "weir"])?;
    Ok(super::test::binary(root))
}
