//! A client that asks the hub and the API server itself the same, and compares every byte.
use super::hub::Rig;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use weir_edge::body::{Body, empty};
use weir_net::tls::{Alpn, Client, ClientOptions, Roots, Trust};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    Hub,
    ApiServer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// All of an answer. Fields of the header are sorted by their names.
#[derive(Debug, PartialEq, Eq)]
pub struct Whole {
    pub status: StatusCode,
    pub headers: Vec<(String, Bytes)>,
    pub body: Bytes,
    pub trailers: Vec<(String, Bytes)>,
}

pub enum Twin {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

impl Twin {
    pub async fn connect(rig: &Rig, to: To, protocol: Protocol) -> Twin {
        let io: Box<dyn Io> = match to {
            To::Hub => Box::new(TcpStream::connect(rig.hub.as_ref().unwrap().address).await.unwrap()),
            To::ApiServer => {
                let trust = Trust::Roots(Roots::from_pem(&rig.upstream.ca.pem(), None).unwrap());
                let client = Client::new(ClientOptions { trust, ..ClientOptions::system() }).unwrap();
                let alpn = if protocol == Protocol::Http1 { Alpn::Http1 } else { Alpn::Http2 };
                let io = TcpStream::connect(rig.upstream.address).await.unwrap();
                Box::new(client.connect(io, "127.0.0.1", alpn).await.unwrap())
            }
        };
        match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
                tokio::spawn(connection);
                Twin::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
                tokio::spawn(connection);
                Twin::Http2(sender)
            }
        }
    }

    pub async fn open(&mut self, path: &str, headers: &[(&str, &str)]) -> hyper::Result<Response<Incoming>> {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        match self {
            Twin::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request.header(header::HOST, "kube").body(empty()).unwrap()).await
            }
            Twin::Http2(sender) => {
                sender.ready().await?;
                let mut request = request.body(empty()).unwrap();
                *request.uri_mut() = format!("http://kube{path}").parse().unwrap();
                sender.send_request(request).await
            }
        }
    }

    pub async fn ask(&mut self, path: &str, headers: &[(&str, &str)]) -> Whole {
        let (parts, body) = self.open(path, headers).await.unwrap().into_parts();
        let body = body.collect().await.unwrap();
        let trailers = body.trailers().map(fields).unwrap_or_default();
        Whole { status: parts.status, headers: fields(&parts.headers), body: body.to_bytes(), trailers }
    }
}

fn fields(headers: &HeaderMap) -> Vec<(String, Bytes)> {
    let mut all: Vec<_> = headers.iter().map(|(name, value)| (name.to_string(), Bytes::copy_from_slice(value.as_bytes()))).collect();
    // Several of one name stay in their order.
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}
