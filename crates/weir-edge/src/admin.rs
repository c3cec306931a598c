//! The admin endpoints: on a Unix socket that only its owner can use, and on a loopback port if there is one.
mod ask;
mod metrics;
mod ready;
mod stats;

pub use ask::{AskError, ask};

use crate::hub::Hub;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};
use weir_net::exposition;

/// Clients at a time; the others wait.
const CLIENTS: usize = 16;
/// How long a head may take to arrive.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

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
/healthz   ok while the process runs
/readyz    whether the node can use the hub, and why not; JSON with ?format=json
/metrics   metrics for Prometheus
/stats     the link, what is kept, disk use and the last errors, as JSON
";

fn answer(hub: &Hub, head: &Parts, origin: Origin) -> Reply {
    if origin == Origin::Port && !is_local(head) {
        return Reply::error(StatusCode::FORBIDDEN, "the Host header must be 127.0.0.1, [::1] or localhost\n");
    }
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return Reply::error(StatusCode::METHOD_NOT_ALLOWED, format!("{} is not allowed; use GET\n", head.method));
    }
    let json = head.uri.query().is_some_and(|query| query.split('&').any(|field| field == "format=json"))
        || head.headers.get(header::ACCEPT).is_some_and(|accept| accept == "application/json");
    match head.uri.path() {
        "/" => Reply::text(HELP),
        "/healthz" => Reply::text("ok"),
        "/readyz" => ready::reply(hub, json),
        "/metrics" => Reply { kind: exposition::CONTENT_TYPE, ..Reply::text(metrics::text(hub)) },
        "/stats" => Reply::json(&stats::of(hub)),
        path => Reply::error(StatusCode::NOT_FOUND, format!("there is no {path}; there are:\n{HELP}")),
    }
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
            // It reads the disk: not on the threads that serve clients.
            let reply = tokio::task::spawn_blocking(move || answer(&hub, &head, origin)).await;
            let reply = reply.unwrap_or_else(|e| Reply::error(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()));
            let mut response = Response::new(Full::new(reply.body));
            *response.status_mut() = reply.status;
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(reply.kind));
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
