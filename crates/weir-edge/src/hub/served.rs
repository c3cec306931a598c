//! The body of an answer, with what lasts as long as it does: the place among the requests of its client, and its line of the access log.
use crate::{
    body::{Body, BodyError, streamed},
    hub::{
        access_log::{AccessLog, Line},
        in_flight::Permit,
    },
};
use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

pub struct Served {
    body: Body,
    bytes: u64,
    _permit: Option<Permit>,
    line: Option<(Line, Arc<AccessLog>)>,
}

impl Served {
    pub fn response(response: Response<Body>, permit: Option<Permit>, line: Option<(Line, Arc<AccessLog>)>) -> Response<Body> {
        match (&permit, &line) {
            (None, None) => response,
            _ => response.map(|body| streamed(Served { body, bytes: 0, _permit: permit, line })),
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some((line, log)) = self.line.take() {
            log.write(&line.ended(self.bytes));
        }
    }
}

impl http_body::Body for Served {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
            self.bytes += data.len() as u64;
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
