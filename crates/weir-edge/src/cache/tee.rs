//! A copy of what passes, for the cache. The client never waits for it: a copy that falls behind is given up.
use crate::body::{Body, BodyError};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};
use tokio::sync::mpsc;

/// Bytes that all copies together may hold which the cache has not taken yet.
#[derive(Debug)]
pub struct Budget {
    all: usize,
    used: AtomicUsize,
    /// Bytes that were not copied because the cache was too slow.
    dropped: AtomicU64,
}

impl Budget {
    pub fn new(all: usize) -> Arc<Budget> {
        Arc::new(Budget { all, used: AtomicUsize::new(0), dropped: AtomicU64::new(0) })
    }

    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Bytes that wait in all streams.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// How a copy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With the body.
    Whole,
    /// The body broke off, or the client left.
    Cut,
    /// The cache was too slow.
    Overflow,
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    End(End),
}

/// The cache's side of a copy.
pub struct Copied {
    pieces: mpsc::UnboundedReceiver<Piece>,
    waiting: Arc<Waiting>,
    ended: Option<End>,
}

impl Copied {
    /// The next bytes, or how it ended.
    pub async fn next(&mut self) -> Result<Bytes, End> {
        if let Some(end) = self.ended {
            return Err(end);
        }
        match self.pieces.recv().await {
            Some(Piece::Data(bytes)) => {
                self.waiting.release(bytes.len());
                Ok(bytes)
            }
            Some(Piece::End(end)) => Err(*self.ended.insert(end)),
            None => Err(*self.ended.insert(End::Cut)),
        }
    }
}

/// What one copy holds of the budget.
struct Waiting {
    bytes: AtomicUsize,
    most: usize,
    budget: Arc<Budget>,
}

impl Waiting {
    fn take(&self, n: usize) -> bool {
        let stream = self.bytes.fetch_add(n, Ordering::Relaxed) + n;
        let all = self.budget.used.fetch_add(n, Ordering::Relaxed) + n;
        // One piece always fits: an object may be larger than the budget of a stream.
        stream <= self.most.max(n) && all <= self.budget.all
    }
    fn release(&self, n: usize) {
        self.bytes.fetch_sub(n, Ordering::Relaxed);
        self.budget.used.fetch_sub(n, Ordering::Relaxed);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Passes a body on and copies it.
pub struct Tee {
    body: Body,
    copy: Option<(mpsc::UnboundedSender<Piece>, Arc<Waiting>)>,
    /// Bytes that are still to come, where that is known.
    remaining: Option<u64>,
    budget: Arc<Budget>,
    given_up: bool,
    client: Arc<()>,
}

impl Tee {
    /// `most`: bytes of this copy that may wait for the cache.
    pub fn new(body: Body, most: usize, budget: &Arc<Budget>) -> (Tee, Copied) {
        let (send, pieces) = mpsc::unbounded_channel();
        let waiting = Arc::new(Waiting { bytes: AtomicUsize::new(0), most, budget: budget.clone() });
        let (copy, remaining) = (Some((send, waiting.clone())), body.size_hint().exact());
        let mut tee = Tee { body, copy, remaining, budget: budget.clone(), given_up: false, client: Arc::default() };
        tee.end_if_whole();
        (tee, Copied { pieces, waiting, ended: None })
    }

    /// Can be upgraded for as long as the client reads, also once the copy was given up.
    pub fn client(&self) -> Weak<()> {
        Arc::downgrade(&self.client)
    }

    /// Nobody reads further once a body of a known length is complete, not even to learn that it has ended.
    fn end_if_whole(&mut self) {
        if self.remaining == Some(0) || self.body.is_end_stream() {
            self.end(End::Whole);
        }
    }

    fn end(&mut self, end: End) {
        if let Some((send, _)) = self.copy.take() {
            let _ = send.send(Piece::End(end));
        }
    }
}

impl http_body::Body for Tee {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            None => self.end(End::Whole),
            Some(Err(_)) => self.end(End::Cut),
            Some(Ok(frame)) => {
                if let (Some(data), Some((send, waiting))) = (frame.data_ref(), &self.copy) {
                    match waiting.take(data.len()) {
                        true => drop(send.send(Piece::Data(data.clone()))),
                        false => {
                            self.end(End::Overflow);
                            self.given_up = true;
                        }
                    }
                }
                if let Some(data) = frame.data_ref().filter(|_| self.given_up) {
                    self.budget.dropped.fetch_add(data.len() as u64, Ordering::Relaxed);
                }
                if let (Some(remaining), Some(data)) = (&mut self.remaining, frame.data_ref()) {
                    *remaining = remaining.saturating_sub(data.len() as u64);
                }
                self.end_if_whole();
            }
        }
        Poll::Ready(frame)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::{full, streamed};
    use http_body_util::{BodyExt, StreamBody};

    async fn copied(copy: &mut Copied) -> (Vec<u8>, End) {
        let mut bytes = Vec::new();
        loop {
            match copy.next().await {
                Ok(piece) => bytes.extend_from_slice(&piece),
                Err(end) => return (bytes, end),
            }
        }
    }

    #[tokio::test]
    async fn a_copy_has_every_byte_and_says_how_it_ended() {
        let budget = Budget::new(100);
        let (tee, mut copy) = Tee::new(full("abc"), 100, &budget);
        assert_eq!(tee.collect().await.unwrap().to_bytes(), "abc");
        assert_eq!(copied(&mut copy).await, (b"abc".to_vec(), End::Whole));

        let pieces = [Ok(Frame::data(Bytes::from_static(b"ab"))), Err(BodyError::from("cut"))];
        let (tee, mut copy) = Tee::new(streamed(StreamBody::new(futures_util::stream::iter(pieces))), 100, &budget);
        assert!(tee.collect().await.is_err());
        assert_eq!(copied(&mut copy).await, (b"ab".to_vec(), End::Cut));

        let (tee, mut copy) = Tee::new(full("abc"), 100, &budget);
        drop(tee);
        assert_eq!(copied(&mut copy).await, (b"".to_vec(), End::Cut));
        drop(copy);
        assert_eq!(budget.used(), 0);
    }

    /// Says how long it is, and that it has ended only when it is asked for more.
    struct Long(Vec<&'static str>);

    impl http_body::Body for Long {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Poll::Ready((!self.0.is_empty()).then(|| Ok(Frame::data(Bytes::from_static(self.0.remove(0).as_bytes())))))
        }
        fn is_end_stream(&self) -> bool {
            false
        }
        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
        }
    }

    #[tokio::test]
    async fn a_body_of_a_known_length_is_whole_with_its_last_byte() {
        let budget = Budget::new(100);
        for (pieces, read, wanted) in
            [(vec!["ab", "c"], 2, ("abc", End::Whole)), (vec!["ab", "c"], 1, ("ab", End::Cut)), (vec![], 0, ("", End::Whole))]
        {
            let (mut tee, mut copy) = Tee::new(streamed(Long(pieces)), 100, &budget);
            for _ in 0..read {
                tee.frame().await.unwrap().unwrap();
            }
            drop(tee);
            assert_eq!(copied(&mut copy).await, (wanted.0.as_bytes().to_vec(), wanted.1));
        }
    }

    #[tokio::test]
    async fn a_slow_copy_is_given_up_and_the_client_gets_everything() {
        let pieces = || {
            let data = |s: &'static str| Ok::<_, BodyError>(Frame::data(Bytes::from_static(s.as_bytes())));
            streamed(StreamBody::new(futures_util::stream::iter([data("aaaa"), data("bbbb"), data("cccc")])))
        };
        for (stream, all, kept) in [(8, 100, "aaaabbbb"), (100, 4, "aaaa"), (2, 100, "aaaa"), (12, 12, "aaaabbbbcccc")] {
            let budget = Budget::new(all);
            let (tee, mut copy) = Tee::new(pieces(), stream, &budget);
            assert_eq!(tee.collect().await.unwrap().to_bytes(), "aaaabbbbcccc");
            let end = if kept.len() == 12 { End::Whole } else { End::Overflow };
            assert_eq!(copied(&mut copy).await, (kept.as_bytes().to_vec(), end), "{stream} {all}");
            drop(copy);
            assert_eq!(budget.used(), 0, "{stream} {all}");
            assert_eq!(budget.dropped(), 12 - kept.len() as u64, "{stream} {all}");
        }
    }
}
