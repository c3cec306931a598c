//! How clients and upstreams are spoken to: TLS for the hosts of an Ingress, and its backends.
use super::given::{Given, split};
use std::time::Duration;
use weir_config::{
    model::{CIPHER_SUITES, HashOf, LbPolicy, Name, TlsVersion, UpstreamProtocol},
    node::Chars,
    reader::Field,
};

/// TLS of the hosts under `tls`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tls {
    pub client: Option<Box<ClientAuth>>,
    pub cipher_suites: Vec<String>,
    pub min_version: Option<TlsVersion>,
    pub max_version: Option<TlsVersion>,
}

/// Clients show a certificate that the roots in this Secret vouch for.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientAuth {
    pub namespace: Option<Name>,
    pub secret: Name,
    /// One without a certificate is let in too.
    pub optional: bool,
    pub place: Chars,
}

impl Tls {
    pub fn is_default(&self) -> bool {
        *self == Tls::default()
    }
}

/// How the Services of the backends are spoken to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Upstream {
    pub protocol: Option<UpstreamProtocol>,
    /// `None` is plain text.
    pub tls: Option<UpstreamTls>,
    pub balancer: Option<(LbPolicy, Option<HashOf>)>,
    pub connect_timeout: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamTls {
    /// With a client's certificate, and the roots where it is verified: `(namespace, name)`.
    pub secret: Option<(Option<Name>, Name)>,
    pub verify: bool,
    pub sni: Option<String>,
    pub place: Chars,
}

/// `[NAMESPACE/]NAME`
pub(super) fn secret(field: &Field<'_>, text: &str) -> Option<(Option<Name>, Name)> {
    let (namespace, name) = text.split_once('/').map_or((None, text), |(namespace, name)| (Some(namespace), name));
    if name.is_empty() || name.contains('/') || namespace == Some("") {
        field.invalid(format!("\"{text}\" is not the name of a Secret"), "[NAMESPACE/]NAME");
        return None;
    }
    Some((namespace.map(Into::into), name.into()))
}

pub fn tls(given: &Given<'_>) -> Tls {
    let verify = given.choice("auth-tls-verify-client", &[("on", Some(false)), ("optional", Some(true)), ("off", None)]);
    let client = given.get("auth-tls-secret").and_then(|field| {
        // An empty one must not let everybody in.
        let (namespace, secret) = secret(field, field.node().as_str()?.trim())?;
        let optional = verify.unwrap_or(Some(false))?;
        Some(Box::new(ClientAuth { namespace, secret, optional, place: field.node().span }))
    });
    let mut cipher_suites = Vec::new();
    if let Some((field, text)) = given.text("ssl-cipher").or_else(|| given.text("ssl-ciphers")) {
        for suite in text.split(':').flat_map(split) {
            match CIPHER_SUITES.contains(&suite) {
                true => cipher_suites.push(suite.to_string()),
                false => field.error(
                    "UnsupportedValue",
                    format!("the cipher suite \"{suite}\" is not supported"),
                    format!("some of {}, with colons between", CIPHER_SUITES.join(", ")),
                ),
            }
        }
    }
    let versions = [("TLSv1.2", TlsVersion::V1_2), ("TLSv1.3", TlsVersion::V1_3)];
    let (min_version, max_version) =
        (given.choice("tls-min-protocol-version", &versions), given.choice("tls-max-protocol-version", &versions));
    Tls { client, cipher_suites, min_version, max_version }
}

pub fn upstream(given: &Given<'_>) -> Option<Upstream> {
    use UpstreamProtocol::{Http1, Http2};
    let words =
        [("HTTP", (Http1, false)), ("HTTPS", (Http1, true)), ("HTTP2", (Http2, false)), ("GRPC", (Http2, false)), ("GRPCS", (Http2, true))];
    let on_off = [("on", true), ("off", false)];
    let protocol = given.choice("backend-protocol", &words);
    let verify = given.choice("proxy-ssl-verify", &on_off).unwrap_or(false);
    let name = given.text("proxy-ssl-name").map(|(_, text)| text.to_string());
    let named = given.choice("proxy-ssl-server-name", &on_off).unwrap_or(false);
    let secret = given.text("proxy-ssl-secret").and_then(|(field, text)| Some((secret(field, text)?, field.node().span)));
    let place = given.get("backend-protocol").map(|field| field.node().span).or(secret.as_ref().map(|(_, place)| *place));
    let tls = place.filter(|_| secret.is_some() || protocol.is_some_and(|(_, tls)| tls)).map(|place| UpstreamTls {
        secret: secret.map(|(secret, _)| secret),
        verify,
        sni: name.filter(|_| named),
        place,
    });
    let balancer = balancer(given);
    let made = Upstream {
        protocol: protocol.map(|(p, _)| p).filter(|p| *p != Http1),
        tls,
        balancer,
        connect_timeout: given.seconds("proxy-connect-timeout"),
    };
    (made != Upstream::default()).then_some(made)
}

fn balancer(given: &Given<'_>) -> Option<(LbPolicy, Option<HashOf>)> {
    const RING: LbPolicy = LbPolicy::RingHash { minimum_ring_size: 1024, maximum_ring_size: 8 << 20 };
    let (simple, hash, cookie) = (simple(given), hash(given), cookie(given));
    if let Some(hash) = cookie.or(hash) {
        return Some((RING, Some(hash)));
    }
    Some((simple?, None))
}

fn simple(given: &Given<'_>) -> Option<LbPolicy> {
    let least = LbPolicy::LeastRequest { choice_count: 2 };
    let (field, text) = given.text("load-balance")?;
    match text.to_ascii_uppercase().as_str() {
        "ROUND_ROBIN" => Some(LbPolicy::RoundRobin),
        "LEAST_CONN" | "LEAST_REQUEST" => Some(least),
        "RANDOM" => Some(LbPolicy::Random),
        "EWMA" | "PASSTHROUGH" | "MCP-SSE" => {
            field.warning(
                "UnsupportedValue",
                format!("{text} is not supported yet: taken as LEAST_REQUEST"),
                "ROUND_ROBIN, LEAST_REQUEST or RANDOM",
            );
            Some(least)
        }
        _ => {
            field.invalid(format!("\"{text}\" is not accepted here"), "ROUND_ROBIN, LEAST_REQUEST, LEAST_CONN or RANDOM");
            None
        }
    }
}

/// By a variable of nginx.
fn hash(given: &Given<'_>) -> Option<HashOf> {
    let (field, text) = given.text("upstream-hash-by")?;
    let word = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let header = |name: &str| Some(HashOf::Header(name.replace('_', "-").to_ascii_lowercase()));
    match text.strip_prefix('$').unwrap_or_default() {
        "remote_addr" | "binary_remote_addr" => Some(HashOf::SourceIp),
        "request_uri" => header(":path"),
        "host" => header(":authority"),
        name => match (name.strip_prefix("http_"), name.strip_prefix("arg_")) {
            (Some(name), _) if word(name) => header(name),
            (_, Some(name)) if word(name) => Some(HashOf::QueryParameter(name.into())),
            _ => {
                let help = "$remote_addr, $request_uri, $host, $http_NAME or $arg_NAME";
                field.invalid(format!("requests cannot be hashed by \"{text}\""), help);
                None
            }
        },
    }
}

fn cookie(given: &Given<'_>) -> Option<HashOf> {
    let on = given.choice("affinity", &[("cookie", ())]).is_some();
    // A hash does both: few sessions move.
    given.choice("affinity-mode", &[("balanced", ()), ("persistent", ())]);
    let (name, path) = (given.text("session-cookie-name"), given.text("session-cookie-path"));
    let age = [given.number("session-cookie-max-age", 0), given.number("session-cookie-expires", 0)];
    (on || name.is_some() || path.is_some()).then(|| HashOf::Cookie {
        name: name.map_or("INGRESSCOOKIE", |(_, text)| text).into(),
        path: path.map_or("/", |(_, text)| text).into(),
        ttl: Some(Duration::from_secs(age.into_iter().flatten().next().unwrap_or(0).into())),
    })
}
