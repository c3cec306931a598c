//! HTTP callouts of plugins: a small client per worker over the clusters' endpoints, with kept connections.
use super::upstream::Upstream;
use crate::cluster::ClusterRt;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::TokioIo;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::Future,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, task::spawn_local};
use weir_config::model::UpstreamProtocol;
use weir_net::tls;
use weir_wasm::{HttpAnswer, HttpCall};

/// Of one answer's body: it is held whole in the guest's memory.
const MAX_ANSWER: usize = 16 << 20;
/// Idle connections kept per address.
const MAX_IDLE: usize = 32;
/// An idle connection is not used after this time: most servers close theirs later.
const IDLE_TIME: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The request of a call; `None` for one that cannot be written.
pub(super) fn request(call: &HttpCall<'_>) -> Option<Request<Full<Bytes>>> {
    let (mut method, mut path, mut authority) = (None, None, None);
    let mut headers = HeaderMap::new();
    for (name, value) in call.headers.iter() {
        match &*name.to_ascii_lowercase() {
            b":method" => method = Some(Method::from_bytes(value).ok()?),
            b":path" => path = Some(Uri::try_from(value).ok()?),
            b":authority" => authority = Some(HeaderValue::from_bytes(value).ok()?),
            [b':', ..] => {}
            // The connection and the framing are ours.
            b"connection" | b"transfer-encoding" | b"content-length" | b"keep-alive" | b"upgrade" | b"host" | b"te" => {}
            _ => drop(headers.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?)),
        }
    }
    headers.insert(header::HOST, authority?);
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(call.body)));
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method?, path?, headers);
    Some(request)
}

/// The connections of one worker.
#[derive(Default)]
pub(super) struct Callouts {
    idle: RefCell<HashMap<Key, Vec<(Instant, Sender)>>>,
    turn: Cell<usize>,
}

/// Where a connection leads. A changed cluster has other connections.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    address: SocketAddr,
    /// Pointer of the TLS client; 0 for plain text. Held by the sender's cluster, so that it is not used again.
    tls: usize,
    server_name: String,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>, Option<Arc<tls::Client>>),
    Http2(http2::SendRequest<Full<Bytes>>, Option<Arc<tls::Client>>),
}

/// How to get to one server.
struct Way {
    key: Key,
    tls: Option<Arc<tls::Client>>,
    protocol: UpstreamProtocol,
    connect_timeout: Duration,
}

impl Callouts {
    /// One call.
    ///
    /// # Errors
    /// Why there is no answer; plugins do not learn it.
    pub async fn call(&self, to: Upstream, request: Request<Full<Bytes>>, timeout: Option<Duration>) -> Result<HttpAnswer, String> {
        let exchange = self.exchange(to, request);
        match timeout {
            Some(limit) => tokio::time::timeout(limit, exchange).await.unwrap_or_else(|_| Err(format!("no answer within {limit:?}"))),
            None => exchange.await,
        }
    }

    async fn exchange(&self, to: Upstream, request: Request<Full<Bytes>>) -> Result<HttpAnswer, String> {
        let authority = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default().to_string();
        let way = self.way(&to, &authority).await.map_err(|e| e.to_string())?;
        // A kept connection may have been closed by the server just now: what was not sent on it is sent on a new one.
        let mut request = request;
        while let Some(sender) = self.kept(&way.key) {
            match self.send(&way.key, sender, request).await {
                Ok(answer) => return Ok(answer),
                Err((_, Some(unsent))) => request = unsent,
                Err((e, None)) => return Err(e),
            }
        }
        let sender = connect(&way).await.map_err(|e| format!("{}: {e}", way.key.address))?;
        self.send(&way.key, sender, request).await.map_err(|(e, _)| e)
    }

    async fn way(&self, to: &Upstream, authority: &str) -> io::Result<Way> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        match to {
            Upstream::Direct(target) => {
                let address = tokio::net::lookup_host((target.host.as_str(), target.port)).await?.next();
                let address = address.ok_or_else(|| io::Error::other(format!("{} has no address", target.host)))?;
                let tls = if target.tls { Some(super::redis::plain_tls()?) } else { None };
                Ok(way(address, tls, &target.host, UpstreamProtocol::Auto, CONNECT_TIMEOUT))
            }
            Upstream::Cluster(slot) => {
                let cluster = slot.current().ok_or_else(|| io::Error::other(format!("the cluster {} is gone", slot.name)))?;
                let (address, name) =
                    choose(&cluster, turn).ok_or_else(|| io::Error::other(format!("no endpoint of {} is up", slot.name)))?;
                let host = authority.rsplit_once(':').map_or(authority, |(h, _)| h);
                let server_name = if host.is_empty() { name.unwrap_or_default() } else { host.to_string() };
                Ok(way(address, cluster.tls.clone(), &server_name, cluster.config.protocol, cluster.config.connect_timeout))
            }
        }
    }

    fn kept(&self, key: &Key) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(key)?;
        while let Some((since, sender)) = list.pop() {
            if since.elapsed() < IDLE_TIME && !sender.is_closed() {
                return Some(sender);
            }
        }
        idle.remove(key);
        None
    }

    fn keep(&self, key: &Key, sender: Sender) {
        let mut idle = self.idle.borrow_mut();
        let list = idle.entry(key.clone()).or_default();
        if list.len() < MAX_IDLE && !sender.is_closed() {
            list.push((Instant::now(), sender));
        }
    }

    /// Closes what nobody has used for a while.
    pub fn sweep(&self) {
        self.idle.borrow_mut().retain(|_, list| {
            list.retain(|(since, sender)| since.elapsed() < IDLE_TIME && !sender.is_closed());
            !list.is_empty()
        });
    }

    /// The error comes with the request where nothing of it was sent.
    async fn send(
        &self,
        key: &Key,
        sender: Sender,
        request: Request<Full<Bytes>>,
    ) -> Result<HttpAnswer, (String, Option<Request<Full<Bytes>>>)> {
        match sender {
            Sender::Http1(mut sender, tls) => {
                let sent = sender.try_send_request(request).await.map_err(|mut e| (e.error().to_string(), e.take_message()))?;
                let answer = read(sent).await.map_err(|e| (e, None))?;
                if sender.ready().await.is_ok() {
                    self.keep(key, Sender::Http1(sender, tls));
                }
                Ok(answer)
            }
            Sender::Http2(mut sender, tls) => {
                self.keep(key, Sender::Http2(sender.clone(), tls));
                let request = absolute(request).map_err(|e| (e, None))?;
                let sent = sender.send_request(request).await.map_err(|e| (e.to_string(), None))?;
                read(sent).await.map_err(|e| (e, None))
            }
        }
    }
}

impl Sender {
    fn is_closed(&self) -> bool {
        match self {
            Sender::Http1(s, _) => s.is_closed(),
            Sender::Http2(s, _) => s.is_closed(),
        }
    }
}

fn way(
    address: SocketAddr,
    tls: Option<Arc<tls::Client>>,
    server_name: &str,
    protocol: UpstreamProtocol,
    connect_timeout: Duration,
) -> Way {
    let name = if tls.is_some() { server_name.to_string() } else { String::new() };
    let pointer = tls.as_ref().map_or(0, |t| Arc::as_ptr(t).addr());
    Way { key: Key { address, tls: pointer, server_name: name }, tls, protocol, connect_timeout }
}

/// One after the other; lower priorities are left out while a higher one can be used.
fn choose(cluster: &ClusterRt, turn: usize) -> Option<(SocketAddr, Option<String>)> {
    let set = cluster.endpoints.load();
    let first = set.endpoints.iter().filter(|e| e.accepts_requests()).map(|e| e.config.priority).min()?;
    let usable: Vec<_> = set.endpoints.iter().filter(|e| e.accepts_requests() && e.config.priority == first).collect();
    let endpoint = usable.get(turn % usable.len())?;
    Some((endpoint.address, endpoint.hostname.as_deref().map(str::to_string)))
}

async fn connect(way: &Way) -> Result<Sender, String> {
    let opened = tokio::time::timeout(way.connect_timeout, TcpStream::connect(way.key.address)).await;
    let io = opened.map_err(|_| "no connection in time".to_string())?.map_err(|e| e.to_string())?;
    io.set_nodelay(true).map_err(|e| e.to_string())?;
    let alpn = match way.protocol {
        UpstreamProtocol::Http2 => tls::Alpn::Http2,
        UpstreamProtocol::Auto => tls::Alpn::Auto,
        UpstreamProtocol::Http1 | UpstreamProtocol::UseDownstream => tls::Alpn::Http1,
    };
    match &way.tls {
        None => handshake(io, way.protocol == UpstreamProtocol::Http2, None).await,
        Some(client) => {
            let io = client.connect(io, &way.key.server_name, alpn).await.map_err(|e| e.to_string())?;
            let h2 = io.get_ref().1.alpn_protocol() == Some(b"h2");
            handshake(io, h2, Some(client.clone())).await
        }
    }
}

async fn handshake<T>(io: T, h2: bool, tls: Option<Arc<tls::Client>>) -> Result<Sender, String>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    if h2 {
        let (sender, connection) = http2::handshake(LocalExecutor, TokioIo::new(io)).await.map_err(|e| e.to_string())?;
        spawn_local(connection);
        Ok(Sender::Http2(sender, tls))
    } else {
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|e| e.to_string())?;
        spawn_local(connection);
        Ok(Sender::Http1(sender, tls))
    }
}

#[derive(Clone)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(async move { drop(future.await) });
    }
}

/// HTTP/2 takes the authority from the URI.
fn absolute(mut request: Request<Full<Bytes>>) -> Result<Request<Full<Bytes>>, String> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    let host = request.headers_mut().remove(header::HOST);
    let authority = host.and_then(|h| h.to_str().ok()?.parse().ok()).ok_or("the authority is none")?;
    (parts.scheme, parts.authority) = (Some(http::uri::Scheme::HTTP), Some(authority));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|e| e.to_string())?;
    Ok(request)
}

async fn read(response: Response<Incoming>) -> Result<HttpAnswer, String> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| e.to_string())?;
    let pairs = |map: &HeaderMap| map.iter().map(|(n, v)| (n.as_str().into(), v.as_bytes().into())).collect::<Vec<(Vec<u8>, Vec<u8>)>>();
    let mut headers = vec![(b":status".to_vec(), head.status.as_str().into())];
    headers.extend(pairs(&head.headers));
    let trailers = body.trailers().map(pairs).unwrap_or_default();
    Ok(HttpAnswer { headers, body: body.to_bytes(), trailers })
}
