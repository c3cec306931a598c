//! The admin listener: what runs, how it fares, and the few levers. One table declares the endpoints; dispatch, `/help`
//! and the documentation read it.
mod actions;
mod dump;
mod show;
mod stats;

use crate::{Shared, logging::Logger};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, sync::Arc, time::Duration};

/// One address of the admin listener.
pub struct Endpoint {
    pub path: &'static str,
    /// What changes something is asked for by POST.
    pub changes: bool,
    pub help: &'static str,
    /// Query parameters with their meaning.
    pub parameters: &'static [(&'static str, &'static str)],
    handle: fn(&Arc<Shared>, &Query) -> Reply,
}

impl Endpoint {
    pub fn method(&self) -> &'static str {
        if self.changes { "POST" } else { "GET" }
    }
}

/// Every address, in the order of `/help`.
pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        path: "/certs",
        changes: false,
        help: "certificates that are loaded, with their names and their ends, as JSON",
        parameters: &[],
        handle: show::certs,
    },
    Endpoint {
        path: "/clusters",
        changes: false,
        help: "clusters with their endpoints",
        parameters: &[("format", "`json`, else text"), ("filter", "regular expression on cluster names")],
        handle: show::clusters,
    },
    Endpoint {
        path: "/config_dump",
        changes: false,
        help: "the configuration that is served, as JSON",
        parameters: &[
            ("resource", "only this list, as `dynamic_listeners`, `dynamic_active_clusters`, `dynamic_route_configs`"),
            ("name_regex", "regular expression on the names of resources"),
            ("include_eds", "with endpoints"),
        ],
        handle: dump::config_dump,
    },
    Endpoint {
        path: "/drain_listeners",
        changes: true,
        help: "stop accepting connections on all listeners",
        parameters: &[
            ("graceful", "tell connections to close and go on accepting for the drain time first"),
            ("skip_exit", "with `graceful`: never stop accepting"),
        ],
        handle: actions::drain_listeners,
    },
    Endpoint {
        path: "/healthcheck/fail",
        changes: true,
        help: "be not ready, whatever the state",
        parameters: &[],
        handle: actions::health_fail,
    },
    Endpoint { path: "/healthcheck/ok", changes: true, help: "take `/healthcheck/fail` back", parameters: &[], handle: actions::health_ok },
    Endpoint { path: "/help", changes: false, help: "this list", parameters: &[], handle: |_, _| Reply::text(help()) },
    Endpoint {
        path: "/listeners",
        changes: false,
        help: "listeners that accept, with their addresses",
        parameters: &[("format", "`json`, else text")],
        handle: show::listeners,
    },
    Endpoint {
        path: "/logging",
        changes: true,
        help: "levels of the application log: shows them, and sets them where asked to",
        parameters: &[
            ("level", "for all loggers: `trace`, `debug`, `info`, `warning`, `error`, `critical` or `off`"),
            ("paths", "for some, as `dns:debug,config:info`"),
            ("LOGGER", "for one, as `dns=debug`"),
        ],
        handle: actions::logging,
    },
    Endpoint { path: "/memory", changes: false, help: "memory of the process, as JSON", parameters: &[], handle: show::memory },
    Endpoint {
        path: "/objects",
        changes: false,
        help: "objects that were read, with their conditions (Accepted, ResolvedRefs, Programmed) and findings, as JSON",
        parameters: &[("filter", "regular expression on `Kind/namespace/name`")],
        handle: show::objects,
    },
    Endpoint {
        path: "/plugins",
        changes: false,
        help: "plugins: which generation serves since when, and why a version does not, as JSON",
        parameters: &[],
        handle: show::plugins,
    },
    Endpoint { path: "/quitquitquit", changes: true, help: "end the proxy, after its drain time", parameters: &[], handle: actions::quit },
    Endpoint {
        path: "/ready",
        changes: false,
        help: "200 and `LIVE` once the first configuration serves on all its listeners, else 503 and the state",
        parameters: &[],
        handle: show::ready,
    },
    Endpoint {
        path: "/reopen_logs",
        changes: true,
        help: "open the files of access logs anew, as SIGHUP does",
        parameters: &[],
        handle: actions::reopen_logs,
    },
    Endpoint {
        path: "/server_info",
        changes: false,
        help: "version, state, uptime and options, as JSON",
        parameters: &[],
        handle: show::server_info,
    },
    Endpoint {
        path: "/stats",
        changes: false,
        help: "all statistics",
        parameters: &[
            ("format", "`text` (the default), `json` or `prometheus`"),
            ("filter", "regular expression on names"),
            ("type", "`Counters`, `Gauges`, `Histograms` or `All` (the default)"),
            ("usedonly", "only what has ever changed"),
        ],
        handle: stats::stats,
    },
    Endpoint {
        path: "/stats/prometheus",
        changes: false,
        help: "all statistics in Prometheus' format",
        parameters: &[("filter", "regular expression on names"), ("type", "as for `/stats`"), ("usedonly", "only what has ever changed")],
        handle: stats::prometheus,
    },
];

/// The decoded query of a request.
struct Query(Vec<(String, String)>);

impl Query {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
    /// A parameter that is a regular expression; found anywhere in a name, as in Envoy.
    fn regex(&self, name: &str) -> Result<Option<regex::Regex>, Reply> {
        let compile = |text| {
            regex::Regex::new(text)
                .map_err(|e| Reply::error(StatusCode::BAD_REQUEST, format!("invalid regular expression in `{name}`: {e}\n")))
        };
        self.get(name).filter(|t| !t.is_empty()).map(compile).transpose()
    }
}

/// An answer.
struct Reply {
    status: StatusCode,
    kind: &'static str,
    body: String,
    allow: Option<&'static str>,
}

impl Reply {
    fn text(body: impl Into<String>) -> Reply {
        Reply { status: StatusCode::OK, kind: "text/plain; charset=UTF-8", body: body.into(), allow: None }
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
    let mut out = "admin commands are:\n  /: this list\n".to_string();
    for e in ENDPOINTS {
        let method = if e.changes { " (POST)" } else { "" };
        out += &format!("  {}{method}: {}\n", e.path, e.help);
        for (name, meaning) in e.parameters {
            out += &format!("      {name}: {meaning}\n");
        }
    }
    out
}

fn answer(shared: &Arc<Shared>, method: &Method, path: &str, query: &str, cross_site: bool) -> Reply {
    let path = if path == "/" { "/help" } else { path };
    let Some(endpoint) = ENDPOINTS.iter().find(|e| e.path == path) else {
        return Reply::error(StatusCode::NOT_FOUND, format!("invalid path `{path}`; {}", help()));
    };
    let fits = if endpoint.changes { method == Method::POST } else { method == Method::GET || method == Method::HEAD };
    if !fits {
        let right = endpoint.method();
        let text = format!("method {method} not allowed, {right} required for {path}\n");
        return Reply { allow: Some(right), ..Reply::error(StatusCode::METHOD_NOT_ALLOWED, text) };
    }
    if endpoint.changes && cross_site {
        return Reply::error(StatusCode::FORBIDDEN, "a page of another site must not change anything here\n");
    }
    let query = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    (endpoint.handle)(shared, &Query(query))
}

async fn handle(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let uri = request.uri();
    let cross_site = request.headers().get("sec-fetch-site").is_some_and(|v| v == "cross-site");
    let reply = answer(&shared, request.method(), uri.path(), uri.query().unwrap_or_default(), cross_site);
    let mut response = Response::new(Full::from(reply.body));
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(reply.kind));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache, max-age=0"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    if let Some(allow) = reply.allow {
        headers.insert(header::ALLOW, header::HeaderValue::from_static(allow));
    }
    Ok(response)
}

/// Serves on the main runtime until it ends.
pub(crate) async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) {
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
            let service = service_fn(move |request| handle(shared.clone(), request));
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(60));
            if let Err(e) = http.serve_connection(TokioIo::new(io), service).await {
                Logger::Admin.debug(format_args!("{e}"));
            }
        });
    }
}
