//! A copy of what passes, for the cache. The client never waits for it: a copy that falls behind is given up.
use crate::body::{Body, BodyError};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{
        Arc,
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

/// Bytes of a copy that are handed over together: the cache is woken for each hand-over.
pub const TOGETHER: usize = 64 << 10;

/// Passes a body on and copies it.
pub struct Tee {
    body: Body,
    copy: Option<Copying>,
    /// Bytes that are still to come, where that is known.
    remaining: Option<u64>,
    budget: Arc<Budget>,
    given_up: bool,
    _client: Arc<()>,
}

struct Copying {
    send: mpsc::UnboundedSender<Piece>,
    waiting: Arc<Waiting>,
    /// What was not handed over yet.
    held: Vec<Bytes>,
    bytes: usize,
    /// So many bytes are handed over together.
    together: usize,
    /// Has the copy worked off, once there is something.
    start: Option<(Copied, Start)>,
}

pub type Start = Box<dyn FnOnce(Copied) + Send>;

impl Copying {
    fn hand_over(&mut self) {
        self.bytes = 0;
        for data in self.held.drain(..) {
            let _ = self.send.send(Piece::Data(data));
        }
        if let Some((copied, start)) = self.start.take() {
            start(copied);
        }
    }
}

impl Tee {
    /// `most`: bytes of this copy that may wait for the cache. `together`: bytes of it that are handed over together, with its end at the
    /// latest; 0: each piece for itself. `start` has it worked off. `client` lasts for as long as the client reads, also once the copy was
    /// given up.
    pub fn new(body: Body, client: Arc<()>, most: usize, together: usize, budget: &Arc<Budget>, start: Start) -> Tee {
        let (send, pieces) = mpsc::unbounded_channel();
        let waiting = Arc::new(Waiting { bytes: AtomicUsize::new(0), most, budget: budget.clone() });
        let copied = Copied { pieces, waiting: waiting.clone(), ended: None };
        let mut copy = Copying { send, waiting, held: Vec::new(), bytes: 0, together, start: Some((copied, start)) };
        if together == 0 {
            copy.hand_over();
        }
        let remaining = body.size_hint().exact();
        let mut tee = Tee { body, copy: Some(copy), remaining, budget: budget.clone(), given_up: false, _client: client };
        tee.end_if_whole();
        tee
    }

    fn copy(&mut self, data: &Bytes) {
        let Some(copy) = &mut self.copy else { return };
        if !copy.waiting.take(data.len()) {
            self.end(End::Overflow);
            self.given_up = true;
            return;
        }
        copy.held.push(data.clone());
        copy.bytes += data.len();
        if copy.bytes > copy.together {
            copy.hand_over();
        }
    }

    /// Nobody reads further once a body of a known length is complete, not even to learn that it has ended.
    fn end_if_whole(&mut self) {
        if self.remaining == Some(0) || self.body.is_end_stream() {
            self.end(End::Whole);
        }
    }

    fn end(&mut self, end: End) {
        let Some(mut copy) = self.copy.take() else { return };
        // A copy of which nothing was handed over, and which is not whole, is nothing.
        if end != End::Cut || copy.start.is_none() {
            copy.hand_over();
            let _ = copy.send.send(Piece::End(end));
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
                if let Some(data) = frame.data_ref() {
                    self.copy(data);
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

    /// A tee, and its copy once that is worked off.
    fn tee(body: Body, most: usize, together: usize, budget: &Arc<Budget>) -> (Tee, std::sync::mpsc::Receiver<Copied>) {
        let (send, receive) = std::sync::mpsc::channel();
        (Tee::new(body, Arc::default(), most, together, budget, Box::new(move |copied| send.send(copied).unwrap())), receive)
    }

    #[tokio::test]
    async fn a_copy_has_every_byte_and_says_how_it_ended() {
        let budget = Budget::new(100);
        for together in [0, 2, 3, 50] {
            let (tee, copy) = self::tee(full("abc"), 100, together, &budget);
            assert_eq!(tee.collect().await.unwrap().to_bytes(), "abc");
            assert_eq!(copied(&mut copy.recv().unwrap()).await, (b"abc".to_vec(), End::Whole));

            let pieces = [Ok(Frame::data(Bytes::from_static(b"ab"))), Err(BodyError::from("cut"))];
            let (tee, copy) = self::tee(streamed(StreamBody::new(futures_util::stream::iter(pieces))), 100, together, &budget);
            assert!(tee.collect().await.is_err());
            match copy.recv() {
                Ok(mut copy) => assert_eq!(copied(&mut copy).await, (b"ab".to_vec(), End::Cut), "{together}"),
                Err(_) => assert!(together > 1, "{together}"),
            }

            let (tee, copy) = self::tee(full("abc"), 100, together, &budget);
            drop(tee);
            match copy.recv() {
                Ok(mut copy) => assert_eq!(copied(&mut copy).await, (b"".to_vec(), End::Cut), "{together}"),
                Err(_) => assert!(together > 0, "{together}"),
            }
            assert_eq!(budget.used(), 0);
        }
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
        for (pieces, together, read, wanted) in [
            (vec!["ab", "c"], 0, 2, ("abc", End::Whole)),
            (vec!["ab", "c"], 50, 2, ("abc", End::Whole)),
            (vec!["ab", "c"], 0, 1, ("ab", End::Cut)),
            (vec![], 50, 0, ("", End::Whole)),
        ] {
            let (mut tee, copy) = tee(streamed(Long(pieces)), 100, together, &budget);
            for _ in 0..read {
                tee.frame().await.unwrap().unwrap();
            }
            drop(tee);
            assert_eq!(copied(&mut copy.recv().unwrap()).await, (wanted.0.as_bytes().to_vec(), wanted.1));
        }
    }

    #[tokio::test]
    async fn a_slow_copy_is_given_up_and_the_client_gets_everything() {
        let pieces = || {
            let data = |s: &'static str| Ok::<_, BodyError>(Frame::data(Bytes::from_static(s.as_bytes())));
            streamed(StreamBody::new(futures_util::stream::iter([data("aaaa"), data("bbbb"), data("cccc")])))
        };
        for together in [0, 5, 100] {
            for (stream, all, kept) in [(8, 100, "aaaabbbb"), (100, 4, "aaaa"), (2, 100, "aaaa"), (12, 12, "aaaabbbbcccc")] {
                let budget = Budget::new(all);
                let (tee, copy) = tee(pieces(), stream, together, &budget);
                assert_eq!(tee.collect().await.unwrap().to_bytes(), "aaaabbbbcccc");
                let end = if kept.len() == 12 { End::Whole } else { End::Overflow };
                assert_eq!(copied(&mut copy.recv().unwrap()).await, (kept.as_bytes().to_vec(), end), "{stream} {all} {together}");
                assert_eq!(budget.used(), 0, "{stream} {all} {together}");
                assert_eq!(budget.dropped(), 12 - kept.len() as u64, "{stream} {all} {together}");
            }
        }
    }
}
