//! A tunnel through a forward proxy (`tunneling_config`): the proxy is asked for it by CONNECT or POST, over HTTP/1.1 or HTTP/2;
//! what it then carries are the bytes of one connection.
use super::UpstreamError;
use super::clusters::WorkerClusters;
use bytes::Bytes;
use h2::client::ResponseFuture;
use http::{Method, Request, Uri, uri::Authority};
use weir_config::model::TunnelingConfig;
use weir_net::{
    http::{
        self as message, RequestHead, ResponseHead,
        body::Framing,
        client::{ClientError, Exchange, ResponseLimits},
        h2::H2Stream,
        relay::{self, Peer, Reader, Writer},
        tunnel::Tunnel,
        wire::Wire,
    },
    io::Io,
};

/// Asks the proxy at the other end of `io` for a tunnel.
///
/// # Errors
/// What the connection says, or what the proxy answered instead of opening it.
pub(super) async fn open(worker: &WorkerClusters, io: Io, config: &TunnelingConfig, http2: bool) -> Result<(Peer, Tunnel), UpstreamError> {
    if http2 { over_http2(io, config).await } else { over_http1(worker, io, config).await }
}

async fn over_http1(worker: &WorkerClusters, io: Io, config: &TunnelingConfig) -> Result<(Peer, Tunnel), UpstreamError> {
    let mut request = RequestHead::default();
    let host = config.hostname.as_bytes();
    match config.use_post {
        true => request.begin(b"POST", b"/"),
        false => request.begin(b"CONNECT", host),
    };
    if !request.headers.set(message::Known::Host, &[host]) {
        return Err(UpstreamError::InvalidRequest);
    }
    if config.use_post {
        request.headers.add(message::Known::TransferEncoding, &[b"chunked"]);
    }
    let mut writer = relay::request_h1(&request, Vec::new(), config.use_post);
    let mut exchange = Exchange::new(Wire::new(io), request.method, ResponseLimits::default());
    let mut head = ResponseHead::default();
    let framing = exchange.response(&mut writer, &worker.bufs, &mut head).await.map_err(|e| match e {
        ClientError::Closed { .. } => UpstreamError::Reset("the proxy closed the connection".into()),
        e => UpstreamError::Protocol(e),
    })?;
    granted(head.status)?;
    let peer = exchange.into_peer();
    Ok(match config.use_post {
        true => {
            let reader = Reader::new(framing, &peer);
            (peer, Tunnel::message(reader, writer))
        }
        // Whatever the head says of a length (RFC 9110 section 9.3.6).
        false => (peer, Tunnel::Raw),
    })
}

async fn over_http2(io: Io, config: &TunnelingConfig) -> Result<(Peer, Tunnel), UpstreamError> {
    let scheme = if matches!(io, Io::Plain(_)) { "http" } else { "https" };
    let authority: Authority = config.hostname.parse().map_err(|_| UpstreamError::InvalidRequest)?;
    let request = match config.use_post {
        true => Request::builder().method(Method::POST).uri(format!("{scheme}://{authority}/")),
        false => Request::builder().method(Method::CONNECT).uri(Uri::from(authority)),
    };
    let request = request.body(()).map_err(|_| UpstreamError::InvalidRequest)?;
    let broken = |e: h2::Error| UpstreamError::Reset(e.to_string());
    let (send, connection) = h2::client::Builder::new().enable_push(false).handshake::<_, Bytes>(io).await.map_err(broken)?;
    // It ends with its only stream.
    tokio::task::spawn_local(connection);
    let mut send = send.ready().await.map_err(broken)?;
    let (response, stream): (ResponseFuture, _) = send.send_request(request, false).map_err(broken)?;
    let (parts, recv) = response.await.map_err(broken)?.into_parts();
    granted(parts.status.as_u16())?;
    let peer = Peer::H2(H2Stream { send: Some(stream), recv: Some(recv), ..H2Stream::default() });
    let reader = Reader::new(Framing::NONE, &peer);
    Ok((peer, Tunnel::message(reader, Writer::h2(Vec::new(), false))))
}

fn granted(status: u16) -> Result<(), UpstreamError> {
    if (200..300).contains(&status) { Ok(()) } else { Err(UpstreamError::Reset(format!("the proxy answered {status}"))) }
}
