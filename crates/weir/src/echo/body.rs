//! Bodies of answers: at once, or made while they are sent.
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use std::{
    convert::Infallible,
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::sync::mpsc;

pub type Answer = BoxBody<Bytes, io::Error>;

pub fn full(bytes: impl Into<Bytes>) -> Answer {
    Full::new(bytes.into()).map_err(|e: Infallible| match e {}).boxed()
}

pub fn empty() -> Answer {
    full(Bytes::new())
}

/// Made while it is sent.
pub struct Sent {
    frames: mpsc::Receiver<io::Result<Frame<Bytes>>>,
}

/// The end that makes it. Sending waits until the peer has taken what was sent before.
#[derive(Clone)]
pub struct Sender(mpsc::Sender<io::Result<Frame<Bytes>>>);

pub fn channel() -> (Sender, Sent) {
    let (sender, frames) = mpsc::channel(4);
    (Sender(sender), Sent { frames })
}

impl Sender {
    /// Whether the peer still wants more.
    pub async fn data(&self, bytes: impl Into<Bytes>) -> bool {
        self.0.send(Ok(Frame::data(bytes.into()))).await.is_ok()
    }
    pub async fn trailers(&self, trailers: HeaderMap) {
        let _ = self.0.send(Ok(Frame::trailers(trailers))).await;
    }
    /// Cuts the connection or the stream.
    pub async fn cut(&self) {
        let _ = self.0.send(Err(io::ErrorKind::ConnectionReset.into())).await;
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.frames.poll_recv(cx)
    }
}
