//! What each request is answered with.
use super::{
    Shared,
    body::{self, Answer, full},
    upgrade,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use url::form_urlencoded;
use weir_config::reader::duration;

/// Bytes of a request's body that the answer repeats.
const MAX_BODY: usize = 1 << 20;
/// IDs of `/flaky` that are remembered.
const MAX_IDS: usize = 10_000;

pub async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
    peer: SocketAddr,
    connection: u64,
) -> Result<Response<Answer>, io::Error> {
    let asked = Asked::of(&request);
    if let Some(delay) = asked.delay {
        tokio::time::sleep(delay).await;
    }
    let mut response = by_path(request, &asked, &shared, peer, connection).await?;
    if let Some(status) = asked.status {
        *response.status_mut() = status;
    }
    for (name, value) in asked.headers {
        response.headers_mut().append(name, value);
    }
    Ok(response)
}

/// What applies to every kind of answer.
struct Asked {
    query: Vec<(String, String)>,
    delay: Option<Duration>,
    status: Option<StatusCode>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Asked {
    fn of(request: &Request<Incoming>) -> Asked {
        let query: Vec<(String, String)> =
            form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).into_owned().collect();
        let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok());
        let delay = header("x-echo-delay").or(query.iter().find(|(k, _)| k == "delay").map(|(_, v)| v.as_str()));
        let more = request.headers().get_all("x-echo-header").iter().filter_map(|v| {
            let (name, value) = v.to_str().ok()?.split_once('=')?;
            Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
        });
        Asked {
            delay: delay.and_then(duration),
            status: header("x-echo-status").and_then(|s| s.parse().ok()),
            headers: more.collect(),
            query,
        }
    }
    fn get(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }
    fn number<T: std::str::FromStr>(&self, name: &str, default: T) -> T {
        self.get(name).and_then(|v| v.parse().ok()).unwrap_or(default)
    }
}

async fn by_path(
    request: Request<Incoming>,
    asked: &Asked,
    shared: &Shared,
    peer: SocketAddr,
    connection: u64,
) -> io::Result<Response<Answer>> {
    if let Some(protocol) = upgrade::wanted(&request) {
        return Ok(upgrade::accept(request, protocol));
    }
    if request.headers().get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc")) {
        return Ok(grpc(request));
    }
    let path = request.uri().path().to_string();
    let (first, rest) = path[1.min(path.len())..].split_once('/').unwrap_or((&path[1.min(path.len())..], ""));
    let mut response = match first {
        "status" => return Ok(with_status(rest.parse().unwrap_or(StatusCode::BAD_REQUEST), full(format!("{rest}\n")))),
        "bytes" => Response::new(bytes(rest.parse().unwrap_or(0))),
        "sse" => return Ok(events(asked)),
        "reset" => return reset(asked).await,
        "trailers" => return Ok(trailers()),
        "stream" => return Ok(stream(request, None)),
        "flaky" => {
            let mut seen = shared.seen.lock().unwrap_or_else(|e| e.into_inner());
            if seen.len() >= MAX_IDS && !seen.contains_key(rest) {
                seen.clear();
            }
            let times = seen.entry(rest.to_string()).or_default();
            *times += 1;
            if *times <= asked.number("fail", 1) {
                return Ok(with_status(
                    asked.get("status").and_then(|s| s.parse().ok()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
                    full("failed as asked\n"),
                ));
            }
            Response::new(full(format!("succeeded after {times}\n")))
        }
        _ => return told_back(request, shared, peer, connection).await,
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

fn with_status(status: StatusCode, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

async fn told_back(request: Request<Incoming>, shared: &Shared, peer: SocketAddr, connection: u64) -> io::Result<Response<Answer>> {
    let (head, body) = request.into_parts();
    let host =
        head.headers.get(header::HOST).and_then(|h| h.to_str().ok()).or(head.uri.authority().map(|a| a.as_str())).unwrap_or_default();
    let mut headers = Map::new();
    for name in head.headers.keys() {
        let values: Vec<_> = head.headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect();
        headers.insert(name.to_string(), if values.len() == 1 { json!(values[0]) } else { json!(values) });
    }
    let mut told = json!({
        "name": shared.name, "method": head.method.as_str(), "path": head.uri.path(), "query": head.uri.query(), "host": host,
        "headers": headers, "protocol": format!("{:?}", head.version), "peer": peer.to_string(), "connection": connection,
    });
    let collected = body.collect().await.map_err(io::Error::other)?;
    if let Some(trailers) = collected.trailers() {
        let pairs = trailers.iter().map(|(n, v)| (n.to_string(), Value::from(String::from_utf8_lossy(v.as_bytes()).into_owned())));
        told["trailers"] = Value::Object(pairs.collect());
    }
    let bytes = collected.to_bytes();
    told["body_bytes"] = bytes.len().into();
    told["body"] = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_BODY)]).into();
    let mut response = Response::new(full(format!("{told:#}\n")));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Many bytes are made while they are sent.
fn bytes(count: usize) -> Answer {
    const PIECE: usize = 64 * 1024;
    if count <= PIECE {
        return full(vec![b'x'; count]);
    }
    let (sender, body) = body::channel();
    tokio::spawn(async move {
        let piece = Bytes::from(vec![b'x'; PIECE]);
        let mut left = count;
        while left > 0 && sender.data(piece.slice(..left.min(PIECE))).await {
            left -= left.min(PIECE);
        }
    });
    body.boxed()
}

fn events(asked: &Asked) -> Response<Answer> {
    let (count, every) = (asked.number("n", 5u64), asked.get("every").and_then(duration).unwrap_or(Duration::from_millis(100)));
    let (sender, body) = body::channel();
    tokio::spawn(async move {
        for i in 1..=count {
            if !sender.data(format!("id: {i}\ndata: event {i}\n\n")).await {
                return;
            }
            if i < count {
                tokio::time::sleep(every).await;
            }
        }
    });
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// An error instead of an answer makes the server cut the connection.
async fn reset(asked: &Asked) -> io::Result<Response<Answer>> {
    let Some(after) = asked.get("after").and_then(|n| n.parse::<usize>().ok()) else {
        return Err(io::ErrorKind::ConnectionReset.into());
    };
    let (sender, body) = body::channel();
    tokio::spawn(async move {
        sender.data(vec![b'x'; after]).await;
        // What is not yet written when the cut comes would be lost.
        tokio::time::sleep(Duration::from_millis(20)).await;
        sender.cut().await;
    });
    Ok(Response::new(body.boxed()))
}

fn trailers() -> Response<Answer> {
    let (sender, body) = body::channel();
    tokio::spawn(async move {
        sender.data("a body with a trailer\n").await;
        sender.trailers(HeaderMap::from_iter([(HeaderName::from_static("x-echo-trailer"), HeaderValue::from_static("the end"))])).await;
    });
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("x-echo-trailer"));
    response
}

/// Unary or streaming makes no difference: what comes in goes out, message by message.
fn grpc(request: Request<Incoming>) -> Response<Answer> {
    let status = request.headers().get("x-echo-grpc-status").cloned().unwrap_or_else(|| HeaderValue::from_static("0"));
    stream(request, Some(HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), status)])))
}

/// The request's body as it comes, then its trailers or these.
fn stream(request: Request<Incoming>, trailers: Option<HeaderMap>) -> Response<Answer> {
    let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
    let (sender, body) = body::channel();
    tokio::spawn(async move {
        let mut incoming = request.into_body();
        let mut last = trailers;
        while let Some(frame) = incoming.frame().await {
            match frame.map(http_body::Frame::into_data) {
                Ok(Ok(data)) => {
                    if !sender.data(data).await {
                        return;
                    }
                }
                Ok(Err(frame)) => last = last.or(frame.into_trailers().ok()),
                Err(_) => return sender.cut().await,
            }
        }
        if let Some(trailers) = last {
            sender.trailers(trailers).await;
        }
    });
    let mut response = Response::new(body.boxed());
    response.headers_mut().extend(content_type.map(|v| (header::CONTENT_TYPE, v)));
    response
}
