//! Bodies of messages, whatever they are made of.
pub mod gathered;

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use std::error::Error;

/// Why a body ended early.
pub type BodyError = Box<dyn Error + Send + Sync>;
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body of several pieces, which are not joined.
pub fn pieces(pieces: Vec<Bytes>) -> Body {
    let frames = pieces.into_iter().filter(|piece| !piece.is_empty()).map(|piece| Ok(Frame::data(piece)));
    streamed(StreamBody::new(futures_util::stream::iter(frames.collect::<Vec<Result<_, BodyError>>>())))
}

/// Why a body is not read as a whole.
#[derive(Debug, thiserror::Error)]
pub enum NotWhole {
    #[error("it has more than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("it broke off: {0}")]
    Broken(BodyError),
}

/// The whole of a body that should be small.
pub async fn whole(mut body: Body, limit: usize) -> Result<Bytes, NotWhole> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(NotWhole::Broken)?.into_data() {
            if whole.len() + data.len() > limit {
                return Err(NotWhole::TooLarge { limit });
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

/// A body that passes as it comes.
pub fn streamed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    body.map_err(Into::into).boxed_unsync()
}
