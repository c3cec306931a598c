//! Connections to registries, and HTTP over them.
use super::Limits;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::{io, sync::Arc, time::Duration};
use tokio::{net::TcpStream, time::timeout};
use weir_net::dial::{self, GuardedResolver, Unresolved};

/// Why a registry cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error("{0}")]
    Unresolved(Unresolved),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no connection within {} s", .0.as_secs_f32())]
    ConnectTimeout(Duration),
    #[error("no answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    #[error("HTTP: {0}")]
    Http(String),
    #[error("it answers {status} to {path}{}{said}", if .said.is_empty() { "" } else { ": " })]
    Status { status: StatusCode, path: String, said: String },
    #[error("{what} is larger than {limit} bytes")]
    TooLarge { what: &'static str, limit: usize },
    #[error("{0}")]
    Protocol(String),
    #[error("the connection was closed")]
    Closed,
}

impl FollowError {
    pub fn protocol(e: impl std::fmt::Display) -> FollowError {
        FollowError::Protocol(e.to_string())
    }
}

/// Where a registry is.
#[derive(Clone)]
pub struct Connector {
    pub resolver: Arc<GuardedResolver>,
    pub host: String,
    pub port: u16,
    pub limits: Limits,
}

impl Connector {
    /// To a port of the registry; each of its addresses is tried.
    pub async fn connect(&self, port: u16) -> Result<TcpStream, FollowError> {
        let answer = self.resolver.lookup(&self.host).await.map_err(FollowError::Unresolved)?;
        let mut last = FollowError::Closed;
        for ip in answer.addresses {
            let patience = self.limits.connect_timeout;
            match timeout(patience, dial::connect((ip, port).into(), None, b"")).await {
                Ok(Ok(io)) => return Ok(io),
                Ok(Err(e)) => last = e.into(),
                Err(_) => last = FollowError::ConnectTimeout(patience),
            }
        }
        Err(last)
    }

    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// A client that keeps its connection for one request after the other.
pub struct Http {
    connector: Connector,
    headers: HeaderMap,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Http {
    pub fn new(connector: Connector, headers: HeaderMap) -> Http {
        Http { connector, headers, sender: None }
    }

    /// The head and body of a successful answer.
    pub async fn get(&mut self, path: &str) -> Result<(HeaderMap, Bytes), FollowError> {
        self.get_later(path, Duration::ZERO).await
    }

    /// As `get`, of a server that answers after up to `waits`.
    pub async fn get_later(&mut self, path: &str, waits: Duration) -> Result<(HeaderMap, Bytes), FollowError> {
        self.send("GET", path, Bytes::new(), waits).await
    }

    pub async fn post(&mut self, path: &str, form: String) -> Result<(HeaderMap, Bytes), FollowError> {
        self.send("POST", path, form.into(), Duration::ZERO).await
    }

    async fn send(&mut self, method: &str, path: &str, body: Bytes, waits: Duration) -> Result<(HeaderMap, Bytes), FollowError> {
        let mut sender = match self.sender.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => self.open().await?,
        };
        let mut request =
            Request::builder().method(method).uri(path).header("host", self.connector.authority()).header("accept", "application/json");
        if method == "POST" {
            request = request.header("content-type", "application/x-www-form-urlencoded");
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body)).map_err(FollowError::protocol)?;
        let limit = self.connector.limits.answer_bytes;
        let answer = async {
            sender.ready().await.map_err(http)?;
            let answer = sender.send_request(request).await.map_err(http)?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, limit).collect().await.map_err(|e| match e.is::<LengthLimitError>() {
                true => FollowError::TooLarge { what: "an answer", limit },
                false => FollowError::Http(e.to_string()),
            })?;
            Ok::<_, FollowError>((head, body.to_bytes()))
        };
        let patience = waits + self.connector.limits.request_timeout;
        let (head, body) = timeout(patience, answer).await.map_err(|_| FollowError::Timeout(patience))??;
        if !head.status.is_success() {
            let said = String::from_utf8_lossy(&body).trim().chars().take(200).collect();
            let path = path.split('?').next().unwrap_or_default().to_string();
            return Err(FollowError::Status { status: head.status, path, said });
        }
        self.sender = Some(sender);
        Ok((head.headers, body))
    }

    async fn open(&self) -> Result<SendRequest<Full<Bytes>>, FollowError> {
        let io = self.connector.connect(self.connector.port).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(http)?;
        // It ends with its sender.
        tokio::spawn(connection);
        Ok(sender)
    }
}

pub fn http(e: hyper::Error) -> FollowError {
    let mut text = e.to_string();
    if let Some(cause) = std::error::Error::source(&e) {
        text += &format!(": {cause}");
    }
    FollowError::Http(text)
}
