//! Local replies.
use crate::detail::Detail;
use std::borrow::Cow;

/// A response that the proxy itself makes.
#[derive(Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub body: Cow<'static, [u8]>,
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// For the access log.
    pub details: Detail,
    /// For gRPC requests; by default from the HTTP status.
    pub grpc_status: Option<i32>,
}

impl Reply {
    pub fn new(status: u16, details: Detail) -> Reply {
        Reply { status, details, ..Reply::default() }
    }
    pub fn body(mut self, body: impl Into<Cow<'static, [u8]>>) -> Reply {
        self.body = body.into();
        self
    }
    pub fn header(mut self, name: &str, value: &[u8]) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }
}
