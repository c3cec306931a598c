//! Who may use the admin listener. It has no password; only its address protects it, and a web page in a browser on this machine
//! can reach every loopback address. Therefore:
//! - the Host must be one that a foreign page cannot have: a loopback address, `localhost`, the local address of the connection,
//!   or a configured name. This stops DNS rebinding, where the page's own name resolves to a loopback address.
//! - a request that a browser makes for a page of another origin is refused, except a followed link that only reads.
use hyper::{HeaderMap, Method, Uri, Version, header, http::request::Parts};
use std::net::{IpAddr, SocketAddr};

/// Host names that are accepted in addition to addresses of this machine; `*` accepts all.
pub(super) struct Guard<'a> {
    pub allowed_hosts: &'a [String],
    /// The local address of the connection.
    pub local: SocketAddr,
}

/// A host in lower case without brackets, and its port if there is one.
#[derive(Clone, Debug, PartialEq)]
struct Authority {
    host: String,
    port: Option<u16>,
}

impl Authority {
    fn parse(text: &str) -> Option<Authority> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
            Some(_) => return None,
            None if port.is_empty() => None,
            None => return None,
        };
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        (!host.is_empty()).then_some(Authority { host, port })
    }

    /// Whether a page of `scheme` at this place has the same origin as `other`.
    fn is_same(&self, other: &Authority, scheme: &str) -> bool {
        let default = if scheme == "https" { 443 } else { 80 };
        self.host == other.host && self.port.unwrap_or(default) == other.port.unwrap_or(default)
    }
}

/// Why a request is answered with 403.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("more than one Host header")]
    SeveralHosts,
    #[error("no Host header")]
    NoHost,
    #[error(
        "Host `{host}` is not accepted here: it must be localhost, a loopback address, {local} or a name given with \
         --admin-allowed-hosts"
    )]
    ForeignHost { host: String, local: IpAddr },
    #[error("Origin `{0}` is not accepted here: pages of other origins may not use the admin listener")]
    ForeignOrigin(String),
    #[error("Sec-Fetch-Site `{0}` is not accepted here: pages of other origins may not use the admin listener")]
    OtherSite(String),
}

impl Guard<'_> {
    /// `changes`: whether the request would change something.
    pub fn check(&self, head: &Parts, changes: bool) -> Result<(), Refused> {
        let host = self.host(&head.uri, &head.headers, head.version)?;
        self.origin(&head.headers, host.as_ref())?;
        fetched(&head.method, &head.headers, changes)
    }

    /// The host that the request names. `None` for HTTP/1.0 without a Host, which no browser sends.
    fn host(&self, uri: &Uri, headers: &HeaderMap, version: Version) -> Result<Option<Authority>, Refused> {
        let mut hosts = headers.get_all(header::HOST).iter().map(|v| v.to_str().unwrap_or_default());
        let (host, second) = (hosts.next(), hosts.next());
        if second.is_some() {
            return Err(Refused::SeveralHosts);
        }
        // A target in absolute form takes precedence over the header; no browser sends one to a server.
        let target = uri.authority().map(|a| a.as_str());
        let mut named = None;
        for text in target.into_iter().chain(host) {
            let authority = Authority::parse(text).filter(|a| self.accepts(&a.host)).ok_or_else(|| self.foreign_host(text))?;
            named.get_or_insert(authority);
        }
        match named {
            None if version >= Version::HTTP_11 => Err(Refused::NoHost),
            named => Ok(named),
        }
    }

    fn accepts(&self, host: &str) -> bool {
        let by_address = host.parse::<IpAddr>().is_ok_and(|ip| {
            let ip = ip.to_canonical();
            ip.is_loopback() || ip == self.local.ip().to_canonical()
        });
        by_address || host == "localhost" || self.is_named(host)
    }

    fn is_named(&self, host: &str) -> bool {
        self.allowed_hosts.iter().any(|name| name == "*" || name.trim_end_matches('.').eq_ignore_ascii_case(host))
    }

    fn foreign_host(&self, host: &str) -> Refused {
        Refused::ForeignHost { host: host.to_string(), local: self.local.ip() }
    }

    fn origin(&self, headers: &HeaderMap, host: Option<&Authority>) -> Result<(), Refused> {
        for origin in headers.get_all(header::ORIGIN) {
            let text = origin.to_str().unwrap_or_default();
            let own = text.split_once("://").zip(host).is_some_and(|((scheme, rest), host)| {
                // Https is possible only behind a proxy with TLS, by a configured name.
                let speaks = scheme == "http" || (scheme == "https" && self.is_named(&host.host));
                speaks && Authority::parse(rest).is_some_and(|o| o.is_same(host, scheme))
            });
            if !own {
                return Err(Refused::ForeignOrigin(text.to_string()));
            }
        }
        Ok(())
    }
}

/// Checks what the browser reports about the request. Following a link is as harmless as typing its address.
fn fetched(method: &Method, headers: &HeaderMap, changes: bool) -> Result<(), Refused> {
    let value = |name| headers.get(name).map(|v| v.to_str().unwrap_or_default());
    let followed = value("sec-fetch-mode") == Some("navigate") && value("sec-fetch-dest") == Some("document");
    match value("sec-fetch-site") {
        None | Some("same-origin" | "none") => Ok(()),
        Some(_) if followed && !changes && matches!(*method, Method::GET | Method::HEAD) => Ok(()),
        Some(site) => Err(Refused::OtherSite(site.to_string())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hyper::Request;

    const LOCAL: &str = "10.0.0.7:15000";

    fn check(target: &str, version: Version, headers: &[(&str, &str)], changes: bool) -> Result<(), String> {
        let allowed = ["admin.test".to_string(), "Other.Test.".into()];
        let method = if changes { Method::POST } else { Method::GET };
        let mut request = Request::builder().method(method).uri(target).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        Guard { allowed_hosts: &allowed, local: LOCAL.parse().unwrap() }.check(&head, changes).map_err(|why| why.to_string())
    }

    #[test]
    fn hosts() {
        for host in [
            "localhost",
            "localhost:15000",
            "LocalHost:1",
            "localhost.",
            "127.0.0.1",
            "127.0.0.1:15000",
            "127.8.9.1:80",
            "[::1]",
            "[::1]:15000",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]:1",
            "10.0.0.7:15000",
            "10.0.0.7",
            "admin.test",
            "ADMIN.test:443",
            "other.test",
        ] {
            assert_eq!(check("/ready", Version::HTTP_11, &[("host", host)], true), Ok(()), "{host}");
        }
        for host in [
            "evil.example:15000",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.8",
            "0.0.0.0",
            "[::]",
            "[::1",
            "::1",
            "localhost:",
            "localhost:x",
            "localhost:99999",
            "localhost:1:2",
            "",
            ":15000",
            "a@localhost",
            "admin.test.evil",
            "[::1]x",
        ] {
            for changes in [false, true] {
                let refused = check("/ready", Version::HTTP_11, &[("host", host)], changes);
                assert!(refused.is_err_and(|e| e.contains("Host")), "{host}");
            }
        }
        assert!(check("/", Version::HTTP_11, &[], false).is_err());
        assert_eq!(check("/", Version::HTTP_10, &[], false), Ok(()));
        assert!(check("/", Version::HTTP_11, &[("host", "localhost"), ("host", "localhost")], false).is_err());
        // In absolute form.
        assert!(check("http://evil.example/", Version::HTTP_11, &[("host", "localhost")], false).is_err());
        assert!(check("http://localhost/", Version::HTTP_11, &[("host", "evil.example")], false).is_err());
        assert_eq!(check("http://localhost/", Version::HTTP_11, &[("host", "localhost")], false), Ok(()));
    }

    #[test]
    fn origins() {
        for (host, origin, own) in [
            ("localhost:15000", "http://localhost:15000", true),
            ("LOCALHOST:15000", "http://localhost:15000", true),
            ("localhost", "http://localhost:80", true),
            ("localhost:80", "http://localhost", true),
            ("[::1]:15000", "http://[::1]:15000", true),
            ("admin.test", "https://admin.test", true),
            ("localhost:15000", "https://localhost:15000", false),
            ("localhost:15000", "http://localhost:3000", false),
            ("localhost:15000", "http://127.0.0.1:15000", false),
            ("localhost:15000", "http://evil.example:15000", false),
            ("localhost:15000", "http://localhost", false),
            ("localhost:15000", "null", false),
            ("localhost:15000", "", false),
            ("localhost:15000", "file://", false),
        ] {
            for changes in [false, true] {
                let got = check("/", Version::HTTP_11, &[("host", host), ("origin", origin)], changes);
                assert_eq!(got.is_ok(), own, "{host} {origin}: {got:?}");
            }
        }
        // Without a Host no origin is the same.
        assert!(check("/", Version::HTTP_10, &[("origin", "http://localhost")], false).is_err());
    }

    #[test]
    fn fetches() {
        let link = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        let frame = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
        let script = [("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "script")];
        for (site, how, read, write) in [
            ("same-origin", &link, true, true),
            ("none", &link, true, true),
            ("cross-site", &link, true, false),
            ("same-site", &link, true, false),
            ("cross-site", &frame, false, false),
            ("same-site", &script, false, false),
            ("cross-site", &script, false, false),
            ("else", &script, false, false),
        ] {
            for (changes, accepted) in [(false, read), (true, write)] {
                let headers = [("host", "localhost"), ("sec-fetch-site", site), how[0], how[1]];
                assert_eq!(check("/", Version::HTTP_11, &headers, changes).is_ok(), accepted, "{site} {how:?} {changes}");
            }
        }
    }
}
