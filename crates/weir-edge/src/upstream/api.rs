//! The hub's own requests to the API servers, each on a connection of its own: for what has to work before the hub has a certificate.
use crate::{
    body::{BodyError, full, streamed, whole},
    upstream::connect::connect,
};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{io, sync::Arc, time::Duration};
use tokio::time::timeout;
use url::Url;
use weir_net::{
    dns::{self, Resolver},
    tls::{Alpn, Client},
};

/// Most bytes of an answer.
const MAX_ANSWER: usize = 1 << 20;

/// How to verify an API server, and what to show it.
#[derive(Clone)]
pub struct Shown {
    pub client: Arc<Client>,
    pub token: Option<String>,
}

pub struct Api {
    servers: Vec<Url>,
    resolver: Resolver,
    /// For a connection, and for an answer.
    limit: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{server}: {error}")]
    Unreachable { server: String, error: io::Error },
    #[error("{server}: {error}")]
    Broken { server: String, error: BodyError },
    #[error("{method} {path}: {status}: {message}")]
    Refused { method: Method, path: String, status: StatusCode, message: String },
}

impl ApiError {
    pub fn is(&self, code: StatusCode) -> bool {
        matches!(self, ApiError::Refused { status, .. } if *status == code)
    }
}

impl Api {
    pub fn new(servers: Vec<Url>, limit: Duration) -> io::Result<Api> {
        Ok(Api { servers, resolver: Resolver::new(dns::Options::default())?, limit })
    }

    pub async fn get(&self, shown: &Shown, path: &str) -> Result<Value, ApiError> {
        self.call(shown, Method::GET, path, None).await
    }

    /// The object of an answer. Where a server does not answer, the next one is asked.
    pub async fn call(&self, shown: &Shown, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ApiError> {
        let mut last = ApiError::Unreachable { server: "no API server".into(), error: io::ErrorKind::NotFound.into() };
        for server in &self.servers {
            match self.call_one(server, shown, &method, path, body).await {
                Err(e @ ApiError::Unreachable { .. }) => last = e,
                found => return found,
            }
        }
        Err(last)
    }

    async fn call_one(&self, url: &Url, shown: &Shown, method: &Method, path: &str, body: Option<&Value>) -> Result<Value, ApiError> {
        let server = url.host_str().unwrap_or_default().to_string();
        let io = connect(url, &self.resolver, &shown.client, Alpn::Http1, self.limit).await;
        let io = io.map_err(|error| ApiError::Unreachable { server: server.clone(), error })?;
        let answer = timeout(self.limit, self.exchange(io, url, shown, method, path, body)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {:?}", self.limit).into()));
        let (status, bytes) = answer.map_err(|error| ApiError::Broken { server: server.clone(), error })?;
        let object: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if status.is_success() {
            return Ok(object);
        }
        let message = object["message"].as_str().unwrap_or_default().chars().take(300).collect();
        Err(ApiError::Refused { method: method.clone(), path: path.into(), status, message })
    }

    async fn exchange<I>(
        &self,
        io: I,
        url: &Url,
        shown: &Shown,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Bytes), BodyError>
    where
        I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(header::HOST, url.authority())
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("weir-edge/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = &shown.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let response = sender.send_request(request.body(full(body))?).await?;
        let (head, body) = response.into_parts();
        let bytes = whole(streamed(body), MAX_ANSWER).await.map_err(|e| e.to_string());
        connection.abort();
        Ok((head.status, bytes?))
    }
}
