//! A body whose small pieces pass on together. An API server sends a list in thousands of pieces, and each one that passes alone costs
//! system calls and wakes the cache.
use super::{Body, BodyError};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep};

/// So many bytes pass on at once…
const ENOUGH: usize = 64 << 10;
/// …and fewer after so long.
const WAIT: Duration = Duration::from_millis(1);

pub struct Gathered {
    body: Body,
    /// Bytes that are still to come, where that is known.
    remaining: Option<u64>,
    held: VecDeque<Frame<Bytes>>,
    bytes: usize,
    /// What is held passes on.
    passes: bool,
    /// Set once something was held; its time counts while `waits` is set.
    timer: Option<Pin<Box<Sleep>>>,
    waits: bool,
    /// How the body ended. The error comes behind what is held.
    ended: Option<Option<BodyError>>,
}

impl Gathered {
    pub fn new(body: Body) -> Gathered {
        let remaining = body.size_hint().exact();
        Gathered { body, remaining, held: VecDeque::new(), bytes: 0, passes: false, timer: None, waits: false, ended: None }
    }

    /// Takes what has come of the body.
    fn fill(&mut self, cx: &mut Context<'_>) {
        while self.ended.is_none() && self.bytes < ENOUGH {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(frame))) => {
                    let length = frame.data_ref().map_or(0, Bytes::len);
                    self.bytes += length;
                    self.remaining = self.remaining.map(|remaining| remaining.saturating_sub(length as u64));
                    self.held.push_back(frame);
                    if self.body.is_end_stream() {
                        self.ended = Some(None);
                    }
                }
                Poll::Ready(Some(Err(e))) => self.ended = Some(Some(e)),
                Poll::Ready(None) => self.ended = Some(None),
            }
        }
    }

    /// Whether what is held has waited long enough.
    fn is_due(&mut self, cx: &mut Context<'_>) -> bool {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(WAIT)));
        if !std::mem::replace(&mut self.waits, true) {
            timer.as_mut().reset(Instant::now() + WAIT);
        }
        timer.as_mut().poll(cx).is_ready()
    }
}

impl http_body::Body for Gathered {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.passes {
            self.fill(cx);
            let nothing = self.held.is_empty() && self.ended.is_none();
            // Of a body of a known length, the end is not asked for.
            let enough = self.ended.is_some() || self.remaining == Some(0) || self.bytes >= ENOUGH;
            if nothing || !enough && !self.is_due(cx) {
                return Poll::Pending;
            }
            (self.passes, self.waits) = (true, false);
        }
        if let Some(frame) = self.held.pop_front() {
            self.bytes -= frame.data_ref().map_or(0, Bytes::len);
            self.passes = !self.held.is_empty();
            return Poll::Ready(Some(Ok(frame)));
        }
        Poll::Ready(self.ended.as_mut().and_then(Option::take).map(Err))
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && (matches!(self.ended, Some(None)) || self.ended.is_none() && self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let (of_body, held) = (self.body.size_hint(), self.bytes as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(of_body.lower() + held);
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper + held);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::{full, streamed};
    use http_body_util::{BodyExt, StreamBody};
    use tokio::sync::mpsc;

    type Piece = Result<Frame<Bytes>, BodyError>;

    fn piece(text: &'static str) -> Piece {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    fn gathered() -> (mpsc::UnboundedSender<Piece>, Gathered) {
        let (send, receive) = mpsc::unbounded_channel();
        let frames = futures_util::stream::unfold(receive, |mut receive| async { Some((receive.recv().await?, receive)) });
        (send, Gathered::new(streamed(StreamBody::new(frames))))
    }

    /// The frames that pass on without waiting.
    async fn ready(body: &mut Gathered) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(next) = futures_util::FutureExt::now_or_never(body.frame()) {
            match next {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => seen.push(String::from_utf8(data.to_vec()).unwrap()),
                    Err(_) => seen.push("trailers".into()),
                },
                Some(Err(e)) => seen.push(e.to_string()),
                None => {
                    seen.push("end".into());
                    break;
                }
            }
        }
        seen
    }

    #[tokio::test]
    async fn pieces_pass_on_together_after_a_moment_or_with_the_end() {
        let (send, mut body) = gathered();
        assert!(ready(&mut body).await.is_empty());
        for text in ["a", "b"] {
            send.send(piece(text)).unwrap();
            assert!(ready(&mut body).await.is_empty(), "{text}");
        }
        assert_eq!((body.size_hint().lower(), body.is_end_stream()), (2, false));
        tokio::time::sleep(WAIT * 2).await;
        assert_eq!(ready(&mut body).await, ["a", "b"]);
        // The next ones wait again.
        send.send(piece("c")).unwrap();
        assert!(ready(&mut body).await.is_empty());
        send.send(Ok(Frame::trailers(Default::default()))).unwrap();
        drop(send);
        assert_eq!(ready(&mut body).await, ["c", "trailers", "end"]);
        assert!(body.is_end_stream());
    }

    #[tokio::test]
    async fn much_passes_on_at_once_and_an_error_comes_last() {
        let (send, mut body) = gathered();
        let large = "x".repeat(ENOUGH / 2);
        for _ in 0..3 {
            send.send(Ok(Frame::data(large.clone().into()))).unwrap();
        }
        assert_eq!(ready(&mut body).await, [large.clone(), large.clone()]);
        send.send(Err("cut".into())).unwrap();
        assert_eq!(ready(&mut body).await, [large, "cut".into(), "end".into()]);

        let mut body = Gathered::new(full("abc"));
        assert_eq!(body.size_hint().exact(), Some(3));
        assert_eq!(ready(&mut body).await, ["abc", "end"]);
    }

    #[tokio::test]
    async fn a_body_of_a_known_length_passes_on_with_its_last_byte() {
        let (send, receive) = mpsc::unbounded_channel();
        let frames = futures_util::stream::unfold(receive, |mut receive| async { Some((receive.recv().await?, receive)) });
        let mut body = Gathered { remaining: Some(2), ..Gathered::new(streamed(StreamBody::new(frames))) };
        for (text, wanted) in [("a", vec![]), ("b", vec!["a", "b"])] {
            send.send(piece(text)).unwrap();
            assert_eq!(ready(&mut body).await, wanted, "{text}");
        }
    }

    #[tokio::test]
    async fn every_byte_of_a_long_body_passes_in_order() {
        let (send, body) = gathered();
        let wanted: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        let all = tokio::spawn(body.collect());
        for (i, part) in wanted.chunks(777).enumerate() {
            send.send(Ok(Frame::data(Bytes::copy_from_slice(part)))).unwrap();
            if i % 10 == 0 {
                tokio::time::sleep(WAIT / 2).await;
            }
        }
        drop(send);
        assert_eq!(all.await.unwrap().unwrap().to_bytes(), wanted);
    }
}
