//! Watches the bytes of HTTP/2 connections: what the h2 crate does not tell. Ends connections whose peer sends frames that cost work and carry nothing: pings, settings, resets, priorities,
//! window updates and empty data. The h2 crate bounds header continuations, data frames that carry little and streams
//! reset before they were accepted; this counts the rest, on the bytes as they come in. Streams beyond the most at once are
//! refused by the crate without a word; they are counted as their resets go out.
use crate::io::Io;
use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// Frames without content that a peer may send at once; they are forgotten at [`PER_SECOND`].
const BURST: u32 = 1000;
const PER_SECOND: u32 = 200;
/// One window update is allowed per this many bytes sent; most peers send one for half a window.
const BYTES_PER_UPDATE: usize = 256;

/// DATA frames with fewer bytes than this cost more memory than their content.
const SMALL: usize = 256;
/// Small frames read in one turn of the connection. Its streams then take them before it reads more.
const SMALL_PER_TURN: u32 = 1000;
/// For the library's `data_frame_budget`, which small frames use up until a stream has read them. One turn of the connection uses far
/// less, since its streams take what has arrived ([`super::H2Stream::absorb`]). The rest is for frames sent to streams that were
/// already answered: the library never returns their part of the budget.
pub const DATA_FRAME_BUDGET: usize = 16 << 20;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// Of HEADERS and CONTINUATION.
const END_HEADERS: u8 = 4;

/// Counts frames in a stream of bytes.
#[derive(Default)]
pub struct Flood {
    /// Bytes of the preface that are still to come.
    preface: usize,
    header: [u8; 9],
    have: usize,
    /// Payload bytes to skip.
    skip: usize,
    count: u32,
    /// Seconds at which `count` was last lowered.
    since: u64,
    /// Bytes sent for which the peer may still send window updates.
    credit: usize,
    /// Small DATA frames in this turn.
    small: u32,
    /// The peer is trusted.
    unlimited: bool,
}

impl Flood {
    /// For a connection whose first bytes are the client's preface.
    pub fn server() -> Flood {
        Flood { preface: super::PREFACE.len(), ..Flood::default() }
    }
    /// For a connection to an upstream: only small frames are counted.
    pub fn client() -> Flood {
        Flood { unlimited: true, ..Flood::default() }
    }
    /// The peer was sent `n` bytes, and may say that it has read them.
    pub fn sent(&mut self, n: usize) {
        self.credit = self.credit.saturating_add(n).min(BYTES_PER_UPDATE << 20);
    }
    /// Whether a head, or the header of a frame, has begun and not ended.
    pub fn is_in_head(&self) -> bool {
        let block = matches!(self.header[3], HEADERS | CONTINUATION);
        self.have > 0 || block && (self.skip > 0 || self.header[4] & END_HEADERS == 0)
    }
    /// Looks at bytes that came at second `now`. `false`: too many empty frames.
    pub fn accept(&mut self, mut b: &[u8], now: u64) -> bool {
        let n = self.preface.min(b.len());
        self.preface -= n;
        b = &b[n..];
        while !b.is_empty() {
            if self.skip > 0 {
                let n = self.skip.min(b.len());
                self.skip -= n;
                b = &b[n..];
                continue;
            }
            let n = (9 - self.have).min(b.len());
            self.header[self.have..self.have + n].copy_from_slice(&b[..n]);
            self.have += n;
            b = &b[n..];
            if self.have == 9 {
                self.have = 0;
                self.skip = u32::from_be_bytes([0, self.header[0], self.header[1], self.header[2]]) as usize;
                if !self.frame(now) {
                    return false;
                }
            }
        }
        true
    }
    fn frame(&mut self, now: u64) -> bool {
        let (kind, flags) = (self.header[3], self.header[4]);
        let ack = flags & 1 != 0;
        if kind == DATA && self.skip < SMALL {
            self.small += 1;
        }
        let empty = match kind {
            PING | SETTINGS => !ack,
            RST_STREAM | PRIORITY => true,
            // END_STREAM on an empty frame says something.
            DATA => self.skip == 0 && !ack,
            WINDOW_UPDATE => match self.credit.checked_sub(BYTES_PER_UPDATE) {
                Some(left) => {
                    self.credit = left;
                    false
                }
                None => true,
            },
            _ => false,
        };
        if empty {
            if now > self.since {
                let forgotten = u64::from(PER_SECOND).saturating_mul(now - self.since);
                self.count = self.count.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX));
                self.since = now;
            }
            self.count += 1;
        }
        self.unlimited || self.count <= BURST
    }
}

/// Counts the streams that are refused (RST_STREAM with REFUSED_STREAM) in the bytes that go out.
#[derive(Default)]
struct Refusals {
    /// The header of a frame, of a reset with its code behind it.
    head: [u8; 13],
    have: usize,
    /// Payload bytes to skip.
    skip: usize,
}

impl Refusals {
    /// How many are refused in these bytes.
    fn count(&mut self, mut b: &[u8]) -> u32 {
        const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];
        let mut found = 0;
        while !b.is_empty() {
            let n = self.skip.min(b.len());
            self.skip -= n;
            b = &b[n..];
            let of_head = if self.have >= 9 { 13 } else { 9 };
            let n = (of_head - self.have).min(b.len());
            self.head[self.have..self.have + n].copy_from_slice(&b[..n]);
            self.have += n;
            b = &b[n..];
            match self.have {
                // Its code follows.
                9 if self.head[3] == RST_STREAM && self.head[..3] == [0, 0, 4] => {}
                9 => {
                    self.skip = u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]) as usize;
                    self.have = 0;
                }
                13 => {
                    found += u32::from(self.head[9..] == REFUSED_STREAM);
                    self.have = 0;
                }
                _ => {}
            }
        }
        found
    }
}

/// What was seen of a connection.
#[derive(Default)]
pub struct Seen {
    /// It was ended for a flood.
    pub flooded: Cell<bool>,
    /// The peer has begun a head and not ended it.
    pub in_head: Cell<bool>,
    /// Streams refused that nobody has taken note of yet.
    pub refused: Cell<u32>,
    /// Reading waits until the streams have taken what has arrived: the task that drives the connection must yield to them.
    pub paced: Cell<bool>,
}

/// A connection that is watched for floods; ends as if broken when there is one. What was read of it already is read again
/// first.
pub struct Guarded {
    io: Io,
    first: Vec<u8>,
    flood: Flood,
    refusals: Refusals,
    begun: Instant,
    seen: Rc<Seen>,
}

impl Guarded {
    pub fn new(io: Io, first: Vec<u8>, seen: Rc<Seen>) -> Guarded {
        Guarded { io, first, flood: Flood::server(), refusals: Refusals::default(), begun: Instant::now(), seen }
    }
    /// A connection to an upstream: only paced.
    pub fn client(io: Io) -> Guarded {
        Guarded { flood: Flood::client(), ..Guarded::new(io, Vec::new(), Rc::default()) }
    }
    /// Counts what the peer was sent.
    fn wrote<'a>(&mut self, wrote: Poll<io::Result<usize>>, parts: impl Iterator<Item = &'a [u8]>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = wrote
            && !self.flood.unlimited
        {
            self.flood.sent(n);
            let mut left = n;
            for part in parts {
                let sent = left.min(part.len());
                self.seen.refused.update(|n| n.saturating_add(self.refusals.count(&part[..sent])));
                left -= sent;
            }
        }
        wrote
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.flood.small >= SMALL_PER_TURN {
            self.flood.small = 0;
            self.seen.paced.set(true);
            // Runs again after the streams that were woken meanwhile.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.first.is_empty() {
            let read = Pin::new(&mut self.io).poll_read(cx, buf);
            if read.is_pending() {
                self.flood.small = 0;
            }
            ready!(read)?;
        } else {
            let n = buf.remaining().min(self.first.len());
            buf.put_slice(&self.first[..n]);
            self.first.drain(..n);
        }
        let now = self.begun.elapsed().as_secs();
        let fine = self.flood.accept(&buf.filled()[before..], now);
        self.seen.in_head.set(self.flood.is_in_head());
        if !fine {
            self.seen.flooded.set(true);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "too many frames without content")));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(wrote, std::iter::once(buf))
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(wrote, bufs.iter().map(|b| &**b))
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, len: usize) -> Vec<u8> {
        let mut f = (len as u32).to_be_bytes()[1..].to_vec();
        f.extend([kind, flags, 0, 0, 0, 1]);
        f.extend(vec![0; len]);
        f
    }

    #[test]
    fn empty_frames_are_counted_and_forgotten() {
        for (kind, flags, len, bad) in [
            (PING, 0, 8, true),
            (PING, 1, 8, false),
            (SETTINGS, 0, 0, true),
            (RST_STREAM, 0, 4, true),
            (DATA, 0, 0, true),
            (DATA, 1, 0, false),
            (DATA, 0, 10, false),
            (HEADERS, 4, 20, false),
            (WINDOW_UPDATE, 0, 4, true),
        ] {
            let mut f = Flood::server();
            assert!(f.accept(super::super::PREFACE, 0));
            let many = frame(kind, flags, len).repeat(BURST as usize + 1);
            // In pieces, to cross frame borders.
            assert_eq!(many.chunks(7).all(|c| f.accept(c, 0)), !bad, "{kind} {flags}");
            let mut f = Flood::default();
            let slow = frame(kind, flags, len).repeat(100);
            assert!((0..100).all(|second| f.accept(&slow, second)), "{kind} slowly");
        }
    }

    #[test]
    fn small_frames_of_data_are_counted() {
        let mut f = Flood::client();
        let all = [frame(DATA, 0, 1), frame(DATA, 0, 255), frame(DATA, 0, 256), frame(HEADERS, 4, 1), frame(PING, 0, 8)].concat();
        assert!(f.accept(&all.repeat(BURST as usize * 2), 0));
        assert_eq!(f.small, BURST * 4);
    }

    #[test]
    fn heads_that_have_not_ended_are_seen() {
        let cut = |bytes: Vec<u8>, n: usize| bytes[..n].to_vec();
        for (bytes, in_head) in [
            (vec![], false),
            (frame(HEADERS, END_HEADERS, 20), false),
            (frame(HEADERS, 0, 20), true),
            (cut(frame(HEADERS, END_HEADERS, 20), 15), true),
            (cut(frame(PING, 0, 8), 5), true),
            ([frame(HEADERS, 0, 20), frame(CONTINUATION, 0, 0)].concat(), true),
            ([frame(HEADERS, 0, 20), frame(CONTINUATION, END_HEADERS, 5)].concat(), false),
            // A body may take its time.
            (cut(frame(DATA, 0, 20), 15), false),
        ] {
            let mut f = Flood::default();
            assert!(f.accept(&bytes, 0));
            assert_eq!(f.is_in_head(), in_head, "{bytes:?}");
        }
    }

    #[test]
    fn refused_streams_are_counted_however_the_bytes_are_cut() {
        let reset = |code: u8| {
            let mut f = frame(RST_STREAM, 0, 4);
            f[12] = code;
            f
        };
        // What looks like a reset within a body is none.
        let body = [frame(DATA, 0, 26)[..9].to_vec(), reset(7), reset(7)].concat();
        let all = [reset(7), frame(HEADERS, 4, 20), body, reset(8), frame(SETTINGS, 1, 0), reset(7)].concat();
        for size in 1..=all.len() {
            let mut r = Refusals::default();
            assert_eq!(all.chunks(size).map(|c| r.count(c)).sum::<u32>(), 2, "{size}");
        }
    }

    #[test]
    fn window_updates_are_paid_for_by_what_was_sent() {
        let many = frame(WINDOW_UPDATE, 0, 4).repeat(BURST as usize * 10);
        let mut f = Flood::default();
        f.sent(BYTES_PER_UPDATE * BURST as usize * 9);
        assert!(f.accept(&many, 0), "nine tenths are paid for, the rest is a burst");
        assert!(!f.accept(&many, 0));
    }
}
