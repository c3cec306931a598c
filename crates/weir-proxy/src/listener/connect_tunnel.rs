//! A tunnel through a forward proxy (`tunneling_config`): the proxy is asked for it by CONNECT or POST, over HTTP/1.1 or HTTP/2;
//! what it then carries are the bytes of one connection.
use crate::{upstream::MAX_INTERIM, worker::Worker};
use bytes::Bytes;
use h2::client::ResponseFuture;
use http::{Method, Request, Uri, uri::Authority};
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use weir_config::model::TunnelingConfig;
use weir_net::{
    http::{
        Headers, ResponseHead,
        body::{self, Framing},
        h2::H2Stream,
        parse,
        relay::{Got, Peer, Reader, Writer},
        wire::Wire,
    },
    io::Io,
};

/// Bytes that may wait to be written before the client is read no further.
const WINDOW: usize = 64 * 1024;

/// The tunnel's two directions.
pub(super) struct Tunnel {
    worker: Rc<Worker>,
    peer: Peer,
    reader: Reader,
    writer: Writer,
    /// Read, and not handed on yet from `at` on.
    held: Vec<u8>,
    at: usize,
    /// The end of the client's bytes is also the end of what is written on the connection.
    bare: bool,
}

/// Asks the proxy at the other end of `io` for a tunnel.
///
/// # Errors
/// What the connection says, or what the proxy answered instead of opening it.
pub(super) async fn open(worker: &Rc<Worker>, io: Io, config: &TunnelingConfig, http2: bool) -> io::Result<Tunnel> {
    if http2 { over_http2(worker, io, config).await } else { over_http1(worker, io, config).await }
}

async fn over_http1(worker: &Rc<Worker>, io: Io, config: &TunnelingConfig) -> io::Result<Tunnel> {
    let to = &config.hostname;
    let head = match config.use_post {
        true => format!("POST / HTTP/1.1\r\nhost: {to}\r\ntransfer-encoding: chunked\r\n\r\n"),
        false => format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n"),
    };
    let mut peer = Peer::H1(Wire::new(io));
    let mut writer = Writer::h1(head.into_bytes(), config.use_post);
    poll_fn(|cx| writer.poll_flush(cx, &mut peer)).await.map_err(|_| closed())?;
    let (mut head, mut interim) = (ResponseHead::default(), 0);
    loop {
        let Some(wire) = peer.wire() else { return Err(closed()) };
        if !wire.input.is_empty() {
            let parsed = parse::response(wire.input.filled(), &mut head, parse::Limits::default());
            if let Some(n) = parsed.map_err(|_| io::Error::other("the proxy's answer is malformed"))? {
                wire.input.consume(n);
                if head.status >= 200 {
                    break;
                }
                interim += 1;
                if interim > MAX_INTERIM {
                    return Err(io::Error::other("the proxy sends too many interim answers"));
                }
                head.clear();
                continue;
            }
        }
        if poll_fn(|cx| wire.poll_fill(cx, &worker.bufs)).await? == 0 {
            return Err(closed());
        }
    }
    granted(head.status)?;
    let framing = match config.use_post {
        true => body::of_response(&head, weir_net::http::Method::Post).map_err(|_| io::Error::other("the proxy's answer is malformed"))?,
        // Whatever the head says of a length (RFC 9110 section 9.3.6).
        false => Framing::Tunnel,
    };
    Ok(Tunnel::new(worker, peer, framing, writer, !config.use_post))
}

async fn over_http2(worker: &Rc<Worker>, io: Io, config: &TunnelingConfig) -> io::Result<Tunnel> {
    let scheme = if matches!(io, Io::Plain(_)) { "http" } else { "https" };
    let authority: Authority = config.hostname.parse().map_err(io::Error::other)?;
    let request = match config.use_post {
        true => Request::builder().method(Method::POST).uri(format!("{scheme}://{authority}/")),
        false => Request::builder().method(Method::CONNECT).uri(Uri::from(authority)),
    };
    let request = request.body(()).map_err(io::Error::other)?;
    let (send, connection) = h2::client::Builder::new().enable_push(false).handshake::<_, Bytes>(io).await.map_err(io::Error::other)?;
    // It ends with its only stream.
    tokio::task::spawn_local(connection);
    let mut send = send.ready().await.map_err(io::Error::other)?;
    let (response, stream): (ResponseFuture, _) = send.send_request(request, false).map_err(io::Error::other)?;
    let (parts, recv) = response.await.map_err(io::Error::other)?.into_parts();
    granted(parts.status.as_u16())?;
    let peer = Peer::H2(H2Stream { send: Some(stream), recv: Some(recv), ..H2Stream::default() });
    Ok(Tunnel::new(worker, peer, Framing::NONE, Writer::h2(Vec::new(), false), false))
}

fn granted(status: u16) -> io::Result<()> {
    if (200..300).contains(&status) { Ok(()) } else { Err(io::Error::other(format!("the proxy answered {status}"))) }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the proxy closed the connection")
}

impl Tunnel {
    fn new(worker: &Rc<Worker>, peer: Peer, framing: Framing, writer: Writer, bare: bool) -> Tunnel {
        let reader = Reader::new(framing, &peer);
        Tunnel { worker: worker.clone(), peer, reader, writer, held: Vec::new(), at: 0, bare }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Tunnel { worker, peer, reader, held, at, .. } = &mut *self;
        if held.is_empty() {
            let mut give = |data: &[u8]| {
                let fits = data.len().min(buf.remaining());
                buf.put_slice(&data[..fits]);
                held.extend_from_slice(&data[fits..]);
            };
            return match ready!(reader.poll(cx, peer, &worker.bufs, &mut Headers::default(), &mut give)) {
                Ok(Got::Data | Got::End) => Poll::Ready(Ok(())),
                Err(_) => Poll::Ready(Err(closed())),
            };
        }
        let fits = (held.len() - *at).min(buf.remaining());
        buf.put_slice(&held[*at..*at + fits]);
        *at += fits;
        if *at == held.len() {
            (*held, *at) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.writer.pending() >= WINDOW {
            ready!(self.as_mut().poll_flush(cx))?;
        }
        self.writer.push(data);
        Poll::Ready(Ok(data.len()))
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Tunnel { writer, peer, .. } = &mut *self;
        writer.poll_flush(cx, peer).map_err(|_| closed())
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.end(None);
        ready!(self.as_mut().poll_flush(cx))?;
        let bare = self.bare;
        match self.peer.wire() {
            Some(wire) if bare => wire.poll_shutdown(cx),
            _ => Poll::Ready(Ok(())),
        }
    }
}
