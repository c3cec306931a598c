//! Nacos: a server of its gRPC for the tests, as its clients and `nacos_grpc_service.proto` describe it. The real one is an application
//! of more than 100 MB.
use super::{
    Registry, follows,
    server::{self, Server},
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};
use tokio::sync::mpsc;

#[derive(Default)]
struct State {
    shop: Option<Vec<u16>>,
    version: i64,
    /// The streams of those who subscribed.
    subscribers: Vec<mpsc::Sender<Bytes>>,
    /// Kinds of messages, with a header that says who sent them.
    asked: Vec<(String, String)>,
}

/// What one connection said of itself.
type Registered = Arc<Mutex<Option<mpsc::Sender<Bytes>>>>;

struct Nacos {
    state: Arc<Mutex<State>>,
    login: Server,
    grpc: Server,
}

fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = value.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    [out, value.to_vec()].concat()
}

fn message(kind: &str, body: &Value) -> Bytes {
    let metadata = field(2, &field(3, kind.as_bytes()));
    let payload = [metadata, field(3, &field(2, body.to_string().as_bytes()))].concat();
    [&[0][..], &(payload.len() as u32).to_be_bytes(), &payload].concat().into()
}

/// The fields of a message, all of which have lengths.
fn fields(mut rest: &[u8]) -> Vec<(u8, &[u8])> {
    let mut all = Vec::new();
    while let [tag, after @ ..] = rest {
        assert_eq!(tag & 7, 2);
        let (mut length, mut read, mut shift) = (0usize, 0, 0);
        loop {
            length |= usize::from(after[read] & 0x7f) << shift;
            shift += 7;
            read += 1;
            if after[read - 1] < 0x80 {
                break;
            }
        }
        all.push((tag >> 3, &after[read..read + length]));
        rest = &after[read + length..];
    }
    all
}

/// The kind, the headers and the JSON of a message without its frame.
fn decoded(payload: &[u8]) -> (String, Vec<(String, String)>, Value) {
    let (mut kind, mut headers, mut body) = (String::new(), Vec::new(), Value::Null);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    for (number, value) in fields(payload) {
        for (inner, value) in fields(value) {
            match (number, inner) {
                (2, 3) => kind = text(value),
                (2, 7) => {
                    let entry = fields(value);
                    headers.push((text(entry[0].1), text(entry[1].1)));
                }
                (3, 2) => body = serde_json::from_slice(value).unwrap(),
                _ => {}
            }
        }
    }
    (kind, headers, body)
}

impl State {
    fn info(&self) -> Value {
        let host = |port: &u16, healthy: bool| json!({ "ip": "127.0.0.1", "port": port, "weight": 1.0, "healthy": healthy, "enabled": true, "metadata": { "zone": "a" } });
        let mut hosts: Vec<Value> = self.shop.iter().flatten().map(|port| host(port, true)).collect();
        hosts.push(host(&1, false));
        json!({ "name": "shop", "groupName": "MY_GROUP", "hosts": hosts, "lastRefTime": self.version })
    }

    fn answer(&mut self, kind: &str, body: &Value, registered: &Registered) -> Bytes {
        let stream = registered.lock().unwrap().clone();
        let ok = |kind: &str, more: Value| {
            let mut body = json!({ "resultCode": 200, "errorCode": 0 });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            message(kind, &body)
        };
        match (kind, stream) {
            ("ServerCheckRequest", _) => ok("ServerCheckResponse", json!({ "connectionId": "1" })),
            (_, None) => {
                message("ErrorResponse", &json!({ "resultCode": 500, "errorCode": 301, "message": "Connection is unregistered." }))
            }
            ("HealthCheckRequest", _) => ok("HealthCheckResponse", json!({})),
            ("ServiceListRequest", _) => {
                assert_eq!((&body["groupName"], &body["namespace"]), (&json!("MY_GROUP"), &json!("ns-1")));
                let mut names = vec!["consumers:other".to_string()];
                names.extend(self.shop.iter().map(|_| "shop".to_string()));
                ok("ServiceListResponse", json!({ "count": names.len(), "serviceNames": names }))
            }
            ("SubscribeServiceRequest", Some(stream)) => {
                assert_eq!(body["serviceName"], "shop");
                if body["subscribe"] == true {
                    self.subscribers.push(stream);
                }
                ok("SubscribeServiceResponse", json!({ "serviceInfo": self.info() }))
            }
            _ => panic!("{kind}"),
        }
    }
}

type Body = BoxBody<Bytes, Infallible>;

/// An answer of gRPC with these messages, and the trailers where they end.
fn streamed(messages: mpsc::Receiver<Bytes>) -> Response<Body> {
    let frames = stream::unfold((messages, false), async |(mut messages, ended)| match messages.recv().await {
        Some(message) => Some((Ok::<_, Infallible>(Frame::data(message)), (messages, false))),
        None if ended => None,
        None => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            Some((Ok(Frame::trailers(trailers)), (messages, true)))
        }
    });
    Response::builder().header("content-type", "application/grpc").body(StreamBody::new(frames).boxed()).unwrap()
}

async fn serve(request: Request<Incoming>, state: Arc<Mutex<State>>, registered: Registered) -> Result<Response<Body>, Infallible> {
    assert_eq!(request.headers()["content-type"], "application/grpc");
    let (send, messages) = mpsc::channel(16);
    let path = request.uri().path().to_string();
    let mut body = request.into_body();
    match path.as_str() {
        "/Request/request" => {
            let frame = body.collect().await.unwrap().to_bytes();
            let (kind, headers, body) = decoded(&frame[5..]);
            let token = headers.into_iter().find(|(name, _)| name == "accessToken").map(|(_, token)| token).unwrap_or_default();
            let answer = {
                let mut state = state.lock().unwrap();
                state.asked.push((kind.clone(), token));
                state.answer(&kind, &body, &registered)
            };
            send.send(answer).await.unwrap();
        }
        "/BiRequestStream/requestBiStream" => {
            tokio::spawn(async move {
                while let Some(Ok(frame)) = body.frame().await {
                    let Ok(data) = frame.into_data() else { continue };
                    // The end of the stream has no message.
                    let Some(payload) = data.get(5..) else { continue };
                    let (kind, _, body) = decoded(payload);
                    state.lock().unwrap().asked.push((kind.clone(), String::new()));
                    if kind == "ConnectionSetupRequest" {
                        assert_eq!(body["tenant"], "ns-1");
                        *registered.lock().unwrap() = Some(send.clone());
                        let ack = message("SetupAckRequest", &json!({ "requestId": "1", "abilityTable": {} }));
                        send.send(ack).await.unwrap();
                    }
                }
            });
        }
        path => panic!("{path}"),
    }
    Ok(streamed(messages))
}

impl Nacos {
    fn start() -> Nacos {
        let state: Arc<Mutex<State>> = Arc::default();
        let accept = |state: Arc<Mutex<State>>| {
            move |io| {
                let (state, registered) = (state.clone(), Registered::default());
                async move {
                    let service = service_fn(move |request| serve(request, state.clone(), registered.clone()));
                    let _ =
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service).await;
                }
            }
        };
        let (login, grpc) = (0..50)
            .find_map(|_| {
                let login = server::http(|request, body| async move {
                    // That of Nacos 3 is not there, as in Nacos 2.
                    if request.uri().path() != "/nacos/v1/auth/users/login" {
                        return (404, vec![], String::new());
                    }
                    match body == "username=nacos&password=p%26w" {
                        true => (200, vec![], json!({ "accessToken": "t0ken", "tokenTtl": 18000 }).to_string()),
                        false => (403, vec![], "unknown user!".to_string()),
                    }
                });
                let port = login.port.checked_add(1000)?;
                Some((login, Server::start(port, accept(state.clone()))?))
            })
            .unwrap();
        Nacos { state, login, grpc }
    }
}

impl Registry for Nacos {
    fn set(&self, ports: &[u16]) {
        let mut state = self.state.lock().unwrap();
        state.shop = Some(ports.to_vec());
        state.version += 1;
        let push = message("NotifySubscriberRequest", &json!({ "requestId": "7", "namespace": "ns-1", "serviceInfo": state.info() }));
        // A version before that, which comes late, is passed over.
        let mut old = state.info();
        (old["lastRefTime"], old["hosts"]) = (json!(state.version - 1), json!([]));
        let late = message("NotifySubscriberRequest", &json!({ "requestId": "8", "namespace": "ns-1", "serviceInfo": old }));
        state.subscribers.retain(|to| to.try_send(push.clone()).is_ok() && to.try_send(late.clone()).is_ok());
    }
    fn remove(&self) {
        self.state.lock().unwrap().shop = None;
    }
    fn stop(&self) {
        self.grpc.stop();
        self.login.stop();
        self.state.lock().unwrap().subscribers.clear();
    }
    fn restart(&self) {
        self.login.restart();
        self.grpc.restart();
    }
}

#[test]
fn services_follow_nacos() {
    for kind in ["nacos2", "nacos3"] {
        let server = Nacos::start();
        let registry = format!(
            "{{ type: {kind}, name: main, domain: 127.0.0.1, port: {}, nacosNamespaceId: ns-1, nacosGroups: [MY_GROUP], authSecretName: auth }}",
            server.login.port
        );
        let secret = "---\n{ apiVersion: v1, kind: Secret, metadata: { name: auth, namespace: higress-system }, stringData: { nacosUsername: nacos, nacosPassword: p&w } }\n";
        follows(&server, &registry, "shop.MY-GROUP.ns-1.nacos", secret);
        let asked = server.state.lock().unwrap();
        let has = |kind: &str| asked.asked.iter().any(|(asked, _)| asked == kind);
        assert!(has("NotifySubscriberResponse") && has("SetupAckResponse"), "{:?}", asked.asked);
        let unary = asked.asked.iter().filter(|(kind, _)| kind == "SubscribeServiceRequest");
        assert!(unary.clone().count() > 1 && unary.clone().all(|(_, token)| token == "t0ken"), "{:?}", asked.asked);
    }
}
