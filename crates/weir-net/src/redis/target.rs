//! Names of servers: `host:port`, and URLs of servers, Clusters and Sentinels.
use super::Sentinel;
use std::fmt;
use url::{Host, Url};

/// Redis' own port.
const PORT: u16 = 6379;

/// The port of a Sentinel.
const SENTINEL_PORT: u16 = 26379;

/// A server, or several that belong together, as a user writes them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// A name or an address, IPv6 without brackets.
    pub host: String,
    pub port: u16,
    /// Further servers to begin with: of the Cluster, or Sentinels.
    pub others: Vec<(String, u16)>,
    pub kind: Kind,
    pub tls: bool,
    pub user: String,
    pub password: String,
    /// `None` where the text says nothing of it.
    pub database: Option<u32>,
}

/// What the servers of a [`Target`] are.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Kind {
    Server,
    /// Some of the servers of a Redis Cluster.
    Cluster,
    /// Sentinels, which know the server.
    Sentinel(Sentinel),
}

impl fmt::Debug for Target {
    /// Without the passwords: targets stand in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}://{}", if self.tls { "rediss" } else { "redis" }, self.kind.suffix(), self.authority())?;
        for (host, port) in &self.others {
            write!(f, ",{}", authority(host, *port))?;
        }
        if let Kind::Sentinel(sentinel) = &self.kind {
            write!(f, "/{}", sentinel.master)?;
        }
        Ok(())
    }
}

impl Kind {
    /// Behind the scheme.
    fn suffix(&self) -> &'static str {
        match self {
            Kind::Server => "",
            Kind::Cluster => "+cluster",
            Kind::Sentinel(_) => "+sentinel",
        }
    }
}

/// Why a text names no server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetError(String);

impl TargetError {
    /// Of a form of URL that is read elsewhere.
    pub fn new(why: String) -> TargetError {
        TargetError(why)
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; accepted: host:port, redis://[user:password@]host[:port][/db], redis+cluster://host[:port],…, \
             redis+sentinel://host[:port],…/master[/db], the same with rediss for TLS, redis://embedded[/name]",
            self.0
        )
    }
}

impl Target {
    /// One server in the clear, without credentials.
    pub fn server(host: &str, port: u16) -> Target {
        let (user, password) = (String::new(), String::new());
        Target { host: host.into(), port, others: Vec::new(), kind: Kind::Server, tls: false, user, password, database: None }
    }

    /// A URL (port 6379 unless given, 26379 for Sentinels) or `host:port`.
    pub fn parse(text: &str) -> Result<Target, TargetError> {
        let error = |why: &str| TargetError(format!("`{}` {why}", redact(text)));
        let bare = !text.contains("://");
        let (scheme, rest) = text.split_once("://").unwrap_or(("redis", text));
        let (tls, kind) = match scheme.split_once('+').unwrap_or((scheme, "")) {
            ("redis", kind @ ("" | "cluster" | "sentinel")) => (false, kind),
            ("rediss", kind @ ("" | "cluster" | "sentinel")) => (true, kind),
            _ => return Err(error(&format!("has the scheme `{scheme}`"))),
        };
        // The servers behind the first comma; the first one makes a URL with everything else.
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let hosts = rest[..end].rfind('@').map_or(0, |at| at + 1)..end;
        let mut servers = rest[hosts.clone()].split(',');
        let first = servers.next().unwrap_or_default();
        let url = format!("redis://{}{first}{}", &rest[..hosts.start], &rest[end..]);
        let url = Url::parse(&url).map_err(|e| error(&format!("is no URL: {e}")))?;
        if bare && url.port().is_none() {
            return Err(error("has no port"));
        }
        let port = if kind == "sentinel" { SENTINEL_PORT } else { PORT };
        let host = host(&url).map_err(&error)?;
        let others = servers.map(|text| {
            let url = Url::parse(&format!("redis://{text}")).map_err(|e| error(&format!("is no URL: {e}")))?;
            Ok((self::host(&url).map_err(&error)?, url.port().unwrap_or(port)))
        });
        let others = others.collect::<Result<Vec<_>, TargetError>>()?;
        if !others.is_empty() && kind.is_empty() {
            return Err(error("has several servers"));
        }
        let query = |name: &str| url.query_pairs().find(|(k, _)| k == name).map(|(_, v)| v.into_owned());
        let mut path = url.path().trim_matches('/');
        let kind = match kind {
            "cluster" => Kind::Cluster,
            "sentinel" => {
                let (master, database) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    return Err(error("has no name of a master in its path"));
                }
                path = database;
                let (user, password) = (query("sentinel_username").unwrap_or_default(), query("sentinel_password").unwrap_or_default());
                Kind::Sentinel(Sentinel { master: decode(master), user, password })
            }
            _ => Kind::Server,
        };
        let database = if path.is_empty() { query("db") } else { Some(path.to_string()) };
        let database = database.map(|d| d.parse().map_err(|_| error("has a database that is no number"))).transpose()?;
        Ok(Target {
            host,
            port: url.port().unwrap_or(port),
            others,
            kind,
            tls,
            user: decode(url.username()),
            password: decode(url.password().unwrap_or_default()),
            database,
        })
    }

    /// `host:port` of the first server.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }

    /// All servers that are named.
    pub fn servers(&self) -> impl Iterator<Item = (&str, u16)> {
        std::iter::once((self.host.as_str(), self.port)).chain(self.others.iter().map(|(host, port)| (host.as_str(), *port)))
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn host(url: &Url) -> Result<String, &'static str> {
    let host = match url.host() {
        Some(Host::Domain(name)) if !name.is_empty() => name.to_string(),
        Some(Host::Ipv4(ip)) => ip.to_string(),
        Some(Host::Ipv6(ip)) => ip.to_string(),
        _ => return Err("has no host"),
    };
    match host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':')) {
        true => Ok(host),
        false => Err("has a host that is no name and no address"),
    }
}

/// Percent-decoding, as user information in a URL needs it.
fn decode(text: &str) -> String {
    url::form_urlencoded::parse(text.replace('+', "%2B").replace('&', "%26").replace('=', "%3D").as_bytes())
        .next()
        .map(|(k, _)| k.into_owned())
        .unwrap_or_default()
}

/// The text without passwords.
pub fn redact(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}…{}", &text[..scheme + 3], &text[at..]),
        _ => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn targets() {
        let t = |host: &str, port, tls, user: &str, password: &str, database| Target {
            tls,
            user: user.into(),
            password: password.into(),
            database,
            ..Target::server(host, port)
        };
        let several = |target: Target, kind, others: &[(&str, u16)]| Target {
            kind,
            others: others.iter().map(|(host, port)| (host.to_string(), *port)).collect(),
            ..target
        };
        let sentinel = |user: &str, password: &str| {
            Kind::Sentinel(Sentinel { master: "mymaster".into(), user: user.into(), password: password.into() })
        };
        for (text, want) in [
            ("127.0.0.1:7000", t("127.0.0.1", 7000, false, "", "", None)),
            ("redis.svc:6379", t("redis.svc", 6379, false, "", "", None)),
            ("[::1]:6380", t("::1", 6380, false, "", "", None)),
            ("redis://h", t("h", 6379, false, "", "", None)),
            ("redis://:p%40ss%2B+=x@h:1/3", t("h", 1, false, "", "p@ss++=x", Some(3))),
            ("rediss://ann:secret@cache.example.com/0", t("cache.example.com", 6379, true, "ann", "secret", Some(0))),
            ("redis://h:1?db=4", t("h", 1, false, "", "", Some(4))),
            ("h:1?db=4", t("h", 1, false, "", "", Some(4))),
            (
                "redis+cluster://a:7000,b,[::1]:7002",
                several(t("a", 7000, false, "", "", None), Kind::Cluster, &[("b", 6379), ("::1", 7002)]),
            ),
            ("rediss+cluster://:pw@a", several(t("a", 6379, true, "", "pw", None), Kind::Cluster, &[])),
            (
                "redis+sentinel://ann:pw@a,b:1/mymaster/3",
                several(t("a", 26379, false, "ann", "pw", Some(3)), sentinel("", ""), &[("b", 1)]),
            ),
            (
                "rediss+sentinel://a/mymaster?sentinel_username=x&sentinel_password=y%26&db=2",
                several(t("a", 26379, true, "", "", Some(2)), sentinel("x", "y&"), &[]),
            ),
        ] {
            assert_eq!(Target::parse(text).unwrap(), want, "{text}");
        }
        for bad in [
            "redis",
            "",
            "http://h:1",
            "redis://",
            "h:99999",
            "redis://h/x",
            "outbound|6379||redis.static",
            ":6379",
            "redis://a,b",
            "redis+cluster://",
            "redis+cluster://a,,b",
            "redis+sentinel://a",
            "redis+sentinel://a/m/x",
            "redis+other://a",
            "redis+cluster://a,b:x",
        ] {
            assert!(Target::parse(bad).is_err(), "{bad} gave {:?}", Target::parse(bad));
        }
        let e = Target::parse("redis+sentinel://a/m/x?sentinel_password=secret").unwrap_err().to_string();
        assert!(!e.contains("secret"), "{e}");
        let e = Target::parse("http://ann:secret@h").unwrap_err().to_string();
        assert!(!e.contains("secret"), "{e}");
        assert!(!format!("{:?}", Target::parse("redis://ann:secret@h").unwrap()).contains("secret"));
    }
}
