//! Services that plugins call: one that authorizes, model servers of two APIs, a tool, and an MCP server of the HTTP+SSE transport.
use crate::harness::runtime;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{net::TcpListener, sync::Semaphore};

/// A request that came: its path, its headers and its body.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Seen {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

struct Shared {
    seen: Mutex<Vec<Seen>>,
    /// Streams of the model `slow` wait for one after their first event.
    pieces: Semaphore,
}

pub struct Services {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl Services {
    pub fn start() -> Services {
        let shared = Arc::new(Shared { seen: Mutex::default(), pieces: Semaphore::new(0) });
        let listener = runtime().block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let (address, all) = (listener.local_addr().unwrap(), shared.clone());
        let task = runtime().spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let shared = all.clone();
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| answer(request, shared.clone()));
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service).await;
                });
            }
        });
        Services { address, shared, task }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The requests so far; the next call gives later ones.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.seen.lock().unwrap())
    }

    /// Lets a stream of the model `slow` continue.
    pub fn go_on(&self) {
        self.shared.pieces.add_permits(1);
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn full(status: u16, kind: &str, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).boxed_unsync();
    Response::builder().status(status).header("content-type", kind).body(body).unwrap()
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|all| all.to_bytes()).unwrap_or_default();
    let seen = Seen {
        path: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        headers: head.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    shared.seen.lock().unwrap().push(seen.clone());
    Ok(match seen.path.split('/').nth(1).unwrap_or_default() {
        "auth" => authorize(&seen),
        "v1" => model(&seen, shared),
        "tool" => full(if seen.body.contains("fail") { 500 } else { 200 }, "text/plain", format!("used with {}", seen.body)),
        "sse" => full(200, "text/event-stream", "event: endpoint\ndata: /messages?session=7\n\nevent: message\ndata: {\"id\":1}\n\n"),
        _ => full(404, "text/plain", "no such service"),
    })
}

fn authorize(seen: &Seen) -> Response<Body> {
    match seen.header("authorization") {
        "Bearer ann" => {
            let mut answer = full(200, "text/plain", "");
            answer.headers_mut().insert("x-user", "ann".parse().unwrap());
            answer
        }
        "Bearer down" => full(500, "text/plain", "broken"),
        "" => full(401, "text/plain", "who are you"),
        _ => full(403, "text/plain", "not you"),
    }
}

/// A model server: `claude` at `/v1/messages`, `openai` elsewhere. The model's name says how it answers.
fn model(seen: &Seen, shared: Arc<Shared>) -> Response<Body> {
    let claude = seen.path == "/v1/messages";
    let token = if claude { seen.header("x-api-key").to_string() } else { seen.header("authorization").replace("Bearer ", "") };
    if token.is_empty() {
        return full(401, "application/json", r#"{"error":"no token"}"#);
    }
    let request = seen.json();
    let name = request["model"].as_str().unwrap_or_default().to_string();
    // Each server has its own token, and is down for models that say so.
    if name.contains(&format!("no-{token}")) {
        return full(503, "application/json", r#"{"error":"down"}"#);
    }
    if name.contains(&format!("busy-{token}")) {
        return full(429, "application/json", r#"{"error":"busy"}"#);
    }
    if request["stream"] != true {
        let whole = match claude {
            true => {
                json!({ "id": "m-1", "type": "message", "model": name, "content": [{ "type": "text", "text": "hello from claude" }], "usage": { "input_tokens": 11, "output_tokens": 4 } })
            }
            false => {
                json!({ "id": "c-1", "model": name, "choices": [{ "index": 0, "message": { "role": "assistant", "content": "hello from openai" }, "finish_reason": "stop" }], "usage": { "prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9 } })
            }
        };
        return full(200, "application/json", whole.to_string());
    }
    let events = match claude {
        true => vec![
            format!(r#"{{"type":"message_start","message":{{"model":"{name}","usage":{{"input_tokens":11}}}}}}"#),
            r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"hel"}}"#.into(),
            r#"{"type":"ping"}"#.into(),
            r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"lo"}}"#.into(),
            r#"{"type":"message_delta","usage":{"output_tokens":4}}"#.into(),
            r#"{"type":"message_stop"}"#.into(),
        ],
        false => vec![
            format!(r#"{{"model":"{name}","choices":[{{"delta":{{"content":"hel"}}}}]}}"#),
            format!(r#"{{"model":"{name}","choices":[{{"delta":{{"content":"lo"}}}}]}}"#),
            format!(r#"{{"model":"{name}","choices":[],"usage":{{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}}}"#),
            "[DONE]".into(),
        ],
    };
    let slow = name.contains("slow");
    // In pieces that end anywhere; the first event whole.
    let mut pieces = Vec::new();
    for (i, event) in events.iter().enumerate() {
        let text = format!("event: x\ndata: {event}\n\n");
        match i {
            0 => pieces.push(text),
            _ => pieces.extend(text.as_bytes().chunks(11).map(|c| String::from_utf8_lossy(c).into_owned())),
        }
    }
    let body = stream::unfold((pieces.into_iter().enumerate(), shared), move |(mut rest, shared)| async move {
        let (i, piece) = rest.next()?;
        if slow && i == 1 {
            shared.pieces.acquire().await.ok()?.forget();
        }
        Some((Ok(Frame::data(Bytes::from(piece))), (rest, shared)))
    });
    let mut answer = Response::new(StreamBody::new(body).boxed_unsync());
    *answer.status_mut() = StatusCode::OK;
    answer.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
    answer
}
