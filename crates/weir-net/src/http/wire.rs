//! A connection with its input buffer.
use super::{
    body::Framing,
    buf::{Buf, BufPool},
};
use crate::io::Io;
use rustix::net::{RecvFlags, SendFlags};
use std::{
    io,
    io::IoSlice,
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

pub struct Wire {
    pub io: Io,
    pub input: Buf,
    /// TLS ended without close_notify: an attacker may have cut the stream (RFC 8446 section 6.1).
    pub cut: bool,
}

impl Wire {
    pub fn new(io: Io) -> Self {
        Wire { io, input: Buf::default(), cut: false }
    }
    /// Reads once into the input buffer; `Ready(0)` is the end of the stream. The buffer is borrowed from `pool` for the
    /// call and stays only if bytes came.
    pub fn poll_fill(&mut self, cx: &mut Context, pool: &BufPool) -> Poll<io::Result<usize>> {
        if self.input.is_full() {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        }
        let Wire { io, input, cut } = self;
        match io {
            Io::Plain(io) => fill_plain(io, input, cx, pool),
            Io::Tls(io) => {
                pool.lend(input);
                let mut room = ReadBuf::new(input.spare());
                let r = Pin::new(io).poll_read(cx, &mut room);
                let n = room.filled().len();
                input.filled_more(n);
                pool.reclaim(input);
                match ready!(r) {
                    // Many peers close this way; a body with its own framing is complete all the same.
                    Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                        *cut = true;
                        Poll::Ready(Ok(0))
                    }
                    r => Poll::Ready(r.map(|()| n)),
                }
            }
        }
    }
    /// Reads once into `buf`, for bytes that nobody looks into: first those that wait in the input buffer. An empty `buf` is the
    /// end of the stream.
    pub fn poll_read(&mut self, cx: &mut Context, pool: &BufPool, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.input.is_empty() {
            let waiting = self.input.filled();
            let n = waiting.len().min(buf.remaining());
            buf.put_slice(&waiting[..n]);
            self.input.consume(n);
            pool.reclaim(&mut self.input);
            return Poll::Ready(Ok(()));
        }
        match ready!(Pin::new(&mut self.io).poll_read(cx, buf)) {
            // Many peers end TLS this way.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            read => Poll::Ready(read),
        }
    }
    /// Writes once. Under TLS what was written may wait for [`Wire::poll_flush`].
    pub fn poll_write(&mut self, cx: &mut Context, parts: [&[u8]; 2]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(io) => write_plain(io, cx, parts),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, &parts.map(IoSlice::new)),
        }
    }
    pub fn poll_flush(&mut self, cx: &mut Context) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(_) => Poll::Ready(Ok(())),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }
    /// Ends the writing side.
    pub fn poll_shutdown(&mut self, cx: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
    /// Whether the peer has closed its side, even if bytes that it sent before are still unread. Uses the socket's last known
    /// readiness and makes no system call.
    pub fn is_ending(&self) -> bool {
        let mut ready = pin!(self.io.socket().ready(Interest::READABLE));
        match ready.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(ready)) => ready.is_read_closed(),
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }
    /// Whether the end of the stream is the end of a body with this framing.
    pub(super) fn ends(&self, framing: Framing) -> bool {
        framing == Framing::UntilClose && !self.cut
    }
    /// Whether an idle connection can still be used: nothing came from the peer, not even its close.
    pub fn is_quiet(&mut self) -> bool {
        self.input.is_empty() && self.io.is_quiet()
    }
}

/// A read that does not fill the room marks the socket as drained, so the next call waits without a system call.
fn fill_plain(io: &TcpStream, input: &mut Buf, cx: &mut Context, pool: &BufPool) -> Poll<io::Result<usize>> {
    ready!(io.poll_read_ready(cx))?;
    loop {
        pool.lend(input);
        let room = input.spare();
        let (size, mut got) = (room.len(), None);
        // A short read has drained the socket: saying "would block" then clears tokio's readiness.
        let r = io.try_io(Interest::READABLE, || {
            let n = rustix::net::recv(io, &mut *room, RecvFlags::empty())?.0;
            got = Some(n);
            if n > 0 && n < size { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        input.filled_more(got.unwrap_or(0));
        pool.reclaim(input);
        match (got, r) {
            (Some(n), _) => return Poll::Ready(Ok(n)),
            (None, Err(e)) if e.kind() == io::ErrorKind::WouldBlock => ready!(io.poll_read_ready(cx))?,
            (None, Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
            (None, Err(e)) => return Poll::Ready(Err(e)),
            (None, Ok(())) => {}
        }
    }
}

/// Tries first and asks for readiness only when the socket is full.
fn write_plain(io: &TcpStream, cx: &mut Context, parts: [&[u8]; 2]) -> Poll<io::Result<usize>> {
    loop {
        let r = io.try_io(Interest::WRITABLE, || match parts {
            [one, []] | [[], one] => Ok(rustix::net::send(io, one, SendFlags::NOSIGNAL)?),
            [a, b] => Ok(rustix::net::sendmsg(io, &[IoSlice::new(a), IoSlice::new(b)], &mut Default::default(), SendFlags::NOSIGNAL)?),
        });
        match r {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready!(io.poll_write_ready(cx))?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            r => return Poll::Ready(r),
        }
    }
}
