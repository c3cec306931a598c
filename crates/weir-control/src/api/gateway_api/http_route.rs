//! Reading HTTPRoute, and what GRPCRoute shares with it.
use super::{
    GROUP,
    backend_ref::{self, BackendRef},
    filters::{Filters, HTTP_TYPES, Type, decode_filters},
    session,
};
use crate::api::checks::{check_path, check_regex, hostname};
use std::{
    cell::RefCell,
    ops::Deref,
    sync::{Arc, LazyLock},
    time::Duration,
};
use weir_config::{
    model::{HeaderMatch, Name, PathMatch, QueryMatch, RetryOn, RetryPolicy, RouteMatch, SessionPersistence, StringMatch, ValueMatch},
    node::Chars,
    reader::{Field, Object as Fields},
    recent::{self, Recent},
};

#[derive(Clone, Debug, PartialEq)]
pub struct HttpRoute {
    pub parents: Box<[ParentRef]>,
    /// Lower case; empty for any.
    pub hostnames: Box<[Name]>,
    pub rules: Box<[Rule]>,
}

/// What a route is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParentKind {
    Gateway,
    ListenerSet,
    /// Another one, which was reported.
    Foreign,
}

/// A parent, and where it is named. Many routes have the same parent, so equal ones are shared.
#[derive(Clone, Debug, PartialEq)]
pub struct ParentRef {
    target: Arc<ParentTarget>,
    pub place: Chars,
}

impl Deref for ParentRef {
    type Target = ParentTarget;

    fn deref(&self) -> &ParentTarget {
        &self.target
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ParentTarget {
    pub kind: ParentKind,
    pub namespace: Option<Name>,
    pub name: Name,
    pub section: Option<Box<str>>,
    pub port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// At least one.
    pub matches: Box<[Match]>,
    pub filters: Option<Arc<Filters>>,
    pub backends: Box<[Backend]>,
    options: Option<Box<RuleOptions>>,
    /// One-based line in the document.
    pub line: u32,
}

/// What few rules have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleOptions {
    pub name: Option<Name>,
    pub timeout: Option<Duration>,
    pub backend_timeout: Option<Duration>,
    pub retry: Option<RetryPolicy>,
    pub session: Option<Box<SessionPersistence>>,
}

/// A match, with what makes it more specific than another.
#[derive(Clone, Debug, PartialEq)]
pub struct Match {
    /// Shared with the routes that are made from it.
    pub matches: Arc<RouteMatch>,
    pub path_length: u32,
    pub method: bool,
    pub headers: u16,
    pub query_parameters: u16,
}

impl Match {
    /// To change it while it is read.
    pub fn edit(&mut self) -> &mut RouteMatch {
        Arc::make_mut(&mut self.matches)
    }
    fn add_header(&mut self, header: HeaderMatch) {
        let headers = &mut self.edit().headers;
        headers.reserve_exact(1);
        headers.push(header);
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    pub reference: BackendRef,
    pub weight: u32,
    pub filters: Option<Arc<Filters>>,
}

impl HttpRoute {
    /// The rules whose requests are refused, by their numbers: they have errors, or filters that are not supported.
    pub fn refused_rules(&self) -> Vec<usize> {
        let refused = |rule: &Rule| rule.filters.as_ref().is_some_and(|filters| filters.refused);
        self.rules.iter().enumerate().filter(|(_, rule)| refused(rule)).map(|(index, _)| index).collect()
    }

    /// Whether some of its rules have errors.
    pub fn is_partial(&self) -> bool {
        self.rules.iter().any(|rule| rule.filters.as_ref().is_some_and(|filters| filters.invalid))
    }

    /// Refuses the rules that have the errors at these fields. `None` where an error is elsewhere, or no rule is left.
    pub fn without<'a>(mut self, errors: impl Iterator<Item = &'a str>) -> Option<HttpRoute> {
        for field in errors {
            let (index, _) = field.strip_prefix("spec.rules[")?.split_once("].")?;
            let rule = self.rules.get_mut(index.parse::<usize>().ok()?)?;
            let filters = Arc::make_mut(rule.filters.get_or_insert_default());
            (filters.refused, filters.invalid) = (true, true);
        }
        (self.refused_rules().len() < self.rules.len()).then_some(self)
    }
}

pub fn decode(root: &Fields<'_>) -> Option<HttpRoute> {
    let spec = root.required("spec")?.object()?;
    spec.unsupported(&["useDefaultGateways"]);
    let parents = decode_parents(&spec);
    let hostnames = spec.list("hostnames").iter().filter_map(hostname).collect();
    let rules = match spec.get("rules") {
        Some(rules) => {
            if rules.list().is_empty() {
                rules.invalid("has no rule", "at least one rule, or no rules at all for one that matches everything");
            }
            spec.distinct("rules", "name").iter().filter_map(decode_rule).collect()
        }
        // The API's default: everything, and nowhere to send it to.
        None => [Rule::to_nowhere(spec.field().document_line())].into(),
    };
    Some(HttpRoute { parents, hostnames, rules })
}

pub fn decode_parents(spec: &Fields<'_>) -> Box<[ParentRef]> {
    if !spec.has("parentRefs") {
        let help = "add parentRefs with the name of a Gateway";
        spec.field().warning("NoParents", "without parentRefs this route is attached to nothing", help);
    }
    spec.list("parentRefs").iter().filter_map(decode_parent).collect()
}

fn decode_parent(field: &Field<'_>) -> Option<ParentRef> {
    let parent = field.object()?;
    parent.describe(&[
        ("group", "gateway.networking.k8s.io", "The API group of the parent."),
        ("kind", "Gateway", "The kind of the parent."),
        ("name", "", "The Gateway that the route attaches to."),
        ("namespace", "", "The Gateway's namespace. By default that of the route."),
        ("sectionName", "", "The listener that the route attaches to. By default all that accept it."),
        ("port", "", "The port of the listeners that the route attaches to."),
    ]);
    let (group, kind) = (parent.str("group").unwrap_or(GROUP), parent.str("kind").unwrap_or("Gateway"));
    let kind = match (group, kind) {
        (GROUP, "Gateway") => ParentKind::Gateway,
        (GROUP, "ListenerSet") => ParentKind::ListenerSet,
        _ => {
            let message = format!("a parent of the kind {kind} is not supported yet: Weir ignores it");
            field.warning("UnsupportedValue", message, "a Gateway or ListenerSet");
            ParentKind::Foreign
        }
    };
    let target = ParentTarget {
        kind,
        namespace: parent.str("namespace").map(recent::name),
        name: recent::name(parent.required("name")?.str()?),
        section: parent.str("sectionName").map(Into::into),
        port: parent.port("port"),
    };
    thread_local! {
        static TARGETS: RefCell<Recent<ParentTarget>> = const { RefCell::new(Recent::new()) };
    }
    Some(ParentRef { target: TARGETS.with_borrow_mut(|recent| recent.share(target)), place: field.node().span })
}

fn decode_rule(field: &Field<'_>) -> Option<Rule> {
    let object = field.object()?;
    let mut rule = Rule::decode(&object, HTTP_TYPES, decode_match);
    shared_cors(&object, &rule.backends);
    if let Some(timeouts) = object.object("timeouts") {
        timeouts.describe(&[
            ("request", "", "Time for the whole request with its retries; `0s` for no limit. Later is 504."),
            ("backendRequest", "", "Time for one try; `0s` for no limit."),
        ]);
        // 0s is no limit.
        let (whole, one) = (timeouts.duration("request"), timeouts.duration("backendRequest"));
        let options = rule.options.get_or_insert_default();
        options.timeout = whole.filter(|d| !d.is_zero());
        options.backend_timeout = one.filter(|d| !d.is_zero());
        if let (Some(whole), Some(one)) = (options.timeout, options.backend_timeout)
            && one > whole
        {
            timeouts.get("backendRequest")?.invalid("is longer than the timeout of the request", "at most timeouts.request");
        }
    }
    if let Some(retry) = object.object("retry").and_then(|r| decode_retry(&r)) {
        rule.options.get_or_insert_default().retry = Some(retry);
    }
    Some(rule)
}

impl Rule {
    /// Matches everything, and has no backend.
    fn to_nowhere(line: u32) -> Rule {
        Rule { matches: [everything()].into(), filters: None, backends: Box::default(), options: None, line }
    }

    pub fn options(&self) -> &RuleOptions {
        static NONE: RuleOptions = RuleOptions { name: None, timeout: None, backend_timeout: None, retry: None, session: None };
        self.options.as_deref().unwrap_or(&NONE)
    }

    /// What rules of both kinds have, with filters of `types`.
    pub fn decode(object: &Fields<'_>, types: &[(&'static str, Type)], decode_match: fn(&Field<'_>) -> Option<Match>) -> Rule {
        let mut rule = Rule::to_nowhere(object.field().document_line());
        let session = object.get("sessionPersistence").and_then(|f| session::decode(&f)).map(Box::new);
        let name: Option<Name> = object.str("name").map(Into::into);
        if session.is_some() || name.is_some() {
            rule.options = Some(Box::new(RuleOptions { name, session, ..RuleOptions::default() }));
        }
        if let Some(matches) = object.get("matches") {
            rule.matches = matches.list().iter().filter_map(decode_match).collect();
        }
        rule.filters = object.get("filters").and_then(|f| decode_filters(&f, types));
        rule.backends = object.list("backendRefs").iter().filter_map(|f| decode_backend(f, types)).collect();
        rule
    }
}

pub fn everything() -> Match {
    static ANY: LazyLock<Arc<RouteMatch>> = LazyLock::new(|| Arc::new(RouteMatch::any()));
    Match { matches: ANY.clone(), path_length: 1, method: false, headers: 0, query_parameters: 0 }
}

fn decode_match(field: &Field<'_>) -> Option<Match> {
    let object = field.object()?;
    let mut made = everything();
    if let Some(path) = object.get("path") {
        let (path, length) = decode_path(&path)?;
        if made.matches.path != path {
            made.edit().path = path;
        }
        made.path_length = length;
    }
    if let Some(method) = object.get("method") {
        const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
        let value = method.choice(&METHODS.map(|m| (m, m)))?;
        let text = ValueMatch::Text(StringMatch::Exact(value.into()));
        made.add_header(HeaderMatch { name: ":method".into(), value: text, invert: false, ignore_case: false });
        made.method = true;
    }
    add_headers(&object, &mut made)?;
    for query in object.list("queryParams") {
        let (name, value) = decode_value(&query)?;
        if made.matches.query_parameters.iter().all(|q| q.name != name) {
            made.query_parameters += 1;
            let parameters = &mut made.edit().query_parameters;
            parameters.reserve_exact(1);
            parameters.push(QueryMatch { name: name.into(), value });
        }
    }
    Some(made)
}

/// The conditions under `headers`.
pub fn add_headers(object: &Fields<'_>, made: &mut Match) -> Option<()> {
    for header in object.list("headers") {
        let (name, value) = decode_value(&header)?;
        let name = name.to_ascii_lowercase();
        // Of equal names the first counts.
        if made.matches.headers.iter().all(|h| h.name != name) {
            made.headers += 1;
            made.add_header(HeaderMatch { name, value, invert: false, ignore_case: false });
        }
    }
    Some(())
}

#[derive(Clone, Copy, PartialEq)]
enum PathType {
    Exact,
    PathPrefix,
    RegularExpression,
}

/// With the length of what is matched.
fn decode_path(field: &Field<'_>) -> Option<(PathMatch, u32)> {
    let object = field.object()?;
    object.describe(&[
        ("type", "PathPrefix", "How `value` matches the path."),
        ("value", "/", "The path, its first segments, or a regular expression for all of it."),
    ]);
    let words = [("Exact", PathType::Exact), ("PathPrefix", PathType::PathPrefix), ("RegularExpression", PathType::RegularExpression)];
    let kind = object.get("type").map_or(Some(PathType::PathPrefix), |f| f.choice(&words))?;
    let value = object.get("value");
    let text = value.as_ref().map_or(Some("/"), |f| f.str())?;
    let at = value.as_ref().unwrap_or(field);
    let length = text.len() as u32;
    if kind == PathType::RegularExpression {
        check_regex(at, text)?;
        return Some((PathMatch::Regex(text.into()), length));
    }
    check_path(at, text)?;
    let path = match (kind, text.trim_end_matches('/')) {
        (PathType::Exact, _) => PathMatch::Exact(text.into()),
        (_, "") => PathMatch::Prefix("/".into()),
        (_, bare) => return Some((PathMatch::PathSeparatedPrefix(bare.into()), bare.len() as u32)),
    };
    Some((path, length))
}

fn decode_value<'a>(field: &Field<'a>) -> Option<(&'a str, ValueMatch)> {
    let object = field.object()?;
    let regex = object.get("type").map_or(Some(false), |f| f.choice(&[("Exact", false), ("RegularExpression", true)]))?;
    let name = object.required("name")?.str()?;
    let value = object.required("value")?;
    let text = value.str()?.to_string();
    if regex {
        check_regex(&value, &text)?;
    }
    Some((name, ValueMatch::Text(if regex { StringMatch::Regex(text) } else { StringMatch::Exact(text) })))
}

/// Preflights are answered before a backend is chosen: the backends of a rule can only agree.
fn shared_cors(rule: &Fields<'_>, backends: &[Backend]) {
    let cors = |b: &Backend| b.filters.as_ref().and_then(|f| f.cors.clone());
    let Some(first) = backends.first() else { return };
    let (first, field) = (cors(first), rule.get("backendRefs"));
    if backends.iter().any(|b| cors(b) != first)
        && let Some(field) = field
    {
        let message = "CORS that differs between backends is not supported yet: requests to those that have it are answered with 500";
        field.warning("UnsupportedField", message, "put it into the filters of the rule, or the same into each backend's");
    }
}

fn decode_retry(object: &Fields<'_>) -> Option<RetryPolicy> {
    object.describe(&[
        ("codes", "", "Responses that are tried again. Failures to connect and resets always are."),
        ("attempts", "1", "How many times a request is tried again."),
        ("backoff", "25ms", "The wait before the first further try; it grows up to ten times that."),
    ]);
    let mut status_codes = Vec::new();
    for code in object.list("codes") {
        status_codes.push(code.int(400..=599)? as u16);
    }
    let num_retries = object.int("attempts", 0..=100).unwrap_or(1) as u32;
    let backoff = object.duration("backoff").unwrap_or(Duration::from_millis(25));
    // A failure to connect and a backend that takes too long are tried again whatever the codes say.
    let mut conditions = vec![RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::Reset];
    if !status_codes.is_empty() {
        conditions.push(RetryOn::RetriableStatusCodes);
    }
    Some(RetryPolicy {
        conditions,
        status_codes,
        num_retries,
        per_try_timeout: None,
        backoff_base: backoff,
        // As Envoy: ten times the base at most.
        backoff_max: backoff.saturating_mul(10),
        avoid_previous_hosts: true,
    })
}

/// With filters of the `types` that the route's kind has.
pub fn decode_backend(field: &Field<'_>, types: &[(&'static str, Type)]) -> Option<Backend> {
    let object = field.object()?;
    object.describe(&[("weight", "1", "The backend's share of requests, relative to the other weights; 0 for none.")]);
    let reference = backend_ref::decode(&object)?;
    let weight = object.int("weight", 0..=1_000_000).unwrap_or(1) as u32;
    let filters = object.get("filters").and_then(|f| decode_filters(&f, types));
    Some(Backend { reference, weight, filters })
}
