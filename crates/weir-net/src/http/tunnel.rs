//! The bytes of a tunnel on a connection of HTTP/1 or a stream of HTTP/2, as [`crate::copy`] wants them.
use super::{
    Headers,
    buf::BufPool,
    relay::{Got, Peer, Reader, Writer},
};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that may wait to be written before no more are taken.
const WINDOW: usize = 64 * 1024;

/// How the bytes travel.
pub enum Tunnel {
    /// As they are, until the connection ends (`101`, or a `CONNECT` that was granted).
    Raw,
    /// As the bodies of two messages.
    Message(Box<Message>),
}

pub struct Message {
    reader: Reader,
    writer: Writer,
    /// Read, and not handed on yet from `at` on.
    held: Vec<u8>,
    at: usize,
}

impl Tunnel {
    pub fn message(reader: Reader, writer: Writer) -> Tunnel {
        Tunnel::Message(Box::new(Message { reader, writer, held: Vec::new(), at: 0 }))
    }
}

/// A peer with a tunnel on it.
pub struct TunnelEnd<'a> {
    pub peer: &'a mut Peer,
    pub tunnel: &'a mut Tunnel,
    pub pool: &'a BufPool,
}

fn closed() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl AsyncRead for TunnelEnd<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let TunnelEnd { peer, tunnel, pool } = &mut *self;
        match tunnel {
            Tunnel::Raw => peer.wire().map_or_else(|| Poll::Ready(Err(closed())), |wire| wire.poll_read(cx, pool, buf)),
            Tunnel::Message(message) => message.poll_read(cx, peer, pool, buf),
        }
    }
}

impl Message {
    fn poll_read(&mut self, cx: &mut Context<'_>, peer: &mut Peer, pool: &BufPool, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Message { reader, held, at, .. } = self;
        if !held.is_empty() {
            let fits = (held.len() - *at).min(buf.remaining());
            buf.put_slice(&held[*at..*at + fits]);
            *at += fits;
            if *at == held.len() {
                (*held, *at) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        let mut give = |data: &[u8]| {
            let fits = data.len().min(buf.remaining());
            buf.put_slice(&data[..fits]);
            held.extend_from_slice(&data[fits..]);
        };
        match ready!(reader.poll(cx, peer, pool, &mut Headers::default(), &mut give)) {
            Ok(Got::Data | Got::End) => Poll::Ready(Ok(())),
            Err(_) => Poll::Ready(Err(closed())),
        }
    }
}

impl AsyncWrite for TunnelEnd<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let TunnelEnd { peer, tunnel, .. } = &mut *self;
        match tunnel {
            Tunnel::Raw => peer.wire().map_or_else(|| Poll::Ready(Err(closed())), |wire| wire.poll_write(cx, [data, &[]])),
            Tunnel::Message(message) => {
                let writer = &mut message.writer;
                if writer.pending() >= WINDOW {
                    ready!(writer.poll_flush(cx, peer)).map_err(|_| closed())?;
                }
                writer.push(data);
                Poll::Ready(Ok(data.len()))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let TunnelEnd { peer, tunnel, .. } = &mut *self;
        match tunnel {
            Tunnel::Raw => peer.wire().map_or_else(|| Poll::Ready(Err(closed())), |wire| wire.poll_flush(cx)),
            Tunnel::Message(message) => message.writer.poll_flush(cx, peer).map_err(|_| closed()),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let TunnelEnd { peer, tunnel, .. } = &mut *self;
        match tunnel {
            Tunnel::Raw => peer.wire().map_or_else(|| Poll::Ready(Err(closed())), |wire| wire.poll_shutdown(cx)),
            Tunnel::Message(message) => {
                message.writer.end(None);
                message.writer.poll_flush(cx, peer).map_err(|_| closed())
            }
        }
    }
}
