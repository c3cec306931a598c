//! Upgrades: every message of a WebSocket comes back, and every byte of any other protocol.
use super::body::{Answer, empty};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, ext::Protocol, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use sha1::{Digest, Sha1};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

/// The protocol that is asked for: by an HTTP/1.1 upgrade, or over HTTP/2 by an extended CONNECT (RFC 8441).
pub fn wanted(request: &Request<Incoming>) -> Option<HeaderValue> {
    if request.method() == Method::CONNECT {
        return HeaderValue::from_str(request.extensions().get::<Protocol>()?.as_str()).ok();
    }
    request.headers().get(header::UPGRADE).filter(|v| *v != "h2c").cloned()
}

pub fn accept(mut request: Request<Incoming>, protocol: HeaderValue) -> Response<Answer> {
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).map(|k| k.as_bytes().to_vec());
    let http2 = request.method() == Method::CONNECT;
    let websocket = protocol.as_bytes().eq_ignore_ascii_case(b"websocket");
    tokio::spawn(async move {
        let Ok(io) = hyper::upgrade::on(&mut request).await else { return };
        let io = TokioIo::new(io);
        if websocket {
            messages(io).await;
        } else {
            // How a tunnel ends is its client's matter.
            let _ = bytes(io).await;
        }
    });
    let mut response = Response::new(empty());
    if http2 {
        return response;
    }
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let h = response.headers_mut();
    h.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    h.insert(header::UPGRADE, protocol);
    if let Some(key) = key.filter(|_| websocket) {
        // RFC 6455 section 4.2.2.
        let digest = Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
        if let Ok(value) = HeaderValue::from_str(&STANDARD.encode(digest)) {
            h.insert(header::SEC_WEBSOCKET_ACCEPT, value);
        }
    }
    response
}

async fn messages(io: TokioIo<Upgraded>) {
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        let echo = match message {
            Message::Text(_) | Message::Binary(_) => socket.send(message).await,
            // Pings and the close are answered by the library.
            _ => socket.flush().await,
        };
        if echo.is_err() {
            return;
        }
    }
}

async fn bytes(mut io: TokioIo<Upgraded>) -> io::Result<()> {
    let mut piece = vec![0; 16 * 1024];
    loop {
        let n = io.read(&mut piece).await?;
        if n == 0 {
            return io.shutdown().await;
        }
        io.write_all(&piece[..n]).await?;
        io.flush().await?;
    }
}
