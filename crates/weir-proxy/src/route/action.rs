//! One route at run time: everything that its requests need, prebuilt.
use super::{
    matcher::{Header, Invalid, Patterns, Query},
    rewrite::{PathRewriteRt, RedirectRt},
};
use crate::{
    cluster::ClusterSlot,
    filter::{
        config::Overrides,
        headers::{Edits, no_host},
    },
    head_access::RequestView,
    retry::RetryRt,
    session::Session,
};
use bytes::Bytes;
use regex::bytes::Regex;
use std::{sync::Arc, time::Duration};
use weir_config::{
    diagnostic::Diagnostic,
    model::{
        self, ErrorBackend, Forward, Fraction, HostRewrite, Mirror, Name, PathMatch, PathRewrite, Rare, Route, RouteAction, RouteMatch,
        SessionPersistence, WeightedCluster,
    },
};
use weir_net::http::text::is_authority;

/// A compiled [`Route`].
pub struct RouteRt {
    pub config: Arc<Route>,
    pub action: ActionRt,
    /// `None` where there is nothing to edit.
    pub request_headers: Option<Arc<Edits>>,
    pub response_headers: Option<Arc<Edits>>,
    /// In place of the configurations of the connection manager.
    pub filters: Overrides,
    condition: Condition,
}

/// What is left to check once the index has found the path.
struct Condition {
    /// `None` where the path decides alone, and nothing was found: most routes are so.
    rest: Option<Box<Rest>>,
    /// Where the path's prefix ends.
    prefix: Prefix,
    ignore_case: bool,
}

/// What a request has to satisfy beside the index.
#[derive(Default)]
struct Rest {
    regex: Option<Regex>,
    headers: Box<[Header]>,
    query: Box<[Query]>,
    /// What compiling the route found.
    findings: Vec<Diagnostic>,
}

/// How many bytes of the path a route's prefix matched.
#[derive(Clone, Copy)]
struct Prefix(u32);

impl Prefix {
    /// The whole path.
    const WHOLE: Prefix = Prefix(u32::MAX);

    fn of(text: &str) -> Prefix {
        Prefix(text.len() as u32)
    }
}

pub enum ActionRt {
    Forward(ForwardRt),
    Redirect(Box<RedirectRt>),
    Direct(Box<DirectResponse>),
}

pub struct DirectResponse {
    pub status: u16,
    pub body: Bytes,
}

/// A compiled [`Forward`].
pub struct ForwardRt {
    targets: Box<[Target]>,
    options: Option<Box<ForwardOptions>>,
}

/// What a route may ask for beside its clusters.
#[derive(Default)]
struct ForwardOptions {
    path_rewrite: Option<PathRewriteRt>,
    host_rewrite: Option<HostRewrite>,
    timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
    retry: Option<RetryRt>,
    mirrors: Box<[MirrorRt]>,
    session: Option<Arc<SessionPersistence>>,
    error_backend: Option<Box<ErrorBackendRt>>,
}

/// A compiled [`ErrorBackend`].
pub struct ErrorBackendRt {
    pub statuses: Box<[u16]>,
    pub target: Target,
}

/// One of the clusters that a route splits between.
pub struct Target {
    /// `None` is a reference that could not be resolved: to be answered with `unresolved_status`.
    pub cluster: Option<Arc<ClusterSlot>>,
    pub unresolved_status: u16,
    options: Option<Box<TargetOptions>>,
    weight: u32,
}

/// What a target has beside its cluster.
#[derive(Default)]
struct TargetOptions {
    request_headers: Option<Arc<Edits>>,
    response_headers: Option<Arc<Edits>>,
    /// Instead of the route's.
    path_rewrite: Option<PathRewriteRt>,
    host_rewrite: Option<HostRewrite>,
    /// Answers instead of the cluster.
    redirect: Option<RedirectRt>,
    /// Beside those of the route.
    mirrors: Box<[MirrorRt]>,
}

pub struct MirrorRt {
    pub cluster: Arc<ClusterSlot>,
    pub fraction: Fraction,
    /// The copy's host gets `-shadow`.
    pub shadow_host: bool,
}

impl RouteRt {
    /// The error is what keeps the route from being used.
    pub(super) fn compile(
        config: &Arc<Route>,
        host_filters: &Overrides,
        clusters: &mut dyn FnMut(&Name) -> Arc<ClusterSlot>,
        patterns: &mut Patterns,
    ) -> Result<RouteRt, Diagnostic> {
        let wrong = |what: &str| {
            let what = format!("route `{}`: {what}", config.name);
            move |e: Invalid| {
                Diagnostic::error("InvalidValue", format!("{what}: {e}")).help("accepted are regular expressions in RE2's syntax")
            }
        };
        let mut findings = Vec::new();
        let action = match &config.action {
            RouteAction::Forward(forward) => {
                ActionRt::Forward(ForwardRt::compile(forward, clusters, patterns, &mut findings).map_err(wrong("rewrite"))?)
            }
            RouteAction::Redirect(redirect) => {
                let redirect = RedirectRt::compile(redirect, patterns).map_err(wrong("redirect"))?;
                ActionRt::Redirect(Box::new(redirect))
            }
            RouteAction::DirectResponse(direct) => {
                ActionRt::Direct(Box::new(DirectResponse { status: direct.status, body: Bytes::from(direct.body.clone()) }))
            }
        };
        let mut condition = Condition::compile(&config.matches, patterns).map_err(wrong("match"))?;
        let filters = Overrides::compile(&config.per_filter_config, host_filters, patterns).map_err(wrong("per_filter_config"))?;
        let request_headers = patterns.edits(&config.request_headers, &mut findings);
        let response_headers = patterns.edits(&config.response_headers, &mut findings);
        if !findings.is_empty() {
            let findings = findings.into_iter().map(|f| f.from_origin(&config.origin)).collect();
            condition.rest.get_or_insert_default().findings = findings;
        }
        Ok(RouteRt { config: config.clone(), action, request_headers, response_headers, filters, condition })
    }

    /// What compiling it found.
    pub(super) fn findings(&self) -> &[Diagnostic] {
        self.condition.rest.as_ref().map_or(&[], |rest| &rest.findings)
    }

    pub fn name(&self) -> &Name {
        &self.config.name
    }

    /// Bytes of the path that the route's prefix matched: what prefix rewrites replace.
    pub fn matched(&self, path: &[u8]) -> usize {
        path.len().min(self.condition.prefix.0 as usize)
    }

    /// Whether a request whose path the index found fits in everything else.
    pub(super) fn accepts(&self, path: &[u8], request: &dyn RequestView) -> bool {
        let c = &self.condition;
        (!c.ignore_case || path_ignoring_case(&self.config.matches.path, path))
            && c.rest.as_ref().is_none_or(|rest| rest.accepts(path, request))
    }

    /// As [`RouteRt::accepts`], without an index.
    pub(super) fn matches(&self, path: &[u8], request: &dyn RequestView) -> bool {
        (self.condition.ignore_case || path_fits(&self.config.matches.path, path)) && self.accepts(path, request)
    }
}

impl Rest {
    fn accepts(&self, path: &[u8], request: &dyn RequestView) -> bool {
        self.regex.as_ref().is_none_or(|r| r.is_match(path))
            && self.headers.iter().all(|h| h.matches(request))
            && (self.query.is_empty() || self.query.iter().all(|q| q.matches(request.query())))
    }
}

/// Whether a path fits, as far as it takes no regular expression to tell.
fn path_fits(of: &PathMatch, path: &[u8]) -> bool {
    match of {
        PathMatch::Exact(p) => path == p.as_bytes(),
        PathMatch::Prefix(p) => path.starts_with(p.as_bytes()),
        PathMatch::PathSeparatedPrefix(p) => {
            path.strip_prefix(p.trim_end_matches('/').as_bytes()).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
        }
        PathMatch::Regex(_) => true,
    }
}

fn path_ignoring_case(of: &PathMatch, path: &[u8]) -> bool {
    let begins = |p: &[u8]| path.get(..p.len()).is_some_and(|head| head.eq_ignore_ascii_case(p));
    match of {
        PathMatch::Exact(p) => path.eq_ignore_ascii_case(p.as_bytes()),
        PathMatch::Prefix(p) => begins(p.as_bytes()),
        PathMatch::PathSeparatedPrefix(p) => {
            let p = p.trim_end_matches('/').as_bytes();
            begins(p) && matches!(path.get(p.len()), None | Some(b'/'))
        }
        PathMatch::Regex(_) => true,
    }
}

impl Condition {
    fn compile(of: &RouteMatch, patterns: &mut Patterns) -> Result<Condition, Invalid> {
        let regex = match &of.path {
            PathMatch::Regex(p) => Some(patterns.whole(p, of.ignore_case)?),
            _ => None,
        };
        let prefix = match &of.path {
            PathMatch::Prefix(p) => Prefix::of(p),
            PathMatch::PathSeparatedPrefix(p) => Prefix::of(p.trim_end_matches('/')),
            PathMatch::Exact(_) | PathMatch::Regex(_) => Prefix::WHOLE,
        };
        let headers: Box<[_]> = of.headers.iter().map(|h| Header::compile(h, patterns)).collect::<Result<_, _>>()?;
        let query: Box<[_]> = of.query_parameters.iter().map(|q| Query::compile(q, patterns)).collect::<Result<_, _>>()?;
        let any = regex.is_some() || !headers.is_empty() || !query.is_empty();
        Ok(Condition {
            rest: any.then(|| Box::new(Rest { regex, headers, query, findings: Vec::new() })),
            prefix,
            ignore_case: of.ignore_case,
        })
    }
}

impl ErrorBackendRt {
    fn compile(
        of: &ErrorBackend,
        clusters: &mut dyn FnMut(&Name) -> Arc<ClusterSlot>,
        patterns: &mut Patterns,
        findings: &mut Vec<Diagnostic>,
    ) -> ErrorBackendRt {
        let request_headers = patterns.edits(&of.request_headers, findings);
        let options = request_headers.map(|edits| Box::new(TargetOptions { request_headers: Some(edits), ..TargetOptions::default() }));
        let target = Target { cluster: Some(clusters(&of.cluster)), unresolved_status: 503, options, weight: 1 };
        ErrorBackendRt { statuses: of.statuses.clone().into(), target }
    }
}

impl ForwardRt {
    fn compile(
        of: &Forward,
        clusters: &mut dyn FnMut(&Name) -> Arc<ClusterSlot>,
        patterns: &mut Patterns,
        findings: &mut Vec<Diagnostic>,
    ) -> Result<ForwardRt, Invalid> {
        let mut targets = Vec::with_capacity(of.clusters.len());
        for c in &of.clusters {
            targets.push(Target {
                cluster: c.cluster.as_ref().map(&mut *clusters),
                unresolved_status: c.unresolved_status,
                options: TargetOptions::compile(c, clusters, patterns, findings)?,
                weight: c.weight,
            });
        }
        Ok(ForwardRt { targets: targets.into(), options: ForwardOptions::compile(of, clusters, patterns, findings)? })
    }

    /// From the whole request to the whole response.
    pub fn timeout(&self) -> Option<Duration> {
        self.options.as_ref()?.timeout
    }
    /// Overrides the connection manager's `stream_idle_timeout`.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.options.as_ref()?.idle_timeout
    }
    pub fn retry(&self) -> Option<&RetryRt> {
        self.options.as_ref()?.retry.as_ref()
    }
    pub fn session(&self) -> Option<&SessionPersistence> {
        self.options.as_ref()?.session.as_deref()
    }
    pub fn error_backend(&self) -> Option<&ErrorBackendRt> {
        self.options.as_ref()?.error_backend.as_deref()
    }
    /// Those of the route and of the target.
    pub fn mirrors<'a>(&'a self, target: &'a Target) -> impl Iterator<Item = &'a MirrorRt> {
        let of_target = target.options.iter().flat_map(|options| &options.mirrors);
        self.options.iter().flat_map(|options| &options.mirrors).chain(of_target)
    }

    /// The target of a session, whatever its weight is beside others; a weight of 0 ends it.
    pub fn target_of(&self, session: &Session) -> Option<&Target> {
        let has = |t: &&Target| t.weight > 0 && t.cluster.as_ref().is_some_and(|c| session.is_of(&c.name));
        self.targets.iter().find(has)
    }

    /// The target for a random number, by weight. `None` where all weights are 0: to be answered 500.
    pub fn choose(&self, random: u64) -> Option<&Target> {
        if let [only] = &*self.targets {
            return (only.weight > 0).then_some(only);
        }
        let total: u64 = self.targets.iter().map(|t| u64::from(t.weight)).sum();
        let mut at = ((u128::from(random) * u128::from(total)) >> 64) as u64;
        self.targets.iter().find(|t| {
            let weight = u64::from(t.weight);
            let here = at < weight;
            at = at.saturating_sub(weight);
            here
        })
    }
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }
    /// The target's own rewrite, or the route's.
    pub fn path_rewrite<'a>(&'a self, target: &'a Target) -> Option<&'a PathRewriteRt> {
        let own = target.options.as_ref().and_then(|options| options.path_rewrite.as_ref());
        own.or_else(|| self.options.as_ref()?.path_rewrite.as_ref())
    }
    /// The target's own rewrite, or the route's.
    pub fn host_rewrite<'a>(&'a self, target: &'a Target) -> Option<&'a HostRewrite> {
        let own = target.options.as_ref().and_then(|options| options.host_rewrite.as_ref());
        own.or_else(|| self.options.as_ref()?.host_rewrite.as_ref())
    }
}

impl Target {
    pub fn request_headers(&self) -> Option<&Arc<Edits>> {
        self.options.as_ref()?.request_headers.as_ref()
    }
    pub fn response_headers(&self) -> Option<&Arc<Edits>> {
        self.options.as_ref()?.response_headers.as_ref()
    }
    /// Answers instead of the cluster.
    pub fn redirect(&self) -> Option<&RedirectRt> {
        self.options.as_ref()?.redirect.as_ref()
    }
}

impl ForwardOptions {
    /// `None` for a route that asks for none.
    fn compile(
        of: &Forward,
        clusters: &mut dyn FnMut(&Name) -> Arc<ClusterSlot>,
        patterns: &mut Patterns,
        findings: &mut Vec<Diagnostic>,
    ) -> Result<Option<Box<ForwardOptions>>, Invalid> {
        let model::ForwardOptions { path_rewrite, host_rewrite, timeout, idle_timeout, retry, mirrors, session, error_backend } =
            &*of.options;
        if of.options == Rare::default() {
            return Ok(None);
        }
        let error_backend = error_backend.as_deref().map(|backend| ErrorBackendRt::compile(backend, clusters, patterns, findings));
        Ok(Some(Box::new(ForwardOptions {
            path_rewrite: compile_path_rewrite(path_rewrite.as_deref(), patterns)?,
            host_rewrite: compile_host_rewrite(host_rewrite.as_ref(), findings),
            timeout: *timeout,
            idle_timeout: *idle_timeout,
            retry: retry.as_ref().map(RetryRt::new),
            mirrors: compile_mirrors(mirrors, clusters),
            session: session.clone(),
            error_backend: error_backend.map(Box::new),
        })))
    }
}

impl TargetOptions {
    /// `None` for a target that has none.
    fn compile(
        of: &WeightedCluster,
        clusters: &mut dyn FnMut(&Name) -> Arc<ClusterSlot>,
        patterns: &mut Patterns,
        findings: &mut Vec<Diagnostic>,
    ) -> Result<Option<Box<TargetOptions>>, Invalid> {
        if of.options == Rare::default() {
            return Ok(None);
        }
        Ok(Some(Box::new(TargetOptions {
            request_headers: patterns.edits(&of.request_headers, findings),
            response_headers: patterns.edits(&of.response_headers, findings),
            path_rewrite: compile_path_rewrite(of.path_rewrite.as_deref(), patterns)?,
            host_rewrite: compile_host_rewrite(of.host_rewrite.as_ref(), findings),
            redirect: of.redirect.as_ref().map(|r| RedirectRt::compile(r, patterns)).transpose()?,
            mirrors: compile_mirrors(&of.mirrors, clusters),
        })))
    }
}

fn compile_path_rewrite(of: Option<&PathRewrite>, patterns: &mut Patterns) -> Result<Option<PathRewriteRt>, Invalid> {
    of.map(|r| PathRewriteRt::compile(r, patterns)).transpose()
}

/// The rewrite; one to a host that cannot be one is left out, with a finding.
fn compile_host_rewrite(of: Option<&HostRewrite>, findings: &mut Vec<Diagnostic>) -> Option<HostRewrite> {
    match of {
        Some(HostRewrite::Literal(host)) if !is_authority(host.as_bytes()) => {
            findings.push(no_host(host));
            None
        }
        of => of.cloned(),
    }
}

fn compile_mirrors(of: &[Mirror], clusters: &mut dyn FnMut(&Name) -> Arc<ClusterSlot>) -> Box<[MirrorRt]> {
    let compile =
        |m: &Mirror| MirrorRt { cluster: clusters(&m.cluster), fraction: m.fraction, shadow_host: !m.disable_shadow_host_suffix_append };
    of.iter().map(compile).collect()
}
