//! A message head: one buffer that holds the start line and every header line, and a list of where they are.
//!
//! Nothing in the buffer ever moves. An edit appends a complete line (`name: value\r\n`) at the end and points the entry
//! at it; a removal only marks the entry. Lines that lie behind one another are written out with a single copy, so a
//! head with three added headers is usually one copy of the whole buffer.
mod headers;

pub use headers::Headers;
pub(crate) use headers::{Line, Span};

use super::{names::Known, text};
use std::borrow::Cow;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Connect,
    Trace,
    Other,
}

impl Method {
    pub fn of(token: &[u8]) -> Method {
        match token {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"PATCH" => Method::Patch,
            b"CONNECT" => Method::Connect,
            b"TRACE" => Method::Trace,
            _ => Method::Other,
        }
    }
    /// Sending it twice is the same as sending it once.
    pub fn is_idempotent(self) -> bool {
        matches!(self, Method::Get | Method::Head | Method::Put | Method::Delete | Method::Options | Method::Trace)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Version {
    Http10,
    #[default]
    Http11,
    Http2,
}

impl Version {
    /// As access logs write it.
    pub fn text(self) -> &'static str {
        match self {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
            Version::Http2 => "HTTP/2",
        }
    }
}

/// A request. The authority of an HTTP/2 request is held as its Host header; method and target are places in the buffer
/// of the headers.
#[derive(Default)]
pub struct RequestHead {
    pub headers: Headers,
    pub method: Method,
    pub version: Version,
    /// The scheme is `https`.
    pub https: bool,
    pub(crate) method_at: Span,
    pub(crate) target_at: Span,
    /// Length of the target up to its query.
    pub(crate) path_len: u32,
}

impl RequestHead {
    pub fn clear(&mut self) {
        self.headers.clear();
        self.method = Method::Other;
        self.version = Version::Http11;
        self.https = false;
        (self.method_at, self.target_at, self.path_len) = (Span::default(), Span::default(), 0);
    }
    /// Makes `self` a copy of `other`.
    pub fn copy_from(&mut self, other: &RequestHead) {
        self.headers.copy_from(&other.headers);
        (self.method, self.version, self.https) = (other.method, other.version, other.https);
        (self.method_at, self.target_at, self.path_len) = (other.method_at, other.target_at, other.path_len);
    }
    /// Starts a head that no peer sent. `false`: `method` is no token.
    pub fn begin(&mut self, method: &[u8], target: &[u8]) -> bool {
        self.clear();
        self.set_target(target);
        self.set_method(method)
    }
    /// Empty for a head that could not be read.
    pub fn method_text(&self) -> &[u8] {
        self.headers.at(self.method_at)
    }
    /// `false`: `method` is no token, and the old one is kept.
    pub fn set_method(&mut self, method: &[u8]) -> bool {
        let fits = text::is_token(method);
        if fits {
            self.method = Method::of(method);
            self.method_at = self.headers.store(method);
        }
        fits
    }
    /// The path with its query.
    pub fn target(&self) -> &[u8] {
        self.headers.at(self.target_at)
    }
    /// Blanks and control bytes would break the start line; they are percent-encoded.
    pub fn set_target(&mut self, target: &[u8]) {
        let fits = target.is_empty() || text::is_target(target);
        let escaped =
            if fits { Cow::Borrowed(target) } else { Cow::Owned(percent_encoded(target, |byte| matches!(byte, 0..=b' ' | 0x7f))) };
        self.target_at = self.headers.store(&escaped);
        self.path_len = memchr::memchr(b'?', &escaped).unwrap_or(escaped.len()) as u32;
    }
    /// Exchanges the path and keeps the query.
    pub fn set_path(&mut self, path: &[u8]) {
        let query = self.target()[self.path_len as usize..].to_vec();
        self.set_target(&[path, &query].concat());
    }
    pub fn path(&self) -> &[u8] {
        &self.target()[..self.path_len as usize]
    }
    /// What follows the `?`, where there is one.
    pub fn query(&self) -> Option<&[u8]> {
        self.target().get(self.path_len as usize + 1..)
    }
    pub fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }
    /// The Host header as it stands; empty where there is none.
    pub fn authority(&self) -> &[u8] {
        self.headers.get(Known::Host).unwrap_or_default()
    }
    /// The Host header without its port.
    pub fn host(&self) -> &[u8] {
        let host = self.authority();
        if host.starts_with(b"[") {
            return &host[..memchr::memchr(b']', host).map_or(host.len(), |i| i + 1)];
        }
        &host[..memchr::memchr(b':', host).unwrap_or(host.len())]
    }
    /// Whether the request is gRPC by its content type.
    pub fn is_grpc(&self) -> bool {
        let Some(t) = self.headers.get(Known::ContentType) else { return false };
        t.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    }
    /// Writes the head as HTTP/1.1.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        match self.headers.between(self.method_at, self.target_at) {
            Some(line) => out.extend_from_slice(line),
            None => {
                out.extend_from_slice(self.method_text());
                out.push(b' ');
                out.extend_from_slice(self.target());
            }
        }
        out.extend_from_slice(b" HTTP/1.1\r\n");
        self.headers.write_to(out);
    }
}

/// `target` with the bytes that `must` names percent-encoded (RFC 3986 section 2.1).
pub fn percent_encoded(target: &[u8], must: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(target.len() + 16);
    for &byte in target {
        if must(byte) {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            out.push(byte);
        }
    }
    out
}

#[derive(Default)]
pub struct ResponseHead {
    pub headers: Headers,
    pub status: u16,
    pub version: Version,
    pub(crate) reason_at: Span,
}

impl ResponseHead {
    pub fn clear(&mut self) {
        self.headers.clear();
        (self.status, self.version, self.reason_at) = (0, Version::Http11, Span::default());
    }
    /// Starts a head that no peer sent.
    pub fn begin(&mut self, status: u16) {
        self.clear();
        self.status = status;
    }
    /// Makes `self` a copy of `other`.
    pub fn copy_from(&mut self, other: &ResponseHead) {
        self.headers.copy_from(&other.headers);
        (self.status, self.version, self.reason_at) = (other.status, other.version, other.reason_at);
    }
    /// The upstream's reason phrase belongs to the old status and goes with it.
    pub fn set_status(&mut self, status: u16) {
        if status != self.status {
            (self.status, self.reason_at) = (status, Span::default());
        }
    }
    /// The reason phrase that came, or the usual one.
    pub fn reason(&self) -> &[u8] {
        match self.headers.at(self.reason_at) {
            b"" => reason(self.status).as_bytes(),
            text => text,
        }
    }
    /// Writes the head as HTTP/1.1.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 ");
        let s = self.status.clamp(100, 999);
        out.extend_from_slice(&[b'0' + (s / 100) as u8, b'0' + (s / 10 % 10) as u8, b'0' + (s % 10) as u8, b' ']);
        out.extend_from_slice(self.reason());
        out.extend_from_slice(b"\r\n");
        self.headers.write_to(out);
    }
}

/// The usual reason phrase of a status; empty for an unknown one.
pub fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or_default()
}

/// Appends a number in decimal.
pub fn decimal(out: &mut Vec<u8>, n: u64) {
    if n < 10 {
        return out.push(b'0' + n as u8);
    }
    out.extend_from_slice(digits(&mut [0; 20], n));
}

/// A number in decimal; `space` takes its digits.
#[inline]
pub fn digits(space: &mut [u8; 20], mut n: u64) -> &[u8] {
    let mut at = space.len();
    loop {
        at -= 1;
        space[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            return &space[at..];
        }
    }
}
