//! `weir edge`.
mod ask;
mod audit;
mod cache;
mod config;
mod convert;
mod filters;
mod identity;
mod interface;
mod outbox;
mod place;
mod pool;
mod report;
mod serve;
mod service;
mod status;
mod tunnel;

use super::run::duration;
use anyhow::{Context, Result};
use clap::{Args as ClapArgs, Subcommand};
use config::Config;
use identity::Identity;
use place::Place;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};
use url::Url;
use weir_edge::{
    apimachinery::request::GroupVersionResource,
    cache::Limits,
    hub::in_flight,
    offline::outbox as edge_outbox,
    run::{Options, Secure},
    settings,
    upstream::{
        health::Thresholds,
        remote::{Balance, Timeouts},
    },
};

/// The port with TLS, unless another one is given.
const SECURE_PORT: u16 = 10268;

/// Run the edge hub of a node: a caching gateway of the Kubernetes API
///
/// kubelet, kube-proxy, CoreDNS and others of the node connect to it in place of the API server. It passes their requests on and keeps
/// the answers. While the API server cannot be reached, reads are answered from what was kept, also after a restart.
#[derive(ClapArgs, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  weir edge --server-addr https://api.example.com:6443 --node-name edge-1
                                               with the certificate that kubelet keeps
  weir edge --server-addr https://api.example.com:6443 --node-name edge-1 \\
      --join-token abcdef.0123456789abcdef --discovery-token-ca-cert-hash sha256:HEX
                                               with a certificate that the hub asks for
  weir edge --server-addr https://10.0.0.1:6443 --node-name edge-1 --proxy-port 10261
                                               without TLS, for clients that are trusted with the rights of the node

SIGTERM and SIGINT (Ctrl-C) stop it. SIGUSR2 starts the program again, which may be a new version: the new process takes over without a
break, and the old one ends when what is open in it has ended."
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    hub: HubArgs,
}

#[derive(Subcommand, Debug)]
enum Command {
    Status(status::Args),
    Audit(audit::Args),
    Cache(cache::Args),
    Outbox(outbox::Args),
    Convert(convert::ConvertArgs),
    Revert(convert::RevertArgs),
}

#[derive(ClapArgs, Debug)]
struct HubArgs {
    /// The API servers: repeat it, or separate them with commas
    #[arg(long, value_name = "URL", value_parser = server, value_delimiter = ',', required = true)]
    server_addr: Vec<Url>,
    /// How requests are spread over several API servers: rr (each in turn), priority (the first that works) or consistent-hashing
    #[arg(long, value_name = "MODE", default_value_t)]
    lb_mode: Balance,
    /// The name of the Node object of this machine
    #[arg(long, value_name = "NAME", value_parser = node, required = true)]
    node_name: Option<String>,
    #[command(flatten)]
    identity: Identity,
    #[command(flatten)]
    tunnel: tunnel::TunnelArgs,
    #[command(flatten)]
    interface: interface::InterfaceArgs,
    /// The address of the ports for clients
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    bind_proxy_address: IpAddr,
    /// The port with TLS [default: 10268; none if there is only --proxy-port]
    #[arg(long, value_name = "PORT")]
    proxy_secure_port: Option<u16>,
    /// A port without TLS: everyone who can connect to it, and sends no token, acts as the node
    #[arg(long, value_name = "PORT")]
    proxy_port: Option<u16>,
    #[command(flatten)]
    place: Place,
    /// Most MiB to keep on disk; what a node needs least is evicted first
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u64).range(16..=1_048_576))]
    disk_cache_quota: u64,
    /// How long copies stay that no pod or client of the node needs any more: Secrets of deleted pods, lists of clients that are gone; 0: for good
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = or_zero)]
    gc_grace_period: Duration,
    /// Most MiB of events that wait for the API server, and as many of statuses; the oldest events make room for new ones
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1024))]
    outbox_quota: u64,
    /// Events that are sent in a second when the API server can be reached again
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    outbox_event_qps: u32,
    /// How long a write that the API server answers with an error is tried again before what waits behind it
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    outbox_retry_timeout: Duration,
    /// How long the API server's reviews of the clients of kubelet are repeated without it; 0: not at all
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = review_ttl)]
    review_cache_ttl: Duration,
    /// Failures in a row after which the link counts as down
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    heartbeat_failed_retry: u32,
    /// Answers in a row after which it counts as up again
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    heartbeat_healthy_threshold: u32,
    /// Time between two probes of the API server while it can be reached and nothing else is sent
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    heartbeat_interval_seconds: u64,
    /// Seconds in which an API server has to accept a connection, or to answer a ping on one
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=300))]
    heartbeat_timeout_seconds: u64,
    /// Most connections of clients at a time
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = connections)]
    max_connections: usize,
    /// Kinds that all clients read as a whole: there is one list and one watch of them, whatever the number of clients. Empty: none
    #[arg(long, value_name = "LIST", default_value = "v1/services,discovery.k8s.io/v1/endpointslices", value_parser = pool_scope)]
    pool_scope_resources: PoolScope,
    #[command(flatten)]
    pool: pool::PoolArgs,
    /// Requests of one client (a user, kubelet, kube-proxy) that are answered at a time, without watches; 0: no limit
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(..=100_000))]
    max_requests_in_flight: u32,
    /// Requests of one client that wait beyond these; others get 429
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(..=100_000))]
    max_requests_queued: u32,
    /// How long a request waits for others of its client before it gets 429
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = duration)]
    request_queue_timeout: Duration,
    /// Append a line of JSON for each request to this file, or to /dev/stdout
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// How long watches go on in the old process after a new one has taken over (SIGUSR2)
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration)]
    drain_time: Duration,
    /// Settings that change while the hub runs, in YAML (docs/edge.md); it is read again when it changes
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Follow OpenYurt's ConfigMap yurt-hub-cfg, which the node must be allowed to list
    #[arg(long)]
    yurt_hub_cfg: bool,
    /// The namespace of that ConfigMap
    #[arg(long, value_name = "NAME", default_value = "kube-system", value_parser = namespace)]
    namespace: String,
    /// A port of 127.0.0.1 with /healthz, /readyz, /metrics and /stats, which the admin socket has too
    #[arg(long, value_name = "PORT")]
    serve_port: Option<u16>,
    #[command(flatten)]
    filters: filters::FilterArgs,
}

pub fn run(args: Args) -> Result<ExitCode> {
    match (args.command, args.hub) {
        (Some(Command::Status(args)), _) => status::run(&args),
        (Some(Command::Audit(args)), _) => audit::run(&args),
        (Some(Command::Cache(args)), _) => cache::run(args),
        (Some(Command::Outbox(args)), _) => outbox::run(args),
        (Some(Command::Convert(args)), _) => convert::run_convert(args),
        (Some(Command::Revert(args)), _) => convert::run_revert(&args),
        (None, args) => run_hub(args),
    }
}

fn run_hub(args: HubArgs) -> Result<ExitCode> {
    let node_name = args.node_name.context("--node-name is missing")?;
    let tls = args.proxy_secure_port.is_some() || args.interface.is_enabled() || args.proxy_port.is_none() || args.identity.asks_for_tls();
    let interface = args.interface.interface()?;
    let of_interface = interface.as_ref().map_or(&[][..], |interface| &interface.addresses);
    let (files, certificates, pairs) = args.identity.options(&node_name, &[&[args.bind_proxy_address], of_interface].concat(), tls)?;
    let heartbeat_timeout = Duration::from_secs(args.heartbeat_timeout_seconds);
    let at = |port| SocketAddr::new(args.bind_proxy_address, port);
    let secure = tls.then(|| Secure { address: at(args.proxy_secure_port.unwrap_or(SECURE_PORT)), certificates: pairs });
    let mut config = args.config.map(Config::new);
    let settings = match &mut config {
        None => settings::File::default(),
        Some(config) => {
            let read = config.changed().with_context(|| format!("cannot read {}", config.path().display()))?;
            read.map_err(|findings| config.bad(&findings))?
        }
    };
    let options = Options {
        servers: args.server_addr,
        balance: args.lb_mode,
        tunnel: args.tunnel.options(&node_name)?,
        node_name,
        files,
        certificates,
        secure,
        interface: interface.clone(),
        plain: args.proxy_port.map(at),
        key: args.place.make_key()?,
        admin_socket: args.place.admin_socket(),
        admin: args.serve_port.map(|port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)),
        store: args.place.disk_cache_path,
        quota: args.disk_cache_quota * 1024 * 1024,
        gc_grace_period: args.gc_grace_period,
        limits: Limits::default(),
        outbox: edge_outbox::Limits {
            bytes: usize::try_from(args.outbox_quota * 1024 * 1024)?,
            events_per_second: args.outbox_event_qps,
            retry_timeout: args.outbox_retry_timeout,
        },
        review_ttl: args.review_cache_ttl,
        timeouts: Timeouts { connect: heartbeat_timeout, ping_timeout: heartbeat_timeout, ..Timeouts::default() },
        thresholds: Thresholds {
            failures: args.heartbeat_failed_retry,
            answers: args.heartbeat_healthy_threshold,
            probe_up: Duration::from_secs(args.heartbeat_interval_seconds),
            ..Thresholds::default()
        },
        max_connections: args.max_connections,
        in_flight: in_flight::Limits {
            requests: args.max_requests_in_flight as usize,
            queued: args.max_requests_queued as usize,
            wait: args.request_queue_timeout,
        },
        access_log: args.access_log,
        settings,
        yurt_hub_cfg: args.yurt_hub_cfg.then_some(args.namespace),
        filters: args.filters.settings(),
        advertise: args.filters.advertised(of_interface.first().copied().unwrap_or(args.bind_proxy_address)),
        pool: args.filters.nodepool_name,
        pool_scope_resources: args.pool_scope_resources.0,
        pool_sharing: args.pool.options()?,
    };
    let serving = serve::serve(options, config, args.drain_time);
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(serving)
}

fn server(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|e| format!("{e}; expected a URL like https://10.0.0.1:6443"))?;
    match (url.scheme(), url.host(), url.path()) {
        ("https", Some(_), "/") => Ok(url),
        _ => Err("expected https://HOST or https://HOST:PORT".into()),
    }
}

fn review_ttl(text: &str) -> Result<Duration, String> {
    let ttl = or_zero(text)?;
    if ttl > Duration::from_secs(86_400) { Err("write at most 24h".into()) } else { Ok(ttl) }
}

fn or_zero(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { duration(text) }
}

fn node(text: &str) -> Result<String, String> {
    name(text, "a Node")
}

fn namespace(text: &str) -> Result<String, String> {
    name(text, "a Namespace")
}

fn name(text: &str, of: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    match !text.is_empty() && text.len() <= 253 && text.chars().all(good) {
        true => Ok(text.to_string()),
        false => Err(format!("expected the name of {of}: lower-case letters, digits, '-' and '.'")),
    }
}

#[derive(Clone, Debug)]
struct PoolScope(Vec<GroupVersionResource>);

fn pool_scope(text: &str) -> Result<PoolScope, String> {
    let read = |part: &str| {
        let wrong = || format!("{part:?}: expected VERSION/RESOURCE or GROUP/VERSION/RESOURCE, as in discovery.k8s.io/v1/endpointslices");
        GroupVersionResource::read(part).ok_or_else(wrong)
    };
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(read).collect::<Result<_, _>>().map(PoolScope)
}

pub(super) fn connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=1_000_000) => Ok(n),
        _ => Err("expected a number from 1 to 1000000".into()),
    }
}
