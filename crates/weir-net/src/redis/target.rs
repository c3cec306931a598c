//! Names of servers: `host:port`, `redis://` and `rediss://` URLs.
use std::fmt;
use url::{Host, Url};

/// Redis' own port.
const PORT: u16 = 6379;

/// A server as a user writes it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// A name or an address, IPv6 without brackets.
    pub host: String,
    pub port: u16,
    pub tls: bool,
    pub user: String,
    pub password: String,
    /// `None` where the text says nothing of it.
    pub database: Option<u32>,
}

impl fmt::Debug for Target {
    /// Without the password: targets stand in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "rediss" } else { "redis" }, self.authority())
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
        write!(f, "{}; accepted: host:port, redis://[user:password@]host[:port][/db], rediss://…, redis://embedded[/name]", self.0)
    }
}

impl Target {
    /// A URL (port 6379 unless given) or `host:port`.
    pub fn parse(text: &str) -> Result<Target, TargetError> {
        let error = |why: &str| TargetError(format!("`{}` {why}", redact(text)));
        let bare = !text.contains("://");
        let url =
            if bare { Url::parse(&format!("redis://{text}")) } else { Url::parse(text) }.map_err(|e| error(&format!("is no URL: {e}")))?;
        let tls = match url.scheme() {
            "redis" => false,
            "rediss" => true,
            other => return Err(error(&format!("has the scheme `{other}`"))),
        };
        if bare && url.port().is_none() {
            return Err(error("has no port"));
        }
        let host = match url.host() {
            Some(Host::Domain(name)) if !name.is_empty() => name.to_string(),
            Some(Host::Ipv4(ip)) => ip.to_string(),
            Some(Host::Ipv6(ip)) => ip.to_string(),
            _ => return Err(error("has no host")),
        };
        if !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':')) {
            return Err(error("has a host that is no name and no address"));
        }
        let database = match url.path().trim_matches('/') {
            "" => url.query_pairs().find(|(k, _)| k == "db").map(|(_, v)| v.into_owned()),
            path => Some(path.to_string()),
        };
        let database = database.map(|d| d.parse().map_err(|_| error("has a database that is no number"))).transpose()?;
        Ok(Target {
            host,
            port: url.port().unwrap_or(PORT),
            tls,
            user: decode(url.username()),
            password: decode(url.password().unwrap_or_default()),
            database,
        })
    }

    /// `host:port`.
    pub fn authority(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }
}

/// Percent-decoding, as user information in a URL needs it.
fn decode(text: &str) -> String {
    url::form_urlencoded::parse(text.replace('+', "%2B").replace('&', "%26").replace('=', "%3D").as_bytes())
        .next()
        .map(|(k, _)| k.into_owned())
        .unwrap_or_default()
}

/// The text without a password.
fn redact(text: &str) -> String {
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
            host: host.into(),
            port,
            tls,
            user: user.into(),
            password: password.into(),
            database,
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
        ] {
            assert_eq!(Target::parse(text).unwrap(), want, "{text}");
        }
        for bad in ["redis", "", "http://h:1", "redis://", "h:99999", "redis://h/x", "outbound|6379||redis.static", ":6379"] {
            assert!(Target::parse(bad).is_err(), "{bad} gave {:?}", Target::parse(bad));
        }
        let e = Target::parse("http://ann:secret@h").unwrap_err().to_string();
        assert!(!e.contains("secret"), "{e}");
        assert!(!format!("{:?}", Target::parse("redis://ann:secret@h").unwrap()).contains("secret"));
    }
}
