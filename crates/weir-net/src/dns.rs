//! Names to addresses: `/etc/hosts` first, then the name servers, with the time for which an answer holds.
use hickory_resolver::{
    Resolver as Hickory,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
};
use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant},
};

/// Which addresses are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// IPv4, and IPv6 where there is none.
    #[default]
    V4Preferred,
    V6Preferred,
    V4Only,
    V6Only,
    /// Both.
    All,
}

#[derive(Clone, Debug)]
pub struct Options {
    /// Whom to ask; empty for `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
    pub family: Family,
    /// An answer is asked for again no sooner, whatever its time to live.
    pub min_ttl: Duration,
    pub max_ttl: Duration,
    /// For one question to one server.
    pub timeout: Duration,
    /// Names that need no server.
    pub hosts: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            servers: Vec::new(),
            family: Family::default(),
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(3600),
            timeout: Duration::from_secs(5),
            hosts: "/etc/hosts".into(),
        }
    }
}

/// Addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// At least one, each once, in ascending order within a family: servers rotate theirs, and that is no change.
    pub addresses: Vec<IpAddr>,
    /// When to ask again.
    pub ttl: Duration,
}

/// Why there are no addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsError {
    /// The name exists nowhere, or has no address of the wanted family.
    NotFound,
    /// No server gave an answer.
    Failed(String),
}

impl fmt::Display for DnsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DnsError::NotFound => f.write_str("the name has no address"),
            DnsError::Failed(why) => write!(f, "no answer from the name servers: {why}"),
        }
    }
}

impl std::error::Error for DnsError {}

/// How often `/etc/hosts` is read again for a name that it holds.
const HOSTS_TTL: Duration = Duration::from_secs(5);
/// Answers remembered, so that clusters with the same names ask once.
const CACHE: u64 = 1024;

/// Must be made and used within a tokio runtime.
pub struct Resolver {
    servers: Hickory<TokioRuntimeProvider>,
    options: Options,
}

impl Resolver {
    /// # Errors
    /// When the options lead to no usable resolver. A missing `/etc/resolv.conf` is not an error: only hosts resolve then.
    pub fn new(options: Options) -> io::Result<Resolver> {
        let (config, mut settings) = if options.servers.is_empty() {
            hickory_resolver::system_conf::read_system_conf()
                .unwrap_or_else(|_| (ResolverConfig::from_name_servers(Vec::new()), ResolverOpts::default()))
        } else {
            (ResolverConfig::from_name_servers(options.servers.iter().map(|a| server(*a)).collect()), ResolverOpts::default())
        };
        settings.ip_strategy = match options.family {
            Family::V4Preferred => LookupIpStrategy::Ipv4thenIpv6,
            Family::V6Preferred => LookupIpStrategy::Ipv6thenIpv4,
            Family::V4Only => LookupIpStrategy::Ipv4Only,
            Family::V6Only => LookupIpStrategy::Ipv6Only,
            Family::All => LookupIpStrategy::Ipv4AndIpv6,
        };
        settings.timeout = options.timeout;
        settings.cache_size = CACHE;
        settings.positive_min_ttl = Some(options.min_ttl);
        settings.positive_max_ttl = Some(options.max_ttl);
        // Ours to follow: a name that appears must be seen at the next question.
        settings.negative_max_ttl = Some(Duration::ZERO);
        settings.use_hosts_file = ResolveHosts::Never;
        let mut builder = Hickory::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = settings;
        let servers = builder.build().map_err(|e| io::Error::other(e.to_string()))?;
        Ok(Resolver { servers, options })
    }

    /// The addresses of `host`, which may be an address itself.
    pub async fn lookup(&self, host: &str) -> Result<Answer, DnsError> {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(Answer { addresses: vec![ip], ttl: self.options.max_ttl });
        }
        if let Some(addresses) = self.local(host).await {
            return Ok(Answer { addresses, ttl: HOSTS_TTL.max(self.options.min_ttl) });
        }
        let found = self.servers.lookup_ip(host).await.map_err(error)?;
        let mut addresses: Vec<IpAddr> = found.iter().collect();
        addresses.sort_by_key(|a| (a.is_ipv4() == (self.options.family == Family::V6Preferred), *a));
        addresses.dedup();
        if addresses.is_empty() {
            return Err(DnsError::NotFound);
        }
        let ttl = found.valid_until().saturating_duration_since(Instant::now());
        Ok(Answer { addresses, ttl: ttl.clamp(self.options.min_ttl, self.options.max_ttl.max(self.options.min_ttl)) })
    }

    /// What `/etc/hosts` says, and `localhost` (RFC 6761) even where it says nothing.
    async fn local(&self, host: &str) -> Option<Vec<IpAddr>> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let text = tokio::fs::read_to_string(&self.options.hosts).await.unwrap_or_default();
        let mut found = hosts_entries(&text, host);
        if found.is_empty() && (host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost")) {
            found = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        }
        let wanted = choose(found, self.options.family);
        (!wanted.is_empty()).then_some(wanted)
    }
}

fn server(address: SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    connections.iter_mut().for_each(|c| c.port = address.port());
    NameServerConfig::new(address.ip(), true, connections)
}

fn error(e: NetError) -> DnsError {
    match e.is_no_records_found() {
        true => DnsError::NotFound,
        false => DnsError::Failed(e.to_string()),
    }
}

/// Addresses of `host` in a hosts file.
fn hosts_entries(text: &str, host: &str) -> Vec<IpAddr> {
    let mut out = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(ip) = words.next().and_then(|w| w.parse::<IpAddr>().ok()) else { continue };
        if words.any(|w| w.eq_ignore_ascii_case(host)) && !out.contains(&ip) {
            out.push(ip);
        }
    }
    out
}

/// Those of the wanted family; with a preference, the other family only where the first has none.
fn choose(found: Vec<IpAddr>, family: Family) -> Vec<IpAddr> {
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = found.iter().partition(|a| a.is_ipv4());
    match family {
        Family::V4Only => v4,
        Family::V6Only => v6,
        Family::V4Preferred if v4.is_empty() => v6,
        Family::V4Preferred => v4,
        Family::V6Preferred if v6.is_empty() => v4,
        Family::V6Preferred => v6,
        Family::All => found,
    }
}

#[cfg(test)]
mod tests;
