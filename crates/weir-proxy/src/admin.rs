//! The admin listener: what runs, how it fares, and the few levers. One table declares the endpoints; dispatch, `/help`
//! and the documentation read it.
mod actions;
mod dump;
mod guard;
mod index;
mod ready;
mod show;
mod stats;
mod status;

pub use stats::{MEMBERSHIP, PROCESS};

use crate::{Shared, app_log::Logger};
use bytes::Bytes;
use guard::Guard;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    header::{self, HeaderValue},
    http::request::Parts,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

/// One address of the admin listener.
pub struct Endpoint {
    pub path: &'static str,
    /// Where `/` lists it.
    pub group: Group,
    /// What changes something is asked for by POST.
    pub changes: bool,
    pub help: &'static str,
    pub parameters: &'static [Parameter],
    handle: fn(&Arc<Shared>, &Query) -> Reply,
}

/// The sections of `/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Server,
    Configuration,
    Statistics,
    Actions,
}

/// A query parameter, or a field of the form that was posted.
pub struct Parameter {
    pub name: &'static str,
    pub help: &'static str,
    pub takes: Takes,
}

/// The values of a parameter.
pub enum Takes {
    Text,
    /// Its presence counts, not its value.
    Flag,
    OneOf(&'static [&'static str]),
    /// The name is a placeholder for one of many.
    Many,
}

impl Endpoint {
    pub fn method(&self) -> &'static str {
        if self.changes { "POST" } else { "GET" }
    }
}

const fn parameter(name: &'static str, takes: Takes, help: &'static str) -> Parameter {
    Parameter { name, help, takes }
}

const JSON: Parameter = parameter("format", Takes::OneOf(&["text", "json"]), "`text` (the default) or `json`");
const FILTER: Parameter = parameter("filter", Takes::Text, "regular expression on names");
const TYPE: Parameter = parameter(
    "type",
    Takes::OneOf(&["All", "Counters", "Gauges", "Histograms"]),
    "`Counters`, `Gauges`, `Histograms` or `All` (the default)",
);
const USED_ONLY: Parameter = parameter("usedonly", Takes::Flag, "only what has ever changed");

/// Every address, in the order of `/help`.
pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        path: "/certs",
        group: Group::Configuration,
        changes: false,
        help: "loaded certificates with their names and expiry, as JSON",
        parameters: &[],
        handle: show::certs,
    },
    Endpoint {
        path: "/clusters",
        group: Group::Configuration,
        changes: false,
        help: "clusters with their endpoints",
        parameters: &[JSON, parameter("filter", Takes::Text, "regular expression on cluster names")],
        handle: show::clusters,
    },
    Endpoint {
        path: "/config_dump",
        group: Group::Configuration,
        changes: false,
        help: "the configuration that serves, as JSON, without its secrets",
        parameters: &[
            parameter("resource", Takes::OneOf(dump::RESOURCES), "only this list, such as `dynamic_listeners`"),
            parameter("name_regex", Takes::Text, "regular expression on the names of resources"),
            parameter("include_eds", Takes::Flag, "with endpoints"),
        ],
        handle: dump::config_dump,
    },
    Endpoint {
        path: "/drain_listeners",
        group: Group::Actions,
        changes: true,
        help: "stop accepting connections on all listeners",
        parameters: &[
            parameter("graceful", Takes::Flag, "first tell clients to close, and accept connections for the drain time"),
            parameter("skip_exit", Takes::Flag, "with `graceful`: never stop accepting"),
        ],
        handle: actions::drain_listeners,
    },
    Endpoint {
        path: "/healthcheck/fail",
        group: Group::Actions,
        changes: true,
        help: "make `/ready` fail, whatever the state",
        parameters: &[],
        handle: actions::health_fail,
    },
    Endpoint {
        path: "/healthcheck/ok",
        group: Group::Actions,
        changes: true,
        help: "undo `/healthcheck/fail`",
        parameters: &[],
        handle: actions::health_ok,
    },
    Endpoint {
        path: "/help",
        group: Group::Server,
        changes: false,
        help: "this list, as text",
        parameters: &[],
        handle: |_, _| Reply::text(help()),
    },
    Endpoint {
        path: "/listeners",
        group: Group::Configuration,
        changes: false,
        help: "listeners that accept connections, with their addresses",
        parameters: &[JSON],
        handle: show::listeners,
    },
    Endpoint {
        path: "/logging",
        group: Group::Actions,
        changes: true,
        help: "show the levels of the application log, and set them where asked to",
        parameters: &[
            parameter(
                "level",
                Takes::OneOf(&["trace", "debug", "info", "warning", "error", "critical", "off"]),
                "of all loggers: `trace`, `debug`, `info`, `warning`, `error`, `critical` or `off`",
            ),
            parameter("paths", Takes::Text, "of some, such as `dns:debug,config:info`"),
            parameter("LOGGER", Takes::Many, "of one, such as `dns=debug`"),
        ],
        handle: actions::logging,
    },
    Endpoint {
        path: "/memory",
        group: Group::Server,
        changes: false,
        help: "memory of the process, as JSON",
        parameters: &[],
        handle: show::memory,
    },
    Endpoint {
        path: "/objects",
        group: Group::Configuration,
        changes: false,
        help: "objects that were read, with their conditions (Accepted, ResolvedRefs, Programmed) and findings, as JSON",
        parameters: &[parameter("filter", Takes::Text, "regular expression on `Kind/namespace/name`")],
        handle: show::objects,
    },
    Endpoint {
        path: "/plugins",
        group: Group::Configuration,
        changes: false,
        help: "plugins: which version serves since when, and why another does not, as JSON",
        parameters: &[],
        handle: show::plugins,
    },
    Endpoint {
        path: "/quitquitquit",
        group: Group::Actions,
        changes: true,
        help: "end the process, after its drain time",
        parameters: &[],
        handle: actions::quit,
    },
    Endpoint {
        path: "/ready",
        group: Group::Server,
        changes: false,
        help: "200 and `LIVE` once all listeners of the first configuration are open and its plugins were tried; otherwise 503, the state, and what has not been read yet and why. A line for each refused plugin, and one that says how old the configuration is while the Kubernetes API cannot be reached",
        parameters: &[JSON],
        handle: ready::ready,
    },
    Endpoint {
        path: "/reopen_logs",
        group: Group::Actions,
        changes: true,
        help: "reopen the files of access logs, as SIGHUP does",
        parameters: &[],
        handle: actions::reopen_logs,
    },
    Endpoint {
        path: "/server_info",
        group: Group::Server,
        changes: false,
        help: "version, state, uptime and options, as JSON",
        parameters: &[],
        handle: show::server_info,
    },
    Endpoint {
        path: "/stats",
        group: Group::Statistics,
        changes: false,
        help: "all statistics",
        parameters: &[
            parameter("format", Takes::OneOf(&["text", "json", "prometheus"]), "`text` (the default), `json` or `prometheus`"),
            FILTER,
            TYPE,
            USED_ONLY,
        ],
        handle: stats::stats,
    },
    Endpoint {
        path: "/stats/prometheus",
        group: Group::Statistics,
        changes: false,
        help: "all statistics in the format of Prometheus",
        parameters: &[FILTER, TYPE, USED_ONLY],
        handle: stats::prometheus,
    },
];

/// The page that links to all of them.
const INDEX: Endpoint = Endpoint {
    path: "/",
    group: Group::Server,
    changes: false,
    help: "the list of endpoints, as HTML",
    parameters: &[],
    handle: |shared, _| index::page(shared),
};

/// The decoded query of a request.
struct Query(Vec<(String, String)>);

impl Query {
    /// The fields of the query string, then those of the posted form.
    fn of(uri: &Uri, form: &[u8]) -> Query {
        let parse = |encoded| url::form_urlencoded::parse(encoded).into_owned();
        Query(parse(uri.query().unwrap_or_default().as_bytes()).chain(parse(form)).collect())
    }
    /// Forms send empty fields; they count as missing.
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }
    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }
    /// A parameter that is a regular expression; found anywhere in a name, as in Envoy.
    fn regex(&self, name: &str) -> Result<Option<regex::Regex>, Reply> {
        let compile = |text| {
            regex::Regex::new(text)
                .map_err(|e| Reply::error(StatusCode::BAD_REQUEST, format!("invalid regular expression in `{name}`: {e}\n")))
        };
        self.get(name).map(compile).transpose()
    }
}

/// An answer.
struct Reply {
    status: StatusCode,
    kind: &'static str,
    body: String,
    allow: Option<&'static str>,
    /// The Content-Security-Policy of a page; other answers need none.
    security_policy: Option<HeaderValue>,
}

impl Reply {
    fn text(body: impl Into<String>) -> Reply {
        Reply { status: StatusCode::OK, kind: "text/plain; charset=UTF-8", body: body.into(), allow: None, security_policy: None }
    }
    fn json(value: &serde_json::Value) -> Reply {
        let body = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
        Reply { kind: "application/json", ..Reply::text(body) }
    }
    fn error(status: StatusCode, body: impl Into<String>) -> Reply {
        Reply { status, ..Reply::text(body) }
    }
}

fn help() -> String {
    let mut out = "admin commands are:\n  /: this list, as HTML\n".to_string();
    for e in ENDPOINTS {
        let method = if e.changes { " (POST)" } else { "" };
        out += &format!("  {}{method}: {}\n", e.path, e.help);
        for p in e.parameters {
            out += &format!("      {}: {}\n", p.name, p.help);
        }
    }
    out
}

/// What a request asks for, or why it is refused.
fn endpoint(shared: &Shared, head: &Parts, local: SocketAddr) -> Result<&'static Endpoint, Reply> {
    let path = head.uri.path();
    let endpoint = if path == "/" { Some(&INDEX) } else { ENDPOINTS.iter().find(|e| e.path == path) };
    let guard = Guard { allowed_hosts: &shared.options.admin_allowed_hosts, local };
    if let Err(why) = guard.check(head, endpoint.is_none_or(|e| e.changes)) {
        Logger::Admin.warning(format_args!("{} {path} refused: {}", head.method, why));
        return Err(Reply::error(StatusCode::FORBIDDEN, format!("{why}\n")));
    }
    let endpoint = endpoint.ok_or_else(|| Reply::error(StatusCode::NOT_FOUND, format!("invalid path `{path}`; {}", help())))?;
    let method = &head.method;
    let fits = if endpoint.changes { method == Method::POST } else { method == Method::GET || method == Method::HEAD };
    if fits {
        return Ok(endpoint);
    }
    let right = endpoint.method();
    let text = format!("method {method} not allowed, {right} required for {path}\n");
    Err(Reply { allow: Some(right), ..Reply::error(StatusCode::METHOD_NOT_ALLOWED, text) })
}

/// Most bytes of a form.
const MAX_FORM: usize = 64 << 10;
/// How long a head, and how long a form may take to arrive.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// The fields that were posted, as a browser or curl's `-d` encodes them.
async fn form(head: &Parts, body: Incoming) -> Result<Bytes, Reply> {
    let kind = head.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("application/x-www-form-urlencoded") {
        return Ok(Bytes::new());
    }
    let late = |_| Reply::error(StatusCode::REQUEST_TIMEOUT, format!("the form did not arrive within {READ_TIMEOUT:?}\n"));
    let body = tokio::time::timeout(READ_TIMEOUT, Limited::new(body, MAX_FORM).collect()).await.map_err(late)?;
    let refused = |e| Reply::error(StatusCode::BAD_REQUEST, format!("cannot read the form of at most {MAX_FORM} bytes: {e}\n"));
    body.map(http_body_util::Collected::to_bytes).map_err(refused)
}

async fn answer(shared: &Arc<Shared>, role: Role, request: Request<Incoming>, local: SocketAddr) -> Result<Reply, Reply> {
    let (head, body) = request.into_parts();
    if role == Role::Status {
        return status::answer(shared, &head);
    }
    let endpoint = endpoint(shared, &head, local)?;
    let form = if endpoint.changes { form(&head, body).await? } else { Bytes::new() };
    Ok((endpoint.handle)(shared, &Query::of(&head.uri, &form)))
}

/// On every answer: no guessing of its type, no use by other origins, and no frames.
const ALWAYS: [(header::HeaderName, &str); 6] = [
    (header::CACHE_CONTROL, "no-cache, max-age=0"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // With `no-referrer` a browser would send `Origin: null` for the listener's own forms.
    (header::REFERRER_POLICY, "same-origin"),
    (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

async fn handle(
    shared: Arc<Shared>,
    role: Role,
    request: Request<Incoming>,
    local: SocketAddr,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let reply = answer(&shared, role, request, local).await.unwrap_or_else(|refused| refused);
    let mut response = Response::new(Full::from(reply.body));
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(reply.kind));
    for (name, value) in ALWAYS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.extend(reply.security_policy.map(|policy| (header::CONTENT_SECURITY_POLICY, policy)));
    if let Some(allow) = reply.allow {
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    Ok(response)
}

/// What a listener answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// All of [`ENDPOINTS`], guarded.
    Admin,
    /// Health checks and metrics, for anybody in the network.
    Status,
}

/// Serves on the main runtime until it ends.
pub(crate) async fn serve(listener: std::net::TcpListener, role: Role, shared: Arc<Shared>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        let io = match listener.accept().await {
            Ok((io, _)) => io,
            Err(e) => {
                Logger::Admin.warning(format_args!("cannot accept: {e}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            let Ok(local) = io.local_addr() else { return };
            let service = service_fn(move |request| handle(shared.clone(), role, request, local));
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT);
            if let Err(e) = http.serve_connection(TokioIo::new(io), service).await {
                Logger::Admin.debug(format_args!("{e}"));
            }
        });
    }
}
