//! What only Weir is asked: how fast it starts, what routes cost in memory, how soon a change is live.
use super::{
    median,
    peers::{self, Process, ask},
};
use anyhow::{Result, bail};
use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};
use weir_test::free_port;

pub fn report(root: &Path, weir: &Path, go_plugin: Option<&Path>) -> Result<String> {
    let mut out = "## Configuration\n\n| | |\n| --- | --- |\n".to_string();
    let port = free_port();
    let folder = folder_with_plugin(root, 100, port)?;
    start(weir, folder.path(), port)?;
    let starts: Result<Vec<f64>> = (0..5).map(|_| start(weir, folder.path(), port)).collect();
    let _ = writeln!(out, "| start to first answer, 100 routes and a cached plugin | {:.0} ms |", median(starts?));
    if let Some(plugin) = go_plugin {
        let megabytes = fs::metadata(plugin)?.len() as f64 / 1e6;
        let (first, cached) = go_starts(root, weir, plugin)?;
        let _ = writeln!(out, "| … with a Go plugin of {megabytes:.1} MB more that is new | {first:.0} ms |");
        let _ = writeln!(out, "| … … and from the cache | {cached:.0} ms |");
    }
    for routes in [0, 5_000, 10_000] {
        let running = Running::start(weir, routes)?;
        let _ = writeln!(out, "| resident with {routes} HTTPRoutes | {:.1} MB |", running.rss_mb);
        if routes == 10_000 {
            let (live, cpu) = running.changes()?;
            let _ = writeln!(
                out,
                "| one of 10,000 HTTPRoutes changed: live after | {:.1} ms (worst of 10: {:.1}) |",
                median(live.clone()),
                live.iter().fold(0.0, |a: f64, b| a.max(*b))
            );
            let _ = writeln!(out, "| … CPU of the whole process for it | {:.1} ms |", median(cpu));
        }
    }
    Ok(out + "\n")
}

/// A gateway, its routes (a file each, as a folder of a team would hold them) and a plain answer.
fn gateway(port: u16) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: g }}\nspec:\n  gatewayClassName: weir\n  listeners: [{{ name: l, port: {port}, protocol: HTTP }}]\n"
    )
}

/// Answers by a redirect, so that no backend is needed to see which version is live.
fn route(i: usize, version: usize) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r{i} }}\nspec:\n  parentRefs: [{{ name: g }}]\n  hostnames: [\"h{host}.example.com\"]\n  rules:\n  - matches: [{{ path: {{ type: PathPrefix, value: /r{i} }} }}]\n    filters: [{{ type: RequestRedirect, requestRedirect: {{ path: {{ type: ReplaceFullPath, replaceFullPath: /v{version} }}, statusCode: 302 }} }}]\n",
        host = i / 10
    )
}

struct Running {
    folder: tempfile::TempDir,
    process: Process,
    rss_mb: f64,
}

impl Running {
    fn start(weir: &Path, routes: usize) -> Result<Running> {
        let folder = tempfile::tempdir()?;
        let port = free_port();
        fs::write(folder.path().join("gateway.yaml"), gateway(port))?;
        fs::write(folder.path().join("last.yaml"), route(routes, 0))?;
        for i in 0..routes {
            fs::write(folder.path().join(format!("r{i}.yaml")), route(i, 0))?;
        }
        let mut command = Command::new(weir);
        command.args(["run", "--workers", "1", "--admin", "127.0.0.1:0", "-f"]).arg(folder.path());
        let process = peers::spawn(command, port)?;
        until(port, &format!("h{}.example.com", routes / 10), &format!("/r{routes}"), "/v0")?;
        let rss_mb = process.rss_mb()?;
        Ok(Running { folder, process, rss_mb })
    }

    /// Ten changes of one route: milliseconds from the close of the file to the first request that sees it, and CPU milliseconds.
    fn changes(&self) -> Result<(Vec<f64>, Vec<f64>)> {
        let (mut live, mut cpu) = (Vec::new(), Vec::new());
        for version in 1..=10 {
            let before = self.process.cpu_seconds()?;
            fs::write(self.folder.path().join("r7.yaml"), route(7, version))?;
            let closed = Instant::now();
            until(self.process.port, "h0.example.com", "/r7", &format!("/v{version}"))?;
            live.push(closed.elapsed().as_secs_f64() * 1e3);
            std::thread::sleep(Duration::from_millis(300));
            cpu.push((self.process.cpu_seconds()? - before) * 1e3);
        }
        Ok((live, cpu))
    }
}

/// Milliseconds from the start of the process to its first answer, with 100 routes and a plugin whose artifact is cached.
fn start(weir: &Path, folder: &Path, port: u16) -> Result<f64> {
    let began = Instant::now();
    let mut command = Command::new(weir);
    command.args(["run", "--workers", "1", "--admin", "127.0.0.1:0", "--cache-dir"]).arg(folder.join(".cache")).arg("-f").arg(folder);
    let _process = peers::spawn(command, port)?;
    until(port, "h0.example.com", "/r7", "/v0")?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// The same with a large plugin whose code is new, and once its optimized code is in the cache folder; medians.
fn go_starts(root: &Path, weir: &Path, plugin: &Path) -> Result<(f64, f64)> {
    let (mut new, mut cached) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let port = free_port();
        let folder = folder_with_plugin(root, 100, port)?;
        fs::copy(plugin, folder.path().join("go.wasm"))?;
        let object =
            "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: { name: go }\nspec: { url: \"file://go.wasm\" }\n";
        fs::write(folder.path().join("go.yaml"), object)?;
        new.push(start(weir, folder.path(), port)?);
        peers::optimized(weir, folder.path(), &folder.path().join(".cache"))?;
        cached.push(start(weir, folder.path(), port)?);
    }
    Ok((median(new), median(cached)))
}

/// A folder with a gateway, `routes` routes and a plugin.
fn folder_with_plugin(root: &Path, routes: usize, port: u16) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("gateway.yaml"), gateway(port))?;
    for i in 0..routes {
        fs::write(folder.path().join(format!("r{i}.yaml")), route(i, 0))?;
    }
    fs::write(folder.path().join("trivial.wasm"), wat::parse_file(root.join("xtask/src/bench/trivial.wat"))?)?;
    let plugin =
        "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: { name: trivial }\nspec: { url: \"file://trivial.wasm\" }\n";
    fs::write(folder.path().join("plugin.yaml"), plugin)?;
    Ok(folder)
}

fn until(port: u16, host: &str, path: &str, wanted: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if ask(port, host, path).is_ok_and(|answer| answer.contains(wanted)) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    bail!("http://{host}:{port}{path} never answered with {wanted}")
}
