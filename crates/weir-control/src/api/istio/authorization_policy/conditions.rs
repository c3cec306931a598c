//! The conditions of a rule: `source`, `operation` and `when`.
use super::super::read::At;
use crate::api::checks::header_name;
use weir_config::{
    model::{CidrRange, HeaderMatch, RbacMatch, StringMatch, ValueMatch},
    reader::{Field, Object},
};

pub struct Conditions<'n> {
    /// The policy allows.
    pub allows: bool,
    /// Of the policy.
    pub namespace: &'n str,
    /// What could not be decided.
    pub undecided: Vec<(At, String)>,
}

/// What a value becomes; `None` after an error.
type Read<'r> = &'r dyn Fn(&Field<'_>, &str) -> Option<RbacMatch>;

impl Conditions<'_> {
    pub fn source(&mut self, source: &Object<'_>) -> Vec<RbacMatch> {
        let mut all = Vec::new();
        let namespace = self.namespace;
        source.describe(&[
            (
                "principals",
                "",
                "Identities in the client's certificate, as `cluster.local/ns/shop/sa/web`; `*` at one end stands for any text.",
            ),
            ("notPrincipals", "", "None of these; as `principals`."),
            ("namespaces", "", "Namespaces of the identity in the client's certificate."),
            ("notNamespaces", "", "None of these; as `namespaces`."),
            ("serviceAccounts", "", "Service accounts of the identity: `NAME` or `NAMESPACE/NAME`."),
            ("notServiceAccounts", "", "None of these; as `serviceAccounts`."),
            ("trustDomains", "", "Trust domains of the identity."),
            ("notTrustDomains", "", "None of these; as `trustDomains`."),
            ("ipBlocks", "", "Addresses of the other end of the connection."),
            ("notIpBlocks", "", "None of these; as `ipBlocks`."),
            ("remoteIpBlocks", "", "Addresses of the client, by `x-forwarded-for` where proxies are trusted."),
            ("notRemoteIpBlocks", "", "None of these; as `remoteIpBlocks`."),
            (
                "requestPrincipals",
                "",
                "Identities in a JWT. Not decided yet: a rule of `ALLOW` with it allows nothing, one of `DENY` denies.",
            ),
            ("notRequestPrincipals", "", "None of these; as `requestPrincipals`."),
        ]);
        both(source, "principals", "notPrincipals", &mut all, &|_, text| Some(principal(text)));
        both(source, "namespaces", "notNamespaces", &mut all, &|_, text| Some(namespaces(text)));
        both(source, "serviceAccounts", "notServiceAccounts", &mut all, &|field, text| service_account(field, text, namespace));
        both(source, "trustDomains", "notTrustDomains", &mut all, &trust_domain);
        both(source, "ipBlocks", "notIpBlocks", &mut all, &|field, text| range(field, text).map(RbacMatch::DirectRemoteIp));
        both(source, "remoteIpBlocks", "notRemoteIpBlocks", &mut all, &|field, text| range(field, text).map(RbacMatch::RemoteIp));
        for name in ["requestPrincipals", "notRequestPrincipals"] {
            if let Some(field) = source.get(name).filter(|f| !texts(f).is_empty()) {
                self.undecided(&field, "the principal of a JWT", &mut all);
            }
        }
        all
    }

    pub fn operation(&mut self, operation: &Object<'_>) -> Vec<RbacMatch> {
        let mut all = Vec::new();
        operation.describe(&[
            ("hosts", "", "Hosts of requests, in any case; `*` at one end stands for any text."),
            ("notHosts", "", "None of these; as `hosts`."),
            ("methods", "", "Methods of requests."),
            ("notMethods", "", "None of these; as `methods`."),
            ("paths", "", "Paths without the query; `*` at one end, or a template with `{*}` and `{**}`."),
            ("notPaths", "", "None of these; as `paths`."),
            ("ports", "", "Ports that the gateway listens on."),
            ("notPorts", "", "None of these; as `ports`."),
        ]);
        both(operation, "hosts", "notHosts", &mut all, &|_, text| Some(RbacMatch::Host(pattern(text))));
        both(operation, "methods", "notMethods", &mut all, &|_, text| Some(header(":method", text)));
        both(operation, "paths", "notPaths", &mut all, &path);
        both(operation, "ports", "notPorts", &mut all, &|field, text| port(field, text).map(RbacMatch::DestinationPort));
        all
    }

    /// A condition is about the operation or about who asks for it.
    pub fn when(&mut self, field: &Field<'_>, permission: &mut Vec<RbacMatch>, principal_of: &mut Vec<RbacMatch>) {
        let Some(object) = field.object() else { return };
        object.describe(&[
            ("key", "", "What the condition looks at."),
            ("values", "", "The condition holds if one of these matches; the form depends on the key."),
            ("notValues", "", "The condition holds if none of these matches."),
        ]);
        let Some((key_field, key)) = object.required("key").and_then(|f| Some((f.clone(), f.str()?))) else { return };
        if ["values", "notValues"].iter().all(|name| object.list(name).is_empty()) {
            field.invalid(format!("the condition {key} has no values"), "values or notValues");
        }
        let add = |to: &mut Vec<RbacMatch>, read: Read<'_>| both(&object, "values", "notValues", to, read);
        let namespace = self.namespace;
        let named = |start: &str| key.strip_prefix(start)?.strip_prefix('[')?.strip_suffix(']').filter(|name| !name.is_empty());
        match key {
            "destination.ip" => add(permission, &|field, text| range(field, text).map(RbacMatch::DestinationIp)),
            "destination.port" => add(permission, &|field, text| port(field, text).map(RbacMatch::DestinationPort)),
            "connection.sni" => add(permission, &|_, text| Some(RbacMatch::RequestedServerName(pattern(text)))),
            "source.ip" => add(principal_of, &|field, text| range(field, text).map(RbacMatch::DirectRemoteIp)),
            "remote.ip" => add(principal_of, &|field, text| range(field, text).map(RbacMatch::RemoteIp)),
            "source.principal" => add(principal_of, &|_, text| Some(principal(text))),
            "source.namespace" => add(principal_of, &|_, text| Some(namespaces(text))),
            "source.serviceAccount" => add(principal_of, &|field, text| service_account(field, text, namespace)),
            "source.trustDomain" => add(principal_of, &trust_domain),
            "request.auth.principal" | "request.auth.audiences" | "request.auth.presenter" => {
                object.ignore(&["values", "notValues"]);
                self.undecided(&key_field, "a JWT", principal_of);
            }
            _ => {
                if let Some(name) = named("request.headers") {
                    let pseudo = [":method", ":path", ":scheme"].contains(&name).then(|| name.to_string());
                    if let Some(name) = pseudo.or_else(|| header_name(name, &key_field)) {
                        add(principal_of, &|_, text| Some(header(&name, text)));
                    }
                } else if named("request.auth.claims").is_some() {
                    object.ignore(&["values", "notValues"]);
                    self.undecided(&key_field, "a claim of a JWT", principal_of);
                } else if key.starts_with("experimental.envoy.filters.") {
                    object.ignore(&["values", "notValues"]);
                    self.undecided(&key_field, "the metadata of an Envoy filter", permission);
                } else {
                    object.ignore(&["values", "notValues"]);
                    key_field.invalid(format!("unknown value \"{key}\""), KEYS);
                }
            }
        }
    }

    /// Weir cannot know whether the condition holds: it must not let anybody in.
    fn undecided(&mut self, field: &Field<'_>, what: &str, all: &mut Vec<RbacMatch>) {
        self.undecided.push((At::of(field), what.to_string()));
        if self.allows {
            all.push(RbacMatch::Or(Vec::new()));
        }
    }
}

const KEYS: &str = "one of request.headers[NAME], source.ip, remote.ip, source.principal, source.namespace, source.serviceAccount, \
                    source.trustDomain, destination.ip, destination.port or connection.sni";

/// One of the values of a field, and none of the values of another.
fn both(object: &Object<'_>, yes: &'static str, no: &'static str, all: &mut Vec<RbacMatch>, read: Read<'_>) {
    for (name, negated) in [(yes, false), (no, true)] {
        let Some(field) = object.get(name) else { continue };
        let values = texts(&field);
        if values.is_empty() {
            continue;
        }
        let any = RbacMatch::Or(values.iter().filter_map(|(field, text)| read(field, text)).collect());
        all.push(if negated { RbacMatch::Not(Box::new(any)) } else { any });
    }
}

fn texts<'a>(field: &Field<'a>) -> Vec<(Field<'a>, &'a str)> {
    let mut found = Vec::new();
    for item in field.list() {
        match item.str() {
            Some("") => item.invalid("is empty", "a value, or * for any"),
            Some(text) => found.push((item, text)),
            None => {}
        }
    }
    found
}

/// `*`, `*SUFFIX`, `PREFIX*` or exact.
fn pattern(text: &str) -> StringMatch {
    if let Some(suffix) = text.strip_prefix('*') {
        return if suffix.is_empty() { StringMatch::Prefix(String::new()) } else { StringMatch::Suffix(suffix.into()) };
    }
    match text.strip_suffix('*') {
        Some(prefix) => StringMatch::Prefix(prefix.into()),
        None => StringMatch::Exact(text.into()),
    }
}

fn header(name: &str, text: &str) -> RbacMatch {
    let value = if text == "*" { ValueMatch::Present } else { ValueMatch::Text(pattern(text)) };
    RbacMatch::Header(HeaderMatch { name: name.into(), value, invert: false, ignore_case: false })
}

/// A pattern, or a template with `{*}` and `{**}`.
fn path(field: &Field<'_>, text: &str) -> Option<RbacMatch> {
    if !text.contains(['{', '}']) {
        return Some(RbacMatch::UrlPath(pattern(text)));
    }
    let help = "/ and segments between slashes; {*} stands for one segment, {**} for any number of them and is the last of the two";
    let pchar = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&b);
    let mut ended = false;
    for segment in text.trim_matches('/').split('/') {
        let operator = matches!(segment, "{*}" | "{**}");
        if operator && ended {
            field.invalid(format!("{{**}} is not the last operator of \"{text}\""), help);
            return None;
        }
        if !operator && !segment.bytes().all(pchar) {
            field.invalid(format!("\"{segment}\" is not a segment of a path template"), help);
            return None;
        }
        ended |= segment == "{**}";
    }
    Some(RbacMatch::UriTemplate(text.replace("{**}", "**").replace("{*}", "*")))
}

fn port(field: &Field<'_>, text: &str) -> Option<u16> {
    let port = text.parse().ok();
    if port.is_none() {
        field.invalid(format!("\"{text}\" is not a port"), "a number from 0 to 65535, in quotes");
    }
    port
}

fn range(field: &Field<'_>, text: &str) -> Option<CidrRange> {
    let range = text.parse().ok();
    if range.is_none() {
        field.invalid(format!("\"{text}\" is not an address or a range of addresses"), "10.0.0.0/8, 192.0.2.1 or 2001:db8::/32");
    }
    range
}

/// SPIFFE identities without their scheme.
fn principal(text: &str) -> RbacMatch {
    RbacMatch::Authenticated(match pattern(text) {
        StringMatch::Exact(text) => StringMatch::Exact(format!("spiffe://{text}")),
        StringMatch::Prefix(text) if !text.is_empty() => StringMatch::Prefix(format!("spiffe://{text}")),
        StringMatch::Suffix(text) => StringMatch::Regex(format!("spiffe://.*{}", regex::escape(&text))),
        any => any,
    })
}

fn namespaces(text: &str) -> RbacMatch {
    let parts: Vec<String> = text.split('*').map(regex::escape).collect();
    RbacMatch::Authenticated(StringMatch::Regex(format!(".*/ns/{}/.*", parts.join(".*"))))
}

/// `NAME` or `NAMESPACE/NAME`.
fn service_account(field: &Field<'_>, text: &str, namespace: &str) -> Option<RbacMatch> {
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    if namespace.is_empty() || name.is_empty() || name.contains('/') || text.contains('*') {
        field.invalid(format!("\"{text}\" is not a service account"), "NAME or NAMESPACE/NAME, without *");
        return None;
    }
    let pattern = format!("spiffe://.+/ns/{}/(.+/|)sa/{}(/.+)?", regex::escape(namespace), regex::escape(name));
    Some(RbacMatch::Authenticated(StringMatch::Regex(pattern)))
}

fn trust_domain(field: &Field<'_>, text: &str) -> Option<RbacMatch> {
    let stars = text.matches('*').count();
    if stars > 1 || text.contains('/') || (stars == 1 && !text.starts_with('*') && !text.ends_with('*')) {
        field.invalid(format!("\"{text}\" is not a trust domain"), "a name as cluster.local, with * at one end at most");
        return None;
    }
    Some(RbacMatch::Authenticated(match text.split_once('*') {
        None => StringMatch::Prefix(format!("spiffe://{text}/")),
        Some((start, end)) => StringMatch::Regex(format!("spiffe://{}[^/]*{}/.*", regex::escape(start), regex::escape(end))),
    }))
}
