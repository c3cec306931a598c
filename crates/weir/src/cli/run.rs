//! `weir run`.
use super::{
    address,
    paths::{Paths, present},
    registry::Registry,
};
use crate::run::{self, EchoAt, Source};
use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};
use url::Url;
use weir_config::model::{AccessLog, CidrRange, LogFormat, LogSink, Name, WasmLimits};
use weir_control::{api::plugin::limits, registry};
use weir_proxy::{
    access_log,
    app_log::{Level, Logger},
};

/// Run a gateway on files and folders of YAML, which are watched
///
/// Gateway API, Istio, Ingress, WasmPlugin and the Kubernetes objects behind them, in any mix of files. Changes are live within
/// milliseconds and close no connection. Mistakes are printed with their line; the previous version of the object still serves.
#[derive(ClapArgs, Debug)]
#[command(after_help = "\
Examples:
  weir run conf.d/
  weir run -f gateway.yaml -f routes/
  helm template my-chart | weir run -
  weir run --to http://127.0.0.1:3000 --listen 127.0.0.1:8080
  weir run --to https://httpbin.org --plugin ./auth.wasm --plugin-config '{\"open\": [\"/health\"]}'
  weir run -f examples/quickstart --echo v1=127.0.0.1:9001 --echo v2=127.0.0.1:9002

SIGTERM and SIGINT (Ctrl-C) stop it without losing a request; a second one stops it at once.
SIGUSR1 and SIGHUP reopen log files.")]
pub struct Args {
    #[command(flatten)]
    paths: Paths,
    /// Send all requests to this URL: a gateway without files
    #[arg(long, value_name = "URL", value_parser = upstream, conflicts_with_all = ["http_port", "https_port", "bind", "gateway_address_pool", "labels"])]
    to: Option<Url>,
    /// Where to listen, with --to [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", value_parser = address::listen)]
    listen: Option<SocketAddr>,
    /// A Wasm plugin (.wasm, or text as .wat), with --to
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// The plugin's configuration
    #[arg(long, value_name = "JSON", requires = "plugin", default_value = "", hide_default_value = true)]
    plugin_config: String,
    /// A limit of the plugin, as call-deadline=1s or memory-limit=512Mi (docs/plugins/ship.md); may be repeated
    #[arg(long, value_name = "NAME=VALUE", requires = "plugin", value_parser = limit)]
    plugin_limit: Vec<Limit>,
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    serve: Serve,
}

/// How objects become a configuration, wherever they come from.
#[derive(ClapArgs, Debug)]
pub struct Objects {
    /// The HTTP port for kinds that name none, such as Ingress
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    http_port: u16,
    /// The HTTPS port for kinds that name none
    #[arg(long, value_name = "PORT", default_value_t = 8443)]
    https_port: u16,
    /// The address that listeners bind to, but those of a Gateway with spec.addresses
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    bind: IpAddr,
    /// Addresses for Gateways without spec.addresses, each of which gets one of its own [default: all use --bind]
    #[arg(long, value_name = "CIDR", value_parser = address::range)]
    gateway_address_pool: Option<CidrRange>,
    /// The labels of this gateway, which Istio's selectors must match [default: selectors match everything]
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = ',', value_parser = label)]
    labels: Vec<(String, String)>,
    /// A namespace whose McpBridge is used, and of a cluster whose ConfigMaps istio and higress-config are; may be repeated [default:
    /// istio-system, higress-system, weir-system, and in a cluster the namespace of the Pod, or of the context]
    #[arg(long, value_name = "NAME", value_parser = super::install::namespace)]
    system_namespace: Vec<String>,
    /// Services of a registry of a McpBridge; others are left out
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    max_registry_services: u32,
    /// Endpoints of one service of a registry; others are left out
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    max_registry_endpoints: u32,
    /// Bytes of one answer of a registry, as 64Mi; a larger one ends the connection
    #[arg(long, value_name = "SIZE", default_value = "64Mi", value_parser = size)]
    max_registry_answer: u64,
    /// How long a connection to a registry may take
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = duration)]
    registry_connect_timeout: Duration,
    /// How long an answer of a registry may take
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    registry_request_timeout: Duration,
}

impl Objects {
    /// The address that is bound to, where one is.
    pub fn bound(&self) -> Option<IpAddr> {
        Some(self.bind).filter(|ip| !ip.is_unspecified())
    }

    /// `own` is the namespace that the gateway itself is in.
    pub fn options(self, own: Option<&str>) -> weir_control::Options {
        let limits = registry::Limits {
            services: self.max_registry_services as usize,
            endpoints: self.max_registry_endpoints as usize,
            answer_bytes: usize::try_from(self.max_registry_answer).unwrap_or(usize::MAX),
            connect_timeout: self.registry_connect_timeout,
            request_timeout: self.registry_request_timeout,
        };
        let registries = registry::Options { limits, ..registry::Options::default() };
        let mut system_namespaces = weir_control::Options::default().system_namespaces;
        match self.system_namespace.is_empty() {
            true => system_namespaces.extend(own.map(Name::from)),
            false => system_namespaces = self.system_namespace.into_iter().map(Name::from).collect(),
        }
        weir_control::Options {
            registries,
            system_namespaces,
            http_port: self.http_port,
            https_port: self.https_port,
            address: self.bind,
            gateway_address_pool: self.gateway_address_pool,
            labels: self.labels.into_iter().collect(),
            ..weir_control::Options::default()
        }
    }
}

/// Where the admin listener is unless a flag says otherwise.
pub const ADMIN: &str = "127.0.0.1:15000";

/// What every gateway has, wherever its configuration comes from.
#[derive(ClapArgs, Debug)]
pub struct Serve {
    /// The address of the admin listener; port 0 takes any free port
    #[arg(long, value_name = "ADDR", default_value = ADMIN, value_parser = address::listen)]
    admin: SocketAddr,
    /// Host names that the admin listener answers to, beside localhost and its own addresses; * for any
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    admin_allowed_hosts: Vec<String>,
    /// Show passwords, tokens and keys on the admin listener instead of [redacted]
    #[arg(long)]
    admin_show_secrets: bool,
    /// The address of a listener for health checks and metrics, as 0.0.0.0:15021: /healthz/ready, /healthz/live and /stats/prometheus, for
    /// callers in the network [default: none]
    #[arg(long, value_name = "ADDR", value_parser = address::listen)]
    status: Option<SocketAddr>,
    /// Worker threads [default: the number of available cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// Open client connections over all listeners; more are closed at once [default: half of the file descriptors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: Option<u32>,
    /// Open upstream connections over all clusters; requests that need more get 503 [default: half of the file descriptors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_upstream_connections: Option<u32>,
    /// Mirrored requests that wait for a response, per worker; more are not sent
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_mirrored_requests: u32,
    /// Bytes of the bodies of these requests, as 32Mi, per worker
    #[arg(long, value_name = "SIZE", default_value = "32Mi", value_parser = size)]
    max_mirrored_bytes: u64,
    /// Hosts outside of the configuration that plugins call: each worker keeps connections to this many, the last used ones
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    max_callout_hosts: u32,
    /// Memory of each embedded Redis that plugins use (redis://embedded), as 64Mi; commands that need more get an OOM error
    #[arg(long, value_name = "SIZE", default_value = "64Mi", value_parser = size)]
    embedded_redis_maxmemory: u64,
    /// Memory of the process, as 512Mi: at 95% new requests get 503, at 98% new connections are closed; 0 for no limit [default: the
    /// memory limit of its cgroup]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_memory: Option<u64>,
    /// The access log: a file, - for standard output, or off
    #[arg(long, value_name = "FILE", default_value = "-")]
    access_log: String,
    /// The access log format: text, json, or a string with Envoy's command operators
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    access_log_format: String,
    /// The level of the application log on standard error: trace, debug, info, warning, error, critical or off
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = level)]
    log_level: Level,
    /// How long new connections are still accepted after SIGTERM
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    drain_time: Duration,
    /// How long to wait for open requests after the drain time
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration)]
    shutdown_timeout: Duration,
    /// A name server that resolves upstreams; may be repeated [default: those of /etc/resolv.conf]
    #[arg(long, value_name = "ADDR", value_parser = address::resolver)]
    dns_resolver: Vec<SocketAddr>,
    /// Addresses, as 169.254.20.0/24, that plugins, clients and URLs may lead to although they are link-local, a cloud's metadata
    /// service, unspecified or multicast; may be repeated [default: none]
    #[arg(long, value_name = "CIDR", value_parser = address::range)]
    allow_upstream_address: Vec<CidrRange>,
    /// The folder for compiled plugins [default: the user's cache folder]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Bytes of fetched plugins in this folder, as 2Gi: beyond that, those that are not in use are removed. Those that were not used for 24
    /// hours are removed anyway
    #[arg(long, value_name = "SIZE", default_value = "1Gi", value_parser = size)]
    max_plugin_cache: u64,
    #[command(flatten)]
    registry: Registry,
    /// An echo upstream in the same process (see `weir echo`); may be repeated
    #[arg(long, value_name = "NAME=ADDR", value_parser = echo_at)]
    echo: Vec<EchoAt>,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let paths = args.paths.all()?;
    let source = match args.to {
        Some(_) if !paths.is_empty() => bail!("{} and --to: give files or a URL, not both", paths[0].display()),
        Some(to) => direct(to, args.listen.unwrap_or(DIRECT), args.plugin, args.plugin_config, &args.plugin_limit)?,
        None if paths.is_empty() => bail!("nothing to run: give files (weir run PATH), or a URL with --to URL (weir run --help)"),
        None => {
            if args.listen.is_some() {
                bail!(
                    "--listen goes with --to: with files, a Gateway says the port, or --http-port and --https-port, and --bind the address"
                );
            }
            if args.plugin.is_some() {
                bail!("--plugin goes with --to: with files, a WasmPlugin names the plugin");
            }
            Source::Objects(weir_control::Sources { paths, cluster: None })
        }
    };
    args.serve.run(source, args.objects.options(None))
}

/// Where a gateway without files listens.
const DIRECT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// Everything to one URL, through a plugin.
pub fn direct(to: Url, listen: SocketAddr, plugin: Option<PathBuf>, plugin_config: String, limits: &[Limit]) -> Result<Source> {
    present(plugin.as_slice())?;
    if !plugin_config.is_empty()
        && let Err(e) = serde_json::from_str::<serde_json::Value>(&plugin_config)
    {
        bail!("the plugin's configuration is not JSON: {e}");
    }
    let mut plugin_limits = WasmLimits::default();
    for Limit { name, value } in limits {
        let _ = limits::set(&mut plugin_limits, name, value);
    }
    Ok(Source::Url(Box::new(weir_control::Direct { to, listen, plugin, plugin_config, plugin_limits })))
}

/// A limit of a plugin, and its value; checked.
#[derive(Clone, Debug)]
pub struct Limit {
    name: String,
    value: String,
}

pub fn limit(text: &str) -> Result<Limit, String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE, as call-deadline=1s")?;
    match limits::set(&mut WasmLimits::default(), name, value) {
        Some(Ok(())) => Ok(Limit { name: name.into(), value: value.into() }),
        Some(Err(wrong)) => Err(format!("{}; {}", wrong.problem, wrong.help)),
        None => Err(format!("there is no limit {name}; there are {}", limits::NAMES.join(", "))),
    }
}

impl Serve {
    pub fn run(self, source: Source, control: weir_control::Options) -> Result<ExitCode> {
        Logger::ALL.iter().for_each(|logger| logger.set_level(self.log_level));
        let access_log = access_log(&self.access_log, &self.access_log_format)?;
        let labels = control.labels.clone();
        let registries = registry::Options {
            dns_resolvers: self.dns_resolver.clone(),
            allowed_addresses: self.allow_upstream_address.clone(),
            ..control.registries
        };
        // In a cluster, every namespace would pull with the credentials of the operator.
        let in_cluster = matches!(&source, Source::Objects(sources) if sources.cluster.is_some());
        let registry = self.registry.settings(!in_cluster)?;
        run::run(run::Options {
            source,
            control: weir_control::Options { access_log, registries, ..control },
            proxy: weir_proxy::Options {
                workers: self.workers.map_or_else(|| weir_proxy::Options::default().workers, usize::from),
                admin: Some(self.admin),
                status: self.status,
                admin_allowed_hosts: self.admin_allowed_hosts,
                admin_show_secrets: self.admin_show_secrets,
                cache_dir: self.cache_dir.or_else(cache_dir),
                max_plugin_cache: self.max_plugin_cache,
                registry,
                drain_time: self.drain_time,
                shutdown_timeout: self.shutdown_timeout,
                dns_resolvers: self.dns_resolver,
                allowed_upstream_addresses: self.allow_upstream_address,
                max_connections: self.max_connections,
                max_upstream_connections: self.max_upstream_connections,
                max_mirrored_requests: self.max_mirrored_requests,
                max_mirrored_bytes: self.max_mirrored_bytes,
                max_callout_hosts: self.max_callout_hosts,
                embedded_redis_max_memory: usize::try_from(self.embedded_redis_maxmemory).unwrap_or(usize::MAX),
                max_memory: self.max_memory,
                labels,
                ..weir_proxy::Options::default()
            },
            echo: self.echo,
        })
    }
}

/// Its errors are reported before anything starts.
fn access_log(file: &str, format: &str) -> Result<Vec<AccessLog>> {
    let sink = match file {
        "off" | "" => return Ok(Vec::new()),
        "-" => LogSink::Stdout,
        file => LogSink::File(file.into()),
    };
    let format = match format {
        "text" => LogFormat::Text(LogFormat::DEFAULT_TEXT.into()),
        "json" => LogFormat::default_json(),
        text if !text.contains('%') => bail!("--access-log-format `{text}`: write text, json, or a format with %OPERATORS%"),
        text => LogFormat::Text(format!("{}\n", text.trim_end_matches('\n'))),
    };
    if let Err(found) = access_log::AccessLogger::check(&format) {
        let all: Vec<String> =
            found.iter().map(|d| [Some(d.message.clone()), d.help.clone()].into_iter().flatten().collect::<Vec<_>>().join("; ")).collect();
        bail!("--access-log-format: {}", all.join("; "));
    }
    if let LogSink::File(path) = &sink {
        let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
        opened.with_context(|| format!("cannot open access log {path}"))?;
    }
    Ok(vec![AccessLog { sink, format }])
}

fn level(text: &str) -> Result<Level, String> {
    Level::parse(text).ok_or_else(|| format!("one of {}", Level::ALL.map(Level::name).join(", ")))
}

/// `$XDG_CACHE_HOME/weir` or `~/.cache/weir`.
pub fn cache_dir() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    var("XDG_CACHE_HOME").or_else(|| var("HOME").map(|home| home.join(".cache"))).map(|cache| cache.join("weir"))
}

pub fn upstream(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|e| format!("{e}; write it as http://127.0.0.1:3000"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err("the scheme must be http or https, as in http://127.0.0.1:3000".into()),
    }
}

pub fn duration(text: &str) -> Result<Duration, String> {
    weir_config::reader::duration(text).ok_or_else(|| "write it as 30s, 1m30s or 500ms".into())
}

fn size(text: &str) -> Result<u64, String> {
    weir_config::reader::quantity(text).ok_or_else(|| "write bytes, or a number with Ki, Mi, Gi, k, M or G".into())
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE, as istio=ingressgateway")?;
    Ok((name.into(), value.into()))
}

fn echo_at(text: &str) -> Result<EchoAt, String> {
    let (name, address) = text.split_once('=').ok_or("write it as NAME=ADDR, as v1=127.0.0.1:9001")?;
    Ok(EchoAt { name: name.into(), address: address::listen(address)? })
}
