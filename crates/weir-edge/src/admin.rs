//! The admin endpoints: on a Unix socket that only its owner can use, and on a loopback port if there is one.
mod ask;
pub mod audit;
pub mod inspect;
mod metrics;
mod outbox;
mod ready;
mod stats;

pub use ask::{AskError, ask};

use crate::{
    body::{Body, BodyError, full, streamed},
    cache::head::seconds,
    hub::Hub,
};
use audit::Known;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use inspect::{
    Set,
    objects::{self, Damage, Wanted},
};
use serde_json::json;
use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, mpsc},
};
use weir_net::exposition;

/// Clients at a time; the others wait.
const CLIENTS: usize = 16;
/// How long a head may take to arrive.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// The one endpoint that changes something.
const DROP: &str = "/outbox/drop";

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Socket,
    Port,
}

/// An answer.
pub struct Reply {
    status: StatusCode,
    kind: &'static str,
    body: Bytes,
}

impl Reply {
    fn text(body: impl Into<Bytes>) -> Reply {
        Reply { status: StatusCode::OK, kind: "text/plain; charset=utf-8", body: body.into() }
    }
    fn json(value: &serde_json::Value) -> Reply {
        let body = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
        Reply { kind: "application/json", ..Reply::text(body) }
    }
    fn error(status: StatusCode, body: impl Into<Bytes>) -> Reply {
        Reply { status, ..Reply::text(body) }
    }
}

const HELP: &str = "\
/healthz            ok while the process runs
/readyz             whether the node can use the hub, and why not; JSON with ?format=json
/metrics            metrics for Prometheus
/stats              the link, what is kept, disk use and the last errors, as JSON
On the socket only:
/audit              whether the node could restart now
/outbox             what waits for the API server, and what it has refused
/outbox/item?name=  one item of it; POST /outbox/drop?name= forgets it
/cache/sets         the lists that are kept
/cache/object       one object: ?resource=, ?namespace=, ?name=, ?user=, ?show-secrets=true
/cache/verify       what is damaged
/cache/export       all objects, a line of JSON each
";

/// The one endpoint whose answer may be as large as the store.
const EXPORT: &str = "/cache/export";
/// Pieces of it that wait for the client.
const EXPORTED: usize = 8;

fn answer(hub: &Hub, head: &Parts) -> Reply {
    let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
    let name =
        || url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "name").map_or(String::new(), |(_, v)| v.into_owned());
    let json = query.split('&').any(|field| field == "format=json")
        || head.headers.get(header::ACCEPT).is_some_and(|accept| accept == "application/json");
    match path {
        "/" => Reply::text(HELP),
        "/healthz" => Reply::text("ok"),
        "/readyz" => ready::reply(hub, json),
        "/metrics" => Reply { kind: exposition::CONTENT_TYPE, ..Reply::text(metrics::text(hub)) },
        "/stats" => Reply::json(&stats::of(hub)),
        "/audit" => Reply::json(&audit(hub)),
        "/outbox" => Reply::json(&outbox::list(hub)),
        "/outbox/item" => outbox::get(hub, &name()),
        DROP => outbox::drop_item(hub, &name()),
        "/cache/sets" => Reply::json(&sets(hub)),
        "/cache/object" => match objects::newest(&hub.cache.store, &Wanted::read(query)) {
            Some(found) => Reply::json(&found),
            None => Reply::error(StatusCode::NOT_FOUND, "no such object is kept\n"),
        },
        "/cache/verify" => {
            let (objects, damaged) = objects::verify(&hub.cache.store);
            Reply::json(&json!({ "objects": objects, "damaged": damaged.iter().map(Damage::to_json).collect::<Vec<_>>() }))
        }
        path => Reply::error(StatusCode::NOT_FOUND, format!("there is no {path}; there are:\n{HELP}")),
    }
}

/// Why a request gets no answer.
fn refusal(head: &Parts, origin: Origin) -> Option<Reply> {
    let path = head.uri.path();
    if origin == Origin::Port {
        if !is_local(head) {
            return Some(Reply::error(StatusCode::FORBIDDEN, "the Host header must be 127.0.0.1, [::1] or localhost\n"));
        }
        if ["/audit", "/outbox", "/cache"].iter().any(|prefix| path.starts_with(prefix)) {
            return Some(Reply::error(StatusCode::FORBIDDEN, format!("{path} is on the admin socket only\n")));
        }
    }
    let allowed = if path == DROP { head.method == Method::POST } else { matches!(head.method, Method::GET | Method::HEAD) };
    let wanted = if path == DROP { "POST" } else { "GET" };
    (!allowed).then(|| Reply::error(StatusCode::METHOD_NOT_ALLOWED, format!("{} is not allowed; use {wanted}\n", head.method)))
}

fn sets(hub: &Hub) -> serde_json::Value {
    let with_agents = |set: &Set| {
        let mut value = set.to_json();
        value["agents"] = hub.cache.agents.of(&set.name).into();
        value
    };
    inspect::sets(&hub.cache.store).iter().map(with_agents).collect()
}

fn audit(hub: &Hub) -> serde_json::Value {
    let known = Known {
        user: &hub.node,
        node: &hub.writes.node,
        tokens: hub.writes.replies.account_tokens().into_iter().map(|(_, token)| token).collect(),
        certificate: hub.remote.certificate().map(seconds),
        now: SystemTime::now(),
    };
    audit::report(&hub.cache, &known)
}

/// The objects line by line, as the client reads them.
fn export(hub: Arc<Hub>, query: &str) -> Body {
    let (send, receive) = mpsc::channel(EXPORTED);
    let wanted = Wanted::read(query);
    tokio::task::spawn_blocking(move || {
        objects::each(&hub.cache.store, &wanted, |row| send.blocking_send(Bytes::from(row.to_string() + "\n")).is_ok());
    });
    let next = |mut receive: mpsc::Receiver<Bytes>| async move {
        let piece = receive.recv().await?;
        Some((Ok::<_, BodyError>(Frame::data(piece)), receive))
    };
    streamed(StreamBody::new(futures_util::stream::unfold(receive, next)))
}

/// A page in a browser must not read the port under a name of its own (DNS rebinding).
fn is_local(head: &Parts) -> bool {
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(name, _)| name);
    matches!(name, "localhost" | "[::1]" | "") || name.parse().is_ok_and(|ip: std::net::Ipv4Addr| ip.is_loopback())
}

/// A socket for its owner only. It replaces a socket that an earlier hub left behind, and nothing else.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is not a socket")),
        _ => {}
    }
    // The mode is set before the socket has its name, so that nobody can connect earlier.
    let unnamed = path.with_extension("new");
    let _ = fs::remove_file(&unnamed);
    let listener = UnixListener::bind(&unnamed)?;
    fs::set_permissions(&unnamed, fs::Permissions::from_mode(0o600))?;
    fs::rename(&unnamed, path)?;
    Ok(listener)
}

pub async fn serve_socket(listener: UnixListener, hub: Arc<Hub>) {
    let clients = Arc::new(Semaphore::new(CLIENTS));
    while let Ok(permit) = clients.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((io, _)) => drop(tokio::spawn(client(io, hub.clone(), Origin::Socket, permit))),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

pub async fn serve_port(listener: TcpListener, hub: Arc<Hub>) {
    let clients = Arc::new(Semaphore::new(CLIENTS));
    while let Ok(permit) = clients.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((io, _)) => drop(tokio::spawn(client(io, hub.clone(), Origin::Port, permit))),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn client<I>(io: I, hub: Arc<Hub>, origin: Origin, _permit: tokio::sync::OwnedSemaphorePermit)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let hub = hub.clone();
        async move {
            let (head, _) = request.into_parts();
            let (status, kind, body) = match refusal(&head, origin) {
                Some(reply) => (reply.status, reply.kind, full(reply.body)),
                None if head.uri.path() == EXPORT => {
                    (StatusCode::OK, "application/x-ndjson", export(hub, head.uri.query().unwrap_or_default()))
                }
                None => {
                    // It reads the disk: not on the threads that serve clients.
                    let reply = tokio::task::spawn_blocking(move || answer(&hub, &head)).await;
                    let reply = reply.unwrap_or_else(|e| Reply::error(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()));
                    (reply.status, reply.kind, full(reply.body))
                }
            };
            let mut response = Response::new(body);
            *response.status_mut() = status;
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            Ok::<_, Infallible>(response)
        }
    });
    let _ =
        http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT).serve_connection(TokioIo::new(io), service).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_answers_to_its_own_names_only() {
        for (host, wanted) in [
            ("127.0.0.1:10267", true),
            ("localhost", true),
            ("[::1]:1", true),
            ("", true),
            ("evil.test", false),
            ("evil.test:10267", false),
            ("10.0.0.1:1", false),
        ] {
            let request = Request::get("/metrics").header(header::HOST, host).body(()).unwrap();
            assert_eq!(is_local(&request.into_parts().0), wanted, "{host}");
        }
    }

    #[tokio::test]
    async fn the_socket_is_for_its_owner_and_replaces_only_sockets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        for _ in 0..2 {
            let _listener = bind(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
