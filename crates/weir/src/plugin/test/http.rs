//! A stand-in for an HTTP service: answers by rules, and remembers what it was asked.
use super::matcher::Matcher;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};

/// An answer, and the requests it is for.
#[derive(Clone, Debug)]
pub struct Rule {
    pub method: Option<Matcher>,
    /// Against the path without its query, or with it where the matcher's text has one.
    pub path: Option<Matcher>,
    /// Request headers.
    pub when: Vec<(String, Matcher)>,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub delay: Duration,
    /// Cut the connection instead.
    pub reset: bool,
}

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Got {
    pub method: String,
    /// With the query.
    pub path: String,
    pub host: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// Who was asked, and what, in order; shared by all stand-ins of a case.
pub type Record = Arc<Mutex<Vec<(String, Got)>>>;

pub struct StandIn {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl StandIn {
    pub async fn start(name: &str, rules: Vec<Rule>, record: Record) -> io::Result<StandIn> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new((name.to_string(), rules, record));
        // Connections end with this task: a stand-in that is gone answers nobody.
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let shared = shared.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(request, shared.clone()));
                    // How a connection ends is the gateway's matter.
                    let _: Result<(), _> = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(StandIn { address, task })
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<(String, Vec<Rule>, Record)>) -> io::Result<Response<Full<Bytes>>> {
    let (name, rules, record) = &*shared;
    let (head, body) = request.into_parts();
    let text = |v: &HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
    let host = head.uri.authority().map(|a| a.to_string()).or_else(|| head.headers.get("host").map(text)).unwrap_or_default();
    let body = body.collect().await.map(|b| b.to_bytes()).map_err(io::Error::other)?;
    let got = Got {
        method: head.method.to_string(),
        path: head.uri.path_and_query().map(|p| p.to_string()).unwrap_or_default(),
        host,
        headers: head.headers.iter().map(|(n, v)| (n.to_string(), text(v))).collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let rule = rules.iter().find(|r| r.is_for(&got)).cloned();
    let unknown = format!("the stand-in {name} has no answer for {got}\n");
    record.lock().unwrap_or_else(PoisonError::into_inner).push((name.clone(), got));
    let Some(rule) = rule else {
        // Without any rule the answer is a plain success.
        let mut response = Response::new(Full::from(if rules.is_empty() { String::new() } else { unknown }));
        *response.status_mut() = if rules.is_empty() { StatusCode::OK } else { StatusCode::NOT_FOUND };
        return Ok(response);
    };
    tokio::time::sleep(rule.delay).await;
    if rule.reset {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    let mut response = Response::new(Full::from(rule.body));
    *response.status_mut() = StatusCode::from_u16(rule.status).unwrap_or(StatusCode::OK);
    for (name, value) in &rule.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            response.headers_mut().append(name, value);
        }
    }
    Ok(response)
}

impl Rule {
    fn is_for(&self, got: &Got) -> bool {
        let bare = got.path.split('?').next().unwrap_or_default();
        let path = |m: &Matcher| m.holds(Some(bare)) || m.holds(Some(&got.path));
        let header = |name: &str| got.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        self.method.as_ref().is_none_or(|m| m.holds(Some(&got.method)))
            && self.path.as_ref().is_none_or(path)
            && self.when.iter().all(|(name, m)| m.holds(header(name)))
    }
}
