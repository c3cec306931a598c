//! `weir plugin test`: a gateway in this process with the plugin in it, stand-ins for everything that the plugin talks to, and
//! requests over real connections. What runs the plugin is what runs it in `weir run`.
mod cases;
mod expect;
mod http;
mod matcher;
mod redis;
mod report;
mod world;

pub use report::{CaseReport, print};

use anyhow::{Result, anyhow, bail};
use cases::{Case, Cases, Expect, Request, Step};
use expect::{Difference, Outcome};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use matcher::Matcher;
use std::{
    fs,
    io::{ErrorKind, IsTerminal},
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::net::TcpStream;
use weir_config::{delta::Delta, diagnostic::Severity, model::Config, text::counted};
use weir_proxy::{Proxy, app_log, stats::Total};
use world::Running;

/// For one request; a plugin that never resumes is found by this.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than loading a plugin that is compiled already.
const TELL_AFTER: Duration = Duration::from_secs(1);
/// For what comes after an answer: log lines, calls without an effect on it.
const AFTERWARDS: Duration = Duration::from_secs(1);

pub struct Options {
    /// The file of cases.
    pub cases: PathBuf,
    /// Instead of what the file says, or `plugin.wasm` beside it.
    pub plugin: Option<PathBuf>,
    /// Only cases whose name contains this.
    pub filter: String,
    /// Where compiled plugins are kept.
    pub cache_dir: Option<PathBuf>,
}

/// Lines of the application log; the plugin's own are among them.
type Log = Arc<Mutex<Vec<String>>>;

/// Runs the cases one after the other.
pub fn run(options: &Options) -> Result<Vec<CaseReport>> {
    let cases = read(&options.cases)?;
    let plugin = plugin_file(options, &cases)?;
    if !cases.cases.iter().any(|c| c.name.contains(&options.filter)) {
        let names: Vec<_> = cases.cases.iter().map(|c| format!("  {}", c.name)).collect();
        bail!("no case's name contains `{}`; there are\n{}", options.filter, names.join("\n"));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let log = Log::default();
        let lines = log.clone();
        app_log::divert(move |line| lines.lock().unwrap_or_else(PoisonError::into_inner).push(line.trim_end().into()));
        let proxy = Proxy::start(weir_proxy::Options {
            workers: 1,
            admin: None,
            cache_dir: options.cache_dir.clone(),
            drain_time: Duration::ZERO,
            shutdown_timeout: Duration::ZERO,
            ..weir_proxy::Options::default()
        })?;
        let (mut reports, mut config) = (Vec::new(), Config::default());
        for (i, case) in cases.cases.iter().enumerate().filter(|(_, c)| c.name.contains(&options.filter)) {
            reports.push(run_case(&proxy, &mut config, &plugin, i, case, &log).await?);
        }
        proxy.drain_and_stop(Duration::ZERO).await;
        Ok(reports)
    })
}

fn read(path: &Path) -> Result<Cases> {
    let text = fs::read_to_string(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => anyhow!("{} is not there: go to the plugin's folder, or name its file of cases", path.display()),
        _ => anyhow!("{}: {e}", path.display()),
    })?;
    let colour = std::io::stderr().is_terminal();
    cases::read(path, text).map_err(|findings| {
        findings.iter().for_each(|d| eprintln!("{}\n", d.snippet(colour)));
        let errors = counted(findings.len(), "error");
        anyhow!("{} has {errors}", path.display())
    })
}

fn plugin_file(options: &Options, cases: &Cases) -> Result<PathBuf> {
    let beside = |name: &str| options.cases.parent().unwrap_or(Path::new("")).join(name);
    let file = options.plugin.clone().unwrap_or_else(|| beside(cases.plugin.as_deref().unwrap_or(super::BUILT)));
    if let (None, Some(name), Some(folder)) = (&options.plugin, file.file_name(), file.parent())
        && name == super::BUILT
    {
        super::build::up_to_date(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })?;
    }
    if !file.is_file() {
        bail!("{} is not there: build it first (weir plugin build), or name it with --plugin FILE", file.display());
    }
    Ok(file)
}

/// `before`: the configuration of the case before.
async fn run_case(proxy: &Proxy, before: &mut Config, plugin: &Path, index: usize, case: &Case, log: &Log) -> Result<CaseReport> {
    let began = Instant::now();
    log.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let running = Running::start(&case.world).await?;
    let config = running.config(plugin, index, &case.world.config)?;
    let delta = Delta::between(before, &config, index as u64 + 1);
    *before = config;
    let mut applying = pin!(proxy.apply(delta));
    let report = match tokio::time::timeout(TELL_AFTER, &mut applying).await {
        Ok(report) => report,
        Err(_) => {
            eprintln!("compiling {}, once for this code", plugin.display());
            applying.await
        }
    };
    let mut differences = Vec::new();
    for d in report.diagnostics().iter().filter(|d| d.severity == Severity::Error) {
        let actual = d.message.clone();
        differences.push((0, Difference { field: "plugin".into(), expected: "to start with its configuration".into(), actual }));
    }
    let address = proxy.listeners().first().map(|l| l.address).ok_or_else(|| anyhow!("the gateway does not listen"))?;
    if differences.is_empty() {
        for (i, step) in case.steps.iter().enumerate() {
            differences.extend(run_step(address, &running, step, log).await.into_iter().map(|d| (i, d)));
        }
    }
    ended(proxy).await;
    for trap in proxy.shared().plugins.statuses().into_iter().filter_map(|s| s.last_trap) {
        differences.push((0, Difference { field: "plugin".into(), expected: "to live".into(), actual: trap }));
    }
    let log = log.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(CaseReport::new(case, differences, began.elapsed(), log))
}

/// Waits until the plugin has seen the end of every stream.
async fn ended(proxy: &Proxy) {
    let deadline = Instant::now() + AFTERWARDS;
    loop {
        let mut active = 0;
        proxy.shared().stats.http.sum(&mut |_, declared, total| match total {
            Total::Gauge(n) if declared.name == "downstream_rq_active" => active += n,
            _ => {}
        });
        if active <= 0 || Instant::now() > deadline {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn run_step(address: SocketAddr, running: &Running, step: &Step, log: &Log) -> Vec<Difference> {
    running.forget();
    let first_line = log.lock().unwrap_or_else(PoisonError::into_inner).len();
    let answer = match tokio::time::timeout(PATIENCE, send(address, &step.request)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(e)) => return vec![no_answer(format!("the connection ended: {e:#}"))],
        Err(_) => return vec![no_answer(format!("nothing within {PATIENCE:?}: is the request still paused?"))],
    };
    let deadline = Instant::now() + AFTERWARDS;
    loop {
        let (upstream, calls) = running.seen();
        let log = log.lock().unwrap_or_else(PoisonError::into_inner)[first_line..].to_vec();
        let mut differences = expect::compare(&step.expect, &Outcome { upstream, calls, log, ..answer.clone() });
        compare_redis(&step.expect, running, &mut differences).await;
        let settled = !differences.iter().any(|d| ["log", "calls", "redis"].iter().any(|late| d.field.starts_with(late)));
        if settled || Instant::now() > deadline {
            return differences;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn no_answer(actual: String) -> Difference {
    Difference { field: "answer".into(), expected: "an answer".into(), actual }
}

async fn compare_redis(expect: &Expect, running: &Running, out: &mut Vec<Difference>) {
    for (name, keys) in &expect.redis {
        for (key, matcher) in keys {
            let place = format!("redis.{name}.{key}");
            match running.redis(name) {
                Some(redis) => expect::value(&place, matcher, redis.value(key).await.as_deref(), out),
                None => expect::value(&place, &Matcher::Text("a stand-in of this name under `redis`".into()), None, out),
            }
        }
    }
}

/// One request on a connection of its own.
async fn send(address: SocketAddr, request: &Request) -> Result<Outcome> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let mut builder = ::http::Request::builder().method(request.method.as_str()).uri(&request.path).header("host", &request.host);
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    let response = sender.send_request(builder.body(Full::<bytes::Bytes>::from(request.body.clone()))?).await?;
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    connection.abort();
    Ok(Outcome {
        status: head.status.as_u16(),
        headers: head.headers.iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
        ..Outcome::default()
    })
}
