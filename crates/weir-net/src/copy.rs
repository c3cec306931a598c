//! Copies bytes both ways between two connections until both have ended: TCP proxies, CONNECT tunnels and upgraded connections.
//!
//! The bodies of HTTP messages are moved by [`crate::http::pump`] and [`crate::http::relay`] instead: they look for the end of a
//! message in the bytes, rewrite its framing and may have to send it again. Here the end is that of the connection.
use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const SCRATCH: usize = 64 * 1024;

thread_local! {
    /// All copies of a thread read into it. What cannot be written at once moves to memory of the copy's own.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// One of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    A,
    B,
}

/// A connection that failed, and how.
#[derive(Debug)]
pub struct CopyError {
    pub end: End,
    pub error: io::Error,
}

/// One direction.
#[derive(Default)]
struct Direction {
    /// Read but not written yet, from `at` on.
    pending: Vec<u8>,
    at: usize,
    ended: bool,
    /// Written, but perhaps still in the writer's buffer.
    unflushed: bool,
    done: bool,
    read: u64,
    written: u64,
}

/// Which side of a direction failed.
enum Failed {
    Source(io::Error),
    Sink(io::Error),
}

impl Direction {
    /// Goes on as far as both sides let it; ready when the end has been passed on.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), Failed>> {
        while !self.done {
            if self.at < self.pending.len() {
                let n = ready!(Pin::new(&mut *to).poll_write(cx, &self.pending[self.at..])).map_err(Failed::Sink)?;
                self.wrote(n)?;
                self.at += n;
                continue;
            }
            if !self.pending.is_empty() {
                (self.pending, self.at) = (Vec::new(), 0);
            }
            if self.ended {
                // Everything has arrived: a receiver that has closed meanwhile needs no end.
                let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                self.done = true;
                break;
            }
            if BUFFER.with_borrow_mut(|buf| self.poll_once(cx, from, to, buf))?.is_pending() {
                if self.unflushed {
                    ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Failed::Sink)?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes what the other side takes; pending when there is nothing to read.
    fn poll_once(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        buf: &mut [u8],
    ) -> Result<Poll<()>, Failed> {
        let mut buf = ReadBuf::new(buf);
        match Pin::new(from).poll_read(cx, &mut buf) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(read) => read.map_err(Failed::Source)?,
        }
        let mut rest = buf.filled();
        self.ended = rest.is_empty();
        self.read += rest.len() as u64;
        while !rest.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, rest) {
                Poll::Ready(n) => {
                    let n = n.map_err(Failed::Sink)?;
                    self.wrote(n)?;
                    rest = &rest[n..];
                }
                Poll::Pending => {
                    self.pending.extend_from_slice(rest);
                    break;
                }
            }
        }
        Ok(Poll::Ready(()))
    }

    fn wrote(&mut self, n: usize) -> Result<(), Failed> {
        if n == 0 {
            return Err(Failed::Sink(io::ErrorKind::WriteZero.into()));
        }
        self.unflushed = true;
        self.written += n as u64;
        Ok(())
    }
}

/// Both directions. It holds neither connection, so the caller can use them between polls.
#[derive(Default)]
pub struct Copy {
    forth: Direction,
    back: Direction,
}

impl Copy {
    /// `to_a`: bytes that `a` gets first, as the head that opens the tunnel. They do not count as read.
    pub fn new(to_a: Vec<u8>) -> Copy {
        Copy { back: Direction { pending: to_a, ..Direction::default() }, ..Copy::default() }
    }

    /// Goes on as far as both connections let it; ready when both have ended. The end of one is passed on, the other may go on for
    /// as long as it likes.
    ///
    /// # Errors
    /// Which connection failed.
    pub fn poll<A, B>(&mut self, cx: &mut Context<'_>, a: &mut A, b: &mut B) -> Poll<Result<(), CopyError>>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let forth = self.forth.poll(cx, a, b).map_err(|failed| match failed {
            Failed::Source(error) => CopyError { end: End::A, error },
            Failed::Sink(error) => CopyError { end: End::B, error },
        })?;
        let back = self.back.poll(cx, b, a).map_err(|failed| match failed {
            Failed::Source(error) => CopyError { end: End::B, error },
            Failed::Sink(error) => CopyError { end: End::A, error },
        })?;
        if forth.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Bytes read from `a` and from `b`.
    pub fn read(&self) -> [u64; 2] {
        [self.forth.read, self.back.read]
    }

    /// Bytes written to `b` and to `a`.
    pub fn written(&self) -> [u64; 2] {
        [self.forth.written, self.back.written]
    }

    /// Rises with every byte that moves: to notice that none does.
    pub fn progress(&self) -> u64 {
        let [read, written] = [self.read(), self.written()].map(|n| n[0].wrapping_add(n[1]));
        read.wrapping_add(written)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    /// Pipes that hold little, a reader that is slower than the writer, and ends at different times.
    #[tokio::test]
    async fn all_bytes_arrive_and_ends_are_passed_on() {
        let ((client, mut a), (mut b, server)) = (duplex(100), duplex(7));
        let mut copy = Copy::new(b"first ".to_vec());
        let sent: Vec<u8> = (0..200_000u32).map(|i| (i * 7 / 3) as u8).collect();
        let (mut client_read, mut client_write) = tokio::io::split(client);
        let client = async {
            client_write.write_all(&sent).await.unwrap();
            client_write.shutdown().await.unwrap();
            let mut answer = String::new();
            client_read.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let server = async {
            let (mut read, mut write) = tokio::io::split(server);
            let mut got = Vec::new();
            read.read_to_end(&mut got).await.unwrap();
            // The client has ended; the answer still arrives.
            write.write_all(b"a late answer").await.unwrap();
            write.shutdown().await.unwrap();
            got
        };
        let (end, answer, got) = tokio::join!(poll_fn(|cx| copy.poll(cx, &mut a, &mut b)), client, server);
        end.unwrap();
        assert!(got == sent && answer == "first a late answer");
        assert_eq!((copy.read(), copy.written()), ([200_000, 13], [200_000, 19]));
    }

    #[tokio::test]
    async fn it_says_which_end_failed() {
        let ((mut client, mut a), (mut b, server)) = (duplex(100), duplex(100));
        drop(server);
        client.write_all(b"x").await.unwrap();
        let mut copy = Copy::default();
        let failed = poll_fn(|cx| copy.poll(cx, &mut a, &mut b)).await.unwrap_err();
        assert_eq!((failed.end, failed.error.kind()), (End::B, io::ErrorKind::BrokenPipe));
    }
}
