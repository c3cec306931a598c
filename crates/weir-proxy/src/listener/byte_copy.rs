//! Bytes both ways between two connections, with no buffer held while none wait.
use crate::stats::{Counter, SharedCounter};
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

const SCRATCH: usize = 64 * 1024;

thread_local! {
    /// Where every tunnel of a worker reads to; what cannot be written at once moves to the tunnel's own memory.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// Where the bytes of one direction are counted while they move.
#[derive(Clone, Copy)]
pub(super) struct Moved<'a> {
    pub listener: &'a SharedCounter,
    /// Of this worker.
    pub cluster: &'a Counter,
}

/// One direction.
struct Pump<'a> {
    /// Read but not written yet, from `at` on.
    pending: Vec<u8>,
    at: usize,
    ended: bool,
    /// Written, but perhaps still in the writer's buffer.
    unflushed: bool,
    done: bool,
    bytes: Moved<'a>,
    moved: &'a Cell<Instant>,
}

impl<'a> Pump<'a> {
    fn new(bytes: Moved<'a>, moved: &'a Cell<Instant>) -> Self {
        Pump { pending: Vec::new(), at: 0, ended: false, unflushed: false, done: false, bytes, moved }
    }

    /// Goes on as far as both sides let it; ready when the end has been passed on.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while !self.done {
            if self.at < self.pending.len() {
                let n = ready!(Pin::new(&mut *to).poll_write(cx, &self.pending[self.at..]))?;
                self.wrote(n)?;
                self.at += n;
                continue;
            }
            if !self.pending.is_empty() {
                (self.pending, self.at) = (Vec::new(), 0);
            }
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.done = true;
                break;
            }
            if BUFFER.with_borrow_mut(|buf| self.poll_once(cx, from, to, buf))?.is_pending() {
                if self.unflushed {
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
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
    ) -> io::Result<Poll<()>> {
        let mut buf = ReadBuf::new(buf);
        match Pin::new(from).poll_read(cx, &mut buf) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(read) => read?,
        }
        let mut rest = buf.filled();
        self.ended = rest.is_empty();
        self.moved.set(Instant::now());
        while !rest.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, rest) {
                Poll::Ready(n) => {
                    let n = n?;
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

    fn wrote(&mut self, n: usize) -> io::Result<()> {
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.unflushed = true;
        self.bytes.listener.add(n as u64);
        self.bytes.cluster.add(n as u64);
        self.moved.set(Instant::now());
        Ok(())
    }
}

/// Copies both ways until both have ended. One side's end is passed on; the other may go on for as long as it likes.
/// `forth` counts bytes from `a` to `b`, `back` the others.
///
/// # Errors
/// `TimedOut` when no byte moved in either direction for `idle` (zero waits for ever); what either side's socket says.
pub(super) async fn tunnel(
    mut a: impl AsyncRead + AsyncWrite + Unpin,
    mut b: impl AsyncRead + AsyncWrite + Unpin,
    idle: Duration,
    forth: Moved<'_>,
    back: Moved<'_>,
) -> io::Result<()> {
    let moved = Cell::new(Instant::now());
    let (mut forth, mut back) = (Pump::new(forth, &moved), Pump::new(back, &moved));
    let copying = poll_fn(|cx| {
        let there = forth.poll(cx, &mut a, &mut b)?;
        let here = back.poll(cx, &mut b, &mut a)?;
        if there.is_ready() && here.is_ready() { Poll::Ready(io::Result::Ok(())) } else { Poll::Pending }
    });
    let watching = async {
        if idle.is_zero() {
            return std::future::pending().await;
        }
        while moved.get().elapsed() < idle {
            tokio::time::sleep_until(moved.get() + idle).await;
        }
        Err(io::ErrorKind::TimedOut.into())
    };
    tokio::select! { end = copying => end, end = watching => end }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    fn of(listener: &SharedCounter) -> Moved<'_> {
        static CLUSTER: Counter = Counter::new();
        Moved { listener, cluster: &CLUSTER }
    }

    /// Pipes that hold little, a reader that is slower than the writer, and ends at different times.
    #[tokio::test]
    async fn all_bytes_arrive_and_ends_are_passed_on() {
        let ((client, a), (b, server)) = (duplex(100), duplex(7));
        let (forth, back) = (SharedCounter::default(), SharedCounter::default());
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
        let (end, answer, got) = tokio::join!(tunnel(a, b, Duration::ZERO, of(&forth), of(&back)), client, server);
        end.unwrap();
        assert!(got == sent && answer == "a late answer");
        assert_eq!((forth.get(), back.get()), (200_000, 13));
    }

    #[tokio::test]
    async fn it_ends_when_nothing_moves() {
        let ((mut client, a), (b, _server)) = (duplex(100), duplex(100));
        let (forth, back) = (SharedCounter::default(), SharedCounter::default());
        let start = Instant::now();
        let moving = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(200)).await;
                client.write_all(b"x").await.unwrap();
            }
        };
        let (end, ()) = tokio::join!(tunnel(a, b, Duration::from_secs(1), of(&forth), of(&back)), moving);
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // Had it not minded what moved, it would have ended after one second.
        assert!(start.elapsed() >= Duration::from_millis(1600), "{:?}", start.elapsed());
    }
}
