//! Nacos' two methods of gRPC over one connection: one request with its answer, and the stream on which the server pushes.
use super::payload::Payload;
use crate::registry::connect::{FollowError, http};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use tokio::{net::TcpStream, sync::mpsc};

const WINDOW: u32 = 4 << 20;

type Body = BoxBody<Bytes, Infallible>;

/// Asks for one answer at a time, any number of them at once.
pub struct Calls {
    sender: SendRequest<Body>,
    authority: String,
    /// Bytes of a message.
    limit: usize,
}

/// The stream in both directions.
pub struct Pushes {
    to: mpsc::Sender<Payload>,
    from: mpsc::Receiver<Result<Payload, FollowError>>,
}

pub async fn open(io: TcpStream, authority: &str, limit: usize) -> Result<(Calls, Pushes), FollowError> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let (sender, connection) = builder.handshake(TokioIo::new(io)).await.map_err(http)?;
    // It ends with its senders.
    tokio::spawn(connection);
    let calls = Calls { sender, authority: authority.into(), limit };
    let (to, queue) = mpsc::channel::<Payload>(64);
    let frames = stream::unfold(queue, async |mut queue| {
        let payload = queue.recv().await?;
        Some((Ok(Frame::data(framed(&payload))), queue))
    });
    let request = calls.request("/BiRequestStream/requestBiStream", StreamBody::new(frames).boxed())?;
    let (send, from) = mpsc::channel(64);
    let mut stream_sender = calls.sender.clone();
    tokio::spawn(async move {
        let outcome = async {
            // The server may say nothing until it has something to push.
            let answer = stream_sender.send_request(request).await.map_err(http)?;
            let mut messages = Messages::new(answer, limit)?;
            while let Some(payload) = messages.next().await? {
                if send.send(Ok(payload)).await.is_err() {
                    return Ok(());
                }
            }
            Err(FollowError::Closed)
        };
        if let Err(e) = outcome.await {
            let _ = send.send(Err(e)).await;
        }
    });
    Ok((calls, Pushes { to, from }))
}

impl Calls {
    fn request(&self, path: &str, body: Body) -> Result<Request<Body>, FollowError> {
        let request = Request::post(format!("http://{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", concat!("weir/", env!("CARGO_PKG_VERSION")));
        request.body(body).map_err(FollowError::protocol)
    }

    pub async fn unary(&self, payload: Payload) -> Result<Payload, FollowError> {
        let request = self.request("/Request/request", Full::new(framed(&payload)).boxed())?;
        let answer = self.sender.clone().send_request(request).await.map_err(http)?;
        let mut messages = Messages::new(answer, self.limit)?;
        messages.next().await?.ok_or_else(|| FollowError::Protocol(messages.status()))
    }
}

impl Pushes {
    pub async fn receive(&mut self) -> Result<Payload, FollowError> {
        self.from.recv().await.unwrap_or(Err(FollowError::Closed))
    }

    pub async fn send(&self, payload: Payload) -> Result<(), FollowError> {
        self.to.send(payload).await.map_err(|_| FollowError::Closed)
    }
}

/// Not compressed, its length, the message.
fn framed(payload: &Payload) -> Bytes {
    let message = payload.encode();
    [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat().into()
}

/// The messages of an answer.
struct Messages {
    body: Incoming,
    buffer: BytesMut,
    limit: usize,
    /// `grpc-status` and `grpc-message`.
    status: Option<(String, String)>,
}

impl Messages {
    fn new(answer: Response<Incoming>, limit: usize) -> Result<Messages, FollowError> {
        let (head, body) = answer.into_parts();
        let mut made = Messages { body, buffer: BytesMut::new(), limit, status: None };
        made.take_status(&head.headers);
        match head.status.is_success() {
            true => Ok(made),
            false => Err(FollowError::Protocol(format!("gRPC is answered with {}", head.status))),
        }
    }

    fn take_status(&mut self, headers: &http::HeaderMap) {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_string();
        if headers.contains_key("grpc-status") {
            self.status = Some((text("grpc-status"), text("grpc-message")));
        }
    }

    fn status(&self) -> String {
        match &self.status {
            Some((code, said)) => format!("gRPC ends with the status {code}: {said}"),
            None => "gRPC ends without an answer".into(),
        }
    }

    async fn next(&mut self) -> Result<Option<Payload>, FollowError> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<5>() {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if head[0] != 0 {
                    return Err(FollowError::Protocol("a message is compressed".into()));
                }
                if length > self.limit {
                    return Err(FollowError::TooLarge { what: "a message", limit: self.limit });
                }
                if self.buffer.len() >= 5 + length {
                    self.buffer.advance(5);
                    let message = self.buffer.split_to(length);
                    return Payload::decode(&message).map(Some).map_err(FollowError::protocol);
                }
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => match frame.map_err(http)?.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.take_status(&trailers);
                        }
                    }
                },
            }
        }
    }
}
