//! An API server with Services in memory. Tests put, delete, list and watch them, forbid, and break what it sends.
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Instant,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use weir_edge::body::{Body, BodyError, full, streamed};
use weir_net::tls::{Certificate, CertificateTable, Server, ServerOptions};
use weir_test::{Ca, Signed, eventually};

pub const SERVICES: &str = "/api/v1/services";

/// What was asked.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub query: String,
    /// The token; empty for the node.
    pub token: String,
    pub agent: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub at: Instant,
}

impl Seen {
    pub fn parameter(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(self.query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    pub fn watches(&self) -> bool {
        self.parameter("watch").is_some()
    }

    /// A list of all services, which no client of these tests has asked for.
    pub fn is_list_of_hub(&self) -> bool {
        self.agent == "weir-edge" && self.path == SERVICES && !self.watches()
    }
}

/// In the extensions of an answer: the stream is reset in its place.
#[derive(Clone)]
pub struct Reset;

/// An answer in place of the usual one.
type Script = Box<dyn FnMut(&Seen) -> Option<Response<Body>> + Send>;

struct State {
    version: u64,
    /// Watches from before this version are expired.
    oldest: u64,
    objects: BTreeMap<String, Value>,
    events: Vec<(u64, Bytes)>,
    watches: Vec<mpsc::UnboundedSender<Bytes>>,
    seen: Vec<Seen>,
    script: Option<Script>,
}

pub struct Upstream {
    pub address: SocketAddr,
    pub ca: Ca,
    state: Arc<Mutex<State>>,
    /// Connections that are open.
    connections: Arc<AtomicUsize>,
    link: watch::Sender<Link>,
}

/// What becomes of connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    Up,
    /// Those that there are end, and new ones at once.
    Cut,
    /// New ones are never answered: a packet filter drops everything.
    BlackHole,
}

impl Upstream {
    pub async fn start() -> Upstream {
        Upstream::with(|ca| ca.sign(&["127.0.0.1"])).await
    }

    /// With another certificate.
    pub async fn with(certificate: impl FnOnce(&Ca) -> Signed) -> Upstream {
        let ca = Ca::new();
        let signed = certificate(&ca);
        let certificate = Certificate::from_pem(&signed.pem, &signed.key).unwrap();
        let options = ServerOptions { alpn: vec!["h2".into(), "http/1.1".into()], ..ServerOptions::default() };
        let tls = Arc::new(Server::new(options, CertificateTable::new(&[Arc::new(certificate)])).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = State {
            version: 100,
            oldest: 100,
            objects: BTreeMap::new(),
            events: Vec::new(),
            watches: Vec::new(),
            seen: Vec::new(),
            script: None,
        };
        let upstream = Upstream {
            address: listener.local_addr().unwrap(),
            ca,
            state: Arc::new(Mutex::new(state)),
            connections: Arc::default(),
            link: watch::Sender::new(Link::Up),
        };
        let (state, connections, link) = (upstream.state.clone(), upstream.connections.clone(), upstream.link.clone());
        tokio::spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (io, _) = listener.accept().await.unwrap();
                let (tls, state, connections, mut link) = (tls.clone(), state.clone(), connections.clone(), link.subscribe());
                open.spawn(async move {
                    let _ = link.wait_for(|link| *link != Link::BlackHole).await;
                    let serve = async {
                        let Ok(io) = tls.accept(io).await else { return };
                        let _open = Open::new(&connections);
                        let service = service_fn(|request| answer(state.clone(), request));
                        let _ = auto::Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(TokioIo::new(io), service).await;
                    };
                    let mut cut = link.clone();
                    tokio::select! {
                        () = serve => {}
                        _ = cut.wait_for(|link| *link == Link::Cut) => {}
                    }
                });
            }
        });
        upstream
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    pub fn cut(&self) {
        self.link.send_replace(Link::Cut);
    }

    pub fn mend(&self) {
        self.link.send_replace(Link::Up);
    }

    /// For connections that are made from now on.
    pub fn black_hole(&self) {
        self.link.send_replace(Link::BlackHole);
    }

    /// Answers what the script answers, and as usual where it says nothing.
    pub fn script(&self, script: impl FnMut(&Seen) -> Option<Response<Body>> + Send + 'static) {
        self.state().script = Some(Box::new(script));
    }

    /// Answers as usual.
    pub fn behave(&self) {
        self.state().script = None;
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// How many requests of a kind came since the start.
    pub fn count(&self, is: impl Fn(&Seen) -> bool) -> usize {
        self.state().seen.iter().filter(|seen| is(seen)).count()
    }

    /// Watches that are open.
    pub fn watches(&self) -> usize {
        let mut state = self.state();
        state.watches.retain(|watch| !watch.is_closed());
        state.watches.len()
    }

    #[track_caller]
    pub fn has_watches(&self, count: usize) {
        eventually(&format!("{count} watches"), || (self.watches() == count).then_some(()));
    }

    /// Creates or changes a service.
    pub fn put(&self, name: &str, labels: Value) -> u64 {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let object = json!({
            "kind": "Service", "apiVersion": "v1", "spec": {},
            "metadata": { "name": name, "namespace": "default", "resourceVersion": version.to_string(), "labels": labels },
        });
        let kind = if state.objects.insert(name.into(), object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        state.tell(kind, &object);
        version
    }

    pub fn delete(&self, name: &str) -> u64 {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let mut object = state.objects.remove(name).unwrap();
        object["metadata"]["resourceVersion"] = version.to_string().into();
        state.tell("DELETED", &object);
        version
    }

    pub fn bookmark(&self) -> u64 {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        state.tell("BOOKMARK", &json!({ "kind": "Service", "apiVersion": "v1", "metadata": { "resourceVersion": version.to_string() } }));
        version
    }

    /// Changes that no watch is told of, as if each watch had broken off before them.
    pub fn quietly(&self, change: impl FnOnce(&Upstream)) {
        let watches = std::mem::take(&mut self.state().watches);
        change(self);
        self.state().watches.extend(watches);
    }

    /// Sends bytes on all watches, whatever they are.
    pub fn send(&self, bytes: &'static str) {
        self.state().watches.iter().for_each(|watch| drop(watch.send(Bytes::from_static(bytes.as_bytes()))));
    }

    /// Ends all watches; those that go on from what was so far have to list again.
    pub fn expire(&self) {
        let mut state = self.state();
        (state.oldest, state.watches) = (state.version + 1, Vec::new());
        state.version += 1;
    }
}

/// A connection, counted for as long as it lasts.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Open {
        count.fetch_add(1, SeqCst);
        Open(count.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl State {
    fn tell(&mut self, kind: &str, object: &Value) {
        let line = Bytes::from(format!("{}\n", json!({ "type": kind, "object": object })));
        if kind != "BOOKMARK" {
            self.events.push((self.version, line.clone()));
        }
        self.watches.iter().for_each(|watch| drop(watch.send(line.clone())));
    }
}

pub fn reply(status: StatusCode, body: Body) -> Response<Body> {
    Response::builder().status(status).header(header::CONTENT_TYPE, "application/json").body(body).unwrap()
}

pub fn status(code: u16, reason: &str, message: &str) -> Response<Body> {
    let body = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message, "code": code });
    reply(StatusCode::from_u16(code).unwrap(), full(body.to_string()))
}

async fn answer(state: Arc<Mutex<State>>, mut request: Request<Incoming>) -> Result<Response<Body>, BodyError> {
    if request.headers().contains_key(header::UPGRADE) {
        return Ok(exec(&mut request));
    }
    let (parts, body) = request.into_parts();
    let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_string();
    let seen = Seen {
        method: parts.method,
        path: parts.uri.path().into(),
        query: parts.uri.query().unwrap_or_default().into(),
        token: header(header::AUTHORIZATION).trim_start_matches("Bearer ").into(),
        agent: header(header::USER_AGENT),
        headers: parts.headers.clone(),
        body: body.collect().await.map(|body| body.to_bytes()).unwrap_or_default(),
        at: Instant::now(),
    };
    let mut state = state.lock().unwrap();
    state.seen.push(seen.clone());
    let mut script = state.script.take();
    let scripted = script.as_mut().and_then(|script| script(&seen));
    state.script = script;
    if scripted.as_ref().is_some_and(|response| response.extensions().get::<Reset>().is_some()) {
        return Err("reset".into());
    }
    Ok(scripted.unwrap_or_else(|| usual(&mut state, &seen)))
}

/// Sends back what comes until the client has said everything, and then how much it was.
fn exec(request: &mut Request<Incoming>) -> Response<Body> {
    let upgraded = hyper::upgrade::on(&mut *request);
    tokio::spawn(async move {
        let mut io = TokioIo::new(upgraded.await.unwrap());
        let (mut piece, mut all) = (vec![0; 64 << 10], 0);
        loop {
            match io.read(&mut piece).await.unwrap() {
                0 => break,
                n => {
                    all += n;
                    io.write_all(&piece[..n]).await.unwrap();
                }
            }
        }
        io.write_all(format!("<{all}>").as_bytes()).await.unwrap();
        io.shutdown().await.unwrap();
    });
    let protocol = request.headers()[header::UPGRADE].clone();
    let switching = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    switching.header(header::UPGRADE, protocol).header(header::CONNECTION, "Upgrade").body(full("")).unwrap()
}

/// Tokens whose name begins with `no` may do nothing.
fn usual(state: &mut State, seen: &Seen) -> Response<Body> {
    let allowed = !seen.token.starts_with("no");
    let forbidden = || status(403, "Forbidden", &format!("{} is forbidden to {}", seen.path, seen.token));
    match (seen.path.as_str(), seen.method.as_str()) {
        ("/readyz", _) => reply(StatusCode::OK, full("ok")),
        ("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "POST") => {
            let mut review: Value = serde_json::from_slice(&seen.body).unwrap();
            review["status"] = json!({ "allowed": allowed });
            reply(StatusCode::CREATED, full(review.to_string()))
        }
        ("/api/v1/services" | "/api/v1/namespaces/default/services", "GET") if !allowed => forbidden(),
        ("/api/v1/services" | "/api/v1/namespaces/default/services", "GET") if seen.watches() => watch(state, seen),
        ("/api/v1/services" | "/api/v1/namespaces/default/services", "GET") => {
            let items: Vec<&Value> = state.objects.values().collect();
            let metadata = json!({ "resourceVersion": state.version.to_string() });
            let list = json!({ "kind": "ServiceList", "apiVersion": "v1", "metadata": metadata, "items": items });
            reply(StatusCode::OK, full(list.to_string()))
        }
        _ => status(404, "NotFound", &seen.path),
    }
}

fn watch(state: &mut State, seen: &Seen) -> Response<Body> {
    let from: u64 = seen.parameter("resourceVersion").unwrap_or_default().parse().unwrap_or_default();
    let (send, receive) = mpsc::unbounded_channel::<Bytes>();
    if from > 0 && from < state.oldest {
        let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410 });
        let _ = send.send(format!("{}\n", json!({ "type": "ERROR", "object": status })).into());
    } else {
        let initial = seen.parameter("sendInitialEvents").is_some();
        if from == 0 || initial {
            state.objects.values().for_each(|object| drop(send.send(format!("{}\n", json!({ "type": "ADDED", "object": object })).into())));
        } else {
            state.events.iter().filter(|(version, _)| *version > from).for_each(|(_, line)| drop(send.send(line.clone())));
        }
        if initial {
            let metadata = json!({ "resourceVersion": state.version.to_string(), "annotations": { "k8s.io/initial-events-end": "true" } });
            let mark = json!({ "type": "BOOKMARK", "object": { "kind": "Service", "apiVersion": "v1", "metadata": metadata } });
            let _ = send.send(format!("{mark}\n").into());
        }
        state.watches.push(send);
    }
    let frames = futures_util::stream::unfold(receive, |mut receive| async {
        let bytes: Bytes = receive.recv().await?;
        Some((Ok::<_, BodyError>(Frame::data(bytes)), receive))
    });
    reply(StatusCode::OK, streamed(StreamBody::new(frames)))
}
