//! A gateway in one process: the control plane's updates go straight to the data plane.
use crate::echo;
use anyhow::{Context, Result, bail};
use std::{
    io::{IsTerminal, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::Receiver,
    task::JoinSet,
};
use weir_config::{
    model::{Config, HeaderMatch, PathMatch, Route, RouteAction, StringMatch, ValueMatch},
    redact,
    text::counted,
};
use weir_control::{
    Control, Direct, Sources, Status, Update,
    kubernetes::{Readiness, stats::Sample},
    registry,
};
use weir_proxy::{BoundListener, ControlStat, ControlState, ControlStats, Proxy, SourceState, Waiting, app_log::Logger};

pub struct Options {
    pub source: Source,
    pub control: weir_control::Options,
    pub proxy: weir_proxy::Options,
    pub echo: Vec<EchoAt>,
}

/// Where the configuration comes from.
pub enum Source {
    Objects(Sources),
    Url(Box<Direct>),
}

/// An echo upstream in this process.
#[derive(Clone, Debug)]
pub struct EchoAt {
    pub name: String,
    pub address: SocketAddr,
}

/// Runs until a signal or the admin listener ends it.
pub fn run(options: Options) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        if let Err(e) = weir_net::descriptors::raise_limit() {
            eprintln!("warning: cannot raise the limit of file descriptors: {e}");
        }
        let mut signals = Signals::new()?;
        let _upstreams = start_echo(&options.echo).await?;
        let status = options.control.status.clone();
        let shown = status.clone();
        let objects = weir_proxy::Objects(Arc::new(move |wanted| shown.json(wanted)));
        let control_stats = Some(control_stats(options.control.kubernetes.clone(), options.control.registries.stats.clone()));
        let control_state = Some(control_state(options.control.kubernetes.clone(), options.control.registries.stats.clone()));
        let proxy = Proxy::start(weir_proxy::Options { objects: Some(objects), control_stats, control_state, ..options.proxy })
            .context("cannot start")?;
        let mut verdicts = proxy.shared().verdicts.stream();
        // From now on the status waits for the proxy.
        status.apply_verdicts(verdicts.unread());
        let mut updates = updates(options.source, options.control)?;
        let (mut printer, mut applying) = (Printer::default(), JoinSet::new());
        // For the greeting.
        let mut config = Config::default();
        let wanted = loop {
            tokio::select! {
                update = updates.recv() => match update {
                    // Something keeps the sources from being read.
                    Some(update) if !update.complete => printer.findings(&status),
                    Some(mut update) => {
                        let delta = std::mem::take(&mut update.delta);
                        if !printer.greeted {
                            config.apply(&delta);
                        }
                        let (began, report) = (Instant::now(), proxy.apply(delta));
                        applying.spawn(async move { (report.await, update, began.elapsed()) });
                    }
                    // That thread ends only with its receiver, or by a bug: what comes after would go unnoticed.
                    None => bail!("the thread that reads the configuration has ended"),
                },
                changes = verdicts.next() => status.apply_verdicts(changes),
                Some(Ok((report, update, took))) = applying.join_next() => {
                    status.apply_verdicts(verdicts.unread());
                    printer.applied(&proxy, &status, &update, &config, report, took);
                    config = Config::default();
                }
                end = signals.next(&proxy) => if let Some(end) = end { break end },
                () = proxy.quit_requested() => break End::Terminate,
            }
        };
        // Ends the control plane, which lets another gateway lead.
        drop(updates);
        let accepting = match wanted {
            // Load balancers may take a while to notice.
            End::Terminate => proxy.shared().options.drain_time,
            End::Interrupt => {
                if proxy.shared().connections() > 0 {
                    eprintln!("waiting for open connections; press Ctrl-C again to stop now");
                }
                Duration::ZERO
            }
        };
        let again = async { while signals.next(&proxy).await.is_none() {} };
        tokio::select! {
            () = proxy.drain_and_stop(accepting) => Ok(ExitCode::SUCCESS),
            () = again => Ok(ExitCode::FAILURE),
        }
    })
}

/// How a signal asks for the end.
enum End {
    /// By a service manager or an orchestrator.
    Terminate,
    /// By somebody at the keyboard.
    Interrupt,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for a signal and does what it asks for; returns how to end, where it asks for that.
    async fn next(&mut self, proxy: &Proxy) -> Option<End> {
        tokio::select! {
            _ = self.terminate.recv() => return Some(End::Terminate),
            _ = self.interrupt.recv() => return Some(End::Interrupt),
            // logrotate sends SIGHUP to most servers, SIGUSR1 to Envoy and nginx.
            _ = self.hangup.recv() => proxy.shared().sinks.reopen(),
            _ = self.user1.recv() => proxy.shared().sinks.reopen(),
            _ = self.user2.recv() => Logger::Main.warning(format_args!("SIGUSR2 has no effect")),
        }
        None
    }
}

/// The statistics of the control plane in the form of the proxy.
fn control_stats(of: weir_control::kubernetes::Stats, registries: registry::Stats) -> ControlStats {
    let one = |Sample { stat, resource, value }: Sample| ControlStat {
        name: stat.name,
        counter: stat.counter,
        label: resource.map(|resource| ("resource", resource)),
        value,
    };
    let of_registry = |registry::stats::Sample { stat, registry, value }| ControlStat {
        name: stat.name,
        counter: stat.counter,
        label: Some(("registry", registry)),
        value,
    };
    ControlStats(Arc::new(move || of.samples().into_iter().map(one).chain(registries.samples().into_iter().map(of_registry)).collect()))
}

/// What the configuration waits for, in the form of the proxy.
fn control_state(of: weir_control::kubernetes::Stats, registries: registry::Stats) -> ControlState {
    let of_registry = |registry::Waiting { registry, since }| Waiting {
        resources: vec![registry],
        reason: "NotSynced",
        message: "its services were not read yet".to_string(),
        since,
    };
    let one = |weir_control::kubernetes::Waiting { resources, reason, message, since }| Waiting { resources, reason, message, since };
    ControlState(Arc::new(move || {
        let Readiness { waiting, down } = of.readiness();
        let of_registries = registries.waiting().into_iter().map(of_registry);
        SourceState { waiting: waiting.into_iter().map(one).chain(of_registries).collect(), stale: down }
    }))
}

async fn start_echo(wanted: &[EchoAt]) -> Result<Vec<echo::Server>> {
    let mut servers = Vec::new();
    for at in wanted {
        let options = echo::Options { listen: Some(at.address), name: at.name.clone(), tls: None };
        let server = echo::Server::start(options).await.with_context(|| format!("the echo upstream {}", at.name))?;
        println!("echo {} on http://{}", at.name, server.address());
        servers.push(server);
    }
    Ok(servers)
}

fn updates(source: Source, options: weir_control::Options) -> Result<Receiver<Update>> {
    match source {
        Source::Objects(sources) => Control::new(options).spawn(sources).context("cannot start the thread that follows the sources"),
        Source::Url(direct) => direct.spawn(options).context("cannot start the thread that watches the plugin"),
    }
}

/// Prints what happens to the configuration; each finding once, while it lasts.
#[derive(Default)]
struct Printer {
    greeted: bool,
}

impl Printer {
    /// Findings that were not printed yet.
    fn findings(&self, status: &Status) {
        let colour = std::io::stderr().is_terminal();
        for finding in status.take_new_findings() {
            eprintln!("{}\n", finding.snippet(colour));
        }
    }

    fn applied(&mut self, proxy: &Proxy, status: &Status, update: &Update, config: &Config, report: weir_proxy::Report, took: Duration) {
        self.findings(status);
        let mut out = std::io::stdout().lock();
        let _ = if self.greeted {
            let took = update.took + took;
            writeln!(
                out,
                "configuration {}: {} changed, live after {:.1} ms, {}",
                report.version,
                counted(update.objects, "object"),
                took.as_secs_f64() * 1e3,
                counted(status.errors(), "error")
            )
        } else {
            self.greeted = true;
            greet(&mut out, proxy, update, config)
        };
    }
}

fn greet(out: &mut impl Write, proxy: &Proxy, update: &Update, config: &Config) -> std::io::Result<()> {
    if let Some(read) = &update.read {
        writeln!(out, "{}", summary(read, config))?;
    }
    for bound in proxy.listeners() {
        let listener = config.listeners.get(&bound.name);
        let scheme = match listener {
            Some(l) if !l.protocol.is_tcp() => "udp",
            Some(l) if l.filter_chains.iter().any(|c| c.tls.is_some()) => "https",
            _ => "http",
        };
        writeln!(out, "listening on {scheme}://{}", bound.address)?;
    }
    let lines = curl_lines(config, &proxy.listeners());
    if !lines.is_empty() {
        writeln!(out, "try:")?;
    }
    for line in lines {
        writeln!(out, "  {line}")?;
    }
    for (name, address) in [("admin", proxy.admin_address()), ("status", proxy.status_address())] {
        if let Some(address) = address {
            writeln!(out, "{name} on http://{address}")?;
        }
    }
    Ok(())
}

/// `read 5 objects from 2 files (1 Gateway, 4 HTTPRoute): 1 listener, 4 routes`, or `from https://10.96.0.1 and 2 files`
fn summary(read: &weir_control::Read, config: &Config) -> String {
    let kinds: Vec<String> = read.kinds.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    let kinds = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
    let objects = counted(read.kinds.values().sum(), "object");
    let routes = config.routes.values().flat_map(|table| &table.virtual_hosts).map(|host| host.routes.len()).sum();
    let (files, listeners, routes) = (counted(read.files, "file"), counted(config.listeners.len(), "listener"), counted(routes, "route"));
    let sources = match &read.cluster {
        None => files,
        Some(server) if read.files == 0 => server.clone(),
        Some(server) => format!("{server} and {files}"),
    };
    format!("read {objects} from {sources}{kinds}: {listeners}, {routes}")
}

/// Up to three requests that would reach a route each.
fn curl_lines(config: &Config, open: &[BoundListener]) -> Vec<String> {
    let mut lines = Vec::new();
    for listener in config.listeners.values().filter(|l| open.iter().any(|o| o.name == l.name)) {
        for chain in &listener.filter_chains {
            let Some(hcm) = chain.http_connection_manager() else { continue };
            let Some(routes) = config.routes.get(&hcm.route_config) else { continue };
            for host in &routes.virtual_hosts {
                for route in &host.routes {
                    if lines.len() == 3 {
                        return lines;
                    }
                    let domain = host.domains.first().map_or("*", |d| d);
                    let line = curl(listener.address, chain.tls.is_some(), domain, route);
                    lines.extend(line.filter(|l| !lines.contains(l)));
                }
            }
        }
    }
    lines
}

/// `None` where no plain request would do.
fn curl(address: SocketAddr, tls: bool, domain: &str, route: &Route) -> Option<String> {
    let matches = &route.matches;
    let path = match &matches.path {
        PathMatch::Exact(p) | PathMatch::Prefix(p) | PathMatch::PathSeparatedPrefix(p) => p,
        PathMatch::Regex(_) => return None,
    };
    // A redirect has nothing to show but its head.
    let mut options = if matches!(route.action, RouteAction::Redirect(_)) { "-i ".to_string() } else { String::new() };
    for HeaderMatch { name, value, invert, .. } in &matches.headers {
        match (name.as_str(), value) {
            _ if *invert => {}
            (":method", ValueMatch::Text(StringMatch::Exact(method))) => options += &format!("-X {method} "),
            (":authority" | ":scheme", _) => return None,
            (name, _) if redact::is_secret_name(name) => return None,
            (name, ValueMatch::Text(StringMatch::Exact(value))) => options += &format!("-H '{name}: {value}' "),
            _ => return None,
        }
    }
    let mut query = Vec::new();
    for q in &matches.query_parameters {
        match &q.value {
            _ if redact::is_secret_name(&q.name) => return None,
            ValueMatch::Text(StringMatch::Exact(value)) => query.push(format!("{}={value}", q.name)),
            _ => return None,
        }
    }
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    let ip = if address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address.ip() };
    let at = SocketAddr::new(ip, address.port());
    let host = domain.replacen("*.", "www.", 1);
    Some(match (tls, domain) {
        (false, "*") => format!("curl {options}'http://{at}{path}{query}'"),
        (false, _) => format!("curl {options}-H 'Host: {host}' 'http://{at}{path}{query}'"),
        (true, "*") => format!("curl -k {options}'https://{at}{path}{query}'"),
        (true, _) => format!("curl -k --resolve {host}:{}:{} {options}'https://{host}:{}{path}{query}'", at.port(), at.ip(), at.port()),
    })
}
